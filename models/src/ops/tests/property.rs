//! Every op against its definition on shapes that nobody chose: odd, tiny, with long rows, around the sizes at which kernels
//! cut their work.

use super::*;

/// Of the largest number of a result.
const TOLERANCE: f32 = 1e-5;
/// Of bf16, whose numbers have 8 bits and are rounded after each of the definitions' operations.
const TOLERANCE_BF16: f32 = 4e-2;

/// Shapes that look random, a different sequence for each test.
struct Draw(u64);

impl Draw {
    /// From `least` to `most`, small numbers more often than large ones.
    fn size(&mut self, least: usize, most: usize) -> usize {
        self.0 += 1;
        let [x, y] = [noise(2, self.0)[0], noise(2, self.0)[1]].map(|x| (x + 1.0) * 0.5);
        let span = (most - least) as f32;
        let size = if y < 0.5 { span * x * x * x } else { span * x };
        least + (size as usize).min(most - least)
    }

    fn values(&mut self, n: usize) -> Vec<f32> {
        self.0 += 1;
        noise(n, self.0 + 1000)
    }

    fn flag(&mut self) -> bool {
        self.size(0, 999).is_multiple_of(2)
    }
}

fn compare(name: &str, inputs: &[Vec<f32>], op: Function<'_>, definition: Function<'_>) {
    let expected = evaluate(inputs, DType::F32, definition);
    assert_close(name, &evaluate(inputs, DType::F32, op), &expected, TOLERANCE);
    let half = evaluate(inputs, DType::BF16, op);
    assert_close(&format!("{name} in bf16"), &half, &expected, TOLERANCE_BF16);
}

#[test]
fn linear_layers_of_any_shape() {
    let mut draw = Draw(100);
    for _ in 0..25 {
        let (n, i, o) = (draw.size(1, 300), draw.size(1, 500), draw.size(1, 200));
        let biased = draw.flag();
        let inputs = [draw.values(n * i), draw.values(o * i), draw.values(o)];
        let run = |x: &[Tensor<1>], linear: fn(Tensor<2>, Tensor<2>, Option<Tensor<1>>) -> Tensor<2>| {
            let bias = biased.then(|| x[2].clone());
            linear(x[0].clone().reshape([n, i]), x[1].clone().reshape([o, i]), bias).reshape([n * o])
        };
        let inputs = if biased { &inputs[..] } else { &inputs[..2] };
        let name = format!("linear {n} {i} {o}, bias {biased}");
        compare(&name, inputs, &|x| run(x, linear), &|x| run(x, reference::linear));
    }
}

#[test]
fn norms_of_any_shape() {
    let mut draw = Draw(200);
    for _ in 0..25 {
        // Rows of two elements are almost constant under LayerNorm.
        let (n, d) = (draw.size(1, 200), draw.size(3, 3000));
        let inputs = [draw.values(n * d), draw.values(d), draw.values(d)];
        let x2 = |x: &Tensor<1>| x.clone().reshape([n, d]);
        compare(
            &format!("rms_norm {n} {d}"),
            &inputs[..2],
            &|x| rms_norm(x2(&x[0]), x[1].clone(), 1e-5).reshape([n * d]),
            &|x| reference::rms_norm(x2(&x[0]), x[1].clone(), 1e-5).reshape([n * d]),
        );
        compare(
            &format!("layer_norm {n} {d}"),
            &inputs,
            &|x| layer_norm(x2(&x[0]), x[1].clone(), x[2].clone(), 1e-5).reshape([n * d]),
            &|x| reference::layer_norm(x2(&x[0]), x[1].clone(), x[2].clone(), 1e-5).reshape([n * d]),
        );
    }
}

#[test]
fn elementwise_ops_of_any_shape() {
    let mut draw = Draw(300);
    for _ in 0..15 {
        let (n, i) = (draw.size(1, 100), draw.size(1, 900));
        let inputs = [draw.values(n * i), draw.values(n * i)];
        let x2 = |x: &Tensor<1>| x.clone().reshape([n, i]);
        compare(
            &format!("swiglu {n} {i}"),
            &inputs,
            &|x| swiglu(x2(&x[0]), x2(&x[1])).reshape([n * i]),
            &|x| reference::swiglu(x2(&x[0]), x2(&x[1])).reshape([n * i]),
        );
        for kind in [Activation::Gelu, Activation::GeluTanh, Activation::QuickGelu] {
            compare(
                &format!("{kind:?} {n} {i}"),
                &inputs[..1],
                &|x| activate(x2(&x[0]), kind).reshape([n * i]),
                &|x| reference::activate(x2(&x[0]), kind).reshape([n * i]),
            );
        }
    }
}

