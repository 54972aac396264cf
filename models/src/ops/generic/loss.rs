//! Cross-entropy of a linear layer, over chunks of rows.

use burn::backend::{
    Backend, TensorMetadata,
    tensor::{FloatTensor, IntTensor},
};
use burn::tensor::{DType, FloatDType, IndexingUpdateOp, Shape, Slice};

use crate::ops::{expr::Expr, logit_rows};

/// What another pass has found out about rows of which only a part of the vocabulary is here.
pub(crate) struct Known<B: Backend> {
    /// Log-sum-exp of all logits of each row, `[n]`
    pub(crate) log_sums: FloatTensor<B>,
    /// 1 where the target is in this part, else 0. `[n]`
    pub(crate) here: FloatTensor<B>,
}

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
    let logits = plain_logits(h, w);
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
    let (loss, dh, _) = grads::<B>(h, w, targets, None, false);
    (loss, dh)
}

pub(crate) fn linear_cross_entropy_dh_dw<B: Backend>(
    h: FloatTensor<B>,
    w: FloatTensor<B>,
    targets: IntTensor<B>,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let zeros = Expr::<B>::f32(w.clone());
    let (loss, dh, dw) = grads::<B>(h, w, targets, None, true);
    (loss, dh, dw.unwrap_or_else(|| (zeros * 0.0).0))
}

pub(crate) fn linear_log_sum_exp<B: Backend>(h: FloatTensor<B>, w: FloatTensor<B>) -> FloatTensor<B> {
    let (device, n) = (h.device(), h.shape()[0]);
    let (h, w) = (Expr::<B>(h), Expr::<B>(w));
    let size = logit_rows(n, w.dims()[0]);
    let of_chunk = |start: usize| {
        let h = h.clone().range(0, start..(start + size).min(n));
        let logits = plain_logits(h, &w);
        let max = logits.clone().max_last();
        (logits - max.clone()).exp().sum_last().log() + max
    };
    let chunks: Vec<Expr<B>> = (0..n).step_by(size).map(of_chunk).collect();
    match chunks.is_empty() {
        true => B::float_zeros(Shape::from([0]), &device, FloatDType::F32),
        false => Expr::cat(chunks, 0).reshape([n]).0,
    }
}

pub(crate) fn linear_cross_entropy_part<B: Backend>(
    h: FloatTensor<B>,
    w: FloatTensor<B>,
    targets: IntTensor<B>,
    known: Known<B>,
) -> FloatTensor<B> {
    let device = h.device();
    let (h, w) = (Expr::<B>(h), Expr::<B>(w));
    let mut loss = None;
    let mut start = 0;
    for (h, targets) in chunks(&h, w.dims()[0], &targets) {
        let known = known.of_rows(start, h.dims()[0]);
        start += h.dims()[0];
        loss = add(loss, known.loss(&plain_logits(h, &w), targets));
    }
    match loss {
        Some(loss) => loss.0,
        None => B::float_zeros(Shape::from([1]), &device, FloatDType::F32),
    }
}

pub(crate) fn linear_cross_entropy_part_dh<B: Backend>(
    h: FloatTensor<B>,
    w: FloatTensor<B>,
    targets: IntTensor<B>,
    known: Known<B>,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let (loss, dh, _) = grads::<B>(h, w, targets, Some(known), false);
    (loss, dh)
}

pub(crate) fn linear_cross_entropy_part_dh_dw<B: Backend>(
    h: FloatTensor<B>,
    w: FloatTensor<B>,
    targets: IntTensor<B>,
    known: Known<B>,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let zeros = Expr::<B>::f32(w.clone());
    let (loss, dh, dw) = grads::<B>(h, w, targets, Some(known), true);
    (loss, dh, dw.unwrap_or_else(|| (zeros * 0.0).0))
}

impl<B: Backend> Known<B> {
    /// Of a chunk of rows, `[c, 1]` each.
    fn of_rows(&self, start: usize, rows: usize) -> Self {
        let chunk = |x: &FloatTensor<B>| {
            let x = Expr::<B>(x.clone()).range(0, start..start + rows);
            x.reshape([rows, 1]).0
        };
        Self {
            log_sums: chunk(&self.log_sums),
            here: chunk(&self.here),
        }
    }

    /// Summed loss of a chunk.
    fn loss(&self, logits: &Expr<B>, targets: IntTensor<B>) -> Expr<B> {
        let picked = Expr::<B>(B::float_gather(1, logits.0.clone(), targets));
        let losses = Expr::<B>(self.here.clone()) * (Expr(self.log_sums.clone()) - picked);
        Expr(B::float_sum(losses.0))
    }

    /// Gradient of the chunk's logits, in f32.
    fn gradient(self, logits: Expr<B>, targets: IntTensor<B>) -> Expr<B> {
        let p = (logits - Expr(self.log_sums)).exp();
        let minus = Expr::<B>(self.here) * -1.0;
        Expr(B::float_scatter(1, p.0, targets, minus.0, IndexingUpdateOp::Add))
    }
}

/// `[c, v]`, f32
fn plain_logits<B: Backend>(h: Expr<B>, w: &Expr<B>) -> Expr<B> {
    h.matmul(w.clone().transpose()).cast(DType::F32)
}

/// Summed loss of a chunk and the gradient of its logits, in f32.
fn whole_step<B: Backend>(h: Expr<B>, w: &Expr<B>, targets: IntTensor<B>) -> (Expr<B>, Expr<B>) {
    let (rows, device) = (h.dims()[0], h.0.device());
    let chunk = logits(h, w, targets.clone());
    let p = chunk.exponentials * chunk.sum.recip();
    let minus_one = B::float_full(Shape::from([rows, 1]), (-1.0).into(), &device, FloatDType::F32);
    let gradient = B::float_scatter(1, p.0, targets, minus_one, IndexingUpdateOp::Add);
    (chunk.loss, Expr(gradient))
}

/// The loss, its gradient in `h` in the dtype of `h` and, if wanted, in `w` in f32. With something known, those of a part of
/// the vocabulary.
fn grads<B: Backend>(
    h: FloatTensor<B>,
    w: FloatTensor<B>,
    targets: IntTensor<B>,
    known: Option<Known<B>>,
    with_dw: bool,
) -> (FloatTensor<B>, FloatTensor<B>, Option<FloatTensor<B>>) {
    let (dtype, device) = (h.dtype(), h.device());
    let (h, w) = (Expr::<B>(h), Expr::<B>(w));
    let (mut loss, mut dh, mut dw) = (None, vec![], None);
    let mut start = 0;
    for (h, targets) in chunks(&h, w.dims()[0], &targets) {
        let rows = h.dims()[0];
        let (chunk_loss, dlogits) = match &known {
            None => whole_step(h.clone(), &w, targets),
            Some(known) => {
                let (known, logits) = (known.of_rows(start, rows), plain_logits(h.clone(), &w));
                let loss = known.loss(&logits, targets.clone());
                (loss, known.gradient(logits, targets))
            }
        };
        start += rows;
        loss = add(loss, chunk_loss);
        let dlogits = dlogits.cast(dtype);
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
