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
    /// Held-out evaluation; needs evaluation data.
    pub eval: Option<RawEval>,
    /// What is kept on disk.
    #[serde(default)]
    pub checkpoint: RawCheckpoint,
    /// What is shown and logged.
    #[serde(default)]
    pub track: RawTrack,
}

/// The model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawModel {
    /// Folder of a model in Hugging Face's format; its `config.json` says everything about the architecture. Here and
    /// wherever a model's folder is named, a name of the Hugging Face hub (`Qwen/Qwen3-8B`, `Qwen/Qwen3-8B@REVISION`) is
    /// looked up in the hub's cache (`HF_HUB_CACHE`, `HF_HOME`).
    #[schemars(example = "models/llava-1.5-7b-hf")]
    pub from: Option<PathBuf>,
    /// Language model of a new vision-language model: a folder with a decoder in Hugging Face's format. Goes with
    /// `vision_from`; `projector` is drawn at random between them.
    #[schemars(example = "Qwen/Qwen3-0.6B")]
    pub language_from: Option<PathBuf>,
    /// Vision tower of a new vision-language model: a folder with a CLIP vision tower, or with a whole CLIP model, of
    /// which the tower is taken. Goes with `language_from`.
    #[schemars(example = "openai/clip-vit-large-patch14-336")]
    pub vision_from: Option<PathBuf>,
    /// Folder with `tokenizer.json`. Left out: `model.from`, `model.language_from`, or the folder of `data.synth`.
    #[schemars(example = "models/llava-1.5-7b-hf")]
    pub tokenizer: Option<PathBuf>,
    /// More rows for the vocabulary of the model in `model.from` or `model.language_from`, for a tokenizer that has been given more tokens; old rows
    /// stay as they are, and there are never fewer. Left out: such a tokenizer is an error.
    pub resize_vocabulary: Option<RawResizeVocabulary>,
    /// A fresh language model: a decoder of one of the families that `model_type` lists.
    pub language: Option<RawLanguage>,
    /// A fresh vision tower (CLIP's ViT). Left out: a model without eyes.
    pub vision: Option<RawVision>,
    /// How image features become token embeddings. Left out: `mlp`.
    pub projector: Option<RawProjector>,
    /// The hidden state of the vision tower that is used: -1 is the last block's output, -2 the one before, 0
    /// the embeddings.
    #[schemars(extend("default" = defaults::VISION_FEATURE_LAYER), example = -2)]
    pub vision_feature_layer: Option<i64>,
    /// The vision tower's tokens that are used.
    #[schemars(extend("default" = "default"))]
    pub vision_feature_select: Option<RawFeatureSelect>,
    /// Low-rank adapters (LoRA) instead of the weights themselves: what `train.mode` trains of the language model and of
    /// the vision tower rests, and adapters on it are trained; the projector is trained in full. Needs `from`. The export
    /// is a folder that PEFT loads; `brazier model merge` folds it into the base model.
    pub lora: Option<RawLora>,
    /// What the model is for. Left out: what `from` has, and the next token for a new model.
    pub head: Option<RawHead>,
}

/// The output of the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum RawHead {
    /// The next token.
    Lm {},
    /// The class of a row, read at its last token (Hugging Face's `*ForSequenceClassification`). The rows are
    /// `{"text": …, "label": …}` or `{"input_ids": […], "label": …}`, the label being a class's name or id. A language
    /// model gets a fresh head; one with a head of this kind brings its own classes.
    Classification {
        /// Names of the classes, in the order of their ids.
        #[schemars(extend("examples" = [["negative", "positive"]]))]
        labels: Option<Vec<String>>,
        /// Number of classes without names; either this or `labels`.
        #[schemars(range(min = 2), example = 2)]
        num_labels: Option<usize>,
        /// A factor for the losses of each class. The loss is divided by the sum of the factors of its rows.
        #[schemars(extend("examples" = [[1.0, 4.0]]))]
        class_weights: Option<Vec<f32>>,
    },
}

