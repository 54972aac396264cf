//! The operations models are made of, with their gradients.
//!
//! Each public function asserts what Burn does not check (equal dtypes: on CUDA a matmul of mixed dtypes misreads
//! bytes without an error) and states its shapes. [`reference`] holds the definitions in plain tensor operations;
//! tests compare every op, forward and gradient, with its definition.
//!
//! Shape letters: `b` batch, `t` query positions, `s` key positions, `h` query heads, `g` key/value heads, `k` width of
//! a head, `d` hidden width, `n` rows, `v` vocabulary.

mod autodiff;
#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "cuda")]
pub mod cuda;
mod expr;
#[cfg(feature = "flex")]
mod flex;
mod generic;
mod kernels;
pub mod reference;
mod segments;
#[cfg(feature = "cube")]
mod setup;
#[cfg(test)]
#[cfg(feature = "flex")]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};

use burn::backend::Dispatch;
#[cfg(feature = "flex")]
use burn::backend::DispatchDevice;
use burn::tensor::{DType, Device, Int, Tensor};

#[cfg(feature = "cube")]
pub use cube::keep_scores_below;
use kernels::ModelOps;
pub use reference::RopeTable;
pub use segments::Segments;
#[cfg(feature = "cube")]
pub use setup::set_up_gpus;

/// Whether a device rounds the operands of products of f32 numbers to TF32, which has 10 bits behind the point. CubeCL does so
/// wherever tensor cores take it (A100 and later), without a switch.
pub fn rounds_to_tf32(device: &Device) -> bool {
    #[cfg(feature = "cuda")]
    return cuda::has_tf32(device);
    #[cfg(not(feature = "cuda"))]
    return {
        let _ = device;
        false
    };
}

/// Activation functions of the MLPs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Exact GELU, `x · Φ(x)` (<https://arxiv.org/abs/1606.08415>).
    Gelu,
    /// `x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))`, the approximation in GELU's paper, PyTorch's `approximate="tanh"`.
    GeluTanh,
    /// `x · sigmoid(1.702 x)`, OpenAI CLIP's approximation of GELU.
    QuickGelu,
}

/// Which keys a query sees. Unless all, the `t` queries are the last of the `s` positions, so query `i` stands at position
/// `s - t + i`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionMask {
    /// All.
    Full,
    /// Its own position and those before.
    Causal,
    /// Of these the last `window`, its own among them (<https://arxiv.org/abs/2310.06825>).
    SlidingWindow {
        /// At least 1.
        window: usize,
    },
}

/// What the queries of one call of [`attention`] see.
#[derive(Debug, Clone)]
pub(crate) struct Visible {
    mask: AttentionMask,
    segments: Option<Segments>,
}

/// What the differentiable functions of this module run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bodies {
    /// The operations with their own gradients and kernels.
    Fused,
    /// Their definitions in [`reference`], with Burn's gradients: slow, and the whole attention matrix and all logits in
    /// memory.
    Reference,
}

static BY_DEFINITION: AtomicBool = AtomicBool::new(false);

/// Chooses for the whole process, all threads; until then it is [`Bodies::Fused`]. Meant for comparisons, before the first
/// step: results of the two differ by rounding.
pub fn choose(bodies: Bodies) {
    BY_DEFINITION.store(bodies == Bodies::Reference, Ordering::Relaxed);
}

fn by_definition() -> bool {
    BY_DEFINITION.load(Ordering::Relaxed)
}

/// Factor of the cubic term in [`Activation::GeluTanh`].
const GELU_TANH_CUBIC: f64 = 0.044715;
/// `2 √(2/π)`: `1 + tanh(u)` is `2 sigmoid(2 u)`.
const GELU_TANH_SCALE: f64 = 1.595_769_121_605_730_7;

/// Slope of [`xielu`] at 0; fixed by the architecture.
pub const XIELU_BETA: f64 = 0.5;
/// Arguments of the exponential in [`xielu`] are at most this; fixed by the architecture.
pub const XIELU_EPS: f64 = -1e-6;

