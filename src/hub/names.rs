//! Tensor names on disk and in the model.
//!
//! | disk | model |
//! |---|---|
//! | `language_model.model.…`, `language_model.lm_head.weight` (LLaVA up to transformers 4) | the same |
//! | `model.language_model.…`, `lm_head.weight` (LLaVA in memory of transformers 5) | `language_model.model.…`, `language_model.lm_head.weight` |
//! | `vision_tower.vision_model.…`, `vision_tower.…` (transformers 5), either with `model.` before | `vision_tower.vision_model.…` |
//! | `multi_modal_projector.…`, also with `model.` before | `multi_modal_projector.…` |
//! | `model.model.…`, `model.lm_head.weight` (MultiMeditron) | `language_model.model.…`, `language_model.lm_head.weight` |
//! | `modalities_with_projection.0.feature_extractor.vision_model.…` (MultiMeditron) | `vision_tower.vision_model.…` |
//! | `modalities_with_projection.0.projector.projection.{0,2,4}.…`, `….projector.proj.…` (MultiMeditron) | `multi_modal_projector.linear_{1,2,3}.…` |
//! | `model.…`, `lm_head.weight`, `score.weight` (a decoder alone) | `language_model.model.…`, `language_model.lm_head.weight`, `language_model.score.weight` |
//!
//! MultiMeditron has had three spellings of its modalities. All are read, the last is written; see [`modality_part`].

use std::borrow::Cow;

use brazier_models::{
    DecoderConfig, HostDtype, HostTensor, LanguageModelType, MlpKind, ProjectorKind, VlmConfig, ops,
};

use super::layout::Layout;

/// Weight of the output projection.
pub(super) const LM_HEAD: &str = "language_model.lm_head.weight";
/// Weight of a classification head.
const SCORE: &str = "language_model.score.weight";
/// Weight of the embedding table, which a tied head shares.
pub(super) const EMBEDDING: &str = "language_model.model.embed_tokens.weight";

/// Constants that are stored beside the weights; models compute them.
const STORED_CONSTANTS: [&str; 2] = [".rotary_emb.inv_freq", ".embeddings.position_ids"];

/// Numbers of xIELU that no configuration has: each block stores them as scalars beside its weights.
const XIELU: [(&str, f64); 2] = [
    (".mlp.act_fn.beta", ops::XIELU_BETA),
    (".mlp.act_fn.eps", ops::XIELU_EPS),
];

/// What a stored constant must be, if that can be said.
pub(super) fn constant_value(name: &str) -> Option<f64> {
    let found = XIELU.iter().find(|(constant, _)| name.ends_with(constant));
    found.map(|&(_, value)| value)
}

/// Scalars that transformers expects beside the weights, under the model's names.
pub(super) fn constants(text: &DecoderConfig) -> Vec<HostTensor> {
    let layers = match text.mlp {
        MlpKind::SwiGlu => 0,
        MlpKind::Xielu => text.num_hidden_layers,
    };
    let scalar = |layer: usize, (name, value): (&str, f64)| HostTensor {
        name: format!("language_model.model.layers.{layer}{name}"),
        shape: Vec::new(),
        dtype: HostDtype::F32,
        bytes: (value as f32).to_le_bytes().to_vec(),
    };
    (0..layers)
        .flat_map(|layer| XIELU.map(|constant| scalar(layer, constant)))
        .collect()
}

/// transformers' class for the decoder alone with its head.
pub(super) fn causal_lm(family: LanguageModelType) -> &'static str {
    match family {
        LanguageModelType::Llama => "LlamaForCausalLM",
        LanguageModelType::Mistral => "MistralForCausalLM",
        LanguageModelType::Qwen2 => "Qwen2ForCausalLM",
        LanguageModelType::Qwen3 => "Qwen3ForCausalLM",
        LanguageModelType::Apertus => "ApertusForCausalLM",
    }
}

/// transformers' class for the decoder alone with a classification head.
pub(super) fn sequence_classification(family: LanguageModelType) -> &'static str {
    match family {
        LanguageModelType::Llama => "LlamaForSequenceClassification",
        LanguageModelType::Mistral => "MistralForSequenceClassification",
        LanguageModelType::Qwen2 => "Qwen2ForSequenceClassification",
        LanguageModelType::Qwen3 => "Qwen3ForSequenceClassification",
        LanguageModelType::Apertus => "ApertusForSequenceClassification",
    }
}

/// Whether a stored tensor is no weight.
pub(super) fn is_constant(name: &str) -> bool {
    STORED_CONSTANTS.iter().any(|constant| name.ends_with(constant)) || constant_value(name).is_some()
}

/// What a folder holds of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// A decoder alone, of a model that sees.
    Language,
    /// A vision tower alone, or a two-tower model of which the vision tower is taken (CLIP, SigLIP).
    Vision,
}

/// A two-tower model's other half and what joins the two. They are no part of a vision tower.
const OTHER_HALF: [&str; 5] = [
    "text_model.",
    "text_projection.",
    "visual_projection.",
    "logit_scale",
    "logit_bias",
];
/// Where the vision tower is in the model.
const VISION: &str = "vision_tower.vision_model.";
/// Where the projector is in the model.
const PROJECTOR: &str = "multi_modal_projector.";

