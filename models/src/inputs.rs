//! A batch, checked on the host and put on the device.
//!
//! Burn panics on shapes that do not fit, far from the cause. Whatever can be wrong with a batch is refused here, as a
//! value.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use thiserror::Error;

use crate::{
    config::{Head, VisionLanguageConfig, VlmConfig},
    dropout::{SequenceKeys, mix},
    ops::RopeTable,
};

/// Label of a token that is not trained, as in PyTorch.
pub const IGNORE_INDEX: i32 = -100;

/// A batch in host memory. Rows are right-padded; a causal model needs no mask for that, since padding lies in every
/// real token's future.
#[derive(Debug, Clone, Copy)]
pub struct HostBatch<'a> {
    /// Number of rows.
    pub rows: usize,
    /// Tokens per row, padding included.
    pub length: usize,
    /// `rows * length` token ids.
    pub input_ids: &'a [i32],
    /// `rows * length` labels at the tokens' own places (not shifted), [`IGNORE_INDEX`] where nothing is trained.
    pub labels: &'a [i32],
    /// `num_images * 3 * size * size` normalised pixels, images in the order of their tokens.
    pub pixels: &'a [f32],
    /// Number of images.
    pub num_images: usize,
    /// Classes of the rows, for a model with a classification head; `labels` then say nothing.
    pub classes: Option<HostClasses<'a>>,
}

/// What rows are to be classified as. All of them as long as there are rows.
#[derive(Debug, Clone, Copy)]
pub struct HostClasses<'a> {
    /// Class ids.
    pub classes: &'a [i32],
    /// Tokens of each row without padding: the last of them is where the head looks.
    pub lengths: &'a [usize],
    /// Factor of each row's loss.
    pub weights: &'a [f32],
}

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
    #[error("rows of {length} tokens, but the model has max_position_embeddings = {limit}")]
    TooLong {
        /// Tokens per row.
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

/// Images of a batch on the device.
#[derive(Debug, Clone)]
pub struct ImageInputs {
    /// `[m, 3, size, size]`, compute dtype
    pub pixels_mchw: Tensor<4>,
    /// For each of the `b*t` positions the row it is taken from: a token's own row, or `b*t` plus the row of an image
    /// feature. `[b*t]`
    pub sources_n: Tensor<1, Int>,
}

/// A batch on the device.
#[derive(Debug, Clone)]
pub struct VlmInputs {
    /// `[b, t]`
    pub input_ids_bt: Tensor<2, Int>,
    /// `None` for a batch of text.
    pub images: Option<ImageInputs>,
    /// Positions (row-major in `[b, t]`) whose **next** token is labelled; with classes, the last one of each row. `[n]`
    pub label_rows_n: Tensor<1, Int>,
    /// Those next tokens, or the classes. `[n]`
    pub targets_n: Tensor<1, Int>,
    /// Factors of the rows' losses; empty without classes.
    pub(crate) weights: Vec<f32>,
    /// Number of labelled tokens or rows, `n`.
    pub num_labelled: usize,
    /// Angles of positions `0..t`.
    pub rope: RopeTable,
    /// What dropout is drawn from; `None` where nothing is dropped.
    pub(crate) dropout: Option<SequenceKeys>,
}

impl VlmInputs {
    /// Checks a batch against the model and uploads it.
    ///
    /// # Errors
    /// Whatever the model could not run, see [`InputError`].
    pub fn new(
        batch: &HostBatch,
        config: &VlmConfig,
        device: &Device,
        dtype: DType,
    ) -> Result<Self, InputError> {
        check(batch, config)?;
        let (b, t) = (batch.rows, batch.length);
        let (rows, targets) = match batch.classes {
            Some(HostClasses { classes, lengths, .. }) => {
                let last = lengths
                    .iter()
                    .enumerate()
                    .map(|(row, length)| (row * t + length - 1) as i32);
                (last.collect(), classes.to_vec())
            }
            None => shifted_labels(batch),
        };
        let images = match &config.vision {
            Some(vision) if batch.num_images > 0 => Some(ImageInputs {
                pixels_mchw: pixels(batch, vision, device, dtype),
                sources_n: ints(
                    splice_sources(batch.input_ids, vision.image_token_id as i32),
                    device,
                ),
            }),
            _ => None,
        };
        Ok(Self {
            input_ids_bt: ints(batch.input_ids.to_vec(), device).reshape([b, t]),
            images,
            weights: batch
                .classes
                .map_or(Vec::new(), |classes| classes.weights.to_vec()),
            num_labelled: rows.len(),
            label_rows_n: ints(rows, device),
            targets_n: ints(targets, device),
            rope: config.text.rope_table(0..t, device),
            dropout: None,
        })
    }

    /// The same batch with dropout, for training. What is dropped depends on `seed`, on a row's number in the whole step
    /// (`first_row` is that of the batch's first row), on the position in the row, and on the layer; not on how a step is
    /// cut into batches.
    #[must_use]
    pub fn with_dropout(self, batch: &HostBatch, config: &VlmConfig, seed: u64, first_row: u64) -> Self {
        let rows = || (first_row..).take(batch.rows).map(|row| mix(seed, row));
        let images = match &config.vision {
            Some(vision) => image_keys(batch, vision, rows()),
            None => Vec::new(),
        };
        Self {
            dropout: Some(SequenceKeys {
                texts: rows().collect(),
                images: images.into(),
            }),
            ..self
        }
    }
}

fn ints(values: Vec<i32>, device: &Device) -> Tensor<1, Int> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), (device, DType::I32))
}

