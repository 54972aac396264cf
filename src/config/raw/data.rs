//! `data:`.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::defaults;

/// What to train and to evaluate on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawData {
    /// Draws the data set of coloured shapes, with its tokenizer, before training, unless it is there
    /// already. Its files then stand for `data.train`, `data.eval` and `model.tokenizer` where these are left
    /// out.
    pub synth: Option<RawSynth>,
    /// Training files, one after the other. Left out: those of `data.synth`.
    pub train: Option<Vec<RawRows>>,
    /// Evaluation files. Left out: those of `data.synth`, else none.
    pub eval: Option<Vec<RawRows>>,
    /// Most tokens of one sample, image tokens included.
    #[schemars(range(min = 2), example = 2048)]
    pub sequence_length: usize,
    /// What happens to a sample longer than `sequence_length`.
    #[serde(default = "defaults::too_long")]
    pub too_long: RawTooLong,
    /// Whether each epoch has its own random order; otherwise the order of the files.
    #[serde(default = "defaults::shuffle")]
    #[schemars(example = false)]
    pub shuffle: bool,
    /// Threads that read, decode and tokenize; 0 does it in the training thread. The number changes no
    /// result.
    #[serde(default = "defaults::workers")]
    #[schemars(example = 8)]
    pub workers: usize,
    /// Optimizer steps whose batches are made ahead; needs `workers`.
    #[schemars(range(min = 1), extend("default" = defaults::PREFETCH), example = 4)]
    pub prefetch: Option<usize>,
}

/// The data set of coloured shapes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawSynth {
    /// Folder it is drawn into.
    #[serde(default = "defaults::synth_dir")]
    #[schemars(example = "/tmp/shapes")]
    pub dir: PathBuf,
    /// Number of images to train on; each comes with several questions.
    #[serde(default = "defaults::train_images")]
    #[schemars(range(min = 1), example = 2000)]
    pub train_images: usize,
    /// Number of held-out images.
    #[serde(default = "defaults::eval_images")]
    #[schemars(range(min = 1), example = 100)]
    pub eval_images: usize,
    /// Side of the square images, in pixels. Left out: `model.vision.image_size`.
    #[schemars(range(min = 1), example = 48)]
    pub image_size: Option<usize>,
    /// Seed of the drawing; other than the run's, so that several runs share one data set.
    #[serde(default = "defaults::synth_seed")]
    #[schemars(example = 7)]
    pub seed: u64,
}

/// One file of samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawRows {
    /// JSONL file of chat rows, `{"messages": […], "images": […]}`; image paths are relative to it. For a classification
    /// head see `model.head`.
    #[schemars(example = "data/train.jsonl")]
    pub path: PathBuf,
}

/// What happens to a sample that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum RawTooLong {
    /// Left out, and counted in the log.
    Drop,
    /// Cut at the end, and counted in the log; an image is never cut.
    Truncate,
    /// The run stops and names it.
    Error,
}
