//! Bias of a linear layer, forward and backward. The products themselves are Flex's.

use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::gemm::{Mat, MatMut, Threads, Write, matmul};
use super::math::simd;
use super::{add_pieces, dense, piece_rows, rows_and_width, tensor, values};

/// The product is added to rows that hold the bias.
pub(super) fn linear_bias(x: FlexTensor, w: FlexTensor, bias: FlexTensor) -> FlexTensor {
    let (x, w, bias) = (dense(x), dense(w), dense(bias));
    let ((n, i), (o, _)) = (rows_and_width(&x), rows_and_width(&w));
    let mut y = Vec::with_capacity(n * o);
    for _ in 0..n {
        y.extend_from_slice(values(&bias));
    }
    let (x, w) = (
        Mat::new(values(&x), n, i),
        Mat::new(values(&w), o, i).transposed(),
    );
    matmul(MatMut::new(&mut y, n, o), x, w, Write::Add, Threads::All);
    tensor(y, [n, o])
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
