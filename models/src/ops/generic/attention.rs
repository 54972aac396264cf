//! Softmax attention over chunks of queries: no `[b, h, t, s]` tensor where that would be large.

use std::ops::Range;

use burn::backend::{Backend, TensorMetadata, tensor::FloatTensor};
use burn::tensor::{FloatDType, IntDType, Shape, Slice, TensorData};

use crate::ops::{AttentionMask, Visible, expr::Expr};

/// Up to this many scores of a head, all queries are one chunk.
const WHOLE: usize = 256 * 1024;
const QUERY_CHUNK: usize = 128;

/// Sizes of one call.
struct Sizes<B: Backend> {
    b: usize,
    h: usize,
    g: usize,
    t: usize,
    s: usize,
    k: usize,
    mask: AttentionMask,
    segments: Option<Bounds<B>>,
}

/// Where segments begin.
struct Bounds<B: Backend> {
    /// For each position of each row, where its segment starts, `[b * t]`.
    starts: Vec<usize>,
    /// The same on the device, `[b, t]`.
    starts_bt: Expr<B>,
    /// 0 in the padding, else 1, `[b, 1, t, 1]`; `None` without padding.
    real: Option<Expr<B>>,
}

/// Queries `start .. start + len`, of which none sees a key outside `keys`.
struct Chunk {
    start: usize,
    len: usize,
    keys: Range<usize>,
}

impl<B: Backend> Sizes<B> {
    fn new(q: &Expr<B>, keys: &Expr<B>, visible: Visible) -> Self {
        let device = q.0.device();
        let (q, keys) = (q.dims(), keys.dims());
        let (b, t) = (q[0], q[2]);
        let upload = |values: Vec<f32>, shape: Vec<usize>| {
            Expr(B::float_from_data(TensorData::new(values, shape), &device))
        };
        let segments = visible.segments.map(|segments| {
            let starts = segments.starts(t);
            Bounds {
                starts_bt: upload(starts.iter().map(|&start| start as f32).collect(), vec![b, t]),
                real: segments.real(t).map(|real| upload(real, vec![b, 1, t, 1])),
                starts,
            }
        });
        Self {
            b,
            h: q[1],
            g: keys[1],
            t,
            s: keys[2],
            k: q[3],
            mask: visible.mask,
            segments,
        }
    }

    /// Values `[b, h, len, k]` of a chunk's queries, 0 in the padding.
    fn real(&self, x: Expr<B>, chunk: &Chunk) -> Expr<B> {
        match self.segments.as_ref().and_then(|segments| segments.real.clone()) {
            Some(real) => x * real.range(2, chunk.start..chunk.start + chunk.len),
            None => x,
        }
    }

    fn scale(&self) -> f64 {
        1.0 / (self.k as f64).sqrt()
    }

    fn chunks(&self) -> impl DoubleEndedIterator<Item = Chunk> {
        let &Self { t, s, mask, .. } = self;
        let size = if t * s <= WHOLE { t } else { QUERY_CHUNK };
        (0..t.div_ceil(size)).map(move |i| {
            let start = i * size;
            let len = size.min(t - start);
            let keys = match mask {
                AttentionMask::Full => 0..s,
                AttentionMask::Causal => 0..s - t + start + len,
                AttentionMask::SlidingWindow { window } => {
                    let first = s - t + start;
                    (first + 1).saturating_sub(window)..first + len
                }
            };
            let keys = match &self.segments {
                Some(segments) => {
                    let touched = segments.touched(t, start..start + len);
                    keys.start.max(touched.start)..keys.end.min(touched.end)
                }
                None => keys,
            };
            Chunk { start, len, keys }
        })
    }

    /// Values at a chunk's queries, `[b, h, t, k]` to `[b, h, len, k]`.
    fn queries(&self, x: &Expr<B>, chunk: &Chunk) -> Expr<B> {
        x.clone().range(2, chunk.start..chunk.start + chunk.len)
    }

    /// A group's heads on one axis, `[b, h, len, k]` to `[b, g, (h/g) len, k]`: the matrix products then need no repeated keys.
    fn group(&self, x: Expr<B>) -> Expr<B> {
        let len = x.dims()[2];
        x.reshape([self.b, self.g, self.h / self.g * len, self.k])
    }