fn assert_same_dtype<const A: usize, const B: usize>(op: &str, a: &Tensor<A>, b: &Tensor<B>) {
    assert_eq!(a.dtype(), b.dtype(), "{op}: operands have different dtypes");
}

/// `x · wᵀ (+ bias)` with the weight in Hugging Face's layout.
///
/// # Shapes
/// `x_ni [n, i]`, `w_oi [o, i]`, `bias_o [o]` → `[n, o]`.
pub fn linear(x_ni: Tensor<2>, w_oi: Tensor<2>, bias_o: Option<Tensor<1>>) -> Tensor<2> {
    assert_same_dtype("linear", &x_ni, &w_oi);
    if by_definition() {
        return reference::linear(x_ni, w_oi, bias_o);
    }
    let (x, w) = (x_ni.into_dispatch(), w_oi.into_dispatch());
    Tensor::from_dispatch(match bias_o {
        Some(bias_o) => Dispatch::linear_bias(x, w, bias_o.into_dispatch()),
        None => Dispatch::linear_forward(x, w),
    })
}

/// RMSNorm (<https://arxiv.org/abs/1910.07467>) as Hugging Face's Llama computes it: statistics and division in f32,
/// one rounding to the input's dtype, then the weight.
///
/// # Shapes
/// `x [.., d]`, `w_d [d]` → the shape of `x`.
pub fn rms_norm<const D: usize>(x: Tensor<D>, w_d: Tensor<1>, eps: f64) -> Tensor<D> {
    assert_same_dtype("rms_norm", &x, &w_d);
    if by_definition() {
        return reference::rms_norm(x, w_d, eps);
    }
    Tensor::from_dispatch(Dispatch::rms_norm(x.into_dispatch(), w_d.into_dispatch(), eps))
}

/// LayerNorm (<https://arxiv.org/abs/1607.06450>) over the last axis, statistics in f32.
///
/// # Shapes
/// `x [.., d]`, `w_d [d]`, `b_d [d]` → the shape of `x`.
pub fn layer_norm<const D: usize>(x: Tensor<D>, w_d: Tensor<1>, b_d: Tensor<1>, eps: f64) -> Tensor<D> {
    assert_same_dtype("layer_norm", &x, &w_d);
    assert_same_dtype("layer_norm", &x, &b_d);
    if by_definition() {
        return reference::layer_norm(x, w_d, b_d, eps);
    }
    let (w, b) = (w_d.into_dispatch(), b_d.into_dispatch());
    Tensor::from_dispatch(Dispatch::layer_norm_forward(x.into_dispatch(), w, b, eps))
}

/// Rotary position embedding (<https://arxiv.org/abs/2104.09864>) in Hugging Face's rotate-half form, in f32.
///
/// # Shapes
/// `x_bhtk [b, h, t, k]`, table of `t` positions → `[b, h, t, k]`.
pub fn rope(x_bhtk: Tensor<4>, table: &RopeTable) -> Tensor<4> {
    let [_, _, t, k] = x_bhtk.dims();
    assert_eq!(
        table.cos.dims(),
        [t, k / 2],
        "rope: table of another length or width"
    );
    if by_definition() {
        return reference::rope(x_bhtk, table);
    }
    let (cos, sin) = (
        table.cos.clone().into_dispatch(),
        table.sin.clone().into_dispatch(),
    );
    Tensor::from_dispatch(Dispatch::rope(x_bhtk.into_dispatch(), cos, sin))
}

