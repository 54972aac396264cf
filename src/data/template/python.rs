//! What templates expect of Python: how values are printed, `tojson`, `strftime`.

use std::{fmt::Write, sync::Arc};

use minijinja::{
    Error, ErrorKind, Output, State,
    value::{Enumerator, Kwargs, Object, Value, ValueKind},
};

use super::limits::{self, Text};

/// An object with its keys in the order of the row: templates print tools and calls in this order.
#[derive(Debug)]
pub(super) struct Record(pub(super) Vec<(Arc<str>, Value)>);

impl Object for Record {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let key = key.as_str()?;
        let (_, value) = self.0.iter().find(|(name, _)| **name == *key)?;
        Some(value.clone())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.0.iter().map(|(name, _)| Value::from(name.clone())).collect())
    }
}

pub(super) fn failed(reason: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}

/// How `tojson` writes.
struct Json {
    indent: Option<usize>,
    ensure_ascii: bool,
    sort_keys: bool,
    item: String,
    key: String,
}

/// `json.dumps` with the arguments that transformers gives it: nothing is escaped for HTML, and text stays as it is.
pub(super) fn tojson(value: &Value, kwargs: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    limits::check_indent(indent)?;
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(failed("tojson: separators are two texts")),
        None if indent.is_some() => (",".into(), ": ".into()),
        None => (", ".into(), ": ".into()),
    };
    let json = Json {
        indent,
        ensure_ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        item,
        key,
    };
    kwargs.assert_all_used()?;
    let mut text = Text::default();
    json.write(&mut text, value, 0)?;
    Ok(text.into_string())
}

impl Json {
    fn write(&self, text: &mut Text, value: &Value, depth: usize) -> Result<(), Error> {
        limits::check_depth(depth)?;
        match value.kind() {
            ValueKind::None => text.push("null"),
            ValueKind::Bool => text.push(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => text.push(&number(value, "NaN", "Infinity")),
            ValueKind::String => self.string(text, value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                self.container(text, ('[', ']'), depth, value.try_iter()?, |text, item| {
                    self.write(text, &item, depth + 1)
                })
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.container(text, ('{', '}'), depth, keys.into_iter(), |text, key| {
                    self.string(text, &key.to_string())?;
                    text.push(&self.key)?;
                    self.write(text, &value.get_item(&key)?, depth + 1)
                })
            }
            kind => Err(failed(format!("Object of type {kind} is not JSON serializable"))),
        }
    }

    fn container(
        &self,
        text: &mut Text,
        (open, close): (char, char),
        depth: usize,
        items: impl Iterator<Item = Value>,
        write: impl Fn(&mut Text, Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let line = |text: &mut Text, depth: usize| match self.indent {
            Some(indent) => text.push(&format!("\n{}", " ".repeat(indent * depth))),
            None => Ok(()),
        };
        text.push_char(open)?;
        let mut is_empty = true;
        for item in items {
            if !is_empty {
                text.push(&self.item)?;
            }
            is_empty = false;
            line(text, depth + 1)?;
            write(text, item)?;
        }
        if !is_empty {
            line(text, depth)?;
        }
        text.push_char(close)
    }

    fn string(&self, text: &mut Text, value: &str) -> Result<(), Error> {
        let json = serde_json::to_string(value).map_err(|error| failed(error.to_string()))?;
        if !self.ensure_ascii {
            return text.push(&json);
        }
        for c in json.chars() {
            if c.is_ascii() {
                text.push_char(c)?;
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    text.push(&format!("\\u{unit:04x}"))?;
                }
            }
        }
        Ok(())
    }
}

/// What Python can iterate over: texts can be, and nothing cannot.
pub(super) fn is_iterable(value: &Value) -> bool {
    match value.kind() {
        ValueKind::None => false,
        ValueKind::String => true,
        _ => value.try_iter().is_ok(),
    }
}

/// Prints a value as Python's `str` does.
pub(super) fn print(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None
        | ValueKind::Bool
        | ValueKind::Number
        | ValueKind::Seq
        | ValueKind::Iterable
        | ValueKind::Map => {
            let mut text = Text::default();
            repr(&mut text, value, 0)?;
            out.write_str(&text.into_string()).map_err(Error::from)
        }
        _ => minijinja::escape_formatter(out, state, value),
    }
}

