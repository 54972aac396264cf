//! A batch, checked on the host and put on the device.
//!
//! Burn panics on shapes that do not fit, far from the cause. Whatever can be wrong with a batch is refused here, as a
//! value.

use std::sync::Arc;

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use crate::{
    config::{VisionLanguageConfig, VlmConfig},
    dropout::{SequenceKeys, Sequences, mix},
    ops::{RopeTable, Segments},
    segmented::Segment,
};

mod check;
mod layout;

pub use check::InputError;
pub use check::check_tokens;
use check::{check_features, check_pixels};
pub use layout::Layout;
use layout::{Span, spans};

/// Label of a token that is not trained, as in PyTorch.
pub const IGNORE_INDEX: i32 = -100;

/// At which end of a row its padding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PaddingSide {
    /// Before its tokens.
    Left,
    /// Behind its tokens.
    #[default]
    Right,
}

/// A batch in host memory. A row holds one or several segments, sequences that know nothing of each other, and padding behind
/// or before them. What stands in the padding says nothing, and on which side it is changes nothing: on the device, every
/// row begins with its tokens.
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
    /// Where each row's padding is.
    pub padding_side: PaddingSide,
    /// For each row the token counts of its segments, one after the other without a gap.
    pub segments: &'a [Vec<usize>],
    /// `num_images * 3 * size * size` normalised pixels, images in the order of their tokens.
    pub pixels: &'a [f32],
    /// Number of images.
    pub num_images: usize,
    /// Classes of the rows, for a model with a classification head; `labels` then say nothing.
    pub classes: Option<HostClasses<'a>>,
}

/// What rows are to be classified as. All of them as long as there are rows; a row is one segment, and the head looks at its
/// last token.
#[derive(Debug, Clone, Copy)]
pub struct HostClasses<'a> {
    /// Class ids.
    pub classes: &'a [i32],
    /// Factor of each row's loss.
    pub weights: &'a [f32],
}

/// What a segment of the vision part has made of images, in host memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFeatures {
    /// The segment that they leave: a vision block or the projector.
    pub after: Segment,
    /// `[m, t, d]` in the compute dtype, row-major, images in the order of their tokens; see
    /// [`VisionLanguageConfig::features`] for `t` and `d`.
    pub bytes: Vec<u8>,
}

/// As what the images of a batch come, in the compute dtype.
#[derive(Debug, Clone)]
pub enum Images {
    /// `[m, 3, size, size]`
    Pixels(Tensor<4>),
    /// What leaves a segment of the vision part: those up to it are not passed. `[m, t, d]`
    Features {
        /// The segment.
        after: Segment,
        /// Its output.
        x_mtd: Tensor<3>,
    },
}

/// Images of a batch on the device.
#[derive(Debug, Clone)]
pub struct ImageInputs {
    /// The images.
    pub images: Images,
    /// For each of the `b*t` positions the row it is taken from: a token's own row, or `b*t` plus the row of an image
    /// feature. `[b*t]`
    pub sources_n: Tensor<1, Int>,
}

/// A batch on the device.
#[derive(Debug, Clone)]
pub struct VlmInputs {
    /// `[b, t]`; with [`Layout::Flat`] `[1, n]`
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
    /// Angles of positions `0..t`, or of those of all `b*t` tokens.
    pub rope: RopeTable,
    /// `None` where rows are segments.
    pub(crate) segments: Option<Segments>,
    /// Tokens from each segment's first to the next one's, padding included. Together `b*t`.
    lengths: Arc<[usize]>,
    /// What dropout is drawn from; `None` where nothing is dropped.
    pub(crate) dropout: Option<SequenceKeys>,
}

impl VlmInputs {
    /// Checks a batch against the model and uploads it as it is.
    ///
    /// # Errors
    /// Whatever the model could not run, see [`InputError`].
    pub fn new(
        batch: &HostBatch,
        config: &VlmConfig,
        device: &Device,
        dtype: DType,
    ) -> Result<Self, InputError> {
        Self::laid_out(batch, Layout::Rows, config, device, dtype)
    }

