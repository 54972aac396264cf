//! What became of rows.

use std::fmt;

/// What became of the rows of a dataset. Displays as one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DatasetReport {
    /// Rows in the files.
    pub rows: usize,
    /// Rows that are used; an epoch is one pass over them.
    pub kept: usize,
    /// Rows left out because they are too long ([`TooLong::Drop`]).
    pub dropped: usize,
    /// Rows that were cut ([`TooLong::Truncate`]).
    pub truncated: usize,
    /// Rows left out because none of their tokens is trained: no assistant turn, or none before the cut.
    pub unlabelled: usize,
    /// Rows left out because something is wrong with them ([`BadRows::Skip`](crate::data::BadRows::Skip)).
    pub bad: usize,
    /// Images of the rows that are used.
    pub images: usize,
    /// Tokens of the rows that are used, image tokens included.
    pub tokens: usize,
    /// Tokens that are trained; of rows to classify, the rows.
    pub labelled_tokens: usize,
    /// Tokens of the longest row that is used.
    pub longest: usize,
}

impl fmt::Display for DatasetReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} rows used, {} dropped as too long, {} truncated, {} left out without an assistant turn; \
             {} images, {} tokens, {} of them labelled, longest row {}",
            self.kept,
            self.rows,
            self.dropped,
            self.truncated,
            self.unlabelled,
            self.images,
            self.tokens,
            self.labelled_tokens,
            self.longest
        )?;
        match self.bad {
            0 => Ok(()),
            bad => write!(f, "; {bad} wrong rows skipped"),
        }
    }
}
