//! What code of the dialects does with a key: takes it, puts it at native paths, or says why not.

use super::{
    report::{Origin, Outcome, ReportLine},
    translation::{Given, Translation},
};
use crate::config::{
    error::{ConfigError, Location},
    tree::{self, Node, Value},
};

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

    /// Puts the value of one key at the same place of each data set; the report has one line for it.
    pub(super) fn put_at_each(&mut self, natives: &[String], given: &Given, value: &Value) {
        if natives.is_empty() {
            return self.no_effect(given, "there are no data sets");
        }
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
