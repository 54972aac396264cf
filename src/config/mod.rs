//! The user's words: YAML in, plain structs of the other rooms out.
//!
//! 1. [`load`]: text to a tree that knows its lines, `${VAR}`; [`dialect`]: the words of other trainers to ours;
//!    `--set`, and a comparison with the schema of `raw`, with all errors at once.
//! 2. [`resolve()`]: defaults and cross-checks, all errors at once: a [`RunConfig`].
//! 3. [`RunConfig::plan`], once the data is open: a [`RunPlan`].
//!
//! *Architecture invariants.* Nobody but the command line imports this room. YAML, and which key is called
//! what, are known here only.

mod defaults;
pub mod dialect;
mod effective;
mod error;
mod estimate;
mod fit;
mod plan;
mod raw;
mod readme;
mod resolve;
mod run;
mod schema;
#[cfg(test)]
mod tests;
mod tree;
mod written;
mod yaml;

use std::{path::Path, sync::Arc};

pub use dialect::{Dialect, Report};
pub use error::{ConfigError, Location};
pub use estimate::{
    BatchShape, ImagesOfRun, MemoryEstimate, ParameterCounts, VisionCachePlan, VisionCacheRoom,
    estimate_memory, num_parameters, readable,
};
pub use plan::{DerivedNumbers, RunPlan};
pub use readme::readme;
pub use resolve::resolve;
pub use run::{
    AutoRecompute, CheckpointChoice, HeadChoice, JoinedModel, Length, LoraChoice, ModelChoice, NewModel,
    Part, RunConfig, ScheduleChoice, Shape, SynthChoice, TrainChoice, Transport,
};

use crate::fs;

/// What the user wrote, with every key known and every value of the right type.
#[derive(Debug, Clone)]
pub struct Loaded {
    raw: raw::RawConfig,
    written: written::Written,
}

/// What the command line says besides the file.
#[derive(Debug, Clone, Copy, Default)]
pub struct Request<'a> {
    /// Arguments of `--set`.
    pub sets: &'a [String],
    /// Keys of a foreign file to go on without.
    pub leave_out: &'a [String],
    /// What the file is written in; left out, its keys tell.
    pub dialect: Option<Dialect>,
}

/// A file that was read, and what became of it.
#[derive(Debug, Clone)]
pub struct Reading<T> {
    /// What became of each key, if the file was written for another trainer.
    pub report: Option<Report>,
    /// What was read, or everything that is wrong.
    pub result: Result<T, Vec<ConfigError>>,
}

/// Reads a configuration file. `sets` are the arguments of `--set`, `env` looks up environment variables.
///
/// # Errors
/// Everything that is wrong with syntax, keys and types.
pub fn load(
    path: &Path,
    sets: &[String],
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Loaded, Vec<ConfigError>> {
    let request = Request {
        sets,
        ..Request::default()
    };
    read(path, request, env).result
}

/// As [`load`], with a report on files that were written for other trainers.
pub fn read(path: &Path, request: Request, env: &dyn Fn(&str) -> Option<String>) -> Reading<Loaded> {
    match text_of(path) {
        Ok((name, text)) => read_text(&name, &text, request, env),
        Err(errors) => Reading {
            report: None,
            result: Err(errors),
        },
    }
}

/// As [`load`], from memory; `name` stands for the file in messages.
///
/// # Errors
/// Everything that is wrong with syntax, keys and types.
pub fn parse(
    name: &str,
    text: &str,
    sets: &[String],
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Loaded, Vec<ConfigError>> {
    let request = Request {
        sets,
        ..Request::default()
    };
    read_text(name, text, request, env).result
}

/// The native YAML of a file in any dialect, with a comment on where each value came from.
pub fn convert(path: &Path, request: Request, env: &dyn Fn(&str) -> Option<String>) -> Reading<String> {
    let (name, text) = match text_of(path) {
        Ok(file) => file,
        Err(errors) => {
            return Reading {
                report: None,
                result: Err(errors),
            };
        }
    };
    let Tree { tree, report, result } = checked_tree(&name, &text, request, env);
    let result = result.map(|_| {
        let (root, origins) = &tree;
        dialect::print(root, origins, report.as_ref())
    });
    Reading { report, result }
}

/// As [`read`], from memory; `name` stands for the file in messages.
pub fn read_text(
    name: &str,
    text: &str,
    request: Request,
    env: &dyn Fn(&str) -> Option<String>,
) -> Reading<Loaded> {
    let Tree { tree, report, result } = checked_tree(name, text, request, env);
    let file: Arc<str> = name.into();
    let result = result.and_then(|json| {
        let raw = serde_json::from_value(json).map_err(|error| {
            let at = Location::Unwritten { file: file.clone() };
            vec![about_file(at, error.to_string(), None)]
        })?;
        let (root, origins) = tree;
        let written = written::Written::new(file, &root, origins);
        Ok(Loaded { raw, written })
    });
    Reading { report, result }
}

/// A native tree with its origins, and the JSON of it if nothing is wrong.
struct Tree {
    tree: (tree::Node, dialect::Origins),
    report: Option<Report>,
    result: Result<serde_json::Value, Vec<ConfigError>>,
}

/// From text to a tree in which every key is known and every value has its type.
fn checked_tree(name: &str, text: &str, request: Request, env: &dyn Fn(&str) -> Option<String>) -> Tree {
    let file: Arc<str> = name.into();
    let Request {
        sets,
        leave_out,
        dialect,
    } = request;
    let translated = dialect::read(&file, text, dialect, leave_out, env);
    let dialect::Translated {
        mut root,
        mut report,
        origins,
        mut errors,
    } = match translated {
        Ok(translated) => translated,
        Err(errors) => {
            let at = Location::Unwritten { file };
            let value = tree::Value::Null;
            return Tree {
                tree: (tree::Node { value, at }, dialect::Origins::new()),
                report: None,
                result: Err(error::in_file_order(errors)),
            };
        }
    };
    for argument in sets {
        if let Err(wrong) = tree::set(&mut root, argument, env) {
            errors.extend(wrong);
        }
    }
    if let Some(report) = &mut report {
        errors.extend(dialect::fill_in(&mut root, report, env));
        errors.extend(dialect::placeholders(&root));
    }
    let checked = schema::check(&root);
    let result = match checked {
        Ok(json) if errors.is_empty() => Ok(json),
        checked => {
            errors.extend(checked.err().into_iter().flatten());
            let named = errors.into_iter().map(|error| ConfigError {
                key: written::name(&origins, &error.key),
                ..error
            });
            Err(error::in_file_order(named.collect()))
        }
    };
    Tree {
        tree: (root, origins),
        report,
        result,
    }
}

/// The file's name for messages, and its text.
fn text_of(path: &Path) -> Result<(String, String), Vec<ConfigError>> {
    let name = path.display().to_string();
    match fs::read_to_string(path) {
        Ok(text) => Ok((name, text)),
        Err(error) => {
            let at = Location::Unwritten {
                file: name.as_str().into(),
            };
            let hint = Some("--config names the YAML file of a run".to_owned());
            Err(vec![about_file(at, error.to_string(), hint)])
        }
    }
}

fn about_file(at: Location, reason: String, hint: Option<String>) -> ConfigError {
    ConfigError {
        at,
        key: String::new(),
        value: None,
        reason,
        hint,
    }
}
