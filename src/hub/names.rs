//! Tensor names on disk and in the model.
//!
//! | disk | model |
//! |---|---|
//! | `language_model.model.…`, `language_model.lm_head.weight` (LLaVA up to transformers 4) | the same |
//! | `model.language_model.…`, `lm_head.weight` (LLaVA in memory of transformers 5) | `language_model.model.…`, `language_model.lm_head.weight` |
//! | `vision_tower.vision_model.…`, `vision_tower.…` (transformers 5), either with `model.` before | `vision_tower.vision_model.…` |
//! | `multi_modal_projector.…`, also with `model.` before | `multi_modal_projector.…` |
//! | `model.…`, `lm_head.weight`, `score.weight` (a decoder alone) | `language_model.model.…`, `language_model.lm_head.weight`, `language_model.score.weight` |

use brazier_models::{DecoderConfig, HostDtype, HostTensor, LanguageModelType, MlpKind, ops};

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
            Part::Vision if self.passes_over(name) => None,
            Part::Vision => Some(format!(
                "{VISION}{}",
                name.strip_prefix("vision_model.").unwrap_or(name)
            )),
        }
    }

    /// Whether a stored tensor is left where it is, by design.
    pub(super) fn passes_over(self, name: &str) -> bool {
        self == Part::Vision && OTHER_HALF.iter().any(|other| name.starts_with(other))
    }
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
    let name = name.strip_prefix("model.").unwrap_or(name);
    if let Some(rest) = name.strip_prefix("vision_tower.") {
        return Some(format!(
            "vision_tower.vision_model.{}",
            rest.strip_prefix("vision_model.").unwrap_or(rest)
        ));
    }
    let ours = ["language_model.model.", "multi_modal_projector."];
    (name == LM_HEAD || ours.iter().any(|prefix| name.starts_with(prefix))).then(|| name.into())
}

/// The name under which a tensor of the model is stored, if it has one.
pub(super) fn to_disk(name: &str, has_vision: bool) -> Option<&str> {
    if !has_vision {
        return name.strip_prefix("language_model.");
    }
    let known = [
        "language_model.",
        "multi_modal_projector.",
        "vision_tower.vision_model.",
    ];
    known
        .iter()
        .any(|prefix| name.starts_with(prefix))
        .then_some(name)
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
        check(true, "model.norm.weight", None);
        check(true, "image_newline", None);
        check(false, "vision_tower.x", None);
        check(false, "score.weight", Some(SCORE));
        check(true, "score.weight", None);
    }
}
