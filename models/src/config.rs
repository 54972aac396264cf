//! Shapes and kinds of the models, as plain numbers. Field names are those of Hugging Face's `config.json`.

mod vision;

use burn::tensor::Device;
use thiserror::Error;

pub use self::vision::{
    FeatureSelect, ProjectorKind, VisionActivation, VisionConfig, VisionLanguageConfig, VisionModelType,
};

use crate::{
    ops::{AttentionMask, RopeTable},
    rope::RopeScaling,
};

/// A configuration no model can be built from.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{key} = {value}: {reason}")]
pub struct ModelConfigError {
    /// Key in Hugging Face's spelling, with the part it belongs to (`text_config.num_attention_heads`).
    pub key: String,
    /// The offending value.
    pub value: String,
    /// Why it cannot work and what would.
    pub reason: String,
}

pub(crate) fn refuse(key: &str, value: impl ToString, reason: impl Into<String>) -> ModelConfigError {
    ModelConfigError {
        key: key.into(),
        value: value.to_string(),
        reason: reason.into(),
    }
}

/// Families of language models: whose files a decoder has. What it computes is in the other fields of
/// [`DecoderConfig`], and [`DecoderConfig::check_family`] says which of them a family has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LanguageModelType {
    /// Llama 1 to 3.3 and what has its architecture (SmolLM2, llm-jp-3, Vicuna).
    Llama,
    /// Mistral 7B and its kin.
    Mistral,
    /// Qwen2 and Qwen2.5.
    Qwen2,
    /// Qwen3, dense.
    Qwen3,
    /// Apertus.
    Apertus,
}

impl LanguageModelType {
    /// All of them.
    pub const ALL: [Self; 5] = [
        LanguageModelType::Llama,
        LanguageModelType::Mistral,
        LanguageModelType::Qwen2,
        LanguageModelType::Qwen3,
        LanguageModelType::Apertus,
    ];

    /// As `model_type` in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            LanguageModelType::Llama => "llama",
            LanguageModelType::Mistral => "mistral",
            LanguageModelType::Qwen2 => "qwen2",
            LanguageModelType::Qwen3 => "qwen3",
            LanguageModelType::Apertus => "apertus",
        }
    }
}

/// Which attention projections have biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionBias {
    /// None.
    None,
    /// Queries, keys and values (Qwen2).
    Qkv,
    /// Queries, keys, values and output.
    All,
}

/// The feed-forward part of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MlpKind {
    /// `down(silu(gate(x)) · up(x))`
    SwiGlu,
    /// `down(xielu(up(x)))`, see [`crate::ops::xielu`].
    Xielu,
}

/// Attention to the last tokens only, in some blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlidingWindow {
    /// Positions a query sees, its own among them.
    pub window: usize,
    /// For each block, whether it has the window; the others see everything before.
    pub layers: Vec<bool>,
}

/// A Llama-style decoder: pre-norm blocks with RMSNorm, rotate-half RoPE and grouped-query attention.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    /// Whose files it has.
    pub model_type: LanguageModelType,
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the MLP.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// Width of one head; even, since RoPE rotates halves.
    pub head_dim: usize,
    /// Epsilon inside the root of RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// What is done to the rotary frequencies.
    pub rope_scaling: RopeScaling,
    /// Longest sequence the model was made for, in tokens; see [`DecoderConfig::max_positions`].
    pub max_position_embeddings: usize,
    /// Whether the output projection is the embedding table.
    pub tie_word_embeddings: bool,
    /// Biases of the attention projections.
    pub attention_bias: AttentionBias,
    /// RMSNorm over each query and key head, before RoPE.
    pub qk_norm: bool,
    /// Blocks that see the last tokens only; `None` if there is none.
    pub sliding_window: Option<SlidingWindow>,
    /// The feed-forward part.
    pub mlp: MlpKind,
    /// Whether the projections of the feed-forward part have biases.
    pub mlp_bias: bool,
    /// Standard deviation of freshly drawn weights.
    pub initializer_range: f64,
}

/// Refuses a size of a model that is 0, or beyond all that can be computed with: products of sizes have to be counted.
pub(crate) fn check_size(key: &str, value: usize, most: usize) -> Result<(), ModelConfigError> {
    match value {
        0 => Err(refuse(key, value, "must be at least 1")),
        _ if value > most => Err(refuse(key, value, format!("must be at most {most}"))),
        _ => Ok(()),
    }
}

impl DecoderConfig {
    /// Most blocks of a model.
    pub const MAX_LAYERS: usize = 1 << 12;

