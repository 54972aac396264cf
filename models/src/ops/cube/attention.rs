//! Softmax attention over chunks of queries: products of matrices, and between them one kernel for all that is done to scores.
//!
//! Operands of products are in the dtype of the inputs, what is added up is f32. Scores of a chunk exist for a moment, so memory
//! grows with the length of a row, not with its square.

mod kernels;

use std::{
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
};

use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::{
    kernel::{
        cast, into_contiguous,
        matmul::{MatmulStrategy, matmul},
        slice,
    },
    ops::{permute, reshape},
    tensor::CubeTensor,
};
use cubecl::{CubeDim, bytes::Bytes, prelude::*};

use super::{flat, like, storage, units, zeros_like};
use crate::ops::{AttentionMask, Visible};

/// Queries of a chunk where later ones see more keys: larger chunks compute more that nobody sees.
const CHUNK_QUERIES: usize = 256;
/// Bounds of keys are multiples of this where that is possible: slices are then views, and products have whole tiles.
const KEY_STEP: usize = 64;
/// Bytes that a backward pass has for each score: the score, its weight, and the gradients of both.
const BYTES_PER_SCORE: usize = 12;

/// Scores of a chunk, of all heads.
static CHUNK_SCORES: AtomicUsize = AtomicUsize::new(1 << 26);

/// How much memory the scores of attention may take on a GPU at a time, with what is computed from them: 768 MiB if nothing
/// else is said. Less makes more and smaller matrices.
pub fn keep_scores_below(num_bytes: usize) {
    CHUNK_SCORES.store((num_bytes / BYTES_PER_SCORE).max(1), Ordering::Relaxed);
}

/// Sizes of one call, and which keys are seen.
struct Call {
    b: usize,
    h: usize,
    g: usize,
    t: usize,
    s: usize,
    k: usize,
    dtype: DType,
    /// For each place, the keys that its query sees; none in the padding.
    visible: Vec<Range<usize>>,
    /// First and end of those, on the device.
    first: CubeTensor,
    end: CubeTensor,
    /// Places of a row of the batch: 0 if all rows have the same.
    row_places: usize,
    has_mask: bool,
}

/// Queries `start .. start + len` of some rows of the batch, of which none sees a key outside `keys`.
struct Chunk {
    rows: Range<usize>,
    start: usize,
    len: usize,
    keys: Range<usize>,
}

/// For each query of each row, or of one row that stands for all, the keys that it sees.
fn visible_keys(visible: &Visible, t: usize, s: usize) -> Vec<Range<usize>> {
    let by_mask = |query: usize| match visible.mask {
        AttentionMask::Full => 0..s,
        AttentionMask::Causal => 0..s - t + query + 1,
        AttentionMask::SlidingWindow { window } => {
            let end = s - t + query + 1;
            end.saturating_sub(window)..end
        }
    };
    let Some(segments) = &visible.segments else {
        return (0..t).map(by_mask).collect();
    };
    let mut keys = vec![0..0; segments.rows() * t];
    for row in 0..segments.rows() {
        for segment in segments.of_row(row) {
            for query in segment.clone() {
                let seen = by_mask(query);
                keys[row * t + query] = seen.start.max(segment.start)..seen.end.min(segment.end);
            }
        }
    }
    keys
}

impl Call {
    fn new(q: &CubeTensor, keys: &CubeTensor, visible: &Visible) -> Self {
        let (q_shape, keys_shape) = (q.shape(), keys.shape());
        let (t, s) = (q_shape[2], keys_shape[2]);
        let seen = visible_keys(visible, t, s);
        let upload = |bounds: Vec<u32>| {
            let shape = Shape::from([bounds.len()]);
            let bytes = bounds.iter().flat_map(|bound| bound.to_le_bytes()).collect();
            let handle = q.client.create(Bytes::from_bytes_vec(bytes));
            CubeTensor::new_contiguous(q.client.clone(), q.device.clone(), shape, handle, DType::U32)
        };
        Self {
            b: q_shape[0],
            h: q_shape[1],
            g: keys_shape[1],
            t,
            s,
            k: q_shape[3],
            dtype: q.dtype,
            first: upload(seen.iter().map(|keys| keys.start as u32).collect()),
            end: upload(seen.iter().map(|keys| keys.end as u32).collect()),
            row_places: if visible.segments.is_some() { t } else { 0 },
            has_mask: visible.mask != AttentionMask::Full || visible.segments.is_some(),
            visible: seen,
        }
    }

    fn scale(&self) -> f32 {
        (self.k as f32).sqrt().recip()
    }

    /// As many rows at once as can have enough queries each.
    fn chunks(&self) -> Vec<Chunk> {
        let most = CHUNK_SCORES.load(Ordering::Relaxed);
        let wanted = if self.has_mask {
            self.t.min(CHUNK_QUERIES)
        } else {
            self.t
        };
        let of_query = self.h * self.s;
        let rows = (most / (of_query * wanted)).clamp(1, self.b);
        let len = (most / (of_query * rows)).clamp(1, wanted);
        let mut chunks = Vec::new();
        for first in (0..self.b).step_by(rows) {
            for start in (0..self.t).step_by(len) {
                let rows = first..self.b.min(first + rows);
                chunks.push(self.chunk(rows, start..self.t.min(start + len)));
            }
        }
        chunks
    }

