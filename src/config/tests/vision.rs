//! Vision towers, projectors and what joins them to a decoder.

use brazier_models::{
    FeatureSelect, LoraConfig, LoraParts, LoraTargets, ProjectorKind, Segment, VisionActivation,
    VisionLanguageConfig, VisionModelType,
};

use super::*;
use crate::config::ImagesOfRun;

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

/// What is kept of an image: the hidden state that enters the first part that learns.
#[test]
fn features_of_a_tower_that_rests_are_kept() {
    const MIB: u64 = 1 << 20;
    let images = ImagesOfRun {
        train: 100,
        train_shares: false,
        epochs: 3.0,
        eval: 20,
    };
    let plan = |sets: &[&str], images| {
        let run = resolve_base(sets).unwrap();
        let model = run.model_config(300, Some(3)).unwrap().unwrap();
        (
            run.resting_vision(&model, None),
            run.vision_cache(&model, None, images, 4 * MIB),
        )
    };
    // 17 tokens of width 32 out of the tower, 16 of width 64 out of the projector.
    for (sets, after, image_bytes) in [
        (vec!["train.mode=alignment"], Segment::VisionBlock(1), 4 * 17 * 32),
        (
            vec!["train.mode=end_to_end", "train.precision=bf16"],
            Segment::VisionBlock(1),
            2 * 17 * 32,
        ),
        (vec!["train.mode=lm_only"], Segment::Projector, 4 * 16 * 64),
        (
            vec!["train.mode=alignment", "model.vision_feature_layer=0"],
            Segment::VisionEmbeddings,
            4 * 17 * 32,
        ),
    ] {
        let (found, cache) = plan(&sets, images);
        assert_eq!(found, Some(after), "{sets:?}");
        let cache = cache.unwrap();
        assert_eq!(
            (cache.image_bytes, cache.budget_bytes),
            (image_bytes, MIB),
            "{sets:?}"
        );
        assert_eq!((cache.train_images, cache.eval_images), (100, 20), "{sets:?}");
    }
    assert_eq!(plan(&["train.mode=full"], images), (None, None));
    // Beside adapters on the language model alone, the tower rests in any mode.
    let run = resolve_base(&["train.mode=full"]).unwrap();
    let model = run.model_config(300, Some(3)).unwrap().unwrap();
    for (parts, after) in [
        (LoraParts::Language, Some(Segment::VisionBlock(1))),
        (LoraParts::Vision, None),
        (LoraParts::Both, None),
    ] {
        let lora = LoraConfig {
            r: 2,
            lora_alpha: 4.0,
            lora_dropout: 0.0,
            use_rslora: false,
            target_modules: LoraTargets::AllLinear,
            parts,
        };
        assert_eq!(run.resting_vision(&model, Some(&lora)), after, "{parts:?}");
    }
    let frozen = "train.mode=lm_only";
    // Held-out images come with each evaluation.
    let shown = |sets: &[&str], images| plan(sets, images).1.map(|cache| cache.to_string());
    assert_eq!(
        shown(&[frozen], images).as_deref(),
        Some("all 120 images, 4.0 KiB each: 480.0 KiB of at most 1.0 MiB of host memory")
    );
    assert_eq!(
        shown(&[frozen, "train.vision_cache_gib=1e-4"], images).as_deref(),
        Some("the first 26 of 120 images, 4.0 KiB each: 104.0 KiB of at most 104.9 KiB of host memory")
    );
    assert_eq!(shown(&[frozen, "train.vision_cache_gib=0"], images), None);
    // In one pass no image comes again, unless rows share it.
    let once = ImagesOfRun {
        epochs: 1.0,
        eval: 0,
        ..images
    };
    assert_eq!(shown(&[frozen], once), None);
    let shared = ImagesOfRun {
        train_shares: true,
        ..once
    };
    assert!(shown(&[frozen], shared).is_some());
}

#[test]
fn memory_for_features_that_nobody_makes_is_refused() {
    let refused = |sets: &[&str]| {
        let run = resolve_base(sets)?;
        run.model_config(300, Some(3))
    };
    assert_refused(
        refused(&["train.mode=full", "train.vision_cache_gib=4"]),
        "--set: train.vision_cache_gib = 4: has no effect: the vision tower learns\n  hint: take it out",
    );
    assert!(refused(&["train.mode=full", "train.vision_cache_gib=0"]).is_ok());
    assert!(refused(&["train.mode=alignment", "train.vision_cache_gib=4"]).is_ok());
}
