//! What a backend can compute: forward and backward of each op.
//!
//! Every method has a body for any backend ([`super::generic`]). Flex replaces them with its own kernels; under fusion
//! the generic bodies are recorded operation by operation, so CubeCL fuses their elementwise parts. Where that is not enough
//! CubeCL has a kernel ([`super::cube`]).

#![cfg_attr(
    feature = "ndarray",
    expect(
        deprecated,
        reason = "NdArray is a second CPU implementation to test against, until Burn removes it"
    )
)]

use burn::backend::{
    Backend, backend_extension,
    tensor::{FloatTensor, IntTensor},
};
use burn::tensor::DType;
#[cfg(feature = "cube")]
use burn::{backend::fusion::custom::TensorSpec, tensor::Shape};

use super::{
    Activation, AdamwStep, Visible,
    generic::{self, Known},
};

/// A number for each query of `[b, h, t, k]`.
#[cfg(feature = "cube")]
fn of_queries(q: &TensorSpec) -> TensorSpec {
    let [b, h, t, _] = q.shape.dims();
    TensorSpec::new(Shape::from([b, h, t]), DType::F32)
}

/// Forward and backward of the ops on backend primitives. Gradients come from the implementation for `Autodiff`, which
/// calls the `*_backward` methods of the inner backend. Shapes are those of the functions in [`super`].
#[backend_extension(
    Cube: cfg(feature = "cube"),
    Flex: cfg(feature = "flex"),
    NdArray: cfg(feature = "ndarray"),
    Autodiff,
    Fusion: cfg(feature = "cube")
)]
pub(crate) trait ModelOps: Backend {
    /// `x · wᵀ`
    #[fusion(default)]
    fn linear_forward(x: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_matmul(x, Self::float_transpose(w))
    }

    /// `x · wᵀ + bias`
    #[fusion(default)]
    fn linear_bias(x: FloatTensor<Self>, w: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        generic::linear_bias::<Self>(x, w, bias)
    }

    /// Gradient of [`ModelOps::linear_forward`] in `x`: `dy · w`.
    #[fusion(default)]
    fn linear_dx(dy: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_matmul(dy, w)
    }

    /// Gradient of [`ModelOps::linear_forward`] in `w`: `dyᵀ · x`.
    #[fusion(default)]
    fn linear_dw(dy: FloatTensor<Self>, x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_matmul(Self::float_transpose(dy), x)
    }

    /// Sum over rows, `[n, d]` to `[d]`, accumulated in f32.
    #[fusion(default)]
    fn column_sum(x: FloatTensor<Self>) -> FloatTensor<Self> {
        generic::column_sum::<Self>(x)
    }

    /// See [`super::rms_norm`].
    #[fusion(default)]
    fn rms_norm(x: FloatTensor<Self>, w: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        generic::rms_norm::<Self>(x, w, eps)
    }

    /// `(dx, dw)`
    #[fusion(default)]
    fn rms_norm_backward(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        generic::rms_norm_backward::<Self>(x, w, dy, eps)
    }

    /// See [`super::layer_norm`].
    #[fusion(default)]
    fn layer_norm_forward(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        b: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        generic::layer_norm::<Self>(x, w, b, eps)
    }

    /// `(dx, dw, db)`
    #[fusion(default)]
    fn layer_norm_backward(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        eps: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        generic::layer_norm_backward::<Self>(x, w, dy, eps)
    }

    /// See [`super::rope`]; the tables are `[t, k/2]`, f32.
    #[fusion(default)]
    fn rope(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>) -> FloatTensor<Self> {
        generic::rope::<Self>(x, cos, sin)
    }

    /// `dx`: the rotation back.
    #[fusion(default)]
    fn rope_backward(
        dy: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        generic::rope_backward::<Self>(dy, cos, sin)
    }

