//! RMSNorm and LayerNorm: a row at a time, statistics computed again in the backward pass.

use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::math::{simd, sum1, sum2};
use super::{add_pieces, dense, in_pieces, owned, piece_rows, rows_and_width, tensor, values};

pub(super) fn rms_norm(x: FlexTensor, w: FlexTensor, eps: f64) -> FlexTensor {
    let (x, w) = (dense(x), dense(w));
    let (n, d) = rows_and_width(&x);
    let piece = piece_rows(n, d) * d;
    let y = in_pieces(n * d, piece, |i, y| {
        rms_norm_rows(y, &values(&x)[i * piece..][..y.len()], values(&w), eps as f32);
    });
    tensor(y, x.layout().shape().clone())
}

simd! {
    fn rms_norm_rows(y: &mut [f32], x: &[f32], w: &[f32], eps: f32) {
        let d = w.len();
        for (y, x) in y.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
            let r = inverse_root(sum1(x, |x| x * x), d, eps);
            for ((y, &x), &w) in y.iter_mut().zip(x).zip(w) {
                *y = x * r * w;
            }
        }
    }
}

pub(super) fn rms_norm_backward(
    x: FlexTensor,
    w: FlexTensor,
    dy: FlexTensor,
    eps: f64,
) -> (FlexTensor, FlexTensor) {
    let (x, w, mut dx) = (dense(x), dense(w), owned(dy));
    let (n, d) = rows_and_width(&x);
    let piece = piece_rows(n, d) * d;
    let mut dw = vec![0.0; (n * d).div_ceil(piece.max(1)) * d];
    (dx.storage_mut().par_chunks_mut(piece))
        .zip(values(&x).par_chunks(piece))
        .zip(dw.par_chunks_mut(d))
        .for_each(|((dx, x), dw)| rms_norm_backward_rows(dx, x, values(&w), dw, eps as f32));
    (dx, tensor(add_pieces(&dw, d), [d]))
}

simd! {
    /// `dx` holds `dy` at first.
    fn rms_norm_backward_rows(dx: &mut [f32], x: &[f32], w: &[f32], dw: &mut [f32], eps: f32) {
        let d = w.len();
        for (dx, x) in dx.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
            let r = inverse_root(sum1(x, |x| x * x), d, eps);
            for ((g, &w), (dw, &x)) in dx.iter_mut().zip(w).zip(dw.iter_mut().zip(x)) {
                *dw += *g * (x * r);
                *g *= w;
            }
            let projection = sum2(dx, x, |g, x| g * x) * r * r / d as f32;
            for (dx, &x) in dx.iter_mut().zip(x) {
                *dx = (*dx - x * projection) * r;
            }
        }
    }
}

pub(super) fn layer_norm(x: FlexTensor, w: FlexTensor, b: FlexTensor, eps: f64) -> FlexTensor {
    let (x, w, b) = (dense(x), dense(w), dense(b));
    let (n, d) = rows_and_width(&x);
    let piece = piece_rows(n, d) * d;
    let y = in_pieces(n * d, piece, |i, y| {
        let x = &values(&x)[i * piece..][..y.len()];
        layer_norm_rows(y, x, values(&w), values(&b), eps as f32);
    });
    tensor(y, x.layout().shape().clone())
}

simd! {
    fn layer_norm_rows(y: &mut [f32], x: &[f32], w: &[f32], b: &[f32], eps: f32) {
        let d = w.len();
        for (y, x) in y.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
            let (mean, r) = mean_and_inverse_std(x, eps);
            for ((y, &x), (&w, &b)) in y.iter_mut().zip(x).zip(w.iter().zip(b)) {
                *y = (x - mean) * r * w + b;
            }
        }
    }
}

pub(super) fn layer_norm_backward(
    x: FlexTensor,
    w: FlexTensor,
    dy: FlexTensor,
    eps: f64,
) -> (FlexTensor, FlexTensor, FlexTensor) {
    let (x, w, mut dx) = (dense(x), dense(w), owned(dy));
    let (n, d) = rows_and_width(&x);
    let piece = piece_rows(n, d) * d;
    // Of each piece: dw, then db.
    let mut dwb = vec![0.0; (n * d).div_ceil(piece.max(1)) * 2 * d];
    (dx.storage_mut().par_chunks_mut(piece))
        .zip(values(&x).par_chunks(piece))
        .zip(dwb.par_chunks_mut(2 * d))
        .for_each(|((dx, x), dwb)| layer_norm_backward_rows(dx, x, values(&w), dwb, eps as f32));
    let mut dw = add_pieces(&dwb, 2 * d);
    let db = dw.split_off(d);
    (dx, tensor(dw, [d]), tensor(db, [d]))
}

simd! {
    /// `dx` holds `dy` at first.
    fn layer_norm_backward_rows(dx: &mut [f32], x: &[f32], w: &[f32], dwb: &mut [f32], eps: f32) {
        let d = w.len();
        let (dw, db) = dwb.split_at_mut(d);
        for (dx, x) in dx.chunks_exact_mut(d).zip(x.chunks_exact(d)) {
            let (mean, r) = mean_and_inverse_std(x, eps);
            for (((g, &w), &x), (dw, db)) in
                dx.iter_mut().zip(w).zip(x).zip(dw.iter_mut().zip(db.iter_mut()))
            {
                *dw += *g * ((x - mean) * r);
                *db += *g;
                *g *= w;
            }
            let mean_g = sum1(dx, |g| g) / d as f32;
            let projection = sum2(dx, x, |g, x| g * (x - mean)) * r * r / d as f32;
            for (dx, &x) in dx.iter_mut().zip(x) {
                *dx = (*dx - mean_g - (x - mean) * projection) * r;
            }
        }
    }
}

#[inline(always)]
fn inverse_root(sum: f32, d: usize, eps: f32) -> f32 {
    1.0 / (sum / d as f32 + eps).sqrt()
}

#[inline(always)]
fn mean_and_inverse_std(x: &[f32], eps: f32) -> (f32, f32) {
    let mean = sum1(x, |x| x) / x.len() as f32;
    (
        mean,
        inverse_root(sum1(x, |x| (x - mean) * (x - mean)), x.len(), eps),
    )
}
