//! MultiMeditron's `config.json`.

use brazier_models::{ProjectorKind, VisionLanguageConfig, VlmConfig};
use serde_json::{Map, Value, json};

use super::dtype_name;
use crate::hub::{
    ExportOptions,
    layout::{MULTIMODAL, MultimeditronNames},
};

pub(super) fn multimeditron_json(
    config: &VlmConfig,
    vision: &VisionLanguageConfig,
    names: &MultimeditronNames,
    options: &ExportOptions,
) -> Map<String, Value> {
    let mut modality = json!({
        "model_type": "meditron_clip",
        "modality_type": "image",
        "hidden_size": config.text.hidden_size,
        "clip_name": names.clip_name,
        "projection_type": "mlp",
        "use_2d_position_ids": false,
    });
    if let ProjectorKind::PixelShuffle { factor } = vision.projector {
        modality["projection_type"] = "pixel_shuffle".into();
        modality["pixel_shuffle_factor"] = factor.into();
    }
    let first = options.eos_token_ids.first();
    let value = json!({
        "model_type": MULTIMODAL,
        "vocab_size": config.text.vocab_size,
        "hidden_size": config.text.hidden_size,
        "attachment_token_idx": vision.image_token_id,
        "pad_token_idx": options.pad_token_id.unwrap_or(0),
        "eos_token_idx": first.copied().unwrap_or(0),
        "initializer_range": config.text.initializer_range,
        "llm_path": names.llm_path,
        "modalities": [modality],
        "dtype": dtype_name(options.dtype),
    });
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
