//! How a batch lies on the device.

use burn::tensor::Device;

use super::{HostBatch, PaddingSide};
use crate::ops::{self, Segments};

/// How the tokens of a batch lie on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// In the rows of the host, padding included and behind the tokens: `[b, t]`.
    Rows,
    /// All segments one after the other in a single row without padding: `[1, n]`. Nothing is computed for padding.
    Flat,
}

/// One segment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    /// Its first token in the fields of the host's batch.
    cell: usize,
    /// Its first token on the device, counted over all rows.
    pub(super) place: usize,
    /// Its tokens.
    pub(super) len: usize,
}

impl Span {
    /// The segment's part of a field that has a value for each token.
    pub(super) fn of<'a>(&self, field: &'a [i32]) -> &'a [i32] {
        &field[self.cell..][..self.len]
    }
}

/// The segments of a batch, row after row.
pub(super) fn spans(batch: &HostBatch, layout: Layout) -> impl Iterator<Item = Span> {
    let cells = batch.segments.iter().enumerate().flat_map(move |(row, lengths)| {
        let before = padding_before(batch, row);
        lengths
            .iter()
            .scan(row * batch.length + before, move |next, &len| {
                let cell = *next;
                *next += len;
                Some((cell, cell - before, len))
            })
    });
    cells.scan(0, move |next, (cell, in_row, len)| {
        let place = match layout {
            Layout::Rows => in_row,
            Layout::Flat => *next,
        };
        *next += len;
        Some(Span { cell, place, len })
    })
}

/// Tokens of the padding before a row's tokens.
fn padding_before(batch: &HostBatch, row: usize) -> usize {
    match batch.padding_side {
        PaddingSide::Left => batch.length - batch.segments[row].iter().sum::<usize>(),
        PaddingSide::Right => 0,
    }
}

impl Layout {
    /// The layout in which a loss costs least. Where attention does one segment at a time, that is the flat one, unless there is
    /// nothing to leave out. Elsewhere a flat row would cost attention more than the padding costs the other layers: rows
    /// stay, and only those that hold several segments are cut.
    pub fn for_loss(batch: &HostBatch, device: &Device) -> Self {
        let whole = |lengths: &Vec<usize>| *lengths == [batch.length];
        match ops::attends_by_segment(device) && !batch.segments.iter().all(whole) {
            true => Layout::Flat,
            false => Layout::Rows,
        }
    }

    /// Rows and tokens per row on the device.
    pub(super) fn shape(self, batch: &HostBatch) -> [usize; 2] {
        match self {
            Layout::Rows => [batch.rows, batch.length],
            Layout::Flat => [1, batch.segments.iter().flatten().sum()],
        }
    }

    /// Token ids in their order on the device.
    pub(super) fn tokens(self, batch: &HostBatch) -> Vec<i32> {
        match self {
            Layout::Rows => {
                let mut tokens = batch.input_ids.to_vec();
                for (row, tokens) in tokens.chunks_mut(batch.length.max(1)).enumerate() {
                    tokens.rotate_left(padding_before(batch, row));
                }
                tokens
            }
            Layout::Flat => spans(batch, self)
                .flat_map(|span| span.of(batch.input_ids))
                .copied()
                .collect(),
        }
    }

    /// What attention must know of segments. Nothing, where a row is one: its padding lies in the future of its tokens.
    pub(super) fn segments(self, batch: &HostBatch) -> Option<Segments> {
        match self {
            Layout::Rows if batch.segments.iter().all(|lengths| lengths.len() == 1) => None,
            Layout::Rows => Some(Segments::new(batch.segments)),
            Layout::Flat => Some(Segments::new([batch.segments.concat()])),
        }
    }
}
