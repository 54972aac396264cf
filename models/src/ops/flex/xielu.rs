//! xIELU, elementwise; the formulas are those of [`crate::ops::generic`].

use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::math::{exp, exp_m1, simd, sum2};
use super::{PIECE, dense, in_pieces, owned, tensor, values};
use crate::ops::{XIELU_BETA, XIELU_EPS};

const BETA: f32 = XIELU_BETA as f32;
const EPS: f32 = XIELU_EPS as f32;

fn scalar(x: FlexTensor) -> f64 {
    f64::from(values(&dense(x)).first().copied().unwrap_or_default())
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `(softplus(alpha_p), beta + softplus(alpha_n))`
fn coefficients(alpha_p: f64, alpha_n: f64) -> (f32, f32) {
    (softplus(alpha_p) as f32, (XIELU_BETA + softplus(alpha_n)) as f32)
}

pub(super) fn forward(x: FlexTensor, alpha_p: FlexTensor, alpha_n: FlexTensor) -> FlexTensor {
    let (positive, negative) = coefficients(scalar(alpha_p), scalar(alpha_n));
    let x = dense(x);
    let inputs = values(&x);
    let y = in_pieces(inputs.len(), PIECE, |i, y| {
        forward_piece(y, &inputs[i * PIECE..][..y.len()], positive, negative);
    });
    tensor(y, x.layout().shape().clone())
}

/// `(dx, dalpha_p, dalpha_n)`
pub(super) fn backward(
    x: FlexTensor,
    alpha_p: FlexTensor,
    alpha_n: FlexTensor,
    dy: FlexTensor,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let (alpha_p, alpha_n) = (scalar(alpha_p), scalar(alpha_n));
    let (positive, negative) = coefficients(alpha_p, alpha_n);
    let (x, mut dx) = (dense(x), owned(dy));
    // f32 inside a piece, f64 over the pieces, in order.
    let sums: Vec<[f32; 2]> = (dx.storage_mut().par_chunks_mut(PIECE))
        .zip(values(&x).par_chunks(PIECE))
        .map(|(dx, x)| backward_piece(dx, x, positive, negative))
        .collect();
    let total = |side: usize, alpha: f64| {
        let sum: f64 = sums.iter().map(|sums| f64::from(sums[side])).sum();
        tensor(vec![(sum * sigmoid(alpha)) as f32], [1])
    };
    let (dalpha_p, dalpha_n) = (total(0, alpha_p), total(1, alpha_n));
    (dx, dalpha_p, dalpha_n)
}

/// `expm1(min(x, eps)) - x`
#[inline(always)]
fn curved(x: f32) -> f32 {
    exp_m1(if x < EPS { x } else { EPS }) - x
}

simd! {
    fn forward_piece(y: &mut [f32], x: &[f32], positive: f32, negative: f32) {
        for (y, &x) in y.iter_mut().zip(x) {
            let bent = if x > 0.0 { positive * x * x } else { curved(x) * negative };
            *y = bent + BETA * x;
        }
    }
}

simd! {
    /// Replaces `dy` by `dx` and gives the sums that the two coefficients' gradients are made of.
    fn backward_piece(dy: &mut [f32], x: &[f32], positive: f32, negative: f32) -> [f32; 2] {
        let above = sum2(x, dy, |x, dy| if x > 0.0 { dy * x * x } else { 0.0 });
        let below = sum2(x, dy, |x, dy| if x > 0.0 { 0.0 } else { dy * curved(x) });
        for (dy, &x) in dy.iter_mut().zip(x) {
            let moving = if x < EPS { exp(x) } else { 0.0 };
            let bent = if x > 0.0 { 2.0 * positive * x } else { negative * (moving - 1.0) };
            *dy *= bent + BETA;
        }
        [above, below]
    }
}
