//! What the learner uploads: rows of token ids and labels, padded, and the pixels of their images.

use std::{path::Path, sync::Arc};

use super::{error::DataError, options::PaddingSide};

/// Label of a position that is not trained; PyTorch's and Hugging Face's `ignore_index`.
pub const IGNORE_LABEL: i32 = -100;

/// Where a row comes from. Displays as `file:line`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampleId {
    /// The JSONL file.
    pub file: Arc<Path>,
    /// Line in it, from 1.
    pub line: usize,
}

/// One image, ready for the vision tower. Cheap to clone.
#[derive(Debug, Clone, PartialEq)]
pub struct PixelImage {
    /// `[3, size, size]`, normalised.
    pub pixels: Arc<[f32]>,
    /// Side of the square.
    pub size: usize,
}

/// Number of an image among those of its data set. The same file has the same number wherever it is named.
pub type ImageNumber = u32;

/// Where an image of a sample is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageSource {
    /// The next one of those that are decoded. The number is that of its data set, if it is of one.
    Decoded(Option<ImageNumber>),
    /// Not decoded, since what is made of it is at hand; see [`crate::data::Loader::start_with_held`].
    Held(ImageNumber),
}

/// One sample, not padded.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// Where it comes from.
    pub sample: SampleId,
    /// Token ids, each image as its copies of the image token.
    pub input_ids: Vec<i32>,
    /// As long as `input_ids`, not shifted; [`IGNORE_LABEL`] where nothing is trained.
    pub labels: Vec<i32>,
    /// Decoded images, in the order of their placeholders.
    pub images: Vec<PixelImage>,
    /// Where the image of each placeholder is.
    pub image_sources: Vec<ImageSource>,
    /// What the row is, if rows are classified; no label counts then.
    pub class: Option<Class>,
}

/// What a row is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Class {
    /// Id of the class.
    pub id: i32,
    /// Factor of its loss.
    pub weight: f32,
}

/// Classes of a batch, one value for each row.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassBatch {
    /// Class ids.
    pub ids: Vec<i32>,
    /// Factors of the losses.
    pub weights: Vec<f32>,
}

/// The images of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageBatch {
    /// Decoded images, `[n, 3, image_size, image_size]`, normalised.
    pub pixels: Vec<f32>,
    /// Where each image is, in the order of their placeholders, row after row.
    pub sources: Vec<ImageSource>,
}

impl ImageBatch {
    /// Number of images, decoded or not.
    pub fn num_images(&self) -> usize {
        self.sources.len()
    }
}

/// A micro-batch in host memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Number of rows.
    pub rows: usize,
    /// Tokens of a row; shorter ones are padded.
    pub length: usize,
    /// `[rows, length]`.
    pub input_ids: Vec<i32>,
    /// `[rows, length]`, not shifted (Hugging Face's convention); [`IGNORE_LABEL`] where nothing is trained.
    pub labels: Vec<i32>,
    /// Where the padding is.
    pub padding_side: PaddingSide,
    /// For each row the token counts of its segments, one after the other without a gap; what is before or behind them is
    /// padding. A segment is one sample: attention and positions begin anew with it.
    pub segments: Vec<Vec<usize>>,
    /// `None` if no row has an image.
    pub images: Option<ImageBatch>,
    /// One for each segment, row after row, for errors.
    pub samples: Vec<SampleId>,
    /// Tokens without padding.
    pub num_tokens: usize,
    /// Labels that count in the loss: those not ignored, from the second position of each segment on; with classes, rows.
    pub num_labelled: usize,
    /// Classes of the rows, if they have some.
    pub classes: Option<ClassBatch>,
}

/// What the model can take; see [`Batch::check`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Longest sequence.
    pub max_length: usize,
    /// Id of the image token and copies of it per image; `None` for a model without vision tower.
    pub image_tokens: Option<(u32, usize)>,
}

impl Batch {
    /// By what the sum of the losses of a step is divided: the number of labels, or the sum of their weights, as
    /// `torch.nn.CrossEntropyLoss` does.
    pub fn loss_weight(&self) -> f64 {
        match &self.classes {
            Some(classes) => classes.weights.iter().map(|&weight| f64::from(weight)).sum(),
            None => self.num_labelled as f64,
        }
    }
}

/// What fills rows up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Padding {
    /// Token of the padding.
    pub id: u32,
    /// A batch is as long as the next multiple of it; 1 is as long as its longest row.
    pub multiple_of: usize,
    /// Where it is put.
    pub side: PaddingSide,
}

/// Joins samples into one batch, each a row. Either all of them have a class or none.
pub fn collate(examples: &[Example], pad_id: u32) -> Batch {
    let rows: Vec<&[Example]> = examples.chunks(1).collect();
    let padding = Padding {
        id: pad_id,
        multiple_of: 1,
        side: PaddingSide::Right,
    };
    collate_rows(&rows, padding)
}