/// Adapters, in PEFT's terms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLora {
    /// Folder of adapters in PEFT's format to go on from; it says everything that the other keys say.
    #[schemars(example = "runs/first/export")]
    pub from: Option<PathBuf>,
    /// Rank of the adapters.
    #[schemars(range(min = 1), extend("default" = defaults::LORA_R), example = 32)]
    pub r: Option<usize>,
    /// The update is scaled by `alpha / r`.
    #[schemars(extend("exclusiveMinimum" = 0, "default" = defaults::LORA_ALPHA), example = 16.0)]
    pub alpha: Option<f64>,
    /// Part of an adapter's inputs that is zeroed in training.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1, "default" = defaults::LORA_DROPOUT), example = 0.05)]
    pub dropout: Option<f64>,
    /// Whether the update is scaled by `alpha / sqrt(r)` instead.
    #[schemars(extend("default" = false), example = true)]
    pub rslora: Option<bool>,
    /// Names of the linear layers that get an adapter, as they end (`q_proj`) or in full; `[all-linear]` means every
    /// linear layer but projector and heads.
    #[schemars(
        extend("default" = [defaults::ALL_LINEAR]),
        extend("examples" = [["q_proj", "v_proj"]])
    )]
    pub target_modules: Option<Vec<String>>,
    /// Where these layers are. Left out: in all parts that `train.mode` trains.
    pub parts: Option<RawLoraParts>,
}

/// Parts of the model with adapters.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawLoraParts {
    /// The language model.
    Language,
    /// The vision tower.
    Vision,
    /// Both.
    Both,
}

/// Fresh rows of the embedding table and of the output projection, in the names of transformers'
/// `resize_token_embeddings`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawResizeVocabulary {
    /// The number of rows becomes a multiple of this; some matrix units are faster then. Left out: as many rows as the
    /// model has or the tokenizer needs.
    #[schemars(range(min = 1), example = 64)]
    pub pad_to_multiple_of: Option<usize>,
    /// Whether fresh rows lie around the mean of the old ones, with a billionth of their covariance, so that a new token is
    /// as likely as an average one. Otherwise they are drawn from `N(0, initializer_range²)`.
    #[serde(default = "defaults::mean_resizing")]
    #[schemars(example = false)]
    pub mean_resizing: bool,
}

