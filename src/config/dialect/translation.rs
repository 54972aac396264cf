//! The walk through a foreign tree: each key is settled by its [`Row`], or kept for the dialect's own code,
//! which must take it. What nobody takes is an error, so that no key is dropped.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use super::{
    report::{Origin, Origins, Outcome, ReportLine},
    table::{Fate, Row, all, below, find, names},
};
use crate::config::{
    error::{ConfigError, Location, closest},
    tree::{self, Entry, Node, Value, join},
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
    written: BTreeSet<String>,
    /// Keys that wait for the dialect's own code, by their paths in its table.
    pending: BTreeMap<String, Given>,
    /// Lengths of lists of mappings.
    lengths: BTreeMap<String, usize>,
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

/// What code of the dialects does with a key.
impl Translation<'_> {
    /// The key at this path of the table, if it is written. Whoever takes it must settle it.
    pub(super) fn take(&mut self, path: &str) -> Option<Given> {
        self.pending.remove(path)
    }

    /// The same without taking it.
    pub(super) fn peek(&self, path: &str) -> Option<&Given> {
        self.pending.get(path)
    }

    /// Whether the file has this key at its top.
    pub(super) fn is_written(&self, name: &str) -> bool {
        self.written.contains(name)
    }

    /// Number of mappings in a list.
    pub(super) fn length(&self, path: &str) -> usize {
        self.lengths.get(path).copied().unwrap_or_default()
    }

    /// Takes a text.
    pub(super) fn take_text(&mut self, path: &str) -> Option<(String, Given)> {
        let given = self.take(path)?;
        match &given.node.value {
            Value::String(text) => Some((text.clone(), given)),
            Value::Integer(number) => Some((number.to_string(), given)),
            _ => {
                self.expected(&given, "text");
                None
            }
        }
    }

    /// Takes a switch.
    pub(super) fn take_bool(&mut self, path: &str) -> Option<(bool, Given)> {
        let given = self.take(path)?;
        match given.node.value {
            Value::Bool(value) => Some((value, given)),
            _ => {
                self.expected(&given, "true or false");
                None
            }
        }
    }

    /// Takes a number.
    pub(super) fn take_number(&mut self, path: &str) -> Option<(f64, Given)> {
        let given = self.take(path)?;
        match number(&given.node) {
            Some(value) => Some((value, given)),
            None => {
                self.expected(&given, "a number");
                None
            }
        }
    }

    /// Takes a whole number that is not negative, which may be written as `1e3`.
    pub(super) fn take_count(&mut self, path: &str) -> Option<(u64, Given)> {
        let (value, given) = self.take_number(path)?;
        if value.fract() != 0.0 || !(0.0..9e15).contains(&value) {
            self.expected(&given, "a whole number");
            return None;
        }
        Some((value as u64, given))
    }

    /// Puts a value at a native path. A second key may say the same, not something else.
    pub(super) fn put(&mut self, native: &str, value: Value, given: &Given) {
        self.put_noted(native, value, given, None);
    }

    /// The same, with a word on it for the report.
    pub(super) fn put_noted(&mut self, native: &str, value: Value, given: &Given, note: Option<&str>) {
        if let Some(Origin::Key { key, at }) = self.origins.get(native) {
            let first = tree::get(&self.out, native).map(|node| node.value.clone());
            if first.as_ref().is_some_and(|first| !same(first, &value)) {
                let first = first.map_or_else(String::new, |first| format!(" = {first}"));
                let reason = format!("refused: contradicts {key}{first} ({at})");
                return self.refuse(
                    given,
                    &reason,
                    Some("write the same in both places, or in one of them"),
                );
            }
        }
        let shown = match &value {
            Value::List(_) | Value::Map(_) => native.to_owned(),
            scalar => format!("{native} = {scalar}"),
        };
        let at = given.node.at.clone();
        let home = Location::Unwritten {
            file: self.file.clone(),
        };
        if tree::put(
            &mut self.out,
            native,
            Node {
                value,
                at: at.clone(),
            },
            &home,
        )
        .is_err()
        {
            return self.refuse(given, &format!("refused: {native} cannot hold it"), None);
        }
        let key = given.key.clone();
        self.origins
            .entry(native.to_owned())
            .or_insert(Origin::Key { key, at });
        let notes: Vec<&str> = given.read.as_deref().into_iter().chain(note).collect();
        let note = (!notes.is_empty()).then(|| notes.join("; "));
        self.report(given, Outcome::Mapped { native: shown, note });
    }

    /// Puts the value of one key at several native paths; the report has one line for it.
    pub(super) fn put_at_each(&mut self, natives: &[String], given: &Given, value: &Value) {
        let lines = self.lines.len();
        for native in natives {
            self.put(native, value.clone(), given);
        }
        self.lines.truncate(self.lines.len().min(lines + 1));
    }

    /// Puts a path, in which `$NAME` stands for an environment variable.
    pub(super) fn put_path(&mut self, native: &str, given: &Given) {
        if let Some(path) = self.path(given) {
            self.put(native, Value::String(path), given);
        }
    }

    /// The path that a key names.
    pub(super) fn path(&mut self, given: &Given) -> Option<String> {
        let text = match &given.node.value {
            Value::String(text) => text.clone(),
            Value::Integer(number) => number.to_string(),
            _ => {
                self.expected(given, "a path");
                return None;
            }
        };
        match expand_dollars(&text, self.env) {
            Ok(path) => Some(path),
            Err(name) => {
                let reason = format!("the environment variable {name} is not set");
                self.refuse(given, &reason, Some("set it, or write the path in full"));
                None
            }
        }
    }

    /// A native value for what the file leaves out, where the dialect's default is not ours.
    pub(super) fn default(&mut self, native: &str, value: Value) {
        if self.is_put(native) {
            return;
        }
        let at = Location::Unwritten {
            file: self.file.clone(),
        };
        self.defaults.push((native.to_owned(), value.to_string()));
        let of = self.title;
        let _ = tree::put(
            &mut self.out,
            native,
            Node {
                value,
                at: at.clone(),
            },
            &at,
        );
        self.origins.insert(native.to_owned(), Origin::Default { of });
    }

    /// Whether this native key, or one below it, has a value.
    pub(super) fn is_put(&self, native: &str) -> bool {
        tree::get(&self.out, native).is_some()
    }

    pub(super) fn no_effect(&mut self, given: &Given, because: &str) {
        let because = match &given.read {
            Some(read) => format!("{read}; {because}"),
            None => because.to_owned(),
        };
        self.report(given, Outcome::NoEffect { because });
    }

    fn report(&mut self, given: &Given, outcome: Outcome) {
        self.lines.push(ReportLine {
            at: given.node.at.clone(),
            key: given.key.clone(),
            value: given.node.text(),
            outcome,
        });
    }

    pub(super) fn refuse(&mut self, given: &Given, reason: &str, hint: Option<&str>) {
        self.errors.push(ConfigError {
            at: given.node.at.clone(),
            key: given.key.clone(),
            value: given.node.text(),
            reason: reason.to_owned(),
            hint: hint.map(str::to_owned),
        });
    }

    /// Refuses a key without which one may go on.
    pub(super) fn refuse_unless_left_out(&mut self, given: &Given, reason: &str) {
        let hint = format!("to go on without it: --leave-out {}", given.key);
        self.refuse(given, &format!("refused: {reason}"), Some(&hint));
    }

    pub(super) fn expected(&mut self, given: &Given, what: &str) {
        let reason = format!("expected {what}, got {}", given.node.kind());
        self.refuse(given, &reason, None);
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

/// A number, also one in quotes, as Python's YAML makes of `1e-4`.
pub(super) fn number(node: &Node) -> Option<f64> {
    match &node.value {
        Value::Integer(value) => Some(*value as f64),
        Value::Float(value) => Some(*value),
        Value::String(text) if text.starts_with(|c: char| c.is_ascii_digit() || c == '-') => {
            text.parse().ok()
        }
        _ => None,
    }
}

/// Whether two values say the same.
fn same(first: &Value, second: &Value) -> bool {
    match (first, second) {
        (Value::Integer(integer), Value::Float(float)) | (Value::Float(float), Value::Integer(integer)) => {
            *integer as f64 == *float
        }
        (Value::List(first), Value::List(second)) => {
            let pairs = first.iter().zip(second);
            first.len() == second.len() && pairs.into_iter().all(|(a, b)| same(&a.value, &b.value))
        }
        (first, second) => first == second,
    }
}

/// Replaces `$NAME`; the name of a variable that is not set otherwise.
fn expand_dollars(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        let end = after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let (name, after) = after.split_at(end.unwrap_or(after.len()));
        match name {
            "" => expanded.push('$'),
            name => expanded.push_str(&env(name).ok_or_else(|| name.to_owned())?),
        }
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}
