//! What the program uses: the rooms' own structs, filled, as far as the file alone tells.

use std::{path::PathBuf, time::Duration};

use brazier_models::{FeatureSelect, LoraConfig, LoraParts, ProjectorKind, VlmConfig, ops::Bodies};

use super::{raw::RawConfig, written::Written};
use crate::{
    checkpoint::{KeepOptions, Ranking, Resume},
    data::{DataOptions, synth::SynthOptions},
    device_choice::DeviceChoice,
    hub::ResizeOptions,
    learner::options::{EvalConfig, Every, OptimizerConfig, ParallelConfig, Precision, Recompute, TrainMode},
    parallel::World,
    track::TrackOptions,
};

/// A run, as far as it is known without its data.
#[derive(Debug, Clone, PartialEq)]
pub struct RunConfig {
    /// The run directory.
    pub output: PathBuf,
    /// Where to compute.
    pub device: DeviceChoice,
    /// Seed of everything drawn in the run.
    pub seed: u64,
    /// Where the model comes from.
    pub model: ModelChoice,
    /// The token of the tokenizer that stands for an image; `None` for that of an imported model, or `<image>`.
    pub image_token: Option<String>,
    /// How an imported model's vocabulary grows; `None` if it must not.
    pub resize_vocabulary: Option<ResizeOptions>,
    /// Adapters that are trained in the place of the model's weights.
    pub lora: Option<LoraChoice>,
    /// What the model is for.
    pub head: HeadChoice,
    /// The data set that is drawn before training.
    pub synth: Option<SynthChoice>,
    /// Files, tokenizer, lengths, order and threads.
    pub data: DataOptions,
    /// How to train.
    pub train: TrainChoice,
    /// Held-out evaluation; `every` is `Never` without evaluation files.
    pub eval: EvalConfig,
    /// Checkpoints and export.
    pub checkpoint: CheckpointChoice,
    /// Metrics and console.
    pub track: TrackOptions,
    /// Steps between two lines of the log.
    pub log_every: u64,
    /// Peak of each device in TFLOP/s.
    pub peak_tflops: Option<f64>,
    /// The ranks of the run, and which of them this is.
    pub world: World,
    /// How the ranks share the run.
    pub parallel: ParallelChoice,
    pub(super) raw: RawConfig,
    pub(super) written: Written,
}

/// How the ranks share a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ParallelChoice {
    /// Ranks that this process starts; 1 if a launcher has.
    pub devices: usize,
    /// What is in parts.
    pub learner: ParallelConfig,
    /// How tensors travel between ranks.
    pub transport: Transport,
    /// How long a rank waits for the others.
    pub timeout: Duration,
}

/// The way of tensors from rank to rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// [`Transport::Nccl`] where several ranks compute on CUDA devices, else [`Transport::Host`].
    Auto,
    /// From GPU to GPU, by NVIDIA's library.
    Nccl,
    /// Through host memory.
    Host,
}

/// Where the model comes from.
#[derive(Debug, Clone, PartialEq)]
pub enum ModelChoice {
    /// A folder in Hugging Face's format.
    Import(PathBuf),
    /// A language model and a vision tower in Hugging Face's format, and a random projector between them.
    Join(JoinedModel),
    /// A model with random weights.
    New(Box<NewModel>),
}

/// A vision-language model of two imported parts.
#[derive(Debug, Clone, PartialEq)]
pub struct JoinedModel {
    /// Folder of the language model.
    pub language: PathBuf,
    /// Folder of the vision tower.
    pub vision: PathBuf,
    /// What turns image features into token embeddings.
    pub projector: ProjectorKind,
    /// Hidden state of the tower that is used.
    pub vision_feature_layer: i64,
    /// Tokens of the tower that are used.
    pub vision_feature_select: Option<FeatureSelect>,
    /// Whether the tower's last norm is applied to it.
    pub vision_post_layernorm: bool,
}

/// What the model is for.
#[derive(Debug, Clone, PartialEq)]
pub enum HeadChoice {
    /// What an imported model has; the next token for a new one.
    Own,
    /// The next token.
    Lm,
    /// Classes of rows.
    Classification {
        /// Their names, if the run says them.
        labels: Option<Vec<String>>,
        /// Factors of their losses.
        class_weights: Option<Vec<f32>>,
    },
}

