//! YAML and `${VAR}` to a tree.
//!
//! Scalars follow YAML 1.2's core schema, so that `1e-3` is a number and `no` is a word.

use std::{collections::HashMap, sync::Arc};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span};

use super::{
    error::{ConfigError, Location},
    tree::{Entry, Node, Value, join},
};

/// Aliases copy what they name; a file that grows beyond this is an attack or a mistake.
const MAX_NODES: usize = 100_000;
/// The same of the text in them.
const MAX_COPIED_BYTES: usize = 16 << 20;
/// Lists and mappings inside each other; what reads them calls itself.
const MAX_DEPTH: usize = 64;

/// What stops the reading is boxed, since the value beside it is small.
type Result<T> = std::result::Result<T, Box<ConfigError>>;

/// Reads the one document of `text`. `file` is how messages name it; `env` looks up environment variables.
///
/// An empty document is an empty mapping.
///
/// # Errors
/// The syntax error, or every duplicate key and every variable that is not set.
pub(super) fn parse(
    file: &Arc<str>,
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> std::result::Result<Node, Vec<ConfigError>> {
    let locate = |span: Span| Location::Line {
        file: file.clone(),
        line: span.start.line(),
        column: span.start.col() + 1,
    };
    read(text, env, &locate)
}

/// Reads YAML; `locate` says where a piece of it is.
pub(super) fn read(
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
    locate: &dyn Fn(Span) -> Location,
) -> std::result::Result<Node, Vec<ConfigError>> {
    let mut builder = Builder {
        parser: Parser::new_from_str(text),
        env,
        locate,
        anchors: HashMap::new(),
        num_nodes: 0,
        num_copied_bytes: 0,
        depth: 0,
        errors: Vec::new(),
    };
    let document = builder.document();
    let mut errors = builder.errors;
    match document {
        Ok(document) if errors.is_empty() => Ok(document),
        document => {
            errors.extend(document.err().map(|error| *error));
            Err(errors)
        }
    }
}

struct Builder<'a, 'input> {
    parser: Parser<'input, saphyr_parser::StrInput<'input>>,
    env: &'a dyn Fn(&str) -> Option<String>,
    locate: &'a dyn Fn(Span) -> Location,
    anchors: HashMap<usize, Node>,
    num_nodes: usize,
    /// Text that aliases stand for.
    num_copied_bytes: usize,
    /// Lists and mappings around what is being read.
    depth: usize,
    /// What is wrong but does not stop the reading.
    errors: Vec<ConfigError>,
}

impl<'input> Builder<'_, 'input> {
    fn document(&mut self) -> Result<Node> {
        let mut document = None;
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => break,
                (Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing, _) => {}
                (_, span) if document.is_some() => {
                    let mut second = error(&(self.locate)(span), "", "a second document begins here");
                    second.hint = Some("a configuration is one document: remove the ---".to_owned());
                    return Err(second);
                }
                (event, span) => document = Some(self.node(event, span, "")?),
            }
        }
        let start = Span::empty(Marker::new(0, 1, 0));
        Ok(document.unwrap_or_else(|| Node {
            value: Value::Map(Vec::new()),
            at: (self.locate)(start),
        }))
    }

    fn next(&mut self) -> Result<(Event<'input>, Span)> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(self.syntax_error(&error)),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn syntax_error(&self, error: &ScanError) -> Box<ConfigError> {
        let at = (self.locate)(Span::empty(*error.marker()));
        let reason = format!(
            "no valid YAML: {} (column {})",
            error.info(),
            error.marker().col() + 1
        );
        self::error(&at, "", &reason)
    }

    fn node(&mut self, event: Event<'input>, span: Span, path: &str) -> Result<Node> {
        let at = (self.locate)(span);
        let (value, anchor) = match event {
            Event::Alias(id) => {
                let node = self.anchors.get(&id);
                let node = node.ok_or_else(|| error(&at, path, "an alias inside what it names"))?;
                let (nodes, bytes) = size(node);
                self.num_nodes += nodes;
                self.num_copied_bytes += bytes;
                self.check_size(&at)?;
                check_depth(self.depth + height(node), &at)?;
                return Ok(node.clone());
            }
            Event::Scalar(text, style, anchor, _) => (self.scalar(&text, style, &at, path), anchor),
            Event::SequenceStart(anchor, _) => (self.inside(&at, |this| this.list(path))?, anchor),
            Event::MappingStart(anchor, _) => (self.inside(&at, |this| this.map(path))?, anchor),
            _ => return Err(error(&at, path, "no value")),
        };
        self.num_nodes += 1;
        self.check_size(&at)?;
        let node = Node { value, at };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    /// Reads what is one level further in.
    fn inside(&mut self, at: &Location, read: impl FnOnce(&mut Self) -> Result<Value>) -> Result<Value> {
        self.depth += 1;
        check_depth(self.depth, at)?;
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn check_size(&self, at: &Location) -> Result<()> {
        let what = match () {
            () if self.num_nodes > MAX_NODES => format!("{MAX_NODES} values"),
            () if self.num_copied_bytes > MAX_COPIED_BYTES => format!("{} MiB", MAX_COPIED_BYTES >> 20),
            () => return Ok(()),
        };
        Err(error(at, "", &format!("aliases expand to more than {what}")))
    }

    fn list(&mut self, path: &str) -> Result<Value> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(Value::List(items)),
                (event, span) => items.push(self.node(event, span, &format!("{path}[{}]", items.len()))?),
            }
        }
    }

    fn map(&mut self, path: &str) -> Result<Value> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut merged = Vec::new();
        loop {
            let (event, span) = self.next()?;
            let at = (self.locate)(span);
            let key = match event {
                Event::MappingEnd => break,
                Event::Scalar(text, ..) => text.into_owned(),
                _ => return Err(error(&at, path, "a key must be a word")),
            };
            let path = join(path, &key);
            let (event, span) = self.next()?;
            let mut node = self.node(event, span, &path)?;
            // A block begins at its first entry, but what is said of it as a whole belongs to its name.
            if matches!(node.value, Value::List(_) | Value::Map(_)) {
                node.at = at.clone();
            }
            if key == "<<" {
                merged.extend(node.entries().to_vec());
            } else if let Some(first) = entries.iter().find(|entry| entry.key == key) {
                let reason = format!("written twice, first at {}", first.at);
                let hint = Some("keep one of them".to_owned());
                self.errors.push(ConfigError {
                    at,
                    key: path,
                    value: node.text(),
                    reason,
                    hint,
                });
            } else {
                entries.push(Entry { key, at, node });
            }
        }
        // YAML 1.1's merge key: what is written here wins.
        for entry in merged {
            if !entries.iter().any(|own| own.key == entry.key) {
                entries.push(entry);
            }
        }
        Ok(Value::Map(entries))
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, at: &Location, path: &str) -> Value {
        let expanded = match expand(text, self.env) {
            Ok(expanded) => expanded,
            Err(reason) => {
                let hint = Some("set it, or write ${NAME:-default}; $${ stands for a literal ${".to_owned());
                let value = Some(text.to_owned());
                self.errors.push(ConfigError {
                    at: at.clone(),
                    key: path.to_owned(),
                    value,
                    reason,
                    hint,
                });
                return Value::Null;
            }
        };
        if style == ScalarStyle::Plain {
            plain_scalar(expanded)
        } else {
            Value::String(expanded)
        }
    }
}

