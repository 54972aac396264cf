//! Which keys were written, where and how: what every check needs for its message.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    dialect::{Origin, Origins},
    error::{ConfigError, Location},
    tree::{Node, Value, join},
};

/// Each key that was written, by its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    file: Arc<str>,
    keys: BTreeMap<String, (Location, Option<String>)>,
    /// What keys are called in a file that was written for another trainer.
    origins: Origins,
}

/// A key as the user knows it: with its name in the foreign file where there is one.
pub(super) fn name(origins: &Origins, key: &str) -> String {
    match origins.get(key) {
        Some(Origin::Key { key: foreign, .. }) => format!("{foreign} ({key})"),
        Some(Origin::Default { .. }) | None => key.to_owned(),
    }
}

impl Written {
    pub(super) fn new(file: Arc<str>, root: &Node, origins: Origins) -> Self {
        let mut written = Self {
            file,
            keys: BTreeMap::new(),
            origins,
        };
        written.add(root, "");
        written
    }

    fn add(&mut self, node: &Node, path: &str) {
        for entry in node.entries() {
            if !matches!(entry.node.value, Value::Null) {
                let path = join(path, &entry.key);
                self.keys
                    .insert(path.clone(), (entry.node.at.clone(), entry.node.text()));
                self.add(&entry.node, &path);
            }
        }
        if let Value::List(items) = &node.value {
            for (index, item) in items.iter().enumerate() {
                let path = format!("{path}[{index}]");
                self.keys.insert(path.clone(), (item.at.clone(), item.text()));
                self.add(item, &path);
            }
        }
    }

    /// Where the key is written, or else what it would be in.
    fn nearest(&self, key: &str) -> Location {
        let mut key = key;
        loop {
            match (self.keys.get(key), key.rfind(['.', '['])) {
                (Some((at, _)), _) => return at.clone(),
                (None, Some(end)) => key = &key[..end],
                (None, None) => {
                    return Location::Unwritten {
                        file: self.file.clone(),
                    };
                }
            }
        }
    }
}

/// Collects what is wrong with values that have the right type.
pub(super) struct Errors<'a> {
    written: &'a Written,
    pub(super) list: Vec<ConfigError>,
}

impl<'a> Errors<'a> {
    pub(super) fn new(written: &'a Written) -> Self {
        Self {
            written,
            list: Vec::new(),
        }
    }

    /// Whether the user wrote this key.
    pub(super) fn given(&self, key: &str) -> bool {
        self.written.keys.contains_key(key)
    }

    /// Refuses a key with the value that was written for it.
    pub(super) fn refuse(&mut self, key: &str, reason: &str, hint: Option<&str>) {
        let value = self.written.keys.get(key).and_then(|(_, value)| value.clone());
        let at = self.written.nearest(key);
        let key = name(&self.written.origins, key);
        let (reason, hint) = (reason.to_owned(), hint.map(str::to_owned));
        self.list.push(ConfigError {
            at,
            key,
            value,
            reason,
            hint,
        });
    }

    /// Refuses a key whose value may be a default.
    pub(super) fn refuse_value(&mut self, key: &str, value: &str, reason: &str, hint: Option<&str>) {
        self.refuse(key, reason, hint);
        if let Some(error) = self.list.last_mut() {
            error.value.get_or_insert_with(|| value.to_owned());
        }
    }

    /// Refuses a key that was written and would do nothing.
    pub(super) fn no_effect(&mut self, key: &str, why: &str) {
        if self.given(key) {
            self.refuse(key, &format!("has no effect: {why}"), Some("remove it"));
        }
    }

    /// Refuses the second of two keys that exclude each other, if both were written.
    pub(super) fn exclusive(&mut self, first: &str, second: &str) {
        if !(self.given(first) && self.given(second)) {
            return;
        }
        let reason = match self.written.keys.get(first) {
            Some((at, Some(value))) => format!("contradicts {first} = {value} ({at})"),
            Some((at, None)) => format!("contradicts {first} ({at})"),
            None => format!("contradicts {first}"),
        };
        self.refuse(
            second,
            &reason,
            Some(&format!(
                "keep one of them; --set {first}=null takes that one out"
            )),
        );
    }
}
