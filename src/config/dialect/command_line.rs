//! Commands and scripts as configurations: the flags behind the Python file that they start.

use std::sync::Arc;

use crate::config::{
    error::{ConfigError, Location},
    tree::{Entry, Node, Value},
    yaml,
};

/// A word of a command, and its line.
struct Word {
    text: String,
    line: usize,
}

/// Whether a text is a command with flags rather than YAML.
pub(super) fn is_command(text: &str) -> bool {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let words: Vec<&str> = lines.flat_map(str::split_whitespace).collect();
    let starts_with_flag = words.first().is_some_and(|word| is_flag(word));
    let starts_python = words.iter().any(|word| word.ends_with(".py"));
    words.iter().any(|word| is_flag(word)) && (starts_with_flag || starts_python)
}

/// The flags as a mapping: `--name value`, `--name=value`; a flag without a value is true, one with several is a list.
///
/// # Errors
/// A quote without its end, a value without a flag, a flag that is there twice, a variable that is not set.
pub(super) fn parse(
    file: &Arc<str>,
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Node, Vec<ConfigError>> {
    let at = |line: usize| Location::Line {
        file: file.clone(),
        line,
        column: 1,
    };
    let words = words(text).map_err(|line| vec![error(&at(line), "", "a quote without its end")])?;
    // What is before the script belongs to launchers; what is behind the command is another one.
    let script = words.iter().rposition(|word| word.text.ends_with(".py"));
    let mut words = words
        .into_iter()
        .skip(script.map_or(0, |script| script + 1))
        .peekable();
    let mut entries: Vec<Entry> = Vec::new();
    let mut errors = Vec::new();
    while let Some(word) = words.next() {
        if ["\n", ";", "&&", "|", ">"].contains(&word.text.as_str()) {
            if script.is_some() && !entries.is_empty() {
                break;
            }
            continue;
        }
        if !is_flag(&word.text) {
            errors.push(error(
                &at(word.line),
                &word.text,
                "a word without a flag before it",
            ));
            continue;
        }
        let (name, value) = match word.text.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (word.text.clone(), None),
        };
        let mut values: Vec<String> = value.into_iter().collect();
        while values.is_empty() || !word.text.contains('=') {
            match words.next_if(|next| !is_flag(&next.text) && !is_end(&next.text)) {
                Some(next) => values.push(next.text),
                None => break,
            }
        }
        let key = name.trim_start_matches('-').to_owned();
        let location = at(word.line);
        if entries.iter().any(|entry| entry.key == key) {
            errors.push(error(&location, &key, "written twice"));
            continue;
        }
        match node(&values, &location, env) {
            Ok(node) => entries.push(Entry {
                key,
                at: location,
                node,
            }),
            Err(wrong) => errors.extend(wrong.into_iter().map(|error| ConfigError {
                key: key.clone(),
                ..error
            })),
        }
    }
    match errors.is_empty() {
        true => Ok(Node {
            value: Value::Map(entries),
            at: at(1),
        }),
        false => Err(errors),
    }
}

fn node(
    values: &[String],
    at: &Location,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Node, Vec<ConfigError>> {
    let one = |text: &String| {
        let plain = yaml::read(text, env, &|_| at.clone());
        let is_scalar = |node: &Node| !matches!(node.value, Value::List(_) | Value::Map(_) | Value::Null);
        match plain {
            Ok(node) if is_scalar(&node) => Ok(node),
            Err(errors) if text.contains("${") => Err(errors),
            // What YAML would take for something else is a word.
            _ => Ok(Node {
                value: Value::String(text.clone()),
                at: at.clone(),
            }),
        }
    };
    match values {
        [] => Ok(Node {
            value: Value::Bool(true),
            at: at.clone(),
        }),
        [value] => one(value),
        several => {
            let items: Result<Vec<_>, _> = several.iter().map(one).collect();
            Ok(Node {
                value: Value::List(items?),
                at: at.clone(),
            })
        }
    }
}

fn is_flag(word: &str) -> bool {
    let name = word.strip_prefix("--").or_else(|| word.strip_prefix('-'));
    name.is_some_and(|name| name.starts_with(|c: char| c.is_ascii_alphabetic()))
}

fn is_end(word: &str) -> bool {
    ["\n", ";", "&&", "|", ">"].contains(&word)
}

/// Words as a shell makes them of a text: quotes, comments, `\` before the end of a line. The end of a line is a word of
/// its own. Otherwise the line of the quote without an end.
fn words(text: &str) -> Result<Vec<Word>, usize> {
    let mut words = Vec::new();
    let mut current: Option<Word> = None;
    let mut line = 1;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' if chars.next_if_eq(&'\n').is_some() => line += 1,
            '\\' => push(&mut current, line, chars.next().unwrap_or('\\')),
            '#' if current.is_none() => while chars.next_if(|next| *next != '\n').is_some() {},
            '\'' | '"' => {
                let start = line;
                current.get_or_insert(Word {
                    text: String::new(),
                    line,
                });
                loop {
                    match chars.next() {
                        Some(end) if end == c => break,
                        Some(inside) => {
                            line += usize::from(inside == '\n');
                            push(&mut current, line, inside);
                        }
                        None => return Err(start),
                    }
                }
            }
            '\n' => {
                words.extend(current.take());
                words.push(Word {
                    text: "\n".to_owned(),
                    line,
                });
                line += 1;
            }
            c if c.is_whitespace() => words.extend(current.take()),
            ';' => {
                words.extend(current.take());
                words.push(Word {
                    text: ";".to_owned(),
                    line,
                });
            }
            c => push(&mut current, line, c),
        }
    }
    words.extend(current);
    Ok(words)
}

fn push(current: &mut Option<Word>, line: usize, c: char) {
    let text = String::new();
    current.get_or_insert(Word { text, line }).text.push(c);
}

fn error(at: &Location, key: &str, reason: &str) -> ConfigError {
    ConfigError {
        at: at.clone(),
        key: key.to_owned(),
        value: None,
        reason: reason.to_owned(),
        hint: None,
    }
}
