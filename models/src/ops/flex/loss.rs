//! Cross-entropy of a linear layer, over chunks of rows.

use burn::backend::{Flex, tensor::IntTensor};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::gemm::{Mat, MatMut, Threads, Write, matmul, matmul_transposed};
use super::math::{exp, max, simd, sum1};
use super::{dense, piece_rows, rows, rows_and_width, tensor, values, zeros};
use crate::ops::logit_rows;

pub(super) fn forward(h: FlexTensor, w: FlexTensor, targets: IntTensor<Flex>) -> FlexTensor {
    Call::new(h, w, targets).loss()
}

pub(super) fn with_dh(h: FlexTensor, w: FlexTensor, targets: IntTensor<Flex>) -> (FlexTensor, FlexTensor) {
    Call::new(h, w, targets).with_dh()
}

pub(super) fn with_dh_dw(
    h: FlexTensor,
    w: FlexTensor,
    targets: IntTensor<Flex>,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    Call::new(h, w, targets).with_dh_dw()
}

pub(super) fn part(
    h: FlexTensor,
    w: FlexTensor,
    targets: IntTensor<Flex>,
    log_sums: FlexTensor,
    here: FlexTensor,
) -> FlexTensor {
    Call::of_part(h, w, targets, log_sums, here).loss()
}

pub(super) fn part_with_dh(
    h: FlexTensor,
    w: FlexTensor,
    targets: IntTensor<Flex>,
    log_sums: FlexTensor,
    here: FlexTensor,
) -> (FlexTensor, FlexTensor) {
    Call::of_part(h, w, targets, log_sums, here).with_dh()
}

pub(super) fn part_with_dh_dw(
    h: FlexTensor,
    w: FlexTensor,
    targets: IntTensor<Flex>,
    log_sums: FlexTensor,
    here: FlexTensor,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    Call::of_part(h, w, targets, log_sums, here).with_dh_dw()
}

pub(super) fn log_sums(h: FlexTensor, w: FlexTensor) -> FlexTensor {
    let (h, w) = (dense(h), dense(w));
    let (n, _) = rows_and_width(&h);
    let mut sums = vec![0.0; n];
    for_chunks(&h, &w, |start, logits| {
        let (v, _) = rows_and_width(&w);
        let rows = logits.len() / v;
        let piece = piece_rows(rows, v);
        (logits.par_chunks_mut(piece * v))
            .zip(sums[start..start + rows].par_chunks_mut(piece))
            .for_each(|(logits, sums)| log_sum_rows(logits, sums));
    });
    tensor(sums, [n])
}

/// Calls `with_chunk(first row, its logits)` for every chunk of rows.
fn for_chunks(h: &FlexTensor, w: &FlexTensor, mut with_chunk: impl FnMut(usize, &mut [f32])) {
    let ((n, d), (v, _)) = (rows_and_width(h), rows_and_width(w));
    let size = logit_rows(n, v);
    let mut logits = zeros(size * v);
    for start in (0..n).step_by(size) {
        let rows = size.min(n - start);
        let logits = &mut logits[..rows * v];
        let h = Mat::new(&values(h)[start * d..], rows, d);
        let w = Mat::new(values(w), v, d);
        matmul_transposed(MatMut::new(logits, rows, v), h, w, Write::Overwrite);
        with_chunk(start, logits);
    }
}

struct Call {
    h: FlexTensor,
    w: FlexTensor,
    targets: Vec<usize>,
    /// Log-sum-exp of each row's logits, of which only a part is here, and 1 where the target is in it, else 0.
    known: Option<(FlexTensor, FlexTensor)>,
}

impl Call {
    fn new(h: FlexTensor, w: FlexTensor, targets: IntTensor<Flex>) -> Self {
        Self {
            h: dense(h),
            w: dense(w),
            targets: rows::indices(targets),
            known: None,
        }
    }

    fn of_part(
        h: FlexTensor,
        w: FlexTensor,
        targets: IntTensor<Flex>,
        log_sums: FlexTensor,
        here: FlexTensor,
    ) -> Self {
        Self {
            known: Some((dense(log_sums), dense(here))),
            ..Self::new(h, w, targets)
        }
    }