    /// Scaled scores `[b, g, (h/g) len, keys]`, hugely negative where the mask hides a key.
    fn scores(&self, q: Expr<B>, keys: Expr<B>, chunk: &Chunk) -> Expr<B> {
        let scores = q.matmul(keys.transpose()) * self.scale();
        let hidden = match (
            self.hidden_by_mask(chunk, &scores),
            self.hidden_by_segments(chunk),
        ) {
            (Some(mask), Some(segments)) => mask + segments,
            (Some(hidden), None) | (None, Some(hidden)) => hidden,
            (None, None) => return scores,
        };
        let (group, visible) = (self.h / self.g, chunk.keys.len());
        let scores = scores.reshape([self.b, self.g, group, chunk.len, visible]) + hidden * -1e30;
        scores.reshape([self.b, self.g, group * chunk.len, visible])
    }

    /// At least 1 where the mask hides a key of the chunk, else 0, `[1, 1, 1, len, keys]`.
    fn hidden_by_mask(&self, chunk: &Chunk, scores: &Expr<B>) -> Option<Expr<B>> {
        // The keys of a single query are those it sees.
        if self.mask == AttentionMask::Full || chunk.len == 1 {
            return None;
        }
        let device = scores.0.device();
        let position = |range: Range<usize>| -> Expr<B> {
            let positions = B::int_arange(range.start as i64..range.end as i64, &device, IntDType::I32);
            Expr(B::int_into_float(positions, FloatDType::F32))
        };
        let first = self.s - self.t + chunk.start;
        let key = position(chunk.keys.clone()).reshape([1, 1, 1, 1, chunk.keys.len()]);
        let query = position(first..first + chunk.len).reshape([1, 1, 1, chunk.len, 1]);
        let ahead = key - query;
        let hidden = at_most_one(ahead.clone());
        Some(match self.mask {
            AttentionMask::SlidingWindow { window } => {
                hidden + at_most_one(ahead * -1.0 + (1.0 - window as f64))
            }
            AttentionMask::Full | AttentionMask::Causal => hidden,
        })
    }

    /// 1 where a key of the chunk is of another segment, else 0, `[b, 1, 1, len, keys]`.
    fn hidden_by_segments(&self, chunk: &Chunk) -> Option<Expr<B>> {
        let starts_bt = &self.segments.as_ref()?.starts_bt;
        let of = |range: Range<usize>| starts_bt.clone().range(1, range);
        let key = of(chunk.keys.clone()).reshape([self.b, 1, 1, 1, chunk.keys.len()]);
        let query = of(chunk.start..chunk.start + chunk.len).reshape([self.b, 1, 1, chunk.len, 1]);
        Some(at_most_one((key - query).square()))
    }
}

impl<B: Backend> Bounds<B> {
    /// Positions of the segments, of any row of `t`, that some of the queries are of.
    fn touched(&self, t: usize, queries: Range<usize>) -> Range<usize> {
        let end_of = |row: &[usize]| {
            let same = |start: &&usize| **start == row[queries.end - 1];
            queries.end + row[queries.end..].iter().take_while(same).count()
        };
        let rows = || self.starts.chunks(t);
        let first = rows().map(|row| row[queries.start]).min();
        let end = rows().map(end_of).max();
        first.unwrap_or(0)..end.unwrap_or(t)
    }
}

/// Between 0 and 1.
fn at_most_one<B: Backend>(x: Expr<B>) -> Expr<B> {
    Expr(B::float_clamp(x.0, 0.0.into(), 1.0.into()))
}

/// Returns the output `[b, h, t, k]` and the f32 log-sum-exp of each query's scores `[b, h, t]`.
pub(crate) fn attention<B: Backend>(
    q: FloatTensor<B>,
    keys: FloatTensor<B>,
    values: FloatTensor<B>,
    visible: Visible,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let dtype = q.dtype();
    let (q, keys, values) = (Expr::<B>::f32(q), Expr::<B>::f32(keys), Expr::<B>::f32(values));
    let sizes = Sizes::new(&q, &keys, visible);
    let (mut outs, mut log_sums) = (vec![], vec![]);
    for chunk in sizes.chunks() {
        let (seen_keys, seen_values) = (
            keys.clone().range(2, chunk.keys.clone()),
            values.clone().range(2, chunk.keys.clone()),
        );
        let scores = sizes.scores(sizes.group(sizes.queries(&q, &chunk)), seen_keys, &chunk);
        let max = scores.clone().max_last();
        let weights = (scores - max.clone()).exp();
        let sum = weights.clone().sum_last();
        let out = weights.matmul(seen_values) * sum.clone().recip();
        let out = out.reshape([sizes.b, sizes.h, chunk.len, sizes.k]);
        outs.push(sizes.real(out, &chunk).cast(dtype));
        log_sums.push((max + sum.log()).reshape([sizes.b, sizes.h, chunk.len]));
    }
    (join(outs).0, join(log_sums).0)
}

