//! How many parameters a model has.

use brazier_models::{
    AttentionBias, DecoderConfig, Head, MlpKind, VisionConfig, VisionLanguageConfig, VlmConfig,
};

use crate::learner::options::TrainMode;

/// Numbers of parameters by part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParameterCounts {
    /// The vision tower.
    pub vision: u64,
    /// The projector.
    pub projector: u64,
    /// The language model, its head included; a tied head counts once.
    pub language: u64,
}

impl ParameterCounts {
    /// All parts.
    pub fn total(&self) -> u64 {
        self.vision + self.projector + self.language
    }

    /// The parts that move in this mode.
    pub fn trained(&self, mode: TrainMode) -> u64 {
        match mode {
            TrainMode::Alignment => self.projector,
            TrainMode::EndToEnd => self.projector + self.language,
            TrainMode::LmOnly => self.language,
            TrainMode::Full => self.total(),
        }
    }
}

/// Exact numbers of parameters.
pub fn num_parameters(model: &VlmConfig) -> ParameterCounts {
    let (vision, projector) = match &model.vision {
        Some(vision) => (
            vision_parameters(&vision.vision),
            projector_parameters(vision, &model.text),
        ),
        None => (0, 0),
    };
    ParameterCounts {
        vision,
        projector,
        language: language_parameters(&model.text, &model.head),
    }
}

fn language_parameters(config: &DecoderConfig, head: &Head) -> u64 {
    let &DecoderConfig {
        vocab_size,
        hidden_size,
        intermediate_size,
        num_hidden_layers,
        head_dim,
        ..
    } = config;
    let &DecoderConfig {
        num_attention_heads,
        num_key_value_heads,
        tie_word_embeddings,
        attention_bias,
        qk_norm,
        mlp,
        mlp_bias,
        ..
    } = config;
    let heads = num_attention_heads + 2 * num_key_value_heads;
    let attention_biases = match attention_bias {
        AttentionBias::None => 0,
        AttentionBias::Qkv => head_dim * heads,
        AttentionBias::All => head_dim * heads + hidden_size,
    };
    let attention =
        2 * hidden_size * head_dim * (num_attention_heads + num_key_value_heads) + attention_biases;
    let head_norms = if qk_norm { 2 * head_dim } else { 0 };
    let (inner, alphas) = match mlp {
        MlpKind::SwiGlu => (2, 0),
        MlpKind::Xielu => (1, 2),
    };
    let mlp_biases = if mlp_bias {
        inner * intermediate_size + hidden_size
    } else {
        0
    };
    let mlp = (inner + 1) * hidden_size * intermediate_size + alphas + mlp_biases;
    let block = 2 * hidden_size + attention + head_norms + mlp;
    let head_rows = match head {
        Head::Lm if tie_word_embeddings => 0,
        Head::Lm => vocab_size,
        Head::Classification { labels } => labels.len(),
    };
    ((vocab_size + head_rows) * hidden_size + num_hidden_layers * block + hidden_size) as u64
}

/// Of a classification head, which is trained in full beside adapters.
pub(super) fn head_parameters(model: &VlmConfig) -> u64 {
    match &model.head {
        Head::Lm => 0,
        Head::Classification { labels } => (labels.len() * model.text.hidden_size) as u64,
    }
}

pub(super) fn vision_parameters(config: &VisionConfig) -> u64 {
    let &VisionConfig {
        hidden_size,
        intermediate_size,
        num_hidden_layers,
        patch_size,
        ..
    } = config;
    let norm = 2 * hidden_size;
    let family = config.model_type;
    let of_family = |has: bool, size: usize| if has { size } else { 0 };
    let embeddings = of_family(family.has_class_token(), hidden_size)
        + of_family(family.has_patch_bias(), hidden_size)
        + hidden_size * 3 * patch_size * patch_size
        + config.num_positions() * hidden_size;
    let attention = 4 * linear(hidden_size, hidden_size);
    let mlp = linear(hidden_size, intermediate_size) + linear(intermediate_size, hidden_size);
    let head = of_family(config.vision_use_head, hidden_size + attention + norm + mlp);
    let pre_norm = of_family(family.has_pre_norm(), norm);
    (embeddings + num_hidden_layers * (2 * norm + attention + mlp) + pre_norm + norm + head) as u64
}

fn projector_parameters(config: &VisionLanguageConfig, text: &DecoderConfig) -> u64 {
    let layers = config
        .projector
        .layers(config.vision.hidden_size, text.hidden_size);
    layers.iter().map(|&(from, to)| linear(from, to) as u64).sum()
}

/// Weight and bias.
fn linear(from: usize, to: usize) -> usize {
    from * to + to
}
