//! The walk through a foreign tree: each key is settled by its [`Row`], or kept for the dialect's own code,
//! which must take it. What nobody takes is an error, so that no key is dropped.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use super::{
    report::{Origins, ReportLine},
    table::{Fate, Row, all, below, find, names},
};
use crate::config::{
    error::{ConfigError, Location, closest},
    tree::{Entry, Node, Value, join},
};

/// A key that the user wrote.
#[derive(Debug, Clone)]
pub(super) struct Given {
    /// Its path, as written.
    pub(super) key: String,
    pub(super) node: Node,
    /// How it was read, if otherwise than written.
    pub(super) read: Option<String>,
}

impl Given {
    /// The same key, read in another way.
    pub(super) fn read_as(self, value: &str) -> Self {
        let read = Some(format!("read as {value}"));
        Self { read, ..self }
    }

    /// `key = value (file:line)`, for another key's message.
    pub(super) fn words(&self) -> String {
        let value = self
            .node
            .text()
            .map_or_else(String::new, |value| format!(" = {value}"));
        format!("{}{value} ({})", self.key, self.node.at)
    }
}

/// A foreign configuration on its way.
pub(super) struct Translation<'a> {
    pub(super) env: &'a dyn Fn(&str) -> Option<String>,
    pub(super) file: Arc<str>,
    /// Names the dialect in messages.
    pub(super) title: &'static str,
    leave_out: &'a [String],
    left_out: BTreeSet<String>,
    /// Keys at the top of the file.
    pub(super) written: BTreeSet<String>,
    /// Keys that wait for the dialect's own code, by their paths in its table.
    pub(super) pending: BTreeMap<String, Given>,
    /// Lengths of lists of mappings.
    pub(super) lengths: BTreeMap<String, usize>,
    pub(super) out: Node,
    pub(super) lines: Vec<ReportLine>,
    pub(super) defaults: Vec<(String, String)>,
    pub(super) errors: Vec<ConfigError>,
    pub(super) origins: Origins,
}

impl<'a> Translation<'a> {
    pub(super) fn new(
        file: Arc<str>,
        title: &'static str,
        leave_out: &'a [String],
        env: &'a dyn Fn(&str) -> Option<String>,
    ) -> Self {
        let at = Location::Unwritten { file: file.clone() };
        Self {
            env,
            file,
            title,
            leave_out,
            left_out: BTreeSet::new(),
            written: BTreeSet::new(),
            pending: BTreeMap::new(),
            lengths: BTreeMap::new(),
            out: Node {
                value: Value::Map(Vec::new()),
                at,
            },
            lines: Vec::new(),
            defaults: Vec::new(),
            errors: Vec::new(),
            origins: Origins::new(),
        }
    }

    /// The folder of the file.
    pub(super) fn folder(&self) -> PathBuf {
        let file = PathBuf::from(&*self.file);
        file.parent().map_or_else(PathBuf::new, PathBuf::from)
    }

    /// Settles each key, or keeps it for the dialect's own code. `written` is the path of the mapping as the
    /// user wrote it, `path` that in the table.
    pub(super) fn walk(&mut self, table: &'static [Row], entries: &[Entry], written: &str, path: &str) {
        for entry in entries {
            if written.is_empty() {
                self.written.insert(entry.key.clone());
            }
            let given = Given {
                key: join(written, &entry.key),
                node: entry.node.clone(),
                read: None,
            };
            if self.leave_out.contains(&given.key) {
                self.left_out.insert(given.key.clone());
                self.no_effect(&given, "--leave-out says to go on without it");
                continue;
            }
            match find(table, &entry.key) {
                Some(row) => self.settle(table, row, given, path, &entry.key),
                None => self.unknown(table, &given, entry),
            }
        }
    }

