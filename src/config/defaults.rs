//! Every default, once. serde and the schema read them through [`super::raw`]; `resolve` uses the constants.

use std::path::PathBuf;

use super::raw::{
    RawBadRows, RawBest, RawCheckpoint, RawConsole, RawEval, RawEvery, RawFormat, RawKeep, RawMetric,
    RawMode, RawOps, RawOptimizerName, RawPacking, RawPaddingSide, RawParallel, RawPrecision, RawRecompute,
    RawRole, RawRowKind, RawTooLong, RawTrack, RawTransport, RawVisionModelType,
};
use crate::learner::options::ParallelConfig;

/// The last block's output.
pub(super) const VISION_FEATURE_LAYER: i64 = -1;
/// All blocks have the window.
pub(super) const MAX_WINDOW_LAYERS: usize = 0;
/// Steps of batches made ahead.
pub(super) const PREFETCH: usize = 2;
/// Micro-batches of one step.
pub(super) const ACCUMULATION: usize = 1;
/// No warm-up.
pub(super) const WARMUP_STEPS: u64 = 0;
/// Down to nothing.
pub(super) const MIN_LR: f64 = 0.0;
/// Tokens of a generated answer.
pub(super) const MAX_NEW_TOKENS: usize = 32;
/// Rank of adapters, as in PEFT.
pub(super) const LORA_R: usize = 8;
/// Numerator of their scaling, as in PEFT.
pub(super) const LORA_ALPHA: f64 = 8.0;
/// No dropout, as in PEFT.
pub(super) const LORA_DROPOUT: f64 = 0.0;
/// PEFT's word for every linear layer.
pub(super) const ALL_LINEAR: &str = "all-linear";
/// Best checkpoints that stay.
pub(super) const KEEP_BEST: usize = 1;

macro_rules! defaults {
    ($($name:ident: $type:ty = $value:expr;)*) => {
        $(pub(super) fn $name() -> $type { $value })*
    };
}

defaults! {
    device: String = "auto".to_owned();
    seed: u64 = 0;

    rms_norm_eps: f64 = 1e-6;
    rope_theta: f64 = 10_000.0;
    tie_word_embeddings: bool = false;
    mean_resizing: bool = true;
    low_freq_factor: f64 = 1.0;
    high_freq_factor: f64 = 4.0;
    beta_fast: f64 = 32.0;
    beta_slow: f64 = 1.0;
    truncate: bool = true;
    initializer_range: f64 = 0.02;
    vision_model_type: RawVisionModelType = RawVisionModelType::Clip;

    synth_dir: PathBuf = "data/shapes".into();
    train_images: usize = 8_000;
    eval_images: usize = 200;
    synth_seed: u64 = 0;
    too_long: RawTooLong = RawTooLong::Error;
    random_truncation: bool = false;
    padding_side: RawPaddingSide = RawPaddingSide::Right;
    packing: RawPacking = RawPacking::None;
    group_by_length: bool = false;
    bad_rows: RawBadRows = RawBadRows::Error;
    format: RawFormat = RawFormat::Auto;
    kind: RawRowKind = RawRowKind::Auto;
    trained_roles: Vec<RawRole> = vec![RawRole::Assistant];
    shuffle: bool = true;
    cache_rows: bool = true;
    workers: usize = 2;

    mode: RawMode = RawMode::Full;
    micro_batch_size: usize = 1;
    max_grad_norm: f64 = 1.0;
    precision: RawPrecision = RawPrecision::F32;
    recompute: RawRecompute = RawRecompute::None;
    ops: RawOps = RawOps::Fused;

    optimizer: RawOptimizerName = RawOptimizerName::Adamw;
    betas: [f64; 2] = [0.9, 0.999];
    eps: f64 = 1e-8;
    weight_decay: f64 = 0.0;
    timescale: u64 = 10_000;
    min_delta: f64 = 0.0;
}

impl Default for RawEval {
    fn default() -> Self {
        Self {
            every: RawEvery::Epochs(1),
            batch_size: None,
            exact_match: false,
            max_generate_samples: None,
            max_new_tokens: None,
            best: RawBest::default(),
            early_stopping: None,
        }
    }
}

impl Default for RawBest {
    fn default() -> Self {
        Self {
            metric: RawMetric::Loss,
            direction: None,
        }
    }
}

impl Default for RawCheckpoint {
    fn default() -> Self {
        Self {
            every: RawEvery::Epochs(1),
            keep: RawKeep::default(),
            resume: "auto".to_owned(),
            export: true,
        }
    }
}

impl Default for RawKeep {
    fn default() -> Self {
        Self {
            last: 2,
            best: None,
            every: None,
        }
    }
}

impl Default for RawParallel {
    fn default() -> Self {
        let ParallelConfig {
            bucket_elements,
            tensor,
            ..
        } = ParallelConfig::default();
        Self {
            devices: 1,
            tensor,
            zero: 0,
            offload: false,
            bucket_elements,
            transport: RawTransport::Auto,
            timeout_seconds: 600,
        }
    }
}

impl Default for RawTrack {
    fn default() -> Self {
        Self {
            console: RawConsole::Auto,
            log_every: 10,
            tensorboard: true,
            peak_tflops: None,
        }
    }
}
