//! Which kind of folder a model is or becomes.

use brazier_models::{FeatureSelect, Head, ProjectorKind, VisionLanguageConfig, VisionModelType, VlmConfig};

use super::{
    HubError, Result,
    names::{causal_lm, sequence_classification},
};

/// Model type of folders that only this program reads.
pub(super) const BRAZIER_VLM: &str = "brazier_vlm";
/// Model type of MultiMeditron's folders.
pub(super) const MULTIMODAL: &str = "multimodal";

/// A kind of folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// A decoder alone.
    Decoder,
    /// `LlavaForConditionalGeneration` of transformers.
    Llava,
    /// `MultiModalModelForCausalLM` of MultiMeditron, which names its parts and does not describe them.
    Multimeditron,
    /// As LLaVA, with what that cannot say.
    Brazier,
}

/// The parts of a model as MultiMeditron's `config.json` names them: folders, or models of the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MultimeditronNames {
    /// The language model.
    pub llm_path: String,
    /// The two-tower model whose vision tower is used.
    pub clip_name: String,
}

/// Which kind of folder an export is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExportLayout {
    /// The kind of the folder that the model comes from if that is MultiMeditron's; else the one that most programs load.
    Auto,
    /// [`Layout::Llava`].
    Llava,
    /// [`Layout::Multimeditron`]; without names those of the folder that the model comes from.
    Multimeditron(Option<MultimeditronNames>),
    /// [`Layout::Brazier`].
    Brazier,
}

impl Layout {
    /// The kind that [`ExportLayout::Auto`] means for a model from a folder of that `model_type`.
    pub(super) fn auto(config: &VlmConfig, source: Option<&str>) -> Self {
        let Some(vision) = &config.vision else {
            return Layout::Decoder;
        };
        if source == Some(MULTIMODAL) && multimeditron_lacks(vision).is_none() {
            Layout::Multimeditron
        } else if llava_lacks(vision).is_none() {
            Layout::Llava
        } else {
            Layout::Brazier
        }
    }

    /// The kind that an export has.
    ///
    /// # Errors
    /// If the kind that is asked for has no room for the model.
    pub(super) fn choose(config: &VlmConfig, wanted: &ExportLayout, source: Option<&str>) -> Result<Self> {
        let (layout, name, lacks): (_, _, fn(&_) -> _) = match wanted {
            ExportLayout::Auto => return Ok(Self::auto(config, source)),
            ExportLayout::Brazier => (Layout::Brazier, "Brazier's layout", |_| None),
            ExportLayout::Llava => (Layout::Llava, "LLaVA's layout", llava_lacks),
            ExportLayout::Multimeditron(_) => (
                Layout::Multimeditron,
                "MultiMeditron's layout",
                multimeditron_lacks,
            ),
        };
        let problem = match &config.vision {
            None => Some(("the model".to_owned(), "it is for models that see")),
            Some(vision) => lacks(vision),
        };
        match problem {
            None => Ok(layout),
            Some((what, reason)) => Err(HubError::Inexpressible {
                what: format!("{what} in {name}"),
                reason: reason.into(),
            }),
        }
    }

    /// Class that loads the folder.
    pub fn architecture(self, config: &VlmConfig) -> &'static str {
        match self {
            Layout::Decoder => match config.head {
                Head::Lm => causal_lm(config.text.model_type),
                Head::Classification { .. } => sequence_classification(config.text.model_type),
            },
            Layout::Llava => "LlavaForConditionalGeneration",
            Layout::Multimeditron => "MultiModalModelForCausalLM",
            Layout::Brazier => "BrazierVlm",
        }
    }

    /// Whether transformers has that class.
    pub fn loads_in_transformers(self) -> bool {
        matches!(self, Layout::Decoder | Layout::Llava)
    }

    /// Who loads the folder, in words.
    pub fn readers(self) -> &'static str {
        match self {
            Layout::Decoder | Layout::Llava => "transformers and vLLM load it",
            Layout::Multimeditron => "MultiMeditron loads it",
            Layout::Brazier => "for this program only",
        }
    }
}

/// What of a model a layout has no room for: key and value, and why.
type Lack = Option<(String, &'static str)>;

fn llava_lacks(vision: &VisionLanguageConfig) -> Lack {
    if vision.projector != ProjectorKind::Mlp2 {
        let what = format!("projector = {:?}", vision.projector);
        return Some((what, "its projector has two layers"));
    }
    let reason = "it takes hidden states as the blocks leave them";
    vision
        .vision_post_layernorm
        .then(|| ("vision_post_layernorm = true".to_owned(), reason))
}

/// Tokens are the patches of `last_hidden_state`, after the last norm in SigLIP and before it in CLIP.
fn multimeditron_lacks(vision: &VisionLanguageConfig) -> Lack {
    let family = vision.vision.model_type;
    if !matches!(
        vision.projector,
        ProjectorKind::Mlp3 | ProjectorKind::PixelShuffle { .. }
    ) {
        let what = format!("projector = {:?}", vision.projector);
        return Some((
            what,
            "its projectors are the MLP of three layers and pixel shuffle",
        ));
    }
    if vision.vision_feature_layer != -1 {
        let what = format!("vision_feature_layer = {}", vision.vision_feature_layer);
        return Some((what, "it takes the last hidden state, -1"));
    }
    if vision.vision_feature_select != FeatureSelect::patches(family) {
        let what = format!("vision_feature_select = {}", vision.vision_feature_select.name());
        return Some((what, "it takes the patches alone"));
    }
    let norms = normed_in_multimeditron(family);
    let what = format!("vision_post_layernorm = {}", vision.vision_post_layernorm);
    (vision.vision_post_layernorm != norms).then_some((
        what,
        "it norms the last state of a SigLIP tower, and that of CLIP not",
    ))
}

/// Whether `last_hidden_state` of a family has gone through the tower's last norm.
pub(super) fn normed_in_multimeditron(family: VisionModelType) -> bool {
    match family {
        VisionModelType::Clip => false,
        VisionModelType::Siglip => true,
    }
}
