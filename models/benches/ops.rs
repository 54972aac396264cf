//! Forward and backward of each op against its definition in plain tensor operations, on Flex, at the shapes of a small
//! model: `cargo bench -p brazier-models --bench ops`.

use std::{
    hint::black_box,
    io::{self, Write},
    time::Instant,
};

use brazier_models::ops::{self, Activation, AttentionMask, RopeTable, reference};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

const ROUNDS: usize = 21;

fn floats<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    let n = shape.iter().product();
    let values: Vec<f32> = (0..n)
        .map(|i: usize| ((i * 2_654_435_761) % 1000) as f32 / 500.0 - 1.0)
        .collect();
    let device = Device::flex().autodiff();
    Tensor::from_data(TensorData::new(values, shape), (&device, DType::F32)).require_grad()
}

/// The fastest round: other processes only ever make a round slower.
fn best_millis(mut run: impl FnMut()) -> f64 {
    run();
    (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64() * 1e3
        })
        .fold(f64::INFINITY, f64::min)
}

fn report(name: &str, op: impl FnMut(), definition: impl FnMut()) -> io::Result<()> {
    let (op, definition) = (best_millis(op), best_millis(definition));
    writeln!(
        io::stdout(),
        "{name:<44} {op:>9.3} {definition:>9.3} {:>7.1}",
        definition / op
    )
}

/// Backward from ones.
fn train<const D: usize>(y: Tensor<D>) {
    black_box(y.backward());
}

fn main() -> io::Result<()> {
    writeln!(
        io::stdout(),
        "{:<44} {:>9} {:>9} {:>7}",
        "forward + backward",
        "ops, ms",
        "plain, ms",
        "ratio"
    )?;
    let (b, t, d, i, v) = (32, 100, 128, 352, 2048);
    let n = b * t;

    let (x, w, bias) = (floats([n, d]), floats([i, d]), floats([i]));
    report(
        &format!("linear {n}x{d} -> {i}"),
        || train(ops::linear(x.clone(), w.clone(), Some(bias.clone()))),
        || train(reference::linear(x.clone(), w.clone(), Some(bias.clone()))),
    )?;
    let (w, bias) = (floats([d]), floats([d]));
    report(
        &format!("rms_norm {n}x{d}"),
        || train(ops::rms_norm(x.clone(), w.clone(), 1e-6)),
        || train(reference::rms_norm(x.clone(), w.clone(), 1e-6)),
    )?;
    report(
        &format!("layer_norm {n}x{d}"),
        || train(ops::layer_norm(x.clone(), w.clone(), bias.clone(), 1e-6)),
        || train(reference::layer_norm(x.clone(), w.clone(), bias.clone(), 1e-6)),
    )?;
    let (gate, up) = (floats([n, i]), floats([n, i]));
    report(
        &format!("swiglu {n}x{i}"),
        || train(ops::swiglu(gate.clone(), up.clone())),
        || train(reference::swiglu(gate.clone(), up.clone())),
    )?;
    for kind in [Activation::Gelu, Activation::GeluTanh, Activation::QuickGelu] {
        report(
            &format!("{kind:?} {n}x{i}"),
            || train(ops::activate(gate.clone(), kind)),
            || train(reference::activate(gate.clone(), kind)),
        )?;
    }
    let table = RopeTable::new(0..t, 32, 10_000.0, &Device::flex());
    let q = floats([b, t, 4, 32]);
    report(
        &format!("rope {b}x4x{t}x32, a view of {b}x{t}x4x32"),
        || train(ops::rope(q.clone().swap_dims(1, 2), &table)),
        || train(reference::rope(q.clone().swap_dims(1, 2), &table)),
    )?;
    for (b, t, s, h, g, k, mask) in [
        (32, 100, 100, 4, 2, 32, AttentionMask::Causal),
        (32, 65, 65, 4, 4, 32, AttentionMask::Full),
        (2, 1024, 1024, 8, 4, 64, AttentionMask::Causal),
        (
            2,
            1024,
            1024,
            8,
            4,
            64,
            AttentionMask::SlidingWindow { window: 128 },
        ),
    ] {
        let heads = |len: usize, heads: usize| floats([b, len, heads, k]);
        let (q, keys, values) = (heads(t, h), heads(s, g), heads(s, g));
        let view = |x: &Tensor<4>| x.clone().swap_dims(1, 2);
        report(
            &format!("attention b{b} h{h} g{g} t{t} s{s} k{k} {mask:?}"),
            || train(ops::attention(view(&q), view(&keys), view(&values), mask, None)),
            || {
                train(reference::attention(
                    view(&q),
                    view(&keys),
                    view(&values),
                    mask,
                    None,
                ))
            },
        )?;
    }
    let (h, w) = (floats([n, d]), floats([v, d]));
    let ids: Vec<i32> = (0..n).map(|i| (i * 7919 % v) as i32).collect();
    let ids =
        || Tensor::<1, Int>::from_data(TensorData::new(ids.clone(), [n]), (&Device::flex(), DType::I32));
    report(
        &format!("linear_cross_entropy {n}x{d}x{v}"),
        || train(ops::linear_cross_entropy(h.clone(), w.clone(), ids())),
        || train(reference::linear_cross_entropy(h.clone(), w.clone(), ids())),
    )?;
    report(
        &format!("take_rows {n} of {v}x{d}"),
        || train(ops::take_rows(w.clone(), ids())),
        || train(w.clone().select(0, ids())),
    )?;
    updates()
}

fn updates() -> io::Result<()> {
    let n = 1 << 20;
    let plain = || floats([n]).inner();
    let step = ops::AdamwStep {
        lr: 1e-3,
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        bias_correction1: 0.5,
        bias_correction2: 0.5,
        grad_scale: 1.0,
    };
    let state = || ops::AdamwState {
        master: plain(),
        m: plain().abs(),
        v: plain().abs(),
    };
    let (mut fused, mut stock, grad) = (Some(state()), Some(state()), plain());
    report(
        &format!("adamw {n}"),
        || fused = fused.take().map(|state| ops::adamw(state, grad.clone(), step)),
        || {
            stock = stock
                .take()
                .map(|state| reference::adamw(state, grad.clone(), step))
        },
    )?;
    report(
        &format!("sum_of_squares {n}"),
        || drop(black_box(ops::sum_of_squares(grad.clone()))),
        || drop(black_box(grad.clone().square().sum())),
    )
}
