//! `config.json` of a MultiMeditron folder (`MultimodalConfig` and the modality configurations of its source). It names the
//! language model and the two-tower model whose vision tower it has, and describes neither.

use std::path::Path;

use brazier_models::{FeatureSelect, Head, ProjectorKind, VisionLanguageConfig, VlmConfig};
use serde_json::{Map, Value, json};

use super::{
    architecture,
    parts::{read_decoder_config, read_vision_config},
};
use crate::{
    fs,
    hub::{
        Result,
        cache::locate,
        layout::{MultimeditronNames, normed_in_multimeditron},
        section::{Problems, Section},
    },
};

/// Keys of the list of modalities: as every version writes it, and as the model calls it.
pub(in crate::hub) const MODALITIES: [&str; 2] = ["modalities", "modalities_with_projection"];
/// The token that stands for an image where nothing else is said.
const ATTACHMENT_TOKEN: &str = "<|reserved_special_token_0|>";
const MAX_TOKENIZER_BYTES: u64 = 256 << 20;

/// What the file says of itself; the parts' own files say the rest.
struct Said {
    names: MultimeditronNames,
    projector: ProjectorKind,
    vocab_size: Option<usize>,
    hidden_sizes: Vec<(&'static str, usize)>,
    attachment_token: Option<u32>,
}

/// The outer error is of files, the inner one lists what is wrong with the keys.
pub(super) fn read(
    map: &Map<String, Value>,
    path: &Path,
) -> Result<std::result::Result<VlmConfig, Vec<String>>> {
    let problems = Problems::default();
    let root = Section {
        prefix: "",
        map,
        problems: &problems,
    };
    let said = said(root);
    let (Some(said), true) = (said, problems.borrow().is_empty()) else {
        return Ok(Err(problems.into_inner()));
    };
    let env = |name: &str| std::env::var(name).ok();
    let mut text = read_decoder_config(&locate(Path::new(&said.names.llm_path), &env)?)?;
    let tower = read_vision_config(&locate(Path::new(&said.names.clip_name), &env)?)?;
    for (key, size) in &said.hidden_sizes {
        if *size != text.hidden_size {
            let reason = format!("the language model's hidden_size is {}", text.hidden_size);
            root.refuse(key, &json!(size), &reason);
        }
    }
    // The table was resized to the tokenizer.
    text.vocab_size = said.vocab_size.unwrap_or(text.vocab_size);
    let image_token_id = match said.attachment_token {
        Some(id) => id,
        None => tokenizer_token(root, path)?,
    };
    let config = VlmConfig {
        text,
        vision: Some(VisionLanguageConfig {
            projector: said.projector,
            vision_feature_layer: -1,
            vision_feature_select: FeatureSelect::patches(tower.model_type),
            vision_post_layernorm: normed_in_multimeditron(tower.model_type),
            vision: tower,
            image_token_id,
        }),
        head: Head::Lm,
    };
    if problems.borrow().is_empty()
        && let Err(error) = config.validate()
    {
        problems.borrow_mut().push(error.to_string());
    }
    let problems = problems.into_inner();
    Ok(match problems.is_empty() {
        true => Ok(config),
        false => Err(problems),
    })
}

/// The parts that a folder of this kind names, if it does so.
pub(in crate::hub) fn names(map: &Map<String, Value>) -> Option<MultimeditronNames> {
    let problems = Problems::default();
    let said = said(Section {
        prefix: "",
        map,
        problems: &problems,
    });
    said.map(|said| said.names)
}

fn said(root: Section) -> Option<Said> {
    architecture(root, "MultiModalModelForCausalLM");
    let llm_path = root.text("llm_path");
    if llm_path.is_none() {
        let reason = "expected a folder or a name of the hub: the language model is described there";
        root.refuse("llm_path", &Value::Null, reason);
    }
    let modality = only_modality(root)?;
    let inner = modality.child("config", "modalities[0].config.");
    let modality = inner.unwrap_or(modality);
    modality.only("modality_type", &json!("image"), "images are what is read");
    modality.only(
        "use_2d_position_ids",
        &json!(false),
        "positions of tokens are counted in one dimension",
    );
    modality.only("use_bias_proj", &json!(true), "the projector has biases");
    let clip_name = modality.text("clip_name");
    if clip_name.is_none() {
        let reason = "expected a folder or a name of the hub: the vision tower is described there";
        modality.refuse("clip_name", &Value::Null, reason);
    }
    let projector = projector(modality);
    let token = root.size("attachment_token_idx");
    Some(Said {
        names: MultimeditronNames {
            llm_path: llm_path?.to_owned(),
            clip_name: clip_name?.to_owned(),
        },
        projector,
        vocab_size: root.size("vocab_size"),
        hidden_sizes: [
            root.size("hidden_size").map(|size| ("hidden_size", size)),
            modality
                .size("hidden_size")
                .map(|size| ("modalities[0].hidden_size", size)),
        ]
        .into_iter()
        .flatten()
        .collect(),
        attachment_token: token.map(|id| u32::try_from(id).unwrap_or(u32::MAX)),
    })
}

/// The one entry of the list, which must be of the one kind that is built in.
fn only_modality(root: Section<'_>) -> Option<Section<'_>> {
    let Some((key, list)) = MODALITIES
        .into_iter()
        .find_map(|key| Some((key, root.value(key)?)))
    else {
        let reason = "expected a list of one modality; a language model alone is read from its own folder";
        root.refuse(MODALITIES[0], &Value::Null, reason);
        return None;
    };
    let [Value::Object(map)] = list.as_array().map(Vec::as_slice).unwrap_or_default() else {
        root.refuse(key, list, "expected a list of one modality, an object");
        return None;
    };
    let section = Section {
        prefix: "modalities[0].",
        map,
        problems: root.problems,
    };
    let kind = section.value("model_type").unwrap_or(&Value::Null);
    if kind != "meditron_clip" {
        let reason = "only meditron_clip is built in: one vision tower and a projector";
        section.refuse("model_type", kind, reason);
        return None;
    }
    Some(section)
}

fn projector(modality: Section) -> ProjectorKind {
    match modality.text("projection_type") {
        None | Some("mlp") => ProjectorKind::Mlp3,
        Some("pixel_shuffle") => {
            let factor = modality.size("pixel_shuffle_factor");
            if factor.is_none() {
                let reason = "projection_type = pixel_shuffle needs it";
                modality.refuse("pixel_shuffle_factor", &Value::Null, reason);
            }
            ProjectorKind::PixelShuffle {
                factor: factor.unwrap_or(1),
            }
        }
        Some(other) => {
            modality.refuse("projection_type", &other.into(), "expected mlp or pixel_shuffle");
            ProjectorKind::Mlp3
        }
    }
}

/// Later versions do not write the token's id: it is then the usual token of the folder's tokenizer.
fn tokenizer_token(root: Section, config: &Path) -> Result<u32> {
    let file = config.with_file_name("tokenizer.json");
    let id = match file.is_file() {
        false => None,
        true => {
            let bytes = fs::read_at_most(&file, MAX_TOKENIZER_BYTES)?;
            let json: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            let tokens = json["added_tokens"].as_array().cloned().unwrap_or_default();
            let token = tokens.iter().find(|token| token["content"] == ATTACHMENT_TOKEN);
            token
                .and_then(|token| token["id"].as_u64())
                .and_then(|id| u32::try_from(id).ok())
        }
    };
    if id.is_none() {
        let reason = format!(
            "is absent, and the folder's tokenizer.json has no token {ATTACHMENT_TOKEN}; write the id of the token that \
             stands for an image"
        );
        root.refuse("attachment_token_idx", &Value::Null, &reason);
    }
    Ok(id.unwrap_or(0))
}
