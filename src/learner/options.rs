//! What the learner needs to be told: plain structs, filled by the configuration.

use brazier_models::flops::Passes;

/// Which parts of the model move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrainMode {
    /// The projector alone (LLaVA's first stage).
    Alignment,
    /// Projector and language model; the vision tower rests.
    EndToEnd,
    /// The language model alone.
    LmOnly,
    /// Everything.
    Full,
}

impl TrainMode {
    /// How often the products of each part are made in a step. Weights beside which adapters are trained need no gradient.
    pub fn passes(self, has_adapters: bool) -> Passes {
        let trained = if has_adapters { 2.0 } else { 3.0 };
        let (vision, projector, language) = match self {
            Self::Alignment => (1.0, 3.0, 2.0),
            Self::EndToEnd => (1.0, 3.0, trained),
            Self::LmOnly => (1.0, 1.0, trained),
            Self::Full => (trained, 3.0, trained),
        };
        Passes {
            vision,
            projector,
            language,
        }
    }
}

/// Dtype of parameters and activations. Masters, moments, statistics and the loss are f32 in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// IEEE single precision.
    F32,
    /// bfloat16.
    Bf16,
}

/// Which activations the backward pass finds in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recompute {
    /// All: fastest, most memory.
    None,
    /// Only the inputs of blocks; everything inside a block is computed again. Same numbers, bit for bit.
    Blocks,
}

/// What of the training state each rank holds only its own part of (<https://arxiv.org/abs/1910.02054>). Changes memory and
/// time, no result beyond rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Zero {
    /// Nothing: each rank holds everything.
    #[default]
    None,
    /// Masters and moments.
    Optimizer,
    /// Sums of gradients too.
    Gradients,
    /// Parameters too.
    Parameters,
}

impl Zero {
    /// Whether masters and moments are in parts.
    pub fn splits_optimizer(self) -> bool {
        self >= Self::Optimizer
    }

    /// Whether gradients are in parts as soon as a micro-batch is done.
    pub fn splits_gradients(self) -> bool {
        self >= Self::Gradients
    }
}

/// How the ranks of a run share its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParallelConfig {
    /// What is in parts.
    pub zero: Zero,
    /// Whether masters and moments are in host memory, and updated there.
    pub offload: bool,
    /// Gradients travel in buckets of at least so many values.
    pub bucket_elements: usize,
    /// Ranks that hold one decoder together; what is above in parts is so among those that hold the same part of it.
    pub tensor: usize,
}

impl Default for ParallelConfig {
    fn default() -> Self {
        Self {
            zero: Zero::None,
            offload: false,
            // 16 MiB: large enough for the speed of a link, small enough to begin early.
            bucket_elements: 1 << 22,
            tensor: 1,
        }
    }
}

/// AdamW (Loshchilov and Hutter, <https://arxiv.org/abs/1711.05101>), PyTorch's update rule.
#[derive(Debug, Clone, PartialEq)]
pub struct OptimizerConfig {
    /// Peak learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay; never applied to biases and norm weights.
    pub weight_decay: f64,
    /// Peak learning rate of the projector, where it differs.
    pub projector_lr: Option<f64>,
    /// Peak learning rate of the vision tower, where it differs.
    pub vision_lr: Option<f64>,
    /// Peak learning rate of the language model, where it differs.
    pub language_lr: Option<f64>,
}

/// Shape of the learning rate after warm-up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ScheduleKind {
    /// Stays at the peak.
    Constant,
    /// Falls linearly to `min_factor` of the peak at the last step.
    Linear {
        /// Fraction of the peak at the end.
        min_factor: f64,
    },
    /// Half a cosine down to `min_factor` of the peak at the last step.
    Cosine {
        /// Fraction of the peak at the end.
        min_factor: f64,
    },
    /// Peak, then a linear fall to `min_factor` over the last `decay_steps` (warmup-stable-decay).
    Wsd {
        /// Steps of the final fall.
        decay_steps: u64,
        /// Fraction of the peak at the end.
        min_factor: f64,
    },
    /// `sqrt(timescale / (timescale + steps after warm-up))`.
    InverseSqrt {
        /// Steps after which the rate has fallen to `1/sqrt(2)`.
        timescale: u64,
    },
}

/// Warm-up and shape of the learning rate; the rate is a pure function of the step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScheduleConfig {
    /// Shape after warm-up.
    pub kind: ScheduleKind,
    /// Steps of linear rise from 0.
    pub warmup_steps: u64,
    /// Steps of the whole run.
    pub total_steps: u64,
}

/// How one step is made.
#[derive(Debug, Clone, PartialEq)]
pub struct StepConfig {
    /// Parts that move.
    pub mode: TrainMode,
    /// Compute dtype.
    pub precision: Precision,
    /// Activations kept.
    pub recompute: Recompute,
    /// Optimizer.
    pub optimizer: OptimizerConfig,
    /// Learning rate over steps.
    pub schedule: ScheduleConfig,
    /// Bound on the global gradient norm; `None` leaves gradients as they are.
    pub max_grad_norm: Option<f64>,
    /// Seed of what is drawn inside a step: the dropout in front of adapters.
    pub seed: u64,
}

/// When something recurs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Every {
    /// Never, except at the end of the run where that applies.
    Never,
    /// After each so many steps.
    Steps(u64),
    /// After each so many epochs.
    Epochs(u64),
    /// After each such part of the run's steps, rounded up.
    Ratio(f64),
}

impl Every {
    /// The number of steps that a part of the run is.
    pub fn steps_of(ratio: f64, total_steps: u64) -> u64 {
        // A third of 30 steps is 10, whatever the last bit says.
        ((ratio * total_steps as f64 - 1e-6).ceil() as u64).max(1)
    }
}

/// Which figure of the evaluation counts, and which way is up.
#[derive(Debug, Clone, PartialEq)]
pub struct BestMetric {
    /// Name as in metrics.jsonl: `eval_loss`, `eval_exact_match`, ….
    pub name: String,
    /// Whether larger is better.
    pub higher_is_better: bool,
}

/// Held-out evaluation during and after training.
#[derive(Debug, Clone, PartialEq)]
pub struct EvalConfig {
    /// How often besides the end of the run.
    pub every: Every,
    /// Rows of one evaluation batch.
    pub batch_size: usize,
    /// Whether answers are generated and compared.
    pub exact_match: bool,
    /// At most so many samples for exact match during training; the final evaluation takes all.
    pub max_generate_samples: Option<usize>,
    /// Longest generated answer, in tokens.
    pub max_new_tokens: usize,
    /// The metric by which a checkpoint is best.
    pub best: BestMetric,
    /// Evaluations without improvement before the run stops; `None` never stops.
    pub patience: Option<u32>,
    /// An improvement smaller than this does not count.
    pub min_delta: f64,
}

/// The run as the learner sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct RunOptions {
    /// How one step is made.
    pub step: StepConfig,
    /// Steps of the whole run.
    pub total_steps: u64,
    /// Steps of one epoch.
    pub steps_per_epoch: u64,
    /// A line in the log each so many steps.
    pub log_every: u64,
    /// A checkpoint this often.
    pub save_every: Every,
    /// Evaluation.
    pub eval: EvalConfig,
    /// Seed of everything drawn in the run.
    pub seed: u64,
    /// What a device could do at most, in TFLOP/s, for its utilisation.
    pub peak_tflops: Option<f64>,
}
