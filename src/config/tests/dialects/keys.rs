//! Each key of each table: what native key it names, and that no value of it vanishes.

use super::{super::dialect::table_of_tests as tables, *};
use crate::config::schema::{SCHEMA, alternatives, properties, without_null};

/// Whether the schema has a path; what is below a mapping with free keys is there.
fn exists(schema: &serde_json::Value, path: &str) -> bool {
    let schema = without_null(schema);
    if path.is_empty()
        || schema
            .get("additionalProperties")
            .is_some_and(serde_json::Value::is_object)
    {
        return true;
    }
    let (key, rest) = path.split_once('.').unwrap_or((path, ""));
    let name = key.split('[').next().unwrap();
    let of = |schema| {
        properties(schema)
            .find(|(key, _)| *key == name)
            .map(|(_, schema)| schema)
    };
    let mut found = of(schema)
        .into_iter()
        .chain(alternatives(schema).iter().filter_map(of));
    found.any(|schema| {
        let schema = without_null(schema);
        exists(
            if key.contains('[') {
                &schema["items"]
            } else {
                schema
            },
            rest,
        )
    })
}

#[test]
fn every_native_key_of_the_tables_exists() {
    let natives = tables::natives();
    assert!(natives.len() > 40, "{natives:?}");
    let missing: Vec<_> = natives.iter().filter(|path| !exists(&SCHEMA, path)).collect();
    assert!(missing.is_empty(), "the tables name {missing:?}");
    assert!(exists(&SCHEMA, "train.schedule.min_lr") && !exists(&SCHEMA, "train.schedule.min"));
}

#[test]
fn no_key_is_twice_in_a_table() {
    for (title, names) in tables::names_by_table() {
        let mut sorted = names.clone();
        sorted.sort_unstable();
        let before = sorted.len();
        sorted.dedup();
        assert_eq!(before, sorted.len(), "{title}: {names:?}");
    }
}

/// A file with one key, or with the mapping or list that the key is in.
fn one_key(path: &str, value: &str) -> String {
    let mut text = String::new();
    let mut indent = String::new();
    let parts: Vec<&str> = path.split('.').collect();
    for (at, part) in parts.iter().enumerate() {
        let name = part.trim_end_matches("[]");
        let value = if at + 1 == parts.len() {
            format!(" {value}")
        } else {
            String::new()
        };
        text.push_str(&format!("{indent}{name}:{value}\n"));
        indent = indent.replace("- ", "  ") + "  ";
        if part.ends_with("[]") {
            indent.push_str("- ");
        }
    }
    text
}

#[test]
fn no_key_of_any_dialect_vanishes_whatever_its_value() {
    let values = [
        "true", "false", "1", "0.5", "word", "[a, b]", "{a: 1}", "-1", "1e-4", "''", "epoch",
    ];
    let mut seen = 0;
    for dialect in Dialect::ALL {
        for path in tables::paths(dialect) {
            for value in values {
                let text = one_key(&path, value);
                let translated = translate_as(Some(dialect), &text, &[]);
                let written = path.replace("[]", "[0]");
                let about = |key: &str| key.starts_with(&written);
                let report = translated.report.as_ref().unwrap();
                let is_reported = report.lines.iter().any(|line| about(&line.key));
                let is_refused = translated.errors.iter().any(|error| about(&error.key));
                assert!(
                    is_reported || is_refused,
                    "{dialect}: nothing is said of {path} = {value}"
                );
                seen += 1;
            }
        }
    }
    assert!(seen > 4000, "{seen}");
}

#[test]
fn no_key_of_a_deepspeed_file_vanishes() {
    for path in tables::deepspeed_paths() {
        for value in ["true", "auto", "1", "0.5", "[a]", "{a: 1}"] {
            let inner: String = one_key(&path, value)
                .lines()
                .map(|line| format!("    {line}\n"))
                .collect();
            let text = format!("base_model: x\nsequence_len: 8\ndeepspeed:\n{inner}");
            let translated = translate(&text);
            let key = format!("deepspeed.{path}");
            let report = translated.report.as_ref().unwrap();
            let is_reported = report.lines.iter().any(|line| line.key.starts_with(&key));
            let is_refused = translated.errors.iter().any(|error| error.key.starts_with(&key));
            assert!(is_reported || is_refused, "nothing is said of {path} = {value}");
        }
    }
}
