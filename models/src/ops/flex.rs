//! Kernels for Flex, Burn's CPU backend: f32, one pass, rayon over rows. Other dtypes take the generic bodies.
//!
//! Results do not depend on the number of threads: work is cut by shape alone, and sums over pieces are added in order.

mod adamw;
mod attention;
mod gemm;
mod linear;
mod loss;
mod math;
mod mlp;
mod norm;
mod rope;
mod rows;
mod xielu;

use burn::backend::{
    Flex,
    ops::FloatTensorOps,
    tensor::{FloatTensor, IntTensor},
};
use burn::tensor::{Bytes, DType, Shape};
use burn_flex::{FlexTensor, Layout};
use rayon::prelude::*;

use super::{
    Activation, AdamwStep, Visible,
    generic::{self, Known},
    kernels::ModelOps,
};

type Float = FloatTensor<Flex>;

impl ModelOps for Flex {
    fn linear_forward(x: Float, w: Float) -> Float {
        match x.dtype() {
            DType::F32 => linear::forward(x, w),
            _ => Flex::float_matmul(x, Flex::float_transpose(w)),
        }
    }

    fn linear_dx(dy: Float, w: Float) -> Float {
        match dy.dtype() {
            DType::F32 => linear::dx(dy, w),
            _ => Flex::float_matmul(dy, w),
        }
    }

    fn linear_dw(dy: Float, x: Float) -> Float {
        match dy.dtype() {
            DType::F32 => linear::dw(dy, x),
            _ => Flex::float_matmul(Flex::float_transpose(dy), x),
        }
    }

    fn linear_bias(x: Float, w: Float, bias: Float) -> Float {
        match x.dtype() {
            DType::F32 => linear::forward_with_bias(x, w, bias),
            _ => generic::linear_bias::<Self>(x, w, bias),
        }
    }

    fn column_sum(x: Float) -> Float {
        match x.dtype() {
            DType::F32 => linear::column_sum(x),
            _ => generic::column_sum::<Self>(x),
        }
    }

    fn rms_norm(x: Float, w: Float, eps: f64) -> Float {
        match x.dtype() {
            DType::F32 => norm::rms_norm(x, w, eps),
            _ => generic::rms_norm::<Self>(x, w, eps),
        }
    }

    fn rms_norm_backward(x: Float, w: Float, dy: Float, eps: f64) -> (Float, Float) {
        match x.dtype() {
            DType::F32 => norm::rms_norm_backward(x, w, dy, eps),
            _ => generic::rms_norm_backward::<Self>(x, w, dy, eps),
        }
    }

    fn layer_norm_forward(x: Float, w: Float, b: Float, eps: f64) -> Float {
        match x.dtype() {
            DType::F32 => norm::layer_norm(x, w, b, eps),
            _ => generic::layer_norm::<Self>(x, w, b, eps),
        }
    }

    fn layer_norm_backward(x: Float, w: Float, dy: Float, eps: f64) -> (Float, Float, Float) {
        match x.dtype() {
            DType::F32 => norm::layer_norm_backward(x, w, dy, eps),
            _ => generic::layer_norm_backward::<Self>(x, w, dy, eps),
        }
    }

    fn rope(x: Float, cos: Float, sin: Float) -> Float {
        match x.dtype() {
            DType::F32 => rope::rotate(x, cos, sin, 1.0),
            _ => generic::rope::<Self>(x, cos, sin),
        }
    }

    fn rope_backward(dy: Float, cos: Float, sin: Float) -> Float {
        match dy.dtype() {
            DType::F32 => rope::rotate(dy, cos, sin, -1.0),
            _ => generic::rope_backward::<Self>(dy, cos, sin),
        }
    }

    fn swiglu(gate: Float, up: Float) -> Float {
        match gate.dtype() {
            DType::F32 => mlp::swiglu(gate, up),
            _ => generic::swiglu::<Self>(gate, up),
        }
    }

    fn swiglu_backward(gate: Float, up: Float, dy: Float) -> (Float, Float) {
        match gate.dtype() {
            DType::F32 => mlp::swiglu_backward(gate, up, dy),
            _ => generic::swiglu_backward::<Self>(gate, up, dy),
        }
    }