/// A decoder, in Hugging Face's names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLanguage {
    /// The family: what the exported folder is, and what the keys below may say. Left out: `qwen3` with `qk_norm: true`,
    /// else `llama`.
    pub model_type: Option<RawModelType>,
    /// Rows of the embedding table, at least as many as the tokenizer has tokens. Left out: as many.
    #[schemars(range(min = 1), example = 32064)]
    pub vocab_size: Option<usize>,
    /// Width of the residual stream.
    #[schemars(range(min = 1), example = 128)]
    pub hidden_size: usize,
    /// Width inside the MLP.
    #[schemars(range(min = 1), example = 352)]
    pub intermediate_size: usize,
    /// Number of blocks.
    #[schemars(range(min = 1), example = 3)]
    pub num_hidden_layers: usize,
    /// Query heads.
    #[schemars(range(min = 1), example = 4)]
    pub num_attention_heads: usize,
    /// Key and value heads; divides `num_attention_heads`. Left out: as many as query heads.
    #[schemars(range(min = 1), example = 2)]
    pub num_key_value_heads: Option<usize>,
    /// Width of one head, even. Left out: `hidden_size / num_attention_heads`.
    #[schemars(range(min = 2), example = 32)]
    pub head_dim: Option<usize>,
    /// Epsilon inside the root of RMSNorm.
    #[serde(default = "defaults::rms_norm_eps")]
    #[schemars(extend("exclusiveMinimum" = 0), example = 1e-5)]
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    #[serde(default = "defaults::rope_theta")]
    #[schemars(extend("exclusiveMinimum" = 0), example = 500000.0)]
    pub rope_theta: f64,
    /// What is done to the rotary frequencies for texts longer than those of the first training. Left out: nothing.
    pub rope_scaling: Option<RawRopeScaling>,
    /// Longest sequence the model accepts, in tokens; `rope_scaling` of type `linear` and `yarn` multiplies it.
    #[schemars(range(min = 1), example = 256)]
    pub max_position_embeddings: usize,
    /// Whether the output projection is the embedding table.
    #[serde(default = "defaults::tie_word_embeddings")]
    #[schemars(example = true)]
    pub tie_word_embeddings: bool,
    /// Biases of the attention projections: all four (`llama`, `qwen3`, `apertus`), or queries, keys and values (`qwen2`,
    /// always). Left out: `true` for `qwen2`, else `false`.
    #[schemars(example = true)]
    pub attention_bias: Option<bool>,
    /// RMSNorm over each query and key head. Left out: `true` for `qwen3` and `apertus`, else `false`.
    #[schemars(example = true)]
    pub qk_norm: Option<bool>,
    /// Tokens that a token sees, itself among them (`mistral`, `qwen2`, `qwen3`). Left out: all before it.
    #[schemars(range(min = 1), example = 4096)]
    pub sliding_window: Option<usize>,
    /// The blocks before this one have no `sliding_window` (`qwen2`, `qwen3`). Left out: all blocks have it.
    #[schemars(extend("default" = defaults::MAX_WINDOW_LAYERS), example = 21)]
    pub max_window_layers: Option<usize>,
    /// Biases of the MLP's projections (`llama`). Left out: `false`.
    #[schemars(example = true)]
    pub mlp_bias: Option<bool>,
    /// Standard deviation of freshly drawn weights.
    #[serde(default = "defaults::initializer_range")]
    #[schemars(range(min = 0), example = 0.02)]
    pub initializer_range: f64,
}

/// Families of language models.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawModelType {
    /// Llama, SmolLM2, llm-jp-3.
    Llama,
    /// Mistral 7B.
    Mistral,
    /// Qwen2, Qwen2.5: biases of queries, keys and values.
    Qwen2,
    /// Qwen3: norms of queries and keys.
    Qwen3,
    /// Apertus: norms of queries and keys, xIELU instead of a gated MLP.
    Apertus,
}

/// Scaling of rotary frequencies, in Hugging Face's names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "rope_type", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum RawRopeScaling {
    /// All frequencies are divided.
    Linear {
        /// By this.
        #[schemars(range(min = 1), example = 4.0)]
        factor: f64,
    },
    /// Llama 3.1: low frequencies are divided.
    Llama3 {
        /// By this.
        #[schemars(range(min = 1), example = 8.0)]
        factor: f64,
        /// Frequencies that turn less often over the original context are divided.
        #[serde(default = "defaults::low_freq_factor")]
        #[schemars(extend("exclusiveMinimum" = 0), example = 1.0)]
        low_freq_factor: f64,
        /// Frequencies that turn more often over the original context are kept.
        #[serde(default = "defaults::high_freq_factor")]
        #[schemars(extend("exclusiveMinimum" = 0), example = 4.0)]
        high_freq_factor: f64,
        /// Context of the first training, in tokens.
        #[schemars(range(min = 1), example = 8192)]
        original_max_position_embeddings: usize,
    },
    /// YaRN: low frequencies are divided, cosines and sines grow a little.
    Yarn {
        /// By this.
        #[schemars(range(min = 1), example = 4.0)]
        factor: f64,
        /// Context of the first training, in tokens.
        #[schemars(range(min = 1), example = 32768)]
        original_max_position_embeddings: usize,
        /// Multiplies cosines and sines. Left out: follows from the factor and the two `mscale`s.
        #[schemars(extend("exclusiveMinimum" = 0), example = 1.1)]
        attention_factor: Option<f64>,
        /// Frequencies that turn more often over the original context are kept.
        #[serde(default = "defaults::beta_fast")]
        #[schemars(extend("exclusiveMinimum" = 0), example = 32.0)]
        beta_fast: f64,
        /// Frequencies that turn less often over the original context are divided.
        #[serde(default = "defaults::beta_slow")]
        #[schemars(extend("exclusiveMinimum" = 0), example = 1.0)]
        beta_slow: f64,
        /// Numerator of the attention factor; counts only together with `mscale_all_dim`.
        #[schemars(extend("exclusiveMinimum" = 0), example = 1.0)]
        mscale: Option<f64>,
        /// Denominator of the attention factor.
        #[schemars(extend("exclusiveMinimum" = 0), example = 0.8)]
        mscale_all_dim: Option<f64>,
        /// Whether the ramp between kept and divided frequencies ends at whole dimensions.
        #[serde(default = "defaults::truncate")]
        #[schemars(example = false)]
        truncate: bool,
    },
}

