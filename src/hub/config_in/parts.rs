//! The folders of a language model and of a vision tower to the configuration of the model that joins them.

use std::path::Path;

use brazier_models::{
    DecoderConfig, FeatureSelect, Head, ProjectorKind, VisionConfig, VisionLanguageConfig, VisionModelType,
    VlmConfig,
};
use serde_json::Value;

use super::{read_config, read_json, vision::vision};
use crate::hub::{
    HubError, Result,
    section::{Problems, Section},
};

/// How a vision tower is joined to a language model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct JoinOptions {
    /// What turns image features into token embeddings.
    pub projector: ProjectorKind,
    /// Hidden state of the tower that is used.
    pub vision_feature_layer: i64,
    /// Tokens of the tower that are used; `None` for its patches.
    pub vision_feature_select: Option<FeatureSelect>,
    /// Whether the tower's last norm is applied to the last hidden state.
    pub vision_post_layernorm: bool,
    /// The token that stands for an image.
    pub image_token_id: u32,
    /// Rows of the vocabulary, where they are not those of the language model.
    pub vocab_size: Option<usize>,
}

/// The model that a language model's folder and a vision tower's folder make together.
///
/// # Errors
/// As [`read_decoder_config`] and [`read_vision_config`], and if the parts do not fit.
pub fn join_configs(language: &Path, vision: &Path, options: &JoinOptions) -> Result<VlmConfig> {
    let text = read_decoder_config(language)?;
    let tower = read_vision_config(vision)?;
    let patches = FeatureSelect::patches(tower.model_type);
    let config = VlmConfig {
        text: DecoderConfig {
            vocab_size: options.vocab_size.unwrap_or(text.vocab_size),
            ..text
        },
        vision: Some(VisionLanguageConfig {
            vision: tower,
            projector: options.projector,
            vision_feature_layer: options.vision_feature_layer,
            vision_feature_select: options.vision_feature_select.unwrap_or(patches),
            vision_post_layernorm: options.vision_post_layernorm,
            image_token_id: options.image_token_id,
        }),
        head: Head::Lm,
    };
    config.validate().map_err(|error| HubError::Config {
        path: vision.join("config.json"),
        problems: vec![error.to_string()],
    })?;
    Ok(config)
}

/// Reads `config.json` of a folder with a language model alone.
///
/// # Errors
/// As [`read_config`], and if the model has a vision part already.
pub fn read_decoder_config(dir: &Path) -> Result<DecoderConfig> {
    let VlmConfig {
        text,
        vision,
        head: _,
    } = read_config(dir)?;
    match vision {
        None => Ok(text),
        Some(_) => Err(HubError::Config {
            path: dir.join("config.json"),
            problems: vec![
                "a vision-language model where a language model is expected\n  hint: take it whole, as model.from"
                    .into(),
            ],
        }),
    }
}

/// Reads `config.json` of a folder with a vision tower (`clip_vision_model`, `siglip_vision_model`), or with a two-tower
/// model (`clip`, `siglip`), of which the vision tower is taken.
///
/// # Errors
/// As [`read_config`].
pub fn read_vision_config(dir: &Path) -> Result<VisionConfig> {
    let (path, map) = read_json(dir)?;
    let problems = Problems::default();
    let root = Section {
        prefix: "",
        map: &map,
        problems: &problems,
    };
    let model_type = root.text("model_type").unwrap_or_default();
    let two_towers = |own| {
        let section = root.child("vision_config", "vision_config.");
        if section.is_none() {
            let reason = format!("expected an object, the vision tower of a {model_type} model");
            root.refuse("vision_config", &Value::Null, &reason);
        }
        section.map(|section| vision(section, own))
    };
    let config = match model_type {
        "clip" => two_towers(VisionModelType::Clip),
        "siglip" => two_towers(VisionModelType::Siglip),
        "siglip2" => {
            let reason = "SigLIP 2 of variable resolution (NaFlex) is not built in; take one of fixed resolution, whose \
                          config.json says siglip";
            root.refuse("model_type", &model_type.into(), reason);
            None
        }
        one if one.ends_with("_vision_model") => Some(vision(root, VisionModelType::Clip)),
        other => {
            let reason = "expected a vision tower (clip_vision_model, siglip_vision_model) or a two-tower model (clip, \
                          siglip)";
            root.refuse("model_type", &other.into(), reason);
            None
        }
    };
    let mut problems = problems.into_inner();
    match config {
        Some(config) if problems.is_empty() => match config.validate() {
            Ok(()) => return Ok(config),
            Err(error) => problems.push(error.to_string()),
        },
        _ => {}
    }
    Err(HubError::Config { path, problems })
}
