//! The operations at the sizes of a model, to be timed: forward and backward.

use std::time::{Duration, Instant};

use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::ops::{self, Activation, AdamwState, AdamwStep, AttentionMask, RopeTable};

use super::draw::{indices, ints, noise};

/// The extents of a model's layer and of a micro-batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Rows of the batch.
    pub batch: usize,
    /// Tokens of a row.
    pub length: usize,
    /// Width of the hidden states.
    pub hidden: usize,
    /// Width inside the MLP.
    pub intermediate: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub key_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Rows of the table of tokens.
    pub vocabulary: usize,
    /// Rows that have a label.
    pub labelled: usize,
}

impl Sizes {
    fn tokens(&self) -> usize {
        self.batch * self.length
    }
}

/// Something to time.
pub struct Timed {
    /// The operation.
    pub name: String,
    /// Floating-point operations of its matrix products, 0 where it has none.
    pub flops: f64,
    /// Bytes that must be read and written at least.
    pub bytes: f64,
    /// Runs once; the device may still be at work when it returns.
    pub run: Box<dyn FnMut()>,
}

impl std::fmt::Debug for Timed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            name, flops, bytes, ..
        } = self;
        write!(f, "{name}: {flops} operations, {bytes} bytes")
    }
}

/// Where and in what to compute.
#[derive(Debug, Clone)]
struct Place {
    device: Device,
    dtype: DType,
}

impl Place {
    /// Numbers in -1..1; large tensors repeat a piece of 64 Ki.
    fn plain<const D: usize>(&self, shape: [usize; D]) -> Tensor<D> {
        let n: usize = shape.iter().product();
        let values = noise(n.min(1 << 16), n as u64)
            .into_iter()
            .cycle()
            .take(n)
            .collect();
        Tensor::from_data(TensorData::new(values, shape), (&self.device, self.dtype))
    }

    fn tracked<const D: usize>(&self, shape: [usize; D]) -> Tensor<D> {
        let plain = self.plain(shape);
        Tensor::from_data(plain.into_data(), (&self.device.clone().autodiff(), self.dtype)).require_grad()
    }

    fn bytes(&self, elements: usize) -> f64 {
        (elements * self.dtype.size()) as f64
    }
}

fn timed(name: String, flops: f64, bytes: f64, run: impl FnMut() + 'static) -> Timed {
    Timed {
        name,
        flops,
        bytes,
        run: Box::new(run),
    }
}

/// Backward from ones.
fn train<const D: usize>(y: Tensor<D>) {
    drop(y.backward());
}

/// The three matrix products of each linear layer of a decoder: forward, gradient of its input, gradient of its weight.
pub fn products(sizes: &Sizes, device: &Device, dtype: DType) -> Vec<Timed> {
    let place = Place {
        device: device.clone(),
        dtype,
    };
    let Sizes {
        hidden,
        intermediate,
        heads,
        key_heads,
        head_dim,
        vocabulary,
        ..
    } = *sizes;
    let layers = [
        ("q", sizes.tokens(), hidden, heads * head_dim),
        ("k, v", sizes.tokens(), hidden, key_heads * head_dim),
        ("o", sizes.tokens(), heads * head_dim, hidden),
        ("gate, up", sizes.tokens(), hidden, intermediate),
        ("down", sizes.tokens(), intermediate, hidden),
        ("head", sizes.labelled, hidden, vocabulary),
    ];
    let mut all = Vec::new();
    for (name, n, i, o) in layers {
        let (flops, bytes) = (2.0 * (n * i * o) as f64, place.bytes(n * i + i * o + n * o));
        let (x, w, dy) = (place.plain([n, i]), place.plain([o, i]), place.plain([n, o]));
        let operands = [
            (x.clone(), w.clone().transpose()),
            (dy.clone(), w),
            (dy.transpose(), x),
        ];
        for ((a, b), what) in operands.into_iter().zip(["y", "dx", "dw"]) {
            let run = move || drop(a.clone().matmul(b.clone()));
            all.push(timed(
                format!("{name} {what}, {n} x {i} x {o}"),
                flops,
                bytes,
                run,
            ));
        }
    }
    all
}