    fn settle(&mut self, table: &'static [Row], row: &'static Row, given: Given, path: &str, key: &str) {
        let here = join(path, key);
        if matches!(given.node.value, Value::Null) {
            return self.no_effect(&given, "there is nothing after it");
        }
        match row.fate {
            Fate::To(native) => self.put(native, given.node.value.clone(), &given),
            Fate::Path(native) => self.put_path(native, &given),
            Fate::Into { .. } => {
                self.pending.insert(here, given);
            }
            Fate::NoEffect(because) => self.no_effect(&given, because),
            Fate::NotYet { off, .. } | Fate::Never { off, .. } if is_off(&given.node, off) => {
                self.no_effect(&given, "with this value it asks for nothing");
            }
            Fate::NotYet { what, .. } => self.refuse_unless_left_out(&given, &not_yet(what)),
            Fate::Never { reason, .. } => self.refuse_unless_left_out(&given, reason),
            Fate::Mapping(rows) => self.mapping(rows, &given, &here),
            Fate::Beside(rows) => self.mapping(rows, &given, path),
            Fate::List(rows) => self.list(rows, &given, &here),
            Fate::ReadAs(other) => {
                let given = given.read_as(other);
                if let Some(row) = find(table, other) {
                    self.settle(table, row, given, path, other);
                }
            }
            // `find` looks inside.
            Fate::Table(_) => {}
        }
    }

    fn mapping(&mut self, rows: &'static [Row], given: &Given, path: &str) {
        match &given.node.value {
            Value::Map(entries) if entries.is_empty() => self.no_effect(given, "there is nothing in it"),
            Value::Map(entries) => self.walk(rows, entries, &given.key, path),
            _ => self.expected(given, "a mapping"),
        }
    }

    fn list(&mut self, rows: &'static [Row], given: &Given, path: &str) {
        let Value::List(items) = &given.node.value else {
            return self.expected(given, "a list of mappings");
        };
        self.lengths.insert(path.to_owned(), items.len());
        for (index, item) in items.iter().enumerate() {
            let item = Given {
                key: format!("{}[{index}]", given.key),
                node: item.clone(),
                read: None,
            };
            self.mapping(rows, &item, &format!("{path}[{index}]"));
        }
    }

    fn unknown(&mut self, table: &'static [Row], given: &Given, entry: &Entry) {
        let parent = given.key.strip_suffix(&entry.key).unwrap_or_default();
        let near = closest(&entry.key, names(table)).map(|name| format!("{parent}{name}"));
        // The same name one level down.
        let holds = |row: &&Row| names(below(row)).contains(&entry.key.as_str());
        let inside = || {
            let row = all(table).into_iter().find(holds)?;
            let first = row.keys.first()?;
            let is_list = matches!(row.fate, Fate::List(_));
            let index = if is_list { "[0]" } else { "" };
            Some(format!("{parent}{first}{index}.{}", entry.key))
        };
        let exactly = inside();
        let hint = exactly.or(near).map(|name| format!("did you mean {name}?"));
        let hint = hint.unwrap_or_else(|| format!("go on without it: --leave-out {}", given.key));
        self.errors.push(ConfigError {
            at: entry.at.clone(),
            key: given.key.clone(),
            value: given.node.text(),
            reason: format!("no key of {} that Brazier knows", self.title),
            hint: Some(hint),
        });
    }

    /// The lines of the report in the order of the files.
    fn sort(&mut self) {
        let main = self.file.clone();
        self.lines.sort_by_key(|line| match &line.at {
            Location::Line { file, line, column } => (*file != main, *line, *column),
            Location::Set | Location::Unwritten { .. } => (true, usize::MAX, 0),
        });
    }

    /// Reports every key that no code took and every name of `--leave-out` that is none.
    pub(super) fn finish(&mut self) {
        self.sort();
        for given in std::mem::take(&mut self.pending).into_values() {
            self.refuse(
                &given,
                "refused: it has no meaning beside the other keys",
                Some("take it out"),
            );
        }
        for name in self.leave_out {
            if !self.left_out.contains(name) {
                let at = Location::Unwritten {
                    file: self.file.clone(),
                };
                self.errors.push(ConfigError {
                    at,
                    key: name.clone(),
                    value: None,
                    reason: "is to be left out (--leave-out) and is not there".to_owned(),
                    hint: None,
                });
            }
        }
    }
}

/// Why something is refused that Brazier lacks. What is behind a colon says what there is in its place.
pub(super) fn not_yet(what: &str) -> String {
    match what.split_once(": ") {
        Some((what, instead)) => format!("Brazier has no {what} yet: {instead}"),
        None => format!("Brazier has no {what} yet"),
    }
}

/// Whether a value asks for nothing.
fn is_off(node: &Node, off: &[&str]) -> bool {
    match &node.value {
        Value::Null | Value::Bool(false) => true,
        Value::List(items) => items.is_empty(),
        Value::Map(entries) => entries.is_empty(),
        scalar => off.contains(&scalar.to_string().to_lowercase().as_str()),
    }
}
