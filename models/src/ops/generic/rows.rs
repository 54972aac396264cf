//! Rows added to a table, scaling, sums.

use burn::backend::{
    Backend, TensorMetadata,
    tensor::{FloatTensor, IntTensor},
};
use burn::tensor::{DType, FloatDType, IndexingUpdateOp, Shape};

use crate::ops::expr::Expr;

pub(crate) fn scale<B: Backend>(x: FloatTensor<B>, factor: FloatTensor<B>, dtype: DType) -> FloatTensor<B> {
    let rank = x.rank();
    (Expr::<B>::f32(x) * Expr::<B>::f32(factor).row(rank))
        .cast(dtype)
        .0
}

pub(crate) fn take_rows_backward<B: Backend>(
    dy: FloatTensor<B>,
    rows: IntTensor<B>,
    num_rows: usize,
) -> FloatTensor<B> {
    let (dtype, device, width) = (dy.dtype(), dy.device(), dy.shape()[1]);
    let table = B::float_zeros(Shape::from([num_rows, width]), &device, FloatDType::F32);
    Expr::<B>(add_rows::<B>(table, rows, dy)).cast(dtype).0
}

pub(crate) fn add_rows<B: Backend>(
    table: FloatTensor<B>,
    rows: IntTensor<B>,
    values: FloatTensor<B>,
) -> FloatTensor<B> {
    B::float_select_assign(table, 0, rows, Expr::<B>::f32(values).0, IndexingUpdateOp::Add)
}

pub(crate) fn sum_of_squares<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    B::float_sum(Expr::<B>::f32(x).square().0)
}
