//! Which parameters move, decay, and how fast.

use brazier::learner::{
    Learner, LearnerError, Part,
    options::{StepConfig, TrainMode},
};
use brazier_models::{HostTensor, Vlm, VlmConfig};
use burn::tensor::{DType, Device};

use crate::{
    all_weights, batches, devices_by_precision, learner, moved,
    support::{devices, f32s, plain_step, tiny_vlm},
};

/// All weights before and after some steps.
fn before_and_after(
    config: &StepConfig,
    steps: usize,
    device: &Device,
) -> (Vec<HostTensor>, Vec<HostTensor>) {
    let mut learner = learner(config, 1, device);
    let before = all_weights(&learner);
    for step in 0..steps {
        learner.step(&batches(step, 4)).unwrap();
    }
    (before, all_weights(&learner))
}

/// With weight decay, since that would move what has no gradient.
#[test]
fn each_mode_moves_its_parts_and_no_bit_of_the_others() {
    let cases = [
        (TrainMode::Alignment, vec![Part::Projector]),
        (TrainMode::EndToEnd, vec![Part::Projector, Part::Language]),
        (TrainMode::LmOnly, vec![Part::Language]),
        (
            TrainMode::Full,
            vec![Part::Projector, Part::Language, Part::Vision],
        ),
    ];
    for (precision, device) in &devices_by_precision() {
        for (mode, parts) in &cases {
            let mut config = StepConfig {
                precision: *precision,
                ..plain_step(*mode)
            };
            (config.optimizer.weight_decay, config.optimizer.lr) = (0.1, 1e-2);
            let (before, after) = before_and_after(&config, 3, device);
            let model = Vlm::init(&tiny_vlm(), 1, device, DType::F32).unwrap();
            let expected = before.iter().map(|tensor| tensor.name.clone());
            let expected = expected.filter(|path| parts.contains(&Part::of(path)) && model.uses(path));
            assert_eq!(
                moved(&before, &after),
                expected.collect::<Vec<_>>(),
                "{mode:?} in {precision:?}"
            );
        }
    }
}

/// The last vision block and CLIP's last norm do not feed the projector: they are carried along.
#[test]
fn parameters_that_are_not_used_never_move() {
    let mut config = plain_step(TrainMode::Full);
    config.optimizer.weight_decay = 0.1;
    let (before, after) = before_and_after(&config, 2, &devices()[0]);
    let moved = moved(&before, &after);
    let carried = [
        "vision_tower.vision_model.encoder.layers.2.",
        "vision_tower.vision_model.post_layernorm.",
    ];
    for prefix in carried {
        assert!(before.iter().any(|tensor| tensor.name.starts_with(prefix)));
        assert!(
            !moved.iter().any(|path| path.starts_with(prefix)),
            "{prefix} moved"
        );
    }
}

#[test]
fn a_mode_without_parameters_is_refused() {
    let device = &devices()[0];
    let text = VlmConfig {
        vision: None,
        ..tiny_vlm()
    };
    let model = Vlm::init(&text, 1, device, DType::F32).unwrap();
    let error = Learner::new(model, plain_step(TrainMode::Alignment), device.clone())
        .err()
        .unwrap();
    assert!(
        matches!(
            error,
            LearnerError::NothingToTrain {
                mode: TrainMode::Alignment
            }
        ),
        "{error}"
    );
}

