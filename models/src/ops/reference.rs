//! The definition of every op in plain tensor operations: any backend, differentiable by Burn, not fast.

use burn::tensor::{Bool, Device, IndexingUpdateOp, Int, Tensor, TensorData, activation};

use super::{
    Activation, AdamwState, AdamwStep, AttentionMask, GELU_TANH_CUBIC, Segments, XIELU_BETA, XIELU_EPS,
    to_dtype, to_f32,
};

/// Cosines and sines of `t` positions, f32.
#[derive(Debug, Clone)]
pub struct RopeTable {
    /// `[t, k/2]`
    pub cos: Tensor<2>,
    /// `[t, k/2]`
    pub sin: Tensor<2>,
}

impl RopeTable {
    /// Number of positions.
    pub fn len(&self) -> usize {
        self.cos.dims()[0]
    }

    /// Whether there is no position.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows of chosen positions, which may recur.
    ///
    /// # Shapes
    /// `rows_n [n]` in `0..len` → a table of `n` positions.
    pub fn take(&self, rows_n: Tensor<1, Int>) -> Self {
        Self {
            cos: self.cos.clone().select(0, rows_n.clone()),
            sin: self.sin.clone().select(0, rows_n),
        }
    }

    /// Angles `position · theta^(-2i/k)` for `positions` and `i < k/2`, computed in f64 on the host.
    pub fn new(
        positions: impl IntoIterator<Item = usize>,
        head_dim: usize,
        theta: f64,
        device: &Device,
    ) -> Self {
        let frequencies: Vec<f64> = (0..head_dim / 2)
            .map(|i| theta.powf(-2.0 * i as f64 / head_dim as f64))
            .collect();
        Self::of_frequencies(positions, &frequencies, 1.0, device)
    }

    /// Angles `position · frequency` for `positions` and all `frequencies`, whose cosines and sines are multiplied by
    /// `factor`; computed in f64 on the host.
    pub fn of_frequencies(
        positions: impl IntoIterator<Item = usize>,
        frequencies: &[f64],
        factor: f64,
        device: &Device,
    ) -> Self {
        let positions: Vec<usize> = positions.into_iter().collect();
        let angles: Vec<f64> = positions
            .iter()
            .flat_map(|p| frequencies.iter().map(move |frequency| *p as f64 * frequency))
            .collect();
        let table = |f: fn(f64) -> f64| {
            let values: Vec<f32> = angles.iter().map(|&a| (f(a) * factor) as f32).collect();
            let data = TensorData::new(values, [positions.len(), frequencies.len()]);
            Tensor::<2>::from_data(data, (device, burn::tensor::DType::F32))
        };
        Self {
            cos: table(f64::cos),
            sin: table(f64::sin),
        }
    }
}

/// See [`super::linear`].
pub fn linear(x_ni: Tensor<2>, w_oi: Tensor<2>, bias_o: Option<Tensor<1>>) -> Tensor<2> {
    let y_no = x_ni.matmul(w_oi.transpose());
    match bias_o {
        Some(bias_o) => y_no + bias_o.unsqueeze::<2>(),
        None => y_no,
    }
}

/// See [`super::rms_norm`].
pub fn rms_norm<const D: usize>(x: Tensor<D>, w_d: Tensor<1>, eps: f64) -> Tensor<D> {
    let dtype = x.dtype();
    let x = to_f32(x);
    let mean_square = x.clone().square().mean_dim(D - 1);
    let normalised = x * (mean_square + eps).sqrt().recip();
    to_dtype(normalised, dtype) * w_d.unsqueeze::<D>()
}

/// See [`super::layer_norm`].
pub fn layer_norm<const D: usize>(x: Tensor<D>, w_d: Tensor<1>, b_d: Tensor<1>, eps: f64) -> Tensor<D> {
    let dtype = x.dtype();
    let x = to_f32(x);
    let centred = x.clone() - x.mean_dim(D - 1);
    let variance = centred.clone().square().mean_dim(D - 1);
    let normalised = centred * (variance + eps).sqrt().recip();
    let y = normalised * to_f32(w_d).unsqueeze::<D>() + to_f32(b_d).unsqueeze::<D>();
    to_dtype(y, dtype)
}

