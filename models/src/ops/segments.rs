//! Rows that hold several sequences one after the other.

use std::{ops::Range, sync::Arc};

/// Sequences that lie one after the other in the rows of a batch, for [`super::attention`]: a query sees keys of its own
/// segment alone. What follows a row's last segment is padding: its outputs and gradients are 0.
///
/// FlashAttention's `cu_seqlens` (<https://arxiv.org/abs/2205.14135>) are the same for one row. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segments(Arc<[Vec<usize>]>);

impl Segments {
    /// From the lengths of each row's segments, in positions.
    pub fn new(rows: impl Into<Arc<[Vec<usize>]>>) -> Self {
        Self(rows.into())
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.0.len()
    }

    /// Whether each row has room for its segments, in `t` positions.
    pub fn fit(&self, t: usize) -> bool {
        self.0.iter().all(|lengths| lengths.iter().sum::<usize>() <= t)
    }

    /// The positions of a row's segments.
    pub(super) fn of_row(&self, row: usize) -> impl Iterator<Item = Range<usize>> {
        self.0[row].iter().scan(0, |end, length| {
            let start = *end;
            *end += length;
            Some(start..*end)
        })
    }

    /// For each of the `t` positions of each row, row after row, where its segment starts. A position of the padding is a
    /// segment of its own.
    pub(super) fn starts(&self, t: usize) -> Vec<usize> {
        let mut starts = Vec::with_capacity(self.rows() * t);
        for row in 0..self.rows() {
            let end = row * t;
            for segment in self.of_row(row) {
                starts.extend(std::iter::repeat_n(segment.start, segment.len()));
            }
            starts.extend(starts.len() - end..t);
        }
        starts
    }

    /// For each of the `t` positions of each row, row after row, 1, or 0 in the padding; `None` where there is no padding.
    pub(super) fn real(&self, t: usize) -> Option<Vec<f32>> {
        let used = |lengths: &Vec<usize>| lengths.iter().sum::<usize>();
        if self.0.iter().all(|lengths| used(lengths) == t) {
            return None;
        }
        let rows = self.0.iter().map(used);
        Some(
            rows.flat_map(|used| (0..t).map(move |position| if position < used { 1.0 } else { 0.0 }))
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_is_no_part_of_a_segment() {
        let segments = Segments::new([vec![2, 1], vec![4], vec![1]]);
        assert_eq!(segments.starts(4), [0, 0, 2, 3, 0, 0, 0, 0, 0, 1, 2, 3]);
        let real = [1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0];
        assert_eq!(segments.real(4).as_deref(), Some(&real[..]));
        assert_eq!(Segments::new([vec![2, 2]]).real(4), None);
        assert!(segments.fit(4) && !segments.fit(3));
    }
}