    /// Checks what [`crate::CausalLm::init`] takes for granted.
    pub fn validate(&self) -> Result<(), ModelConfigError> {
        for (key, value, most) in [
            // Not known yet where a configuration leaves it out.
            ("vocab_size", self.vocab_size, usize::MAX),
            ("hidden_size", self.hidden_size, 1 << 20),
            ("intermediate_size", self.intermediate_size, 1 << 22),
            ("num_hidden_layers", self.num_hidden_layers, Self::MAX_LAYERS),
            ("num_attention_heads", self.num_attention_heads, 1 << 12),
            ("num_key_value_heads", self.num_key_value_heads, 1 << 12),
            ("head_dim", self.head_dim, 1 << 12),
            ("max_position_embeddings", self.max_position_embeddings, 1 << 30),
        ] {
            check_size(&format!("text_config.{key}"), value, most)?;
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            return Err(refuse(
                "text_config.num_key_value_heads",
                self.num_key_value_heads,
                format!("must divide num_attention_heads = {}", self.num_attention_heads),
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(refuse(
                "text_config.head_dim",
                self.head_dim,
                "must be even: RoPE rotates halves",
            ));
        }
        if let Some((key, value, reason)) = self.rope_scaling.problem() {
            return Err(refuse(&format!("text_config.rope_scaling.{key}"), value, reason));
        }
        if let Some(SlidingWindow { window, layers }) = &self.sliding_window {
            if *window == 0 {
                let reason = "must be at least 1: a token sees itself";
                return Err(refuse("text_config.sliding_window", window, reason));
            }
            if layers.len() != self.num_hidden_layers {
                let reason = format!("one entry for each of the {} blocks", self.num_hidden_layers);
                return Err(refuse("text_config.layer_types", layers.len(), reason));
            }
        }
        Ok(())
    }

    /// Checks that the family has what the model has: what its `config.json` cannot say, nobody could load again.
    pub fn check_family(&self) -> Result<(), ModelConfigError> {
        use LanguageModelType::{Apertus, Llama, Mistral, Qwen2, Qwen3};
        let family = self.model_type.name();
        let check = |holds: bool, key: &str, value: &dyn std::fmt::Display, has: &str| {
            if holds {
                return Ok(());
            }
            let reason = format!("a model of type {family} has {has}");
            Err(refuse(&format!("text_config.{key}"), value, reason))
        };
        let (bias, has) = match self.model_type {
            Llama | Qwen3 | Apertus => (
                self.attention_bias != AttentionBias::Qkv,
                "biases in all four attention projections or in none",
            ),
            Mistral => (
                self.attention_bias == AttentionBias::None,
                "no biases in its attention",
            ),
            Qwen2 => (
                self.attention_bias == AttentionBias::Qkv,
                "biases in its query, key and value projections",
            ),
        };
        let has_bias = self.attention_bias != AttentionBias::None;
        check(bias, "attention_bias", &has_bias, has)?;
        let (norms, has) = match self.model_type {
            Llama | Mistral | Qwen2 => (!self.qk_norm, "no norms of queries and keys"),
            Qwen3 | Apertus => (self.qk_norm, "norms of queries and keys"),
        };
        check(norms, "qk_norm", &self.qk_norm, has)?;
        let (mlp, has) = match self.model_type {
            Llama | Mistral | Qwen2 | Qwen3 => (self.mlp == MlpKind::SwiGlu, "a gated MLP with SiLU"),
            Apertus => (self.mlp == MlpKind::Xielu, "an MLP with xIELU"),
        };
        let hidden_act = match self.mlp {
            MlpKind::SwiGlu => "silu",
            MlpKind::Xielu => "xielu",
        };
        check(mlp, "hidden_act", &hidden_act, has)?;
        if self.model_type != Llama {
            check(!self.mlp_bias, "mlp_bias", &self.mlp_bias, "no biases in its MLP")?;
        }
        let window = self.sliding_window.as_ref();
        let (windows, has) = match self.model_type {
            Llama | Apertus => (window.is_none(), "no sliding window"),
            Mistral => (
                window.is_none_or(|window| window.layers.iter().all(|&sliding| sliding)),
                "its sliding window in every block",
            ),
            Qwen2 | Qwen3 => (true, ""),
        };
        let tokens = window.map_or(0, |window| window.window);
        check(windows, "sliding_window", &tokens, has)
    }

    /// Longest sequence the model accepts, in tokens: scaled RoPE reaches further than `max_position_embeddings`.
    pub fn max_positions(&self) -> usize {
        self.rope_scaling.max_positions(self.max_position_embeddings)
    }

    /// Cosines and sines of positions.
    pub fn rope_table(&self, positions: impl IntoIterator<Item = usize>, device: &Device) -> RopeTable {
        self.rope_scaling
            .table(positions, self.head_dim, self.rope_theta, device)
    }

    /// What a query of a block sees.
    pub fn attention_mask(&self, layer: usize) -> AttentionMask {
        match &self.sliding_window {
            Some(SlidingWindow { window, layers }) if layers[layer] => {
                AttentionMask::SlidingWindow { window: *window }
            }
            Some(_) | None => AttentionMask::Causal,
        }
    }
}

/// What the decoder's last hidden states are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Head {
    /// The next token, at every position.
    Lm,
    /// One of several classes, at a row's last token: Hugging Face's `*ForSequenceClassification`.
    Classification {
        /// Names of the classes, in the order of their ids; at least two.
        labels: Vec<String>,
    },
}

/// A language model, with eyes if `vision` is there.
#[derive(Debug, Clone, PartialEq)]
pub struct VlmConfig {
    /// The decoder.
    pub text: DecoderConfig,
    /// Vision tower and projector; `None` for a plain language model.
    pub vision: Option<VisionLanguageConfig>,
    /// The output.
    pub head: Head,
}

impl VlmConfig {
    /// Checks every part and how they fit; [`crate::Vlm::init`] relies on it.
    pub fn validate(&self) -> Result<(), ModelConfigError> {
        self.text.validate()?;
        if let Head::Classification { labels } = &self.head {
            validate_labels(labels)?;
            if self.vision.is_some() {
                let reason = "Hugging Face has no layout for a classification head on a model that sees";
                return Err(refuse("head", "classification", reason));
            }
        }
        match &self.vision {
            Some(vision) => vision.validate(self.text.vocab_size),
            None => Ok(()),
        }
    }
}

fn validate_labels(labels: &[String]) -> Result<(), ModelConfigError> {
    if labels.len() < 2 {
        let reason = "a classification needs two classes or more; regression is not built in";
        return Err(refuse("head.num_labels", labels.len(), reason));
    }
    let twice = labels
        .iter()
        .enumerate()
        .find(|(at, label)| labels[..*at].contains(label));
    match twice {
        Some((_, label)) => Err(refuse("head.labels", label, "two classes have this name")),
        None => Ok(()),
    }
}
