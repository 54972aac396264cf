//! Vision towers, projectors and what joins them to a decoder.

use brazier_models::{FeatureSelect, ProjectorKind, VisionActivation, VisionLanguageConfig, VisionModelType};

use super::*;

fn vision(sets: &[&str]) -> VisionLanguageConfig {
    let run = resolve_base(sets).unwrap();
    let ModelChoice::New(new) = &run.model else {
        panic!("a new model")
    };
    // The file that a run leaves behind means the same.
    let again = resolve_text(&run.to_yaml().unwrap()).unwrap();
    assert_eq!(again.model, run.model);
    new.config.vision.clone().unwrap()
}

#[test]
fn a_family_brings_its_own_defaults() {
    let clip = vision(&[]);
    assert_eq!(clip.vision.model_type, VisionModelType::Clip);
    assert_eq!(clip.vision.hidden_act, VisionActivation::QuickGelu);
    assert_eq!(clip.vision.layer_norm_eps, 1e-5);
    assert_eq!(clip.vision_feature_select, FeatureSelect::Default);
    assert!(!clip.vision_post_layernorm);
    let siglip = vision(&["model.vision.model_type=siglip"]);
    assert_eq!(siglip.vision.model_type, VisionModelType::Siglip);
    assert_eq!(siglip.vision.hidden_act, VisionActivation::GeluTanh);
    assert_eq!(siglip.vision.layer_norm_eps, 1e-6);
    assert_eq!(siglip.vision_feature_select, FeatureSelect::Full);
    assert!(!siglip.vision.vision_use_head);
    assert_eq!(siglip.num_image_tokens(), 16);
    let other = vision(&[
        "model.vision.model_type=siglip",
        "model.vision.hidden_act=gelu",
        "model.vision_post_layernorm=true",
    ]);
    assert_eq!(other.vision.hidden_act, VisionActivation::Gelu);
    assert!(other.vision_post_layernorm);
}

#[test]
fn projectors_by_name() {
    for (written, kind, tokens) in [
        ("{kind: mlp3}", ProjectorKind::Mlp3, 16),
        (
            "{kind: pixel_shuffle, factor: 4}",
            ProjectorKind::PixelShuffle { factor: 4 },
            1,
        ),
        (
            "{kind: average_pool, kernel: 2}",
            ProjectorKind::AveragePool { kernel: 2 },
            4,
        ),
    ] {
        let vision = vision(&[&format!("model.projector={written}")]);
        assert_eq!((vision.projector, vision.num_image_tokens()), (kind, tokens));
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let check = |sets: &[&str], expected: &str| {
        let error = words(&resolve_base(sets).unwrap_err());
        assert!(error.contains(expected), "{error}");
    };
    check(
        &["model.projector={kind: average_pool, kernel: 3}"],
        "--set: model.projector.kernel = 3: must divide the patch grid's side = 4",
    );
    check(
        &[
            "model.vision.model_type=siglip",
            "model.vision_feature_select=default",
        ],
        "--set: model.vision_feature_select = default: it drops the class token, and a siglip_vision_model has none",
    );
    check(
        &[
            "model.vision_post_layernorm=true",
            "model.vision_feature_layer=-2",
        ],
        "--set: model.vision_post_layernorm = true: the tower's last norm belongs to its last hidden state",
    );
    let error = load_text(BASE, &["model.vision.model_type=dinov2"]).unwrap_err();
    assert!(
        words(&error).contains("model.vision.model_type = dinov2"),
        "{}",
        words(&error)
    );
}
