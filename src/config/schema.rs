//! Compares what was written with the schema of the raw types, and finds everything that is wrong at once.
//!
//! serde stops at the first error and does not know lines. What passes here, serde accepts.

use std::sync::LazyLock;

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value as Json};

use super::{
    error::{ConfigError, Location, closest, one_of},
    raw::RawConfig,
    tree::{Node, Value, join},
};

/// Most of anything that is counted: counts are multiplied with each other.
const MAX_COUNT: f64 = u32::MAX as f64;

/// The native schema with every type in place, so that nothing needs `$ref`.
pub(super) static SCHEMA: LazyLock<Json> = LazyLock::new(schema_of::<RawConfig>);

fn schema_of<T: JsonSchema>() -> Json {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

/// The tree as JSON for serde. A key with nothing after it counts as left out.
///
/// # Errors
/// Every unknown key, wrong type, value out of bounds, unknown word and missing key.
pub(super) fn check(root: &Node) -> Result<Json, Vec<ConfigError>> {
    let mut walk = Walk { errors: Vec::new() };
    let json = walk.value(&SCHEMA, root, "");
    if walk.errors.is_empty() {
        Ok(json)
    } else {
        Err(walk.errors)
    }
}

/// A schema without the `null` that `Option` adds.
pub(super) fn without_null(schema: &Json) -> &Json {
    match alternatives(schema) {
        [inner, null] if null["type"] == "null" => inner,
        _ => schema,
    }
}

/// What `oneOf` or `anyOf` offers; empty if the schema is one thing.
pub(super) fn alternatives(schema: &Json) -> &[Json] {
    let list = schema
        .get("oneOf")
        .or_else(|| schema.get("anyOf"))
        .and_then(Json::as_array);
    list.map_or(&[], Vec::as_slice)
}

/// The words a schema allows, if it allows words from a list; with the meaning of each.
pub(super) fn words(schema: &Json) -> Vec<(&str, &str)> {
    let described = alternatives(schema).iter().filter_map(|alternative| {
        Some((
            alternative["const"].as_str()?,
            alternative["description"].as_str().unwrap_or_default(),
        ))
    });
    let bare = schema["enum"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|word| Some((word.as_str()?, "")));
    described
        .chain(bare)
        .chain(schema["const"].as_str().map(|word| (word, "")))
        .collect()
}

/// The type's name in JSON Schema, `null` left out.
pub(super) fn type_name(schema: &Json) -> Option<&str> {
    match &schema["type"] {
        Json::String(name) => Some(name),
        Json::Array(names) => names.iter().filter_map(Json::as_str).find(|name| *name != "null"),
        _ => None,
    }
}

/// Keys of an object's schema.
pub(super) fn properties(schema: &Json) -> impl Iterator<Item = (&str, &Json)> {
    schema["properties"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, schema)| (key.as_str(), schema))
}

/// The key whose word says which alternative is meant (`name`, `kind`).
pub(super) fn tag(alternatives: &[Json]) -> Option<&str> {
    let mut tags = alternatives.iter().map(|alternative| {
        properties(alternative)
            .find(|(_, schema)| schema.get("const").is_some())
            .map(|(key, _)| key)
    });
    let first = tags.next()??;
    tags.all(|tag| tag == Some(first)).then_some(first)
}

fn is_required(schema: &Json, key: &str) -> bool {
    schema["required"]
        .as_array()
        .is_some_and(|keys| keys.iter().any(|required| required == key))
}

struct Walk {
    errors: Vec<ConfigError>,
}

impl Walk {
    fn refuse(
        &mut self,
        at: &Location,
        key: &str,
        value: Option<String>,
        reason: String,
        hint: Option<String>,
    ) {
        self.errors.push(ConfigError {
            at: at.clone(),
            key: key.to_owned(),
            value,
            reason,
            hint,
        });
    }

