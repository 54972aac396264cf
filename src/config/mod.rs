//! The user's words: YAML in, plain structs of the other rooms out.
//!
//! 1. [`load`]: text to a tree that knows its lines, `${VAR}`, `--set`, and a comparison with the schema of
//!    `raw`, with all errors at once.
//! 2. [`resolve()`]: defaults and cross-checks, all errors at once: a [`RunConfig`].
//! 3. [`RunConfig::plan`], once the data is open: a [`RunPlan`].
//!
//! *Architecture invariants.* Nobody but the command line imports this room. YAML, and which key is called
//! what, are known here only.

mod defaults;
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

pub use error::{ConfigError, Location};
pub use estimate::{BatchShape, MemoryEstimate, ParameterCounts, estimate_memory, num_parameters};
pub use plan::{DerivedNumbers, RunPlan};
pub use readme::readme;
pub use resolve::resolve;
pub use run::{
    CheckpointChoice, HeadChoice, JoinedModel, Length, LoraChoice, ModelChoice, NewModel, Part, RunConfig,
    ScheduleChoice, Shape, SynthChoice, TrainChoice,
};

use crate::fs;

/// What the user wrote, with every key known and every value of the right type.
#[derive(Debug, Clone)]
pub struct Loaded {
    raw: raw::RawConfig,
    written: written::Written,
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
    let name = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|error| {
        vec![ConfigError {
            at: Location::Unwritten {
                file: name.as_str().into(),
            },
            key: String::new(),
            value: None,
            reason: error.to_string(),
            hint: Some("--config names the YAML file of a run".to_owned()),
        }]
    })?;
    parse(&name, &text, sets, env)
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
    let file: Arc<str> = name.into();
    let mut root = yaml::parse(&file, text, env)?;
    let mut errors = Vec::new();
    for argument in sets {
        if let Err(wrong) = tree::set(&mut root, argument, env) {
            errors.extend(wrong);
        }
    }
    let checked = schema::check(&root);
    match checked {
        Ok(json) if errors.is_empty() => {
            let raw = serde_json::from_value(json).map_err(|error| {
                let at = Location::Unwritten { file: file.clone() };
                vec![ConfigError {
                    at,
                    key: String::new(),
                    value: None,
                    reason: error.to_string(),
                    hint: None,
                }]
            })?;
            Ok(Loaded {
                raw,
                written: written::Written::new(file, &root),
            })
        }
        checked => {
            errors.extend(checked.err().into_iter().flatten());
            Err(error::in_file_order(errors))
        }
    }
}