/// Softmax attention with grouped keys and values. Scores and softmax are f32.
///
/// With segments (`t = s`, as many rows as `b`) the mask holds within each: a query sees no key of another one. This is
/// FlashAttention's `varlen` attention (<https://arxiv.org/abs/2205.14135>); its work is the sum of the squares of the
/// segments' lengths where [`attends_by_segment`]. Outputs and gradients of positions behind a row's last segment are 0.
///
/// # Shapes
/// `q_bhtk [b, h, t, k]`, `k_bgsk`, `v_bgsk [b, g, s, k]` with `g` dividing `h` → `[b, h, t, k]`.
pub fn attention(
    q_bhtk: Tensor<4>,
    k_bgsk: Tensor<4>,
    v_bgsk: Tensor<4>,
    mask: AttentionMask,
    segments: Option<&Segments>,
) -> Tensor<4> {
    assert_same_dtype("attention", &q_bhtk, &k_bgsk);
    assert_same_dtype("attention", &q_bhtk, &v_bgsk);
    let ([b, h, t, k], [_, g, s, _]) = (q_bhtk.dims(), k_bgsk.dims());
    assert!(
        h % g == 0,
        "attention: {h} query heads do not divide into {g} key heads"
    );
    assert!(
        k_bgsk.dims() == [b, g, s, k] && v_bgsk.dims() == [b, g, s, k],
        "attention: shapes differ"
    );
    assert!(
        mask == AttentionMask::Full || t <= s,
        "attention: {t} causal queries, but {s} keys"
    );
    assert!(
        mask != AttentionMask::SlidingWindow { window: 0 },
        "attention: a window of no key"
    );
    assert!(
        segments.is_none_or(|segments| t == s && segments.rows() == b && segments.fit(t)),
        "attention: segments of other rows than {b} of {t} queries and {s} keys"
    );
    if by_definition() {
        return reference::attention(q_bhtk, k_bgsk, v_bgsk, mask, segments);
    }
    let visible = Visible {
        mask,
        segments: segments.cloned(),
    };
    let (q, k, v) = (
        q_bhtk.into_dispatch(),
        k_bgsk.into_dispatch(),
        v_bgsk.into_dispatch(),
    );
    Tensor::from_dispatch(Dispatch::attention_forward(q, k, v, visible).0)
}

/// Whether attention with segments does one segment at a time on this device. Elsewhere it goes through a row in chunks of
/// queries, so that a long row of short segments costs more than those segments as padded rows.
pub fn attends_by_segment(device: &Device) -> bool {
    #[cfg(feature = "flex")]
    let flex = matches!(device.clone().inner().as_dispatch(), DispatchDevice::Flex(_));
    #[cfg(not(feature = "flex"))]
    let (flex, _) = (false, device);
    flex
}

/// `silu(gate) · up` (<https://arxiv.org/abs/2002.05202>).
///
/// # Shapes
/// Both `[n, i]` → `[n, i]`.
pub fn swiglu(gate_ni: Tensor<2>, up_ni: Tensor<2>) -> Tensor<2> {
    assert_same_dtype("swiglu", &gate_ni, &up_ni);
    assert_eq!(gate_ni.dims(), up_ni.dims(), "swiglu: shapes differ");
    if by_definition() {
        return reference::swiglu(gate_ni, up_ni);
    }
    Tensor::from_dispatch(Dispatch::swiglu(gate_ni.into_dispatch(), up_ni.into_dispatch()))
}

/// An elementwise activation.
pub fn activate(x_ni: Tensor<2>, activation: Activation) -> Tensor<2> {
    if by_definition() {
        return reference::activate(x_ni, activation);
    }
    Tensor::from_dispatch(Dispatch::activate(x_ni.into_dispatch(), activation))
}

/// xIELU (<https://arxiv.org/abs/2411.13010>), with `a_p = softplus(alpha_p)` and `a_n = beta + softplus(alpha_n)`:
/// `a_p x² + beta x` where `x` is positive, else `a_n (expm1(min(x, eps)) - x) + beta x`. In f32.
///
/// # Shapes
/// `x_ni [n, i]`, `alpha_p_1 [1]`, `alpha_n_1 [1]` → `[n, i]`.
pub fn xielu(x_ni: Tensor<2>, alpha_p_1: Tensor<1>, alpha_n_1: Tensor<1>) -> Tensor<2> {
    assert_same_dtype("xielu", &x_ni, &alpha_p_1);
    assert_same_dtype("xielu", &x_ni, &alpha_n_1);
    if by_definition() {
        return reference::xielu(x_ni, alpha_p_1, alpha_n_1);
    }
    let (alpha_p, alpha_n) = (alpha_p_1.into_dispatch(), alpha_n_1.into_dispatch());
    Tensor::from_dispatch(Dispatch::xielu(x_ni.into_dispatch(), alpha_p, alpha_n))
}

