//! A tree that remembers where each key and value was written, and `--set`.

use std::fmt;

use super::{
    error::{ConfigError, Location},
    yaml,
};

/// A value and where it begins.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Node {
    pub(super) value: Value,
    pub(super) at: Location,
}

/// What YAML can say.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    String(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key of a mapping with its value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) at: Location,
    pub(super) node: Node,
}

impl Node {
    pub(super) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    pub(super) fn find(&self, key: &str) -> Option<&Node> {
        self.entries()
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| &entry.node)
    }

    /// The word for what it is, in a message.
    pub(super) fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Integer(_) => "an integer",
            Value::Float(_) => "a number",
            Value::String(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// The value as text if it is short enough for a message.
    pub(super) fn text(&self) -> Option<String> {
        match &self.value {
            Value::Null | Value::List(_) | Value::Map(_) => None,
            scalar => Some(scalar.to_string()),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => f.write_str("null"),
            Value::Bool(value) => value.fmt(f),
            Value::Integer(value) => value.fmt(f),
            Value::Float(value) => write!(f, "{value:?}"),
            Value::String(value) if value.is_empty() => f.write_str("\"\""),
            Value::String(value) => f.write_str(value),
            Value::List(_) => f.write_str("[…]"),
            Value::Map(_) => f.write_str("{…}"),
        }
    }
}

/// Applies `--set path=value` to the tree. `value` is YAML.
///
/// # Errors
/// If the argument is no `path=value`, the value no YAML, or the path goes through something that is no
/// mapping or list. Whether the key exists is the schema's business.
pub(super) fn set(
    root: &mut Node,
    argument: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<(), Vec<ConfigError>> {
    let refuse = |key: &str, reason: String, hint: &str| {
        let key = key.to_owned();
        vec![ConfigError {
            at: Location::Set,
            key,
            value: None,
            reason,
            hint: Some(hint.to_owned()),
        }]
    };
    let Some((path, text)) = argument.split_once('=') else {
        return Err(refuse(
            "",
            format!("{argument} has no ="),
            "write --set train.steps=100",
        ));
    };
    let Some(segments) = path_segments(path) else {
        return Err(refuse(
            "",
            format!("{path} is no path"),
            "write data.train[0].path or train.steps",
        ));
    };
    let mut value = yaml::read(text, env, &|_| Location::Set).map_err(|mut errors| {
        errors.iter_mut().for_each(|error| error.key = path.to_owned());
        errors
    })?;
    if text.trim().is_empty() {
        value.value = Value::Null;
    }
    *descend(root, &segments, &Location::Set).map_err(|Blocked { key, is, settable }| {
        let reason = format!("is {is}, so {path} cannot be set");
        refuse(
            &key,
            reason,
            &format!("set the whole of it: --set '{settable}=…'"),
        )
    })? = value;
    Ok(())
}

/// Puts a node at a path; what is missing on the way is made, and said to be at `home`.
///
/// # Errors
/// If the path goes through something that is no mapping or list, with the key of that.
pub(super) fn put(root: &mut Node, path: &str, node: Node, home: &Location) -> Result<(), String> {
    let segments = path_segments(path).ok_or_else(|| path.to_owned())?;
    *descend(root, &segments, home).map_err(|blocked| blocked.key)? = node;
    Ok(())
}

/// What is at a path.
pub(super) fn get<'a>(root: &'a Node, path: &str) -> Option<&'a Node> {
    let mut node = root;
    for segment in path_segments(path)? {
        node = match (segment, &node.value) {
            (Segment::Key(key), _) => node.find(key)?,
            (Segment::Index(index), Value::List(items)) => items.get(index)?,
            (Segment::Index(_), _) => return None,
        };
    }
    Some(node)
}

enum Segment<'a> {
    Key(&'a str),
    Index(usize),
}

/// `data.train[0].path` or `data.train.0.path`.
fn path_segments(path: &str) -> Option<Vec<Segment<'_>>> {
    let mut segments = Vec::new();
    for part in path.trim().split('.') {
        let (key, mut indices) = part.split_at(part.find('[').unwrap_or(part.len()));
        match key.parse() {
            _ if key.is_empty() => return None,
            Ok(index) => segments.push(Segment::Index(index)),
            Err(_) => segments.push(Segment::Key(key)),
        }
        while !indices.is_empty() {
            let (index, rest) = indices.strip_prefix('[')?.split_once(']')?;
            segments.push(Segment::Index(index.parse().ok()?));
            indices = rest;
        }
    }
    Some(segments)
}

/// Where a path of `--set` ends too early.
struct Blocked {
    key: String,
    is: &'static str,
    /// What can be set instead.
    settable: String,
}

/// The place a path names, made where it is missing.
fn descend<'a>(mut node: &'a mut Node, path: &[Segment], home: &Location) -> Result<&'a mut Node, Blocked> {
    let mut so_far = String::new();
    for segment in path {
        if matches!((segment, &node.value), (Segment::Key(_), Value::Null)) {
            node.value = Value::Map(Vec::new());
        }
        if matches!((segment, &node.value), (Segment::Index(_), Value::Null)) {
            node.value = Value::List(Vec::new());
        }
        let is = node.kind();
        node = match (segment, &mut node.value) {
            (Segment::Key(key), Value::Map(entries)) => {
                so_far = join(&so_far, key);
                entry_mut(entries, key, home)
            }
            (Segment::Index(index), Value::List(items)) => {
                if *index == items.len() {
                    items.push(Node {
                        value: Value::Null,
                        at: home.clone(),
                    });
                }
                let key = format!("{so_far}[{index}]");
                let is = "beyond the end of the list";
                let item = items.get_mut(*index);
                let item = item.ok_or_else(|| Blocked {
                    key: key.clone(),
                    is,
                    settable: so_far.clone(),
                })?;
                so_far = key;
                item
            }
            _ => {
                return Err(Blocked {
                    key: so_far.clone(),
                    is,
                    settable: so_far,
                });
            }
        };
    }
    Ok(node)
}

fn entry_mut<'a>(entries: &'a mut Vec<Entry>, key: &str, home: &Location) -> &'a mut Node {
    let position = entries
        .iter()
        .position(|entry| entry.key == key)
        .unwrap_or_else(|| {
            let node = Node {
                value: Value::Null,
                at: home.clone(),
            };
            entries.push(Entry {
                key: key.to_owned(),
                at: home.clone(),
                node,
            });
            entries.len() - 1
        });
    &mut entries[position].node
}

/// `key` below `path`.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}
