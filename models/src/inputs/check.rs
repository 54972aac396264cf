//! What is wrong with a batch.

use burn::tensor::DType;
use thiserror::Error;

use super::{HostBatch, HostFeatures, IGNORE_INDEX, Layout, layout::spans};
use crate::config::{Head, VisionLanguageConfig, VlmConfig};

/// A batch no model can run.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InputError {
    /// Image tokens and images disagree.
    #[error(
        "{found} image tokens for {num_images} images of {per_image} tokens each, expected {expected}; \
         each image needs its own placeholder and each placeholder its image"
    )]
    ImageTokens {
        /// Tokens with the image token's id.
        found: usize,
        /// `num_images * per_image`
        expected: usize,
        /// Images in the batch.
        num_images: usize,
        /// Tokens of one image.
        per_image: usize,
    },
    /// Images for a model that has no vision tower.
    #[error("the batch has {num_images} images, but the model has no vision part")]
    NoVision {
        /// Images in the batch.
        num_images: usize,
    },
    /// A token outside the vocabulary.
    #[error("row {row}, position {position}: token id {id} is outside the vocabulary of {vocab_size}")]
    Vocabulary {
        /// Row of the batch.
        row: usize,
        /// Position in the row.
        position: usize,
        /// The id.
        id: i32,
        /// Rows of the embedding table.
        vocab_size: usize,
    },
    /// Longer than the model's positions.
    #[error("a segment of {length} tokens, but the model has max_position_embeddings = {limit}")]
    TooLong {
        /// Tokens of the longest segment.
        length: usize,
        /// The model's limit.
        limit: usize,
    },
    /// Classes for a model without a head for them, or none for one with it.
    #[error(
        "the batch has {found}, but the model's head is {head}\n  \
         hint: set model.head to what the data is for"
    )]
    Head {
        /// What the batch is labelled with.
        found: &'static str,
        /// What the model predicts.
        head: &'static str,
    },
    /// A class that the head does not know.
    #[error("row {row}: class {class} is not one of the head's {num_labels}")]
    Class {
        /// Row of the batch.
        row: usize,
        /// The class.
        class: i32,
        /// Classes of the head.
        num_labels: usize,
    },
    /// Segments that a row cannot have.
    #[error(
        "row {row}: segments of {lengths:?} tokens in a row of {length}; \
         a row needs at least one, each at least one token, and all of them must fit"
    )]
    Segments {
        /// Row of the batch.
        row: usize,
        /// Tokens of the row's segments.
        lengths: Vec<usize>,
        /// Tokens of the row, padding included.
        length: usize,
    },
    /// Several segments in a row that has one class.
    #[error("row {row}: {found} segments, but a classified row is one")]
    ClassifiedSegments {
        /// Row of the batch.
        row: usize,
        /// Its segments.
        found: usize,
    },
    /// A field whose length does not follow from the others.
    #[error("{field} has {found} values, expected {expected}")]
    Length {
        /// The field.
        field: &'static str,
        /// Values given.
        found: usize,
        /// Values needed.
        expected: usize,
    },
}

