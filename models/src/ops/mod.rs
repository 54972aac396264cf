//! The operations models are made of, with their gradients.
//!
//! Each public function asserts what Burn does not check (equal dtypes: on CUDA a matmul of mixed dtypes misreads
//! bytes without an error) and states its shapes. [`reference`] holds the definitions in plain tensor operations;
//! tests compare every op, forward and gradient, with its definition.
//!
//! Shape letters: `b` batch, `t` query positions, `s` key positions, `h` query heads, `g` key/value heads, `k` width of
//! a head, `d` hidden width, `n` rows, `v` vocabulary.

pub mod reference;

use burn::tensor::{DType, Int, Tensor};

pub use reference::RopeTable;

/// Activation functions of the MLPs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Exact GELU, `x · Φ(x)` (<https://arxiv.org/abs/1606.08415>).
    Gelu,
    /// `x · sigmoid(1.702 x)`, OpenAI CLIP's approximation of GELU.
    QuickGelu,
}

fn assert_same_dtype<const A: usize, const B: usize>(op: &str, a: &Tensor<A>, b: &Tensor<B>) {
    assert_eq!(a.dtype(), b.dtype(), "{op}: operands have different dtypes");
}

/// `x · wᵀ (+ bias)` with the weight in Hugging Face's layout.
///
/// # Shapes
/// `x_ni [n, i]`, `w_oi [o, i]`, `bias_o [o]` → `[n, o]`.
pub fn linear(x_ni: Tensor<2>, w_oi: Tensor<2>, bias_o: Option<Tensor<1>>) -> Tensor<2> {
    assert_same_dtype("linear", &x_ni, &w_oi);
    reference::linear(x_ni, w_oi, bias_o)
}

/// RMSNorm (<https://arxiv.org/abs/1910.07467>) as Hugging Face's Llama computes it: statistics and division in f32,
/// one rounding to the input's dtype, then the weight.
///
/// # Shapes
/// `x [.., d]`, `w_d [d]` → the shape of `x`.
pub fn rms_norm<const D: usize>(x: Tensor<D>, w_d: Tensor<1>, eps: f64) -> Tensor<D> {
    assert_same_dtype("rms_norm", &x, &w_d);
    reference::rms_norm(x, w_d, eps)
}

/// LayerNorm (<https://arxiv.org/abs/1607.06450>) over the last axis, statistics in f32.
///
/// # Shapes
/// `x [.., d]`, `w_d [d]`, `b_d [d]` → the shape of `x`.
pub fn layer_norm<const D: usize>(x: Tensor<D>, w_d: Tensor<1>, b_d: Tensor<1>, eps: f64) -> Tensor<D> {
    assert_same_dtype("layer_norm", &x, &w_d);
    assert_same_dtype("layer_norm", &x, &b_d);
    reference::layer_norm(x, w_d, b_d, eps)
}

/// Rotary position embedding (<https://arxiv.org/abs/2104.09864>) in Hugging Face's rotate-half form, in f32.
///
/// # Shapes
/// `x_bhtk [b, h, t, k]`, table of `t` positions → `[b, h, t, k]`.
pub fn rope(x_bhtk: Tensor<4>, table: &RopeTable) -> Tensor<4> {
    reference::rope(x_bhtk, table)
}

/// Softmax attention with grouped keys and values. Scores and softmax are f32.
///
/// With `causal`, the queries are the last `t` of the `s` positions: query `i` sees keys `0 ..= s - t + i`.
///
/// # Shapes
/// `q_bhtk [b, h, t, k]`, `k_bgsk`, `v_bgsk [b, g, s, k]` with `g` dividing `h` → `[b, h, t, k]`.
pub fn attention(q_bhtk: Tensor<4>, k_bgsk: Tensor<4>, v_bgsk: Tensor<4>, causal: bool) -> Tensor<4> {
    assert_same_dtype("attention", &q_bhtk, &k_bgsk);
    assert_same_dtype("attention", &q_bhtk, &v_bgsk);
    reference::attention(q_bhtk, k_bgsk, v_bgsk, causal)
}

/// `silu(gate) · up` (<https://arxiv.org/abs/2002.05202>).
///
/// # Shapes
/// Both `[n, i]` → `[n, i]`.
pub fn swiglu(gate_ni: Tensor<2>, up_ni: Tensor<2>) -> Tensor<2> {
    assert_same_dtype("swiglu", &gate_ni, &up_ni);
    reference::swiglu(gate_ni, up_ni)
}

/// An elementwise activation.
pub fn activate(x_ni: Tensor<2>, activation: Activation) -> Tensor<2> {
    reference::activate(x_ni, activation)
}

/// Rows of a table; the gradient adds up rows that were taken more than once.
///
/// # Shapes
/// `table_vd [v, d]`, `rows_n [n]` → `[n, d]`.
pub fn take_rows(table_vd: Tensor<2>, rows_n: Tensor<1, Int>) -> Tensor<2> {
    table_vd.select(0, rows_n)
}

/// Sum over rows of `-log softmax(h · wᵀ)[target]`, computed in f32 over chunks of rows: the logits of all rows
/// are never in memory at once.
///
/// # Shapes
/// `h_nd [n, d]`, `w_vd [v, d]`, `targets_n [n]` in `0..v` → `[1]`, f32.
pub fn linear_cross_entropy(h_nd: Tensor<2>, w_vd: Tensor<2>, targets_n: Tensor<1, Int>) -> Tensor<1> {
    assert_same_dtype("linear_cross_entropy", &h_nd, &w_vd);
    reference::linear_cross_entropy(h_nd, w_vd, targets_n)
}

/// Casts only where the dtype differs, so that f32 runs record no node for it.
pub(crate) fn to_f32<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if x.dtype() == DType::F32 {
        x
    } else {
        x.cast(DType::F32)
    }
}

pub(crate) fn to_dtype<const D: usize>(x: Tensor<D>, dtype: DType) -> Tensor<D> {
    if x.dtype() == dtype { x } else { x.cast(dtype) }
}

/// Flat f32 state of one parameter.
#[derive(Debug, Clone)]
pub struct AdamwState {
    /// The parameter itself.
    pub master: Tensor<1>,
    /// First moment.
    pub m: Tensor<1>,
    /// Second moment.
    pub v: Tensor<1>,
}

/// Numbers of one update.
#[derive(Debug, Clone, Copy)]
pub struct AdamwStep {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// `1 - beta1^t`
    pub bias_correction1: f64,
    /// `1 - beta2^t`
    pub bias_correction2: f64,
    /// Multiplies the gradient first.
    pub grad_scale: f64,
}

/// One AdamW update.
pub fn adamw(state: AdamwState, grad: Tensor<1>, step: AdamwStep) -> AdamwState {
    let grad = grad * step.grad_scale;
    let master = state.master * (1.0 - step.lr * step.weight_decay);
    let m = state.m.clone() + (grad.clone() - state.m) * (1.0 - step.beta1);
    let v = state.v * step.beta2 + grad.square() * (1.0 - step.beta2);
    let denom = v.clone().sqrt() / step.bias_correction2.sqrt() + step.eps;
    let master = master - m.clone() / denom * (step.lr / step.bias_correction1);
    AdamwState { master, m, v }
}

/// Bytes of logits that [`linear_cross_entropy`] holds at once at most.
const MAX_LOGITS_BYTES: usize = 32 << 20;

/// Rows whose logits [`linear_cross_entropy`] holds at once, for a vocabulary.
pub fn logit_chunk_rows(vocab_size: usize) -> usize {
    (MAX_LOGITS_BYTES / (4 * vocab_size)).max(1)
}
