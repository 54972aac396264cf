//! The vision tower's part of `config.json`.

use brazier_models::{VisionActivation, VisionConfig};
use serde_json::json;

use crate::hub::section::Section;

pub(super) fn vision(section: Section) -> VisionConfig {
    section.only(
        "model_type",
        &json!("clip_vision_model"),
        "the vision tower is CLIP's",
    );
    section.only("num_channels", &json!(3), "images have three channels");
    section.only(
        "attention_dropout",
        &json!(0.0),
        "there is no dropout; set it to 0.0 in config.json",
    );
    let hidden_act = match section.text("hidden_act").unwrap_or("quick_gelu") {
        "quick_gelu" => VisionActivation::QuickGelu,
        "gelu" => VisionActivation::Gelu,
        other => {
            section.refuse("hidden_act", &other.into(), "expected quick_gelu or gelu");
            VisionActivation::QuickGelu
        }
    };
    VisionConfig {
        hidden_size: section.size("hidden_size").unwrap_or(768),
        intermediate_size: section.size("intermediate_size").unwrap_or(3072),
        num_hidden_layers: section.size("num_hidden_layers").unwrap_or(12),
        num_attention_heads: section.size("num_attention_heads").unwrap_or(12),
        image_size: section.size("image_size").unwrap_or(224),
        patch_size: section.size("patch_size").unwrap_or(32),
        layer_norm_eps: section.float("layer_norm_eps").unwrap_or(1e-5),
        hidden_act,
        initializer_range: section.float("initializer_range").unwrap_or(0.02),
    }
}
