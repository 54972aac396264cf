//! Linear layers, forward and backward.

use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::gemm::{Mat, MatMut, Write, matmul_transposed, product, product_transposed};
use super::math::simd;
use super::{add_pieces, dense, in_pieces, piece_rows, rows_and_width, tensor, values};

/// `x · wᵀ`
pub(super) fn forward(x: FlexTensor, w: FlexTensor) -> FlexTensor {
    let (x, w) = (dense(x), dense(w));
    let ((n, i), (o, _)) = (rows_and_width(&x), rows_and_width(&w));
    let (x, w) = (Mat::new(values(&x), n, i), Mat::new(values(&w), o, i));
    tensor(product_transposed(x, w), [n, o])
}

/// The product is added to rows that hold the bias.
pub(super) fn forward_with_bias(x: FlexTensor, w: FlexTensor, bias: FlexTensor) -> FlexTensor {
    let (x, w, bias) = (dense(x), dense(w), dense(bias));
    let ((n, i), (o, _)) = (rows_and_width(&x), rows_and_width(&w));
    let rows = piece_rows(n, o);
    let mut y = in_pieces(n * o, rows * o, |_, y| {
        for row in y.chunks_exact_mut(o) {
            row.copy_from_slice(values(&bias));
        }
    });
    let (x, w) = (Mat::new(values(&x), n, i), Mat::new(values(&w), o, i));
    matmul_transposed(MatMut::new(&mut y, n, o), x, w, Write::Add);
    tensor(y, [n, o])
}

/// `dy · w`
pub(super) fn dx(dy: FlexTensor, w: FlexTensor) -> FlexTensor {
    let (dy, w) = (dense(dy), dense(w));
    let ((n, o), (_, i)) = (rows_and_width(&dy), rows_and_width(&w));
    let (dy, w) = (Mat::new(values(&dy), n, o), Mat::new(values(&w), o, i));
    tensor(product(dy, w), [n, i])
}

/// `dyᵀ · x`
pub(super) fn dw(dy: FlexTensor, x: FlexTensor) -> FlexTensor {
    let (dy, x) = (dense(dy), dense(x));
    let ((n, o), (_, i)) = (rows_and_width(&dy), rows_and_width(&x));
    let (dy, x) = (Mat::new(values(&dy), n, o), Mat::new(values(&x), n, i));
    tensor(product(dy.transposed(), x), [o, i])
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
