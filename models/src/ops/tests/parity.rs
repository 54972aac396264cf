//! Shapes: powers of two, odd ones, one row, and enough rows for several pieces.

use super::*;
use crate::selftest::in_parts;

fn scaled(n: usize, seed: u64, by: f32) -> Vec<f32> {
    noise(n, seed).into_iter().map(|x| x * by).collect()
}

#[test]
fn linear_agrees_with_its_definition() {
    for (n, i, o) in [(1, 1, 1), (7, 5, 3), (130, 96, 48), (700, 33, 65)] {
        let inputs = [noise(n * i, 1), noise(o * i, 2), noise(o, 3)];
        let name = format!("linear {n} {i} {o}");
        check(
            &name,
            &inputs,
            &|x| {
                let y = linear(
                    x[0].clone().reshape([n, i]),
                    x[1].clone().reshape([o, i]),
                    Some(x[2].clone()),
                );
                y.reshape([n * o])
            },
            &|x| {
                let (w, bias) = (x[1].clone().reshape([o, i]), Some(x[2].clone()));
                reference::linear(x[0].clone().reshape([n, i]), w, bias).reshape([n * o])
            },
        );
        check(
            &name,
            &inputs[..2],
            &|x| linear(x[0].clone().reshape([n, i]), x[1].clone().reshape([o, i]), None).reshape([n * o]),
            &|x| {
                let w = x[1].clone().reshape([o, i]);
                reference::linear(x[0].clone().reshape([n, i]), w, None).reshape([n * o])
            },
        );
    }
}

#[test]
fn norms_agree_with_their_definitions() {
    for (n, d, by) in [
        (1, 1, 1.0),
        (3, 7, 1.0),
        (37, 96, 100.0),
        (600, 64, 1.0),
        (5, 130, 1e-2),
    ] {
        let inputs = [scaled(n * d, 4, by), noise(d, 5), noise(d, 6)];
        let x3 = |x: &Tensor<1>| x.clone().reshape([1, n, d]);
        // A row of one element is constant under LayerNorm, and its differences are noise.
        if d > 1 {
            check(
                &format!("layer_norm {n} {d}"),
                &inputs,
                &|x| layer_norm(x3(&x[0]), x[1].clone(), x[2].clone(), 1e-5).reshape([n * d]),
                &|x| reference::layer_norm(x3(&x[0]), x[1].clone(), x[2].clone(), 1e-5).reshape([n * d]),
            );
        }
        check(
            &format!("rms_norm {n} {d}"),
            &inputs[..2],
            &|x| rms_norm(x3(&x[0]), x[1].clone(), 1e-5).reshape([n * d]),
            &|x| reference::rms_norm(x3(&x[0]), x[1].clone(), 1e-5).reshape([n * d]),
        );
    }
}

#[test]
fn rope_agrees_with_its_definition_for_both_memory_orders() {
    let device = Device::flex();
    for (b, h, t, k) in [(1, 1, 1, 2), (2, 3, 5, 6), (3, 4, 100, 32)] {
        let table = RopeTable::new(3..3 + t, k, 10_000.0, &device);
        let inputs = [noise(b * h * t * k, 7)];
        let n = b * h * t * k;
        let whole = |x: &[Tensor<1>]| x[0].clone().reshape([b, h, t, k]);
        let view = |x: &[Tensor<1>]| x[0].clone().reshape([b, t, h, k]).swap_dims(1, 2);
        let name = format!("rope {b} {h} {t} {k}");
        check(&name, &inputs, &|x| rope(whole(x), &table).reshape([n]), &|x| {
            reference::rope(whole(x), &table).reshape([n])
        });
        check(&name, &inputs, &|x| rope(view(x), &table).reshape([n]), &|x| {
            reference::rope(view(x), &table).reshape([n])
        });
    }
}

#[test]
fn activations_agree_with_their_definitions() {
    for (n, i, by) in [(1, 1, 1.0), (9, 7, 30.0), (300, 96, 3.0)] {
        let inputs = [scaled(n * i, 8, by), noise(n * i, 9)];
        let x2 = |x: &Tensor<1>| x.clone().reshape([n, i]);
        check(
            &format!("swiglu {n} {i}"),
            &inputs,
            &|x| swiglu(x2(&x[0]), x2(&x[1])).reshape([n * i]),
            &|x| reference::swiglu(x2(&x[0]), x2(&x[1])).reshape([n * i]),
        );
        for kind in [Activation::Gelu, Activation::GeluTanh, Activation::QuickGelu] {
            check(
                &format!("{kind:?} {n} {i}"),
                &inputs[..1],
                &|x| activate(x2(&x[0]), kind).reshape([n * i]),
                &|x| reference::activate(x2(&x[0]), kind).reshape([n * i]),
            );
        }
    }
}

