//! Hugging Face's `config.json` to [`VlmConfig`]. Defaults are those of transformers 5.23; keys of 4.x are read as well.

mod decoder;
mod multimeditron;
mod parts;
mod projector;
#[cfg(test)]
mod tests;
mod vision;

use std::path::{Path, PathBuf};

use brazier_models::{
    Head, LanguageModelType, ProjectorKind, VisionLanguageConfig, VisionModelType, VlmConfig,
};
use serde_json::{Map, Value, json};

pub(super) use self::multimeditron::{MODALITIES, names as multimeditron_names};
pub use self::parts::{JoinOptions, join_configs, read_decoder_config, read_vision_config};
use self::{
    decoder::decoder,
    projector::{feature_select, projector},
    vision::vision,
};
use super::{
    HubError, Result,
    layout::{BRAZIER_VLM, MULTIMODAL},
    names::{causal_lm, sequence_classification},
    section::{Problems, Section},
};
use crate::fs;

const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// Reads `config.json` of a model folder.
///
/// # Errors
/// If the file is missing or no JSON, and with every key whose value the models cannot express (other activations, partly
/// rotated heads, dropout, quantized weights, …). Keys that transformers does not know for the model's type
/// have no effect there, and none here. A folder of MultiMeditron's names its parts: they must be found as well, as
/// [`super::locate`] finds them.
pub fn read_config(dir: &Path) -> Result<VlmConfig> {
    let (path, map) = read_json(dir)?;
    read_map(&map, &path)
}

/// What a `config.json` at that place says.
pub(super) fn read_map(map: &Map<String, Value>, path: &Path) -> Result<VlmConfig> {
    let config = match map.get("model_type") {
        Some(model_type) if model_type == MULTIMODAL => multimeditron::read(map, path)?,
        _ => parse_config(map),
    };
    config.map_err(|problems| HubError::Config {
        path: path.into(),
        problems,
    })
}

/// The object in a folder's `config.json`, and where that is.
fn read_json(dir: &Path) -> Result<(PathBuf, Map<String, Value>)> {
    let path = dir.join("config.json");
    let bytes = fs::read_at_most(&path, MAX_CONFIG_BYTES)?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| HubError::Json {
        path: path.clone(),
        reason: error.to_string(),
    })?;
    match value {
        Value::Object(map) => Ok((path, map)),
        _ => Err(HubError::Json {
            path,
            reason: "expected an object".into(),
        }),
    }
}

pub(super) fn parse_config(map: &Map<String, Value>) -> std::result::Result<VlmConfig, Vec<String>> {
    let problems = Problems::default();
    let root = Section {
        prefix: "",
        map,
        problems: &problems,
    };
    if let Some(value) = root.value("quantization_config") {
        root.refuse(
            "quantization_config",
            value,
            "quantized weights are not read; take the unquantized model",
        );
    }
    let model_type = root.text("model_type").unwrap_or_default();
    let config = match (model_type, decoder::family(model_type)) {
        ("llava" | BRAZIER_VLM, _) => vlm(root, model_type),
        (_, Some(family)) => VlmConfig {
            text: decoder(root),
            vision: None,
            head: output(root, family),
        },
        (other, None) => {
            let families = LanguageModelType::ALL.map(LanguageModelType::name).join(", ");
            let known = format!("expected llava, {families}, {MULTIMODAL} or {BRAZIER_VLM}");
            return Err(vec![format!("model_type = {other:?}: {known}")]);
        }
    };
    let mut problems = problems.into_inner();
    if problems.is_empty()
        && let Err(error) = config.validate()
    {
        problems.push(error.to_string());
    }
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(problems)
    }
}

/// A decoder's head, by the class that the folder is for.
fn output(root: Section, family: LanguageModelType) -> Head {
    if root.value("architectures") != Some(&json!([sequence_classification(family)])) {
        architecture(root, causal_lm(family));
        return Head::Lm;
    }
    root.only(
        "problem_type",
        &json!("single_label_classification"),
        "a row has one class; regression and several labels for a row are not built in",
    );
    let Some(names) = root.child("id2label", "id2label.") else {
        // transformers' default, and its names for classes without.
        let count = root.size("num_labels").unwrap_or(2);
        let labels = (0..count).map(|id| format!("LABEL_{id}")).collect();
        return Head::Classification { labels };
    };
    let labels = (0..names.map.len()).map(|id| match names.text(&id.to_string()) {
        Some(label) => label.to_owned(),
        None => {
            let reason = format!("expected a name for each class from 0 to {}", names.map.len() - 1);
            names.refuse(&id.to_string(), &Value::Null, &reason);
            String::new()
        }
    });
    Head::Classification {
        labels: labels.collect(),
    }
}

/// Another head on the same body would be another model.
fn architecture(root: Section, expected: &str) {
    root.only(
        "architectures",
        &json!([expected]),
        &format!("only {expected} is read"),
    );
}

fn vlm(root: Section, model_type: &str) -> VlmConfig {
    let is_ours = model_type == BRAZIER_VLM;
    let projector = if is_ours {
        architecture(root, "BrazierVlm");
        projector(root)
    } else {
        architecture(root, "LlavaForConditionalGeneration");
        ProjectorKind::Mlp2
    };
    root.only(
        "projector_hidden_act",
        &json!("gelu"),
        "the projector's activation is the exact gelu",
    );
    root.only(
        "multimodal_projector_bias",
        &json!(true),
        "the projector has biases",
    );

    let nothing = Map::new();
    let absent = Section {
        prefix: "text_config.",
        map: &nothing,
        problems: root.problems,
    };
    let mut text = decoder(root.child("text_config", "text_config.").unwrap_or(absent));
    // LlavaConfig ties the head if either says so.
    text.tie_word_embeddings |= root.flag("tie_word_embeddings").unwrap_or(false);

    // LlavaConfig's own defaults hold if there is no vision_config at all, else those of CLIPVisionConfig.
    let llava_default = json!({"intermediate_size": 4096, "hidden_size": 1024, "patch_size": 14, "image_size": 336,
        "num_hidden_layers": 24, "num_attention_heads": 16});
    let default = llava_default.as_object().unwrap_or(&nothing);
    let absent = Section {
        prefix: "vision_config.",
        map: default,
        problems: root.problems,
    };
    let section = root.child("vision_config", "vision_config.").unwrap_or(absent);
    let vision = vision(section, VisionModelType::Clip);

    let vision = VisionLanguageConfig {
        vision,
        projector,
        vision_feature_layer: root.integer("vision_feature_layer").unwrap_or(-2),
        vision_feature_select: feature_select(root),
        // LLaVA has no such key, and no such norm.
        vision_post_layernorm: is_ours && root.flag("vision_post_layernorm").unwrap_or(false),
        image_token_id: image_token(root),
    };
    VlmConfig {
        text,
        vision: Some(vision),
        head: Head::Lm,
    }
}

/// Two spellings of one key.
fn image_token(root: Section) -> u32 {
    let (index, id) = (root.size("image_token_index"), root.size("image_token_id"));
    if let (Some(index), Some(id)) = (index, id)
        && index != id
    {
        root.refuse(
            "image_token_id",
            &id.into(),
            &format!("contradicts image_token_index = {index}"),
        );
    }
    let id = index.or(id).unwrap_or(32000);
    u32::try_from(id).unwrap_or_else(|_| {
        root.refuse("image_token_id", &id.into(), "no vocabulary is so large");
        0
    })
}
