//! The learner on a tiny VLM and rows made up here: what must not change the result does not, bit for bit or to
//! rounding, and what must stop a step stops it before anything moves.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test stops at the first surprise"
)]

mod classification;
mod errors;
mod groups;
mod lora;
mod precision;
mod ranks;
mod resume;
mod sameness;
#[path = "../support/mod.rs"]
mod support;
mod tensor;
mod vision_cache;

use std::{collections::BTreeMap, sync::Arc};

use brazier::{
    checkpoint::Snapshot,
    data::{Batch, Example, ImageSource, PixelImage, collate},
    device,
    learner::{
        Learner, compute_dtype, fresh_state,
        options::{Precision, StepConfig},
    },
    parallel::World,
};
use brazier_models::{HostTensor, Vlm};
use burn::tensor::{DType, Device};
use support::{IMAGE, Noise, cpu_backends, devices, sample, tiny_vlm, weights};

/// Tokens of one image in [`tiny_vlm`].
const IMAGE_TOKENS: usize = 4;
/// Side of its images.
const IMAGE_SIZE: usize = 8;

/// A row that differs from that of any other line in its tokens; prompt with images, then an answer that is trained.
fn example(line: usize, num_images: usize, prompt: usize, answer: usize) -> Example {
    let mut noise = Noise(line as u64);
    let mut token = || 4 + (noise.draw().abs() * 19.0) as i32;
    let mut input_ids = vec![1];
    for _ in 0..num_images {
        input_ids.extend([IMAGE as i32; IMAGE_TOKENS]);
    }
    input_ids.extend((0..prompt).map(|_| token()));
    let mut labels = vec![-100; input_ids.len()];
    let answer: Vec<i32> = (0..answer).map(|_| token()).collect();
    input_ids.extend(&answer);
    labels.extend(&answer);
    let image = |index: usize| PixelImage {
        pixels: Arc::from(Noise((line * 10 + index) as u64).take(3 * IMAGE_SIZE * IMAGE_SIZE)),
        size: IMAGE_SIZE,
    };
    Example {
        sample: sample(line),
        input_ids,
        labels,
        images: (0..num_images).map(image).collect(),
        image_sources: vec![ImageSource::Decoded(None); num_images],
        class: None,
    }
}

/// Eight rows of different lengths and label counts, half of them with images; other rows for each step.
fn rows(step: usize) -> Vec<Example> {
    let shapes = [
        (0, 5, 3),
        (1, 2, 1),
        (2, 3, 6),
        (0, 1, 2),
        (0, 9, 8),
        (1, 4, 2),
        (0, 2, 1),
        (1, 1, 5),
    ];
    let numbered = (step * shapes.len() + 1..).zip(shapes);
    numbered
        .map(|(line, (images, prompt, answer))| example(line, images, prompt, answer))
        .collect()
}

/// The rows of a step as micro-batches of `size`.
fn batches(step: usize, size: usize) -> Vec<Batch> {
    rows(step).chunks(size).map(|rows| collate(rows, 0)).collect()
}

/// A learner on fresh weights.
fn learner(config: &StepConfig, seed: u64, device: &Device) -> Learner {
    let dtype = compute_dtype(config.precision);
    let model = Vlm::init(&tiny_vlm(), seed, device, dtype).unwrap();
    Learner::new(model, config.clone(), device.clone()).unwrap()
}

/// Each precision with the CPU backends that compute in it.
fn devices_by_precision() -> Vec<(Precision, Device)> {
    let f32_devices = devices().into_iter().map(|device| (Precision::F32, device));
    let bf16_devices = cpu_backends()
        .filter_map(|choice| device::open(choice, DType::BF16).ok())
        .map(|device| (Precision::Bf16, device));
    f32_devices.chain(bf16_devices).collect()
}

/// Everything a checkpoint would hold.
fn snapshot(learner: &Learner) -> Snapshot {
    share_of_snapshot(learner, Some(World::ALONE))
}

fn share_of_snapshot(learner: &Learner, share: Option<World>) -> Snapshot {
    let mut state = fresh_state(learner, String::new(), BTreeMap::new());
    state.step = learner.finished_steps();
    learner.snapshot(state, share).unwrap()
}

/// # Panics
/// If a bit differs, naming the tensor.
fn assert_same(what: &str, left: &[HostTensor], right: &[HostTensor]) {
    assert_eq!(left.len(), right.len(), "{what}: numbers of tensors");
    for (left, right) in left.iter().zip(right) {
        assert_eq!(left.name, right.name, "{what}");
        assert!(left.bytes == right.bytes, "{what}: {} differs", left.name);
    }
}

/// Paths of the parameters that differ.
fn moved(before: &[HostTensor], after: &[HostTensor]) -> Vec<String> {
    let pairs = before.iter().zip(after);
    pairs
        .filter(|(before, after)| before.bytes != after.bytes)
        .map(|(before, _)| before.name.clone())
        .collect()
}

fn all_weights(learner: &Learner) -> Vec<HostTensor> {
    weights(learner.whole_model().unwrap().as_ref())
}
