//! Cross-entropy of a linear layer, over chunks of rows.

use burn::backend::{
    Backend, TensorMetadata,
    tensor::{FloatTensor, IntTensor},
};
use burn::tensor::{DType, FloatDType, IndexingUpdateOp, Shape, Slice};

use crate::ops::{expr::Expr, logit_rows};

/// Logits of one chunk of rows.
struct Logits<B: Backend> {
    /// `exp(logit - max)`, `[c, v]`
    exponentials: Expr<B>,
    /// `[c, 1]`
    sum: Expr<B>,
    /// Sum of the rows' losses, `[1]`
    loss: Expr<B>,
}

fn logits<B: Backend>(h: Expr<B>, w: &Expr<B>, targets: IntTensor<B>) -> Logits<B> {
    let logits = h.matmul(w.clone().transpose()).cast(DType::F32);
    let max = logits.clone().max_last();
    let picked = Expr::<B>(B::float_gather(1, logits.0.clone(), targets));
    let exponentials = (logits - max.clone()).exp();
    let sum = exponentials.clone().sum_last();
    let losses = sum.clone().log() + max - picked;
    Logits {
        exponentials,
        sum,
        loss: Expr(B::float_sum(losses.0)),
    }
}

/// Chunks of `(h [c, d], targets [c, 1])`.
fn chunks<B: Backend>(h: &Expr<B>, v: usize, targets: &IntTensor<B>) -> Vec<(Expr<B>, IntTensor<B>)> {
    let n = h.dims()[0];
    let size = logit_rows(n, v);
    let chunk = |start: usize| {
        let end = (start + size).min(n);
        let targets = B::int_slice(targets.clone(), &[Slice::from(start..end)]);
        (
            h.clone().range(0, start..end),
            B::int_reshape(targets, Shape::from([end - start, 1])),
        )
    };
    (0..n).step_by(size).map(chunk).collect()
}

fn add<B: Backend>(sum: Option<Expr<B>>, term: Expr<B>) -> Option<Expr<B>> {
    Some(match sum {
        Some(sum) => sum + term,
        None => term,
    })
}

pub(crate) fn linear_cross_entropy<B: Backend>(
    h: FloatTensor<B>,
    w: FloatTensor<B>,
    targets: IntTensor<B>,
) -> FloatTensor<B> {
    let device = h.device();
    let (h, w) = (Expr::<B>(h), Expr::<B>(w));
    let mut loss = None;
    for (h, targets) in chunks(&h, w.dims()[0], &targets) {
        loss = add(loss, logits(h, &w, targets).loss);
    }
    match loss {
        Some(loss) => loss.0,
        None => B::float_zeros(Shape::from([1]), &device, FloatDType::F32),
    }
}

pub(crate) fn linear_cross_entropy_dh<B: Backend>(
    h: FloatTensor<B>,
    w: FloatTensor<B>,
    targets: IntTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let (loss, dh, _) = grads::<B>(h, w, targets, false);
    (loss, dh)
}

pub(crate) fn linear_cross_entropy_dh_dw<B: Backend>(
    h: FloatTensor<B>,
    w: FloatTensor<B>,
    targets: IntTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let zeros = Expr::<B>::f32(w.clone());
    let (loss, dh, dw) = grads::<B>(h, w, targets, true);
    (loss, dh, dw.unwrap_or_else(|| (zeros * 0.0).0))
}

/// The loss, its gradient in `h` in the dtype of `h` and, if wanted, in `w` in f32.
fn grads<B: Backend>(
    h: FloatTensor<B>,
    w: FloatTensor<B>,
    targets: IntTensor<B>,
    with_dw: bool,
) -> (FloatTensor<B>, FloatTensor<B>, Option<FloatTensor<B>>) {
    let (dtype, device) = (h.dtype(), h.device());
    let (h, w) = (Expr::<B>(h), Expr::<B>(w));
    let (mut loss, mut dh, mut dw) = (None, vec![], None);
    for (h, targets) in chunks(&h, w.dims()[0], &targets) {
        let rows = h.dims()[0];
        let chunk = logits(h.clone(), &w, targets.clone());
        loss = add(loss, chunk.loss);
        let p = chunk.exponentials * chunk.sum.recip();
        let minus_one = B::float_full(Shape::from([rows, 1]), (-1.0).into(), &device, FloatDType::F32);
        let dlogits = B::float_scatter(1, p.0, targets, minus_one, IndexingUpdateOp::Add);
        let dlogits = Expr::<B>(dlogits).cast(dtype);
        if with_dw {
            dw = add(dw, dlogits.clone().transpose().matmul(h).cast(DType::F32));
        }
        dh.push(dlogits.matmul(w.clone()));
    }
    let Some(loss) = loss else {
        return (
            B::float_zeros(Shape::from([1]), &device, FloatDType::F32),
            h.0,
            None,
        );
    };
    let dh = if dh.len() == 1 {
        dh.remove(0)
    } else {
        Expr::cat(dh, 0)
    };
    (loss.0, dh.0, dw.map(|dw| dw.0))
}
