//! [`VlmConfig`] to Hugging Face's `config.json` and `generation_config.json`.

mod decoder;
mod multimeditron;
mod vision;

use brazier_models::{Head, HostDtype, ProjectorKind, VisionLanguageConfig, VlmConfig};
use serde_json::{Map, Value, json};

use self::{decoder::text_json, multimeditron::multimeditron_json, vision::vision_json};
use super::{
    ExportOptions, HubError, Result,
    layout::{BRAZIER_VLM, Layout, MultimeditronNames},
};

/// `names` are the parts' for [`Layout::Multimeditron`].
pub(super) fn config_json(
    config: &VlmConfig,
    layout: Layout,
    names: Option<&MultimeditronNames>,
    options: &ExportOptions,
) -> Result<Value> {
    let checked = config.validate().and_then(|()| config.text.check_family());
    checked.map_err(|error| HubError::Inexpressible {
        what: format!("{} = {}", error.key, error.value),
        reason: error.reason,
    })?;
    let mut root = match (&config.vision, layout) {
        (Some(vision), Layout::Multimeditron) => {
            let Some(names) = names else {
                let reason = "it names the language model and the two-tower model that its parts were taken from, and these \
                              are not known";
                return Err(HubError::Inexpressible {
                    what: "this model in MultiMeditron's layout".into(),
                    reason: reason.into(),
                });
            };
            multimeditron_json(config, vision, names, options)
        }
        (None, _) => text_json(&config.text, options)?,
        (Some(vision), _) => {
            let text = text_json(&config.text, options)?;
            vision_language_json(vision, text, config, layout)
        }
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
    if layout != Layout::Multimeditron {
        // The name of the same key before transformers 4.56.
        root.insert("torch_dtype".into(), dtype_name(options.dtype).into());
    }
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
    let value = json!({
        "model_type": if layout == Layout::Brazier { BRAZIER_VLM } else { "llava" },
        "text_config": text,
        "vision_config": vision_json(&config.vision),
        "image_token_index": config.image_token_id,
        "image_seq_length": config.num_image_tokens(),
        "projector_hidden_act": "gelu",
        "multimodal_projector_bias": true,
        "vision_feature_layer": config.vision_feature_layer,
        "vision_feature_select_strategy": config.vision_feature_select.name(),
        "tie_word_embeddings": whole.text.tie_word_embeddings,
    });
    let Value::Object(mut map) = value else {
        return Map::new();
    };
    if layout != Layout::Brazier {
        return map;
    }
    let projector = match config.projector {
        ProjectorKind::Mlp2 => json!({"kind": "mlp"}),
        ProjectorKind::Mlp3 => json!({"kind": "mlp3"}),
        ProjectorKind::Linear => json!({"kind": "linear"}),
        ProjectorKind::PixelShuffle { factor } => json!({"kind": "pixel_shuffle", "factor": factor}),
        ProjectorKind::AveragePool { kernel } => json!({"kind": "average_pool", "kernel": kernel}),
    };
    map.insert("projector".into(), projector);
    map.insert(
        "vision_post_layernorm".into(),
        config.vision_post_layernorm.into(),
    );
    map
}