/// Each operation, forward and backward.
pub fn operations(sizes: &Sizes, device: &Device, dtype: DType) -> Vec<Timed> {
    let place = Place {
        device: device.clone(),
        dtype,
    };
    let mut all = vec![
        linear(&place, sizes),
        rope(&place, sizes),
        attention(&place, sizes),
    ];
    all.extend(norms(&place, sizes));
    all.extend(activations(&place, sizes));
    all.extend([take_rows(&place, sizes), loss(&place, sizes)]);
    all.extend(updates(&place, sizes));
    all
}

fn linear(place: &Place, sizes: &Sizes) -> Timed {
    let (n, i, o) = (sizes.tokens(), sizes.hidden, sizes.intermediate);
    let (x, w, bias) = (place.tracked([n, i]), place.tracked([o, i]), place.tracked([o]));
    timed(
        format!("linear with bias, {n} x {i} x {o}"),
        6.0 * (n * i * o) as f64,
        place.bytes(3 * (n * i + i * o + n * o)),
        move || train(ops::linear(x.clone(), w.clone(), Some(bias.clone()))),
    )
}

fn norms(place: &Place, sizes: &Sizes) -> [Timed; 2] {
    let (n, d) = (sizes.tokens(), sizes.hidden);
    let (x, w, bias) = (place.tracked([n, d]), place.tracked([d]), place.tracked([d]));
    // Forward reads x and writes y, backward reads x and dy and writes dx.
    let bytes = place.bytes(5 * n * d);
    let (x2, w2) = (x.clone(), w.clone());
    [
        timed(format!("rms_norm, {n} x {d}"), 0.0, bytes, move || {
            train(ops::rms_norm(x.clone(), w.clone(), 1e-6));
        }),
        timed(format!("layer_norm, {n} x {d}"), 0.0, bytes, move || {
            train(ops::layer_norm(x2.clone(), w2.clone(), bias.clone(), 1e-6));
        }),
    ]
}

fn rope(place: &Place, sizes: &Sizes) -> Timed {
    let Sizes {
        batch,
        length,
        heads,
        head_dim,
        ..
    } = *sizes;
    let table = RopeTable::new(0..length, head_dim, 10_000.0, &place.device);
    let q = place.tracked([batch, length, heads, head_dim]);
    timed(
        format!("rope, {batch} x {length} x {heads} x {head_dim}"),
        0.0,
        place.bytes(4 * batch * length * heads * head_dim),
        move || train(ops::rope(q.clone().swap_dims(1, 2), &table)),
    )
}

fn attention(place: &Place, sizes: &Sizes) -> Timed {
    let Sizes {
        batch: b,
        length: t,
        heads: h,
        key_heads: g,
        head_dim: k,
        ..
    } = *sizes;
    let q = place.tracked([b, t, h, k]);
    let (keys, values) = (place.tracked([b, t, g, k]), place.tracked([b, t, g, k]));
    let view = |x: &Tensor<4>| x.clone().swap_dims(1, 2);
    // Two products forward and five backward, of which causality leaves half.
    let flops = 7.0 * (b * h * t * t * k) as f64;
    timed(
        format!("attention, causal, b {b} h {h} g {g} t {t} k {k}"),
        flops,
        place.bytes(6 * b * t * (h + g) * k),
        move || {
            train(ops::attention(
                view(&q),
                view(&keys),
                view(&values),
                AttentionMask::Causal,
                None,
            ))
        },
    )
}