/// Where adapters come from.
#[derive(Debug, Clone, PartialEq)]
pub enum LoraChoice {
    /// A folder in PEFT's format.
    Import(PathBuf),
    /// Fresh ones, but for what only the model knows; see [`RunConfig::lora_config`].
    New {
        /// With parts that stand for nothing if `parts` is `None`.
        config: LoraConfig,
        /// The parts that were asked for.
        parts: Option<LoraParts>,
    },
}

/// A model with random weights, but for what only the tokenizer knows; see [`RunConfig::model_config`].
#[derive(Debug, Clone, PartialEq)]
pub struct NewModel {
    /// With a vocabulary and an image token id that stand for nothing yet.
    pub(super) config: VlmConfig,
    pub(super) vocab_size: Option<usize>,
}

/// The data set of coloured shapes, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SynthChoice {
    /// Folder.
    pub dir: PathBuf,
    /// What is drawn.
    pub options: SynthOptions,
}

/// How to train, before the number of steps is known.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainChoice {
    /// Parts that move.
    pub mode: TrainMode,
    /// Compute dtype.
    pub precision: Precision,
    /// Activations kept.
    pub recompute: Recompute,
    /// What else may become of [`TrainChoice::recompute`].
    pub auto_recompute: Option<AutoRecompute>,
    /// Bytes for features of images that a resting vision tower makes, 0 for none; as many as seem right if the user has not
    /// said.
    pub vision_cache: Option<u64>,
    /// Bodies of the models' operations.
    pub ops: Bodies,
    /// Optimizer.
    pub optimizer: OptimizerConfig,
    /// Bound on the global gradient norm.
    pub max_grad_norm: Option<f64>,
    /// Samples of one forward pass on one rank.
    pub micro_batch_size: usize,
    /// Micro-batches of one step on one rank.
    pub accumulation: usize,
    /// Length of the run.
    pub length: Length,
    /// Learning rate over steps.
    pub schedule: ScheduleChoice,
}

/// Activations are kept if there is memory for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AutoRecompute {
    /// Bytes of each device, if the user has said.
    pub memory: Option<u64>,
}

/// Length of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Length {
    /// In optimizer steps.
    Steps(u64),
    /// In passes over the training data.
    Epochs(f64),
}

/// A learning rate schedule whose parts may be relative to the length of the run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScheduleChoice {
    /// Steps of linear rise.
    pub warmup: Part,
    /// What follows.
    pub shape: Shape,
}

/// A number of steps, or a part of all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Part {
    /// So many.
    Steps(u64),
    /// Rounded up.
    Ratio(f64),
}

/// Shape after warm-up; see [`crate::learner::options::ScheduleKind`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shape {
    /// As [`crate::learner::options::ScheduleKind::Constant`].
    Constant,
    /// As [`crate::learner::options::ScheduleKind::Linear`].
    Linear {
        /// Fraction of the peak at the end.
        min_factor: f64,
    },
    /// As [`crate::learner::options::ScheduleKind::Cosine`].
    Cosine {
        /// Fraction of the peak at the end.
        min_factor: f64,
    },
    /// As [`crate::learner::options::ScheduleKind::Wsd`].
    Wsd {
        /// The final fall.
        decay: Part,
        /// Fraction of the peak at the end.
        min_factor: f64,
    },
    /// As [`crate::learner::options::ScheduleKind::InverseSqrt`].
    InverseSqrt {
        /// Steps after which the rate has fallen to `1/sqrt(2)`.
        timescale: u64,
    },
}

/// Checkpoints and export.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckpointChoice {
    /// How often besides the end of the run.
    pub every: Every,
    /// Which stay.
    pub keep: KeepOptions,
    /// Which is best.
    pub ranking: Ranking,
    /// Where to begin.
    pub resume: Resume,
    /// Whether the model is exported at the end.
    pub export: bool,
}

impl RunConfig {
    /// The same run for another of its ranks.
    #[must_use]
    pub fn for_rank(&self, rank: usize) -> Self {
        let World { size, .. } = self.world;
        Self {
            world: World { rank, size },
            ..self.clone()
        }
    }
}
