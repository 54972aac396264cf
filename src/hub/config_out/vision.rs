//! The vision tower's part of `config.json`.

use brazier_models::{VisionConfig, VisionModelType};
use serde_json::{Value, json};

pub(super) fn vision_json(vision: &VisionConfig) -> Value {
    let mut value = json!({
        "model_type": vision.model_type.name(),
        "hidden_size": vision.hidden_size,
        "intermediate_size": vision.intermediate_size,
        "num_hidden_layers": vision.num_hidden_layers,
        "num_attention_heads": vision.num_attention_heads,
        "num_channels": 3,
        "image_size": vision.image_size,
        "patch_size": vision.patch_size,
        "hidden_act": vision.hidden_act.name(),
        "layer_norm_eps": vision.layer_norm_eps,
        "attention_dropout": 0.0,
        "initializer_range": vision.initializer_range,
    });
    match vision.model_type {
        VisionModelType::Clip => {}
        VisionModelType::Siglip => value["vision_use_head"] = vision.vision_use_head.into(),
    }
    value
}
