//! What this room needs to be told: plain structs, filled by the configuration.

use std::{fmt, path::PathBuf};

use super::{
    classified::ClassOptions,
    rows::RowOptions,
    source::{Cache, Format, Selection},
    template::{Masks, TemplateOptions},
};
use crate::image_processor::{ImageProcessor, Rescale};

/// Which of the configured files are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Split {
    /// Training rows, in the configured order.
    Train,
    /// Held-out rows, always in file order.
    Eval,
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Split::Train => "train",
            Split::Eval => "eval",
        })
    }
}

/// What becomes of a row with more than `sequence_length` tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooLong {
    /// Left out, and counted in [`crate::data::DatasetReport`].
    Drop,
    /// Cut at its end, and counted. An image is never cut: a row whose images do not fit is an error.
    Truncate,
    /// Cut after the last trained turn that fits, and counted; left out if none does.
    TruncateTurns,
    /// Refused, with its file and line.
    Error,
}

/// At which end of a row its padding is. No result depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PaddingSide {
    /// Before its tokens.
    Left,
    /// Behind its tokens.
    #[default]
    Right,
}

/// How samples share the rows of batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grouping {
    /// Each is a row.
    Alone,
    /// Each is a row, and those of a training batch are of like length.
    ByLength {
        /// Rows of a micro-batch, at least 1.
        micro_batch_size: usize,
    },
    /// As many as fit share a row of `sequence_length` tokens, each a segment of its own.
    Packed {
        /// Most images of a row; `None` does not count them.
        max_images: Option<usize>,
    },
}

/// What becomes of a row that something is wrong with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadRows {
    /// Refused, with its file and line.
    Error,
    /// Left out, and listed in [`crate::data::Dataset::bad_rows`]. Images are decoded when the rows are read, so that a
    /// broken one is found before the first step.
    Skip {
        /// Most rows that may be left out.
        limit: usize,
    },
    /// All of them left out, images decoded: for looking at a data set.
    List,
}

impl BadRows {
    /// Whether images are decoded when rows are read.
    pub(super) fn decodes_images(self) -> bool {
        self != BadRows::Error
    }
}

/// Rows of a file or folder, and how to read them.
#[derive(Debug, Clone, PartialEq)]
pub struct DataSource {
    /// A file, a folder, or a pattern like `data/*.jsonl`.
    pub path: PathBuf,
    /// What it holds.
    pub format: Format,
    /// Which split of a data set of several.
    pub split: Option<String>,
    /// Columns, or keys of rows, that are read; all if `None`.
    pub columns: Option<Vec<String>>,
    /// Whether cells of CSV that look like numbers are numbers; else they are text.
    pub numbers: bool,
    /// How often its rows come in an epoch of training: 1 each once, 0.5 half of them, 2 each twice.
    pub weight: f64,
    /// Where paths of images start; left out: the folder of the file.
    pub image_dir: Option<PathBuf>,
    /// How its rows are read.
    pub rows: RowOptions,
}

impl DataOptions {
    /// Most tokens of a batch's row, padding included.
    pub fn padded_length(&self) -> usize {
        self.sequence_length
            .next_multiple_of(self.pad_to_multiple_of.unwrap_or(1).max(1))
    }
}

impl DataSource {
    /// Rows that say themselves what they are.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            format: Format::Auto,
            split: None,
            columns: None,
            numbers: false,
            weight: 1.0,
            image_dir: None,
            rows: RowOptions::default(),
        }
    }

    /// Which rows are meant.
    pub fn selection(&self) -> Selection {
        Selection {
            path: self.path.clone(),
            format: self.format,
            split: self.split.clone(),
            columns: self.columns.clone(),
            numbers: self.numbers,
        }
    }
}

/// Files, tokenizer, lengths, order and threads.
#[derive(Debug, Clone, PartialEq)]
pub struct DataOptions {
    /// Rows to train on.
    pub train: Vec<DataSource>,
    /// Held-out rows.
    pub eval: Vec<DataSource>,
    /// Where indices of large files, what was compressed in them, and their encoded rows are kept.
    pub cache: Cache,
    /// From which size on, in bytes, a file's encoded rows are; `None` encodes them at each start.
    pub keep_encoded: Option<u64>,
    /// A folder with `tokenizer.json` and `tokenizer_config.json`, or the `tokenizer.json` itself.
    pub tokenizer: PathBuf,
    /// Classes of the rows; `None` for chat rows.
    pub classes: Option<ClassOptions>,
    /// How conversations are rendered.
    pub template: TemplateOptions,
    /// Which of them is trained.
    pub masks: Masks,
    /// What becomes of wrong rows.
    pub bad_rows: BadRows,
    /// Longest row in tokens, image tokens included.
    pub sequence_length: usize,
    /// What becomes of longer rows.
    pub too_long: TooLong,
    /// Whether a row for training is cut anew in each epoch, at a length drawn between 1 and its own (`unif_rand_trunc` of
    /// fms-ehrs); see [`crate::data::Dataset::example_in`].
    pub random_truncation: bool,
    /// How samples share rows and batches.
    pub grouping: Grouping,
    /// Batches are as long as the next multiple of it; `None` is as long as their longest row.
    pub pad_to_multiple_of: Option<usize>,
    /// Where rows are padded.
    pub padding_side: PaddingSide,
    /// Whether each epoch visits the training rows in another order.
    pub shuffle: bool,
    /// Seed of the order.
    pub seed: u64,
    /// Threads that decode; 0 decodes in the caller. Never changes what is delivered.
    pub workers: usize,
    /// Optimizer steps prepared ahead.
    pub prefetch: usize,
}

/// What the vision tower expects of an image.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ImageOptions {
    /// What is done to an image after decoding.
    pub processor: ImageProcessor,
    /// Side of the square that comes out, in pixels.
    pub image_size: usize,
    /// Copies of the image token that stand for one image.
    pub num_image_tokens: usize,
}

impl ImageOptions {
    /// For a model that names no image processor: shortest side to size, bicubic, cut to the centre, CLIP's normalisation.
    pub fn clip(image_size: usize, num_image_tokens: usize) -> Self {
        let side = u32::try_from(image_size).unwrap_or(u32::MAX);
        Self {
            processor: ImageProcessor {
                rescale: Some(Rescale::SinglePrecision),
                ..ImageProcessor::clip(side)
            },
            image_size,
            num_image_tokens,
        }
    }
}

/// How the stream of rows is cut into optimizer steps, ranks and micro-batches.
///
/// The arithmetic is in the methods; see [`BatchPlan::positions`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchPlan {
    /// Rows of one forward pass on one rank.
    pub micro_batch_size: usize,
    /// Micro-batches of one optimizer step on one rank.
    pub accumulation: usize,
    /// This process, from 0.
    pub rank: usize,
    /// Number of processes.
    pub world_size: usize,
    /// Length of the stream over all ranks, see [`crate::data::Stream::rows_in`]; `None` never ends.
    pub total_rows: Option<u64>,
}
