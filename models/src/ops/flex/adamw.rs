//! AdamW: one pass over parameter, gradient and moments, in place.

use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::math::simd;
use super::{PIECE, dense, owned, values};
use crate::ops::AdamwStep;

pub(super) fn adamw(
    master: FlexTensor,
    grad: FlexTensor,
    m: FlexTensor,
    v: FlexTensor,
    step: AdamwStep,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let (mut master, grad, mut m, mut v) = (owned(master), dense(grad), owned(m), owned(v));
    let factors = Factors {
        grad_scale: step.grad_scale as f32,
        decay: (1.0 - step.lr * step.weight_decay) as f32,
        one_minus_beta1: (1.0 - step.beta1) as f32,
        beta2: step.beta2 as f32,
        one_minus_beta2: (1.0 - step.beta2) as f32,
        inverse_root_correction2: (1.0 / step.bias_correction2.sqrt()) as f32,
        eps: step.eps as f32,
        step_size: (step.lr / step.bias_correction1) as f32,
    };
    (master.storage_mut().par_chunks_mut(PIECE))
        .zip(
            m.storage_mut()
                .par_chunks_mut(PIECE)
                .zip(v.storage_mut().par_chunks_mut(PIECE)),
        )
        .zip(values(&grad).par_chunks(PIECE))
        .for_each(|((master, (m, v)), grad)| adamw_piece(master, m, v, grad, factors));
    (master, m, v)
}

#[derive(Clone, Copy)]
struct Factors {
    grad_scale: f32,
    decay: f32,
    one_minus_beta1: f32,
    beta2: f32,
    one_minus_beta2: f32,
    inverse_root_correction2: f32,
    eps: f32,
    step_size: f32,
}

simd! {
    fn adamw_piece(master: &mut [f32], m: &mut [f32], v: &mut [f32], grad: &[f32], f: Factors) {
        for (((p, &g), m), v) in master.iter_mut().zip(grad).zip(m).zip(v) {
            let g = g * f.grad_scale;
            let decayed = *p * f.decay;
            *m += (g - *m) * f.one_minus_beta1;
            *v = *v * f.beta2 + g * g * f.one_minus_beta2;
            let denominator = v.sqrt() * f.inverse_root_correction2 + f.eps;
            *p = decayed - f.step_size * (*m / denominator);
        }
    }
}
