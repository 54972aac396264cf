//! Attention, a head and a block of queries at a time. Inputs may be views of `[b, t, h, k]`; outputs and gradients are
//! such views, so that neither splitting nor joining heads copies.

use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::gemm::{Mat, Threads, Tiles, Write, matmul, transpose};
use super::math::{exp, max, simd, sum1, sum2};
use super::{dense, tensor, values};
use crate::ops::AttentionMask;

const QUERY_BLOCK: usize = 64;

/// Sizes of one call.
#[derive(Clone, Copy)]
struct Sizes {
    b: usize,
    h: usize,
    g: usize,
    t: usize,
    s: usize,
    k: usize,
    mask: AttentionMask,
}

/// Queries `start .. start + len` of a head, of which none sees a key outside `first .. first + visible`. Counted from
/// `first`, query `i` of the block sees the `window` keys before `seen + i * step`, or as many as there are.
#[derive(Clone, Copy)]
struct Block {
    start: usize,
    len: usize,
    first: usize,
    visible: usize,
    seen: usize,
    step: usize,
    window: usize,
    scale: f32,
}

impl Block {
    /// Keys that query `i` sees, counted from `first`.
    #[inline(always)]
    fn seen_by(&self, i: usize) -> std::ops::Range<usize> {
        let end = self.seen + i * self.step;
        end.saturating_sub(self.window)..end
    }
}

impl Sizes {
    fn new(q: &FlexTensor, keys: &FlexTensor, mask: AttentionMask) -> Self {
        let (q, keys) = (q.layout().shape(), keys.layout().shape());
        Self {
            b: q[0],
            h: q[1],
            g: keys[1],
            t: q[2],
            s: keys[2],
            k: q[3],
            mask,
        }
    }

    fn blocks(self) -> impl DoubleEndedIterator<Item = Block> {
        let Self { t, s, k, mask, .. } = self;
        let scale = (1.0 / (k as f64).sqrt()) as f32;
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

    /// From the first element of a head on.
    fn head(&self, b: usize, head: usize) -> &[f32] {
        let start = self.x.layout().start_offset() + b * self.strides[0] + head * self.strides[1];
        &self.x.storage()[start..]
    }

    fn row_stride(&self) -> usize {
        self.strides[2]
    }

    /// `[k, len]` of a head, into scratch. A right operand in this order needs no slow packing, and one copy serves every
    /// block of queries.
    fn transpose<'a>(&self, b: usize, head: usize, scratch: &'a mut Vec<f32>) -> Transposed<'a> {
        let data = sized(scratch, self.k * self.len);
        transpose(data, self.head(b, head), self.len, self.k, self.row_stride());
        Transposed {
            data,
            len: self.len,
            k: self.k,
        }
    }

    /// `[len, k]` of a head, from row `start` on.
    fn rows(&self, b: usize, head: usize, start: usize, len: usize) -> Mat<'_> {
        debug_assert!(start + len <= self.len);
        let from = &self.head(b, head)[start * self.row_stride()..];
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

