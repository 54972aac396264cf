//! One JSON object a line. The file stays mapped; of each line, its place is kept.

use std::{path::Path, sync::Arc};

use bytes::Bytes;

use super::{
    super::{
        error::{DataError, RowProblem},
        value::Value,
    },
    Format, Rows,
    cache::Cache,
    columns,
    lines::{Lines, find_lines},
};

/// A mapped file and the places of its lines that are not blank.
pub(super) struct Jsonl {
    path: Arc<Path>,
    bytes: Bytes,
    lines: Lines,
    wanted: Option<Vec<String>>,
}

impl Jsonl {
    /// Finds the lines of a file. `wanted` are the keys to read, all if `None`.
    pub(super) fn open(
        path: &Path,
        bytes: Bytes,
        cache: &Cache,
        wanted: Option<&[String]>,
    ) -> Result<Self, DataError> {
        let lines = Lines::open(path, &bytes, cache, "lines", |found| {
            find_lines(&bytes, found);
            Ok(())
        })?;
        Ok(Self {
            path: path.into(),
            bytes,
            lines,
            wanted: wanted.map(<[String]>::to_vec),
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
        let row = Value::from_json(self.lines.slice(index, &self.bytes).trim_ascii_end())?;
        Ok(columns::only(row, self.wanted.as_deref()))
    }

    fn line(&self, index: usize) -> usize {
        self.lines.line(index).number
    }

    fn what(&self) -> &'static str {
        Format::Jsonl.name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_keep_their_numbers() {
        let bytes = Bytes::from_static(b"\n{\"a\": 1}\r\n  \n{\"a\": 2}\n{");
        let path = Path::new("rows.jsonl");
        let rows = Jsonl::open(path, bytes, &Cache::default(), None).unwrap();
        assert_eq!((rows.len(), rows.path().as_ref()), (3, path));
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
