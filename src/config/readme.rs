//! `configs/README.md`, made of the schema: every key with type, default, meaning and example.

use std::fmt::Write;

use serde_json::Value as Json;

use super::schema::{
    SCHEMA, alternatives, bound_words, example, inline_yaml, properties, tag, type_name, without_null, words,
};

const INTRODUCTION: &str = "\
<!-- Generated from src/config/raw.rs; a test compares the two. -->

# Configuration

A run is one YAML file: `brazier train --config run.yaml`. `brazier check --config run.yaml` says what is wrong with it,
and what follows from it, without opening a device.

* Unknown keys, wrong types and contradictions are errors, and so are options that would have no effect. All of them are
  reported at once, with line and hint.
* `--set train.optimizer.lr=2e-5` changes one key; the value is YAML. `--set train.steps=null` takes a key out. In lists,
  `--set 'data.train[0].path=rows.jsonl'`.
* `${NAME}` and `${NAME:-default}` stand for environment variables; `$${` is a literal `${`.
* Anchors (`&name`, `*name`, `<<: *name`) work. A key with nothing after it counts as left out.
* Relative paths start at the working directory.
* Files of MultiMeditron, axolotl and Hugging Face's trainers are read as they are: [docs/dialects.md](../docs/dialects.md).

Keys of language and vision models have Hugging Face's names.
";

/// The text of `configs/README.md`.
pub fn readme() -> String {
    let mut text = INTRODUCTION.to_owned();
    let (scalars, sections): (Vec<_>, Vec<_>) =
        properties(&SCHEMA).partition(|(_, schema)| type_name(without_null(schema)) != Some("object"));
    let mut rows = Vec::new();
    for (key, schema) in scalars {
        key_rows(key, schema, is_required(&SCHEMA, key), "", &mut rows);
    }
    write_table(&mut text, "the run", "", &rows);
    for (name, schema) in sections {
        let mut rows = Vec::new();
        object_rows(without_null(schema), name, &mut rows);
        write_table(&mut text, &format!("`{name}:`"), description(schema), &rows);
    }
    text
}

struct Row {
    key: String,
    type_name: String,
    default: String,
    meaning: String,
    example: String,
}

