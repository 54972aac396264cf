//! Attention, a span of a row, a head and a block of queries at a time: a span is a segment, or a whole row. Inputs may be views of `[b, t, h, k]`; outputs and gradients are
//! such views, so that neither splitting nor joining heads copies.

use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::gemm::{Mat, Threads, Tiles, Write, matmul, transpose};
use super::math::{exp, max, simd, sum1, sum2};
use super::{dense, tensor, values, zeros};
use crate::ops::Visible;

mod parts;

use parts::{Block, Sizes, Span};

/// A `[b, heads, len, k]` tensor whose last axis is contiguous.
struct Heads {
    x: FlexTensor,
    strides: [usize; 3],
    len: usize,
    k: usize,
}

impl Heads {
    fn new(x: FlexTensor) -> Self {
        let (strides, k) = (x.layout().strides(), x.layout().shape()[3]);
        let usable = strides[3] == 1 && strides[2] >= k as isize && strides.iter().all(|&stride| stride >= 0);
        let x = if usable { x } else { x.to_contiguous() };
        let (shape, strides) = (x.layout().shape(), x.layout().strides());
        let strides = [0, 1, 2].map(|axis| strides[axis].unsigned_abs());
        Self {
            strides,
            len: shape[2],
            k: shape[3],
            x,
        }
    }

    /// From the first element of a span of a head on.
    fn from(&self, span: Span, head: usize) -> &[f32] {
        let [row, heads, places] = self.strides;
        let start = self.x.layout().start_offset() + span.row * row + head * heads + span.start * places;
        &self.x.storage()[start..]
    }

    fn row_stride(&self) -> usize {
        self.strides[2]
    }

    /// `[k, keys]` of a span of a head, into scratch. A right operand in this order needs no slow packing, and one copy serves
    /// every block of queries.
    fn transpose<'a>(&self, span: Span, head: usize, scratch: &'a mut Vec<f32>) -> Transposed<'a> {
        let len = span.num_keys;
        let data = sized(scratch, self.k * len);
        transpose(data, self.from(span, head), len, self.k, self.row_stride());
        Transposed { data, len, k: self.k }
    }

    /// `[len, k]` of a span of a head, from its row `start` on.
    fn rows(&self, span: Span, head: usize, start: usize, len: usize) -> Mat<'_> {
        debug_assert!(span.start + start + len <= self.len);
        let from = &self.from(span, head)[start * self.row_stride()..];
        Mat::strided(from, len, self.k, self.row_stride())
    }
}

/// A head's keys or values as `[k, len]`.
struct Transposed<'a> {
    data: &'a [f32],
    len: usize,
    k: usize,
}

impl Transposed<'_> {
    /// The keys of a block.
    fn of(&self, block: Block) -> Mat<'_> {
        Mat::strided(&self.data[block.first..], self.k, block.visible, self.len)
    }
}

/// Memory of one thread.
#[derive(Default)]
struct Scratch {
    keys: Vec<f32>,
    vals: Vec<f32>,
    p: Vec<f32>,
    dp: Vec<f32>,
}

/// `[b, t, h, k]` as `[b, h, t, k]`.
fn heads_first(data: Vec<f32>, [b, t, h, k]: [usize; 4]) -> FlexTensor {
    let x = tensor(data, [b, t, h, k]);
    let layout = x.layout().transpose(1, 2);
    x.with_layout(layout)
}

/// The output, and the log-sum-exp of each query's scaled scores `[b, h, t]`; 0 for queries in no span.
pub(super) fn forward(
    q: FlexTensor,
    k: FlexTensor,
    v: FlexTensor,
    visible: Visible,
) -> (FlexTensor, FlexTensor) {
    let sizes = Sizes::new(&q, &k, visible);
    let Sizes {
        b, h, g, t, k: width, ..
    } = sizes;
    let (q, keys, vals) = (Heads::new(q), Heads::new(k), Heads::new(v));
    let mut out = zeros(b * t * h * width);
    let mut log_sums = vec![0.0; b * h * t];
    let tiles = Tiles::new(&mut out);
    units(&sizes, &mut log_sums).into_par_iter().for_each_init(
        Scratch::default,
        |scratch, (span, head, log_sums)| {
            let group = head / (h / g);
            let transposed_keys = keys.transpose(span, group, &mut scratch.keys);
            for block in sizes.blocks(span) {
                let Block {
                    start,
                    len,
                    first,
                    visible,
                    ..
                } = block;
                let scores = sized(&mut scratch.p, len * visible);
                let queries = q.rows(span, head, start, len);
                product(scores, len, visible, queries, transposed_keys.of(block));
                softmax_rows(scores, &mut log_sums[start..start + len], block);
                let at = ((span.row * t + span.start + start) * h + head) * width;
                #[expect(unsafe_code, reason = "heads are interleaved in the output")]
                // SAFETY: the tile is rows of this head of this span, which no other unit writes.
                let tile = unsafe { tiles.tile(at, len, width, h * width) };
                let weights = Mat::new(scores, len, visible);
                matmul(
                    tile,
                    weights,
                    vals.rows(span, group, first, visible),
                    Write::Overwrite,
                    Threads::One,
                );
            }
        },
    );
    (heads_first(out, [b, t, h, width]), tensor(log_sums, [b, h, t]))
}

