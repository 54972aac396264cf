//! Plain text: a file that is one document, or one whose lines are documents. Rows are `{"text": …}`.

use std::{path::Path, sync::Arc};

use bytes::Bytes;

use super::{
    super::{
        error::{DataError, RowProblem},
        value::Value,
    },
    Format, Rows,
    cache::Cache,
    lines::{Lines, find_lines},
};
use crate::fs;

/// Longest document.
const MAX_DOCUMENT_BYTES: u64 = 1 << 30;

/// A file that is one document; it is read when it is asked for, so that a folder may hold many.
pub(super) struct Document {
    path: Arc<Path>,
}

impl Document {
    pub(super) fn open(path: &Path) -> Result<Self, DataError> {
        fs::size_bytes(path)?;
        Ok(Self { path: path.into() })
    }
}

impl Rows for Document {
    fn path(&self) -> &Arc<Path> {
        &self.path
    }

    fn len(&self) -> usize {
        1
    }

    fn read(&self, _index: usize) -> Result<Value, RowProblem> {
        let bytes = fs::read_at_most(&self.path, MAX_DOCUMENT_BYTES);
        row(&bytes.map_err(|error| RowProblem::Source {
            reason: error.to_string(),
        })?)
    }

    fn line(&self, _index: usize) -> usize {
        1
    }

    fn what(&self) -> &'static str {
        Format::Text.name()
    }
}

/// A mapped file whose lines are documents; blank ones are none.
pub(super) struct TextLines {
    path: Arc<Path>,
    bytes: Bytes,
    lines: Lines,
}

impl TextLines {
    pub(super) fn open(path: &Path, bytes: Bytes, cache: &Cache) -> Result<Self, DataError> {
        let lines = Lines::open(path, &bytes, cache, "lines", |found| {
            find_lines(&bytes, found);
            Ok(())
        })?;
        Ok(Self {
            path: path.into(),
            bytes,
            lines,
        })
    }
}

impl Rows for TextLines {
    fn path(&self) -> &Arc<Path> {
        &self.path
    }

    fn len(&self) -> usize {
        self.lines.len()
    }

    fn read(&self, index: usize) -> Result<Value, RowProblem> {
        let line = self.lines.slice(index, &self.bytes);
        let line = line.split(|&byte| byte == b'\n').next().unwrap_or_default();
        row(line.strip_suffix(b"\r").unwrap_or(line))
    }

    fn line(&self, index: usize) -> usize {
        self.lines.line(index).number
    }

    fn what(&self) -> &'static str {
        Format::TextLines.name()
    }
}

fn row(bytes: &[u8]) -> Result<Value, RowProblem> {
    let text = utf8(bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes))?;
    Ok(Value::Object(vec![("text".to_owned(), Value::Text(text))]))
}

/// Text, or where it stops being UTF-8.
pub(super) fn utf8(bytes: &[u8]) -> Result<String, RowProblem> {
    let text = std::str::from_utf8(bytes).map_err(|error| RowProblem::Source {
        reason: format!("not UTF-8 from byte {} on", error.valid_up_to()),
    })?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(rows: &dyn Rows, index: usize) -> String {
        match rows.read(index) {
            Ok(row) => row
                .get("text")
                .and_then(Value::as_text)
                .unwrap_or("no text")
                .to_owned(),
            Err(problem) => problem.to_string(),
        }
    }

    #[test]
    fn a_file_is_a_document_or_many() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        let content = "\u{feff}one\r\n\n  two\n".as_bytes();
        fs::write_durable(&path, content).unwrap();
        let document = Document::open(&path).unwrap();
        assert_eq!(
            (document.len(), read(&document, 0)),
            (1, "one\r\n\n  two\n".into())
        );
        let lines = TextLines::open(&path, content.into(), &Cache::default()).unwrap();
        assert_eq!(
            (lines.len(), read(&lines, 0), read(&lines, 1)),
            (2, "one".into(), "  two".into())
        );
        assert_eq!(lines.line(1), 3);
    }

    #[test]
    fn other_encodings_are_refused() {
        let lines = TextLines::open(
            Path::new("a"),
            Bytes::from_static(b"good\nb\xe4d"),
            &Cache::default(),
        )
        .unwrap();
        assert_eq!(
            [read(&lines, 0), read(&lines, 1)],
            ["good", "not UTF-8 from byte 1 on"]
        );
    }
}
