//! Batches on their way to the device.

use brazier_models::{
    HostBatch, HostClasses, HostFeatures, InputError, PaddingSide, Vlm, VlmInputs, inputs::check_tokens,
};
use burn::tensor::{DType, Device};

use super::{
    LearnerError,
    vision_cache::{RestingVision, Wanted},
};
use crate::data::{self, Batch};

/// Micro-batches with something to learn from, with their numbers.
pub(super) fn labelled(batches: &[Batch]) -> impl Iterator<Item = (usize, &Batch)> {
    let numbered = batches.iter().enumerate();
    numbered.filter(|(_, batch)| batch.num_labelled > 0)
}

/// Checks batches and looks for the features of their images.
pub(super) fn look_up<'b>(
    vision: &RestingVision,
    batches: &[&'b Batch],
    model: &Vlm,
) -> Result<Wanted<'b>, LearnerError> {
    let config = model.config();
    for batch in batches {
        check_tokens(&to_host_batch(batch), config).map_err(|error| refuse(batch, error))?;
    }
    let found = vision.find(batches, config);
    found.map_err(|(at, error)| refuse(batches[at], error))
}

/// As [`upload`], with the features of the batch's images.
pub(super) fn upload_features(
    batch: &Batch,
    features: HostFeatures,
    model: &Vlm,
    device: &Device,
    dtype: DType,
) -> Result<VlmInputs, LearnerError> {
    let inputs = VlmInputs::with_features(&to_host_batch(batch), features, model.config(), device, dtype);
    inputs.map_err(|error| refuse(batch, error))
}

/// Puts a batch on a device, laid out for its loss.
///
/// # Errors
/// If it does not fit the model; the error names its samples.
pub fn upload(batch: &Batch, model: &Vlm, device: &Device, dtype: DType) -> Result<VlmInputs, LearnerError> {
    let inputs = VlmInputs::for_loss(&to_host_batch(batch), model.config(), device, dtype);
    inputs.map_err(|error| refuse(batch, error))
}

pub(super) fn to_host_batch(batch: &Batch) -> HostBatch<'_> {
    let (pixels, num_images): (&[f32], usize) = match &batch.images {
        Some(images) => (&images.pixels, images.num_images()),
        None => (&[], 0),
    };
    HostBatch {
        rows: batch.rows,
        length: batch.length,
        input_ids: &batch.input_ids,
        labels: &batch.labels,
        padding_side: match batch.padding_side {
            data::PaddingSide::Left => PaddingSide::Left,
            data::PaddingSide::Right => PaddingSide::Right,
        },
        segments: &batch.segments,
        pixels,
        num_images,
        classes: batch.classes.as_ref().map(|classes| HostClasses {
            classes: &classes.ids,
            weights: &classes.weights,
        }),
    }
}

fn refuse(batch: &Batch, source: InputError) -> LearnerError {
    LearnerError::Input {
        samples: name_samples(std::slice::from_ref(batch)),
        source,
    }
}

/// Names the first samples of batches.
pub(super) fn name_samples(batches: &[Batch]) -> String {
    const SHOWN: usize = 8;
    let samples: Vec<String> = batches
        .iter()
        .flat_map(|batch| &batch.samples)
        .map(ToString::to_string)
        .collect();
    match samples.len().saturating_sub(SHOWN) {
        0 => samples.join(", "),
        more => format!("{} and {more} more", samples[..SHOWN].join(", ")),
    }
}
