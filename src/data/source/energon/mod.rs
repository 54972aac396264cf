//! Data sets of megatron-energon: tar shards with `.nv-meta` beside them, which says what a sample is and which
//! shards a split has. A sample becomes a row by its class: `VQASample` gives `image`, `question` and `answer`,
//! `CaptioningSample` the same with an empty question, `CrudeSample` what WebDataset gives.

mod blend;
mod fields;
mod meta;
mod prepare;
#[cfg(test)]
mod tests;
mod yaml;

use std::{path::Path, sync::Arc};

use meta::{Class, Meta};
use sha2::{Digest, Sha256};

pub(super) use blend::is_blend;
pub(super) use meta::is_prepared;
pub(in crate::data) use prepare::write_index;
pub use prepare::{PrepareOptions, Prepared, SplitChoice, prepare};

use super::{
    super::{
        error::{DataError, RowProblem},
        value::Value,
    },
    Format, Rows,
    cache::Cache,
    columns,
    held::hold,
    tar::{Sample, Shard},
};

/// Samples of one shard.
struct EnergonShard {
    shard: Shard,
    /// Samples that are not excluded.
    kept: Vec<usize>,
    meta: Arc<Meta>,
    wanted: Option<Vec<String>>,
}

/// Opens a prepared folder, or a file that joins several.
pub(super) fn open(
    path: &Path,
    split: Option<&str>,
    wanted: Option<&[String]>,
    cache: &Cache,
) -> Result<Vec<Box<dyn Rows>>, DataError> {
    if !is_blend(path) {
        return open_folder(path, split, wanted, cache);
    }
    let mut shards = Vec::new();
    for (folder, split) in blend::read(path, split)? {
        shards.extend(open_folder(&folder, Some(&split), wanted, cache)?);
    }
    Ok(shards)
}

fn open_folder(
    folder: &Path,
    split: Option<&str>,
    wanted: Option<&[String]>,
    cache: &Cache,
) -> Result<Vec<Box<dyn Rows>>, DataError> {
    let meta = Arc::new(meta::read(folder, split)?);
    let mut shards: Vec<Box<dyn Rows>> = Vec::with_capacity(meta.shards.len());
    for (name, count) in &meta.shards {
        let path = folder.join(name);
        let shard = Shard::open(&path, hold(&path, cache)?, cache, None)?;
        if shard.len() != *count {
            return Err(DataError::Source {
                path,
                reason: format!(
                    "has {} samples, but {count} when it was prepared\n  hint: run energon prepare again",
                    shard.len()
                ),
            });
        }
        let is_kept = |index: &usize| {
            !meta
                .excluded
                .contains(&format!("{name}/{}", shard.samples()[*index].key))
        };
        shards.push(Box::new(EnergonShard {
            kept: (0..shard.len()).filter(is_kept).collect(),
            shard,
            meta: meta.clone(),
            wanted: wanted.map(<[String]>::to_vec),
        }));
    }
    Ok(shards)
}

impl Rows for EnergonShard {
    fn path(&self) -> &Arc<Path> {
        self.shard.path()
    }

    fn len(&self) -> usize {
        self.kept.len()
    }

    fn read(&self, index: usize) -> Result<Value, RowProblem> {
        let sample = &self.shard.samples()[self.kept[index]];
        let mut row = match self.meta.class {
            Class::Crude => self.shard.row(sample)?,
            class => self.classified(class, sample)?,
        };
        if let (Value::Object(entries), Some(subflavors)) = (&mut row, &self.meta.subflavors) {
            entries.push(("__subflavors__".to_owned(), subflavors.clone()));
        }
        Ok(columns::only(row, self.wanted.as_deref()))
    }

    fn line(&self, index: usize) -> usize {
        self.kept[index] + 1
    }

    fn what(&self) -> &'static str {
        Format::Energon.name()
    }
}

impl EnergonShard {
    fn classified(&self, class: Class, sample: &Sample) -> Result<Value, RowProblem> {
        let mut entries = vec![("__key__".to_owned(), Value::Text(sample.key.clone()))];
        let mut weights = None;
        for field in &self.meta.fields {
            // Megatron-VLM marks samples without image so, and feeds it a blank one.
            if field.name == "image" && sample.key.contains("-noimage") {
                continue;
            }
            let value = field.read(&self.shard, sample)?;
            match field.name.as_str() {
                "answer_weights" => weights = Some(value),
                name => entries.push((row_name(class, name).to_owned(), value)),
            }
        }
        if class == Class::Captioning || class == Class::Ocr {
            entries.push(("question".to_owned(), Value::Text(String::new())));
        }
        if let Some((_, answer)) = entries.iter_mut().find(|(name, _)| name == "answer") {
            *answer = one_answer(answer, weights.as_ref(), &sample.key)?;
        }
        Ok(Value::Object(entries))
    }
}

/// The name in a row of a field of a sample.
fn row_name(class: Class, field: &str) -> &str {
    match (class, field) {
        (Class::Vqa, "context") => "question",
        (Class::Vqa, "answers") | (Class::Captioning, "caption") | (Class::Ocr, "text") => "answer",
        (_, "label_name") => "label",
        (_, other) => other,
    }
}

/// Of several answers, one, drawn by weight from the sample's key: the same whenever the row is read.
fn one_answer(answers: &Value, weights: Option<&Value>, key: &str) -> Result<Value, RowProblem> {
    let failed = |reason: &str| RowProblem::Source {
        reason: format!("{reason} in the sample {key:?}"),
    };
    let Value::List(answers) = answers else {
        return Ok(answers.clone());
    };
    let weights: Vec<f64> = match weights {
        None => vec![1.0; answers.len()],
        Some(weights) => {
            let number = |weight: &Value| match *weight {
                Value::Int(number) => Some(number as f64),
                Value::Float(number) => Some(number),
                _ => None,
            };
            let weights: Option<Vec<f64>> = weights
                .as_list()
                .and_then(|list| list.iter().map(number).collect());
            weights.ok_or_else(|| failed("answer_weights is no list of numbers"))?
        }
    };
    let total: f64 = weights.iter().sum();
    let usable = weights.iter().all(|&weight| weight >= 0.0) && total > 0.0 && total.is_finite();
    if weights.len() != answers.len() || !usable {
        return Err(failed("answers and answer_weights do not fit"));
    }
    let hash = Sha256::digest(key.as_bytes());
    let drawn = hash
        .iter()
        .take(8)
        .fold(0_u64, |number, &byte| number << 8 | u64::from(byte));
    let mut left = drawn as f64 / 2.0_f64.powi(64) * total;
    let mut chosen = None;
    for (answer, weight) in answers.iter().zip(&weights) {
        if *weight > 0.0 {
            chosen = Some(answer);
            if left < *weight {
                break;
            }
        }
        left -= weight;
    }
    chosen.cloned().ok_or_else(|| failed("there is no answer"))
}
