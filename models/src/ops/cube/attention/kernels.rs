//! What is done to the scores of a chunk of queries, and to rows on their way there and back.

use cubecl::prelude::*;

/// Units that share a row of scores; a power of two.
pub(super) const ROW_UNITS: u32 = 128;
/// Less than any score.
const LOWEST: f32 = -3.0e38;

/// Which queries and keys the rows and columns of a chunk's matrices are. Row `(head * len) + i` is query `start + i` of a head;
/// heads, and key heads, are counted through all rows of the batch.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
pub(super) struct Span {
    /// Query heads of a row of the batch.
    heads: usize,
    /// The chunk's first query head.
    first_head: usize,
    /// Queries of a head.
    t: usize,
    /// The chunk's first query.
    start: usize,
    /// The chunk's queries.
    len: usize,
    /// Places of a row of the batch, or 0 if one row stands for all.
    row_places: usize,
    /// The chunk's first key head.
    first_key_head: usize,
    /// Keys of a key head.
    s: usize,
    /// The first column's key.
    first_key: usize,
    /// Columns.
    keys: usize,
}

/// The query of a row, among those of all heads.
#[cube]
fn query(span: &Span, row: usize) -> usize {
    (span.first_head + row / span.len) * span.t + span.start + row % span.len
}

/// Where the bounds of a row's query are.
#[cube]
fn place(span: &Span, row: usize) -> usize {
    (span.first_head + row / span.len) / span.heads * span.row_places + span.start + row % span.len
}

/// The column of a key; 0 for keys before the first column.
#[cube]
fn column(span: &Span, key: u32) -> usize {
    max(key as usize, span.first_key) - span.first_key
}

/// The largest, or the sum, of what the units of a cube have.
#[cube]
fn of_all_units(own: f32, shared: &mut Shared<[f32]>, #[comptime] is_sum: bool) -> f32 {
    let unit = UNIT_POS as usize;
    shared[unit] = own;
    sync_cube();
    let mut half = (ROW_UNITS as usize / 2).runtime();
    while half > 0 {
        if unit < half {
            if comptime!(is_sum) {
                shared[unit] += shared[unit + half];
            } else {
                shared[unit] = max(shared[unit], shared[unit + half]);
            }
        }
        sync_cube();
        half /= 2;
    }
    let all = shared[0];
    sync_cube();
    all
}

/// Softmax of each row over the keys that its query sees; 0 for the others. A cube has one row.
#[cube(launch)]
pub(super) fn softmax_rows<F: Float>(
    scores: &Tensor<f32>,
    first: &Tensor<u32>,
    end: &Tensor<u32>,
    weights: &mut Tensor<F>,
    log_sums: &mut Tensor<f32>,
    span: &Span,
    rows: usize,
    scale: f32,
    #[define(F)] _dtype: ElemType,
) {
    let row = CUBE_POS;
    if row >= rows {
        terminate!();
    }
    let mut shared = Shared::<[f32]>::new_slice(comptime!(ROW_UNITS as usize));
    let units = CUBE_DIM as usize;
    let at = place(span, row);
    let (begin, end) = (column(span, first[at]), column(span, end[at]));
    let start = row * span.keys;
    let mut largest = LOWEST.runtime();
    let mut key = begin + UNIT_POS as usize;
    while key < end {
        largest = max(largest, scores[start + key] * scale);
        key += units;
    }
    let largest = of_all_units(largest, &mut shared, false);
    let mut sum = 0.0f32.runtime();
    let mut key = begin + UNIT_POS as usize;
    while key < end {
        sum += (scores[start + key] * scale - largest).exp();
        key += units;
    }
    let sum = of_all_units(sum, &mut shared, true);
    let mut key = UNIT_POS as usize;
    while key < span.keys {
        let mut weight = 0.0f32.runtime();
        if key >= begin && key < end {
            weight = (scores[start + key] * scale - largest).exp() / sum;
        }
        weights[start + key] = F::cast_from(weight);
        key += units;
    }
    if UNIT_POS == 0 {
        // A query that sees nothing has no sum.
        let mut log_sum = 0.0f32.runtime();
        if begin < end {
            log_sum = largest + sum.ln();
        }
        log_sums[query(span, row)] = log_sum;
    }
}

/// The weights again, and the gradient of the scores: `weight (dweight - projection) scale`.
#[cube(launch)]
pub(super) fn softmax_rows_backward<F: Float>(
    scores: &Tensor<f32>,
    dweights: &Tensor<f32>,
    first: &Tensor<u32>,
    end: &Tensor<u32>,
    log_sums: &Tensor<f32>,
    projections: &Tensor<f32>,
    weights: &mut Tensor<F>,
    dscores: &mut Tensor<F>,
    span: &Span,
    rows: usize,
    scale: f32,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at >= rows * span.keys {
        terminate!();
    }
    let (row, key) = (at / span.keys, at % span.keys);
    let place = place(span, row);
    let mut weight = 0.0f32.runtime();
    let mut dscore = 0.0f32.runtime();
    if key >= column(span, first[place]) && key < column(span, end[place]) {
        let query = query(span, row);
        weight = (scores[at] * scale - log_sums[query]).exp();
        dscore = weight * (dweights[at] - projections[query]) * scale;
    }
    weights[at] = F::cast_from(weight);
    dscores[at] = F::cast_from(dscore);
}

/// Dot products of the rows of two matrices of `width` columns. A unit has one row.
#[cube(launch)]
pub(super) fn row_products<F: Float>(
    x: &Tensor<F>,
    y: &Tensor<F>,
    products: &mut Tensor<f32>,
    rows: usize,
    width: usize,
    #[define(F)] _dtype: ElemType,
) {
    let row = ABSOLUTE_POS;
    if row >= rows {
        terminate!();
    }
    let mut sum = 0.0f32.runtime();
    for column in 0..width {
        let at = row * width + column;
        sum += f32::cast_from(x[at]) * f32::cast_from(y[at]);
    }
    products[row] = sum;
}

/// A chunk's queries out of those of all heads, of `width` values each.
#[cube(launch)]
pub(super) fn take_queries<F: Float>(
    x: &Tensor<F>,
    out: &mut Tensor<F>,
    span: &Span,
    width: usize,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at < out.len() {
        out[at] = x[query(span, at / width) * width + at % width];
    }
}

/// The inverse of [`take_queries`].
#[cube(launch)]
pub(super) fn put_queries<F: Float>(
    x: &Tensor<F>,
    out: &mut Tensor<F>,
    span: &Span,
    width: usize,
    #[define(F)] _dtype: ElemType,
) {
    let at = ABSOLUTE_POS;
    if at < x.len() {
        out[query(span, at / width) * width + at % width] = x[at];
    }
}

/// Adds what a chunk gives to the keys that it sees, of `width` values.
#[cube(launch)]
pub(super) fn add_keys(part: &Tensor<f32>, sum: &mut Tensor<f32>, span: &Span, width: usize) {
    let at = ABSOLUTE_POS;
    if at < part.len() {
        let (row, column) = (at / width, at % width);
        let key = (span.first_key_head + row / span.keys) * span.s + span.first_key + row % span.keys;
        sum[key * width + column] += part[at];
    }
}
