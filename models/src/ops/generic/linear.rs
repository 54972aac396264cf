//! Linear layers.

use burn::backend::{Backend, TensorMetadata, tensor::FloatTensor};

use crate::ops::expr::Expr;

pub(crate) fn linear_bias<B: Backend>(
    x: FloatTensor<B>,
    w: FloatTensor<B>,
    bias: FloatTensor<B>,
) -> FloatTensor<B> {
    (Expr::<B>(x).matmul(Expr(w).transpose()) + Expr(bias).row(2)).0
}

pub(crate) fn column_sum<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    let dtype = x.dtype();
    Expr::<B>::f32(x).sum_rows().cast(dtype).0
}