fn error(at: &Location, key: &str, reason: &str) -> Box<ConfigError> {
    let (key, reason) = (key.to_owned(), reason.to_owned());
    Box::new(ConfigError {
        at: at.clone(),
        key,
        value: None,
        reason,
        hint: None,
    })
}

/// Values, itself included, and bytes of text in them.
fn size(node: &Node) -> (usize, usize) {
    let add = |(nodes, bytes): (usize, usize), node| {
        let (more_nodes, more_bytes) = size(node);
        (nodes + more_nodes, bytes + more_bytes)
    };
    match &node.value {
        Value::List(items) => items.iter().fold((1, 0), add),
        Value::Map(entries) => {
            let keys = entries.iter().map(|entry| entry.key.len()).sum();
            entries.iter().map(|entry| &entry.node).fold((1, keys), add)
        }
        Value::String(text) => (1, text.len()),
        _ => (1, 0),
    }
}

/// Lists and mappings inside each other, itself included.
fn height(node: &Node) -> usize {
    match &node.value {
        Value::List(items) => 1 + items.iter().map(height).max().unwrap_or(0),
        Value::Map(entries) => 1 + entries.iter().map(|entry| height(&entry.node)).max().unwrap_or(0),
        _ => 0,
    }
}

fn check_depth(depth: usize, at: &Location) -> Result<()> {
    match depth > MAX_DEPTH {
        true => Err(error(
            at,
            "",
            &format!("lists and mappings are nested more than {MAX_DEPTH} levels deep"),
        )),
        false => Ok(()),
    }
}

/// YAML 1.2.2, 10.3.2: <https://yaml.org/spec/1.2.2/#1032-tag-resolution>.
fn plain_scalar(text: String) -> Value {
    match text.as_str() {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    if let Ok(integer) = text.parse() {
        return Value::Integer(integer);
    }
    // Rust would also read `inf`, `nan` and `infinity`, which YAML takes for words.
    match text.parse() {
        Ok(float) if text.contains(|c: char| c.is_ascii_digit()) => Value::Float(float),
        _ => Value::String(text),
    }
}

/// Replaces `${NAME}` and `${NAME:-default}`; `$${` is a literal `${`.
fn expand(text: &str, env: &dyn Fn(&str) -> Option<String>) -> std::result::Result<String, String> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(position) = rest.find("${") {
        let (before, after) = (&rest[..position], &rest[position + 2..]);
        if let Some(before) = before.strip_suffix('$') {
            expanded.push_str(before);
            expanded.push_str("${");
            rest = after;
            continue;
        }
        expanded.push_str(before);
        let (inside, after) = after.split_once('}').ok_or("${ without its }")?;
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (inside, None),
        };
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(format!("${{{inside}}} names no environment variable"));
        }
        // As in a shell, `:-` also stands in for an empty variable.
        let value = env(name).filter(|value| default.is_none() || !value.is_empty());
        let value = value.or_else(|| default.map(str::to_owned));
        expanded.push_str(&value.ok_or(format!("the environment variable {name} is not set"))?);
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}
