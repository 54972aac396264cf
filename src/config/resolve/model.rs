//! `model:`.

use std::path::Path;

use brazier_models::{
    DecoderConfig, FeatureSelect, Head, LoraConfig, LoraParts, LoraTargets, ProjectorKind, VisionActivation,
    VisionConfig, VisionLanguageConfig, VlmConfig,
};

use super::super::{
    defaults,
    raw::{
        RawFeatureSelect, RawHead, RawLanguage, RawLora, RawLoraParts, RawMode, RawModel, RawProjector,
        RawVision, RawVisionActivation,
    },
    run::{HeadChoice, LoraChoice, ModelChoice, NewModel},
    written::Errors,
};
use crate::fs;

/// Keys that describe a new model; an imported one says all of this itself.
const OF_NEW_MODELS: [&str; 5] = [
    "language",
    "vision",
    "projector",
    "vision_feature_layer",
    "vision_feature_select",
];
/// Keys that mean something only where there is a vision tower.
const OF_VISION: [&str; 3] = ["projector", "vision_feature_layer", "vision_feature_select"];

/// A vocabulary that every image token id is in.
const UNKNOWN_VOCABULARY: usize = usize::MAX;

pub(super) fn resolve(raw: RawModel, errors: &mut Errors) -> ModelChoice {
    let RawModel {
        from,
        tokenizer: _, // belongs to the data
        language,
        vision,
        projector,
        vision_feature_layer,
        vision_feature_select,
        lora: _, // resolved by itself
        head: _, // the same
    } = raw;
    if let Some(folder) = from {
        for key in OF_NEW_MODELS {
            errors.no_effect(&format!("model.{key}"), "model.from brings a whole model");
        }
        check_folder(&folder, errors);
        return ModelChoice::Import(folder);
    }
    let Some(language) = language else {
        let hint = "write model.from with a Hugging Face folder, or model.language for a new model";
        errors.refuse("model", "says no model", Some(hint));
        return ModelChoice::Import("".into());
    };
    let vocab_size = language.vocab_size;
    let text = decoder(language, errors);
    if vision.is_none() {
        for key in OF_VISION {
            errors.no_effect(&format!("model.{key}"), "there is no model.vision");
        }
    }
    let vision = vision.map(|vision| VisionLanguageConfig {
        vision: vision_tower(vision),
        projector: match projector {
            Some(RawProjector::Linear {}) => ProjectorKind::Linear,
            Some(RawProjector::Mlp {}) | None => ProjectorKind::Mlp2,
            Some(RawProjector::PixelShuffle { factor }) => ProjectorKind::PixelShuffle { factor },
        },
        vision_feature_layer: vision_feature_layer.unwrap_or(defaults::VISION_FEATURE_LAYER),
        vision_feature_select: match vision_feature_select {
            Some(RawFeatureSelect::Full) => FeatureSelect::Full,
            Some(RawFeatureSelect::Default) | None => FeatureSelect::Default,
        },
        image_token_id: 0,
    });
    ModelChoice::New(Box::new(NewModel {
        config: VlmConfig {
            text,
            vision,
            head: Head::Lm,
        },
        vocab_size,
    }))
}

/// `model.head`.
pub(super) fn head(raw: Option<RawHead>, errors: &mut Errors) -> HeadChoice {
    let (labels, num_labels, class_weights) = match raw {
        None => return HeadChoice::Own,
        Some(RawHead::Lm {}) => return HeadChoice::Lm,
        Some(RawHead::Classification {
            labels,
            num_labels,
            class_weights,
        }) => (labels, num_labels, class_weights),
    };
    errors.exclusive("model.head.labels", "model.head.num_labels");
    let is_weight = |weight: &f32| weight.is_finite() && *weight > 0.0;
    if class_weights
        .as_ref()
        .is_some_and(|weights| !weights.iter().all(is_weight))
    {
        errors.refuse("model.head.class_weights", "each must be above 0", None);
    }
    HeadChoice::Classification {
        // transformers' names for classes that have none.
        labels: labels.or(num_labels.map(|count| (0..count).map(|id| format!("LABEL_{id}")).collect())),
        class_weights,
    }
}