/// A CLIP vision tower, in Hugging Face's names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawVision {
    /// Width of the residual stream.
    #[schemars(range(min = 1), example = 96)]
    pub hidden_size: usize,
    /// Width inside the MLP.
    #[schemars(range(min = 1), example = 256)]
    pub intermediate_size: usize,
    /// Number of blocks.
    #[schemars(range(min = 1), example = 3)]
    pub num_hidden_layers: usize,
    /// Attention heads; divides `hidden_size`.
    #[schemars(range(min = 1), example = 4)]
    pub num_attention_heads: usize,
    /// Side of the square input, in pixels; a multiple of `patch_size`.
    #[schemars(range(min = 1), example = 48)]
    pub image_size: usize,
    /// Side of a patch, in pixels.
    #[schemars(range(min = 1), example = 8)]
    pub patch_size: usize,
    /// Epsilon inside the root of LayerNorm.
    #[serde(default = "defaults::layer_norm_eps")]
    #[schemars(extend("exclusiveMinimum" = 0), example = 1e-6)]
    pub layer_norm_eps: f64,
    /// Activation of the MLP.
    #[serde(default = "defaults::hidden_act")]
    pub hidden_act: RawVisionActivation,
    /// Standard deviation of freshly drawn weights.
    #[serde(default = "defaults::initializer_range")]
    #[schemars(range(min = 0), example = 0.02)]
    pub initializer_range: f64,
}

/// Activation of the vision tower's MLP.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawVisionActivation {
    /// `x * sigmoid(1.702 x)`, as OpenAI's CLIP was trained.
    QuickGelu,
    /// Exact GELU.
    Gelu,
}

/// The projector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum RawProjector {
    /// One linear layer.
    Linear {},
    /// Linear, GELU, linear (LLaVA-1.5).
    Mlp {},
    /// `factor × factor` neighbouring patches become one token, then one linear layer.
    PixelShuffle {
        /// Side of the block of patches that becomes one token; divides the patch grid's side.
        #[schemars(range(min = 1), example = 2)]
        factor: usize,
    },
}

/// Tokens of the vision tower.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawFeatureSelect {
    /// Patches only.
    Default,
    /// Class token and patches.
    Full,
}

/// What to train and to evaluate on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawData {
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
pub(super) struct RawSynth {
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
pub(super) struct RawRows {
    /// JSONL file of chat rows, `{"messages": […], "images": […]}`; image paths are relative to it. For a classification
    /// head see `model.head`.
    #[schemars(example = "data/train.jsonl")]
    pub path: PathBuf,
}

/// What happens to a sample that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawTooLong {
    /// Left out, and counted in the log.
    Drop,
    /// Cut at the end, and counted in the log; an image is never cut.
    Truncate,
    /// The run stops and names it.
    Error,
}

