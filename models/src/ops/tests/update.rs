//! AdamW and the sum of squares.

use super::*;

fn vector(x: &[f32]) -> Tensor<1> {
    Tensor::from_data(
        TensorData::new(x.to_vec(), [x.len()]),
        (&Device::flex(), DType::F32),
    )
}

/// PyTorch's `_single_tensor_adamw`, in f64.
fn adamw_in_f64(p: &mut [f64], m: &mut [f64], v: &mut [f64], grad: &[f32], s: AdamwStep) {
    for i in 0..p.len() {
        let g = f64::from(grad[i]) * s.grad_scale;
        p[i] *= 1.0 - s.lr * s.weight_decay;
        m[i] += (g - m[i]) * (1.0 - s.beta1);
        v[i] = s.beta2 * v[i] + (1.0 - s.beta2) * g * g;
        let denominator = v[i].sqrt() / s.bias_correction2.sqrt() + s.eps;
        p[i] -= s.lr / s.bias_correction1 * m[i] / denominator;
    }
}

#[test]
fn adamw_follows_pytorch_over_steps() {
    for n in [1, 17, 40_000] {
        let start = noise(n, 1);
        let mut state = AdamwState {
            master: vector(&start),
            m: vector(&vec![0.0; n]),
            v: vector(&vec![0.0; n]),
        };
        let mut p: Vec<f64> = start.iter().map(|&x| f64::from(x)).collect();
        let (mut m, mut v) = (vec![0.0; n], vec![0.0; n]);
        for step in 1..=5 {
            let numbers = AdamwStep {
                lr: 1e-2,
                beta1: 0.9,
                beta2: 0.95,
                eps: 1e-8,
                weight_decay: 0.1,
                bias_correction1: 1.0 - 0.9f64.powi(step),
                bias_correction2: 1.0 - 0.95f64.powi(step),
                grad_scale: 0.25,
            };
            let grad = noise(n, 100 + step as u64);
            state = adamw(state, vector(&grad), numbers);
            adamw_in_f64(&mut p, &mut m, &mut v, &grad, numbers);
        }
        let as_f32 = |x: Vec<f64>| x.into_iter().map(|x| x as f32).collect::<Vec<f32>>();
        let actual = [floats(state.master), floats(state.m), floats(state.v)];
        assert_close("adamw", &actual, &[as_f32(p), as_f32(m), as_f32(v)], 1e-6);
    }
}

#[test]
fn adamw_writes_in_place_only_what_nobody_else_holds() {
    let numbers = AdamwStep {
        lr: 0.1,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        weight_decay: 0.0,
        bias_correction1: 0.1,
        bias_correction2: 0.001,
        grad_scale: 1.0,
    };
    let address = |x: &Tensor<1>| {
        let tensor = x.clone().try_into_primitive::<burn::backend::Flex>().unwrap();
        tensor.bytes().as_ptr()
    };
    let held = vector(&[1.0, 2.0]);
    let m = vector(&[0.0, 0.0]);
    let before = address(&m);
    let state = adamw(
        AdamwState {
            master: held.clone(),
            m,
            v: vector(&[0.0, 0.0]),
        },
        vector(&[1.0, 1.0]),
        numbers,
    );
    assert_eq!(floats(held), [1.0, 2.0]);
    assert_ne!(floats(state.master), [1.0, 2.0]);
    assert_eq!(address(&state.m), before);
}

#[test]
fn sum_of_squares_is_exact_enough_and_independent_of_threads() {
    let x = noise(100_003, 5);
    let expected: f64 = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    let sum = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| floats(sum_of_squares(vector(&x)))[0])
    };
    assert!((f64::from(sum(1)) - expected).abs() < 1e-6 * expected);
    assert_eq!(sum(1).to_bits(), sum(3).to_bits());
}