/// The output, and the log-sum-exp of each query's scaled scores `[b, h, t]`.
pub(super) fn forward(
    q: FlexTensor,
    k: FlexTensor,
    v: FlexTensor,
    mask: AttentionMask,
) -> (FlexTensor, FlexTensor) {
    let sizes = Sizes::new(&q, &k, mask);
    let Sizes {
        b, h, g, t, k: width, ..
    } = sizes;
    let (q, keys, vals) = (Heads::new(q), Heads::new(k), Heads::new(v));
    let mut out = vec![0.0; b * t * h * width];
    let mut log_sums = vec![0.0; b * h * t];
    let tiles = Tiles::new(&mut out);
    log_sums.par_chunks_mut(t.max(1)).enumerate().for_each_init(
        Scratch::default,
        |scratch, (unit, log_sums)| {
            let (batch, head) = (unit / h, unit % h);
            let group = head / (h / g);
            let transposed_keys = keys.transpose(batch, group, &mut scratch.keys);
            for block in sizes.blocks() {
                let Block {
                    start,
                    len,
                    first,
                    visible,
                    ..
                } = block;
                let scores = sized(&mut scratch.p, len * visible);
                let queries = q.rows(batch, head, start, len);
                product(scores, len, visible, queries, transposed_keys.of(block));
                softmax_rows(scores, &mut log_sums[start..start + len], block);
                #[expect(unsafe_code, reason = "heads are interleaved in the output")]
                // SAFETY: the tile is rows start.. of this head of this batch element, which no other unit writes.
                let tile =
                    unsafe { tiles.tile(((batch * t + start) * h + head) * width, len, width, h * width) };
                let weights = Mat::new(scores, len, visible);
                matmul(
                    tile,
                    weights,
                    vals.rows(batch, group, first, visible),
                    Write::Overwrite,
                    Threads::One,
                );
            }
        },
    );
    (heads_first(out, [b, t, h, width]), tensor(log_sums, [b, h, t]))
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
    mask: AttentionMask,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let sizes = Sizes::new(&q, &k, mask);
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
    let mut dq = vec![0.0; b * t * h * width];
    let (mut dk, mut dv) = (vec![0.0; b * s * g * width], vec![0.0; b * s * g * width]);
    let gradients = Gradients {
        dq: Tiles::new(&mut dq),
        dk: Tiles::new(&mut dk),
        dv: Tiles::new(&mut dv),
    };
    (0..b * g)
        .into_par_iter()
        .for_each_init(Scratch::default, |scratch, unit| {
            saved.backward_group(sizes, unit / g, unit % g, &gradients, scratch);
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
    /// Gradients of a key/value head and of its query heads.
    fn backward_group(
        &self,
        sizes: Sizes,
        batch: usize,
        group: usize,
        gradients: &Gradients<'_>,
        scratch: &mut Scratch,
    ) {
        let Sizes {
            h, g, t, s, k: width, ..
        } = sizes;
        let transposed_keys = self.keys.transpose(batch, group, &mut scratch.keys);
        let transposed_vals = self.vals.transpose(batch, group, &mut scratch.vals);
        // Backwards: without a window the last block sees every key, so its products overwrite all of dk and dv.
        let mut write = match sizes.mask {
            AttentionMask::Full | AttentionMask::Causal => Write::Overwrite,
            AttentionMask::SlidingWindow { .. } => Write::Add,
        };
        let heads = group * (h / g)..(group + 1) * (h / g);
        for (head, block) in heads.flat_map(|head| sizes.blocks().rev().map(move |block| (head, block))) {
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
            let queries = self.q.rows(batch, head, start, len);
            let douts = self.dout.rows(batch, head, start, len);
            product(p, len, visible, queries, transposed_keys.of(block));
            product(dp, len, visible, douts, transposed_vals.of(block));
            let log_sums = &values(&self.log_sum)[(batch * h + head) * t + start..][..len];
            let outputs = [&self.out, &self.dout]
                .map(|x| (&x.head(batch, head)[start * x.row_stride()..], x.row_stride()));
            softmax_backward_rows(p, dp, log_sums, outputs, width, block);
            let (p, ds) = (Mat::new(p, len, visible), Mat::new(dp, len, visible));
            let at_keys = ((batch * s + first) * g + group) * width;
            #[expect(unsafe_code, reason = "heads are interleaved in the gradients")]
            // SAFETY: rows of this head, or of this group, of this batch element, which no other unit writes.
            let (dq, dk, dv) = unsafe {
                (
                    gradients
                        .dq
                        .tile(((batch * t + start) * h + head) * width, len, width, h * width),
                    gradients.dk.tile(at_keys, visible, width, g * width),
                    gradients.dv.tile(at_keys, visible, width, g * width),
                )
            };
            matmul(
                dq,
                ds,
                self.keys.rows(batch, group, first, visible),
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
