//! The decoder's part of `config.json`.

use brazier_models::{
    AttentionBias, DecoderConfig, LanguageModelType, Llama3Scaling, MlpKind, RopeScaling, SlidingWindow,
    YarnScaling,
};
use serde_json::{Map, Value, json};

use super::insert_token_ids;
use crate::hub::{ExportOptions, HubError, Result};

pub(super) fn text_json(text: &DecoderConfig, options: &ExportOptions) -> Result<Map<String, Value>> {
    if text.model_type == LanguageModelType::Llama
        && !text.hidden_size.is_multiple_of(text.num_attention_heads)
    {
        return Err(HubError::Inexpressible {
            what: format!("text_config.hidden_size = {}", text.hidden_size),
            reason: format!(
                "Hugging Face's LlamaConfig wants a multiple of num_attention_heads = {}",
                text.num_attention_heads
            ),
        });
    }
    let hidden_act = match text.mlp {
        MlpKind::SwiGlu => "silu",
        MlpKind::Xielu => "xielu",
    };
    let rope = rope_json(text.rope_scaling);
    let mut rope_parameters = rope.clone();
    rope_parameters.insert("rope_theta".into(), text.rope_theta.into());
    let value = json!({
        "model_type": text.model_type.name(),
        "vocab_size": text.vocab_size,
        "hidden_size": text.hidden_size,
        "intermediate_size": text.intermediate_size,
        "num_hidden_layers": text.num_hidden_layers,
        "num_attention_heads": text.num_attention_heads,
        "num_key_value_heads": text.num_key_value_heads,
        "head_dim": text.head_dim,
        "hidden_act": hidden_act,
        "attention_dropout": 0.0,
        "max_position_embeddings": text.max_position_embeddings,
        "rms_norm_eps": text.rms_norm_eps,
        // Both spellings: transformers 5 reads the second, everything older the first.
        "rope_theta": text.rope_theta,
        "rope_parameters": rope_parameters,
        "tie_word_embeddings": text.tie_word_embeddings,
        "initializer_range": text.initializer_range,
        "use_cache": true,
    });
    let Value::Object(mut map) = value else {
        return Ok(Map::new());
    };
    if text.rope_scaling != RopeScaling::Default {
        map.insert("rope_scaling".into(), rope.into());
    }
    insert_family_keys(&mut map, text);
    insert_token_ids(&mut map, options);
    Ok(map)
}

/// Keys that only some families' configuration classes know.
fn insert_family_keys(map: &mut Map<String, Value>, text: &DecoderConfig) {
    let family = text.model_type;
    match family {
        LanguageModelType::Llama | LanguageModelType::Qwen3 | LanguageModelType::Apertus => {
            let bias = text.attention_bias == AttentionBias::All;
            map.insert("attention_bias".into(), bias.into());
        }
        LanguageModelType::Mistral | LanguageModelType::Qwen2 => {}
    }
    match family {
        LanguageModelType::Llama => {
            map.insert("mlp_bias".into(), text.mlp_bias.into());
        }
        LanguageModelType::Mistral => {
            // Left out, it would be 4096.
            let window = text.sliding_window.as_ref().map(|sliding| sliding.window);
            map.insert("sliding_window".into(), json!(window));
        }
        LanguageModelType::Qwen2 | LanguageModelType::Qwen3 => {
            map.insert("use_sliding_window".into(), text.sliding_window.is_some().into());
            if let Some(SlidingWindow { window, layers }) = &text.sliding_window {
                let name = |&sliding: &bool| {
                    if sliding {
                        "sliding_attention"
                    } else {
                        "full_attention"
                    }
                };
                let types: Vec<&str> = layers.iter().map(name).collect();
                let first = layers.iter().position(|&sliding| sliding);
                map.insert("sliding_window".into(), json!(window));
                map.insert("max_window_layers".into(), json!(first.unwrap_or(layers.len())));
                map.insert("layer_types".into(), json!(types));
            }
        }
        LanguageModelType::Apertus => {}
    }
}

/// `rope_scaling`, without the base.
fn rope_json(scaling: RopeScaling) -> Map<String, Value> {
    let value = match scaling {
        RopeScaling::Default => json!({"rope_type": "default"}),
        RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
        RopeScaling::Llama3(Llama3Scaling {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        }) => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_max_position_embeddings,
        }),
        RopeScaling::Yarn(YarnScaling {
            factor,
            original_max_position_embeddings,
            attention_factor,
            beta_fast,
            beta_slow,
            mscale,
            mscale_all_dim,
            truncate,
        }) => json!({
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": original_max_position_embeddings,
            "attention_factor": attention_factor,
            "beta_fast": beta_fast,
            "beta_slow": beta_slow,
            "mscale": mscale,
            "mscale_all_dim": mscale_all_dim,
            "truncate": truncate,
        }),
    };
    match value {
        Value::Object(map) => map.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        _ => Map::new(),
    }
}
