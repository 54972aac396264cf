//! `model:`.

mod language;
mod vision;

use std::path::{Path, PathBuf};

use brazier_models::{
    FeatureSelect, Head, LoraConfig, LoraParts, LoraTargets, ProjectorKind, VisionLanguageConfig, VlmConfig,
};

use self::{language::decoder, vision::vision_tower};
use super::super::{
    defaults,
    raw::{
        RawFeatureSelect, RawHead, RawLora, RawLoraParts, RawMode, RawModel, RawProjector,
        RawResizeVocabulary,
    },
    run::{HeadChoice, JoinedModel, LoraChoice, ModelChoice, NewModel},
    written::Errors,
};
use super::data::is_hub_name;
use crate::{fs, hub::ResizeOptions};

/// Keys that describe a new model; an imported one says all of this itself.
const OF_NEW_MODELS: [&str; 8] = [
    "language_from",
    "vision_from",
    "language",
    "vision",
    "projector",
    "vision_feature_layer",
    "vision_feature_select",
    "vision_post_layernorm",
];
/// Keys that mean something only where there is a vision tower.
const OF_VISION: [&str; 5] = [
    "image_token",
    "projector",
    "vision_feature_layer",
    "vision_feature_select",
    "vision_post_layernorm",
];

pub(super) fn resolve(raw: RawModel, errors: &mut Errors) -> ModelChoice {
    let RawModel {
        from,
        language_from,
        vision_from,
        tokenizer: _,         // belongs to the data
        image_token: _,       // has a function of its own
        resize_vocabulary: _, // the same
        language,
        vision,
        projector,
        vision_feature_layer,
        vision_feature_select,
        vision_post_layernorm,
        lora: _, // resolved by itself
        head: _, // the same
    } = raw;
    if let Some(folder) = from {
        for key in OF_NEW_MODELS {
            errors.no_effect(&format!("model.{key}"), "model.from brings a whole model");
        }
        check_folder("model.from", &folder, errors);
        return ModelChoice::Import(folder);
    }
    let kind = projector_kind(projector);
    let vision_feature_layer = vision_feature_layer.unwrap_or(defaults::VISION_FEATURE_LAYER);
    let vision_feature_select = vision_feature_select.map(feature_select);
    let vision_post_layernorm = vision_post_layernorm.unwrap_or(false);
    if language_from.is_some() || vision_from.is_some() {
        return joined(
            language_from,
            vision_from,
            JoinedModel {
                language: PathBuf::new(),
                vision: PathBuf::new(),
                projector: kind,
                vision_feature_layer,
                vision_feature_select,
                vision_post_layernorm,
            },
            errors,
        );
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
    let vision = vision.map(|vision| {
        let vision = vision_tower(vision, errors);
        let patches = FeatureSelect::patches(vision.model_type);
        VisionLanguageConfig {
            vision,
            projector: kind,
            vision_feature_layer,
            vision_feature_select: vision_feature_select.unwrap_or(patches),
            vision_post_layernorm,
            image_token_id: 0,
        }
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

/// `model.image_token`.
pub(super) fn image_token(raw: &RawModel, errors: &mut Errors) -> Option<String> {
    let token = raw.image_token.clone()?;
    // It is written into chat templates, between quotes.
    if token.trim().is_empty() || token.contains(['\'', '"', '\\']) {
        let hint = "write a special token of the tokenizer, for instance <|image_pad|>";
        errors.refuse("model.image_token", "no token is called so", Some(hint));
    }
    Some(token)
}

/// `model.resize_vocabulary:`.
pub(super) fn resize_vocabulary(raw: &RawModel, errors: &mut Errors) -> Option<ResizeOptions> {
    let RawResizeVocabulary {
        pad_to_multiple_of,
        mean_resizing,
    } = raw.resize_vocabulary.as_ref()?;
    if raw.from.is_none() && raw.language_from.is_none() {
        let why = "a new model has as many rows as model.language.vocab_size says";
        errors.no_effect("model.resize_vocabulary", why);
    }
    Some(ResizeOptions {
        pad_to_multiple_of: *pad_to_multiple_of,
        mean_resizing: *mean_resizing,
    })
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

/// A model of two imported parts; `choice` lacks their folders.
fn joined(
    language: Option<PathBuf>,
    vision: Option<PathBuf>,
    choice: JoinedModel,
    errors: &mut Errors,
) -> ModelChoice {
    for (key, from) in [("language", "language_from"), ("vision", "vision_from")] {
        let reason = format!("model.{from} or its counterpart brings both parts from folders");
        errors.no_effect(&format!("model.{key}"), &reason);
    }
    let mut folder = |path: Option<PathBuf>, key: &str, hint: &str| match path {
        Some(path) => {
            check_folder(key, &path, errors);
            path
        }
        None => {
            errors.refuse(key, "is missing: a model is joined of both parts", Some(hint));
            PathBuf::new()
        }
    };
    ModelChoice::Join(JoinedModel {
        language: folder(
            language,
            "model.language_from",
            "write the folder of a language model",
        ),
        vision: folder(
            vision,
            "model.vision_from",
            "write the folder of a vision tower; a language model alone is model.from",
        ),
        ..choice
    })
}

fn projector_kind(raw: Option<RawProjector>) -> ProjectorKind {
    match raw {
        Some(RawProjector::Linear {}) => ProjectorKind::Linear,
        Some(RawProjector::Mlp {}) | None => ProjectorKind::Mlp2,
        Some(RawProjector::Mlp3 {}) => ProjectorKind::Mlp3,
        Some(RawProjector::PixelShuffle { factor }) => ProjectorKind::PixelShuffle { factor },
        Some(RawProjector::AveragePool { kernel }) => ProjectorKind::AveragePool { kernel },
    }
}

fn feature_select(raw: RawFeatureSelect) -> FeatureSelect {
    match raw {
        RawFeatureSelect::Full => FeatureSelect::Full,
        RawFeatureSelect::Default => FeatureSelect::Default,
    }
}

fn check_folder(key: &str, folder: &Path, errors: &mut Errors) {
    if is_hub_name(folder) {
        return;
    }
    if !fs::exists(folder) {
        let hint = "give the folder with config.json and the safetensors files";
        errors.refuse(key, "there is no such folder", Some(hint));
    } else if !fs::exists(&folder.join("config.json")) {
        let hint = "give the folder of a model in Hugging Face's format";
        errors.refuse(key, "there is no config.json in this folder", Some(hint));
    }
}
