//! xIELU.

use burn::backend::{Backend, TensorMetadata, tensor::FloatTensor};

use crate::ops::{XIELU_BETA, XIELU_EPS, expr::Expr};

/// The two coefficients of the curve, `[1, 1]` each: `softplus(alpha_p)` and `beta + softplus(alpha_n)`.
fn coefficients<B: Backend>(alpha_p: FloatTensor<B>, alpha_n: FloatTensor<B>) -> (Expr<B>, Expr<B>) {
    let positive = Expr::<B>::f32(alpha_p).softplus();
    let negative = Expr::<B>::f32(alpha_n).softplus() + XIELU_BETA;
    (positive.row(2), negative.row(2))
}

/// `expm1(min(x, eps)) - x` where `x` is not positive, else 0.
fn curved<B: Backend>(x: Expr<B>) -> Expr<B> {
    let low = x.clone().at_most(XIELU_EPS);
    // expm1(x) = tanh(x/2) (exp(x) + 1), without the cancellation of exp(x) - 1 near 0.
    let expm1 = (low.clone() * 0.5).tanh() * (low.exp() + 1.0);
    let side = x.clone().heaviside() * -1.0 + 1.0;
    (expm1 - x.at_most(0.0)) * side
}

pub(crate) fn xielu<B: Backend>(
    x: FloatTensor<B>,
    alpha_p: FloatTensor<B>,
    alpha_n: FloatTensor<B>,
) -> FloatTensor<B> {
    let dtype = x.dtype();
    let (positive, negative) = coefficients::<B>(alpha_p, alpha_n);
    let x = Expr::<B>::f32(x);
    let y = x.clone().at_least(0.0).square() * positive + curved(x.clone()) * negative;
    (y + x * XIELU_BETA).cast(dtype).0
}

/// With `a_p`, `a_n` the coefficients: `dx = dy (2 a_p x + beta)` where `x` is positive, else
/// `dy (a_n (exp(x) [x < eps] - 1) + beta)`; `dalpha_p = sigmoid(alpha_p) sum(dy x²)` over positive `x` and
/// `dalpha_n = sigmoid(alpha_n) sum(dy (expm1(min(x, eps)) - x))` over the others.
pub(crate) fn xielu_backward<B: Backend>(
    x: FloatTensor<B>,
    alpha_p: FloatTensor<B>,
    alpha_n: FloatTensor<B>,
    dy: FloatTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let dtype = x.dtype();
    let (positive, negative) = coefficients::<B>(alpha_p.clone(), alpha_n.clone());
    let (x, dy) = (Expr::<B>::f32(x), Expr::<B>::f32(dy));
    let above = x.clone().at_least(0.0);
    let sum = |curve: Expr<B>, alpha: FloatTensor<B>| {
        let slope = Expr::<B>::f32(alpha).sigmoid();
        ((dy.clone() * curve).sum() * slope).cast(dtype).0
    };
    let dalpha_p = sum(above.clone().square(), alpha_p);
    let dalpha_n = sum(curved(x.clone()), alpha_n);
    let side = x.clone().heaviside() * -1.0 + 1.0;
    let moves = (x.clone() * -1.0 + XIELU_EPS).heaviside();
    let below = (moves * x.at_most(0.0).exp() + -1.0) * side;
    let slope = above * positive * 2.0 + below * negative + XIELU_BETA;
    ((dy * slope).cast(dtype).0, dalpha_p, dalpha_n)
}
