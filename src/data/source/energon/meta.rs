//! What `energon prepare` wrote into `.nv-meta`: classes and fields, shards of each split, numbers of samples.

use std::{
    collections::{HashMap, HashSet},
    path::{Component, Path},
};

use super::{
    super::{
        super::{error::DataError, value::Value},
        files::{no_split, which_split},
        patterns::braces,
    },
    fields::Field,
    yaml,
};
use crate::fs;

const MAX_BYTES: u64 = 256 << 20;
/// Written by energon for its own loader; the order here is a function of seed and epoch.
const OF_THE_LOADER: &[&str] = &["parallel_shard_iters", "max_samples_per_sequence"];

/// A prepared data set.
#[derive(Debug)]
pub(super) struct Meta {
    pub(super) class: Class,
    pub(super) fields: Vec<Field>,
    pub(super) subflavors: Option<Value>,
    /// Names of the split's shards with their numbers of samples.
    pub(super) shards: Vec<(String, usize)>,
    /// Samples that are left out, as `SHARD/KEY`.
    pub(super) excluded: HashSet<String>,
}

/// What a sample is, and so which row it becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Members as they are.
    Crude,
    /// `image`, `context`, `answers`, `answer_weights`.
    Vqa,
    /// `image`, `caption`.
    Captioning,
    /// `image`, `text`.
    Ocr,
    /// `text`.
    Text,
    /// `image`, `label` or `label_name`.
    ImageClassification,
}

impl Class {
    fn parse(name: &str) -> Option<Self> {
        let name = name
            .strip_suffix("Webdataset")
            .or_else(|| name.strip_suffix("Sample"))?;
        Some(match name {
            "Crude" => Class::Crude,
            "VQA" | "VQAOCR" => Class::Vqa,
            "Captioning" => Class::Captioning,
            "OCR" => Class::Ocr,
            "Text" => Class::Text,
            "ImageClassification" => Class::ImageClassification,
            _ => return None,
        })
    }

    /// Fields that it may have; those that it must have come first, up to the given number.
    fn fields(self) -> (usize, &'static [&'static str]) {
        match self {
            Class::Crude => (0, &[]),
            Class::Vqa => (3, &["image", "context", "answers", "answer_weights"]),
            Class::Captioning => (2, &["image", "caption"]),
            Class::Ocr => (2, &["image", "text"]),
            Class::Text => (1, &["text"]),
            Class::ImageClassification => (1, &["image", "label", "label_name"]),
        }
    }
}

/// Whether a folder was prepared by energon.
pub(in crate::data::source) fn is_prepared(folder: &Path) -> bool {
    fs::is_dir(&folder.join(".nv-meta"))
}

/// Reads what is known of a folder, for one of its splits.
pub(super) fn read(folder: &Path, split: Option<&str>) -> Result<Meta, DataError> {
    let path = folder.join(".nv-meta/dataset.yaml");
    let failed = |reason: String| source(&path, reason);
    let described = document(&path)?;
    let (class, fields) = described_class(&described).map_err(failed)?;
    let (parts, exclude) = splits(folder)?;
    let names = choose(folder, split, parts)?;
    let excluded: HashSet<String> = exclude.into_iter().collect();
    let counts = counts(folder)?;
    let mut shards = Vec::new();
    for name in names.into_iter().filter(|name| !excluded.contains(name)) {
        let folder = folder.join(".nv-meta");
        let count = counts.get(&name);
        let count =
            *count.ok_or_else(|| source(&folder, format!("{name:?} is in a split, but has no count")))?;
        check_name(&name).map_err(|reason| source(&folder, reason))?;
        shards.push((name, count));
    }
    Ok(Meta {
        class,
        fields,
        subflavors: described.get("subflavors").cloned(),
        shards,
        excluded,
    })
}

/// Checks a description that is about to be written.
pub(super) fn check(described: &str) -> Result<(), String> {
    described_class(&yaml::read(described)?).map(drop)
}

fn described_class(described: &Value) -> Result<(Class, Vec<Field>), String> {
    let Value::Object(entries) = described else {
        return Err(format!("is {}, not a mapping", described.kind()));
    };
    let mut class = described.get("__class__").and_then(Value::as_text);
    for (key, value) in entries {
        match key.as_str() {
            "__class__" | "__module__" | "field_map" | "subflavors" | "subflavor" => {}
            "sample_type" => class = value.get("__class__").and_then(Value::as_text),
            "shuffle_over_epochs" if *value == Value::Int(1) => {}
            "sample_loader" | "part_filter" => {
                return Err(format!(
                    "{key} is code in Python, which is not run\n  hint: prepare it with a field_map"
                ));
            }
            key if OF_THE_LOADER.contains(&key) => {}
            key => return Err(format!("{key}: {} is not known here", shown(value))),
        }
    }
    let name = class.ok_or("names no __class__")?;
    let class = Class::parse(name).ok_or_else(|| {
        format!("samples of the class {name} make no row\n  hint: Crude, VQA, Captioning, OCR, Text and ImageClassification do")
    })?;
    let (num_needed, known) = class.fields();
    let mut fields = Vec::new();
    let written = match described.get("field_map") {
        Some(Value::Object(entries)) => entries.as_slice(),
        Some(other) => return Err(format!("field_map is {}, not a mapping", other.kind())),
        None => &[],
    };
    for (name, expression) in written {
        if !known.contains(&name.as_str()) {
            return Err(format!(
                "field_map.{name} is not known here\n  hint: there are {}",
                known.join(", ")
            ));
        }
        let expression = expression
            .as_text()
            .ok_or_else(|| format!("field_map.{name} is not text"))?;
        fields.extend(Field::parse(name, expression)?);
    }
    for name in &known[..num_needed] {
        if !fields.iter().any(|field| field.name == *name) {
            return Err(format!("field_map has no {name}"));
        }
    }
    Ok((class, fields))
}