fn pixels(batch: &HostBatch, vision: &VisionLanguageConfig, device: &Device, dtype: DType) -> Tensor<4> {
    let size = vision.vision.image_size;
    let data = TensorData::new(batch.pixels.to_vec(), [batch.num_images, 3, size, size]);
    Tensor::from_data(data.convert_dtype(dtype), (device, dtype))
}

fn check(batch: &HostBatch, config: &VlmConfig) -> Result<(), InputError> {
    let cells = batch.rows * batch.length;
    let expect = |field, found, expected| {
        if found == expected {
            Ok(())
        } else {
            Err(InputError::Length {
                field,
                found,
                expected,
            })
        }
    };
    expect("input_ids", batch.input_ids.len(), cells)?;
    expect("labels", batch.labels.len(), cells)?;
    let limit = config.text.max_positions();
    if batch.length > limit {
        return Err(InputError::TooLong {
            length: batch.length,
            limit,
        });
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
            let found = batch.input_ids.iter().filter(|&&id| id == image_token).count();
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
            expect(
                "pixels",
                batch.pixels.len(),
                batch.num_images * 3 * vision.vision.image_size.pow(2),
            )
        }
    }
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
        ("lengths", classes.lengths.len()),
        ("weights", classes.weights.len()),
        // A row without a token has no last one.
        (
            "lengths between 1 and the batch's",
            classes
                .lengths
                .iter()
                .filter(|length| (1..=batch.length).contains(*length))
                .count(),
        ),
    ] {
        if found != expected {
            return Err(InputError::Length {
                field,
                found,
                expected,
            });
        }
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

/// The token at position `p` is predicted at position `p - 1` of the same row.
fn shifted_labels(batch: &HostBatch) -> (Vec<i32>, Vec<i32>) {
    (0..batch.rows * batch.length)
        .filter(|at| at % batch.length != 0 && batch.labels[*at] != IGNORE_INDEX)
        .map(|at| (at as i32 - 1, batch.labels[at]))
        .unzip()
}

/// One key for each image, from its row's and its place in the row.
fn image_keys(batch: &HostBatch, vision: &VisionLanguageConfig, rows: impl Iterator<Item = u64>) -> Vec<u64> {
    let per_image = vision.num_image_tokens().max(1);
    let is_image = |id: &&i32| **id == vision.image_token_id as i32;
    let of_row = |(ids, key): (&[i32], u64)| {
        let num_images = ids.iter().filter(is_image).count() / per_image;
        (0..num_images as u64).map(move |image| mix(!key, image))
    };
    batch
        .input_ids
        .chunks(batch.length.max(1))
        .zip(rows)
        .flat_map(of_row)
        .collect()
}

fn splice_sources(input_ids: &[i32], image_token: i32) -> Vec<i32> {
    let mut next_feature = input_ids.len() as i32;
    (0i32..)
        .zip(input_ids)
        .map(|(own, &id)| {
            if id == image_token {
                next_feature += 1;
                next_feature - 1
            } else {
                own
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_shifted_within_rows_only() {
        let batch = HostBatch {
            rows: 2,
            length: 3,
            input_ids: &[1, 2, 3, 4, 5, 6],
            labels: &[9, -100, 3, 7, 5, -100],
            pixels: &[],
            num_images: 0,
            classes: None,
        };
        // The first label of a row has no position before it that could predict it.
        assert_eq!(shifted_labels(&batch), (vec![1, 3], vec![3, 5]));
    }

    #[test]
    fn image_tokens_take_features_in_reading_order() {
        assert_eq!(splice_sources(&[1, 9, 9, 2, 9, 3], 9), vec![0, 6, 7, 3, 8, 5]);
    }
}
