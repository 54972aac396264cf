//! Every op against its definition in [`super::reference`], forward and gradients, on Flex.

use burn::tensor::{DType, Device, Tensor, TensorData};

use super::*;
use crate::selftest::draw::{indices, ints, noise};

mod dropout;
mod numbers;
mod parity;
mod segments;
mod update;

fn floats<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.cast(DType::F32).into_data().try_to_vec().unwrap()
}

/// A function of flat inputs; it reshapes them itself.
type Function<'a> = &'a (dyn Fn(&[Tensor<1>]) -> Tensor<1> + Sync);

/// The output, and the gradient of a fixed random combination of it in each input.
fn evaluate(inputs: &[Vec<f32>], dtype: DType, function: Function<'_>) -> Vec<Vec<f32>> {
    let device = Device::flex().autodiff();
    let leaves: Vec<Tensor<1>> = inputs
        .iter()
        .map(|x| Tensor::from_data(TensorData::new(x.clone(), [x.len()]), (&device, dtype)).require_grad())
        .collect();
    let y = function(&leaves);
    let weights = TensorData::new(noise(y.dims()[0], 99), [y.dims()[0]]);
    let mut results = vec![floats(y.clone().inner())];
    let gradients = (y.clone() * Tensor::from_data(weights, (&device, y.dtype())))
        .sum()
        .backward();
    results.extend(
        leaves
            .iter()
            .map(|x| x.grad(&gradients).map(floats).unwrap_or_default()),
    );
    results
}

fn assert_close(name: &str, actual: &[Vec<f32>], expected: &[Vec<f32>], tolerance: f32) {
    for (i, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        assert_eq!(actual.len(), expected.len(), "{name}: length of result {i}");
        let largest = expected.iter().fold(0.0f32, |max, x| max.max(x.abs()));
        for (j, (a, e)) in actual.iter().zip(expected).enumerate() {
            assert!(
                (a - e).abs() <= tolerance * (largest + 1e-3),
                "{name}: result {i} (0 is the output, then gradients) differs at {j}: {a}, expected {e}"
            );
        }
    }
}

/// Compares an op with its definition.
fn check(name: &str, inputs: &[Vec<f32>], op: Function<'_>, definition: Function<'_>) {
    let actual = evaluate(inputs, DType::F32, op);
    assert_close(name, &actual, &evaluate(inputs, DType::F32, definition), 2e-5);
    // bf16 runs the bodies for any backend; its own rounding is 2^-9, several times over.
    let half = evaluate(inputs, DType::BF16, op);
    assert_close(&format!("{name} in bf16"), &half, &actual, 4e-2);
    check_threads(name, inputs, op, &actual);
    check_differences(name, inputs, op, &actual);
}

/// The same bits for any number of threads.
fn check_threads(name: &str, inputs: &[Vec<f32>], op: Function<'_>, expected: &[Vec<f32>]) {
    for threads in [1, 2, 3] {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        let bits = |results: &[Vec<f32>]| -> Vec<Vec<u32>> {
            results
                .iter()
                .map(|x| x.iter().map(|x| x.to_bits()).collect())
                .collect()
        };
        let actual = pool.install(|| evaluate(inputs, DType::F32, op));
        assert!(
            bits(&actual) == bits(expected),
            "{name}: other bits with {threads} threads"
        );
    }
}

/// Central differences in a few elements of each input.
fn check_differences(name: &str, inputs: &[Vec<f32>], op: Function<'_>, results: &[Vec<f32>]) {
    let value = |inputs: &[Vec<f32>]| -> f64 {
        let device = Device::flex();
        let inputs: Vec<Tensor<1>> = inputs
            .iter()
            .map(|x| Tensor::from_data(TensorData::new(x.clone(), [x.len()]), (&device, DType::F32)))
            .collect();
        let y = floats(op(&inputs));
        noise(y.len(), 99)
            .iter()
            .zip(&y)
            .map(|(&w, &y)| f64::from(w) * f64::from(y))
            .sum()
    };
    for (i, gradient) in results[1..].iter().enumerate() {
        let largest = gradient.iter().fold(0.0f32, |max, x| max.max(x.abs()));
        for j in [0, gradient.len() / 2, gradient.len() - 1] {
            let step = 1e-2 * inputs[i][j].abs().max(1.0);
            let mut moved = inputs.to_vec();
            moved[i][j] = inputs[i][j] + step;
            let above = value(&moved);
            moved[i][j] = inputs[i][j] - step;
            let difference = ((above - value(&moved)) / (2.0 * f64::from(step))) as f32;
            assert!(
                (difference - gradient[j]).abs() <= 2e-2 * (largest + 1e-1),
                "{name}: gradient {i} at {j} is {}, by differences {difference}",
                gradient[j]
            );
        }
    }
}