fn write_table(text: &mut String, title: &str, introduction: &str, rows: &[Row]) {
    let cell = |content: &str| content.replace('\n', " ").replace('|', "\\|");
    let mut table = format!("\n## {title}\n\n");
    if !introduction.is_empty() {
        table.push_str(&format!("{}\n\n", introduction.replace('\n', " ")));
    }
    table.push_str("| key | type | default | meaning | example |\n|---|---|---|---|---|\n");
    for Row {
        key,
        type_name,
        default,
        meaning,
        example,
    } in rows
    {
        let cells = [
            format!("`{key}`"),
            type_name.clone(),
            default.clone(),
            meaning.clone(),
            example.clone(),
        ];
        let cells: Vec<_> = cells.iter().map(|content| cell(content)).collect();
        table.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    text.push_str(&table);
}

fn is_required(schema: &Json, key: &str) -> bool {
    schema["required"]
        .as_array()
        .is_some_and(|keys| keys.iter().any(|required| required == key))
}

/// The key's own description, or else its type's.
fn description(schema: &Json) -> &str {
    schema["description"]
        .as_str()
        .or_else(|| without_null(schema)["description"].as_str())
        .unwrap_or_default()
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

fn object_rows(schema: &Json, path: &str, rows: &mut Vec<Row>) {
    for (key, property) in properties(schema) {
        key_rows(
            &format!("{path}.{key}"),
            property,
            is_required(schema, key),
            "",
            rows,
        );
    }
}

/// The row of one key and those below it. `condition` says when the key may be written.
fn key_rows(path: &str, property: &Json, required: bool, condition: &str, rows: &mut Vec<Row>) {
    let schema = without_null(property);
    let options = alternatives(schema);
    let of_objects: Vec<_> = options
        .iter()
        .filter(|option| option.get("properties").is_some())
        .cloned()
        .collect();
    let tag = tag(&of_objects);
    let is_mapping = type_name(schema) == Some("object") || tag.is_some();
    let words = words(schema);
    let mut meaning = description(property).to_owned();
    if !condition.is_empty() {
        let _ = write!(meaning, " {condition}");
    }
    for (word, means) in words
        .iter()
        .filter(|(_, means)| !means.is_empty() && of_objects.is_empty())
    {
        let _ = write!(meaning, " `{word}`: {means}");
    }
    let written = match property
        .get("default")
        .filter(|default| !default.is_null() && !is_mapping)
    {
        Some(default) => code(&inline_yaml(default)),
        None if required => "required".to_owned(),
        None => "–".to_owned(),
    };
    let example = if is_mapping || items(schema).is_some() {
        None
    } else {
        example(property)
    };
    rows.push(Row {
        key: path.to_owned(),
        type_name: if is_mapping {
            "mapping".to_owned()
        } else {
            type_words(schema, &of_objects)
        },
        default: written,
        meaning,
        example: example.map_or_else(|| "–".to_owned(), |example| code(&example)),
    });
    match (tag, items(schema)) {
        (Some(tag), _) => tagged_rows(path, tag, options, rows),
        (None, Some(items)) => object_rows(items, &format!("{path}[]"), rows),
        (None, None) => object_rows(schema, path, rows),
    }
}

/// What a list of mappings holds.
fn items(schema: &Json) -> Option<&Json> {
    schema
        .get("items")
        .filter(|items| items.get("properties").is_some())
}

/// The tag with the meaning of its words, then each key once, with the words it goes with.
fn tagged_rows(path: &str, tag: &str, options: &[Json], rows: &mut Vec<Row>) {
    let word = |option: &Json| {
        option["properties"][tag]["const"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let names: Vec<_> = options.iter().map(word).collect();
    let meanings = options
        .iter()
        .map(|option| format!("`{}`: {}", word(option), description(option)));
    rows.push(Row {
        key: format!("{path}.{tag}"),
        type_name: names.iter().map(|name| code(name)).collect::<Vec<_>>().join(", "),
        default: "required".to_owned(),
        meaning: meanings.collect::<Vec<_>>().join(" "),
        example: names.first().map(|name| code(name)).unwrap_or_default(),
    });
    let mut seen = vec![tag];
    for option in options {
        for (key, property) in properties(option) {
            if seen.contains(&key) {
                continue;
            }
            seen.push(key);
            let with: Vec<_> = options
                .iter()
                .filter(|one| one["properties"].get(key).is_some())
                .map(word)
                .collect();
            let condition = match with.len() {
                all if all == options.len() => String::new(),
                _ => format!(
                    "Only with {}.",
                    with.iter().map(|name| code(name)).collect::<Vec<_>>().join(", ")
                ),
            };
            key_rows(
                &format!("{path}.{key}"),
                property,
                is_required(option, key),
                &condition,
                rows,
            );
        }
    }
}

fn type_words(schema: &Json, of_objects: &[Json]) -> String {
    let words: Vec<_> = words(schema).iter().map(|(word, _)| code(word)).collect();
    let keyed = of_objects
        .iter()
        .flat_map(properties)
        .map(|(key, _)| code(&format!("{{{key}: n}}")));
    let listed: Vec<_> = words.into_iter().chain(keyed).collect();
    if !listed.is_empty() {
        return listed.join(", ");
    }
    let name = match type_name(schema) {
        Some("boolean") => "true or false",
        Some("string") => "text",
        Some("integer") => "whole number",
        Some("number") => "number",
        Some("array") if items(schema).is_some() => "list of mappings",
        Some("array") if type_name(&schema["items"]) == Some("string") => "list of texts",
        Some("array") => "list of numbers",
        _ => "mapping",
    };
    let bounds = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]
        .into_iter()
        .filter_map(|word| {
            let bound = schema
                .get(word)
                .filter(|bound| name != "whole number" || bound.as_f64() != Some(0.0))?;
            let bound = bound
                .as_f64()
                .map_or_else(|| bound.to_string(), |bound| bound.to_string());
            Some(format!(", {} {bound}", bound_words(word)))
        });
    format!("{name}{}", bounds.collect::<String>())
}
