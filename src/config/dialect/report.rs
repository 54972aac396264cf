//! What became of each key of a foreign configuration.

use std::{collections::BTreeMap, fmt};

use super::Dialect;
use crate::config::error::Location;

/// What became of the keys of a foreign configuration, besides those that are refused: these are errors.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// What the file was read as.
    pub dialect: Dialect,
    /// One for each key, in the order in which they were settled.
    pub lines: Vec<ReportLine>,
    /// The native keys that the dialect's own defaults stand for, with their values.
    pub defaults: Vec<(String, String)>,
}

/// What became of one key.
#[derive(Debug, Clone, PartialEq)]
pub struct ReportLine {
    /// Where it is written.
    pub at: Location,
    /// Its path in the foreign configuration.
    pub key: String,
    /// Its value, if it is short.
    pub value: Option<String>,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It became this native key.
    Mapped {
        /// Path and value.
        native: String,
        /// What else there is to know.
        note: Option<String>,
    },
    /// No result depends on it here.
    NoEffect {
        /// Why.
        because: String,
    },
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "read as a configuration of {}", self.dialect.title())?;
        for (title, wanted) in [("mapped", true), ("no effect here, because", false)] {
            let is_wanted = |line: &&ReportLine| matches!(line.outcome, Outcome::Mapped { .. }) == wanted;
            let mut lines = self.lines.iter().filter(is_wanted).peekable();
            if lines.peek().is_some() {
                write!(f, "\n  {title}")?;
            }
            // A path in front of each line would leave little room for the line.
            let mut file = None;
            for line in lines {
                if let Location::Line { file: of, .. } = &line.at
                    && file != Some(of)
                {
                    write!(f, "\n    {of}")?;
                    file = Some(of);
                }
                write!(f, "\n      {line}")?;
            }
        }
        if !self.defaults.is_empty() {
            write!(f, "\n  left out, so {} decides", self.dialect.title())?;
        }
        for (key, value) in &self.defaults {
            write!(f, "\n    {key} = {value}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ReportLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            at,
            key,
            value,
            outcome,
        } = self;
        match at {
            Location::Line { line, .. } => write!(f, "{line}: {key}")?,
            Location::Set | Location::Unwritten { .. } => write!(f, "{at}: {key}")?,
        }
        if let Some(value) = value {
            write!(f, " = {value}")?;
        }
        match outcome {
            Outcome::Mapped { native, note: None } => write!(f, " -> {native}"),
            Outcome::Mapped {
                native,
                note: Some(note),
            } => write!(f, " -> {native} ({note})"),
            Outcome::NoEffect { because } => write!(f, ": {because}"),
        }
    }
}

/// Where a native key of a translated tree came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::config) enum Origin {
    /// A key of the foreign configuration.
    Key { key: String, at: Location },
    /// A default of the dialect.
    Default { of: &'static str },
}

/// The origins of native keys, by their paths.
pub(in crate::config) type Origins = BTreeMap<String, Origin>;
