//! Typed access to one object of a `config.json`, collecting everything that is wrong with it.

use std::cell::RefCell;

use serde_json::{Map, Value};

/// Problems found so far, shared by the sections of one file.
pub(super) type Problems = RefCell<Vec<String>>;

/// One object; `null` counts as absent, as in transformers.
#[derive(Clone, Copy)]
pub(super) struct Section<'a> {
    /// `text_config.` or nothing.
    pub(super) prefix: &'a str,
    pub(super) map: &'a Map<String, Value>,
    pub(super) problems: &'a Problems,
}

impl<'a> Section<'a> {
    pub(super) fn value(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn refuse(&self, key: &str, value: &Value, reason: &str) {
        self.problems
            .borrow_mut()
            .push(format!("{}{key} = {value}: {reason}", self.prefix));
    }

    pub(super) fn child(&self, key: &'a str, prefix: &'a str) -> Option<Section<'a>> {
        match self.value(key)? {
            Value::Object(map) => Some(Section {
                prefix,
                map,
                problems: self.problems,
            }),
            other => {
                self.refuse(key, other, "expected an object");
                None
            }
        }
    }

    fn typed<T>(&self, key: &str, kind: &str, read: impl Fn(&'a Value) -> Option<T>) -> Option<T> {
        let value = self.value(key)?;
        let read = read(value);
        if read.is_none() {
            self.refuse(key, value, &format!("expected {kind}"));
        }
        read
    }

    pub(super) fn size(&self, key: &str) -> Option<usize> {
        // What is counted is multiplied with what else is counted.
        self.typed(key, "a number from 0 to 4294967295", |value| {
            let size = u32::try_from(value.as_u64()?).ok()?;
            usize::try_from(size).ok()
        })
    }

    pub(super) fn integer(&self, key: &str) -> Option<i64> {
        self.typed(key, "one integer", Value::as_i64)
    }

    pub(super) fn float(&self, key: &str) -> Option<f64> {
        self.typed(key, "a number", Value::as_f64)
    }

    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub(super) fn text(&self, key: &str) -> Option<&'a str> {
        self.typed(key, "a string", Value::as_str)
    }

    /// Refuses a key that is there with any other value than the one that is built in here.
    pub(super) fn only(&self, key: &str, built_in: &Value, reason: &str) {
        let Some(value) = self.value(key) else { return };
        let equal = match (value.as_f64(), built_in.as_f64()) {
            (Some(found), Some(expected)) => found == expected,
            _ => value == built_in,
        };
        if !equal {
            self.refuse(key, value, reason);
        }
    }
}