    /// See [`super::swiglu`].
    #[fusion(default)]
    fn swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        generic::swiglu::<Self>(gate, up)
    }

    /// `(dgate, dup)`
    #[fusion(default)]
    fn swiglu_backward(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        dy: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        generic::swiglu_backward::<Self>(gate, up, dy)
    }

    /// See [`super::activate`].
    #[fusion(default)]
    fn activate(x: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        generic::activate::<Self>(x, activation)
    }

    /// `dx`
    #[fusion(default)]
    fn activate_backward(
        x: FloatTensor<Self>,
        dy: FloatTensor<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        generic::activate_backward::<Self>(x, dy, activation)
    }

    /// See [`super::xielu`].
    #[fusion(default)]
    fn xielu(
        x: FloatTensor<Self>,
        alpha_p: FloatTensor<Self>,
        alpha_n: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        generic::xielu::<Self>(x, alpha_p, alpha_n)
    }

    /// `(dx, dalpha_p, dalpha_n)`
    #[fusion(default)]
    fn xielu_backward(
        x: FloatTensor<Self>,
        alpha_p: FloatTensor<Self>,
        alpha_n: FloatTensor<Self>,
        dy: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        generic::xielu_backward::<Self>(x, alpha_p, alpha_n, dy)
    }

    /// The output, and the f32 log-sum-exp of each query's scores, `[b, h, t]`.
    #[fusion(meta = |q, _k, _v, _visible| (q.clone(), of_queries(q)))]
    fn attention_forward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        visible: Visible,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        generic::attention::<Self>(q, k, v, visible)
    }

    /// `(dq, dk, dv)` from the inputs, both outputs of [`ModelOps::attention_forward`] and the gradient of the first.
    #[fusion(meta = |q, k, v, _out, _log_sum, _dout, _visible| (q.clone(), k.clone(), v.clone()))]
    fn attention_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        out: FloatTensor<Self>,
        log_sum: FloatTensor<Self>,
        dout: FloatTensor<Self>,
        visible: Visible,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        generic::attention_backward::<Self>(q, k, v, out, log_sum, dout, visible)
    }

    /// See [`super::take_rows`].
    #[fusion(default)]
    fn take_rows(table: FloatTensor<Self>, rows: IntTensor<Self>) -> FloatTensor<Self> {
        Self::float_select(table, 0, rows)
    }

    /// Rows added up at their places in a table of `num_rows` rows of zeros, in f32.
    #[fusion(dtype = dy, shape = Shape::from([*num_rows, dy.dims::<2>()[1]]))]
    fn take_rows_backward(
        dy: FloatTensor<Self>,
        rows: IntTensor<Self>,
        num_rows: usize,
    ) -> FloatTensor<Self> {
        generic::take_rows_backward::<Self>(dy, rows, num_rows)
    }

    /// See [`super::add_rows`]; in the memory of the table where nobody else has it.
    #[fusion(meta = |table, _rows, _values| table.clone())]
    fn add_rows(
        table: FloatTensor<Self>,
        rows: IntTensor<Self>,
        values: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        generic::add_rows::<Self>(table, rows, values)
    }

    /// See [`super::linear_cross_entropy`].
    #[fusion(default)]
    fn linear_cross_entropy(
        h: FloatTensor<Self>,
        w: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> FloatTensor<Self> {
        generic::linear_cross_entropy::<Self>(h, w, targets)
    }

    /// The loss and its gradient in `h`, in the dtype of `h`.
    #[fusion(default)]
    fn linear_cross_entropy_dh(
        h: FloatTensor<Self>,
        w: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        generic::linear_cross_entropy_dh::<Self>(h, w, targets)
    }

    /// The loss and its gradients in `h` (in the dtype of `h`) and in `w` (f32).
    #[fusion(default)]
    fn linear_cross_entropy_dh_dw(
        h: FloatTensor<Self>,
        w: FloatTensor<Self>,
        targets: IntTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        generic::linear_cross_entropy_dh_dw::<Self>(h, w, targets)
    }

    /// See [`super::linear_log_sum_exp`].
    #[fusion(default)]
    fn linear_log_sum_exp(h: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self> {
        generic::linear_log_sum_exp::<Self>(h, w)
    }

    /// See [`super::linear_cross_entropy_part`]; targets that are elsewhere are any that are here, and `here` is 0 for them,
    /// else 1.
    #[fusion(default)]
    fn linear_cross_entropy_part(
        h: FloatTensor<Self>,
        w: FloatTensor<Self>,
        targets: IntTensor<Self>,
        log_sums: FloatTensor<Self>,
        here: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        generic::linear_cross_entropy_part::<Self>(h, w, targets, Known { log_sums, here })
    }

    /// The part's loss and its gradient in `h`, in the dtype of `h`.
    #[fusion(default)]
    fn linear_cross_entropy_part_dh(
        h: FloatTensor<Self>,
        w: FloatTensor<Self>,
        targets: IntTensor<Self>,
        log_sums: FloatTensor<Self>,
        here: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        generic::linear_cross_entropy_part_dh::<Self>(h, w, targets, Known { log_sums, here })
    }

    /// The part's loss and its gradients in `h` (in the dtype of `h`) and in `w` (f32).
    #[fusion(default)]
    fn linear_cross_entropy_part_dh_dw(
        h: FloatTensor<Self>,
        w: FloatTensor<Self>,
        targets: IntTensor<Self>,
        log_sums: FloatTensor<Self>,
        here: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        generic::linear_cross_entropy_part_dh_dw::<Self>(h, w, targets, Known { log_sums, here })
    }

    /// `x` times the one element of `factor`, cast to `dtype`.
    #[fusion(default)]
    fn scale(x: FloatTensor<Self>, factor: FloatTensor<Self>, dtype: DType) -> FloatTensor<Self> {
        generic::scale::<Self>(x, factor, dtype)
    }

    /// `(master, m, v)` after the step. Not differentiable.
    #[fusion(default)]
    fn adamw(
        master: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        m: FloatTensor<Self>,
        v: FloatTensor<Self>,
        step: AdamwStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        generic::adamw::<Self>(master, grad, m, v, step)
    }

    /// `[n]` to `[1]`, f32. Not differentiable.
    #[fusion(default)]
    fn sum_of_squares(x: FloatTensor<Self>) -> FloatTensor<Self> {
        generic::sum_of_squares::<Self>(x)
    }
}

#[cfg(feature = "ndarray")]
impl ModelOps for burn::backend::NdArray {}

#[cfg(feature = "cube")]
impl ModelOps for burn_cubecl::CubeBackend {
    fn attention_forward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        visible: Visible,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        super::cube::attention(q, k, v, &visible)
    }

    fn attention_backward(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        out: FloatTensor<Self>,
        log_sum: FloatTensor<Self>,
        dout: FloatTensor<Self>,
        visible: Visible,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        super::cube::attention_backward([q, k, v], out, log_sum, dout, &visible)
    }

    fn take_rows_backward(
        dy: FloatTensor<Self>,
        rows: IntTensor<Self>,
        num_rows: usize,
    ) -> FloatTensor<Self> {
        super::cube::take_rows_backward(dy, rows, num_rows)
    }

    fn add_rows(
        table: FloatTensor<Self>,
        rows: IntTensor<Self>,
        values: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        super::cube::add_rows(table, rows, values)
    }
}