/// `model.lora`, which meets `train.mode`.
pub(super) fn lora(raw: &RawModel, mode: RawMode, errors: &mut Errors) -> Option<LoraChoice> {
    let RawLora {
        from,
        r,
        alpha,
        dropout,
        rslora,
        target_modules,
        parts,
    } = raw.lora.clone()?;
    if raw.from.is_none() {
        let reason = "adapters are for a model that was trained before, and their export does not hold it";
        errors.refuse(
            "model.lora",
            reason,
            Some("write model.from, or take model.lora out"),
        );
    }
    if matches!(mode, RawMode::Alignment) {
        errors.no_effect("model.lora", "train.mode = alignment trains the projector alone");
    }
    if let Some(folder) = from {
        for key in ["r", "alpha", "dropout", "rslora", "target_modules", "parts"] {
            errors.no_effect(
                &format!("model.lora.{key}"),
                "model.lora.from brings whole adapters",
            );
        }
        if !fs::exists(&folder.join("adapter_config.json")) {
            let hint = "give the folder of adapters in PEFT's format";
            errors.refuse(
                "model.lora.from",
                "there is no adapter_config.json in this folder",
                Some(hint),
            );
        }
        return Some(LoraChoice::Import(folder));
    }
    let parts = parts.map(|parts| match parts {
        RawLoraParts::Language => LoraParts::Language,
        RawLoraParts::Vision => LoraParts::Vision,
        RawLoraParts::Both => LoraParts::Both,
    });
    let config = LoraConfig {
        r: r.unwrap_or(defaults::LORA_R),
        lora_alpha: alpha.unwrap_or(defaults::LORA_ALPHA),
        lora_dropout: dropout.unwrap_or(defaults::LORA_DROPOUT),
        use_rslora: rslora.unwrap_or(false),
        target_modules: match target_modules {
            None => LoraTargets::AllLinear,
            Some(names) if names == [defaults::ALL_LINEAR] => LoraTargets::AllLinear,
            Some(names) => LoraTargets::Named(names),
        },
        parts: parts.unwrap_or(LoraParts::Language),
    };
    Some(LoraChoice::New { config, parts })
}

fn check_folder(folder: &Path, errors: &mut Errors) {
    if !fs::exists(folder) {
        let hint = "give the folder with config.json and the safetensors files";
        errors.refuse("model.from", "there is no such folder", Some(hint));
    } else if !fs::exists(&folder.join("config.json")) {
        let hint = "give the folder of a model in Hugging Face's format";
        errors.refuse("model.from", "there is no config.json in this folder", Some(hint));
    }
}

fn decoder(raw: RawLanguage, errors: &mut Errors) -> DecoderConfig {
    let RawLanguage {
        vocab_size,
        hidden_size,
        intermediate_size,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        rms_norm_eps,
        rope_theta,
        max_position_embeddings,
        tie_word_embeddings,
        qk_norm,
        initializer_range,
    } = raw;
    if head_dim.is_none() && !hidden_size.is_multiple_of(num_attention_heads) {
        let reason = format!("must divide model.language.hidden_size = {hidden_size}, for want of head_dim");
        errors.refuse(
            "model.language.num_attention_heads",
            &reason,
            Some("change one of them, or add head_dim"),
        );
    }
    DecoderConfig {
        vocab_size: vocab_size.unwrap_or(UNKNOWN_VOCABULARY),
        hidden_size,
        intermediate_size,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads: num_key_value_heads.unwrap_or(num_attention_heads),
        head_dim: head_dim.unwrap_or(hidden_size / num_attention_heads),
        rms_norm_eps,
        rope_theta,
        max_position_embeddings,
        tie_word_embeddings,
        qk_norm,
        initializer_range,
    }
}

fn vision_tower(raw: RawVision) -> VisionConfig {
    let RawVision {
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
    VisionConfig {
        hidden_size,
        intermediate_size,
        num_hidden_layers,
        num_attention_heads,
        image_size,
        patch_size,
        layer_norm_eps,
        hidden_act: match hidden_act {
            RawVisionActivation::QuickGelu => VisionActivation::QuickGelu,
            RawVisionActivation::Gelu => VisionActivation::Gelu,
        },
        initializer_range,
    }
}
