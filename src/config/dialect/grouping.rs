//! What several dialects say of how samples share rows and batches.

use super::translation::Translation;
use crate::config::tree::{self, Value};

impl Translation<'_> {
    /// A switch for packing; true if it is on.
    pub(super) fn packing(&mut self, key: &str) -> bool {
        const KEY: &str = "data.packing";
        let Some((is_on, given)) = self.take_bool(key) else {
            return false;
        };
        let word = if is_on { "best_fit" } else { "none" };
        self.put(KEY, Value::String(word.into()), &given);
        is_on
    }

    /// A switch for micro-batches of like length.
    pub(super) fn group_by_length(&mut self, key: &str) {
        if let Some((is_on, given)) = self.take_bool(key) {
            self.put("data.group_by_length", Value::Bool(is_on), &given);
        }
    }

    /// `pad` makes every batch as long as a row may be, `multiple` a multiple of its number.
    pub(super) fn padding(&mut self, pad: &str, multiple: &str, default_length: i64) {
        const KEY: &str = "data.pad_to_multiple_of";
        if let Some((is_on, given)) = self.take_bool(pad) {
            match is_on {
                true => {
                    let length = tree::get(&self.out, "data.sequence_length").map(|node| node.value.clone());
                    let length = length.unwrap_or(Value::Integer(default_length));
                    self.put(KEY, length, &given);
                }
                false => self.no_effect(&given, "a batch is padded to its longest row"),
            }
        }
        let Some(given) = self.take(multiple) else { return };
        match self.is_put(KEY) {
            true => self.no_effect(&given, &format!("{pad} says how long batches are")),
            false => self.put(KEY, given.node.value.clone(), &given),
        }
    }
}