/// Joins rows of one or more samples into one batch. Either all samples have a class or none; with classes, each is a row.
pub fn collate_rows(rows: &[impl AsRef<[Example]>], padding: Padding) -> Batch {
    let num_tokens = |row: &[Example]| row.iter().map(|example| example.input_ids.len()).sum::<usize>();
    let longest = rows.iter().map(|row| num_tokens(row.as_ref())).max().unwrap_or(0);
    let length = longest.next_multiple_of(padding.multiple_of.max(1));
    let mut input_ids = Vec::with_capacity(rows.len() * length);
    let mut labels = Vec::with_capacity(rows.len() * length);
    for row in rows {
        let end = input_ids.len() + length;
        if padding.side == PaddingSide::Left {
            let start = end - num_tokens(row.as_ref());
            input_ids.resize(start, padding.id as i32);
            labels.resize(start, IGNORE_LABEL);
        }
        for example in row.as_ref() {
            input_ids.extend_from_slice(&example.input_ids);
            labels.extend_from_slice(&example.labels);
        }
        input_ids.resize(end, padding.id as i32);
        labels.resize(end, IGNORE_LABEL);
    }
    let segments = |row: &[Example]| row.iter().map(|example| example.input_ids.len()).collect();
    let examples: Vec<&Example> = rows.iter().flat_map(AsRef::as_ref).collect();
    let classes = collate_classes(&examples);
    Batch {
        rows: rows.len(),
        length,
        input_ids,
        labels,
        padding_side: padding.side,
        segments: rows.iter().map(|row| segments(row.as_ref())).collect(),
        images: collate_images(&examples),
        samples: examples.iter().map(|example| example.sample.clone()).collect(),
        num_tokens: examples.iter().map(|example| example.input_ids.len()).sum(),
        num_labelled: match &classes {
            Some(classes) => classes.ids.len(),
            None => examples.iter().map(|example| num_labelled(&example.labels)).sum(),
        },
        classes,
    }
}

fn collate_classes(examples: &[&Example]) -> Option<ClassBatch> {
    let classes: Vec<Class> = examples
        .iter()
        .map(|example| example.class)
        .collect::<Option<_>>()?;
    Some(ClassBatch {
        ids: classes.iter().map(|class| class.id).collect(),
        weights: classes.iter().map(|class| class.weight).collect(),
    })
}

fn collate_images(examples: &[&Example]) -> Option<ImageBatch> {
    let sources: Vec<ImageSource> = examples
        .iter()
        .flat_map(|example| example.image_sources.iter().copied())
        .collect();
    let images: Vec<&PixelImage> = examples.iter().flat_map(|example| &example.images).collect();
    let mut pixels = Vec::with_capacity(images.iter().map(|image| image.pixels.len()).sum());
    for image in &images {
        pixels.extend_from_slice(&image.pixels);
    }
    (!sources.is_empty()).then_some(ImageBatch { pixels, sources })
}

/// Labels of a sample that count: the first position has no predecessor to predict it.
fn num_labelled(labels: &[i32]) -> usize {
    labels
        .iter()
        .skip(1)
        .filter(|&&label| label != IGNORE_LABEL)
        .count()
}

impl Batch {
    /// Checks on the host what would go wrong on the device: ids outside the vocabulary, rows that are too long,
    /// images and image tokens that differ in number.
    ///
    /// # Errors
    /// [`DataError::Batch`], naming the first sample concerned.
    pub fn check(&self, limits: &BatchLimits) -> Result<(), DataError> {
        let mut features = 0;
        let mut samples = self.samples.iter();
        for (segments, row) in self
            .segments
            .iter()
            .zip(self.input_ids.chunks(self.length.max(1)))
        {
            let last = segments.len().saturating_sub(1);
            let (mut rest, padding) = (row, row.len().saturating_sub(segments.iter().sum()));
            let padded = match self.padding_side {
                PaddingSide::Left => 0,
                PaddingSide::Right => last,
            };
            for (number, (segment, sample)) in segments.iter().zip(&mut samples).enumerate() {
                let refuse = |reason| {
                    Err(DataError::Batch {
                        sample: sample.clone(),
                        reason,
                    })
                };
                if row.len() > limits.max_length {
                    return refuse(format!(
                        "{} tokens, more than the model's {}",
                        row.len(),
                        limits.max_length
                    ));
                }
                // The padding is looked up as well.
                let num_ids = segment + if number == padded { padding } else { 0 };
                let (ids, behind) = rest.split_at(num_ids.min(rest.len()));
                rest = behind;
                if let Some(id) = ids.iter().find(|&&id| id < 0 || id as usize >= limits.vocab_size) {
                    return refuse(format!(
                        "token {id} is outside the model's vocabulary of {}",
                        limits.vocab_size
                    ));
                }
                if let Some((image_token, _)) = limits.image_tokens {
                    features += ids.iter().filter(|&&id| id == image_token as i32).count();
                }
            }
        }
        let num_images = self.images.as_ref().map_or(0, ImageBatch::num_images);
        let expected = num_images * limits.image_tokens.map_or(0, |(_, copies)| copies);
        match self.samples.first() {
            Some(sample) if num_images > 0 && limits.image_tokens.is_none() => Err(DataError::Batch {
                sample: sample.clone(),
                reason: format!("{num_images} images for a model without vision tower"),
            }),
            Some(sample) if features != expected => Err(DataError::Batch {
                sample: sample.clone(),
                reason: format!(
                    "{features} image tokens in the batch, expected {expected} for {num_images} images"
                ),
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