/// Every span with every head, and where the log-sum-exp of its queries go.
fn units<'a>(sizes: &Sizes, log_sums: &'a mut [f32]) -> Vec<(Span, usize, &'a mut [f32])> {
    let mut units = Vec::new();
    for (index, mut rest) in log_sums.chunks_mut(sizes.t.max(1)).enumerate() {
        let (row, head) = (index / sizes.h, index % sizes.h);
        for span in sizes.spans(row) {
            let (own, others) = rest.split_at_mut(span.num_queries);
            units.push((span, head, own));
            rest = others;
        }
    }
    units
}

/// Gradients of q, k, v; the weights are computed again from the log-sum-exp. The formulas are those of
/// [`crate::ops::generic::attention_backward`].
pub(super) fn backward(
    q: FlexTensor,
    k: FlexTensor,
    v: FlexTensor,
    out: FlexTensor,
    log_sum: FlexTensor,
    dout: FlexTensor,
    visible: Visible,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let sizes = Sizes::new(&q, &k, visible);
    let Sizes {
        b,
        h,
        g,
        t,
        s,
        k: width,
        ..
    } = sizes;
    let saved = Saved {
        q: Heads::new(q),
        keys: Heads::new(k),
        vals: Heads::new(v),
        out: Heads::new(out),
        dout: Heads::new(dout),
        log_sum: dense(log_sum),
    };
    let mut dq = zeros(b * t * h * width);
    let (mut dk, mut dv) = (zeros(b * s * g * width), zeros(b * s * g * width));
    let gradients = Gradients {
        dq: Tiles::new(&mut dq),
        dk: Tiles::new(&mut dk),
        dv: Tiles::new(&mut dv),
    };
    let units: Vec<(Span, usize)> = (0..b)
        .flat_map(|row| sizes.spans(row))
        .flat_map(|span| (0..g).map(move |group| (span, group)))
        .collect();
    units
        .into_par_iter()
        .for_each_init(Scratch::default, |scratch, (span, group)| {
            saved.backward_group(&sizes, span, group, &gradients, scratch);
        });
    (
        heads_first(dq, [b, t, h, width]),
        heads_first(dk, [b, s, g, width]),
        heads_first(dv, [b, s, g, width]),
    )
}

/// What the backward pass reads.
struct Saved {
    q: Heads,
    keys: Heads,
    vals: Heads,
    out: Heads,
    dout: Heads,
    log_sum: FlexTensor,
}

/// What it writes, in the order `[b, t, h, k]`.
struct Gradients<'a> {
    dq: Tiles<'a>,
    dk: Tiles<'a>,
    dv: Tiles<'a>,
}