    fn chunk(&self, rows: Range<usize>, queries: Range<usize>) -> Chunk {
        let places = rows.clone().map(|row| row * self.row_places);
        let seen = places.flat_map(|place| &self.visible[place + queries.start..place + queries.end]);
        let seen = seen.filter(|keys| !keys.is_empty());
        // Of a chunk that is all padding one key is looked at, by nobody.
        let first = seen.clone().map(|keys| keys.start).min().unwrap_or(0);
        let end = seen.map(|keys| keys.end).max().unwrap_or(1);
        Chunk {
            rows,
            start: queries.start,
            len: queries.len(),
            keys: first / KEY_STEP * KEY_STEP..end.next_multiple_of(KEY_STEP).min(self.s),
        }
    }

    fn is_whole(&self, chunk: &Chunk) -> bool {
        chunk.len == self.t && chunk.rows.len() == self.b
    }

    /// Rows of a chunk's matrices, over all heads.
    fn rows(&self, chunk: &Chunk) -> usize {
        chunk.rows.len() * self.h * chunk.len
    }

    /// Shape of what a chunk has for each query: a group's heads are on one axis, so keys need not be repeated.
    fn grouped(&self, chunk: &Chunk, width: usize) -> Shape {
        Shape::from([chunk.rows.len(), self.g, self.h / self.g * chunk.len, width])
    }

    fn span(&self, chunk: &Chunk) -> kernels::SpanLaunch {
        kernels::SpanLaunch::new(
            self.h,
            chunk.rows.start * self.h,
            self.t,
            chunk.start,
            chunk.len,
            self.row_places,
            chunk.rows.start * self.g,
            self.s,
            chunk.keys.start,
            chunk.keys.len(),
        )
    }

    /// Of a contiguous `[b, h, t, k]` the chunk's queries, `[b, g, (h/g) len, k]`.
    fn take(&self, x: &CubeTensor, chunk: &Chunk) -> CubeTensor {
        if self.is_whole(chunk) {
            return reshape(x.clone(), self.grouped(chunk, self.k));
        }
        let out = like(x, self.grouped(chunk, self.k), self.dtype);
        let (count, dim) = units(x, self.rows(chunk) * self.k);
        kernels::take_queries::launch(
            &x.client,
            count,
            dim,
            flat(x),
            flat(&out),
            self.span(chunk),
            self.k,
            storage(self.dtype),
        );
        out
    }

    /// Puts a chunk's queries into a contiguous `[b, h, t, k]`, which is made with the first ones.
    fn put(&self, whole: &mut Option<CubeTensor>, x: CubeTensor, chunk: &Chunk) {
        let shape = Shape::from([self.b, self.h, self.t, self.k]);
        if self.is_whole(chunk) {
            *whole = Some(reshape(x, shape));
            return;
        }
        let whole = whole.get_or_insert_with(|| like(&x, shape, self.dtype));
        let (count, dim) = units(&x, self.rows(chunk) * self.k);
        kernels::put_queries::launch(
            &x.client,
            count,
            dim,
            flat(&x),
            flat(whole),
            self.span(chunk),
            self.k,
            storage(self.dtype),
        );
    }

    /// The keys that a chunk sees.
    fn seen(&self, x: &CubeTensor, chunk: &Chunk) -> CubeTensor {
        match chunk.keys.len() == self.s && chunk.rows.len() == self.b {
            true => x.clone(),
            false => slice(
                x.clone(),
                &[chunk.rows.clone(), 0..self.g, chunk.keys.clone(), 0..self.k],
            ),
        }
    }

    /// Adds a chunk's part of a gradient, f32, to `[b, g, s, k]`.
    fn add(&self, sum: &mut Option<CubeTensor>, part: CubeTensor, chunk: &Chunk) {
        if self.is_whole(chunk) && chunk.keys.len() == self.s {
            *sum = Some(part);
            return;
        }
        let sum = sum.get_or_insert_with(|| {
            let shape = Shape::from([self.b, self.g, self.s, self.k]);
            zeros_like(&part, shape, DType::F32)
        });
        let (count, dim) = units(&part, part.shape().num_elements());
        kernels::add_keys::launch(
            &part.client,
            count,
            dim,
            flat(&part),
            flat(sum),
            self.span(chunk),
            self.k,
        );
    }
}

/// A cube for each of `rows`.
fn cubes(rows: usize) -> (CubeCount, CubeDim) {
    // Devices count cubes in 16 bits for each axis.
    let wide = rows.clamp(1, 1 << 15);
    let count = CubeCount::Static(wide as u32, rows.div_ceil(wide) as u32, 1);
    (count, CubeDim::new_1d(kernels::ROW_UNITS))
}