/// See [`super::rope`].
pub fn rope(x_bhtk: Tensor<4>, table: &RopeTable) -> Tensor<4> {
    let dtype = x_bhtk.dtype();
    let half = x_bhtk.dims()[3] / 2;
    let x = to_f32(x_bhtk);
    let (cos, sin) = (
        table.cos.clone().unsqueeze::<4>(),
        table.sin.clone().unsqueeze::<4>(),
    );
    let (first, second) = (x.clone().narrow(3, 0, half), x.narrow(3, half, half));
    let rotated_first = first.clone() * cos.clone() - second.clone() * sin.clone();
    let rotated_second = second * cos + first * sin;
    to_dtype(Tensor::cat(vec![rotated_first, rotated_second], 3), dtype)
}

/// See [`super::attention`].
pub fn attention(
    q_bhtk: Tensor<4>,
    k_bgsk: Tensor<4>,
    v_bgsk: Tensor<4>,
    mask: AttentionMask,
    segments: Option<&Segments>,
) -> Tensor<4> {
    let dtype = q_bhtk.dtype();
    let [b, h, t, k] = q_bhtk.dims();
    let [_, g, s, _] = k_bgsk.dims();
    let scale = 1.0 / (k as f64).sqrt();
    // Repeat each key/value head for its group of queries: [b, g, s, k] -> [b, h, s, k].
    let repeat = |x: Tensor<4>| -> Tensor<4> {
        to_f32(x)
            .unsqueeze_dim::<5>(2)
            .expand([b, g, h / g, s, k])
            .reshape([b, h, s, k])
    };
    let (keys, values) = (repeat(k_bgsk), repeat(v_bgsk));
    let mut scores = to_f32(q_bhtk).matmul(keys.swap_dims(2, 3)) * scale;
    let ones = || Tensor::<2>::ones([t, s], &scores.device());
    let hidden: Option<Tensor<2, Bool>> = match mask {
        AttentionMask::Full => None,
        AttentionMask::Causal => Some(ones().triu((s - t) as i64 + 1).bool()),
        AttentionMask::SlidingWindow { window } => {
            let (future, past) = ((s - t) as i64 + 1, (s - t) as i64 - window as i64);
            Some(ones().triu(future).bool().bool_or(ones().tril(past).bool()))
        }
    };
    if let Some(hidden) = hidden {
        let hidden: Tensor<4, Bool> = hidden.unsqueeze::<4>().expand([b, h, t, s]);
        scores = scores.mask_fill(hidden, f32::NEG_INFINITY);
    }
    if let Some(segments) = segments {
        let starts: Vec<i32> = segments.starts(t).into_iter().map(|start| start as i32).collect();
        let starts = Tensor::<2, Int>::from_data(TensorData::new(starts, [b, t]), &scores.device());
        let (of_query, of_key) = (starts.clone().unsqueeze_dim::<3>(2), starts.unsqueeze_dim::<3>(1));
        let elsewhere = of_query.expand([b, t, s]).not_equal(of_key.expand([b, t, s]));
        let elsewhere: Tensor<4, Bool> = elsewhere.unsqueeze_dim::<4>(1).expand([b, h, t, s]);
        scores = scores.mask_fill(elsewhere, f32::NEG_INFINITY);
    }
    let mut out = activation::softmax(scores, 3).matmul(values);
    if let Some(real) = segments.and_then(|segments| segments.real(t)) {
        out = out.clone() * Tensor::<4>::from_data(TensorData::new(real, [b, 1, t, 1]), &out.device());
    }
    to_dtype(out, dtype)
}

/// See [`super::swiglu`].
pub fn swiglu(gate_ni: Tensor<2>, up_ni: Tensor<2>) -> Tensor<2> {
    activation::silu(gate_ni) * up_ni
}

/// See [`super::activate`].
pub fn activate(x_ni: Tensor<2>, kind: Activation) -> Tensor<2> {
    match kind {
        // Burn's own GELU has a gradient of the approximation by tanh on some backends.
        Activation::Gelu => x_ni.clone() * 0.5 * ((x_ni * std::f64::consts::FRAC_1_SQRT_2).erf() + 1.0),
        Activation::GeluTanh => {
            let cubic = x_ni.clone() * x_ni.clone() * x_ni.clone() * GELU_TANH_CUBIC;
            let inner = (x_ni.clone() + cubic) * (2.0 / std::f64::consts::PI).sqrt();
            x_ni * 0.5 * (inner.tanh() + 1.0)
        }
        Activation::QuickGelu => activation::sigmoid(x_ni.clone() * 1.702) * x_ni,
    }
}