    /// As [`VlmInputs::new`], laid out as is best for a loss, which does not depend on it: see [`Layout::for_loss`].
    ///
    /// # Errors
    /// Whatever the model could not run, see [`InputError`].
    pub fn for_loss(
        batch: &HostBatch,
        config: &VlmConfig,
        device: &Device,
        dtype: DType,
    ) -> Result<Self, InputError> {
        Self::laid_out(batch, Layout::for_loss(batch, device), config, device, dtype)
    }

    /// As [`VlmInputs::for_loss`], with what a part of the model has made of all images in the place of their pixels, at which
    /// nobody looks.
    ///
    /// # Errors
    /// Whatever the model could not run, see [`InputError`].
    pub fn with_features(
        batch: &HostBatch,
        features: HostFeatures,
        config: &VlmConfig,
        device: &Device,
        dtype: DType,
    ) -> Result<Self, InputError> {
        check_tokens(batch, config)?;
        let images = match &config.vision {
            Some(vision) if batch.num_images > 0 => {
                let [t, d] = check_features(batch, &features, vision, config, dtype)?;
                let shape = [batch.num_images, t, d];
                let data = TensorData::from_bytes_vec(features.bytes, shape, dtype);
                let x_mtd = Tensor::from_data(data, (device, dtype));
                let after = features.after;
                Some(Images::Features { after, x_mtd })
            }
            _ => None,
        };
        let layout = Layout::for_loss(batch, device);
        Ok(Self::around(images, batch, layout, config, device))
    }

    fn laid_out(
        batch: &HostBatch,
        layout: Layout,
        config: &VlmConfig,
        device: &Device,
        dtype: DType,
    ) -> Result<Self, InputError> {
        check_tokens(batch, config)?;
        let images = match &config.vision {
            Some(vision) => {
                check_pixels(batch, vision)?;
                (batch.num_images > 0).then(|| {
                    let size = vision.vision.image_size;
                    Images::Pixels(pixels(batch.pixels, size, device, dtype))
                })
            }
            None => None,
        };
        Ok(Self::around(images, batch, layout, config, device))
    }

    /// What else there is of a batch that has been checked.
    fn around(
        images: Option<Images>,
        batch: &HostBatch,
        layout: Layout,
        config: &VlmConfig,
        device: &Device,
    ) -> Self {
        let spans: Vec<Span> = spans(batch, layout).collect();
        let [b, t] = layout.shape(batch);
        let (rows, targets) = match batch.classes {
            Some(HostClasses { classes, .. }) => {
                let last = spans.iter().map(|span| (span.place + span.len - 1) as i32);
                (last.collect(), classes.to_vec())
            }
            None => shifted_labels(batch, &spans),
        };
        let spliced = |(images, vision): (Images, &VisionLanguageConfig)| {
            let sources = splice_sources(batch, &spans, b * t, vision.image_token_id as i32);
            let sources_n = ints(sources, device);
            ImageInputs { images, sources_n }
        };
        let images = images.zip(config.vision.as_ref()).map(spliced);
        let (segments, rope) = match layout.segments(batch) {
            Some(segments) => (Some(segments), own_positions(&spans, b * t, config, device)),
            None => (None, config.text.rope_table(0..t, device)),
        };
        Self {
            input_ids_bt: ints(layout.tokens(batch), device).reshape([b, t]),
            images,
            weights: batch
                .classes
                .map_or(Vec::new(), |classes| classes.weights.to_vec()),
            num_labelled: rows.len(),
            label_rows_n: ints(rows, device),
            targets_n: ints(targets, device),
            rope,
            segments,
            lengths: distances(&spans, b * t).into(),
            dropout: None,
        }
    }

