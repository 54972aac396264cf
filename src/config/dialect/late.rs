//! What can be said only when `--set` has had its word.

use std::path::Path;

use super::{Dialect, Report};
use crate::{
    config::{
        error::{ConfigError, Location},
        tree::{self, Node, Value, join},
    },
    hub,
};

const LENGTH: &str = "data.sequence_length";
/// Stands in for a length that is missing, so that one complaint is enough.
const ANY_LENGTH: i64 = 2048;

/// MultiMeditron bounds a sequence by nothing but the language model's context: what is wrong if that is not known.
pub(in crate::config) fn fill_in(
    root: &mut Node,
    report: &mut Report,
    env: &dyn Fn(&str) -> Option<String>,
) -> Option<ConfigError> {
    let is_missing = tree::get(root, LENGTH).is_none_or(|node| node.value == Value::Null);
    if report.dialect != Dialect::MultiMeditron || !is_missing {
        return None;
    }
    let at = root.at.clone();
    let found = context(root, env);
    let value = Value::Integer(found.unwrap_or(ANY_LENGTH));
    if found.is_some() {
        report.defaults.push((
            LENGTH.to_owned(),
            format!("{value}, the context of the language model"),
        ));
    }
    let _ = tree::put(
        root,
        LENGTH,
        Node {
            value,
            at: at.clone(),
        },
        &at,
    );
    let reason = "is missing: MultiMeditron takes the language model's context, and there is no config.json that says it";
    let hint = "write max_sequence_length, or --set data.sequence_length=2048";
    found.is_none().then(|| ConfigError {
        at,
        key: LENGTH.to_owned(),
        value: None,
        reason: reason.to_owned(),
        hint: Some(hint.to_owned()),
    })
}

/// The longest sequence of the language model that the tree names, if its folder is there.
fn context(root: &Node, env: &dyn Fn(&str) -> Option<String>) -> Option<i64> {
    let text = |key: &str| match &tree::get(root, key)?.value {
        Value::String(text) => Some(text.clone()),
        _ => None,
    };
    let decoder = match (text("model.language_from"), text("model.from")) {
        (Some(language), _) => {
            let dir = hub::locate(Path::new(&language), env).ok()?;
            hub::read_decoder_config(&dir).ok()?
        }
        (None, Some(whole)) => {
            let dir = hub::locate(Path::new(&whole), env).ok()?;
            hub::read_config(&dir).ok()?.text
        }
        (None, None) => return None,
    };
    i64::try_from(decoder.max_positions()).ok()
}

/// Values that documents write for the reader to replace.
pub(in crate::config) fn placeholders(root: &Node) -> Vec<ConfigError> {
    let mut found = Vec::new();
    collect(root, "", &mut found);
    found
}

fn collect(node: &Node, path: &str, found: &mut Vec<ConfigError>) {
    for entry in node.entries() {
        collect(&entry.node, &join(path, &entry.key), found);
    }
    if let Value::List(items) = &node.value {
        for (index, item) in items.iter().enumerate() {
            collect(item, &format!("{path}[{index}]"), found);
        }
    }
    let (Value::String(text), Location::Line { .. }) = (&node.value, &node.at) else {
        return;
    };
    let is_placeholder = text.contains("/path/to/")
        || text.starts_with("path/to/")
        || (text.starts_with("<your") && text.ends_with('>'));
    if is_placeholder {
        found.push(ConfigError {
            at: node.at.clone(),
            key: path.to_owned(),
            value: Some(text.clone()),
            reason: "is a placeholder".to_owned(),
            hint: Some(format!("write the path in the file, or --set '{path}=…'")),
        });
    }
}