#[test]
fn xielu_agrees_with_its_definition() {
    for (n, i, by, alphas) in [
        (1, 1, 1.0, [0.2, -1.0]),
        (9, 7, 30.0, [-2.5, 25.0]),
        (300, 96, 3.0, [1.5, 0.1]),
        (2, 5, 1e-3, [0.3, 1.0]),
    ] {
        let inputs = [scaled(n * i, 8, by), vec![alphas[0]], vec![alphas[1]]];
        let x2 = |x: &Tensor<1>| x.clone().reshape([n, i]);
        check(
            &format!("xielu {n} {i} {alphas:?}"),
            &inputs,
            &|x| xielu(x2(&x[0]), x[1].clone(), x[2].clone()).reshape([n * i]),
            &|x| reference::xielu(x2(&x[0]), x[1].clone(), x[2].clone()).reshape([n * i]),
        );
    }
}

/// With a window, keys outside it change nothing, not even the last bit.
#[test]
fn keys_outside_the_window_have_no_effect() {
    let (h, g, s, k, window) = (4, 2, 40, 6, 7);
    let mask = AttentionMask::SlidingWindow { window };
    let tensor = |values: Vec<f32>, heads: usize, len: usize| -> Tensor<4> {
        Tensor::from_data(
            TensorData::new(values, [1, heads, len, k]),
            (&Device::flex(), DType::F32),
        )
    };
    let run = |keys: Vec<f32>| {
        let q = tensor(noise(h * 3 * k, 30), h, 3);
        let values = tensor(noise(g * s * k, 32), g, s);
        floats(attention(q, tensor(keys, g, s), values, mask, None))
    };
    let keys = noise(g * s * k, 31);
    // The three queries stand at 37, 38 and 39; the first sees keys from 31 on.
    let moved = |position: usize| {
        let mut keys = keys.clone();
        for head in 0..g {
            keys[(head * s + position) * k] += 5.0;
        }
        run(keys)
    };
    assert_eq!(moved(30), run(keys.clone()));
    assert_ne!(moved(31), run(keys.clone()));
}

#[test]
fn attention_agrees_with_its_definition() {
    use AttentionMask::{Causal, Full, SlidingWindow};
    for (b, h, g, t, s, k, mask, by) in [
        (1, 1, 1, 1, 1, 2, Causal, 1.0),
        (2, 4, 2, 9, 9, 6, Causal, 1.0),
        (2, 4, 1, 5, 12, 8, Causal, 3.0),
        (1, 6, 3, 1, 17, 16, Causal, 1.0),
        (2, 3, 3, 33, 20, 5, Full, 1.0),
        (3, 4, 2, 100, 100, 24, Causal, 1.0),
        (1, 2, 1, 150, 200, 8, Causal, 1.0),
        (2, 4, 2, 9, 9, 6, SlidingWindow { window: 2 }, 1.0),
        (2, 4, 2, 9, 12, 6, SlidingWindow { window: 4 }, 3.0),
        (1, 6, 3, 1, 17, 16, SlidingWindow { window: 5 }, 1.0),
        (1, 2, 1, 150, 200, 8, SlidingWindow { window: 20 }, 1.0),
        (2, 4, 2, 130, 130, 8, SlidingWindow { window: 64 }, 1.0),
        (1, 2, 1, 70, 70, 8, SlidingWindow { window: 500 }, 1.0),
    ] {
        let (nq, nk) = (b * h * t * k, b * g * s * k);
        let inputs = [scaled(nq, 10, by), scaled(nk, 11, by), noise(nk, 12)];
        let name = format!("attention {b} {h} {g} {t} {s} {k} {mask:?}");
        // As models split heads: a view of [b, t, h, k].
        let split = |x: &Tensor<1>, heads: usize, len: usize| -> Tensor<4> {
            x.clone().reshape([b, len, heads, k]).swap_dims(1, 2)
        };
        check(
            &name,
            &inputs,
            &|x| {
                let (q, keys, values) = (split(&x[0], h, t), split(&x[1], g, s), split(&x[2], g, s));
                attention(q, keys, values, mask, None)
                    .swap_dims(1, 2)
                    .reshape([nq])
            },
            &|x| {
                let (q, keys, values) = (split(&x[0], h, t), split(&x[1], g, s), split(&x[2], g, s));
                reference::attention(q, keys, values, mask, None)
                    .swap_dims(1, 2)
                    .reshape([nq])
            },
        );
    }
}

#[test]
fn attention_of_large_scores_stays_finite() {
    let inputs = [
        scaled(2 * 8 * 4, 13, 300.0),
        scaled(2 * 8 * 4, 14, 300.0),
        noise(2 * 8 * 4, 15),
    ];
    let shape = |x: &Tensor<1>| -> Tensor<4> { x.clone().reshape([1, 2, 8, 4]) };
    let results = evaluate(&inputs, DType::F32, &|x| {
        attention(
            shape(&x[0]),
            shape(&x[1]),
            shape(&x[2]),
            AttentionMask::Causal,
            None,
        )
        .reshape([64])
    });
    let expected = evaluate(&inputs, DType::F32, &|x| {
        reference::attention(
            shape(&x[0]),
            shape(&x[1]),
            shape(&x[2]),
            AttentionMask::Causal,
            None,
        )
        .reshape([64])
    });
    assert!(results.iter().flatten().all(|x| x.is_finite()));
    assert_close("attention of large scores", &results[..1], &expected[..1], 1e-4);
}

