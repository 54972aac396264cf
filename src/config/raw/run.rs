//! `eval:`, `checkpoint:` and `track:`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::defaults;

/// How often something happens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum RawEvery {
    /// Only at the end of the run.
    Never,
    /// After each so many steps.
    Steps(#[schemars(range(min = 1))] u64),
    /// After each so many epochs.
    Epochs(#[schemars(range(min = 1))] u64),
    /// After each such part of all steps, rounded up.
    Ratio(#[schemars(extend("exclusiveMinimum" = 0, "maximum" = 1))] f64),
}

/// Held-out evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct RawEval {
    /// How often, besides once at the end of the run: `{steps: 200}`, `{epochs: 1}`, `{ratio: 0.1}` of all steps, or
    /// `never`.
    #[schemars(example = RawEvery::Steps(200))]
    pub every: RawEvery,
    /// Samples of one evaluation batch. Left out: `train.micro_batch_size`.
    #[schemars(range(min = 1), example = 64)]
    pub batch_size: Option<usize>,
    /// Whether answers are generated greedily and compared with the reference (`eval_exact_match`).
    #[schemars(example = true)]
    pub exact_match: bool,
    /// Answers generated at most in each evaluation during training; the last evaluation generates all. Left
    /// out: all. Needs `exact_match`.
    #[schemars(range(min = 1), example = 200)]
    pub max_generate_samples: Option<usize>,
    /// Longest generated answer, in tokens. Needs `exact_match`.
    #[schemars(range(min = 1), extend("default" = defaults::MAX_NEW_TOKENS), example = 16)]
    pub max_new_tokens: Option<usize>,
    /// By what the best checkpoint is chosen.
    pub best: RawBest,
    /// Ends the run when the best metric no longer improves.
    pub early_stopping: Option<RawEarlyStopping>,
}

/// By what the best checkpoint is chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct RawBest {
    /// Name of the metric.
    pub metric: RawMetric,
    /// Which way is better. Left out: the metric's own way.
    pub direction: Option<RawDirection>,
}

/// Metrics of the evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(in crate::config) enum RawMetric {
    /// Loss on one held-out token.
    #[serde(rename = "eval_loss")]
    Loss,
    /// Its exponential.
    #[serde(rename = "eval_perplexity")]
    Perplexity,
    /// Part of the answers that are exactly the reference; needs `exact_match`.
    #[serde(rename = "eval_exact_match")]
    ExactMatch,
    /// Part of the rows whose class is right; needs a classification head, as do those below.
    #[serde(rename = "eval_accuracy")]
    Accuracy,
    /// Mean over the classes of F1.
    #[serde(rename = "eval_macro_f1")]
    MacroF1,
    /// F1 of the second of two classes.
    #[serde(rename = "eval_f1")]
    F1,
    /// Area under the ROC curve of the second of two classes.
    #[serde(rename = "eval_auroc")]
    Auroc,
}

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum RawDirection {
    /// Smaller is better.
    Min,
    /// Larger is better.
    Max,
}

/// When the run ends early.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawEarlyStopping {
    /// Evaluations without improvement before the run ends.
    #[schemars(range(min = 1), example = 3)]
    pub patience: u32,
    /// An improvement smaller than this does not count.
    #[serde(default = "defaults::min_delta")]
    #[schemars(range(min = 0), example = 0.001)]
    pub min_delta: f64,
}

/// What is kept on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct RawCheckpoint {
    /// How often, besides once at the end and when the run is stopped: `{steps: 200}`, `{epochs: 1}`, `{ratio: 0.1}` of
    /// all steps, or `never`.
    #[schemars(example = RawEvery::Steps(200))]
    pub every: RawEvery,
    /// Which checkpoints stay; the others are deleted.
    pub keep: RawKeep,
    /// Where to begin: `auto` goes on from the newest checkpoint of `output` and starts afresh where there is
    /// none; `none` starts afresh and refuses an `output` that holds checkpoints; anything else is the folder
    /// of a checkpoint or of a run.
    #[schemars(example = "runs/first/checkpoints/step-00001000")]
    pub resume: String,
    /// Whether the model is written in Hugging Face's format to `<output>/export` at the end.
    #[schemars(example = false)]
    pub export: bool,
}

/// Which checkpoints stay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct RawKeep {
    /// The newest so many.
    #[schemars(range(min = 1), example = 5)]
    pub last: usize,
    /// The best so many by `eval.best`; needs evaluation data.
    #[schemars(extend("default" = defaults::KEEP_BEST), example = 2)]
    pub best: Option<usize>,
    /// Those whose step is a multiple of this, for ever; 1 keeps all.
    #[schemars(range(min = 1), example = 10000)]
    pub every: Option<u64>,
}

/// What is shown and logged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct RawTrack {
    /// What the console shows.
    pub console: RawConsole,
    /// Steps between two lines of `metrics.jsonl` and of the console.
    #[schemars(range(min = 1), example = 1)]
    pub log_every: u64,
    /// Whether TensorBoard event files are written to `<output>/tensorboard`.
    #[schemars(example = false)]
    pub tensorboard: bool,
    /// Peak of each device in TFLOP/s, as its data sheet has it for the precision without sparsity (A100 312, H100 989 in
    /// bf16). Each step then logs its utilisation, `mfu`.
    #[schemars(extend("exclusiveMinimum" = 0), example = 989)]
    pub peak_tflops: Option<f64>,
}

/// What the console shows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum RawConsole {
    /// `bar` on a terminal, `json` elsewhere.
    Auto,
    /// A progress bar.
    Bar,
    /// One JSON object per logged step.
    Json,
    /// Nothing.
    None,
}
