//! What became of rows.

use std::fmt;

use super::Dataset;
use crate::data::Packing;

/// Characters of the longest bar.
const BAR: usize = 40;

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
    /// Rows that are cut anew in each epoch, at a random length.
    pub cut_at_random: usize,
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
        match self.cut_at_random {
            0 => {}
            rows => write!(f, "; {rows} rows cut at a random length in each epoch")?,
        }
        match self.bad {
            0 => Ok(()),
            bad => write!(f, "; {bad} wrong rows skipped"),
        }
    }
}

/// How long rows are. Displays as a line for each length range, from each power of two to the next, and one on packing.
#[derive(Debug, Clone, PartialEq)]
pub struct Lengths {
    /// Number of rows by the logarithm of their tokens to base 2, rounded down.
    counts: Vec<usize>,
    packing: Option<Packing>,
}

impl Dataset {
    /// How long the rows are.
    pub fn lengths(&self) -> Lengths {
        let mut counts = Vec::new();
        for row in &self.rows {
            let range = row.length.max(1).ilog2() as usize;
            counts.resize(counts.len().max(range + 1), 0);
            counts[range] += 1;
        }
        Lengths {
            counts,
            packing: self.stream.packing(),
        }
    }
}

impl fmt::Display for Lengths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let most = self.counts.iter().max().copied().unwrap_or(0).max(1);
        write!(f, "       tokens       rows")?;
        let shown = self
            .counts
            .iter()
            .enumerate()
            .skip_while(|(_, count)| **count == 0);
        for (range, &count) in shown {
            let bar = "#".repeat((count * BAR).div_ceil(most));
            write!(
                f,
                "\n{:>6}-{:<6} {count:>10} {bar}",
                1_u64 << range,
                (2_u64 << range) - 1
            )?;
        }
        match &self.packing {
            Some(packing) => write!(f, "\npacking          {packing}"),
            None => Ok(()),
        }
    }
}
