//! Where rows come from. Every source gives rows by number, whatever holds them, so that any of them can be read again.

mod jsonl;

use std::{fmt, path::Path, sync::Arc};

use super::{
    error::{DataError, RowProblem},
    value::Value,
};

/// Rows of a file, or of a folder that is one thing.
pub(super) trait Rows: Send + Sync {
    /// The file or folder. Paths in rows are relative to the folder of a file, and to a folder itself.
    fn path(&self) -> &Arc<Path>;

    /// Number of rows.
    fn len(&self) -> usize;

    /// The row; `index < len()`. May be called by several threads at once.
    fn read(&self, index: usize) -> Result<Value, RowProblem>;

    /// Number of the row for messages, from 1; the line, where there are lines.
    fn line(&self, index: usize) -> usize;
}

/// What holds the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// By the name of the file, or by what is in the folder.
    #[default]
    Auto,
    /// One JSON object a line.
    Jsonl,
}

impl Format {
    /// What a path holds, by its name.
    fn of(path: &Path) -> Option<Self> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        match extension.as_str() {
            "jsonl" | "ndjson" | "json" => Some(Format::Jsonl),
            _ => None,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Auto => "auto",
            Format::Jsonl => "jsonl",
        })
    }
}

/// Opens a file or folder of rows.
///
/// # Errors
/// If it cannot be read, or does not say what it holds.
pub(super) fn open(path: &Path, format: Format) -> Result<Box<dyn Rows>, DataError> {
    let format = match format {
        Format::Auto => Format::of(path).ok_or_else(|| DataError::Format { path: path.into() })?,
        given => given,
    };
    match format {
        Format::Auto | Format::Jsonl => Ok(Box::new(jsonl::Jsonl::open(path)?)),
    }
}
