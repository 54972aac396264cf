//! What is wrong with a configuration, in the words of the person who wrote it.

use std::{fmt, sync::Arc};

/// Where a key or value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// In the file; `line` and `column` count from 1.
    Line {
        /// The file as the user named it.
        file: Arc<str>,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// On the command line, by `--set`.
    Set,
    /// Nowhere: a default, or something that is missing.
    Unwritten {
        /// The file that could have said it.
        file: Arc<str>,
    },
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Line { file, line, .. } => write!(f, "{file}:{line}"),
            Location::Set => f.write_str("--set"),
            Location::Unwritten { file } => f.write_str(file),
        }
    }
}

/// One thing that is wrong: where, which key, which value, why, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// Where it is written.
    pub at: Location,
    /// Path of the key (`train.optimizer.lr`, `data.train[0].path`); empty for the file as a whole.
    pub key: String,
    /// The value as written, where there is a short one.
    pub value: Option<String>,
    /// Why it cannot be.
    pub reason: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            at,
            key,
            value,
            reason,
            hint,
        } = self;
        write!(f, "{at}: ")?;
        match (key.is_empty(), value) {
            (true, _) => {}
            (false, None) => write!(f, "{key}: ")?,
            (false, Some(value)) => write!(f, "{key} = {value}: ")?,
        }
        f.write_str(reason)?;
        match hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// Errors in the order of the file; what is not in the file comes last.
pub(super) fn in_file_order(mut errors: Vec<ConfigError>) -> Vec<ConfigError> {
    errors.sort_by_key(|error| match error.at {
        Location::Line { line, column, .. } => (line, column),
        Location::Set | Location::Unwritten { .. } => (usize::MAX, 0),
    });
    errors
}

/// The candidate that a misspelt word most likely meant.
pub(super) fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(word, candidate), candidate))
        .filter(|(similarity, _)| *similarity >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// `a, b or c`.
pub(super) fn one_of(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [word] => (*word).to_owned(),
        [init @ .., last] => format!("{} or {last}", init.join(", ")),
    }
}
