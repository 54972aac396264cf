//! What can go wrong while rows change their form.

use std::path::PathBuf;

use thiserror::Error;

use super::super::{
    batch::SampleId,
    error::{DataError, RowError, RowProblem},
};
use crate::fs::FsError;

/// A conversion that did not succeed. The target is what it was before.
#[derive(Debug, Error)]
pub enum ConvertError {
    /// The rows that are read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A file or folder of the target.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// A file that a library writes.
    #[error("cannot write {}: {reason}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The library's word, or the system's.
        reason: String,
    },
    /// Something that was asked for and does not go together.
    #[error("{option}: {reason}")]
    Option {
        /// The option of the command line.
        option: String,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// A target that must not be written.
    #[error("{}: {reason}", path.display())]
    Target {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// More wrong rows than may be left out.
    #[error("{count} rows are wrong, more than --max-bad-rows {limit}; the first is {first}")]
    TooManyBadRows {
        /// Wrong rows so far.
        count: usize,
        /// The limit.
        limit: usize,
        /// The first of them.
        first: Box<RowError>,
    },
    /// Two rows that do not fit into one column.
    #[error(
        "{second}: {place} is {second_kind}, but {first_kind} in {first}\n  hint: a column of a table has one kind of value; {}",
        way_out(place, first_kind, second_kind)
    )]
    Kinds {
        /// Where in the rows: `messages[].content`.
        place: String,
        /// The row that came first.
        first: SampleId,
        /// What it has there.
        first_kind: &'static str,
        /// The one that contradicts it.
        second: SampleId,
        /// What it has there.
        second_kind: &'static str,
    },
    /// Rows that make no table.
    #[error("{sample}: {reason}\n  hint: jsonl and tar hold rows of any kind")]
    Table {
        /// A row that shows it.
        sample: SampleId,
        /// Why not.
        reason: String,
    },
}

fn way_out(place: &str, first_kind: &str, second_kind: &str) -> &'static str {
    let text_and_parts = [(first_kind, second_kind), (second_kind, first_kind)].contains(&("text", "a list"));
    match text_and_parts && place.contains("[].") {
        true => "--content-parts writes the text of every turn as a list of one part",
        false => "jsonl and tar hold rows of any kind, and --columns names the columns to take",
    }
}

impl ConvertError {
    /// Whether whoever asked for it can mend it, rather than whoever owns the disk.
    pub fn is_users(&self) -> bool {
        !matches!(self, ConvertError::Fs(_) | ConvertError::Write { .. })
    }
}

/// Why a row was not written.
pub(super) enum Refusal {
    /// The row is wrong; it may be left out.
    Row(RowProblem),
    /// Nothing can be written.
    Failed(ConvertError),
}

impl From<RowProblem> for Refusal {
    fn from(problem: RowProblem) -> Self {
        Refusal::Row(problem)
    }
}

impl From<ConvertError> for Refusal {
    fn from(error: ConvertError) -> Self {
        Refusal::Failed(error)
    }
}

impl From<FsError> for Refusal {
    fn from(error: FsError) -> Self {
        Refusal::Failed(error.into())
    }
}
