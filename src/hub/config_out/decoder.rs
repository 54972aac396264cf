//! The decoder's part of `config.json`.

use brazier_models::DecoderConfig;
use serde_json::{Map, Value, json};

use super::insert_token_ids;
use crate::hub::{ExportOptions, HubError, Result};

pub(super) fn text_json(text: &DecoderConfig, options: &ExportOptions) -> Result<Map<String, Value>> {
    if !text.qk_norm && !text.hidden_size.is_multiple_of(text.num_attention_heads) {
        return Err(HubError::Inexpressible {
            what: format!("text_config.hidden_size = {}", text.hidden_size),
            reason: format!(
                "Hugging Face's LlamaConfig wants a multiple of num_attention_heads = {}",
                text.num_attention_heads
            ),
        });
    }
    let value = json!({
        "model_type": if text.qk_norm { "qwen3" } else { "llama" },
        "vocab_size": text.vocab_size,
        "hidden_size": text.hidden_size,
        "intermediate_size": text.intermediate_size,
        "num_hidden_layers": text.num_hidden_layers,
        "num_attention_heads": text.num_attention_heads,
        "num_key_value_heads": text.num_key_value_heads,
        "head_dim": text.head_dim,
        "hidden_act": "silu",
        "attention_bias": false,
        "attention_dropout": 0.0,
        "max_position_embeddings": text.max_position_embeddings,
        "rms_norm_eps": text.rms_norm_eps,
        // Both spellings: transformers 5 reads the second, everything older the first.
        "rope_theta": text.rope_theta,
        "rope_parameters": {"rope_theta": text.rope_theta, "rope_type": "default"},
        "tie_word_embeddings": text.tie_word_embeddings,
        "initializer_range": text.initializer_range,
        "use_cache": true,
    });
    let Value::Object(mut map) = value else {
        return Ok(Map::new());
    };
    if text.qk_norm {
        map.insert("use_sliding_window".into(), false.into());
    } else {
        map.insert("mlp_bias".into(), false.into());
    }
    insert_token_ids(&mut map, options);
    Ok(map)
}
