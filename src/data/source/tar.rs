//! WebDataset shards: tar files whose members of one key, one after the other, are a sample. A shard is indexed once
//! and stays mapped.
//!
//! A row is what its members hold. `.json` gives its entries to the row; images stand, each with its bytes, where the JSON names
//! them (in `images`, or wherever else rows have images), or are listed in `images` in the order of the tar; every other member
//! is an entry by its part (`txt`, `cls`, …); `__key__` is the key.

mod index;
mod members;
mod place;

use std::{path::Path, sync::Arc};

use bytes::Bytes;

use index::Index;
pub(super) use index::Sample;
pub(in crate::data) use index::member_name;
pub(super) use members::decode;
pub(in crate::data) use members::{holds_bytes, is_image};
use place::{Image, place_images};

use super::{
    super::{
        error::{DataError, RowProblem},
        value::Value,
    },
    Format, Rows,
    cache::Cache,
    columns,
};

/// A mapped tar file and its samples.
pub(super) struct Shard {
    path: Arc<Path>,
    bytes: Bytes,
    index: Index,
    wanted: Option<Vec<String>>,
}

impl Shard {
    /// Finds the samples of a shard, or takes them from the cache. `wanted` are the entries to read, all if `None`.
    pub(super) fn open(
        path: &Path,
        bytes: Bytes,
        cache: &Cache,
        wanted: Option<&[String]>,
    ) -> Result<Self, DataError> {
        Ok(Self {
            path: path.into(),
            index: index::open(path, &bytes, cache)?,
            bytes,
            wanted: wanted.map(<[String]>::to_vec),
        })
    }

    /// All samples.
    pub(super) fn samples(&self) -> &[Sample] {
        &self.index.samples
    }

    /// Where each sample begins, and where the last one ends: the content of energon's `.tar.idx`.
    pub(super) fn offsets(&self) -> impl Iterator<Item = u64> {
        let starts = self.index.samples.iter().map(|sample| sample.offset);
        starts.chain([self.index.end]).map(|offset| offset as u64)
    }

    /// Content of a member.
    pub(super) fn content(&self, sample: &Sample, part: &str) -> Option<&[u8]> {
        let member = sample.members.iter().find(|member| member.part == part)?;
        self.bytes
            .get(member.start..member.start.checked_add(member.size)?)
    }

    /// The row that a sample is if nothing else is said.
    pub(super) fn row(&self, sample: &Sample) -> Result<Value, RowProblem> {
        let mut entries = vec![("__key__".to_owned(), Value::Text(sample.key.clone()))];
        let mut images = Vec::new();
        for member in &sample.members {
            let bytes = self.content(sample, &member.part).unwrap_or_default();
            if is_image(&member.part) {
                images.push(Image {
                    part: &member.part,
                    bytes,
                });
                continue;
            }
            match decode(&member.part, bytes).map_err(|problem| in_member(sample, &member.part, problem))? {
                Value::Object(inside) if matches!(member.part.as_str(), "json" | "jsn") => {
                    for (name, value) in inside {
                        insert(&mut entries, name, value)?;
                    }
                }
                value => insert(&mut entries, member.part.clone(), value)?,
            }
        }
        place_images(sample, &mut entries, images)?;
        Ok(columns::only(Value::Object(entries), self.wanted.as_deref()))
    }
}

impl Rows for Shard {
    fn path(&self) -> &Arc<Path> {
        &self.path
    }

    fn len(&self) -> usize {
        self.index.samples.len()
    }

    fn read(&self, index: usize) -> Result<Value, RowProblem> {
        self.row(&self.index.samples[index])
    }

    fn line(&self, index: usize) -> usize {
        index + 1
    }

    fn what(&self) -> &'static str {
        Format::WebDataset.name()
    }
}

/// An image in a row: its bytes, and the name it has in the tar.
pub(super) fn image(sample: &Sample, part: &str, bytes: &[u8]) -> Value {
    Value::Object(vec![
        ("bytes".to_owned(), Value::Bytes(bytes.to_vec())),
        ("path".to_owned(), Value::Text(format!("{}.{part}", sample.key))),
    ])
}

fn insert(entries: &mut Vec<(String, Value)>, name: String, value: Value) -> Result<(), RowProblem> {
    match entries.iter().any(|(known, _)| *known == name) {
        true => Err(problem(format!("two members of the sample give {name:?}"))),
        false => {
            entries.push((name, value));
            Ok(())
        }
    }
}

fn in_member(sample: &Sample, part: &str, cause: RowProblem) -> RowProblem {
    problem(format!("{}.{part}: {cause}", sample.key))
}

fn problem(reason: String) -> RowProblem {
    RowProblem::Source { reason }
}

#[cfg(test)]
pub(super) mod tests;