/// Gradients of q, k, v. The probabilities are computed again from the log-sum-exp:
/// `P = exp(S - lse)`, `dV = Pᵀ dO`, `dS = P (dO Vᵀ - rowsum(dO O))`, `dQ = dS K`, `dK = dSᵀ Q`.
pub(crate) fn attention_backward<B: Backend>(
    q: FloatTensor<B>,
    keys: FloatTensor<B>,
    values: FloatTensor<B>,
    out: FloatTensor<B>,
    log_sum: FloatTensor<B>,
    dout: FloatTensor<B>,
    visible: Visible,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let dtype = q.dtype();
    let (q, keys, values) = (Expr::<B>::f32(q), Expr::<B>::f32(keys), Expr::<B>::f32(values));
    let (out, dout, log_sum) = (Expr::<B>::f32(out), Expr::<B>::f32(dout), Expr::<B>(log_sum));
    let sizes = Sizes::new(&q, &keys, visible);
    let (mut dq, mut dkeys, mut dvalues) = (vec![], None, None);
    // Backwards: without a window the last chunk sees every key, so the sums start at full size.
    for chunk in sizes.chunks().rev() {
        let (seen_keys, seen_values) = (
            keys.clone().range(2, chunk.keys.clone()),
            values.clone().range(2, chunk.keys.clone()),
        );
        let q = sizes.group(sizes.queries(&q, &chunk));
        let rows = sizes.h / sizes.g * chunk.len;
        let log_sum = log_sum.clone().range(2, chunk.start..chunk.start + chunk.len);
        let log_sum = log_sum.reshape([sizes.b, sizes.g, rows, 1]);
        let p = (sizes.scores(q.clone(), seen_keys.clone(), &chunk) - log_sum).exp();
        let (out, dout) = (sizes.queries(&out, &chunk), sizes.queries(&dout, &chunk));
        let dout = sizes.real(dout, &chunk);
        let (out, dout) = (sizes.group(out), sizes.group(dout));
        let dp = dout.clone().matmul(seen_values.transpose());
        let ds = p.clone() * (dp - (dout.clone() * out).sum_last()) * sizes.scale();
        dvalues = Some(add_rows(
            dvalues,
            p.transpose().matmul(dout),
            &chunk.keys,
            sizes.s,
        ));
        dkeys = Some(add_rows(
            dkeys,
            ds.clone().transpose().matmul(q),
            &chunk.keys,
            sizes.s,
        ));
        dq.push(
            ds.matmul(seen_keys)
                .reshape([sizes.b, sizes.h, chunk.len, sizes.k])
                .cast(dtype),
        );
    }
    dq.reverse();
    let zeros = |sum: Option<Expr<B>>| sum.unwrap_or_else(|| keys.clone() * 0.0).cast(dtype).0;
    (join(dq).0, zeros(dkeys), zeros(dvalues))
}

fn join<B: Backend>(mut chunks: Vec<Expr<B>>) -> Expr<B> {
    if chunks.len() == 1 {
        chunks.remove(0)
    } else {
        Expr::cat(chunks, 2)
    }
}

/// Adds `rows` to the positions `range` of `sum [b, g, s, k]`, which is 0 at first.
fn add_rows<B: Backend>(sum: Option<Expr<B>>, rows: Expr<B>, range: &Range<usize>, s: usize) -> Expr<B> {
    if range.len() == s {
        return match sum {
            Some(sum) => sum + rows,
            None => rows,
        };
    }
    let dims = rows.dims();
    let slices = [0..dims[0], 0..dims[1], range.clone(), 0..dims[3]].map(Slice::from);
    let (sum, rows) = match sum {
        Some(sum) => {
            let rows = sum.clone().range(2, range.clone()) + rows;
            (sum, rows)
        }
        None => {
            let shape = Shape::from([dims[0], dims[1], s, dims[3]]);
            let zeros = B::float_zeros(shape, &rows.0.device(), FloatDType::F32);
            (Expr(zeros), rows)
        }
    };
    Expr(B::float_slice_assign(sum.0, &slices, rows.0))
}
