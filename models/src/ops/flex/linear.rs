//! Linear layers, forward and backward.

use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::gemm::{Mat, MatMut, Threads, Write, matmul, matmul_transposed};
use super::math::simd;
use super::{add_pieces, dense, piece_rows, rows_and_width, tensor, values};

/// `x · wᵀ`
pub(super) fn forward(x: FlexTensor, w: FlexTensor) -> FlexTensor {
    let (x, w) = (dense(x), dense(w));
    let ((n, i), (o, _)) = (rows_and_width(&x), rows_and_width(&w));
    let mut y = vec![0.0; n * o];
    let (x, w) = (Mat::new(values(&x), n, i), Mat::new(values(&w), o, i));
    matmul_transposed(MatMut::new(&mut y, n, o), x, w, Write::Overwrite);
    tensor(y, [n, o])
}

/// The product is added to rows that hold the bias.
pub(super) fn forward_with_bias(x: FlexTensor, w: FlexTensor, bias: FlexTensor) -> FlexTensor {
    let (x, w, bias) = (dense(x), dense(w), dense(bias));
    let ((n, i), (o, _)) = (rows_and_width(&x), rows_and_width(&w));
    let mut y = Vec::with_capacity(n * o);
    for _ in 0..n {
        y.extend_from_slice(values(&bias));
    }
    let (x, w) = (Mat::new(values(&x), n, i), Mat::new(values(&w), o, i));
    matmul_transposed(MatMut::new(&mut y, n, o), x, w, Write::Add);
    tensor(y, [n, o])
}

/// `dy · w`
pub(super) fn dx(dy: FlexTensor, w: FlexTensor) -> FlexTensor {
    let (dy, w) = (dense(dy), dense(w));
    let ((n, o), (_, i)) = (rows_and_width(&dy), rows_and_width(&w));
    let mut dx = vec![0.0; n * i];
    let (dy, w) = (Mat::new(values(&dy), n, o), Mat::new(values(&w), o, i));
    matmul(MatMut::new(&mut dx, n, i), dy, w, Write::Overwrite, Threads::All);
    tensor(dx, [n, i])
}

/// `dyᵀ · x`
pub(super) fn dw(dy: FlexTensor, x: FlexTensor) -> FlexTensor {
    let (dy, x) = (dense(dy), dense(x));
    let ((n, o), (_, i)) = (rows_and_width(&dy), rows_and_width(&x));
    let mut dw = vec![0.0; o * i];
    let (dy, x) = (
        Mat::new(values(&dy), n, o).transposed(),
        Mat::new(values(&x), n, i),
    );
    matmul(MatMut::new(&mut dw, o, i), dy, x, Write::Overwrite, Threads::All);
    tensor(dw, [o, i])
}

pub(super) fn column_sum(x: FlexTensor) -> FlexTensor {
    let x = dense(x);
    let (n, d) = rows_and_width(&x);
    let piece = piece_rows(n, d) * d;
    let mut sums = vec![0.0; (n * d).div_ceil(piece.max(1)) * d];
    (sums.par_chunks_mut(d.max(1)).zip(values(&x).par_chunks(piece)))
        .for_each(|(sum, rows)| add_rows(sum, rows));
    tensor(add_pieces(&sums, d), [d])
}

simd! {
    fn add_rows(sum: &mut [f32], rows: &[f32]) {
        for row in rows.chunks_exact(sum.len()) {
            for (sum, &x) in sum.iter_mut().zip(row) {
                *sum += x;
            }
        }
    }
}
