//! Attention with segments against its definition, and against each segment alone.

use burn::backend::Flex;

use super::{
    numbers::{host, primitive},
    *,
};
use crate::ops::{generic, kernels::ModelOps};
use AttentionMask::{Causal, Full, SlidingWindow};

/// Heads, key heads, width of a head, positions, segments of each row.
type Case = (usize, usize, usize, usize, Vec<Vec<usize>>);

fn cases() -> Vec<Case> {
    vec![
        (1, 1, 2, 1, vec![vec![1]]),
        (2, 1, 4, 5, vec![vec![1, 1, 3]]),
        (4, 2, 6, 13, vec![vec![5, 8], vec![13], vec![1, 2, 1]]),
        (3, 3, 5, 40, vec![vec![7, 1, 9, 11], vec![1, 39]]),
        (6, 2, 8, 150, vec![vec![70, 1, 66, 13]]),
        (4, 1, 8, 90, vec![vec![65], vec![30, 1, 31, 4, 24]]),
    ]
}

const MASKS: [AttentionMask; 4] = [
    Full,
    Causal,
    SlidingWindow { window: 2 },
    SlidingWindow { window: 6 },
];

/// As models split heads: a view of `[b, t, h, k]`.
fn split(x: &Tensor<1>, shape: [usize; 4]) -> Tensor<4> {
    x.clone().reshape(shape).swap_dims(1, 2)
}

fn joined(y_bhtk: Tensor<4>) -> Tensor<1> {
    let [b, h, t, k] = y_bhtk.dims();
    y_bhtk.swap_dims(1, 2).reshape([b * h * t * k])
}

#[test]
fn attention_with_segments_agrees_with_its_definition() {
    for (h, g, k, t, rows) in cases() {
        let b = rows.len();
        let segments = Segments::new(rows);
        let inputs = [
            noise(b * t * h * k, 40),
            noise(b * t * g * k, 41),
            noise(b * t * g * k, 42),
        ];
        for mask in MASKS {
            let parts = |x: &[Tensor<1>]| {
                let [q, keys, values] =
                    [(0, h), (1, g), (2, g)].map(|(i, heads)| split(&x[i], [b, t, heads, k]));
                (q, keys, values)
            };
            check(
                &format!("attention {b} {h} {g} {t} {k} {mask:?} {segments:?}"),
                &inputs,
                &|x| {
                    let (q, keys, values) = parts(x);
                    joined(attention(q, keys, values, mask, Some(&segments)))
                },
                &|x| {
                    let (q, keys, values) = parts(x);
                    joined(reference::attention(q, keys, values, mask, Some(&segments)))
                },
            );
        }
    }
}

/// Outputs and gradients are, to the bit, those of the segments one by one, and 0 in the padding.
#[test]
fn segments_are_as_if_alone() {
    for (h, g, k, t, rows) in cases() {
        let b = rows.len();
        let segments = Segments::new(rows);
        for mask in MASKS {
            let attend = |x: &[Tensor<1>], b: usize, t: usize, segments: Option<&Segments>| {
                let [q, keys, values] =
                    [(0, h), (1, g), (2, g)].map(|(i, heads)| split(&x[i], [b, t, heads, k]));
                joined(attention(q, keys, values, mask, segments))
            };
            // A sum of squares, so that the gradient of an output is the same in and out of its row.
            let results = |inputs: &[Vec<f32>], b: usize, t: usize, segments: Option<&Segments>| {
                let device = Device::flex().autodiff();
                let leaf = |x: &Vec<f32>| Tensor::<1>::from_floats(x.as_slice(), &device).require_grad();
                let leaves: Vec<_> = inputs.iter().map(leaf).collect();
                let y = attend(&leaves, b, t, segments);
                let gradients = y.clone().square().sum().backward();
                let mut results = vec![floats(y.inner())];
                results.extend(leaves.iter().map(|x| floats(x.grad(&gradients).unwrap())));
                results
            };
            let inputs: Vec<Vec<f32>> = [(h, 43), (g, 44), (g, 45)]
                .map(|(heads, seed)| noise(b * t * heads * k, seed))
                .to_vec();
            let together = results(&inputs, b, t, Some(&segments));
            let mut expected: Vec<Vec<f32>> = together.iter().map(|x| vec![0.0; x.len()]).collect();
            for row in 0..b {
                for segment in segments.of_row(row) {
                    let place = |heads: usize| {
                        (row * t + segment.start) * heads * k..(row * t + segment.end) * heads * k
                    };
                    let alone: Vec<Vec<f32>> = inputs
                        .iter()
                        .zip([h, g, g])
                        .map(|(x, heads)| x[place(heads)].to_vec())
                        .collect();
                    let alone = results(&alone, 1, segment.len(), None);
                    for ((expected, alone), heads) in expected.iter_mut().zip(alone).zip([h, h, g, g]) {
                        expected[place(heads)].copy_from_slice(&alone);
                    }
                }
            }
            assert!(together == expected, "{mask:?} {segments:?}");
        }
    }
}

/// Rows so long that the body for any backend takes them in chunks, which begin and end inside of segments.
#[test]
fn the_body_for_any_backend_equals_the_kernel() {
    let (h, g, k, t) = (4, 2, 8, 600);
    for rows in [
        vec![vec![200, 1, 150, 249]],
        vec![vec![3; 200]],
        vec![vec![130, 130, 1], vec![599], vec![128, 128, 128, 128, 80]],
    ] {
        let b = rows.len();
        for mask in [Full, Causal, SlidingWindow { window: 70 }] {
            let visible = || Visible {
                mask,
                segments: Some(Segments::new(rows.clone())),
            };
            let q = || primitive([b, h, t, k], 1);
            let (keys, values) = (|| primitive([b, g, t, k], 2), || primitive([b, g, t, k], 3));
            let dout = || primitive([b, h, t, k], 4);
            let (out, log_sum) = generic::attention::<Flex>(q(), keys(), values(), visible());
            let of_body = generic::attention_backward::<Flex>(
                q(),
                keys(),
                values(),
                out.clone(),
                log_sum,
                dout(),
                visible(),
            );
            let (out2, log_sum) = Flex::attention_forward(q(), keys(), values(), visible());
            let of_kernel =
                Flex::attention_backward(q(), keys(), values(), out2.clone(), log_sum, dout(), visible());
            let results = |out, (dq, dk, dv)| [out, dq, dk, dv].map(host::<4>);
            assert_close(
                &format!("{mask:?} {rows:?}"),
                &results(out2, of_kernel),
                &results(out, of_body),
                2e-5,
            );
        }
    }
}

#[test]
#[should_panic(expected = "attention: segments of other rows")]
fn segments_of_another_batch_are_refused() {
    let x = || Tensor::<4>::zeros([2, 1, 4, 2], &Device::flex());
    attention(x(), x(), x(), Causal, Some(&Segments::new([vec![2, 3], vec![1]])));
}
