//! [`VlmConfig`] to Hugging Face's `config.json` and `generation_config.json`.

use brazier_models::{
    DecoderConfig, FeatureSelect, HostDtype, ProjectorKind, VisionActivation, VisionLanguageConfig, VlmConfig,
};
use serde_json::{Map, Value, json};

use super::{ExportOptions, HubError, Result, config_in::BRAZIER_VLM};

/// Which kind of folder a model becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    Decoder,
    Llava,
    BrazierVlm,
}

impl Layout {
    pub(super) fn of(config: &VlmConfig) -> Self {
        match config.vision.as_ref().map(|vision| vision.projector) {
            None => Layout::Decoder,
            Some(ProjectorKind::Mlp2) => Layout::Llava,
            Some(ProjectorKind::Linear | ProjectorKind::PixelShuffle { .. }) => Layout::BrazierVlm,
        }
    }

    /// Class that loads the folder.
    pub(super) fn architecture(self, config: &VlmConfig) -> &'static str {
        match self {
            Layout::Decoder if config.text.qk_norm => "Qwen3ForCausalLM",
            Layout::Decoder => "LlamaForCausalLM",
            Layout::Llava => "LlavaForConditionalGeneration",
            Layout::BrazierVlm => "BrazierVlm",
        }
    }
}

pub(super) fn config_json(config: &VlmConfig, options: &ExportOptions) -> Result<Value> {
    config.validate().map_err(|error| HubError::Inexpressible {
        what: format!("{} = {}", error.key, error.value),
        reason: error.reason,
    })?;
    let layout = Layout::of(config);
    let text = text_json(&config.text, options)?;
    let mut root = match &config.vision {
        None => text,
        Some(vision) => vision_language_json(vision, text, config, layout),
    };
    root.insert("architectures".into(), json!([layout.architecture(config)]));
    root.insert("dtype".into(), dtype_name(options.dtype).into());
    // The name of the same key before transformers 4.56.
    root.insert("torch_dtype".into(), dtype_name(options.dtype).into());
    Ok(Value::Object(root))
}

pub(super) fn generation_json(options: &ExportOptions) -> Value {
    let mut map = Map::new();
    insert_token_ids(&mut map, options);
    Value::Object(map)
}

fn dtype_name(dtype: HostDtype) -> &'static str {
    match dtype {
        HostDtype::F32 => "float32",
        HostDtype::Bf16 => "bfloat16",
    }
}

/// Absent ids are written as null: transformers would otherwise put Llama's own 1 and 2 in their place.
fn insert_token_ids(map: &mut Map<String, Value>, options: &ExportOptions) {
    let eos = match options.eos_token_ids.as_slice() {
        [] => Value::Null,
        [one] => json!(one),
        several => json!(several),
    };
    map.insert("bos_token_id".into(), json!(options.bos_token_id));
    map.insert("eos_token_id".into(), eos);
    map.insert("pad_token_id".into(), json!(options.pad_token_id));
}

fn text_json(text: &DecoderConfig, options: &ExportOptions) -> Result<Map<String, Value>> {
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

fn vision_language_json(
    config: &VisionLanguageConfig,
    text: Map<String, Value>,
    whole: &VlmConfig,
    layout: Layout,
) -> Map<String, Value> {
    let vision = &config.vision;
    let hidden_act = match vision.hidden_act {
        VisionActivation::QuickGelu => "quick_gelu",
        VisionActivation::Gelu => "gelu",
    };
    let select = match config.vision_feature_select {
        FeatureSelect::Default => "default",
        FeatureSelect::Full => "full",
    };
    let value = json!({
        "model_type": if layout == Layout::BrazierVlm { BRAZIER_VLM } else { "llava" },
        "text_config": text,
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": vision.hidden_size,
            "intermediate_size": vision.intermediate_size,
            "num_hidden_layers": vision.num_hidden_layers,
            "num_attention_heads": vision.num_attention_heads,
            "num_channels": 3,
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "hidden_act": hidden_act,
            "layer_norm_eps": vision.layer_norm_eps,
            "attention_dropout": 0.0,
            "initializer_range": vision.initializer_range,
        },
        "image_token_index": config.image_token_id,
        "image_seq_length": config.num_image_tokens(),
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": true,
        "vision_feature_layer": config.vision_feature_layer,
        "vision_feature_select_strategy": select,
        "tie_word_embeddings": whole.text.tie_word_embeddings,
    });
    let Value::Object(mut map) = value else {
        return Map::new();
    };
    let projector = match config.projector {
        ProjectorKind::Mlp2 => return map,
        ProjectorKind::Linear => json!({"kind": "linear"}),
        ProjectorKind::PixelShuffle { factor } => json!({"kind": "pixel_shuffle", "factor": factor}),
    };
    map.insert("projector".into(), projector);
    map
}
