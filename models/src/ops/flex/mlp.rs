//! SwiGLU and activations, elementwise.

use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::math::{erf, exp, sigmoid, simd};
use super::{PIECE, dense, in_pieces, owned, tensor, values};
use crate::ops::{Activation, GELU_TANH_CUBIC, GELU_TANH_SCALE};

pub(super) fn swiglu(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
    let (gate, up) = (dense(gate), dense(up));
    let (gates, ups) = (values(&gate), values(&up));
    let y = in_pieces(gates.len(), PIECE, |i, y| {
        swiglu_piece(y, &gates[i * PIECE..][..y.len()], &ups[i * PIECE..][..y.len()]);
    });
    tensor(y, gate.layout().shape().clone())
}

simd! {
    fn swiglu_piece(y: &mut [f32], gate: &[f32], up: &[f32]) {
        for ((y, &gate), &up) in y.iter_mut().zip(gate).zip(up) {
            *y = sigmoid(gate) * gate * up;
        }
    }
}

pub(super) fn swiglu_backward(gate: FlexTensor, up: FlexTensor, dy: FlexTensor) -> (FlexTensor, FlexTensor) {
    let (mut gate, mut up, dy) = (owned(gate), owned(up), dense(dy));
    (gate.storage_mut().par_chunks_mut(PIECE))
        .zip(up.storage_mut().par_chunks_mut(PIECE))
        .zip(values(&dy).par_chunks(PIECE))
        .for_each(|((gate, up), dy)| swiglu_backward_piece(gate, up, dy));
    (gate, up)
}

simd! {
    /// Replaces the inputs by their gradients.
    fn swiglu_backward_piece(gate: &mut [f32], up: &mut [f32], dy: &[f32]) {
        for ((gate, up), &dy) in gate.iter_mut().zip(up).zip(dy) {
            let s = sigmoid(*gate);
            let dgate = dy * s * *up * (1.0 + *gate * (1.0 - s));
            *up = dy * s * *gate;
            *gate = dgate;
        }
    }
}

pub(super) fn activate(x: FlexTensor, activation: Activation) -> FlexTensor {
    let piece = match activation {
        Activation::Gelu => gelu_piece,
        Activation::GeluTanh => gelu_tanh_piece,
        Activation::QuickGelu => quick_gelu_piece,
    };
    let x = dense(x);
    let inputs = values(&x);
    let y = in_pieces(inputs.len(), PIECE, |i, y| {
        piece(y, &inputs[i * PIECE..][..y.len()])
    });
    tensor(y, x.layout().shape().clone())
}

pub(super) fn activate_backward(x: FlexTensor, dy: FlexTensor, activation: Activation) -> FlexTensor {
    let piece = match activation {
        Activation::Gelu => gelu_backward_piece,
        Activation::GeluTanh => gelu_tanh_backward_piece,
        Activation::QuickGelu => quick_gelu_backward_piece,
    };
    let (x, mut dx) = (dense(x), owned(dy));
    (dx.storage_mut()
        .par_chunks_mut(PIECE)
        .zip(values(&x).par_chunks(PIECE)))
    .for_each(|(dx, x)| piece(dx, x));
    dx
}

simd! {
    fn gelu_piece(y: &mut [f32], x: &[f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = x * normal_cdf(x);
        }
    }
}

simd! {
    fn gelu_tanh_piece(y: &mut [f32], x: &[f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = x * tanh_cdf(x);
        }
    }
}

simd! {
    fn quick_gelu_piece(y: &mut [f32], x: &[f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = x * sigmoid(1.702 * x);
        }
    }
}

simd! {
    fn gelu_backward_piece(dx: &mut [f32], x: &[f32]) {
        const INVERSE_ROOT_OF_TWO_PI: f32 = 0.398_942_3;
        for (dx, &x) in dx.iter_mut().zip(x) {
            *dx *= normal_cdf(x) + x * exp(-0.5 * x * x) * INVERSE_ROOT_OF_TWO_PI;
        }
    }
}

simd! {
    fn gelu_tanh_backward_piece(dx: &mut [f32], x: &[f32]) {
        for (dx, &x) in dx.iter_mut().zip(x) {
            let s = tanh_cdf(x);
            let dz = GELU_TANH_SCALE as f32 * (1.0 + 3.0 * GELU_TANH_CUBIC as f32 * x * x);
            *dx *= s + x * dz * s * (1.0 - s);
        }
    }
}

simd! {
    fn quick_gelu_backward_piece(dx: &mut [f32], x: &[f32]) {
        for (dx, &x) in dx.iter_mut().zip(x) {
            let s = sigmoid(1.702 * x);
            *dx *= s + 1.702 * x * s * (1.0 - s);
        }
    }
}

#[inline(always)]
fn normal_cdf(x: f32) -> f32 {
    0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2))
}

/// `(1 + tanh(√(2/π) (x + 0.044715 x³))) / 2`
#[inline(always)]
fn tanh_cdf(x: f32) -> f32 {
    sigmoid(GELU_TANH_SCALE as f32 * x * (1.0 + GELU_TANH_CUBIC as f32 * x * x))
}