fn shown(value: &Value) -> String {
    match value {
        Value::Int(number) => number.to_string(),
        Value::Text(text) => format!("{text:?}"),
        other => other.kind().to_owned(),
    }
}

/// Splits with the names of their shards.
type Parts = Vec<(String, Vec<String>)>;

/// Shards of each split, and what is excluded.
fn splits(folder: &Path) -> Result<(Parts, Vec<String>), DataError> {
    let json = folder.join(".nv-meta/split.json");
    let path = if fs::exists(&json) {
        json
    } else {
        folder.join(".nv-meta/split.yaml")
    };
    let failed = |reason: String| source(&path, reason);
    let document = document(&path)?;
    let parts = document.get("split_parts").and_then(Value::as_object);
    let parts = parts.ok_or_else(|| failed("names no split_parts".to_owned()))?;
    let names = |what: &str, value: Option<&Value>| -> Result<Vec<String>, DataError> {
        let mut found = Vec::new();
        for name in value.and_then(Value::as_list).unwrap_or_default() {
            let name = name
                .as_text()
                .ok_or_else(|| failed(format!("{what} holds {}, not a name", name.kind())))?;
            found.extend(braces(name).map_err(failed)?);
        }
        Ok(found)
    };
    let parts: Result<Vec<_>, DataError> = parts
        .iter()
        .map(|(split, value)| Ok((split.clone(), names(split, Some(value))?)))
        .collect();
    Ok((parts?, names("exclude", document.get("exclude"))?))
}

/// The shards of a split. Without a word, of the only one that has any.
fn choose(folder: &Path, split: Option<&str>, parts: Parts) -> Result<Vec<String>, DataError> {
    let used: Vec<String> = parts
        .iter()
        .filter(|(_, shards)| !shards.is_empty())
        .map(|(name, _)| name.clone())
        .collect();
    let split = match (split, &used[..]) {
        (Some(split), _) => split,
        (None, [only]) => only,
        (None, _) => return Err(which_split(folder, &used)),
    };
    let found = parts
        .into_iter()
        .find(|(name, shards)| name == split && !shards.is_empty());
    found
        .map(|(_, shards)| shards)
        .ok_or_else(|| no_split(folder, split, &used))
}

/// Samples of each shard: `.info.json` from energon 7 on, `.info.yaml` before.
fn counts(folder: &Path) -> Result<HashMap<String, usize>, DataError> {
    let json = folder.join(".nv-meta/.info.json");
    let path = if fs::exists(&json) {
        json
    } else {
        folder.join(".nv-meta/.info.yaml")
    };
    let document = document(&path)?;
    let counts = document.get("shard_counts").and_then(Value::as_object);
    let counts = counts.and_then(|counts| {
        let count =
            |(name, count): &(String, Value)| Some((name.clone(), usize::try_from(count.as_int()?).ok()?));
        counts.iter().map(count).collect()
    });
    counts.ok_or_else(|| source(&path, "names no shard_counts".to_owned()))
}

/// A shard is a tar inside the folder.
fn check_name(name: &str) -> Result<(), String> {
    let inside = Path::new(name)
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    if !inside {
        return Err(format!("the shard {name:?} leads out of the folder: refused"));
    }
    if name.ends_with(".tgz") || name.ends_with(".gz") {
        return Err(format!(
            "the shard {name:?} is compressed\n  hint: unpack it and prepare the folder again"
        ));
    }
    Ok(())
}

fn document(path: &Path) -> Result<Value, DataError> {
    let bytes = fs::read_at_most(path, MAX_BYTES)?;
    if path.extension().is_some_and(|extension| extension == "json") {
        return Value::from_json(&bytes).map_err(|problem| source(path, problem.to_string()));
    }
    let text = std::str::from_utf8(&bytes).map_err(|error| source(path, error.to_string()))?;
    yaml::read(text).map_err(|reason| source(path, reason))
}

fn source(path: &Path, reason: String) -> DataError {
    DataError::Source {
        path: path.into(),
        reason,
    }
}