/// See [`super::xielu`].
pub fn xielu(x_ni: Tensor<2>, alpha_p_1: Tensor<1>, alpha_n_1: Tensor<1>) -> Tensor<2> {
    let dtype = x_ni.dtype();
    let x = to_f32(x_ni);
    let alpha_p = activation::softplus(to_f32(alpha_p_1), 1.0).unsqueeze::<2>();
    let alpha_n = (activation::softplus(to_f32(alpha_n_1), 1.0) + XIELU_BETA).unsqueeze::<2>();
    let low = x.clone().clamp_max(XIELU_EPS);
    // expm1, which would lose its digits near 0 as exp(x) - 1.
    let expm1 = (low.clone() * 0.5).tanh() * (low.exp() + 1.0);
    let curved = expm1 - x.clone();
    let below = curved * alpha_n + x.clone() * XIELU_BETA;
    let above = x.clone().square() * alpha_p + x.clone() * XIELU_BETA;
    to_dtype(below.mask_where(x.greater_elem(0.0), above), dtype)
}

/// See [`super::take_rows`].
pub fn take_rows(table_vd: Tensor<2>, rows_n: Tensor<1, Int>) -> Tensor<2> {
    table_vd.select(0, rows_n)
}

/// See [`super::add_rows`].
pub fn add_rows(table_vd: Tensor<2>, rows_n: Tensor<1, Int>, values_nd: Tensor<2>) -> Tensor<2> {
    table_vd.select_assign(0, rows_n, to_f32(values_nd), IndexingUpdateOp::Add)
}

/// See [`super::linear_cross_entropy`].
pub fn linear_cross_entropy(h_nd: Tensor<2>, w_vd: Tensor<2>, targets_n: Tensor<1, Int>) -> Tensor<1> {
    let logits_nv = to_f32(h_nd.matmul(w_vd.transpose()));
    let log_probs_nv = activation::log_softmax(logits_nv, 1);
    log_probs_nv
        .gather(1, targets_n.unsqueeze_dim::<2>(1))
        .sum()
        .neg()
}

/// See [`super::linear_log_sum_exp`].
pub fn linear_log_sum_exp(h_nd: Tensor<2>, w_vd: Tensor<2>) -> Tensor<1> {
    let logits_nv = to_f32(h_nd.matmul(w_vd.transpose()));
    let max_n1 = logits_nv.clone().max_dim(1);
    let sums_n1 = (logits_nv - max_n1.clone()).exp().sum_dim(1).log() + max_n1;
    sums_n1.squeeze_dim(1)
}

/// See [`super::linear_cross_entropy_part`].
pub fn linear_cross_entropy_part(
    h_nd: Tensor<2>,
    w_vd: Tensor<2>,
    targets_n: Tensor<1, Int>,
    log_sums_n: Tensor<1>,
) -> Tensor<1> {
    let v = w_vd.dims()[0] as i64;
    let logits_nv = to_f32(h_nd.matmul(w_vd.transpose()));
    let log_sums_n1 = log_sums_n.unsqueeze_dim::<2>(1);
    let clamped_n = targets_n.clone().clamp(0, v - 1);
    let here_n1 = to_f32(clamped_n.clone().equal(targets_n).float()).unsqueeze_dim::<2>(1);
    let picked_n1 = logits_nv.clone().gather(1, clamped_n.unsqueeze_dim::<2>(1));
    // The gradient of a row's log-sum-exp in its logits is their softmax, which is also that of the sum of the softmax with
    // a fixed denominator; its value is taken off again.
    let p_sum = (logits_nv - log_sums_n1.clone()).exp().sum();
    (here_n1 * (log_sums_n1 - picked_n1)).sum() + p_sum.clone() - p_sum.detach()
}

/// See [`super::adamw`].
pub fn adamw(state: AdamwState, grad_n: Tensor<1>, step: AdamwStep) -> AdamwState {
    let grad_n = to_f32(grad_n) * step.grad_scale;
    let m = state.m * step.beta1 + grad_n.clone() * (1.0 - step.beta1);
    let v = state.v * step.beta2 + grad_n.square() * (1.0 - step.beta2);
    let denominator = v.clone().sqrt() / step.bias_correction2.sqrt() + step.eps;
    let update = m.clone() / denominator * (step.lr / step.bias_correction1);
    AdamwState {
        master: state.master * (1.0 - step.lr * step.weight_decay) - update,
        m,
        v,
    }
}