impl Saved {
    /// Gradients of a span of a key/value head and of its query heads.
    fn backward_group(
        &self,
        sizes: &Sizes,
        span: Span,
        group: usize,
        gradients: &Gradients<'_>,
        scratch: &mut Scratch,
    ) {
        let &Sizes {
            h, g, t, s, k: width, ..
        } = sizes;
        let transposed_keys = self.keys.transpose(span, group, &mut scratch.keys);
        let transposed_vals = self.vals.transpose(span, group, &mut scratch.vals);
        // Backwards: if the last block sees every key, its products overwrite all of dk and dv.
        let mut write = match sizes.last_sees_all() {
            true => Write::Overwrite,
            false => Write::Add,
        };
        let heads = group * (h / g)..(group + 1) * (h / g);
        for (head, block) in heads.flat_map(|head| sizes.blocks(span).rev().map(move |block| (head, block))) {
            let Block {
                start,
                len,
                first,
                visible,
                ..
            } = block;
            let (p, dp) = (
                sized(&mut scratch.p, len * visible),
                sized(&mut scratch.dp, len * visible),
            );
            let queries = self.q.rows(span, head, start, len);
            let douts = self.dout.rows(span, head, start, len);
            product(p, len, visible, queries, transposed_keys.of(block));
            product(dp, len, visible, douts, transposed_vals.of(block));
            let at = span.start + start;
            let log_sums = &values(&self.log_sum)[(span.row * h + head) * t + at..][..len];
            let outputs = [&self.out, &self.dout]
                .map(|x| (&x.from(span, head)[start * x.row_stride()..], x.row_stride()));
            softmax_backward_rows(p, dp, log_sums, outputs, width, block);
            let (p, ds) = (Mat::new(p, len, visible), Mat::new(dp, len, visible));
            let at_queries = ((span.row * t + at) * h + head) * width;
            let at_keys = ((span.row * s + span.start + first) * g + group) * width;
            #[expect(unsafe_code, reason = "heads are interleaved in the gradients")]
            // SAFETY: rows of this span of this head, or of this group, which no other unit writes.
            let (dq, dk, dv) = unsafe {
                (
                    gradients.dq.tile(at_queries, len, width, h * width),
                    gradients.dk.tile(at_keys, visible, width, g * width),
                    gradients.dv.tile(at_keys, visible, width, g * width),
                )
            };
            matmul(
                dq,
                ds,
                self.keys.rows(span, group, first, visible),
                Write::Overwrite,
                Threads::One,
            );
            matmul(dk, ds.transposed(), queries, write, Threads::One);
            matmul(dv, p.transposed(), douts, write, Threads::One);
            write = Write::Add;
        }
    }
}

fn sized(scratch: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if scratch.len() < len {
        scratch.resize(len, 0.0);
    }
    &mut scratch[..len]
}

fn product(dst: &mut [f32], rows: usize, cols: usize, a: Mat<'_>, b: Mat<'_>) {
    matmul(
        super::gemm::MatMut::new(dst, rows, cols),
        a,
        b,
        Write::Overwrite,
        Threads::One,
    );
}

/// The keys that a query sees; the others become 0.
#[inline(always)]
fn only_seen(row: &mut [f32], seen: std::ops::Range<usize>) -> &mut [f32] {
    let (row, after) = row.split_at_mut(seen.end);
    let (before, row) = row.split_at_mut(seen.start);
    before.fill(0.0);
    after.fill(0.0);
    row
}

simd! {
    /// Scores to weights, 0 for hidden keys.
    fn softmax_rows(scores: &mut [f32], log_sums: &mut [f32], block: Block) {
        let Block { visible, scale, .. } = block;
        for (i, (row, log_sum)) in scores.chunks_exact_mut(visible).zip(log_sums).enumerate() {
            let row = only_seen(row, block.seen_by(i));
            let largest = max(row) * scale;
            for x in row.iter_mut() {
                *x = exp(*x * scale - largest);
            }
            let sum = sum1(row, |x| x);
            let inverse = 1.0 / sum;
            for x in row.iter_mut() {
                *x *= inverse;
            }
            *log_sum = largest + sum.ln();
        }
    }
}

simd! {
    /// `p` holds scores and becomes the weights; `dp` holds the gradient of the weights and becomes that of the unscaled
    /// scores. `outputs` are rows of the output and of its gradient, with their strides.
    fn softmax_backward_rows(
        p: &mut [f32],
        dp: &mut [f32],
        log_sums: &[f32],
        outputs: [(&[f32], usize); 2],
        width: usize,
        block: Block,
    ) {
        let Block { visible, scale, .. } = block;
        let [(out, out_stride), (dout, dout_stride)] = outputs;
        let rows = p.chunks_exact_mut(visible).zip(dp.chunks_exact_mut(visible));
        for (i, ((p, dp), log_sum)) in rows.zip(log_sums).enumerate() {
            let out = &out[i * out_stride..][..width];
            let delta = sum2(out, &dout[i * dout_stride..][..width], |out, dout| out * dout);
            let (p, dp) = (only_seen(p, block.seen_by(i)), only_seen(dp, block.seen_by(i)));
            for (p, dp) in p.iter_mut().zip(dp) {
                *p = exp(*p * scale - log_sum);
                *dp = *p * (*dp - delta) * scale;
            }
        }
    }
}