#[test]
fn rotations_of_any_shape() {
    let mut draw = Draw(400);
    for _ in 0..15 {
        let (b, h, t, k) = (
            draw.size(1, 4),
            draw.size(1, 7),
            draw.size(1, 90),
            2 * draw.size(1, 64),
        );
        let first = draw.size(0, 5000);
        let table = RopeTable::new(first..first + t, k, 10_000.0, &Device::flex());
        let n = b * h * t * k;
        let inputs = [draw.values(n)];
        let view = |x: &[Tensor<1>]| x[0].clone().reshape([b, t, h, k]).swap_dims(1, 2);
        compare(
            &format!("rope {b} {h} {t} {k} from {first}"),
            &inputs,
            &|x| rope(view(x), &table).reshape([n]),
            &|x| reference::rope(view(x), &table).reshape([n]),
        );
    }
}

#[test]
fn attention_of_any_shape() {
    let mut draw = Draw(500);
    for round in 0..30 {
        let (b, g, group) = (draw.size(1, 3), draw.size(1, 3), draw.size(1, 4));
        let (h, t, k) = (g * group, draw.size(1, 150), 2 * draw.size(1, 64));
        let mask = match round % 3 {
            0 => AttentionMask::Full,
            1 => AttentionMask::Causal,
            _ => AttentionMask::SlidingWindow {
                window: draw.size(1, 200),
            },
        };
        let s = if draw.flag() { t } else { t + draw.size(0, 100) };
        let (nq, nk) = (b * h * t * k, b * g * s * k);
        let inputs = [draw.values(nq), draw.values(nk), draw.values(nk)];
        let split = |x: &Tensor<1>, heads: usize, len: usize| -> Tensor<4> {
            x.clone().reshape([b, len, heads, k]).swap_dims(1, 2)
        };
        let all = |x: &[Tensor<1>]| (split(&x[0], h, t), split(&x[1], g, s), split(&x[2], g, s));
        compare(
            &format!("attention {b} {h} {g} {t} {s} {k} {mask:?}"),
            &inputs,
            &|x| {
                let (q, keys, values) = all(x);
                attention(q, keys, values, mask, None)
                    .swap_dims(1, 2)
                    .reshape([nq])
            },
            &|x| {
                let (q, keys, values) = all(x);
                reference::attention(q, keys, values, mask, None)
                    .swap_dims(1, 2)
                    .reshape([nq])
            },
        );
    }
}

#[test]
fn losses_of_any_shape() {
    let mut draw = Draw(600);
    for _ in 0..15 {
        let (n, d, v) = (draw.size(1, 150), draw.size(1, 100), draw.size(2, 3000));
        let inputs = [draw.values(n * d), draw.values(v * d)];
        let targets = indices(n, v, draw.0);
        let run = |x: &[Tensor<1>], loss: fn(Tensor<2>, Tensor<2>, Tensor<1, Int>) -> Tensor<1>| {
            let (h, w) = (x[0].clone().reshape([n, d]), x[1].clone().reshape([v, d]));
            loss(h, w, ints(&targets, &Device::flex())) / n as f32
        };
        compare(
            &format!("linear_cross_entropy {n} {d} {v}"),
            &inputs,
            &|x| run(x, linear_cross_entropy),
            &|x| run(x, reference::linear_cross_entropy),
        );
    }
}

#[test]
fn tables_of_any_shape() {
    let mut draw = Draw(700);
    for _ in 0..15 {
        let (v, d, n) = (draw.size(1, 2000), draw.size(1, 200), draw.size(1, 1000));
        let rows = indices(n, v, draw.0);
        let run = |x: &[Tensor<1>], take: fn(Tensor<2>, Tensor<1, Int>) -> Tensor<2>| {
            take(x[0].clone().reshape([v, d]), ints(&rows, &Device::flex())).reshape([n * d])
        };
        let inputs = [draw.values(v * d)];
        let name = format!("take_rows {n} of {v}x{d}");
        compare(&name, &inputs, &|x| run(x, take_rows), &|x| {
            run(x, reference::take_rows)
        });
    }
}
