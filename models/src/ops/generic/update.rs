//! AdamW.

use burn::backend::{Backend, tensor::FloatTensor};

use crate::ops::{AdamwStep, expr::Expr};

/// The order of operations is PyTorch's single-tensor `adamw`.
pub(crate) fn adamw<B: Backend>(
    master: FloatTensor<B>,
    grad: FloatTensor<B>,
    m: FloatTensor<B>,
    v: FloatTensor<B>,
    step: AdamwStep,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let g = Expr::<B>::f32(grad) * step.grad_scale;
    let m = Expr::<B>(m);
    let m = m.clone() + (g.clone() - m) * (1.0 - step.beta1);
    let v = Expr::<B>(v) * step.beta2 + g.square() * (1.0 - step.beta2);
    let denominator = v.clone().sqrt() * (1.0 / step.bias_correction2.sqrt()) + step.eps;
    let update = m.clone() * denominator.recip() * (step.lr / step.bias_correction1);
    let master = Expr::<B>(master) * (1.0 - step.lr * step.weight_decay) - update;
    (master.0, m.0, v.0)
}
