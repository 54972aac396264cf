//! `model.vision`.

use brazier_models::{VisionActivation, VisionConfig, VisionModelType};

use super::super::super::{
    raw::{RawVision, RawVisionActivation, RawVisionModelType},
    written::Errors,
};

pub(super) fn vision_tower(raw: RawVision, errors: &mut Errors) -> VisionConfig {
    let RawVision {
        model_type,
        hidden_size,
        intermediate_size,
        num_hidden_layers,
        num_attention_heads,
        image_size,
        patch_size,
        layer_norm_eps,
        hidden_act,
        initializer_range,
    } = raw;
    // A published tower may have such sizes. In a new one it is a mistake.
    if patch_size > 0 && image_size % patch_size != 0 {
        let reason = format!("must divide image_size = {image_size}");
        errors.refuse_value("model.vision.patch_size", &patch_size.to_string(), &reason, None);
    }
    let (model_type, usual_eps, usual_act) = match model_type {
        RawVisionModelType::Clip => (VisionModelType::Clip, 1e-5, VisionActivation::QuickGelu),
        RawVisionModelType::Siglip => (VisionModelType::Siglip, 1e-6, VisionActivation::GeluTanh),
    };
    VisionConfig {
        model_type,
        hidden_size,
        intermediate_size,
        num_hidden_layers,
        num_attention_heads,
        image_size,
        patch_size,
        layer_norm_eps: layer_norm_eps.unwrap_or(usual_eps),
        hidden_act: hidden_act.map_or(usual_act, activation),
        // A pooled image is of no use here.
        vision_use_head: false,
        initializer_range,
    }
}

fn activation(raw: RawVisionActivation) -> VisionActivation {
    match raw {
        RawVisionActivation::QuickGelu => VisionActivation::QuickGelu,
        RawVisionActivation::Gelu => VisionActivation::Gelu,
        RawVisionActivation::GeluPytorchTanh => VisionActivation::GeluTanh,
    }
}
