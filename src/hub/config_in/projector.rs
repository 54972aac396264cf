//! What joins a vision tower to a decoder, in `config.json`.

use brazier_models::{FeatureSelect, ProjectorKind};
use serde_json::Value;

use crate::hub::section::Section;

const KINDS: &str = "expected mlp, mlp3, linear, pixel_shuffle or average_pool";

/// `projector` of the folders that only this program reads.
pub(super) fn projector(root: Section) -> ProjectorKind {
    let Some(section) = root.child("projector", "projector.") else {
        let reason = format!("an object with a kind; {KINDS}");
        root.refuse("projector", &Value::Null, &reason);
        return ProjectorKind::Mlp2;
    };
    match section.text("kind") {
        Some("mlp") => ProjectorKind::Mlp2,
        Some("mlp3") => ProjectorKind::Mlp3,
        Some("linear") => ProjectorKind::Linear,
        Some("pixel_shuffle") => ProjectorKind::PixelShuffle {
            factor: section.size("factor").unwrap_or(0),
        },
        Some("average_pool") => ProjectorKind::AveragePool {
            kernel: section.size("kernel").unwrap_or(0),
        },
        other => {
            section.refuse("kind", &other.into(), KINDS);
            ProjectorKind::Mlp2
        }
    }
}

/// Tokens of the tower that are used.
pub(super) fn feature_select(root: Section) -> FeatureSelect {
    match root.text("vision_feature_select_strategy") {
        None | Some("default") => FeatureSelect::Default,
        Some("full") => FeatureSelect::Full,
        Some(other) => {
            let key = "vision_feature_select_strategy";
            root.refuse(key, &other.into(), "expected default or full");
            FeatureSelect::Default
        }
    }
}