fn activations(place: &Place, sizes: &Sizes) -> Vec<Timed> {
    let (n, i) = (sizes.tokens(), sizes.intermediate);
    let (gate, up) = (place.tracked([n, i]), place.tracked([n, i]));
    let x = gate.clone();
    let mut all = vec![timed(
        format!("swiglu, {n} x {i}"),
        0.0,
        place.bytes(8 * n * i),
        move || train(ops::swiglu(gate.clone(), up.clone())),
    )];
    for kind in [Activation::Gelu, Activation::GeluTanh, Activation::QuickGelu] {
        let x = x.clone();
        let run = move || train(ops::activate(x.clone(), kind));
        all.push(timed(
            format!("{kind:?}, {n} x {i}"),
            0.0,
            place.bytes(5 * n * i),
            run,
        ));
    }
    let (alpha_p, alpha_n) = (place.tracked([1]), place.tracked([1]));
    let run = move || train(ops::xielu(x.clone(), alpha_p.clone(), alpha_n.clone()));
    all.push(timed(
        format!("xielu, {n} x {i}"),
        0.0,
        place.bytes(5 * n * i),
        run,
    ));
    all
}

fn take_rows(place: &Place, sizes: &Sizes) -> Timed {
    let (n, v, d) = (sizes.tokens(), sizes.vocabulary, sizes.hidden);
    let table = place.tracked([v, d]);
    let rows = ints(&indices(n, v, 5), &place.device);
    timed(
        format!("take_rows, {n} of {v} x {d}"),
        0.0,
        // The gradient is as large as the table.
        place.bytes(4 * n * d + v * d),
        move || train(ops::take_rows(table.clone(), rows.clone())),
    )
}

fn loss(place: &Place, sizes: &Sizes) -> Timed {
    let (n, d, v) = (sizes.labelled, sizes.hidden, sizes.vocabulary);
    let (h, w) = (place.tracked([n, d]), place.tracked([v, d]));
    let targets = ints(&indices(n, v, 6), &place.device);
    timed(
        format!("linear_cross_entropy, {n} x {d} x {v}"),
        6.0 * (n * d * v) as f64,
        place.bytes(3 * (n * d + v * d)),
        move || train(ops::linear_cross_entropy(h.clone(), w.clone(), targets.clone())),
    )
}

fn updates(place: &Place, sizes: &Sizes) -> [Timed; 2] {
    let n = 4 * sizes.hidden * sizes.intermediate;
    let f32s = Place {
        dtype: DType::F32,
        ..place.clone()
    };
    let grad = f32s.plain([n]);
    let mut state = Some(AdamwState {
        master: f32s.plain([n]),
        m: f32s.plain([n]),
        v: f32s.plain([n]).abs(),
    });
    let step = AdamwStep {
        lr: 1e-3,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        bias_correction1: 0.5,
        bias_correction2: 0.5,
        grad_scale: 1.0,
    };
    let squares = grad.clone();
    [
        timed(format!("adamw, {n}"), 0.0, f32s.bytes(7 * n), move || {
            state = state.take().map(|state| ops::adamw(state, grad.clone(), step));
        }),
        timed(format!("sum_of_squares, {n}"), 0.0, f32s.bytes(n), move || {
            drop(ops::sum_of_squares(squares.clone()));
        }),
    ]
}

impl Timed {
    /// Seconds of one run: the median over groups of runs that the device is waited for after each group, once all kernels
    /// are compiled and tuned. Takes about `budget`, or two runs.
    ///
    /// # Errors
    /// If the device fails.
    pub fn seconds(&mut self, device: &Device, budget: Duration) -> Result<f64, String> {
        let mut group = |runs: usize| -> Result<f64, String> {
            let start = Instant::now();
            (0..runs).for_each(|_| (self.run)());
            device.sync().map_err(|error| format!("{error:?}"))?;
            Ok(start.elapsed().as_secs_f64() / runs as f64)
        };
        group(1)?;
        let once = group(1)?;
        // Waiting costs some ten microseconds, which a group of 2 ms and more hides.
        let runs = (2e-3 / once).ceil().clamp(1.0, 1000.0) as usize;
        let groups = (budget.as_secs_f64() / (once * runs as f64)).clamp(1.0, 50.0) as usize;
        let mut seconds = (0..groups)
            .map(|_| group(runs))
            .collect::<Result<Vec<f64>, _>>()?;
        seconds.sort_by(f64::total_cmp);
        Ok(seconds[seconds.len() / 2])
    }
}
