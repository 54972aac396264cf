//! A native tree as YAML, each value with a word on where it came from.

use std::fmt::Write as _;

use serde_json::Value as Json;

use super::{Origin, Origins, Outcome, Report};
use crate::config::{
    error::Location,
    schema::{SCHEMA, alternatives, properties, tag, without_null},
    tree::{Entry, Node, Value, join},
};

/// The tree as YAML in the order of the schema. What has no effect here is in comments at the end.
pub(in crate::config) fn print(root: &Node, origins: &Origins, report: Option<&Report>) -> String {
    let main = match &root.at {
        Location::Line { file, .. } | Location::Unwritten { file } => file,
        Location::Set => "",
    };
    let mut yaml = String::new();
    if let Some(report) = report {
        let _ = writeln!(
            yaml,
            "# Converted from {main}, a configuration of {}.\n",
            report.dialect.title()
        );
    }
    let printer = Printer { origins, main };
    printer.block(root, &SCHEMA, "", 0, &mut yaml);
    without_effect(report, &mut yaml);
    yaml
}

/// What has no effect, in comments.
fn without_effect(report: Option<&Report>, yaml: &mut String) {
    let lines = report.into_iter().flat_map(|report| &report.lines);
    let mut lines = lines
        .filter_map(|line| match &line.outcome {
            Outcome::NoEffect { because } => Some((line, because)),
            Outcome::Mapped { .. } => None,
        })
        .peekable();
    if lines.peek().is_some() {
        yaml.push_str("\n# No effect here:\n");
    }
    for (line, because) in lines {
        let value = line.value.as_deref().unwrap_or("…").replace('\n', " ");
        let _ = writeln!(yaml, "#   {} = {value}: {because}", line.key);
    }
}

struct Printer<'a> {
    origins: &'a Origins,
    /// The file that was converted, which comments need not name.
    main: &'a str,
}

impl Printer<'_> {
    fn block(&self, node: &Node, schema: &Json, path: &str, indent: usize, yaml: &mut String) {
        for entry in in_order(node, schema) {
            if matches!(entry.node.value, Value::Null) {
                continue;
            }
            yaml.extend(std::iter::repeat_n(' ', indent));
            let below = schema_of(schema, &entry.key);
            self.entry(entry, below, &join(path, &entry.key), indent, yaml);
        }
    }

    fn entry(&self, entry: &Entry, schema: &Json, path: &str, indent: usize, yaml: &mut String) {
        yaml.push_str(&scalar_text(&entry.key));
        yaml.push(':');
        let comment = self.comment(&entry.node, path).unwrap_or_default();
        match &entry.node.value {
            Value::Map(entries) if !entries.is_empty() => {
                let _ = writeln!(yaml, "{comment}");
                self.block(&entry.node, schema, path, indent + 2, yaml);
            }
            Value::List(items) if items.iter().any(|item| matches!(item.value, Value::Map(_))) => {
                let _ = writeln!(yaml, "{comment}");
                self.list(items, &schema["items"], path, indent + 2, yaml);
            }
            value => {
                let _ = writeln!(yaml, " {}{comment}", inline(value));
            }
        }
    }

    fn list(&self, items: &[Node], schema: &Json, path: &str, indent: usize, yaml: &mut String) {
        for (index, item) in items.iter().enumerate() {
            let path = format!("{path}[{index}]");
            yaml.extend(std::iter::repeat_n(' ', indent));
            yaml.push_str("- ");
            if item.entries().is_empty() {
                let _ = writeln!(yaml, "{}", inline(&item.value));
                continue;
            }
            let mut lines = String::new();
            self.block(item, schema, &path, indent + 2, &mut lines);
            // The first key stands behind the dash.
            yaml.push_str(lines.trim_start());
        }
    }

    /// Where a value came from.
    fn comment(&self, node: &Node, path: &str) -> Option<String> {
        if node.at == Location::Set {
            return Some(" # --set".to_owned());
        }
        Some(match self.origins.get(path)? {
            Origin::Default { of } => format!(" # the default of {of}"),
            Origin::Key { key, at } => match at {
                Location::Line { file, line, .. } if **file == *self.main => format!(" # {key}, line {line}"),
                elsewhere => format!(" # {key}, {elsewhere}"),
            },
        })
    }
}

/// The entries of a mapping in the order in which the schema documents them.
fn in_order<'a>(node: &'a Node, schema: &Json) -> Vec<&'a Entry> {
    let schema = without_null(schema);
    let options = alternatives(schema);
    let tag = tag(options);
    let mut keys: Vec<&str> = tag.into_iter().collect();
    keys.extend(properties(schema).map(|(key, _)| key));
    for option in options {
        keys.extend(properties(option).map(|(key, _)| key));
    }
    let mut entries: Vec<&Entry> = node.entries().iter().collect();
    entries.sort_by_key(|entry| {
        keys.iter()
            .position(|key| *key == entry.key)
            .unwrap_or(usize::MAX)
    });
    entries
}

fn schema_of<'a>(schema: &'a Json, key: &str) -> &'a Json {
    without_null(&without_null(schema)["properties"][key])
}

/// A value on one line.
fn inline(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) | Value::Integer(_) | Value::Float(_) => value.to_string(),
        Value::String(text) => scalar_text(text),
        Value::List(items) => {
            let items: Vec<_> = items.iter().map(|item| inline(&item.value)).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Map(entries) => {
            let entries: Vec<_> = entries
                .iter()
                .map(|entry| format!("{}: {}", scalar_text(&entry.key), inline(&entry.node.value)))
                .collect();
            format!("{{{}}}", entries.join(", "))
        }
    }
}

/// A text as YAML: as it is where that cannot be misread, in JSON's quotes otherwise.
fn scalar_text(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
    let starts_well = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '_' || c == '.');
    let is_word = ["true", "false", "null", "yes", "no", "on", "off"].contains(&text.to_lowercase().as_str());
    let is_number = text.parse::<f64>().is_ok();
    if starts_well && text.chars().all(is_plain) && !is_word && !is_number {
        return text.to_owned();
    }
    // JSON is YAML, but for our `${`.
    Json::from(text).to_string().replace("${", "$${")
}