/// Matrices and tables decay; biases and norms do not.
#[test]
fn weight_decay_is_for_matrices_and_tables() {
    const DECAYED: [&str; 7] = [
        "_proj.weight",
        "fc1.weight",
        "fc2.weight",
        "linear_1.weight",
        "_embedding.weight",
        "class_embedding",
        "embed_tokens.weight",
    ];
    let device = &devices()[0];
    let plain = plain_step(TrainMode::Full);
    let mut decaying = plain.clone();
    decaying.optimizer.weight_decay = 0.1;
    let (before, without) = before_and_after(&plain, 1, device);
    let (_, with) = before_and_after(&decaying, 1, device);
    let model = Vlm::init(&tiny_vlm(), 1, device, DType::F32).unwrap();
    let expected = before.iter().map(|tensor| tensor.name.clone());
    let expected = expected.filter(|path| model.uses(path) && DECAYED.iter().any(|end| path.ends_with(end)));
    assert_eq!(moved(&without, &with), expected.collect::<Vec<_>>());
    for ((before, without), with) in before.iter().zip(&without).zip(&with) {
        let pairs = f32s(&without.bytes)
            .into_iter()
            .zip(f32s(&with.bytes))
            .zip(f32s(&before.bytes));
        for ((without, with), before) in pairs {
            // Decoupled: the step's learning rate times the decay times the weight, whatever the gradient.
            let difference = without - with;
            assert!(
                difference == 0.0 || (difference - 1e-4 * before).abs() < 1e-6,
                "{difference} of {before}"
            );
        }
    }
}

/// The first step of AdamW is as long as the learning rate, for each number that has a gradient.
#[test]
fn each_part_has_its_learning_rate() {
    let device = &devices()[0];
    let mut config = plain_step(TrainMode::Full);
    (config.optimizer.projector_lr, config.optimizer.vision_lr) = (Some(4e-3), Some(2e-4));
    let check = |config: &StepConfig, rates: [(Part, f32); 3]| {
        let (before, after) = before_and_after(config, 1, device);
        for (part, lr) in rates {
            let tensors = before
                .iter()
                .zip(&after)
                .filter(|(before, _)| Part::of(&before.name) == part);
            let longest = tensors
                .flat_map(|(before, after)| f32s(&before.bytes).into_iter().zip(f32s(&after.bytes)))
                .fold(0.0f32, |longest, (before, after)| {
                    longest.max((after - before).abs())
                });
            assert!(
                (longest / lr - 1.0).abs() < 1e-2,
                "{part:?} moved by {longest}, its rate is {lr}"
            );
        }
    };
    check(
        &config,
        [
            (Part::Projector, 4e-3),
            (Part::Vision, 2e-4),
            (Part::Language, 1e-3),
        ],
    );
    config.optimizer.language_lr = Some(3e-3);
    (config.optimizer.projector_lr, config.optimizer.vision_lr) = (None, None);
    check(
        &config,
        [
            (Part::Projector, 1e-3),
            (Part::Vision, 1e-3),
            (Part::Language, 3e-3),
        ],
    );
}

/// Rows of text alone reach neither vision tower nor projector; their gradients count as 0.
#[test]
fn a_batch_of_text_trains_the_language_model_of_a_vlm() {
    for (precision, device) in devices_by_precision() {
        let config = StepConfig {
            precision,
            ..plain_step(TrainMode::Full)
        };
        let mut learner = learner(&config, 1, &device);
        let before = all_weights(&learner);
        let text = [crate::example(1, 0, 4, 3), crate::example(2, 0, 2, 5)];
        let report = learner.step(&[brazier::data::collate(&text, 0)]).unwrap();
        assert!(report.loss.is_finite());
        let moved = moved(&before, &all_weights(&learner));
        assert!(
            moved.iter().all(|path| Part::of(path) == Part::Language),
            "{moved:?}"
        );
        assert!(!moved.is_empty());
        // Text and images in one batch, then text again: moments go on moving the parts that saw nothing.
        assert!(learner.step(&batches(0, 8)).unwrap().loss.is_finite());
        let before = all_weights(&learner);
        learner.step(&[brazier::data::collate(&text, 0)]).unwrap();
        let moved = crate::moved(&before, &all_weights(&learner));
        for part in [Part::Vision, Part::Projector, Part::Language] {
            assert!(moved.iter().any(|path| Part::of(path) == part), "{part:?} rests");
        }
    }
}
