//! The decoder's part of `config.json`.

mod rope;
#[cfg(test)]
mod tests;

use brazier_models::{AttentionBias, DecoderConfig, LanguageModelType, MlpKind, SlidingWindow};
use serde_json::{Value, json};

use self::rope::rope;
use crate::hub::section::Section;

/// The family of that `model_type`, if it is one of ours.
pub(super) fn family(model_type: &str) -> Option<LanguageModelType> {
    LanguageModelType::ALL
        .into_iter()
        .find(|family| family.name() == model_type)
}

/// What transformers' configuration class of a family takes for absent keys, where the classes differ.
struct Defaults {
    vocab_size: usize,
    intermediate_size: usize,
    max_position_embeddings: usize,
    /// As many as query heads where it is `None`.
    num_key_value_heads: Option<usize>,
    /// `hidden_size / num_attention_heads` where it is `None`.
    head_dim: Option<usize>,
    rms_norm_eps: f64,
}

impl Defaults {
    fn of(family: LanguageModelType) -> Self {
        let llama = Self {
            vocab_size: 32_000,
            intermediate_size: 11_008,
            max_position_embeddings: 2048,
            num_key_value_heads: None,
            head_dim: None,
            rms_norm_eps: 1e-6,
        };
        let qwen2 = Self {
            vocab_size: 151_936,
            intermediate_size: 22_016,
            max_position_embeddings: 32_768,
            num_key_value_heads: Some(32),
            ..llama
        };
        match family {
            LanguageModelType::Llama => llama,
            LanguageModelType::Mistral => Self {
                intermediate_size: 14_336,
                max_position_embeddings: 131_072,
                num_key_value_heads: Some(8),
                ..llama
            },
            LanguageModelType::Qwen2 => qwen2,
            LanguageModelType::Qwen3 => Self {
                head_dim: Some(128),
                ..qwen2
            },
            LanguageModelType::Apertus => Self {
                vocab_size: 131_072,
                intermediate_size: 14_336,
                max_position_embeddings: 65_536,
                rms_norm_eps: 1e-5,
                ..llama
            },
        }
    }
}

pub(super) fn decoder(section: Section) -> DecoderConfig {
    let model_type = section.text("model_type").unwrap_or("llama");
    let family = family(model_type).unwrap_or_else(|| {
        let families = LanguageModelType::ALL.map(LanguageModelType::name).join(", ");
        section.refuse(
            "model_type",
            &model_type.into(),
            &format!("the language model is one of {families}"),
        );
        LanguageModelType::Llama
    });
    section.only(
        "attention_dropout",
        &json!(0.0),
        "there is no dropout; set it to 0.0 in config.json",
    );
    let defaults = Defaults::of(family);
    let hidden_size = section.size("hidden_size").unwrap_or(4096);
    let num_attention_heads = section.size("num_attention_heads").unwrap_or(32);
    let num_hidden_layers = section.size("num_hidden_layers").unwrap_or(32);
    // Absent, the key has the family's value; null, it means as many as query heads.
    let key_value_heads = match section.map.get("num_key_value_heads") {
        None => defaults.num_key_value_heads.unwrap_or(num_attention_heads),
        Some(_) => num_attention_heads,
    };
    let head_dim = defaults
        .head_dim
        .unwrap_or(hidden_size / num_attention_heads.max(1));
    let max_position_embeddings = section
        .size("max_position_embeddings")
        .unwrap_or(defaults.max_position_embeddings);
    let (rope_theta, rope_scaling) = rope(section, family, max_position_embeddings);
    DecoderConfig {
        model_type: family,
        vocab_size: section.size("vocab_size").unwrap_or(defaults.vocab_size),
        hidden_size,
        intermediate_size: section
            .size("intermediate_size")
            .unwrap_or(defaults.intermediate_size),
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads: section.size("num_key_value_heads").unwrap_or(key_value_heads),
        head_dim: section.size("head_dim").unwrap_or(head_dim),
        rms_norm_eps: section.float("rms_norm_eps").unwrap_or(defaults.rms_norm_eps),
        rope_theta,
        rope_scaling,
        max_position_embeddings,
        tie_word_embeddings: section.flag("tie_word_embeddings").unwrap_or(false),
        attention_bias: attention_bias(section, family),
        qk_norm: matches!(family, LanguageModelType::Qwen3 | LanguageModelType::Apertus),
        sliding_window: sliding_window(section, family, num_hidden_layers),
        mlp: mlp(section, family),
        mlp_bias: family == LanguageModelType::Llama && section.flag("mlp_bias").unwrap_or(false),
        initializer_range: section.float("initializer_range").unwrap_or(0.02),
    }
}

