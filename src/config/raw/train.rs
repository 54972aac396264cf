//! `train:`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::defaults;

/// How to train.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawTrain {
    /// Which parts of the model learn.
    #[serde(default = "defaults::mode")]
    pub mode: RawMode,
    /// Length of the run in passes over the training data; either this or `steps`.
    #[schemars(extend("exclusiveMinimum" = 0), example = 3)]
    pub epochs: Option<f64>,
    /// Length of the run in optimizer steps; either this or `epochs`.
    #[schemars(range(min = 1), example = 1000)]
    pub steps: Option<u64>,
    /// Rows in one forward pass on one device: samples, or several of them each with `data.packing`.
    #[serde(default = "defaults::micro_batch_size")]
    #[schemars(range(min = 1), example = 32)]
    pub micro_batch_size: usize,
    /// Micro-batches of one optimizer step; either this or `global_batch_size`.
    #[schemars(range(min = 1), extend("default" = defaults::ACCUMULATION), example = 4)]
    pub accumulation: Option<usize>,
    /// Rows of one optimizer step over all devices; gives `accumulation`.
    #[schemars(range(min = 1), example = 256)]
    pub global_batch_size: Option<usize>,
    /// The optimizer.
    pub optimizer: RawOptimizer,
    /// The learning rate over steps. Left out: `cosine` without warm-up.
    pub schedule: Option<RawSchedule>,
    /// Gradients are scaled down to this global norm when they exceed it; 0 leaves them as they are.
    #[serde(default = "defaults::max_grad_norm")]
    #[schemars(range(min = 0), example = 0.5)]
    pub max_grad_norm: f64,
    /// Number format of parameters and activations. Optimizer, norms and loss are f32 in any case. On GPUs from A100 on,
    /// operands of f32 products are rounded to TF32.
    #[serde(default = "defaults::precision")]
    pub precision: RawPrecision,
    /// Whether activations are kept for the backward pass or computed again. Changes memory and time, no
    /// result. `auto` goes by an estimate of what a step takes.
    #[serde(default = "defaults::recompute")]
    pub recompute: RawRecompute,
    /// Memory of each device in GiB, for `recompute: auto`. Left out: on a CPU, what the host has free; on a GPU it must be
    /// there.
    #[schemars(extend("exclusiveMinimum" = 0), example = 80)]
    pub memory_gib: Option<f64>,
    /// Host memory in GiB of each process for what a vision tower that rests makes of images, which is then computed once and
    /// not in each epoch anew; 0 for none. Images that find no room are computed each time: on a CPU, how many these are changes
    /// no result. Left out: at most a quarter of what the host has left beside a step and a checkpoint.
    #[schemars(range(min = 0), example = 32)]
    pub vision_cache_gib: Option<f64>,
    /// Bodies of the operations that models are made of. Losses differ by rounding only.
    #[serde(default = "defaults::ops")]
    pub ops: RawOps,
}

/// Which parts of the model learn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum RawMode {
    /// The projector alone.
    Alignment,
    /// Projector and language model.
    EndToEnd,
    /// The language model alone.
    LmOnly,
    /// Everything.
    Full,
}

/// Number format of parameters and activations.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum RawPrecision {
    /// 32 bits.
    F32,
    /// bfloat16, with f32 masters in the optimizer.
    Bf16,
}

/// What the backward pass computes again.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum RawRecompute {
    /// Nothing: fastest, most memory.
    None,
    /// The inside of each block: a third more time, far less memory.
    Blocks,
    /// Nothing if a step is then estimated at four fifths of the memory or less, else the inside of each block.
    Auto,
}

/// Bodies of the operations.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum RawOps {
    /// With gradients and kernels of their own.
    Fused,
    /// Their definitions in plain tensor operations, which take many times the time and memory: to check the others.
    Reference,
}

/// The optimizer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawOptimizer {
    /// Its name.
    #[serde(default = "defaults::optimizer")]
    pub name: RawOptimizerName,
    /// Peak learning rate.
    #[schemars(extend("exclusiveMinimum" = 0), example = 2e-5)]
    pub lr: f64,
    /// Decay of the first and second moment.
    #[serde(default = "defaults::betas")]
    #[schemars(
        extend("items" = { "type": "number", "minimum": 0, "exclusiveMaximum": 1 }),
        extend("examples" = [[0.9, 0.95]])
    )]
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    #[serde(default = "defaults::eps")]
    #[schemars(extend("exclusiveMinimum" = 0), example = 1e-6)]
    pub eps: f64,
    /// Decoupled weight decay; biases and norm weights have none.
    #[serde(default = "defaults::weight_decay")]
    #[schemars(range(min = 0), example = 0.1)]
    pub weight_decay: f64,
    /// Parts of the model with a learning rate of their own.
    #[serde(default)]
    pub groups: RawGroups,
}

/// Optimizers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum RawOptimizerName {
    /// Adam with decoupled weight decay.
    Adamw,
}

/// Parts of the model with a learning rate of their own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct RawGroups {
    /// The projector. Left out: as `train.optimizer`.
    pub projector: Option<RawGroup>,
    /// The vision tower. Left out: as `train.optimizer`.
    pub vision: Option<RawGroup>,
    /// The language model. Left out: as `train.optimizer`.
    pub language: Option<RawGroup>,
}

