//! A row of any source: JSON, Parquet, Arrow, CSV and tar shards all become this, and are parsed from it.

use std::{collections::HashSet, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::error::RowProblem;

/// Deepest nesting of lists and objects. Rows of conversations with tools need about ten.
pub(super) const MAX_DEPTH: usize = 64;
/// From so many keys on, duplicates are found by hashing.
const FEW_KEYS: usize = 16;

/// A value of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing: `null`, or a cell that is not there.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number; whole ones beyond 64 bits with a sign, too.
    Float(f64),
    /// UTF-8 text.
    Text(String),
    /// Bytes, of binary columns and tar members.
    Bytes(Vec<u8>),
    /// Values in order.
    List(Vec<Value>),
    /// Values by name, in the order of the source; no name occurs twice.
    Object(Vec<(String, Value)>),
}

impl Value {
    /// Reads one JSON text.
    ///
    /// # Errors
    /// [`RowProblem::Json`] if it is not JSON in UTF-8, is nested more than 64 levels deep, or names a key twice.
    pub fn from_json(bytes: &[u8]) -> Result<Self, RowProblem> {
        let mut deserializer = serde_json::Deserializer::from_slice(bytes);
        let value = Json { depth: MAX_DEPTH }
            .deserialize(&mut deserializer)
            .map_err(RowProblem::json)?;
        deserializer.end().map_err(RowProblem::json)?;
        Ok(value)
    }

    /// What it is, for messages: `a list`.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "a truth value",
            Value::Int(_) | Value::Float(_) => "a number",
            Value::Text(_) => "text",
            Value::Bytes(_) => "bytes",
            Value::List(_) => "a list",
            Value::Object(_) => "an object",
        }
    }

    /// The value of a key; `None` if it is not there, is null, or this is no object. Tables write null where JSON leaves
    /// a key out: they mean the same.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let Value::Object(entries) = self else { return None };
        let (_, value) = entries.iter().find(|(name, _)| name == key)?;
        (*value != Value::Null).then_some(value)
    }

    /// Whether any text in it, names of keys included, is so.
    pub(super) fn any_text(&self, test: &dyn Fn(&str) -> bool) -> bool {
        match self {
            Value::Text(text) => test(text),
            Value::List(values) => values.iter().any(|value| value.any_text(test)),
            Value::Object(entries) => entries
                .iter()
                .any(|(name, value)| test(name) || value.any_text(test)),
            Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Bytes(_) => false,
        }
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The values, if it is a list.
    pub fn as_list(&self) -> Option<&[Value]> {
        match self {
            Value::List(values) => Some(values),
            _ => None,
        }
    }

    /// The entries, if it is an object.
    pub fn as_object(&self) -> Option<&[(String, Value)]> {
        match self {
            Value::Object(entries) => Some(entries),
            _ => None,
        }
    }

    /// The whole number, if it is one.
    pub fn as_int(&self) -> Option<i64> {
        match self {
            Value::Int(number) => Some(*number),
            _ => None,
        }
    }
}

/// Reads a value that may still contain `depth` levels.
#[derive(Clone, Copy)]
struct Json {
    depth: usize,
}

impl Json {
    fn inside<E: Error>(self) -> Result<Self, E> {
        match self.depth.checked_sub(1) {
            Some(depth) => Ok(Json { depth }),
            None => Err(E::custom(format_args!(
                "lists and objects are nested more than {MAX_DEPTH} levels deep"
            ))),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Json {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Json {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(i64::try_from(value).map_or(Value::Float(value as f64), Value::Int))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_string<E: Error>(self, text: String) -> Result<Value, E> {
        Ok(Value::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let inside = self.inside()?;
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(inside)? {
            values.push(value);
        }
        Ok(Value::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let inside = self.inside()?;
        let mut entries: Vec<(String, Value)> = Vec::new();
        let mut seen: HashSet<String> = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let twice = match entries.len() {
                0..FEW_KEYS => entries.iter().any(|(known, _)| *known == key),
                FEW_KEYS => {
                    seen = entries.iter().map(|(known, _)| known.clone()).collect();
                    !seen.insert(key.clone())
                }
                _ => !seen.insert(key.clone()),
            };
            if twice {
                return Err(A::Error::custom(format_args!("the key {key:?} is there twice")));
            }
            entries.push((key, map.next_value_seed(inside)?));
        }
        Ok(Value::Object(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(json: &[u8]) -> String {
        Value::from_json(json).unwrap_err().to_string()
    }

    #[test]
    fn json_becomes_values() {
        let value = Value::from_json(
            br#" {"a": [null, true, -3, 2.5, 9223372036854775807], "b": {"c": "\u00e9"}, "n": null} "#,
        )
        .unwrap();
        let list = [
            Value::Null,
            Value::Bool(true),
            Value::Int(-3),
            Value::Float(2.5),
            Value::Int(i64::MAX),
        ];
        assert_eq!(value.get("a").unwrap().as_list().unwrap(), list);
        let c = value.get("b").unwrap().get("c").unwrap();
        assert_eq!(
            (c.as_text(), c.kind(), value.kind()),
            (Some("é"), "text", "an object")
        );
        assert_eq!((value.get("n"), value.get("z"), c.get("x")), (None, None, None));
        assert_eq!(
            Value::from_json(b"18446744073709551615").unwrap().kind(),
            "a number"
        );
    }

    #[test]
    fn hostile_json_is_refused() {
        for (json, expected) in [
            (b"{".as_slice(), "column 1: EOF"),
            (b"{} x", "column 4: trailing characters"),
            (b"\"\xff\"", "column"),
            (b"{\"a\": \"\xc3\"}", "column"),
            (b"\"\\ud800\"", "column"),
            (
                br#"{"a": 1, "b": {"a": 2, "a": 3}}"#,
                "the key \"a\" is there twice",
            ),
        ] {
            let message = refused(json);
            assert!(
                message.contains(expected),
                "{}: {message}",
                String::from_utf8_lossy(json)
            );
        }
        let mut many: Vec<String> = (0..40).map(|key| format!("\"k{key}\": 0")).collect();
        assert!(Value::from_json(format!("{{{}}}", many.join(",")).as_bytes()).is_ok());
        many.push("\"k3\": 0".into());
        assert!(refused(format!("{{{}}}", many.join(",")).as_bytes()).contains("\"k3\" is there twice"));
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(Value::from_json(nested(MAX_DEPTH).as_bytes()).is_ok());
        let message = refused(nested(MAX_DEPTH + 1).as_bytes());
        assert!(message.contains("nested more than 64 levels"), "{message}");
        assert!(refused("[{\"a\":".repeat(1_000_000).as_bytes()).contains("nested more than"));
    }
}