fn mlp(section: Section, family: LanguageModelType) -> MlpKind {
    let (kind, hidden_act, reason) = match family {
        LanguageModelType::Apertus => (MlpKind::Xielu, "xielu", "Apertus' MLP has xIELU"),
        LanguageModelType::Llama
        | LanguageModelType::Mistral
        | LanguageModelType::Qwen2
        | LanguageModelType::Qwen3 => (MlpKind::SwiGlu, "silu", "the decoder's MLP is SwiGLU"),
    };
    section.only("hidden_act", &json!(hidden_act), reason);
    kind
}

fn attention_bias(section: Section, family: LanguageModelType) -> AttentionBias {
    match family {
        LanguageModelType::Qwen2 => AttentionBias::Qkv,
        // MistralConfig does not know the key.
        LanguageModelType::Mistral => AttentionBias::None,
        LanguageModelType::Llama | LanguageModelType::Qwen3 | LanguageModelType::Apertus => {
            if section.flag("attention_bias").unwrap_or(false) {
                AttentionBias::All
            } else {
                AttentionBias::None
            }
        }
    }
}

fn sliding_window(section: Section, family: LanguageModelType, num_layers: usize) -> Option<SlidingWindow> {
    // Absent, the window is 4096; null, there is none.
    let window = match section.map.get("sliding_window") {
        None => Some(4096),
        Some(_) => section.size("sliding_window"),
    };
    // More than that no model may have, which is said later.
    let num_layers = num_layers.min(DecoderConfig::MAX_LAYERS);
    let layers = match family {
        LanguageModelType::Llama | LanguageModelType::Apertus => return None,
        LanguageModelType::Mistral => vec![true; num_layers],
        LanguageModelType::Qwen2 | LanguageModelType::Qwen3 => {
            let window = window.filter(|_| section.flag("use_sliding_window").unwrap_or(false));
            sliding_layers(section, num_layers, window.is_some())
        }
    };
    match window {
        Some(window) if layers.contains(&true) => Some(SlidingWindow { window, layers }),
        Some(_) | None => None,
    }
}

/// For each block, whether it has the window: as `layer_types` says or else from block `max_window_layers` on.
fn sliding_layers(section: Section, num_layers: usize, has_window: bool) -> Vec<bool> {
    let Some(types) = section.value("layer_types") else {
        let first = section.size("max_window_layers").unwrap_or(28);
        return (0..num_layers)
            .map(|layer| has_window && layer >= first)
            .collect();
    };
    let kind = |kind: &Value| match kind.as_str() {
        Some("full_attention") => Some(false),
        Some("sliding_attention") => Some(true),
        _ => None,
    };
    let layers: Option<Vec<bool>> = types
        .as_array()
        .and_then(|types| types.iter().map(kind).collect());
    let Some(layers) = layers else {
        let reason = "expected a list of full_attention and sliding_attention";
        section.refuse("layer_types", types, reason);
        return Vec::new();
    };
    if layers.contains(&true) && !has_window {
        let reason = "names sliding layers, but use_sliding_window is off or sliding_window null";
        section.refuse("layer_types", types, reason);
    }
    layers
}