    /// The same batch with dropout, for training. What is dropped depends on `seed`, on a segment's number in the whole step
    /// (`first_segment` is that of the batch's first one), on the position in the segment, and on the layer; not on how a step
    /// is cut into batches or laid out.
    #[must_use]
    pub fn with_dropout(self, batch: &HostBatch, config: &VlmConfig, seed: u64, first_segment: u64) -> Self {
        let keys: Arc<[u64]> = (first_segment..)
            .take(self.lengths.len())
            .map(|segment| mix(seed, segment))
            .collect();
        let images = match &config.vision {
            Some(vision) => image_keys(batch, vision, &keys),
            None => Vec::new(),
        };
        Self {
            dropout: Some(SequenceKeys {
                texts: Sequences {
                    keys,
                    lengths: Some(self.lengths.clone()),
                },
                images: Sequences {
                    keys: images.into(),
                    lengths: None,
                },
            }),
            ..self
        }
    }
}

fn ints(values: Vec<i32>, device: &Device) -> Tensor<1, Int> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), (device, DType::I32))
}

/// Images of `size` by `size` on a device.
///
/// # Shapes
/// `m * 3 * size * size` values → `[m, 3, size, size]`
pub fn pixels(values: &[f32], size: usize, device: &Device, dtype: DType) -> Tensor<4> {
    let num_images = values.len() / (3 * size * size).max(1);
    let data = TensorData::new(values.to_vec(), [num_images, 3, size, size]);
    Tensor::from_data(data.convert_dtype(dtype), (device, dtype))
}

/// The token at position `p` is predicted at position `p - 1` of the same segment.
fn shifted_labels(batch: &HostBatch, spans: &[Span]) -> (Vec<i32>, Vec<i32>) {
    let of_span = |span: &Span| {
        let places = (span.place as i32..).zip(&span.of(batch.labels)[1..]);
        places.filter(|(_, label)| **label != IGNORE_INDEX)
    };
    spans.iter().flat_map(of_span).unzip()
}

/// One key for each image, from its segment's and its place in the segment.
fn image_keys(batch: &HostBatch, vision: &VisionLanguageConfig, keys: &[u64]) -> Vec<u64> {
    let per_image = vision.num_image_tokens().max(1);
    let is_image = |id: &&i32| **id == vision.image_token_id as i32;
    let of_segment = |(span, &key): (Span, &u64)| {
        let num_images = span.of(batch.input_ids).iter().filter(is_image).count() / per_image;
        (0..num_images as u64).map(move |image| mix(!key, image))
    };
    spans(batch, Layout::Rows)
        .zip(keys)
        .flat_map(of_segment)
        .collect()
}

fn splice_sources(batch: &HostBatch, spans: &[Span], num_places: usize, image_token: i32) -> Vec<i32> {
    let mut sources: Vec<i32> = (0..num_places as i32).collect();
    let mut next_feature = num_places as i32..;
    for span in spans {
        let places = sources[span.place..].iter_mut().zip(span.of(batch.input_ids));
        let images = places.filter(|(_, id)| **id == image_token);
        for ((source, _), feature) in images.zip(&mut next_feature) {
            *source = feature;
        }
    }
    sources
}

/// Angles of every place's position in its segment; of position 0 in the padding.
fn own_positions(spans: &[Span], num_places: usize, config: &VlmConfig, device: &Device) -> RopeTable {
    let mut positions = vec![0; num_places];
    for span in spans {
        for (place, position) in positions[span.place..][..span.len].iter_mut().zip(0..) {
            *place = position;
        }
    }
    let longest = spans.iter().map(|span| span.len).max().unwrap_or(0);
    config
        .text
        .rope_table(0..longest, device)
        .take(ints(positions, device))
}

