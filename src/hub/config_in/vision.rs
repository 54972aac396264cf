//! The vision tower's part of `config.json`.

use brazier_models::{VisionActivation, VisionConfig, VisionModelType};
use serde_json::json;

use crate::hub::section::Section;

/// What transformers' configuration class of a family takes for absent keys, where the classes differ.
struct Defaults {
    patch_size: usize,
    layer_norm_eps: f64,
    hidden_act: VisionActivation,
    vision_use_head: bool,
}

impl Defaults {
    fn of(family: VisionModelType) -> Self {
        match family {
            VisionModelType::Clip => Self {
                patch_size: 32,
                layer_norm_eps: 1e-5,
                hidden_act: VisionActivation::QuickGelu,
                vision_use_head: false,
            },
            VisionModelType::Siglip => Self {
                patch_size: 16,
                layer_norm_eps: 1e-6,
                hidden_act: VisionActivation::GeluTanh,
                vision_use_head: true,
            },
        }
    }
}

/// `own` is the family of a section that does not name it.
pub(super) fn vision(section: Section, own: VisionModelType) -> VisionConfig {
    let family = family(section, own);
    let defaults = Defaults::of(family);
    section.only("num_channels", &json!(3), "images have three channels");
    section.only(
        "attention_dropout",
        &json!(0.0),
        "there is no dropout; set it to 0.0 in config.json",
    );
    let hidden_act = match section.text("hidden_act") {
        None => defaults.hidden_act,
        Some(name) => activation(section, name),
    };
    let use_head = section.flag("vision_use_head");
    VisionConfig {
        model_type: family,
        hidden_size: section.size("hidden_size").unwrap_or(768),
        intermediate_size: section.size("intermediate_size").unwrap_or(3072),
        num_hidden_layers: section.size("num_hidden_layers").unwrap_or(12),
        num_attention_heads: section.size("num_attention_heads").unwrap_or(12),
        image_size: section.size("image_size").unwrap_or(224),
        patch_size: section.size("patch_size").unwrap_or(defaults.patch_size),
        layer_norm_eps: section.float("layer_norm_eps").unwrap_or(defaults.layer_norm_eps),
        hidden_act,
        // CLIPVisionConfig does not know the key.
        vision_use_head: defaults.vision_use_head && use_head.unwrap_or(true),
        initializer_range: section.float("initializer_range").unwrap_or(0.02),
    }
}

fn family(section: Section, own: VisionModelType) -> VisionModelType {
    let Some(name) = section.text("model_type") else {
        return own;
    };
    if let Some(family) = VisionModelType::ALL
        .into_iter()
        .find(|family| family.name() == name)
    {
        return family;
    }
    let reason = match name {
        "siglip2_vision_model" => {
            "the tower of variable resolution (NaFlex) is not built in; take a SigLIP 2 of fixed resolution, \
             whose tower is a siglip_vision_model"
                .to_owned()
        }
        _ => {
            let families = VisionModelType::ALL.map(VisionModelType::name).join(" or ");
            format!("the vision tower is a {families}")
        }
    };
    section.refuse("model_type", &name.into(), &reason);
    own
}

fn activation(section: Section, name: &str) -> VisionActivation {
    let known = VisionActivation::ALL.into_iter().find(|act| act.name() == name);
    known.unwrap_or_else(|| {
        let names = VisionActivation::ALL.map(VisionActivation::name).join(", ");
        section.refuse("hidden_act", &name.into(), &format!("expected one of {names}"));
        VisionActivation::Gelu
    })
}
