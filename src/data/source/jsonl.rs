//! One JSON object a line. The file stays mapped; of each line, its place is kept.

use std::{path::Path, sync::Arc};

use memmap2::Mmap;

use super::{
    super::{
        error::{DataError, RowProblem},
        value::Value,
    },
    Rows,
};
use crate::fs;

/// A mapped file and the places of its lines that are not blank.
pub(super) struct Jsonl {
    path: Arc<Path>,
    bytes: Mmap,
    lines: Box<[Line]>,
}

/// First byte of a line, and its number from 1. It ends at the next line break.
struct Line {
    start: u64,
    number: usize,
}

impl Jsonl {
    /// Maps a file and finds its lines.
    pub(super) fn open(path: &Path) -> Result<Self, DataError> {
        let bytes = fs::mmap(path)?;
        let mut start = 0;
        let lines = bytes
            .split(|&byte| byte == b'\n')
            .enumerate()
            .filter_map(|(place, line)| {
                let found = Line {
                    start,
                    number: place + 1,
                };
                start += line.len() as u64 + 1;
                (!line.trim_ascii().is_empty()).then_some(found)
            })
            .collect();
        Ok(Self {
            path: path.into(),
            bytes,
            lines,
        })
    }
}

impl Rows for Jsonl {
    fn path(&self) -> &Arc<Path> {
        &self.path
    }

    fn len(&self) -> usize {
        self.lines.len()
    }

    fn read(&self, index: usize) -> Result<Value, RowProblem> {
        let rest = &self.bytes[self.lines[index].start as usize..];
        let end = rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
        Value::from_json(&rest[..end])
    }

    fn line(&self, index: usize) -> usize {
        self.lines[index].number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_keep_their_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        fs::write_durable(&path, b"\n{\"a\": 1}\r\n  \n{\"a\": 2}\n{").unwrap();
        let rows = super::super::open(&path, super::super::Format::Auto).unwrap();
        assert_eq!((rows.len(), rows.path().as_ref()), (3, path.as_path()));
        let read = |index: usize| {
            (
                rows.line(index),
                rows.read(index).unwrap().get("a").and_then(Value::as_int),
            )
        };
        assert_eq!((read(0), read(1)), ((2, Some(1)), (4, Some(2))));
        assert_eq!(rows.line(2), 5);
        assert!(rows.read(2).unwrap_err().to_string().starts_with("column 1: EOF"));
    }
}