/// From each span's place to the next one's.
fn distances(spans: &[Span], num_places: usize) -> Vec<usize> {
    let ends = spans.iter().skip(1).map(|span| span.place).chain([num_places]);
    spans
        .iter()
        .zip(ends)
        .map(|(span, end)| end - span.place)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch<'a>(input_ids: &'a [i32], labels: &'a [i32], segments: &'a [Vec<usize>]) -> HostBatch<'a> {
        HostBatch {
            rows: segments.len(),
            length: input_ids.len() / segments.len(),
            input_ids,
            labels,
            padding_side: PaddingSide::Right,
            segments,
            pixels: &[],
            num_images: 0,
            classes: None,
        }
    }

    fn laid_out(batch: &HostBatch, layout: Layout) -> Vec<Span> {
        spans(batch, layout).collect()
    }

    #[test]
    fn labels_are_shifted_within_segments_only() {
        let (ids, labels) = ([1; 10], [9, -100, 3, 7, 8, 7, 5, -100, 6, 4]);
        let segments = [vec![3, 1, 1], vec![4]];
        let batch = batch(&ids, &labels, &segments);
        // The first label of a segment has no position before it that could predict it; the last 4 stands in the padding.
        let shifted = |layout| shifted_labels(&batch, &laid_out(&batch, layout));
        assert_eq!(shifted(Layout::Rows), (vec![1, 5, 7], vec![3, 5, 6]));
        let segments = [vec![2], vec![4]];
        let batch = self::batch(&ids, &labels, &segments);
        let shifted = |layout| shifted_labels(&batch, &laid_out(&batch, layout));
        assert_eq!(shifted(Layout::Rows), (vec![5, 7], vec![5, 6]));
        assert_eq!(shifted(Layout::Flat), (vec![2, 4], vec![5, 6]));
        assert_eq!(Layout::Flat.shape(&batch), [1, 6]);
    }

    #[test]
    fn image_tokens_take_features_in_reading_order() {
        let ids = [1, 9, 9, 2, 9, 3, 9, 9];
        let segments = [vec![2, 1], vec![3]];
        let batch = batch(&ids, &ids, &segments);
        let sources = |layout, places| splice_sources(&batch, &laid_out(&batch, layout), places, 9);
        // An image's token in the padding takes none.
        assert_eq!(sources(Layout::Rows, 8), [0, 8, 9, 3, 10, 5, 11, 7]);
        assert_eq!(sources(Layout::Flat, 6), [0, 6, 7, 8, 4, 9]);
    }

    #[test]
    fn padding_belongs_to_the_segment_before_it() {
        let ids = [1; 8];
        let segments = [vec![2, 1], vec![3]];
        let batch = batch(&ids, &ids, &segments);
        assert_eq!(distances(&laid_out(&batch, Layout::Rows), 8), [2, 2, 4]);
        assert_eq!(distances(&laid_out(&batch, Layout::Flat), 6), [2, 1, 3]);
    }

    #[test]
    fn on_the_device_rows_begin_with_their_tokens() {
        let segments = [vec![2, 1], vec![3], vec![4]];
        let (ids, labels) = (
            [5, 6, 7, 0, 8, 9, 4, 0, 9, 2, 2, 9],
            [5, 6, 7, -100, -100, 9, 4, -100, 9, 2, 2, 9],
        );
        let right = batch(&ids, &labels, &segments);
        let (ids, labels) = (
            [0, 5, 6, 7, 0, 8, 9, 4, 9, 2, 2, 9],
            [-100, 5, 6, 7, -100, -100, 9, 4, 9, 2, 2, 9],
        );
        let left = HostBatch {
            padding_side: PaddingSide::Left,
            ..batch(&ids, &labels, &segments)
        };
        for layout in [Layout::Rows, Layout::Flat] {
            let [left, right] = [&left, &right].map(|batch| {
                let spans = laid_out(batch, layout);
                let num_places = layout.shape(batch).iter().product();
                (
                    layout.tokens(batch),
                    shifted_labels(batch, &spans),
                    splice_sources(batch, &spans, num_places, 9),
                    distances(&spans, num_places),
                )
            });
            assert_eq!(left, right, "{layout:?}");
        }
    }
}
