//! Gradients against finite differences of the loss, for the parts and options that no fixture has.

use brazier_models::{
    HostBatch, HostTensor, IGNORE_INDEX, PaddingSide, Segmented, Vlm, VlmInputs, params::load_params,
};
use burn::tensor::{DType, Device};

use crate::{
    loss_and_gradients,
    support::{IMAGE, Noise, devices, f32s, tiny_vlm, weights},
};

/// Weights far from their initial ones, where no norm is 1 and no bias 0.
pub(crate) fn shaken(model: Vlm) -> Vlm {
    let mut noise = Noise(1);
    let shaken = weights(&model).into_iter().map(|tensor| {
        let direction = noise.take(tensor.num_elements());
        moved(&tensor, &direction, 0.2)
    });
    load(model.clone(), shaken.collect())
}

fn load(model: Vlm, tensors: Vec<HostTensor>) -> Vlm {
    load_params(model, tensors).map_err(|(_, error)| error).unwrap()
}

fn moved(tensor: &HostTensor, direction: &[f32], distance: f32) -> HostTensor {
    let values = f32s(&tensor.bytes).into_iter().zip(direction);
    HostTensor {
        bytes: values
            .flat_map(|(value, direction)| (value + distance * direction).to_le_bytes())
            .collect(),
        ..tensor.clone()
    }
}

fn loss(model: &Vlm, inputs: &VlmInputs) -> f64 {
    f64::from(model.loss_sum(model.hidden(inputs), inputs).into_scalar::<f32>())
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

/// Derivative of the loss where one tensor moves along a direction, by four evaluations: the error is of fourth order.
fn slope(model: &Vlm, at: usize, direction: &[f32], inputs: &VlmInputs) -> f64 {
    const STEP: f32 = 2e-2;
    let tensors = weights(model);
    let loss_at = |distance: f32| {
        let mut tensors = tensors.clone();
        tensors[at] = moved(&tensors[at], direction, distance);
        loss(&load(model.clone(), tensors), inputs)
    };
    let near = loss_at(STEP) - loss_at(-STEP);
    let far = loss_at(2.0 * STEP) - loss_at(-2.0 * STEP);
    (8.0 * near - far) / (12.0 * f64::from(STEP))
}

fn check_every_parameter(device: &Device) {
    let config = tiny_vlm();
    let model = shaken(Vlm::init(&config, 5, device, DType::F32).unwrap());
    let image = [IMAGE as i32; 4];
    let input_ids = [
        &[1, 9][..],
        &image,
        &[7, 8, 11, 2],
        &[1, 12, 13, 14, 15, 16, 2, 0, 0, 0],
    ]
    .concat();
    let mut labels = input_ids.clone();
    labels[..6].fill(IGNORE_INDEX);
    labels[10..13].fill(IGNORE_INDEX);
    labels[17..].fill(IGNORE_INDEX);
    let pixels = Noise(2).take(3 * 64);
    let batch = HostBatch {
        rows: 2,
        length: 10,
        input_ids: &input_ids,
        labels: &labels,
        padding_side: PaddingSide::Right,
        segments: &[vec![10], vec![7]],
        pixels: &pixels,
        num_images: 1,
        classes: None,
    };
    let inputs = VlmInputs::new(&batch, &config, device, DType::F32).unwrap();
    let (_, gradients) = loss_and_gradients(&model, &inputs);
    let mut noise = Noise(3);
    for (at, tensor) in weights(&model).iter().enumerate() {
        let path = &tensor.name;
        let Some(gradient) = gradients.get(path) else {
            assert!(!model.uses(path), "{path} has no gradient");
            continue;
        };
        // Along the gradient the slope is its norm; the random part sees components that the gradient lacks.
        let random = noise.take(gradient.len());
        let (length, random_length) = (norm(gradient), norm(&random));
        let direction = gradient.iter().zip(&random).map(|(&g, &r)| {
            if length == 0.0 {
                r
            } else {
                (f64::from(g) / length + f64::from(r) / random_length) as f32
            }
        });
        let direction: Vec<f32> = direction.collect();
        let expected: f64 = gradient
            .iter()
            .zip(&direction)
            .map(|(&g, &d)| f64::from(g) * f64::from(d))
            .sum();
        let found = slope(&model, at, &direction, &inputs);
        let error = (found - expected).abs();
        assert!(
            error < 5e-4 * length + 1e-4,
            "{path}: slope {found}, gradient says {expected}"
        );
    }
}

#[test]
fn gradients_agree_with_finite_differences() {
    devices().iter().for_each(check_every_parameter);
}