    fn loss(&self) -> FlexTensor {
        self.run(|_, _| ())
    }

    fn with_dh(&self) -> (FlexTensor, FlexTensor) {
        let (n, d) = rows_and_width(&self.h);
        let mut dh = zeros(n * d);
        let loss = self.run(|start, dlogits| self.add_dh(start, dlogits, &mut dh));
        (loss, tensor(dh, [n, d]))
    }

    fn with_dh_dw(&self) -> (FlexTensor, FlexTensor, FlexTensor) {
        let ((n, d), (v, _)) = (rows_and_width(&self.h), rows_and_width(&self.w));
        let (mut dh, mut dw) = (zeros(n * d), zeros(v * d));
        let loss = self.run(|start, dlogits| {
            self.add_dh(start, dlogits, &mut dh);
            let rows = dlogits.len() / v;
            let h = Mat::new(&values(&self.h)[start * d..], rows, d);
            let dlogits = Mat::new(dlogits, rows, v).transposed();
            let write = if start == 0 { Write::Overwrite } else { Write::Add };
            matmul(MatMut::new(&mut dw, v, d), dlogits, h, write, Threads::All);
        });
        (loss, tensor(dh, [n, d]), tensor(dw, [v, d]))
    }

    /// Calls `with_chunk(first row, gradient of the chunk's logits)` for every chunk; gives the summed loss.
    fn run(&self, mut with_chunk: impl FnMut(usize, &[f32])) -> FlexTensor {
        let (v, _) = rows_and_width(&self.w);
        let mut losses = vec![0.0; self.targets.len()];
        for_chunks(&self.h, &self.w, |start, logits| {
            let rows = logits.len() / v;
            let piece = piece_rows(rows, v);
            let pieces = (logits.par_chunks_mut(piece * v))
                .zip(losses[start..start + rows].par_chunks_mut(piece))
                .zip(self.targets[start..start + rows].par_chunks(piece));
            match &self.known {
                None => {
                    pieces.for_each(|((logits, losses), targets)| cross_entropy_rows(logits, losses, targets))
                }
                Some((log_sums, here)) => pieces
                    .zip(values(log_sums)[start..start + rows].par_chunks(piece))
                    .zip(values(here)[start..start + rows].par_chunks(piece))
                    .for_each(|((((logits, losses), targets), log_sums), here)| {
                        part_rows(logits, losses, targets, log_sums, here);
                    }),
            }
            with_chunk(start, logits);
        });
        let sum: f64 = losses.iter().map(|&loss| f64::from(loss)).sum();
        tensor(vec![sum as f32], [1])
    }

    fn add_dh(&self, start: usize, dlogits: &[f32], dh: &mut [f32]) {
        let (v, d) = rows_and_width(&self.w);
        let rows = dlogits.len() / v;
        let dh = MatMut::new(&mut dh[start * d..(start + rows) * d], rows, d);
        let w = Mat::new(values(&self.w), v, d);
        matmul(dh, Mat::new(dlogits, rows, v), w, Write::Overwrite, Threads::All);
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

simd! {
    /// Logits become exponentials.
    fn log_sum_rows(logits: &mut [f32], sums: &mut [f32]) {
        let v = logits.len() / sums.len();
        for (row, log_sum) in logits.chunks_exact_mut(v).zip(sums) {
            let largest = max(row);
            for x in row.iter_mut() {
                *x = exp(*x - largest);
            }
            *log_sum = largest + sum1(row, |x| x).ln();
        }
    }
}

simd! {
    /// A part of the logits becomes the gradient of the sum of losses.
    fn part_rows(logits: &mut [f32], losses: &mut [f32], targets: &[usize], log_sums: &[f32], here: &[f32]) {
        let v = logits.len() / losses.len();
        let known = targets.iter().zip(log_sums).zip(here);
        for ((row, loss), ((&target, &log_sum), &here)) in logits.chunks_exact_mut(v).zip(losses).zip(known) {
            *loss = here * (log_sum - row[target]);
            for x in row.iter_mut() {
                *x = exp(*x - log_sum);
            }
            row[target] -= here;
        }
    }
}
