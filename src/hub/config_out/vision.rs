//! The vision tower's part of `config.json`.

use brazier_models::{VisionActivation, VisionConfig};
use serde_json::{Value, json};

pub(super) fn vision_json(vision: &VisionConfig) -> Value {
    let hidden_act = match vision.hidden_act {
        VisionActivation::QuickGelu => "quick_gelu",
        VisionActivation::Gelu => "gelu",
    };
    json!({
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
    })
}