    fn value(&mut self, schema: &Json, node: &Node, path: &str) -> Json {
        let schema = without_null(schema);
        if !words(schema).is_empty() || !alternatives(schema).is_empty() {
            return self.variant(schema, node, path);
        }
        if let Some(names) = schema["type"].as_array().filter(|names| names.len() > 2) {
            return self.scalar(names, node, path);
        }
        match (type_name(schema), &node.value) {
            (Some("object"), Value::Map(_)) if schema["additionalProperties"].is_object() => {
                self.map(&schema["additionalProperties"], node, path)
            }
            (Some("object"), Value::Map(_)) => self.object(schema, node, path, None),
            (Some("array"), Value::List(items)) => self.array(schema, node, items, path),
            (Some("boolean"), Value::Bool(value)) => (*value).into(),
            (Some("string"), Value::String(value)) => value.clone().into(),
            // A folder named 2024 or a token that looks like a number is still a word.
            (Some("string"), Value::Integer(value)) => value.to_string().into(),
            (Some("integer"), Value::Integer(value)) => {
                self.bounds(schema, node, path, *value as f64);
                (*value).into()
            }
            // 1e3 is how people write a thousand.
            (Some("integer"), Value::Float(value)) if value.fract() == 0.0 && value.abs() < 2f64.powi(53) => {
                self.bounds(schema, node, path, *value);
                (*value as i64).into()
            }
            (Some("number"), Value::Integer(value)) => {
                self.bounds(schema, node, path, *value as f64);
                (*value).into()
            }
            (Some("number"), Value::Float(value)) if value.is_finite() => {
                self.bounds(schema, node, path, *value);
                (*value).into()
            }
            (Some("number" | "integer"), Value::Float(value)) if !value.is_finite() => {
                self.refuse(&node.at, path, node.text(), "is too large".to_owned(), None);
                Json::Null
            }
            (expected, _) => {
                let expected = article(expected.unwrap_or("value"));
                let reason = format!("expected {expected}, got {}", node.kind());
                self.refuse(&node.at, path, node.text(), reason, None);
                Json::Null
            }
        }
    }

    /// A value of one of several types.
    fn scalar(&mut self, names: &[Json], node: &Node, path: &str) -> Json {
        match &node.value {
            Value::Bool(value) => (*value).into(),
            Value::Integer(value) => (*value).into(),
            Value::Float(value) if value.is_finite() => (*value).into(),
            Value::String(value) => value.clone().into(),
            _ => {
                let names: Vec<_> = names.iter().filter_map(Json::as_str).map(article).collect();
                let reason = format!("expected {}, got {}", one_of(&names), node.kind());
                self.refuse(&node.at, path, node.text(), reason, None);
                Json::Null
            }
        }
    }

    /// A mapping whose keys are the user's.
    fn map(&mut self, schema: &Json, node: &Node, path: &str) -> Json {
        let entries = node.entries().iter();
        let written = entries.filter(|entry| !matches!(entry.node.value, Value::Null));
        let values = written.map(|entry| {
            let value = self.value(schema, &entry.node, &join(path, &entry.key));
            (entry.key.clone(), value)
        });
        Json::Object(values.collect())
    }

    fn bounds(&mut self, schema: &Json, node: &Node, path: &str, value: f64) {
        if schema["format"] == "uint" && value > MAX_COUNT {
            let reason = format!("must be at most {MAX_COUNT}");
            self.refuse(&node.at, path, node.text(), reason, None);
        }
        for (word, holds) in [
            ("minimum", (|value, bound| value >= bound) as fn(f64, f64) -> bool),
            ("maximum", |value, bound| value <= bound),
            ("exclusiveMinimum", |value, bound| value > bound),
            ("exclusiveMaximum", |value, bound| value < bound),
        ] {
            if let Some(bound) = schema[word].as_f64().filter(|bound| !holds(value, *bound)) {
                let reason = format!("must be {} {bound}", bound_words(word));
                self.refuse(&node.at, path, node.text(), reason, None);
            }
        }
    }

    fn array(&mut self, schema: &Json, node: &Node, items: &[Node], path: &str) -> Json {
        if let Some(length) = schema["minItems"]
            .as_u64()
            .filter(|length| items.len() as u64 != *length)
        {
            let reason = format!("expected a list of {length}, got {}", items.len());
            self.refuse(&node.at, path, None, reason, None);
        }
        let items = items.iter().enumerate();
        items
            .map(|(index, item)| self.value(&schema["items"], item, &format!("{path}[{index}]")))
            .collect()
    }

    /// `others` are the alternatives that were not chosen, with the key that would choose them.
    fn object(&mut self, schema: &Json, node: &Node, path: &str, others: Option<(&str, &[Json])>) -> Json {
        let mut object = Map::new();
        for entry in node.entries() {
            let path = join(path, &entry.key);
            match schema["properties"].get(&entry.key) {
                Some(_) if matches!(entry.node.value, Value::Null) => {}
                Some(property) => {
                    object.insert(entry.key.clone(), self.value(property, &entry.node, &path));
                }
                None => {
                    let (reason, hint) = unknown_key(schema, &entry.key, &path, others);
                    self.refuse(&entry.at, &path, entry.node.text(), reason, hint);
                }
            }
        }
        for (key, property) in properties(schema) {
            let missing = node
                .find(key)
                .is_none_or(|node| matches!(node.value, Value::Null));
            if missing && is_required(schema, key) {
                let path = join(path, key);
                let hint = example(property).map(|example| format!("for example {path}: {example}"));
                self.refuse(&node.at, &path, None, "is missing".to_owned(), hint);
            }
        }
        Json::Object(object)
    }

