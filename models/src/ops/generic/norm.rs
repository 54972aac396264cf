//! RMSNorm and LayerNorm.

use burn::backend::{Backend, TensorMetadata, tensor::FloatTensor};

use crate::ops::expr::Expr;

pub(crate) fn rms_norm<B: Backend>(x: FloatTensor<B>, w: FloatTensor<B>, eps: f64) -> FloatTensor<B> {
    let (dtype, rank) = (x.dtype(), x.rank());
    let x = Expr::<B>::f32(x);
    let inverse_rms = (x.clone().square().mean_last() + eps).sqrt().recip();
    // HF rounds to the input's dtype before the weight.
    ((x * inverse_rms).cast(dtype) * Expr(w).row(rank)).0
}

/// With `r = 1/rms`, `x' = x r`, `g = dy w`: `dx = r (g - x' mean(g x'))`, `dw = sum over rows of dy x'`.
pub(crate) fn rms_norm_backward<B: Backend>(
    x: FloatTensor<B>,
    w: FloatTensor<B>,
    dy: FloatTensor<B>,
    eps: f64,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let (dtype, rank) = (x.dtype(), x.rank());
    let (x, w, dy) = (Expr::<B>::f32(x), Expr::<B>::f32(w), Expr::<B>::f32(dy));
    let inverse_rms = (x.clone().square().mean_last() + eps).sqrt().recip();
    let normalised = x * inverse_rms.clone();
    let g = dy.clone() * w.row(rank);
    let projection = (g.clone() * normalised.clone()).mean_last();
    let dx = (g - normalised.clone() * projection) * inverse_rms;
    let dw = (dy * normalised).sum_rows();
    (dx.cast(dtype).0, dw.cast(dtype).0)
}

pub(crate) fn layer_norm<B: Backend>(
    x: FloatTensor<B>,
    w: FloatTensor<B>,
    b: FloatTensor<B>,
    eps: f64,
) -> FloatTensor<B> {
    let (dtype, rank) = (x.dtype(), x.rank());
    let (normalised, _) = standardise(Expr::<B>::f32(x), eps);
    let (w, b) = (Expr::<B>::f32(w).row(rank), Expr::<B>::f32(b).row(rank));
    (normalised * w + b).cast(dtype).0
}

/// With `r = 1/std`, `x' = (x - mean) r`, `g = dy w`: `dx = r (g - mean(g) - x' mean(g x'))`,
/// `dw = sum over rows of dy x'`, `db = sum over rows of dy`.
pub(crate) fn layer_norm_backward<B: Backend>(
    x: FloatTensor<B>,
    w: FloatTensor<B>,
    dy: FloatTensor<B>,
    eps: f64,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let (dtype, rank) = (x.dtype(), x.rank());
    let (w, dy) = (Expr::<B>::f32(w), Expr::<B>::f32(dy));
    let (normalised, inverse_std) = standardise(Expr::<B>::f32(x), eps);
    let g = dy.clone() * w.row(rank);
    let projection = (g.clone() * normalised.clone()).mean_last();
    let dx = (g.clone() - g.mean_last() - normalised.clone() * projection) * inverse_std;
    let dw = (dy.clone() * normalised).sum_rows();
    (dx.cast(dtype).0, dw.cast(dtype).0, dy.sum_rows().cast(dtype).0)
}

/// `((x - mean) / std, 1 / std)` over the last axis.
fn standardise<B: Backend>(x: Expr<B>, eps: f64) -> (Expr<B>, Expr<B>) {
    let centred = x.clone() - x.mean_last();
    let inverse_std = (centred.clone().square().mean_last() + eps).sqrt().recip();
    (centred * inverse_std.clone(), inverse_std)
}
