//! What the user may write, and nothing else. The doc comments are the documentation: `configs/README.md` is
//! made of them.
//!
//! A default that always holds is serde's. Where a key may have no effect, or its default follows from
//! another key, it is an `Option`, documented with `extend("default" = …)`, and `resolve` puts in the same
//! constant.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::defaults;

mod data;
mod model;
mod parallel;
mod run;
mod train;

pub(super) use self::{
    data::{
        RawBadRows, RawData, RawFields, RawFormat, RawMasks, RawPacking, RawPaddingSide, RawRole, RawRowKind,
        RawRows, RawScalar, RawSynth, RawTooLong, RawTrainEos,
    },
    model::{
        RawFeatureSelect, RawHead, RawLanguage, RawLora, RawLoraParts, RawModel, RawModelType, RawProjector,
        RawResizeVocabulary, RawRopeScaling, RawVision, RawVisionActivation, RawVisionModelType,
    },
    parallel::{RawParallel, RawTransport},
    run::{
        RawBest, RawCheckpoint, RawConsole, RawDirection, RawEarlyStopping, RawEval, RawEvery, RawKeep,
        RawMetric, RawTrack,
    },
    train::{
        RawGroup, RawGroups, RawMode, RawOps, RawOptimizer, RawOptimizerName, RawPrecision, RawRecompute,
        RawSchedule, RawTrain,
    },
};

/// One run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    /// The run directory: metrics, checkpoints and the exported model go there.
    #[schemars(example = "runs/demo")]
    pub output: PathBuf,
    /// Where to compute: `auto`, `cuda`, `cuda:1`, `wgpu`, `flex` or `ndarray`. `auto` takes the first of
    /// them that is compiled in and present.
    #[serde(default = "defaults::device")]
    #[schemars(example = "cuda:0")]
    pub device: String,
    /// Seed of everything drawn in the run: fresh weights and the order of samples.
    #[serde(default = "defaults::seed")]
    #[schemars(example = 1)]
    pub seed: u64,
    /// The model: imported with `from`, or described by `language`, `vision` and `projector` and drawn at
    /// random.
    pub model: RawModel,
    /// What to train and to evaluate on.
    pub data: RawData,
    /// How to train.
    pub train: RawTrain,
    /// Several devices.
    #[serde(default)]
    pub parallel: RawParallel,
    /// Held-out evaluation; needs evaluation data.
    pub eval: Option<RawEval>,
    /// What is kept on disk.
    #[serde(default)]
    pub checkpoint: RawCheckpoint,
    /// What is shown and logged.
    #[serde(default)]
    pub track: RawTrack,
}