/// One part of the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawGroup {
    /// Peak learning rate of this part.
    #[schemars(extend("exclusiveMinimum" = 0), example = 1e-3)]
    pub lr: f64,
}

/// The learning rate over steps. In every shape warm-up is a linear rise from 0, given in steps or as a part
/// of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "name", rename_all = "snake_case", deny_unknown_fields)]
pub(in crate::config) enum RawSchedule {
    /// Stays at the peak.
    Constant {
        /// Steps of warm-up; either this or `warmup_ratio`.
        #[schemars(extend("default" = defaults::WARMUP_STEPS), example = 100)]
        warmup_steps: Option<u64>,
        /// Warm-up as a part of all steps, rounded up.
        #[schemars(range(min = 0, max = 1), example = 0.03)]
        warmup_ratio: Option<f64>,
    },
    /// Falls in a line to the minimum at the last step.
    Linear {
        /// Steps of warm-up; either this or `warmup_ratio`.
        #[schemars(extend("default" = defaults::WARMUP_STEPS), example = 100)]
        warmup_steps: Option<u64>,
        /// Warm-up as a part of all steps, rounded up.
        #[schemars(range(min = 0, max = 1), example = 0.03)]
        warmup_ratio: Option<f64>,
        /// Learning rate at the end, for a peak of `train.optimizer.lr` (others fall in proportion); either
        /// this or `min_lr_ratio`.
        #[schemars(range(min = 0), extend("default" = defaults::MIN_LR), example = 1e-6)]
        min_lr: Option<f64>,
        /// Learning rate at the end as a part of the peak.
        #[schemars(range(min = 0, max = 1), example = 0.1)]
        min_lr_ratio: Option<f64>,
    },
    /// Falls along half a cosine to 0 at the last step.
    Cosine {
        /// Steps of warm-up; either this or `warmup_ratio`.
        #[schemars(extend("default" = defaults::WARMUP_STEPS), example = 100)]
        warmup_steps: Option<u64>,
        /// Warm-up as a part of all steps, rounded up.
        #[schemars(range(min = 0, max = 1), example = 0.03)]
        warmup_ratio: Option<f64>,
    },
    /// Falls along half a cosine to the minimum at the last step; one of `min_lr` and `min_lr_ratio` is
    /// needed.
    CosineWithMinLr {
        /// Steps of warm-up; either this or `warmup_ratio`.
        #[schemars(extend("default" = defaults::WARMUP_STEPS), example = 100)]
        warmup_steps: Option<u64>,
        /// Warm-up as a part of all steps, rounded up.
        #[schemars(range(min = 0, max = 1), example = 0.03)]
        warmup_ratio: Option<f64>,
        /// Learning rate at the end, for a peak of `train.optimizer.lr` (others fall in proportion); either
        /// this or `min_lr_ratio`.
        #[schemars(range(min = 0), example = 1e-6)]
        min_lr: Option<f64>,
        /// Learning rate at the end as a part of the peak.
        #[schemars(range(min = 0, max = 1), example = 0.1)]
        min_lr_ratio: Option<f64>,
    },
    /// Stays at the peak, then falls in a line to the minimum (warmup-stable-decay); one of `decay_steps` and
    /// `decay_ratio` is needed.
    Wsd {
        /// Steps of warm-up; either this or `warmup_ratio`.
        #[schemars(extend("default" = defaults::WARMUP_STEPS), example = 100)]
        warmup_steps: Option<u64>,
        /// Warm-up as a part of all steps, rounded up.
        #[schemars(range(min = 0, max = 1), example = 0.03)]
        warmup_ratio: Option<f64>,
        /// Learning rate at the end, for a peak of `train.optimizer.lr` (others fall in proportion); either
        /// this or `min_lr_ratio`.
        #[schemars(range(min = 0), extend("default" = defaults::MIN_LR), example = 1e-6)]
        min_lr: Option<f64>,
        /// Learning rate at the end as a part of the peak.
        #[schemars(range(min = 0, max = 1), example = 0.1)]
        min_lr_ratio: Option<f64>,
        /// Steps of the fall; either this or `decay_ratio`.
        #[schemars(range(min = 1), example = 200)]
        decay_steps: Option<u64>,
        /// The fall as a part of all steps, rounded up.
        #[schemars(range(min = 0, max = 1), example = 0.2)]
        decay_ratio: Option<f64>,
    },
    /// `sqrt(timescale / (timescale + steps after warm-up))`.
    InverseSqrt {
        /// Steps of warm-up; either this or `warmup_ratio`.
        #[schemars(extend("default" = defaults::WARMUP_STEPS), example = 100)]
        warmup_steps: Option<u64>,
        /// Warm-up as a part of all steps, rounded up.
        #[schemars(range(min = 0, max = 1), example = 0.03)]
        warmup_ratio: Option<f64>,
        /// Steps after which the rate has fallen to 0.71 of the peak.
        #[serde(default = "defaults::timescale")]
        #[schemars(range(min = 1), example = 1000)]
        timescale: u64,
    },
}