fn repr(text: &mut Text, value: &Value, depth: usize) -> Result<(), Error> {
    limits::check_depth(depth)?;
    match value.kind() {
        ValueKind::None => text.push("None"),
        ValueKind::Bool => text.push(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => text.push(&number(value, "nan", "inf")),
        ValueKind::String => text.push(&quoted(value.as_str().unwrap_or_default())),
        ValueKind::Seq | ValueKind::Iterable => {
            text.push_char('[')?;
            for (place, item) in value.try_iter()?.enumerate() {
                text.push(if place > 0 { ", " } else { "" })?;
                repr(text, &item, depth + 1)?;
            }
            text.push_char(']')
        }
        ValueKind::Map => {
            text.push_char('{')?;
            for (place, key) in value.try_iter()?.enumerate() {
                text.push(if place > 0 { ", " } else { "" })?;
                repr(text, &key, depth + 1)?;
                text.push(": ")?;
                repr(text, &value.get_item(&key)?, depth + 1)?;
            }
            text.push_char('}')
        }
        _ => text.push(&value.to_string()),
    }
}

fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let mut quoted = String::from(quote);
    for c in text.chars() {
        match c {
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\\' => quoted.push_str("\\\\"),
            c if c == quote => quoted.extend(['\\', c]),
            c if (c as u32) < 0x20 || (c as u32) == 0x7f => {
                let _ = write!(quoted, "\\x{:02x}", c as u32);
            }
            c => quoted.push(c),
        }
    }
    quoted.push(quote);
    quoted
}

/// A number as Python writes it: `1.0`, `1e+20`.
fn number(value: &Value, nan: &str, infinity: &str) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    let Ok(number) = f64::try_from(value.clone()) else {
        return value.to_string();
    };
    if number.is_nan() {
        return nan.into();
    }
    let sign = if number.is_sign_negative() { "-" } else { "" };
    if number.is_infinite() {
        return format!("{sign}{infinity}");
    }
    let scientific = format!("{:e}", number.abs());
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{}", number.abs());
        let point = if plain.contains('.') { "" } else { ".0" };
        format!("{sign}{plain}{point}")
    } else {
        let direction = if exponent < 0 { '-' } else { '+' };
        format!("{sign}{digits}e{direction}{:02}", exponent.abs())
    }
}

#[cfg(test)]
mod tests {
    use minijinja::{Environment, context};

    use super::*;

    fn render(template: &str, value: Value) -> String {
        let mut environment = Environment::new();
        environment.set_formatter(print);
        environment.add_test("iterable", |value: Value| is_iterable(&value));
        environment.add_filter("tojson", |value: Value, kwargs: Kwargs| tojson(&value, kwargs));
        environment.render_str(template, context! { x => value }).unwrap()
    }

    /// An object of every kind of value, its keys not in the order of the alphabet.
    fn sample() -> Value {
        let inside = Record(vec![("b".into(), Value::from("it's <é> \"q\"\n"))]);
        Value::from_object(Record(vec![
            ("z".into(), Value::from(1)),
            (
                "a".into(),
                Value::from(vec![
                    Value::from(1.0),
                    Value::from(1e20),
                    Value::from(-2.5e-7),
                    Value::from(123_456.789),
                    Value::from(true),
                    Value::from(()),
                ]),
            ),
            ("e".into(), Value::from(Vec::<Value>::new())),
            ("m".into(), Value::from_object(inside)),
        ]))
    }

    /// Recorded from Python: `json.dumps(x, ensure_ascii=False)` and its variants.
    #[test]
    fn json_is_that_of_python() {
        assert_eq!(
            render("{{ x | tojson }}", sample()),
            r#"{"z": 1, "a": [1.0, 1e+20, -2.5e-07, 123456.789, true, null], "e": [], "m": {"b": "it's <é> \"q\"\n"}}"#
        );
        assert_eq!(
            render("{{ x.m | tojson(indent=2, ensure_ascii=true) }}", sample()),
            "{\n  \"b\": \"it's <\\u00e9> \\\"q\\\"\\n\"\n}"
        );
        assert_eq!(
            render(
                "{{ x | tojson(sort_keys=true, separators=(',', ':')) }}",
                sample()
            ),
            r#"{"a":[1.0,1e+20,-2.5e-07,123456.789,true,null],"e":[],"m":{"b":"it's <é> \"q\"\n"},"z":1}"#
        );
    }

    /// Recorded from Python: `str(x)`.
    #[test]
    fn values_are_printed_as_python_does() {
        assert_eq!(
            render("{{ x }}", sample()),
            r#"{'z': 1, 'a': [1.0, 1e+20, -2.5e-07, 123456.789, True, None], 'e': [], 'm': {'b': 'it\'s <é> "q"\n'}}"#
        );
        assert_eq!(
            render("{{ x.a[4] }} {{ x.a[5] }} {{ x.nothing }}", sample()),
            "True None "
        );
        let iterable = "{{ x is iterable }} {{ x.a is iterable }} {{ 'a' is iterable }} {{ none is iterable }} {{ 3 is iterable }}";
        assert_eq!(render(iterable, sample()), "True True True False False");
    }
}