/// Rows of a table; the gradient adds up rows that were taken more than once.
///
/// # Shapes
/// `table_vd [v, d]`, `rows_n [n]` → `[n, d]`.
pub fn take_rows(table_vd: Tensor<2>, rows_n: Tensor<1, Int>) -> Tensor<2> {
    if by_definition() {
        return reference::take_rows(table_vd, rows_n);
    }
    Tensor::from_dispatch(Dispatch::take_rows(
        table_vd.into_dispatch(),
        rows_n.into_dispatch(),
    ))
}

/// Values added to rows of a table, in the table's own memory where nobody else has it: the gradient of [`take_rows`] where
/// there is a sum of gradients already. Rows may come more than once. Not differentiable.
///
/// # Shapes
/// `table_vd [v, d]`, f32; `rows_n [n]`, `values_nd [n, d]` → `[v, d]`.
///
/// # Panics
/// If the table is not f32, or shapes do not fit.
pub fn add_rows(table_vd: Tensor<2>, rows_n: Tensor<1, Int>, values_nd: Tensor<2>) -> Tensor<2> {
    assert_eq!(table_vd.dtype(), DType::F32, "add_rows: a sum of gradients");
    let shape = [rows_n.dims()[0], table_vd.dims()[1]];
    assert_eq!(values_nd.dims(), shape, "add_rows: values for other rows");
    if by_definition() {
        return reference::add_rows(table_vd, rows_n, values_nd);
    }
    Tensor::from_dispatch(Dispatch::add_rows(
        table_vd.into_dispatch(),
        rows_n.into_dispatch(),
        values_nd.into_dispatch(),
    ))
}

/// Sum over rows of `-log softmax(h · wᵀ)[target]`, computed in f32 over chunks of rows: the logits of all rows
/// are never in memory at once.
///
/// # Shapes
/// `h_nd [n, d]`, `w_vd [v, d]`, `targets_n [n]` in `0..v` → `[1]`, f32.
pub fn linear_cross_entropy(h_nd: Tensor<2>, w_vd: Tensor<2>, targets_n: Tensor<1, Int>) -> Tensor<1> {
    assert_same_dtype("linear_cross_entropy", &h_nd, &w_vd);
    if by_definition() {
        return reference::linear_cross_entropy(h_nd, w_vd, targets_n);
    }
    let (h, w) = (h_nd.into_dispatch(), w_vd.into_dispatch());
    Tensor::from_dispatch(Dispatch::linear_cross_entropy(h, w, targets_n.into_dispatch()))
}

/// Log-sum-exp of the rows of `h · wᵀ`, computed in f32 over chunks of rows. Not differentiable: with the log-sum-exps of
/// other parts of the vocabulary it makes up what [`linear_cross_entropy_part`] needs to know.
///
/// # Shapes
/// `h_nd [n, d]`, `w_vd [v, d]` → `[n]`, f32.
pub fn linear_log_sum_exp(h_nd: Tensor<2>, w_vd: Tensor<2>) -> Tensor<1> {
    assert_same_dtype("linear_log_sum_exp", &h_nd, &w_vd);
    if by_definition() {
        return reference::linear_log_sum_exp(h_nd, w_vd);
    }
    Tensor::from_dispatch(Dispatch::linear_log_sum_exp(
        h_nd.into_dispatch(),
        w_vd.into_dispatch(),
    ))
}

