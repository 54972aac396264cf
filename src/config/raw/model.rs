//! `model:`.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::defaults;

/// The model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawModel {
    /// Folder of a model in Hugging Face's format; its `config.json` says everything about the architecture. Here and
    /// wherever a model's folder is named, a name of the Hugging Face hub (`Qwen/Qwen3-8B`, `Qwen/Qwen3-8B@REVISION`) is
    /// looked up in the hub's cache (`HF_HUB_CACHE`, `HF_HOME`).
    #[schemars(example = "models/llava-1.5-7b-hf")]
    pub from: Option<PathBuf>,
    /// Language model of a new vision-language model: a folder with a decoder in Hugging Face's format. Goes with
    /// `vision_from`; `projector` is drawn at random between them.
    #[schemars(example = "Qwen/Qwen3-0.6B")]
    pub language_from: Option<PathBuf>,
    /// Vision tower of a new vision-language model: a folder with a vision tower of CLIP or SigLIP, or with a whole model
    /// of theirs, of which the tower is taken. Goes with `language_from`.
    #[schemars(example = "openai/clip-vit-large-patch14-336")]
    pub vision_from: Option<PathBuf>,
    /// Folder with `tokenizer.json`. Left out: `model.from`, `model.language_from`, or the folder of `data.synth`.
    #[schemars(example = "models/llava-1.5-7b-hf")]
    pub tokenizer: Option<PathBuf>,
    /// The token that stands for an image in this tokenizer, such as `<|image_pad|>` or a reserved one. What stands for an
    /// image in rows is another matter: `data.train[].image_token`. Left out: the own one of the model in `from`, or else
    /// `<image>`. A tokenizer that has none gets it with `brazier model init --add-image-token`.
    #[schemars(example = "<|reserved_special_token_0|>")]
    pub image_token: Option<String>,
    /// More rows for the vocabulary of the model in `model.from` or `model.language_from`, for a tokenizer that has been given more tokens; old rows
    /// stay as they are, and there are never fewer. Left out: such a tokenizer is an error.
    pub resize_vocabulary: Option<RawResizeVocabulary>,
    /// A fresh language model: a decoder of one of the families that `model_type` lists.
    pub language: Option<RawLanguage>,
    /// A fresh vision tower of one of the families that `model_type` lists. Left out: a model without eyes.
    pub vision: Option<RawVision>,
    /// How image features become token embeddings. Left out: `mlp`.
    pub projector: Option<RawProjector>,
    /// The hidden state of the vision tower that is used: -1 is the last block's output, -2 the one before, 0
    /// the embeddings.
    #[schemars(extend("default" = defaults::VISION_FEATURE_LAYER), example = -2)]
    pub vision_feature_layer: Option<i64>,
    /// The vision tower's tokens that are used. Left out: the patches (`default` for CLIP, `full` for SigLIP).
    pub vision_feature_select: Option<RawFeatureSelect>,
    /// Whether the tower's last norm is applied to the last hidden state, as MultiMeditron does with SigLIP; LLaVA never does.
    #[schemars(extend("default" = false), example = true)]
    pub vision_post_layernorm: Option<bool>,
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
pub(in crate::config) enum RawHead {
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
pub(in crate::config) struct RawLora {
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
pub(in crate::config) enum RawLoraParts {
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
pub(in crate::config) struct RawResizeVocabulary {
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
pub(in crate::config) struct RawLanguage {
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
pub(in crate::config) enum RawModelType {
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
pub(in crate::config) enum RawRopeScaling {
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

/// A vision tower, in Hugging Face's names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawVision {
    /// The family.
    #[serde(default = "defaults::vision_model_type")]
    pub model_type: RawVisionModelType,
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
    /// Epsilon inside the root of LayerNorm. Left out: 1e-5 for `clip`, 1e-6 for `siglip`.
    #[schemars(extend("exclusiveMinimum" = 0), example = 1e-6)]
    pub layer_norm_eps: Option<f64>,
    /// Activation of the MLP. Left out: `quick_gelu` for `clip`, `gelu_pytorch_tanh` for `siglip`.
    pub hidden_act: Option<RawVisionActivation>,
    /// Standard deviation of freshly drawn weights.
    #[serde(default = "defaults::initializer_range")]
    #[schemars(range(min = 0), example = 0.02)]
    pub initializer_range: f64,
}

/// Families of vision towers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum RawVisionModelType {
    /// CLIP: a class token before the patches.
    Clip,
    /// SigLIP, and SigLIP 2 of a fixed resolution: patches alone.
    Siglip,
}

/// Activation of the vision tower's MLP.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum RawVisionActivation {
    /// `x * sigmoid(1.702 x)`, as OpenAI's CLIP was trained.
    QuickGelu,
    /// Exact GELU.
    Gelu,
    /// GELU with tanh, as SigLIP was trained.
    GeluPytorchTanh,
}

/// The projector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(in crate::config) enum RawProjector {
    /// One linear layer.
    Linear {},
    /// Linear, GELU, linear (LLaVA-1.5).
    Mlp {},
    /// Linear to the tower's own width, GELU, linear, GELU, linear (MultiMeditron).
    Mlp3 {},
    /// `factor × factor` neighbouring patches become one token with all their numbers, then one linear layer.
    PixelShuffle {
        /// Side of the block of patches that becomes one token; divides the patch grid's side.
        #[schemars(range(min = 1), example = 2)]
        factor: usize,
    },
    /// `kernel × kernel` neighbouring patches become one token, their mean, then one linear layer.
    AveragePool {
        /// Side of the block of patches that becomes one token; divides the patch grid's side.
        #[schemars(range(min = 1), example = 2)]
        kernel: usize,
    },
}

/// Tokens of the vision tower.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum RawFeatureSelect {
    /// Without the class token, in a tower that has one.
    Default,
    /// All.
    Full,
}
