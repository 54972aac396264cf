//! How attention is cut: rows into spans, and spans into blocks of queries.

use burn_flex::FlexTensor;

use crate::ops::{AttentionMask, Visible};

const QUERY_BLOCK: usize = 64;

/// Sizes of one call.
pub(super) struct Sizes {
    pub(super) b: usize,
    pub(super) h: usize,
    pub(super) g: usize,
    pub(super) t: usize,
    pub(super) s: usize,
    pub(super) k: usize,
    visible: Visible,
}

/// Queries of a row and the only keys they see: those of a segment, or all. Both start at the same place.
#[derive(Clone, Copy)]
pub(super) struct Span {
    pub(super) row: usize,
    pub(super) start: usize,
    pub(super) num_queries: usize,
    pub(super) num_keys: usize,
}

/// Queries `start .. start + len` of a span, of which none sees a key outside `first .. first + visible` of it. Counted from
/// `first`, query `i` of the block sees the `window` keys before `seen + i * step`, or as many as there are.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub(super) start: usize,
    pub(super) len: usize,
    pub(super) first: usize,
    pub(super) visible: usize,
    seen: usize,
    step: usize,
    window: usize,
    pub(super) scale: f32,
}

impl Block {
    /// Keys that query `i` sees, counted from `first`.
    #[inline(always)]
    pub(super) fn seen_by(&self, i: usize) -> std::ops::Range<usize> {
        let end = self.seen + i * self.step;
        end.saturating_sub(self.window)..end
    }
}

impl Sizes {
    pub(super) fn new(q: &FlexTensor, keys: &FlexTensor, visible: Visible) -> Self {
        let (q, keys) = (q.layout().shape(), keys.layout().shape());
        Self {
            b: q[0],
            h: q[1],
            g: keys[1],
            t: q[2],
            s: keys[2],
            k: q[3],
            visible,
        }
    }

    /// The spans of a row, in order. Padding is in none.
    pub(super) fn spans(&self, row: usize) -> Vec<Span> {
        match &self.visible.segments {
            None => vec![Span {
                row,
                start: 0,
                num_queries: self.t,
                num_keys: self.s,
            }],
            Some(segments) => {
                let span = |segment: std::ops::Range<usize>| Span {
                    row,
                    start: segment.start,
                    num_queries: segment.len(),
                    num_keys: segment.len(),
                };
                segments.of_row(row).map(span).collect()
            }
        }
    }

    /// Whether the last block of a span sees all of its keys.
    pub(super) fn last_sees_all(&self) -> bool {
        match self.visible.mask {
            AttentionMask::Full | AttentionMask::Causal => true,
            AttentionMask::SlidingWindow { .. } => false,
        }
    }

    pub(super) fn blocks(&self, span: Span) -> impl DoubleEndedIterator<Item = Block> + use<> {
        let Span {
            num_queries: t,
            num_keys: s,
            ..
        } = span;
        let mask = self.visible.mask;
        let scale = (1.0 / (self.k as f64).sqrt()) as f32;
        (0..t.div_ceil(QUERY_BLOCK)).map(move |i| {
            let start = i * QUERY_BLOCK;
            let len = QUERY_BLOCK.min(t - start);
            let window = match mask {
                AttentionMask::Full => {
                    return Block {
                        start,
                        len,
                        first: 0,
                        visible: s,
                        seen: s,
                        step: 0,
                        window: s,
                        scale,
                    };
                }
                AttentionMask::Causal => s,
                AttentionMask::SlidingWindow { window } => window,
            };
            let position = s - t + start;
            let first = (position + 1).saturating_sub(window);
            Block {
                start,
                len,
                first,
                visible: position + len - first,
                seen: position + 1 - first,
                step: 1,
                window,
                scale,
            }
        })
    }
}
