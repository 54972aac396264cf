//! Configurations that were written for other trainers, read as they are.
//!
//! A dialect is a table of its keys ([`table`]) and a function for what needs more than a table. Together they turn a
//! tree of the user's YAML, JSON or flags into one of the native schema, in which each value still knows its line. From
//! there it goes the way of every configuration. Each key ends as mapped, without effect (with the reason), or refused.
//!
//! *Architecture invariant.* No key is dropped: what no table has is an error, and so is what no code takes.

mod axolotl;
mod command_line;
mod common;
mod deepspeed;
mod docs;
mod grouping;
mod huggingface;
mod late;
mod megatron_vlm;
mod multimeditron;
mod print;
mod report;
mod settle;
mod table;
#[cfg(test)]
pub(super) mod table_of_tests;
mod training_arguments;
mod translation;

use std::{fmt, str::FromStr, sync::Arc};

pub use self::{
    docs::dialects as documentation,
    report::{Outcome, Report, ReportLine},
};
pub(super) use self::{
    late::{fill_in, placeholders},
    print::print,
    report::{Origin, Origins},
};
use self::{table::Row, translation::Translation};
use super::{
    error::ConfigError,
    schema::{SCHEMA, properties},
    tree::Node,
    yaml,
};

/// A configuration's language.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Brazier's own.
    Native,
    /// MultiMeditron's YAML.
    MultiMeditron,
    /// axolotl's YAML.
    Axolotl,
    /// Arguments of transformers' and TRL's trainers.
    HuggingFace,
    /// Flags of Megatron-VLM's launcher.
    MegatronVlm,
}

impl Dialect {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Dialect::Native,
        Dialect::MultiMeditron,
        Dialect::Axolotl,
        Dialect::HuggingFace,
        Dialect::MegatronVlm,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Dialect::Native => "native",
            Dialect::MultiMeditron => "multimeditron",
            Dialect::Axolotl => "axolotl",
            Dialect::HuggingFace => "huggingface",
            Dialect::MegatronVlm => "megatron-vlm",
        }
    }

    /// Its name in a sentence.
    pub fn title(self) -> &'static str {
        match self {
            Dialect::Native => "Brazier",
            Dialect::MultiMeditron => "MultiMeditron",
            Dialect::Axolotl => "axolotl",
            Dialect::HuggingFace => "Hugging Face",
            Dialect::MegatronVlm => "Megatron-VLM",
        }
    }

    /// Its keys; none for the native one, whose keys are the schema's.
    fn table(self) -> &'static [Row] {
        match self {
            Dialect::Native => &[],
            Dialect::MultiMeditron => multimeditron::ROWS,
            Dialect::Axolotl => axolotl::ROWS,
            Dialect::HuggingFace => huggingface::ROWS,
            Dialect::MegatronVlm => megatron_vlm::ROWS,
        }
    }

    /// What the keys at the top of a file belong to: the dialect that knows most of them. Only some have commands.
    fn of(root: &Node, is_command: bool) -> Self {
        let keys: Vec<&str> = root.entries().iter().map(|entry| entry.key.as_str()).collect();
        let known = |dialect: Self| match dialect {
            Dialect::Native => {
                let names: Vec<&str> = properties(&SCHEMA).map(|(key, _)| key).collect();
                keys.iter().filter(|key| names.contains(key)).count()
            }
            _ => {
                let names = table::names(dialect.table());
                keys.iter().filter(|key| names.contains(key)).count()
            }
        };
        let mut best = (Dialect::Native, known(Dialect::Native));
        let has_commands = |dialect: &Self| matches!(dialect, Dialect::HuggingFace | Dialect::MegatronVlm);
        for dialect in Self::ALL
            .into_iter()
            .filter(|dialect| !is_command || has_commands(dialect))
        {
            if known(dialect) > best.1 {
                best = (dialect, known(dialect));
            }
        }
        best.0
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no dialect's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no dialect is called {name}: expected native, multimeditron, axolotl, huggingface or megatron-vlm")]
pub struct UnknownDialect {
    /// The name.
    pub name: String,
}

impl FromStr for Dialect {
    type Err = UnknownDialect;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|dialect| dialect.name() == name);
        found.ok_or_else(|| UnknownDialect {
            name: name.to_owned(),
        })
    }
}

/// A native tree, and where it came from.
pub(super) struct Translated {
    pub(super) root: Node,
    /// None if the file was native.
    pub(super) report: Option<Report>,
    pub(super) origins: Origins,
    /// What was refused.
    pub(super) errors: Vec<ConfigError>,
}

/// Reads a text of any dialect. `dialect` says which; left out, the keys do. `leave_out` names keys of a foreign file that
/// are to be left out.
///
/// # Errors
/// What makes it no YAML and no command.
pub(super) fn read(
    file: &Arc<str>,
    text: &str,
    dialect: Option<Dialect>,
    leave_out: &[String],
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Translated, Vec<ConfigError>> {
    let is_command = command_line::is_command(text);
    let root = match is_command {
        true => command_line::parse(file, text, env)?,
        false => yaml::parse(file, text, env)?,
    };
    let dialect = dialect.unwrap_or_else(|| Dialect::of(&root, is_command));
    let mut t = Translation::new(file.clone(), dialect.title(), leave_out, env);
    if dialect == Dialect::Native {
        t.finish();
        return Ok(Translated {
            root,
            report: None,
            origins: Origins::new(),
            errors: t.errors,
        });
    }
    if !matches!(root.value, super::tree::Value::Map(_)) {
        let reason = format!("expected a mapping, got {}", root.kind());
        return Err(vec![ConfigError {
            at: root.at,
            key: String::new(),
            value: None,
            reason,
            hint: None,
        }]);
    }
    t.walk(dialect.table(), root.entries(), "", "");
    match dialect {
        Dialect::Native => {}
        Dialect::MultiMeditron => multimeditron::translate(&mut t),
        Dialect::Axolotl => axolotl::translate(&mut t),
        Dialect::HuggingFace => huggingface::translate(&mut t),
        Dialect::MegatronVlm => megatron_vlm::translate(&mut t),
    }
    t.finish();
    let Translation {
        out,
        lines,
        defaults,
        errors,
        origins,
        ..
    } = t;
    let report = Report {
        dialect,
        lines,
        defaults,
    };
    Ok(Translated {
        root: out,
        report: Some(report),
        origins,
        errors,
    })
}