    fn activate(x: Float, activation: Activation) -> Float {
        match x.dtype() {
            DType::F32 => mlp::activate(x, activation),
            _ => generic::activate::<Self>(x, activation),
        }
    }

    fn activate_backward(x: Float, dy: Float, activation: Activation) -> Float {
        match x.dtype() {
            DType::F32 => mlp::activate_backward(x, dy, activation),
            _ => generic::activate_backward::<Self>(x, dy, activation),
        }
    }

    fn xielu(x: Float, alpha_p: Float, alpha_n: Float) -> Float {
        match x.dtype() {
            DType::F32 => xielu::forward(x, alpha_p, alpha_n),
            _ => generic::xielu::<Self>(x, alpha_p, alpha_n),
        }
    }

    fn xielu_backward(x: Float, alpha_p: Float, alpha_n: Float, dy: Float) -> (Float, Float, Float) {
        match x.dtype() {
            DType::F32 => xielu::backward(x, alpha_p, alpha_n, dy),
            _ => generic::xielu_backward::<Self>(x, alpha_p, alpha_n, dy),
        }
    }

    fn attention_forward(q: Float, k: Float, v: Float, visible: Visible) -> (Float, Float) {
        match q.dtype() {
            DType::F32 => attention::forward(q, k, v, visible),
            _ => generic::attention::<Self>(q, k, v, visible),
        }
    }

    fn attention_backward(
        q: Float,
        k: Float,
        v: Float,
        out: Float,
        log_sum: Float,
        dout: Float,
        visible: Visible,
    ) -> (Float, Float, Float) {
        match q.dtype() {
            DType::F32 => attention::backward(q, k, v, out, log_sum, dout, visible),
            _ => generic::attention_backward::<Self>(q, k, v, out, log_sum, dout, visible),
        }
    }

    fn take_rows_backward(dy: Float, rows: IntTensor<Self>, num_rows: usize) -> Float {
        match dy.dtype() {
            DType::F32 => rows::take_rows_backward(dy, rows, num_rows),
            _ => generic::take_rows_backward::<Self>(dy, rows, num_rows),
        }
    }

    fn add_rows(table: Float, rows: IntTensor<Self>, values: Float) -> Float {
        match values.dtype() {
            DType::F32 => rows::add_rows(table, rows, values),
            _ => generic::add_rows::<Self>(table, rows, values),
        }
    }

    fn linear_cross_entropy(h: Float, w: Float, targets: IntTensor<Self>) -> Float {
        match h.dtype() {
            DType::F32 => loss::forward(h, w, targets),
            _ => generic::linear_cross_entropy::<Self>(h, w, targets),
        }
    }

    fn linear_cross_entropy_dh(h: Float, w: Float, targets: IntTensor<Self>) -> (Float, Float) {
        match h.dtype() {
            DType::F32 => loss::with_dh(h, w, targets),
            _ => generic::linear_cross_entropy_dh::<Self>(h, w, targets),
        }
    }

    fn linear_cross_entropy_dh_dw(h: Float, w: Float, targets: IntTensor<Self>) -> (Float, Float, Float) {
        match h.dtype() {
            DType::F32 => loss::with_dh_dw(h, w, targets),
            _ => generic::linear_cross_entropy_dh_dw::<Self>(h, w, targets),
        }
    }

    fn linear_log_sum_exp(h: Float, w: Float) -> Float {
        match h.dtype() {
            DType::F32 => loss::log_sums(h, w),
            _ => generic::linear_log_sum_exp::<Self>(h, w),
        }
    }

    fn linear_cross_entropy_part(
        h: Float,
        w: Float,
        targets: IntTensor<Self>,
        log_sums: Float,
        here: Float,
    ) -> Float {
        match h.dtype() {
            DType::F32 => loss::part(h, w, targets, log_sums, here),
            _ => generic::linear_cross_entropy_part::<Self>(h, w, targets, Known { log_sums, here }),
        }
    }

    fn linear_cross_entropy_part_dh(
        h: Float,
        w: Float,
        targets: IntTensor<Self>,
        log_sums: Float,
        here: Float,
    ) -> (Float, Float) {
        match h.dtype() {
            DType::F32 => loss::part_with_dh(h, w, targets, log_sums, here),
            _ => generic::linear_cross_entropy_part_dh::<Self>(h, w, targets, Known { log_sums, here }),
        }
    }