/// Checks everything of a batch but what its images are: pixels or features.
///
/// # Errors
/// Whatever the model could not run, see [`InputError`].
pub fn check_tokens(batch: &HostBatch, config: &VlmConfig) -> Result<(), InputError> {
    let cells = batch.rows * batch.length;
    expect("input_ids", batch.input_ids.len(), cells)?;
    expect("labels", batch.labels.len(), cells)?;
    expect("segments", batch.segments.len(), batch.rows)?;
    let misfit = |lengths: &Vec<usize>| {
        lengths.is_empty() || lengths.contains(&0) || lengths.iter().sum::<usize>() > batch.length
    };
    if let Some(row) = batch.segments.iter().position(misfit) {
        return Err(InputError::Segments {
            row,
            lengths: batch.segments[row].clone(),
            length: batch.length,
        });
    }
    let limit = config.text.max_positions();
    let longest = batch.segments.iter().flatten().copied().max();
    if let Some(length) = longest.filter(|&longest| longest > limit) {
        return Err(InputError::TooLong { length, limit });
    }
    let vocab_size = config.text.vocab_size;
    let outside = |&id: &i32| usize::try_from(id).map_or(true, |id| id >= vocab_size);
    let label_outside = |&label: &i32| label != IGNORE_INDEX && outside(&label);
    let bad = batch
        .input_ids
        .iter()
        .position(outside)
        .map(|at| (at, batch.input_ids[at]));
    let bad = bad.or_else(|| {
        batch
            .labels
            .iter()
            .position(label_outside)
            .map(|at| (at, batch.labels[at]))
    });
    if let Some((at, id)) = bad {
        let (row, position) = (at / batch.length, at % batch.length);
        return Err(InputError::Vocabulary {
            row,
            position,
            id,
            vocab_size,
        });
    }
    check_head(batch, &config.head)?;
    match &config.vision {
        None if batch.num_images > 0 => Err(InputError::NoVision {
            num_images: batch.num_images,
        }),
        None => Ok(()),
        Some(vision) => {
            let per_image = vision.num_image_tokens();
            let image_token = vision.image_token_id as i32;
            // What stands in the padding says nothing.
            let tokens = spans(batch, Layout::Rows).flat_map(|span| span.of(batch.input_ids));
            let found = tokens.filter(|&&id| id == image_token).count();
            let expected = batch.num_images * per_image;
            if found != expected {
                let num_images = batch.num_images;
                return Err(InputError::ImageTokens {
                    found,
                    expected,
                    num_images,
                    per_image,
                });
            }
            Ok(())
        }
    }
}

fn expect(field: &'static str, found: usize, expected: usize) -> Result<(), InputError> {
    match found == expected {
        true => Ok(()),
        false => Err(InputError::Length {
            field,
            found,
            expected,
        }),
    }
}

pub(super) fn check_pixels(batch: &HostBatch, vision: &VisionLanguageConfig) -> Result<(), InputError> {
    let per_image = 3 * vision.vision.image_size.pow(2);
    expect("pixels", batch.pixels.len(), batch.num_images * per_image)
}

/// Gives the shape of an image's features.
pub(super) fn check_features(
    batch: &HostBatch,
    features: &HostFeatures,
    vision: &VisionLanguageConfig,
    config: &VlmConfig,
    dtype: DType,
) -> Result<[usize; 2], InputError> {
    let [t, d] = vision.features(features.after, &config.text);
    let per_image = t * d * dtype.size();
    expect("features", features.bytes.len(), batch.num_images * per_image)?;
    Ok([t, d])
}

fn check_head(batch: &HostBatch, head: &Head) -> Result<(), InputError> {
    let (classes, labels) = match (&batch.classes, head) {
        (None, Head::Lm) => return Ok(()),
        (Some(classes), Head::Classification { labels }) => (classes, labels),
        (Some(_), Head::Lm) => {
            let (found, head) = ("classes", "a language model's");
            return Err(InputError::Head { found, head });
        }
        (None, Head::Classification { .. }) => {
            let (found, head) = ("labels of tokens", "for classification");
            return Err(InputError::Head { found, head });
        }
    };
    let expected = batch.rows;
    for (field, found) in [
        ("classes", classes.classes.len()),
        ("weights", classes.weights.len()),
    ] {
        if found != expected {
            return Err(InputError::Length {
                field,
                found,
                expected,
            });
        }
    }
    if let Some(row) = batch.segments.iter().position(|lengths| lengths.len() > 1) {
        let found = batch.segments[row].len();
        return Err(InputError::ClassifiedSegments { row, found });
    }
    let num_labels = labels.len();
    let outside = |class: &i32| usize::try_from(*class).map_or(true, |class| class >= num_labels);
    match classes.classes.iter().position(outside) {
        Some(row) => Err(InputError::Class {
            row,
            class: classes.classes[row],
            num_labels,
        }),
        None => Ok(()),
    }
}