#[test]
fn linear_cross_entropy_agrees_with_its_definition() {
    for (n, d, v, by) in [
        (1, 1, 2, 1.0),
        (7, 5, 11, 1.0),
        (65, 32, 300, 4.0),
        // More than one chunk.
        (140, 4, 70_000, 1.0),
    ] {
        let inputs = [scaled(n * d, 16, by), noise(v * d, 17)];
        let targets = indices(n, v, 18);
        let name = format!("linear_cross_entropy {n} {d} {v}");
        let shape = |x: &[Tensor<1>]| (x[0].clone().reshape([n, d]), x[1].clone().reshape([v, d]));
        check(
            &name,
            &inputs,
            &|x| {
                let (h, w) = shape(x);
                // A factor, as the learner divides by the number of tokens.
                linear_cross_entropy(h, w, ints(&targets, &Device::flex())) / n as f32
            },
            &|x| {
                let (h, w) = shape(x);
                reference::linear_cross_entropy(h, w, ints(&targets, &Device::flex())) / n as f32
            },
        );
    }
}

/// What the parts of a vocabulary compute adds up to the whole, forward and gradients; so do their definitions.
#[test]
fn parts_of_the_vocabulary_add_up_to_the_whole() {
    for (n, d, v, count, by) in [
        (1, 1, 2, 2, 1.0),
        (7, 5, 11, 3, 1.0),
        (65, 32, 300, 4, 4.0),
        (9, 3, 5, 5, 30.0),
        // More than one chunk.
        (140, 4, 140_001, 2, 1.0),
    ] {
        let inputs = [scaled(n * d, 16, by), noise(v * d, 17)];
        let targets = indices(n, v, 18);
        let targets = || ints(&targets, &Device::flex());
        let shape = |x: &[Tensor<1>]| (x[0].clone().reshape([n, d]), x[1].clone().reshape([v, d]));
        check(
            &format!("linear_cross_entropy {n} {d} {v} in {count} parts"),
            &inputs,
            &|x| {
                let (h, w) = shape(x);
                let ops = (linear_log_sum_exp as _, linear_cross_entropy_part as _);
                in_parts(ops, &h, &w, targets(), count) / n as f32
            },
            &|x| {
                let (h, w) = shape(x);
                reference::linear_cross_entropy(h, w, targets()) / n as f32
            },
        );
        let by_definition = evaluate(&inputs, DType::F32, &|x| {
            let (h, w) = shape(x);
            let ops = (
                reference::linear_log_sum_exp as _,
                reference::linear_cross_entropy_part as _,
            );
            in_parts(ops, &h, &w, targets(), count)
        });
        let whole = evaluate(&inputs, DType::F32, &|x| {
            let (h, w) = shape(x);
            reference::linear_cross_entropy(h, w, targets())
        });
        assert_close("definitions in parts", &by_definition, &whole, 2e-5);
    }
}

#[test]
fn linear_cross_entropy_of_large_logits_is_finite() {
    let inputs = [scaled(20, 19, 1e3), scaled(30, 20, 1e2)];
    let results = evaluate(&inputs, DType::F32, &|x| {
        let (h, w) = (x[0].clone().reshape([4, 5]), x[1].clone().reshape([6, 5]));
        linear_cross_entropy(h, w, ints(&[0, 5, 2, 2], &Device::flex()))
    });
    assert!(results.iter().flatten().all(|x| x.is_finite()));
}

#[test]
fn take_rows_adds_up_the_gradients_of_duplicates() {
    for (v, d, n) in [(3, 2, 7), (50, 16, 3), (1000, 64, 900)] {
        let rows = indices(n, v, 21);
        let rows = || ints(&rows, &Device::flex());
        check(
            &format!("take_rows {v} {d} {n}"),
            &[noise(v * d, 22)],
            &|x| take_rows(x[0].clone().reshape([v, d]), rows()).reshape([n * d]),
            &|x| reference::take_rows(x[0].clone().reshape([v, d]), rows()).reshape([n * d]),
        );
    }
    let gradient = evaluate(&[vec![1.0, 2.0, 3.0, 4.0]], DType::F32, &|x| {
        take_rows(x[0].clone().reshape([2, 2]), ints(&[1, 1, 1], &Device::flex())).reshape([6])
    });
    let w = noise(6, 99);
    assert_eq!(gradient[1], [0.0, 0.0, w[0] + w[2] + w[4], w[1] + w[3] + w[5]]);
}