    fn linear_cross_entropy_part_dh_dw(
        h: Float,
        w: Float,
        targets: IntTensor<Self>,
        log_sums: Float,
        here: Float,
    ) -> (Float, Float, Float) {
        match h.dtype() {
            DType::F32 => loss::part_with_dh_dw(h, w, targets, log_sums, here),
            _ => generic::linear_cross_entropy_part_dh_dw::<Self>(h, w, targets, Known { log_sums, here }),
        }
    }

    fn scale(x: Float, factor: Float, dtype: DType) -> Float {
        match (x.dtype(), dtype) {
            (DType::F32, DType::F32) => rows::scale(x, factor),
            _ => generic::scale::<Self>(x, factor, dtype),
        }
    }

    fn adamw(master: Float, grad: Float, m: Float, v: Float, step: AdamwStep) -> (Float, Float, Float) {
        match grad.dtype() {
            DType::F32 => adamw::adamw(master, grad, m, v, step),
            _ => generic::adamw::<Self>(master, grad, m, v, step),
        }
    }

    fn sum_of_squares(x: Float) -> Float {
        match x.dtype() {
            DType::F32 => rows::sum_of_squares(x),
            _ => generic::sum_of_squares::<Self>(x),
        }
    }
}

/// Elements a piece of work should have to be worth a thread.
const PIECE: usize = 16 * 1024;

/// Rows of width `d` per piece: by shape alone, and at most 128 pieces, whose partial sums are kept.
fn piece_rows(n: usize, d: usize) -> usize {
    n.div_ceil(128).max(PIECE.div_ceil(d.max(1))).max(1)
}

/// `len` numbers, of which `fill` gets pieces, all zero, with their numbers. A new buffer that one thread clears first costs that
/// thread more time than what is written to it costs all of them; here each clears what it writes next.
#[expect(unsafe_code, reason = "memory that nobody has cleared")]
fn in_pieces(len: usize, piece: usize, fill: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let mut numbers = Vec::with_capacity(len);
    let pieces = numbers.spare_capacity_mut()[..len].par_chunks_mut(piece.max(1));
    pieces.enumerate().for_each(|(i, piece)| {
        for x in piece.iter_mut() {
            x.write(0.0);
        }
        // SAFETY: each element was written.
        fill(i, unsafe { piece.assume_init_mut() });
    });
    // SAFETY: the pieces are all there is, and each was written.
    unsafe { numbers.set_len(len) };
    numbers
}

/// `len` zeros, cleared by all threads.
fn zeros(len: usize) -> Vec<f32> {
    in_pieces(len, PIECE, |_, _| ())
}

/// The same values, contiguous.
fn dense(x: FlexTensor) -> FlexTensor {
    if x.is_contiguous() { x } else { x.to_contiguous() }
}

/// Values of a contiguous f32 tensor.
fn values(x: &FlexTensor) -> &[f32] {
    debug_assert!(x.is_contiguous());
    let start = x.layout().start_offset();
    &x.storage()[start..start + x.layout().num_elements()]
}

/// The same values in storage that no other tensor shares and that holds nothing else: written in place.
fn owned(x: FlexTensor) -> FlexTensor {
    let layout = x.layout();
    let whole = x.is_contiguous() && layout.start_offset() == 0;
    if whole && x.is_unique() && x.bytes().len() == layout.num_elements() * size_of::<f32>() {
        return x;
    }
    let shape = layout.shape().clone();
    let x = dense(x);
    tensor(values(&x).to_vec(), shape)
}

fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::new(
        Bytes::from_elems(values),
        Layout::contiguous(shape.into()),
        DType::F32,
    )
}

/// `(rows, width of the last axis)`
fn rows_and_width(x: &FlexTensor) -> (usize, usize) {
    let shape = x.layout().shape();
    let d = shape.iter().last().copied().unwrap_or(1);
    (shape.num_elements() / d.max(1), d)
}

/// Adds vectors of length `d` that lie one after another.
fn add_pieces(pieces: &[f32], d: usize) -> Vec<f32> {
    let mut sum = vec![0.0; d];
    for piece in pieces.chunks_exact(d.max(1)) {
        for (sum, x) in sum.iter_mut().zip(piece) {
            *sum += x;
        }
    }
    sum
}