/// How to train.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTrain {
    /// Which parts of the model learn.
    #[serde(default = "defaults::mode")]
    pub mode: RawMode,
    /// Length of the run in passes over the training data; either this or `steps`.
    #[schemars(extend("exclusiveMinimum" = 0), example = 3)]
    pub epochs: Option<f64>,
    /// Length of the run in optimizer steps; either this or `epochs`.
    #[schemars(range(min = 1), example = 1000)]
    pub steps: Option<u64>,
    /// Samples in one forward pass on one device.
    #[serde(default = "defaults::micro_batch_size")]
    #[schemars(range(min = 1), example = 32)]
    pub micro_batch_size: usize,
    /// Micro-batches of one optimizer step; either this or `global_batch_size`.
    #[schemars(range(min = 1), extend("default" = defaults::ACCUMULATION), example = 4)]
    pub accumulation: Option<usize>,
    /// Samples of one optimizer step over all devices; gives `accumulation`.
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
    /// Number format of parameters and activations. Optimizer, norms and loss are f32 in any case.
    #[serde(default = "defaults::precision")]
    pub precision: RawPrecision,
    /// Whether activations are kept for the backward pass or computed again. Changes memory and time, no
    /// result.
    #[serde(default = "defaults::recompute")]
    pub recompute: RawRecompute,
}

/// Which parts of the model learn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawMode {
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
pub(super) enum RawPrecision {
    /// 32 bits.
    F32,
    /// bfloat16, with f32 masters in the optimizer.
    Bf16,
}

/// What the backward pass computes again.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawRecompute {
    /// Nothing: fastest, most memory.
    None,
    /// The inside of each block: a third more time, far less memory.
    Blocks,
}

/// The optimizer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOptimizer {
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
pub(super) enum RawOptimizerName {
    /// Adam with decoupled weight decay.
    Adamw,
}

/// Parts of the model with a learning rate of their own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawGroups {
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
pub(super) struct RawGroup {
    /// Peak learning rate of this part.
    #[schemars(extend("exclusiveMinimum" = 0), example = 1e-3)]
    pub lr: f64,
}

/// The learning rate over steps. In every shape warm-up is a linear rise from 0, given in steps or as a part
/// of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "name", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum RawSchedule {
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

/// How often something happens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawEvery {
    /// Only at the end of the run.
    Never,
    /// After each so many steps.
    Steps(#[schemars(range(min = 1))] u64),
    /// After each so many epochs.
    Epochs(#[schemars(range(min = 1))] u64),
}

/// Held-out evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawEval {
    /// How often, besides once at the end of the run: `{steps: 200}`, `{epochs: 1}` or `never`.
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
pub(super) struct RawBest {
    /// Name of the metric.
    pub metric: RawMetric,
    /// Which way is better. Left out: the metric's own way.
    pub direction: Option<RawDirection>,
}

/// Metrics of the evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub(super) enum RawMetric {
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
pub(super) enum RawDirection {
    /// Smaller is better.
    Min,
    /// Larger is better.
    Max,
}

/// When the run ends early.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEarlyStopping {
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
pub(super) struct RawCheckpoint {
    /// How often, besides once at the end and when the run is stopped: `{steps: 200}`, `{epochs: 1}` or
    /// `never`.
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
pub(super) struct RawKeep {
    /// The newest so many.
    #[schemars(range(min = 1), example = 5)]
    pub last: usize,
    /// The best so many by `eval.best`; needs evaluation data.
    #[schemars(extend("default" = defaults::KEEP_BEST), example = 2)]
    pub best: Option<usize>,
    /// Those whose step is a multiple of this, for ever.
    #[schemars(range(min = 1), example = 10000)]
    pub every: Option<u64>,
}

/// What is shown and logged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RawTrack {
    /// What the console shows.
    pub console: RawConsole,
    /// Steps between two lines of `metrics.jsonl` and of the console.
    #[schemars(range(min = 1), example = 1)]
    pub log_every: u64,
    /// Whether TensorBoard event files are written to `<output>/tensorboard`.
    #[schemars(example = false)]
    pub tensorboard: bool,
}

/// What the console shows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawConsole {
    /// `bar` on a terminal, `json` elsewhere.
    Auto,
    /// A progress bar.
    Bar,
    /// One JSON object per logged step.
    Json,
    /// Nothing.
    None,
}
