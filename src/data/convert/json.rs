//! Rows as JSON.

use serde::{Serialize, Serializer, ser::Error};

use super::super::{error::RowProblem, value::Value};

/// A row as one line of JSON, without its end.
///
/// # Errors
/// If it holds what JSON cannot: bytes, or a number that is none.
pub(super) fn line(row: &Value) -> Result<Vec<u8>, RowProblem> {
    if let Some((place, reason)) = unwritable(row) {
        return Err(RowProblem::field(
            place.trim_start_matches('.'),
            reason.to_owned(),
        ));
    }
    serde_json::to_vec(&Json(row)).map_err(|error| RowProblem::Source {
        reason: error.to_string(),
    })
}

/// The first value that JSON does not hold, where it is, and what to do.
fn unwritable(value: &Value) -> Option<(String, &'static str)> {
    match value {
        Value::Bytes(_) => Some((
            String::new(),
            "JSON holds no bytes\n  hint: if they are an image, name the key by --fields images=KEY; else write parquet or arrow",
        )),
        Value::Float(number) if !number.is_finite() => Some((
            String::new(),
            "JSON holds no number that is infinite or not a number\n  hint: write parquet or arrow",
        )),
        Value::List(values) => {
            let mut found = values.iter().enumerate();
            found.find_map(|(number, value)| {
                let (place, reason) = unwritable(value)?;
                Some((format!("[{number}]{place}"), reason))
            })
        }
        Value::Object(entries) => entries.iter().find_map(|(name, value)| {
            let (place, reason) = unwritable(value)?;
            Some((format!(".{name}{place}"), reason))
        }),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) => None,
    }
}

struct Json<'a>(&'a Value);

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Null => serializer.serialize_unit(),
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::Int(number) => serializer.serialize_i64(*number),
            Value::Float(number) => serializer.serialize_f64(*number),
            Value::Text(text) => serializer.serialize_str(text),
            Value::Bytes(_) => Err(S::Error::custom("JSON holds no bytes")),
            Value::List(values) => serializer.collect_seq(values.iter().map(Json)),
            Value::Object(entries) => {
                serializer.collect_map(entries.iter().map(|(name, value)| (name, Json(value))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let row = r#"{"a":[null,true,-9007199254740993,1e300,-0.0,2.0],"é\u0000\"":{"b":{}},"c":[[]],"d":1.8446744073709552e19}"#;
        let value = Value::from_json(row.as_bytes()).unwrap();
        assert_eq!(Value::from_json(&line(&value).unwrap()).unwrap(), value);
    }

    #[test]
    fn what_json_does_not_hold_is_refused_by_its_place() {
        let inside = |value: Value| {
            let list = Value::List(vec![Value::Null, Value::Object(vec![("b".into(), value)])]);
            line(&Value::Object(vec![("a".into(), list)]))
                .unwrap_err()
                .to_string()
        };
        assert!(inside(Value::Bytes(vec![1])).starts_with("a[1].b: JSON holds no bytes\n  hint: "));
        assert!(inside(Value::Float(f64::NAN)).starts_with("a[1].b: JSON holds no number that is"));
    }
}
