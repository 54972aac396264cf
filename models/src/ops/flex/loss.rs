//! Cross-entropy of a linear layer, over chunks of rows.

use burn::backend::{Flex, tensor::IntTensor};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::gemm::{Mat, MatMut, Threads, Write, matmul, matmul_transposed};
use super::math::{exp, max, simd, sum1};
use super::{dense, piece_rows, rows, rows_and_width, tensor, values};
use crate::ops::logit_rows;

pub(super) fn forward(h: FlexTensor, w: FlexTensor, targets: IntTensor<Flex>) -> FlexTensor {
    let mut call = Call::new(h, w, targets);
    call.run(|_, _, _| ());
    call.loss()
}

pub(super) fn with_dh(h: FlexTensor, w: FlexTensor, targets: IntTensor<Flex>) -> (FlexTensor, FlexTensor) {
    let mut call = Call::new(h, w, targets);
    let (n, d) = rows_and_width(&call.h);
    let mut dh = vec![0.0; n * d];
    call.run(|start, dlogits, call| call.add_dh(start, dlogits, &mut dh));
    (call.loss(), tensor(dh, [n, d]))
}

pub(super) fn with_dh_dw(
    h: FlexTensor,
    w: FlexTensor,
    targets: IntTensor<Flex>,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let mut call = Call::new(h, w, targets);
    let ((n, d), (v, _)) = (rows_and_width(&call.h), rows_and_width(&call.w));
    let (mut dh, mut dw) = (vec![0.0; n * d], vec![0.0; v * d]);
    call.run(|start, dlogits, call| {
        call.add_dh(start, dlogits, &mut dh);
        let rows = dlogits.len() / v;
        let h = Mat::new(&values(&call.h)[start * d..], rows, d);
        let dlogits = Mat::new(dlogits, rows, v).transposed();
        let write = if start == 0 { Write::Overwrite } else { Write::Add };
        matmul(MatMut::new(&mut dw, v, d), dlogits, h, write, Threads::All);
    });
    (call.loss(), tensor(dh, [n, d]), tensor(dw, [v, d]))
}

struct Call {
    h: FlexTensor,
    w: FlexTensor,
    targets: Vec<usize>,
    losses: Vec<f32>,
}

impl Call {
    fn new(h: FlexTensor, w: FlexTensor, targets: IntTensor<Flex>) -> Self {
        let targets = rows::indices(targets);
        Self {
            h: dense(h),
            w: dense(w),
            losses: vec![0.0; targets.len()],
            targets,
        }
    }

    /// Calls `with_chunk(first row, gradient of the chunk's logits, self)` for every chunk.
    fn run(&mut self, mut with_chunk: impl FnMut(usize, &[f32], &Self)) {
        let ((n, d), (v, _)) = (rows_and_width(&self.h), rows_and_width(&self.w));
        let size = logit_rows(n, v);
        let mut logits = vec![0.0; size * v];
        let mut losses = std::mem::take(&mut self.losses);
        for start in (0..n).step_by(size) {
            let rows = size.min(n - start);
            let logits = &mut logits[..rows * v];
            let h = Mat::new(&values(&self.h)[start * d..], rows, d);
            let w = Mat::new(values(&self.w), v, d);
            matmul_transposed(MatMut::new(logits, rows, v), h, w, Write::Overwrite);
            let piece = piece_rows(rows, v);
            (logits.par_chunks_mut(piece * v))
                .zip(losses[start..start + rows].par_chunks_mut(piece))
                .zip(self.targets[start..start + rows].par_chunks(piece))
                .for_each(|((logits, losses), targets)| cross_entropy_rows(logits, losses, targets));
            with_chunk(start, logits, self);
        }
        self.losses = losses;
    }

    fn add_dh(&self, start: usize, dlogits: &[f32], dh: &mut [f32]) {
        let (v, d) = rows_and_width(&self.w);
        let rows = dlogits.len() / v;
        let dh = MatMut::new(&mut dh[start * d..(start + rows) * d], rows, d);
        let w = Mat::new(values(&self.w), v, d);
        matmul(dh, Mat::new(dlogits, rows, v), w, Write::Overwrite, Threads::All);
    }

    fn loss(&self) -> FlexTensor {
        let sum: f64 = self.losses.iter().map(|&loss| f64::from(loss)).sum();
        tensor(vec![sum as f32], [1])
    }
}

simd! {
    /// Logits become the gradient of the sum of losses.
    fn cross_entropy_rows(logits: &mut [f32], losses: &mut [f32], targets: &[usize]) {
        let v = logits.len() / losses.len();
        for (row, (loss, &target)) in logits.chunks_exact_mut(v).zip(losses.iter_mut().zip(targets)) {
            let largest = max(row);
            let picked = row[target];
            for x in row.iter_mut() {
                *x = exp(*x - largest);
            }
            let sum = sum1(row, |x| x);
            let inverse = 1.0 / sum;
            for x in row.iter_mut() {
                *x *= inverse;
            }
            row[target] -= 1.0;
            *loss = largest + sum.ln() - picked;
        }
    }
}