fn transposed(x: CubeTensor) -> CubeTensor {
    permute(x, &[0, 1, 3, 2])
}

/// `x · y`, added up in f32; without padding.
fn product(x: CubeTensor, y: CubeTensor, dtype: DType) -> CubeTensor {
    let (rows, columns) = (x.shape(), y.shape());
    let out = like(&x, Shape::from([rows[0], rows[1], rows[2], columns[3]]), dtype);
    match matmul(x, y, Some(out), MatmulStrategy::default(), dtype) {
        Ok(product) => product,
        Err(error) => unreachable!("shapes are those of an attention: {error:?}"),
    }
}

/// See [`crate::ops::kernels::ModelOps::attention_forward`].
pub(in crate::ops) fn attention(
    q: CubeTensor,
    keys: CubeTensor,
    values: CubeTensor,
    visible: &Visible,
) -> (CubeTensor, CubeTensor) {
    let call = Call::new(&q, &keys, visible);
    let q = into_contiguous(q);
    let log_sums = like(&q, Shape::from([call.b, call.h, call.t]), DType::F32);
    let mut out = None;
    for chunk in call.chunks() {
        let seen = transposed(call.seen(&keys, &chunk));
        let scores = product(call.take(&q, &chunk), seen, DType::F32);
        let weights = like(&q, call.grouped(&chunk, chunk.keys.len()), call.dtype);
        let rows = call.rows(&chunk);
        let (count, dim) = cubes(rows);
        kernels::softmax_rows::launch(
            &q.client,
            count,
            dim,
            flat(&scores),
            flat(&call.first),
            flat(&call.end),
            flat(&weights),
            flat(&log_sums),
            call.span(&chunk),
            rows,
            call.scale(),
            storage(call.dtype),
        );
        let values = call.seen(&values, &chunk);
        call.put(&mut out, product(weights, values, call.dtype), &chunk);
    }
    (out.unwrap_or(q), log_sums)
}

/// See [`crate::ops::kernels::ModelOps::attention_backward`] and, for the formulas, [`crate::ops::generic::attention_backward`].
pub(in crate::ops) fn attention_backward(
    [q, keys, values]: [CubeTensor; 3],
    out: CubeTensor,
    log_sums: CubeTensor,
    dout: CubeTensor,
    visible: &Visible,
) -> (CubeTensor, CubeTensor, CubeTensor) {
    let call = Call::new(&q, &keys, visible);
    let [q, out, log_sums, dout] = [q, out, log_sums, dout].map(into_contiguous);
    let projections = projections(&call, &out, &dout);
    let (mut dq, mut dkeys, mut dvalues) = (None, None, None);
    for chunk in call.chunks() {
        let (seen_keys, seen_values) = (call.seen(&keys, &chunk), call.seen(&values, &chunk));
        let (q, dout) = (call.take(&q, &chunk), call.take(&dout, &chunk));
        let scores = product(q.clone(), transposed(seen_keys.clone()), DType::F32);
        let dweights = product(dout.clone(), transposed(seen_values), DType::F32);
        let shape = call.grouped(&chunk, chunk.keys.len());
        let (weights, dscores) = (like(&q, shape.clone(), call.dtype), like(&q, shape, call.dtype));
        let (count, dim) = units(&q, call.rows(&chunk) * chunk.keys.len());
        kernels::softmax_rows_backward::launch(
            &q.client,
            count,
            dim,
            flat(&scores),
            flat(&dweights),
            flat(&call.first),
            flat(&call.end),
            flat(&log_sums),
            flat(&projections),
            flat(&weights),
            flat(&dscores),
            call.span(&chunk),
            call.rows(&chunk),
            call.scale(),
            storage(call.dtype),
        );
        call.add(
            &mut dvalues,
            product(transposed(weights), dout, DType::F32),
            &chunk,
        );
        call.add(
            &mut dkeys,
            product(transposed(dscores.clone()), q, DType::F32),
            &chunk,
        );
        call.put(&mut dq, product(dscores, seen_keys, call.dtype), &chunk);
    }
    let of_keys = |sum: Option<CubeTensor>| match sum {
        Some(sum) => cast(sum, call.dtype),
        None => keys.clone(),
    };
    (dq.unwrap_or(q), of_keys(dkeys), of_keys(dvalues))
}

/// For each query the sum of `dout * out`, `[b, h, t]`.
fn projections(call: &Call, out: &CubeTensor, dout: &CubeTensor) -> CubeTensor {
    let projections = like(out, Shape::from([call.b, call.h, call.t]), DType::F32);
    let rows = call.b * call.h * call.t;
    let (count, dim) = units(out, rows);
    kernels::row_products::launch(
        &out.client,
        count,
        dim,
        flat(out),
        flat(dout),
        flat(&projections),
        rows,
        call.k,
        storage(call.dtype),
    );
    projections
}
