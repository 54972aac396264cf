//! SwiGLU and elementwise activations.

use burn::backend::{Backend, TensorMetadata, tensor::FloatTensor};

use crate::ops::{Activation, GELU_TANH_CUBIC, GELU_TANH_SCALE, expr::Expr};

pub(crate) fn swiglu<B: Backend>(gate: FloatTensor<B>, up: FloatTensor<B>) -> FloatTensor<B> {
    let dtype = gate.dtype();
    let (gate, up) = (Expr::<B>::f32(gate), Expr::<B>::f32(up));
    (gate.clone().sigmoid() * gate * up).cast(dtype).0
}

/// With `s = sigmoid(gate)`: `dup = dy gate s`, `dgate = dy up s (1 + gate (1 - s))`.
pub(crate) fn swiglu_backward<B: Backend>(
    gate: FloatTensor<B>,
    up: FloatTensor<B>,
    dy: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let dtype = gate.dtype();
    let (gate, up, dy) = (Expr::<B>::f32(gate), Expr::<B>::f32(up), Expr::<B>::f32(dy));
    let s = gate.clone().sigmoid();
    let dy_s = dy * s.clone();
    let slope = gate.clone() * (s * -1.0 + 1.0) + 1.0;
    let dgate = dy_s.clone() * up * slope;
    (dgate.cast(dtype).0, (dy_s * gate).cast(dtype).0)
}

pub(crate) fn activate<B: Backend>(x: FloatTensor<B>, activation: Activation) -> FloatTensor<B> {
    let dtype = x.dtype();
    let x = Expr::<B>::f32(x);
    let factor = match activation {
        Activation::Gelu => normal_cdf(x.clone()),
        Activation::GeluTanh => tanh_cdf(x.clone()),
        Activation::QuickGelu => (x.clone() * 1.702).sigmoid(),
    };
    (x * factor).cast(dtype).0
}

/// GELU: `Φ(x) + x φ(x)`. With tanh and `s = sigmoid(z(x))`: `s + x z'(x) s (1 - s)`. Quick GELU: the same with `z = 1.702 x`.
pub(crate) fn activate_backward<B: Backend>(
    x: FloatTensor<B>,
    dy: FloatTensor<B>,
    activation: Activation,
) -> FloatTensor<B> {
    let dtype = x.dtype();
    let (x, dy) = (Expr::<B>::f32(x), Expr::<B>::f32(dy));
    let slope = match activation {
        Activation::Gelu => {
            let density = (x.clone().square() * -0.5).exp() * (1.0 / (2.0 * std::f64::consts::PI).sqrt());
            normal_cdf(x.clone()) + x * density
        }
        Activation::GeluTanh => {
            let s = tanh_cdf(x.clone());
            let dz = (x.clone().square() * (3.0 * GELU_TANH_CUBIC) + 1.0) * GELU_TANH_SCALE;
            s.clone() + x * dz * s.clone() * (s * -1.0 + 1.0)
        }
        Activation::QuickGelu => {
            let s = (x.clone() * 1.702).sigmoid();
            s.clone() + x * 1.702 * s.clone() * (s * -1.0 + 1.0)
        }
    };
    (dy * slope).cast(dtype).0
}

fn normal_cdf<B: Backend>(x: Expr<B>) -> Expr<B> {
    ((x * std::f64::consts::FRAC_1_SQRT_2).erf() + 1.0) * 0.5
}

/// `(1 + tanh(√(2/π) (x + 0.044715 x³))) / 2`
fn tanh_cdf<B: Backend>(x: Expr<B>) -> Expr<B> {
    ((x.clone().square() * GELU_TANH_CUBIC + 1.0) * x * GELU_TANH_SCALE).sigmoid()
}