impl Part {
    /// Whether a parameter of the model belongs to the part.
    pub(super) fn holds(self, name: &str) -> bool {
        match self {
            Part::Whole => true,
            Part::Language => name.starts_with("language_model."),
            Part::Vision => name.starts_with(VISION),
        }
    }

    /// The model's name of a tensor on disk, if it can be one. `has_vision` is about the whole model.
    pub(super) fn model_name(self, name: &str, has_vision: bool) -> Option<String> {
        match self {
            Part::Whole => from_disk(name, has_vision),
            Part::Language => from_disk(name, false),
            Part::Vision if self.other_half(name).is_some() => None,
            Part::Vision => Some(format!(
                "{VISION}{}",
                name.strip_prefix("vision_model.").unwrap_or(name)
            )),
        }
    }

    /// The name of a stored tensor that belongs to the other half of the tower's two-tower model. It is no part of the model;
    /// MultiMeditron's folders have it all the same.
    pub(super) fn other_half(self, name: &str) -> Option<String> {
        let modality;
        let inside = match self {
            Part::Language => return None,
            Part::Vision => name,
            Part::Whole => {
                modality = modality_part(name)?;
                modality.strip_prefix(FEATURE_EXTRACTOR)?
            }
        };
        let is_other = OTHER_HALF.iter().any(|other| inside.starts_with(other));
        is_other.then(|| format!("{OTHER_TOWER}{inside}"))
    }
}

/// Before names of the two-tower model's other half.
const OTHER_TOWER: &str = "two_towers.";
/// MultiMeditron's two-tower model, inside a modality.
const FEATURE_EXTRACTOR: &str = "feature_extractor.";
/// The first modality, as MultiMeditron's last versions write it.
const MODALITY: &str = "modalities_with_projection.0.";

/// What follows the name of the first modality, in the words of MultiMeditron's last versions.
///
/// | until September 2025 | then | last |
/// |---|---|---|
/// | `modalities.0.modality.feature_extractor.…` | `modalities.0.feature_extractor.…` | `modalities_with_projection.0.feature_extractor.…` |
/// | `modalities.0.projection.…` | `modalities.0.projector.projection.…` | `modalities_with_projection.0.projector.projection.…` |
fn modality_part(name: &str) -> Option<Cow<'_, str>> {
    if let Some(rest) = name.strip_prefix(MODALITY) {
        return Some(rest.into());
    }
    let rest = name.strip_prefix("modalities.0.")?;
    if rest.starts_with("projection.") {
        return Some(format!("projector.{rest}").into());
    }
    Some(rest.strip_prefix("modality.").unwrap_or(rest).into())
}

/// The model's name of a tensor in MultiMeditron's folder.
fn from_multimeditron(name: &str) -> Option<String> {
    if let Some(rest) = name
        .strip_prefix("model.")
        .filter(|rest| rest.starts_with("model.") || *rest == "lm_head.weight")
    {
        return Some(format!("language_model.{rest}"));
    }
    let part = modality_part(name)?;
    if let Some(rest) = part.strip_prefix(FEATURE_EXTRACTOR) {
        return Some(format!("{VISION}{}", rest.strip_prefix("vision_model.")?));
    }
    let inside = part.strip_prefix("projector.")?;
    let (layer, rest) = match inside.strip_prefix("projection.") {
        Some(inside) => inside.split_once('.')?,
        None => ("0", inside.strip_prefix("proj.")?),
    };
    // Every second module is an activation.
    let layer: usize = layer.parse().ok().filter(|layer| layer % 2 == 0)?;
    Some(format!("{PROJECTOR}linear_{}.{rest}", layer / 2 + 1))
}

/// The name under which MultiMeditron's folder stores a tensor of the model.
fn to_multimeditron(name: &str, projector: ProjectorKind) -> Option<String> {
    if name.starts_with("language_model.") {
        return Some(format!("model.{}", name.strip_prefix("language_model.")?));
    }
    if let Some(rest) = name.strip_prefix(VISION) {
        return Some(format!("{MODALITY}{FEATURE_EXTRACTOR}vision_model.{rest}"));
    }
    if let Some(rest) = name.strip_prefix(OTHER_TOWER) {
        return Some(format!("{MODALITY}{FEATURE_EXTRACTOR}{rest}"));
    }
    let (layer, rest) = name
        .strip_prefix(PROJECTOR)?
        .strip_prefix("linear_")?
        .split_once('.')?;
    if matches!(projector, ProjectorKind::PixelShuffle { .. }) {
        return Some(format!("{MODALITY}projector.proj.{rest}"));
    }
    let layer: usize = layer.parse().ok()?;
    Some(format!(
        "{MODALITY}projector.projection.{}.{rest}",
        2 * (layer - 1)
    ))
}

