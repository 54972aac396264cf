//! Rotary position embedding, rotate-half form.

use burn::backend::{Backend, TensorMetadata, tensor::FloatTensor};

use crate::ops::expr::Expr;

pub(crate) fn rope<B: Backend>(
    x: FloatTensor<B>,
    cos: FloatTensor<B>,
    sin: FloatTensor<B>,
) -> FloatTensor<B> {
    rotate::<B>(x, Expr(cos), Expr(sin))
}

/// The transpose of a rotation is the rotation by the opposite angle.
pub(crate) fn rope_backward<B: Backend>(
    dy: FloatTensor<B>,
    cos: FloatTensor<B>,
    sin: FloatTensor<B>,
) -> FloatTensor<B> {
    rotate::<B>(dy, Expr(cos), Expr(sin) * -1.0)
}

fn rotate<B: Backend>(x: FloatTensor<B>, cos: Expr<B>, sin: Expr<B>) -> FloatTensor<B> {
    let dtype = x.dtype();
    let x = Expr::<B>::f32(x);
    let [t, half] = [cos.dims()[0], cos.dims()[1]];
    let (cos, sin) = (cos.reshape([1, 1, t, half]), sin.reshape([1, 1, t, half]));
    let (first, second) = (x.clone().range(3, 0..half), x.range(3, half..2 * half));
    let rotated_first = first.clone() * cos.clone() - second.clone() * sin.clone();
    let rotated_second = second * cos + first * sin;
    Expr::cat(vec![rotated_first, rotated_second], 3).cast(dtype).0
}
