//! Tensor names on disk and in the model.
//!
//! | disk | model |
//! |---|---|
//! | `language_model.model.…`, `language_model.lm_head.weight` (LLaVA up to transformers 4) | the same |
//! | `model.language_model.…`, `lm_head.weight` (LLaVA in memory of transformers 5) | `language_model.model.…`, `language_model.lm_head.weight` |
//! | `vision_tower.vision_model.…`, `vision_tower.…` (transformers 5), either with `model.` before | `vision_tower.vision_model.…` |
//! | `multi_modal_projector.…`, also with `model.` before | `multi_modal_projector.…` |
//! | `model.…`, `lm_head.weight`, `score.weight` (a decoder alone) | `language_model.model.…`, `language_model.lm_head.weight`, `language_model.score.weight` |

/// Weight of the output projection.
pub(super) const LM_HEAD: &str = "language_model.lm_head.weight";
/// Weight of a classification head.
const SCORE: &str = "language_model.score.weight";
/// Weight of the embedding table, which a tied head shares.
pub(super) const EMBEDDING: &str = "language_model.model.embed_tokens.weight";

/// Constants that older programs stored beside the weights; models compute them.
const STORED_CONSTANTS: [&str; 2] = [".rotary_emb.inv_freq", ".embeddings.position_ids"];

/// Whether a stored tensor is no weight.
pub(super) fn is_constant(name: &str) -> bool {
    STORED_CONSTANTS.iter().any(|constant| name.ends_with(constant))
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
