//! Models and optimizer, number by number, against what PyTorch and transformers computed (tests/fixtures), and what
//! follows from themselves: finite differences, a cache that changes nothing, inputs that are refused.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

mod cache;
mod classification;
mod decoder_config;
mod differences;
mod exports;
mod fixture;
mod generation;
mod images;
mod inputs;
mod language;
mod lora;
mod models;
mod optimizer;
mod parts;
mod segments;
mod shards;
#[path = "../support/mod.rs"]
mod support;
mod towers;

use std::collections::{BTreeMap, BTreeSet};

use brazier::{
    hub::{DtypePolicy, ExportLayout, ExportOptions},
    image_processor::ImageProcessor,
    learner::{
        TensorGroup, Trainable, forward_backward,
        options::{Recompute, TrainMode},
    },
};
use brazier_models::{HostDtype, Segmented, Vlm, VlmInputs, params::list_params};
use burn::{module::Module, tensor::Tensor};
use fixture::Fixture;
use serde_json::Value;
use support::plain_step;

/// Hidden states, logits, losses.
const FORWARD: f64 = 1e-5;
/// Gradients.
const BACKWARD: f64 = 2e-5;

/// How a model is exported where a test does not ask for more.
fn export_options(dtype: HostDtype, max_shard_bytes: usize) -> ExportOptions {
    ExportOptions {
        layout: ExportLayout::Auto,
        max_shard_bytes,
        dtype,
        dtype_policy: DtypePolicy::Cast,
        source: None,
        image_processor: ImageProcessor::siglip(8),
        image_token: "<image>".into(),
        added_image_token: None,
        chat_template: None,
        bos_token_id: None,
        eos_token_ids: vec![2],
        pad_token_id: None,
    }
}

/// Largest difference of two lists, relative to the largest value expected.
///
/// # Panics
/// If the lengths differ, or a value is not finite.
fn relative_error(got: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(got.len(), expected.len(), "lengths differ");
    let largest = expected
        .iter()
        .fold(f64::MIN_POSITIVE, |max, &x| max.max(f64::from(x).abs()));
    got.iter().zip(expected).fold(0.0, |max: f64, (&got, &expected)| {
        assert!(got.is_finite(), "{got} where {expected} is expected");
        max.max((f64::from(got) - f64::from(expected)).abs() / largest)
    })
}

fn check(what: &str, got: &[f32], expected: &[f32], tolerance: f64) {
    let error = relative_error(got, expected);
    assert!(
        error < tolerance,
        "{what}: relative error {error:.2e}, at most {tolerance:.0e} is allowed"
    );
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().unwrap()
}

/// The summed loss and, by path, its gradients.
fn loss_and_gradients(model: &Vlm, inputs: &VlmInputs) -> (f32, BTreeMap<String, Vec<f32>>) {
    let step = plain_step(TrainMode::Full);
    let trainable = Trainable::select(model, step.mode, &step.optimizer);
    let model = trainable.mark(model.clone().train());
    let mut gradients: BTreeMap<String, Tensor<1>> = BTreeMap::new();
    let mut sink = |at: usize, gradient: Tensor<1>| {
        let path = &trainable.params[at].info.path;
        let sum = match gradients.remove(path) {
            Some(sum) => sum + gradient,
            None => gradient,
        };
        gradients.insert(path.clone(), sum);
    };
    let loss = forward_backward(
        &mut &model,
        &trainable,
        Some(inputs),
        &model.segments(inputs),
        Recompute::None,
        &TensorGroup::alone(),
        &mut sink,
    );
    let loss = loss.unwrap().unwrap();
    let gradients = gradients
        .into_iter()
        .map(|(path, gradient)| (path, values(gradient)));
    (loss.into_scalar(), gradients.collect())
}

/// A CLIP tower's key bias shifts all scores of a query alike: its gradient is 0, and rounding in practice.
fn is_zero_in_theory(path: &str) -> bool {
    path.starts_with("vision_tower.") && path.ends_with("k_proj.bias")
}

fn expected_largest(fixture: &Fixture, name: &str) -> f32 {
    fixture.f32s(name).iter().fold(0.0, |max, x| max.max(x.abs()))
}

/// Compares the parameters that have a gradient, and these gradients times `scale`.
fn check_gradients(fixture: &Fixture, prefix: &str, gradients: &BTreeMap<String, Vec<f32>>, scale: f32) {
    let names: Vec<&String> = gradients.keys().collect();
    assert_eq!(
        names,
        fixture.names(prefix).iter().collect::<Vec<_>>(),
        "parameters with a gradient"
    );
    for (path, gradient) in gradients {
        let gradient: Vec<f32> = gradient.iter().map(|g| g * scale).collect();
        let expected = fixture.f32s(&format!("{prefix}{path}"));
        if is_zero_in_theory(path) {
            let largest = expected_largest(
                fixture,
                &format!("{prefix}{}weight", path.trim_end_matches("bias")),
            );
            assert!(
                gradient.iter().all(|g| g.abs() < 1e-5 * largest),
                "{path}: {gradient:?}"
            );
        } else {
            check(&format!("gradient of {path}"), &gradient, &expected, BACKWARD);
        }
    }
}

/// `names` are the parameters that the forward pass never reaches.
fn check_unused(model: &Vlm, names: &Value) {
    let expected: BTreeSet<&str> = names
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect();
    let infos = list_params(model);
    let unused = infos
        .iter()
        .map(|info| info.path.as_str())
        .filter(|path| !model.uses(path));
    assert_eq!(unused.collect::<BTreeSet<_>>(), expected);
}