/// The model's name of a tensor on disk, if it can be one.
pub(super) fn from_disk(name: &str, has_vision: bool) -> Option<String> {
    if name == "lm_head.weight" {
        return Some(LM_HEAD.into());
    }
    if name == "score.weight" {
        return (!has_vision).then(|| SCORE.into());
    }
    if !has_vision {
        return Some(format!("language_model.model.{}", name.strip_prefix("model.")?));
    }
    if let Some(rest) = name.strip_prefix("model.language_model.") {
        return Some(format!("language_model.model.{rest}"));
    }
    if let Some(name) = from_multimeditron(name) {
        return Some(name);
    }
    let name = name.strip_prefix("model.").unwrap_or(name);
    if let Some(rest) = name.strip_prefix("vision_tower.") {
        return Some(format!(
            "vision_tower.vision_model.{}",
            rest.strip_prefix("vision_model.").unwrap_or(rest)
        ));
    }
    let ours = ["language_model.model.", PROJECTOR];
    (name == LM_HEAD || ours.iter().any(|prefix| name.starts_with(prefix))).then(|| name.into())
}

/// The name under which a tensor of the model is stored, if it has one.
pub(super) fn to_disk<'a>(name: &'a str, layout: Layout, config: &VlmConfig) -> Option<Cow<'a, str>> {
    let projector = config.vision.as_ref().map(|vision| vision.projector);
    match (layout, projector) {
        (Layout::Multimeditron, Some(projector)) => to_multimeditron(name, projector).map(Cow::Owned),
        (Layout::Decoder | Layout::Multimeditron, _) => {
            name.strip_prefix("language_model.").map(Cow::Borrowed)
        }
        (Layout::Llava | Layout::Brazier, _) => ["language_model.", PROJECTOR, VISION]
            .iter()
            .any(|prefix| name.starts_with(prefix))
            .then_some(Cow::Borrowed(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layout_maps_to_ours() {
        let check = |has_vision: bool, disk: &str, model: Option<&str>| {
            assert_eq!(from_disk(disk, has_vision).as_deref(), model, "{disk}");
        };
        let norm = Some("language_model.model.norm.weight");
        check(true, "language_model.model.norm.weight", norm);
        check(true, "model.language_model.norm.weight", norm);
        check(false, "model.norm.weight", norm);
        for disk in ["language_model.lm_head.weight", "lm_head.weight"] {
            check(true, disk, Some(LM_HEAD));
        }
        check(false, "lm_head.weight", Some(LM_HEAD));
        for disk in [
            "vision_tower.vision_model.x",
            "vision_tower.x",
            "model.vision_tower.x",
            "model.vision_tower.vision_model.x",
        ] {
            check(true, disk, Some("vision_tower.vision_model.x"));
        }
        for disk in [
            "multi_modal_projector.linear_1.bias",
            "model.multi_modal_projector.linear_1.bias",
        ] {
            check(true, disk, Some("multi_modal_projector.linear_1.bias"));
        }
        for (disk, model) in [
            ("model.model.norm.weight", "language_model.model.norm.weight"),
            ("model.lm_head.weight", LM_HEAD),
            (
                "modalities.0.modality.feature_extractor.vision_model.x",
                "vision_tower.vision_model.x",
            ),
            (
                "modalities.0.feature_extractor.vision_model.x",
                "vision_tower.vision_model.x",
            ),
            (
                "modalities_with_projection.0.feature_extractor.vision_model.x",
                "vision_tower.vision_model.x",
            ),
            (
                "modalities.0.projection.4.bias",
                "multi_modal_projector.linear_3.bias",
            ),
            (
                "modalities.0.projector.projection.2.bias",
                "multi_modal_projector.linear_2.bias",
            ),
            (
                "modalities_with_projection.0.projector.projection.0.bias",
                "multi_modal_projector.linear_1.bias",
            ),
            (
                "modalities_with_projection.0.projector.proj.bias",
                "multi_modal_projector.linear_1.bias",
            ),
        ] {
            check(true, disk, Some(model));
        }
        for lost in [
            "modalities.1.projection.0.bias",
            "modalities.0.projection.1.bias",
            "modalities.0.experts.0.vision_model.x",
            "modalities_with_projection.0.feature_extractor.text_model.x",
        ] {
            check(true, lost, None);
        }
        check(true, "model.norm.weight", None);
        check(true, "image_newline", None);
        check(false, "vision_tower.x", None);
        check(false, "score.weight", Some(SCORE));
        check(true, "score.weight", None);
    }

    #[test]
    fn the_other_half_of_two_towers_is_told_from_the_tower() {
        let logit_scale = Some("two_towers.logit_scale");
        let check = |part: Part, name: &str, expected: Option<&str>| {
            assert_eq!(part.other_half(name).as_deref(), expected, "{name}");
        };
        for prefix in [
            "modalities.0.modality",
            "modalities.0",
            "modalities_with_projection.0",
        ] {
            check(
                Part::Whole,
                &format!("{prefix}.feature_extractor.logit_scale"),
                logit_scale,
            );
        }
        check(Part::Vision, "logit_scale", logit_scale);
        check(Part::Language, "logit_scale", None);
        check(Part::Whole, "logit_scale", None);
        check(Part::Vision, "vision_model.post_layernorm.bias", None);
    }
}