    fn variant(&mut self, schema: &Json, node: &Node, path: &str) -> Json {
        let words: Vec<_> = words(schema).into_iter().map(|(word, _)| word).collect();
        let objects: Vec<_> = alternatives(schema)
            .iter()
            .filter(|one| one.get("properties").is_some())
            .cloned()
            .collect();
        match &node.value {
            // `f32` and `none` are words, but `0.9` or `true` written for one reads better as it stands.
            Value::Map(_) if !objects.is_empty() => match tag(&objects) {
                Some(tag) => self.tagged(tag, &objects, node, path),
                None => self.keyed(&objects, node, path),
            },
            Value::String(word) if words.contains(&word.as_str()) => word.clone().into(),
            _ => {
                let mut expected: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
                expected.extend(objects.iter().map(|one| match tag(std::slice::from_ref(one)) {
                    Some(tag) => format!(
                        "{{{tag}: {}, …}}",
                        one["properties"][tag]["const"].as_str().unwrap_or("…")
                    ),
                    None => properties(one).map(|(key, _)| format!("{{{key}: …}}")).collect(),
                }));
                let expected: Vec<_> = expected.iter().map(String::as_str).collect();
                let reason = format!("expected {}", one_of(&expected));
                let text = node.text();
                let hint = meant_variant(node, &words, &objects);
                self.refuse(&node.at, path, text, reason, hint);
                Json::Null
            }
        }
    }

