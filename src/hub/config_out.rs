//! [`VlmConfig`] to Hugging Face's `config.json` and `generation_config.json`.

mod decoder;
mod vision;

use brazier_models::{FeatureSelect, Head, HostDtype, ProjectorKind, VisionLanguageConfig, VlmConfig};
use serde_json::{Map, Value, json};

use self::{decoder::text_json, vision::vision_json};
use super::{
    ExportOptions, HubError, Result,
    config_in::BRAZIER_VLM,
    names::{causal_lm, sequence_classification},
};

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
            Layout::Decoder => match config.head {
                Head::Lm => causal_lm(config.text.model_type),
                Head::Classification { .. } => sequence_classification(config.text.model_type),
            },
            Layout::Llava => "LlavaForConditionalGeneration",
            Layout::BrazierVlm => "BrazierVlm",
        }
    }
}

/// The class that loads an export of the model.
pub fn architecture(config: &VlmConfig) -> &'static str {
    Layout::of(config).architecture(config)
}

pub(super) fn config_json(config: &VlmConfig, options: &ExportOptions) -> Result<Value> {
    let checked = config.validate().and_then(|()| config.text.check_family());
    checked.map_err(|error| HubError::Inexpressible {
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
    if let Head::Classification { labels } = &config.head {
        let ids = labels.iter().enumerate();
        let names: Map<String, Value> = ids
            .clone()
            .map(|(id, label)| (id.to_string(), json!(label)))
            .collect();
        let back: Map<String, Value> = ids.map(|(id, label)| (label.clone(), json!(id))).collect();
        root.insert("id2label".into(), Value::Object(names));
        root.insert("label2id".into(), Value::Object(back));
        root.insert("problem_type".into(), "single_label_classification".into());
    }
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

fn vision_language_json(
    config: &VisionLanguageConfig,
    text: Map<String, Value>,
    whole: &VlmConfig,
    layout: Layout,
) -> Map<String, Value> {
    let select = match config.vision_feature_select {
        FeatureSelect::Default => "default",
        FeatureSelect::Full => "full",
    };
    let value = json!({
        "model_type": if layout == Layout::BrazierVlm { BRAZIER_VLM } else { "llava" },
        "text_config": text,
        "vision_config": vision_json(&config.vision),
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