/// What a part of the vocabulary has of [`linear_cross_entropy`] (Megatron-LM's vocabulary-parallel loss,
/// <https://arxiv.org/abs/1909.08053>): the losses of the rows whose target is in it. `w_vd` are consecutive rows of the whole
/// projection, `targets_n` count from the first of them, and one outside `0..v` is in another part. `log_sums_n` are the
/// log-sum-exps of the rows over the whole vocabulary, see [`linear_log_sum_exp`].
///
/// Over all parts the outputs add up to the whole loss, and so do the gradients in `h`; those in `w` are the whole's rows.
/// The gradient is therefore not that of this output alone: every row's softmax is in it.
///
/// # Shapes
/// `h_nd [n, d]`, `w_vd [v, d]`, `targets_n [n]`, `log_sums_n [n]` in f32 → `[1]`, f32.
pub fn linear_cross_entropy_part(
    h_nd: Tensor<2>,
    w_vd: Tensor<2>,
    targets_n: Tensor<1, Int>,
    log_sums_n: Tensor<1>,
) -> Tensor<1> {
    assert_same_dtype("linear_cross_entropy_part", &h_nd, &w_vd);
    assert_eq!(
        log_sums_n.dtype(),
        DType::F32,
        "linear_cross_entropy_part: log-sum-exps are not f32"
    );
    if by_definition() {
        return reference::linear_cross_entropy_part(h_nd, w_vd, targets_n, log_sums_n);
    }
    let last = w_vd.dims()[0] as i64 - 1;
    let clamped_n = targets_n.clone().clamp(0, last);
    let here_n = to_f32(clamped_n.clone().equal(targets_n).float());
    Tensor::from_dispatch(Dispatch::linear_cross_entropy_part(
        h_nd.into_dispatch(),
        w_vd.into_dispatch(),
        clamped_n.into_dispatch(),
        log_sums_n.into_dispatch(),
        here_n.into_dispatch(),
    ))
}

/// Rows of logits to compute at a time: about 32 MiB of f32, at least 128 rows unless those are more than 64 MiB. The
/// gradient of the table is read and written once for each chunk, which few rows would not pay for.
pub fn logit_rows(n: usize, v: usize) -> usize {
    let rows_of = |mebibytes: usize| mebibytes * (1 << 18) / v.max(1);
    rows_of(32).max(rows_of(64).min(128)).clamp(1, n.max(1))
}

/// A parameter's f32 value and AdamW's moments of it, `[n]` each.
#[derive(Debug, Clone)]
pub struct AdamwState {
    /// The parameter.
    pub master: Tensor<1>,
    /// Mean of the gradient.
    pub m: Tensor<1>,
    /// Mean of its square.
    pub v: Tensor<1>,
}

/// Numbers of one AdamW step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamwStep {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled: the parameter is first multiplied by `1 - lr * weight_decay`.
    pub weight_decay: f64,
    /// `1 - beta1^step`
    pub bias_correction1: f64,
    /// `1 - beta2^step`
    pub bias_correction2: f64,
    /// Multiplies the gradient: clipping, and the division of the summed loss.
    pub grad_scale: f64,
}

/// One step of AdamW (<https://arxiv.org/abs/1711.05101>) in PyTorch's order of operations, in f32. In place on Flex where
/// no other tensor shares the state's memory. Not differentiable.
///
/// # Shapes
/// All `[n]`; the state is f32.
pub fn adamw(state: AdamwState, grad_n: Tensor<1>, step: AdamwStep) -> AdamwState {
    let AdamwState { master, m, v } = state;
    for tensor in [&master, &m, &v] {
        assert_eq!(tensor.dtype(), DType::F32, "adamw: state is not f32");
        assert_eq!(tensor.dims(), grad_n.dims(), "adamw: shapes differ");
    }
    if by_definition() {
        return reference::adamw(AdamwState { master, m, v }, grad_n, step);
    }
    let (p, g) = (master.into_dispatch(), grad_n.into_dispatch());
    let (p, m, v) = Dispatch::adamw(p, g, m.into_dispatch(), v.into_dispatch(), step);
    let tensor = Tensor::from_dispatch;
    AdamwState {
        master: tensor(p),
        m: tensor(m),
        v: tensor(v),
    }
}

/// Sum of the squares in f32, for the gradient norm. Not differentiable.
///
/// # Shapes
/// `[n]` → `[1]`
pub fn sum_of_squares(x_n: Tensor<1>) -> Tensor<1> {
    if by_definition() {
        return to_f32(x_n).square().sum();
    }
    Tensor::from_dispatch(Dispatch::sum_of_squares(x_n.into_dispatch()))
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
