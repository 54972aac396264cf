//! The YAML that energon writes beside its shards, as values. The configuration has a reader of its own, which knows
//! the environment and names every line; these files are a machine's.

use saphyr_parser::{Event, Parser, ScalarStyle};

use super::super::super::value::{MAX_DEPTH, Value};

/// A line for each shard is normal; beyond this, a file is no list of shards.
const MAX_VALUES: usize = 4_000_000;

/// Reads the one document of a text.
pub(super) fn read(text: &str) -> Result<Value, String> {
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
        num_values: 0,
    };
    let mut document = None;
    loop {
        match reader.next()? {
            Event::StreamEnd => return document.ok_or_else(|| "it is empty".to_owned()),
            Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing => {}
            _ if document.is_some() => return Err("it has more than one document".to_owned()),
            event => document = Some(reader.value(event, MAX_DEPTH)?),
        }
    }
}

struct Reader<'input> {
    parser: Parser<'input, saphyr_parser::StrInput<'input>>,
    num_values: usize,
}

impl<'input> Reader<'input> {
    fn next(&mut self) -> Result<Event<'input>, String> {
        match self.parser.next_event() {
            Some(Ok((event, _))) => Ok(event),
            Some(Err(error)) => Err(format!("line {}: {}", error.marker().line(), error.info())),
            None => Ok(Event::StreamEnd),
        }
    }

    fn value(&mut self, event: Event<'input>, depth: usize) -> Result<Value, String> {
        self.num_values += 1;
        let inside = depth.checked_sub(1).filter(|_| self.num_values <= MAX_VALUES);
        let inside = inside.ok_or("it is nested too deeply, or too large")?;
        match event {
            Event::Scalar(text, ScalarStyle::Plain, ..) => Ok(plain(&text)),
            Event::Scalar(text, ..) => Ok(Value::Text(text.into_owned())),
            Event::SequenceStart(..) => {
                let mut values = Vec::new();
                loop {
                    match self.next()? {
                        Event::SequenceEnd => return Ok(Value::List(values)),
                        event => values.push(self.value(event, inside)?),
                    }
                }
            }
            Event::MappingStart(..) => {
                let mut entries: Vec<(String, Value)> = Vec::new();
                loop {
                    let key = match self.next()? {
                        Event::MappingEnd => return Ok(Value::Object(unique(entries)?)),
                        Event::Scalar(text, ..) => text.into_owned(),
                        _ => return Err("a key is not a word".to_owned()),
                    };
                    let event = self.next()?;
                    entries.push((key, self.value(event, inside)?));
                }
            }
            Event::Alias(_) => Err("aliases are not read here".to_owned()),
            _ => Err("a value is missing".to_owned()),
        }
    }
}

fn unique(entries: Vec<(String, Value)>) -> Result<Vec<(String, Value)>, String> {
    let mut names: Vec<&str> = entries.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("the key {:?} is there twice", pair[0])),
        None => Ok(entries),
    }
}

/// YAML 1.2's core schema, without its octal and hexadecimal numbers, which energon does not write.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let float = || {
        text.parse()
            .ok()
            .filter(|_| text.contains(|c: char| c.is_ascii_digit()))
    };
    match text.parse() {
        Ok(number) => Value::Int(number),
        Err(_) => float().map_or_else(|| Value::Text(text.to_owned()), Value::Float),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_becomes_values() {
        let found = read("a: [1, 2.5, x]\nb:\n  c: '1'\n  d:\n").unwrap();
        let expected = br#"{"a": [1, 2.5, "x"], "b": {"c": "1", "d": null}}"#;
        assert_eq!(found, Value::from_json(expected).unwrap());
    }

    #[test]
    fn hostile_yaml_is_refused() {
        for (text, expected) in [
            ("", "it is empty"),
            ("a: 1\na: 2", "the key \"a\" is there twice"),
            ("a: &x [1]\nb: *x", "aliases"),
            ("a: 1\n---\nb: 2", "more than one document"),
            ("? [a]\n: b", "a key is not a word"),
            ("a: [1", "line"),
            (&"[".repeat(MAX_DEPTH + 1), "nested too deeply"),
            // The parser has a limit, too.
            (&"[".repeat(10_000), "line 1: recursion limit"),
        ] {
            let message = read(text).unwrap_err();
            assert!(message.contains(expected), "{expected}: {message}");
        }
    }
}