    /// Alternatives told apart by a key: `{name: cosine, …}`.
    fn tagged(&mut self, tag: &str, objects: &[Json], node: &Node, path: &str) -> Json {
        let word_of = |one: &Json| {
            one["properties"][tag]["const"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        };
        let names: Vec<_> = objects.iter().map(word_of).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let path_of_tag = join(path, tag);
        let Some(chosen) = node.find(tag) else {
            let reason = format!("is missing; it is {}", one_of(&names));
            self.refuse(&node.at, &path_of_tag, None, reason, None);
            return Json::Null;
        };
        let word = chosen.text().unwrap_or_default();
        let Some(index) = names.iter().position(|name| *name == word) else {
            let hint = closest(&word, names.iter().copied()).map(|name| format!("did you mean {name}?"));
            self.refuse(
                &chosen.at,
                &path_of_tag,
                chosen.text(),
                format!("expected {}", one_of(&names)),
                hint,
            );
            return Json::Null;
        };
        self.object(&objects[index], node, path, Some((tag, objects)))
    }

    /// Alternatives told apart by their one key: `{steps: 100}`.
    fn keyed(&mut self, objects: &[Json], node: &Node, path: &str) -> Json {
        let keys: Vec<_> = objects.iter().flat_map(properties).map(|(key, _)| key).collect();
        let written: Vec<_> = node
            .entries()
            .iter()
            .filter(|entry| !matches!(entry.node.value, Value::Null))
            .collect();
        for entry in &written {
            if !keys.contains(&entry.key.as_str()) {
                let path = join(path, &entry.key);
                let hint =
                    closest(&entry.key, keys.iter().copied()).map(|key| format!("did you mean {key}?"));
                self.refuse(
                    &entry.at,
                    &path,
                    entry.node.text(),
                    format!("unknown key; expected {}", one_of(&keys)),
                    hint,
                );
            }
        }
        match written.as_slice() {
            [one] => {
                let chosen = objects
                    .iter()
                    .find(|object| object["properties"].get(&one.key).is_some());
                chosen.map_or(Json::Null, |schema| self.object(schema, node, path, None))
            }
            _ => {
                let reason = format!("expected one of {}, got {}", one_of(&keys), written.len());
                self.refuse(&node.at, path, None, reason, None);
                Json::Null
            }
        }
    }
}

/// What was meant by something that is none of these words and mappings.
fn meant_variant(node: &Node, words: &[&str], objects: &[Json]) -> Option<String> {
    let text = node.text()?;
    let mut constants = objects.iter().filter_map(|one| {
        let tag = tag(std::slice::from_ref(one))?;
        Some((tag, one["properties"][tag]["const"].as_str()?))
    });
    if let Some((tag, word)) = constants.find(|(_, word)| *word == text) {
        return Some(format!("write {{{tag}: {word}}}"));
    }
    if let (Value::Integer(value), Some((key, _))) = (&node.value, objects.iter().flat_map(properties).next())
    {
        return Some(format!("write {{{key}: {value}}}"));
    }
    closest(&text, words.iter().copied()).map(|word| format!("did you mean {word}?"))
}

/// Why a key is not known, and which one was meant: a neighbour of similar spelling, a key of another
/// alternative, or one of the same name elsewhere.
fn unknown_key(
    schema: &Json,
    key: &str,
    path: &str,
    others: Option<(&str, &[Json])>,
) -> (String, Option<String>) {
    let reason = "unknown key".to_owned();
    let parent = path.strip_suffix(key).unwrap_or_default();
    if let Some((tag, objects)) = others {
        let with = objects
            .iter()
            .filter(|object| object["properties"].get(key).is_some());
        let with: Vec<_> = with
            .filter_map(|object| object["properties"][tag]["const"].as_str())
            .collect();
        if !with.is_empty() {
            return (reason, Some(format!("{key} belongs to {tag}: {}", one_of(&with))));
        }
    }
    if let Some(neighbour) = closest(key, properties(schema).map(|(key, _)| key)) {
        return (reason, Some(format!("did you mean {parent}{neighbour}?")));
    }
    let mut elsewhere = Vec::new();
    places_of(key, &SCHEMA, "", &mut elsewhere);
    elsewhere.dedup();
    let depth = |path: &str| path.split('.').count();
    let least = elsewhere.iter().map(|path| depth(path)).min();
    let elsewhere: Vec<_> = elsewhere
        .iter()
        .map(String::as_str)
        .filter(|path| Some(depth(path)) == least)
        .collect();
    if !elsewhere.is_empty() {
        return (reason, Some(format!("did you mean {}?", one_of(&elsewhere))));
    }
    let known: Vec<_> = properties(schema).map(|(key, _)| key).collect();
    (
        reason,
        (!known.is_empty()).then(|| format!("the keys here are {}", known.join(", "))),
    )
}

/// Paths of all keys named `key`.
fn places_of(key: &str, schema: &Json, path: &str, places: &mut Vec<String>) {
    let schema = without_null(schema);
    for (name, property) in properties(schema) {
        let path = join(path, name);
        if name == key && property.get("const").is_none() {
            places.push(path.clone());
        }
        places_of(key, property, &path, places);
    }
    if let Some(items) = schema.get("items") {
        places_of(key, items, &format!("{path}[0]"), places);
    }
    alternatives(schema)
        .iter()
        .for_each(|one| places_of(key, one, path, places));
}

/// The example of a key as YAML.
pub(super) fn example(schema: &Json) -> Option<String> {
    match schema["examples"]
        .as_array()
        .and_then(|examples| examples.first())
    {
        Some(example) => Some(inline_yaml(example)),
        None => {
            let words = words(without_null(schema));
            let other = words.iter().find(|(word, _)| schema["default"] != *word);
            other.or(words.first()).map(|(word, _)| (*word).to_owned())
        }
    }
}

/// A value on one line.
pub(super) fn inline_yaml(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        Json::Array(items) => format!(
            "[{}]",
            items.iter().map(inline_yaml).collect::<Vec<_>>().join(", ")
        ),
        Json::Object(entries) => {
            let entries = entries
                .iter()
                .map(|(key, value)| format!("{key}: {}", inline_yaml(value)));
            format!("{{{}}}", entries.collect::<Vec<_>>().join(", "))
        }
        // As people write it: 1e-5 rather than 0.00001.
        Json::Number(number) if number.is_f64() => format!("{:?}", number.as_f64().unwrap_or_default()),
        other => other.to_string(),
    }
}

/// `minimum` in words.
pub(super) fn bound_words(word: &str) -> &'static str {
    match word {
        "minimum" => "at least",
        "maximum" => "at most",
        "exclusiveMinimum" => "more than",
        _ => "less than",
    }
}

fn article(type_name: &str) -> &'static str {
    match type_name {
        "object" => "a mapping",
        "array" => "a list",
        "boolean" => "true or false",
        "string" => "text",
        "integer" => "a whole number",
        "number" => "a number",
        _ => "a value",
    }
}
