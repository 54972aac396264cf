//! Adapters in training: what moves, what a checkpoint holds, and dropout that depends on nothing but seed, step and row.

use brazier::{
    checkpoint::{CheckpointError, CheckpointStore, load},
    learner::{
        Learner, LearnerError, Part, compute_dtype,
        options::{Precision, Recompute, StepConfig, TrainMode},
    },
};
use brazier_models::{
    LoraConfig, LoraParts, LoraTargets, Segmented, Vlm,
    lora::is_adapter,
    params::{load_some_params, read_params},
};
use burn::{module::Module, tensor::Device};

use crate::{
    all_weights, assert_same, batches, devices_by_precision, moved, snapshot,
    support::{devices, plain_step, tiny_vlm},
};

fn lora(parts: LoraParts, lora_dropout: f64) -> LoraConfig {
    LoraConfig {
        r: 3,
        lora_alpha: 6.0,
        lora_dropout,
        use_rslora: true,
        target_modules: LoraTargets::AllLinear,
        parts,
    }
}

fn config(mode: TrainMode, precision: Precision) -> StepConfig {
    let mut config = StepConfig {
        precision,
        max_grad_norm: Some(0.5),
        ..plain_step(mode)
    };
    config.optimizer.weight_decay = 0.1;
    config
}

/// The base model of seed 1 with adapters of another seed.
fn adapted(lora: &LoraConfig, config: &StepConfig, seed: u64, device: &Device) -> Learner {
    let dtype = compute_dtype(config.precision);
    let base = Vlm::init(&tiny_vlm(), 1, device, dtype).unwrap();
    let model = Vlm::init_with_lora(&tiny_vlm(), Some(lora), seed, device, dtype).unwrap();
    let model = load_some_params(model, read_params(&base, |_| true), |path| !is_adapter(path));
    Learner::new(
        model.map_err(|(_, error)| error).unwrap(),
        config.clone(),
        device.clone(),
    )
    .unwrap()
}

fn run(learner: &mut Learner, steps: std::ops::Range<usize>, size: usize) -> Vec<f32> {
    steps
        .map(|step| learner.step(&batches(step, size)).unwrap().loss)
        .collect()
}

#[test]
fn adapters_and_projector_move_and_no_bit_of_the_base() {
    let cases = [
        (
            TrainMode::EndToEnd,
            LoraParts::Language,
            vec![Part::Language],
            true,
        ),
        (
            TrainMode::LmOnly,
            LoraParts::Language,
            vec![Part::Language],
            false,
        ),
        (
            TrainMode::Full,
            LoraParts::Both,
            vec![Part::Language, Part::Vision],
            true,
        ),
        (TrainMode::Full, LoraParts::Vision, vec![Part::Vision], true),
    ];
    for (precision, device) in &devices_by_precision() {
        for (mode, parts, adapted_parts, with_projector) in &cases {
            let mut config = config(*mode, *precision);
            config.optimizer.lr = 1e-2;
            let mut learner = adapted(&lora(*parts, 0.1), &config, 1, device);
            let before = all_weights(&learner);
            run(&mut learner, 0..3, 4);
            let expected =
                before
                    .iter()
                    .map(|tensor| tensor.name.clone())
                    .filter(|path| match Part::of(path) {
                        Part::Projector => *with_projector,
                        part => {
                            is_adapter(path)
                                && adapted_parts.contains(&part)
                                && learner.whole_model().unwrap().uses(path)
                        }
                    });
            let expected: Vec<String> = expected.collect();
            assert_eq!(
                moved(&before, &all_weights(&learner)),
                expected,
                "{mode:?} in {precision:?}"
            );
            // Nothing else has moments, and a checkpoint holds nothing of the base.
            let names: Vec<String> = learner
                .expected_tensors()
                .into_iter()
                .map(|(name, ..)| name)
                .collect();
            let with_moments = names.iter().filter_map(|name| name.strip_prefix("exp_avg."));
            assert_eq!(with_moments.collect::<Vec<_>>(), expected);
            for name in names.iter().filter_map(|name| name.strip_prefix("param.")) {
                assert!(is_adapter(name) || Part::of(name) == Part::Projector, "{name}");
            }
        }
    }
}

#[test]
fn going_on_changes_no_bit() {
    for (precision, device) in &devices_by_precision() {
        let (lora, config) = (lora(LoraParts::Both, 0.2), config(TrainMode::Full, *precision));
        let mut straight = adapted(&lora, &config, 1, device);
        run(&mut straight, 0..3, 4);
        let middle = snapshot(&straight);
        run(&mut straight, 3..6, 4);
        let folder = tempfile::tempdir().unwrap();
        let store = CheckpointStore::open(folder.path()).unwrap();
        let read = load(&store.commit(&middle, None).unwrap()).unwrap();
        // Other adapters: what is not in the checkpoint would show.
        let mut resumed = adapted(&lora, &config, 2, device);
        assert_eq!(resumed.base_digest(), straight.base_digest());
        resumed.restore(&read).unwrap();
        run(&mut resumed, 3..6, 4);
        let what = format!("{precision:?}");
        assert_same(&what, &snapshot(&resumed).tensors, &snapshot(&straight).tensors);
        assert_same(&what, &all_weights(&resumed), &all_weights(&straight));
    }
}

/// With dropout, which must be drawn a second time as it was the first.
#[test]
fn recomputing_changes_no_bit() {
    for (precision, device) in &devices_by_precision() {
        let lora = lora(LoraParts::Both, 0.3);
        let ends = [Recompute::None, Recompute::Blocks].map(|recompute| {
            let config = StepConfig {
                recompute,
                ..config(TrainMode::Full, *precision)
            };
            let mut learner = adapted(&lora, &config, 1, device);
            run(&mut learner, 0..3, 4);
            snapshot(&learner).tensors
        });
        assert_same(&format!("{precision:?}"), &ends[0], &ends[1]);
    }
}

/// Eight rows at once, four, or one: the same mask for every row, and so the same curve to rounding. Images too.
#[test]
fn dropout_does_not_depend_on_accumulation() {
    for device in &devices() {
        let config = config(TrainMode::Full, Precision::F32);
        let curve = |size| {
            run(
                &mut adapted(&lora(LoraParts::Both, 0.4), &config, 1, device),
                0..4,
                size,
            )
        };
        let whole = curve(8);
        for size in [4, 1] {
            for (got, expected) in curve(size).iter().zip(&whole) {
                assert!(
                    (got - expected).abs() < 2e-5 * expected,
                    "{size} rows: {got}, not {expected}"
                );
            }
        }
    }
}

/// Once `B` has moved, dropout shows: in training, another one for each step and seed; in evaluation none.
#[test]
fn dropout_is_of_training_alone() {
    let device = &devices()[0];
    let mut config = config(TrainMode::LmOnly, Precision::F32);
    config.optimizer.lr = 0.1;
    let losses = |dropout: f64, seed: u64| {
        let config = StepConfig {
            seed,
            ..config.clone()
        };
        let mut learner = adapted(&lora(LoraParts::Language, dropout), &config, 1, device);
        run(&mut learner, 0..3, 8);
        let batch = &batches(9, 8)[0];
        let inputs = learner.upload(batch).unwrap();
        let evaluate = |model: &Vlm| {
            model
                .loss_sum(model.hidden(&inputs), &inputs)
                .into_scalar::<f32>()
        };
        let model = learner.whole_model().unwrap().valid();
        let evaluated = [evaluate(&model), evaluate(&model)];
        // At a learning rate of 0 the model stays, but the steps go on.
        let state = snapshot(&learner);
        let still = StepConfig {
            optimizer: brazier::learner::options::OptimizerConfig {
                lr: 0.0,
                ..config.optimizer.clone()
            },
            ..config.clone()
        };
        let mut learner = adapted(&lora(LoraParts::Language, dropout), &still, 1, device);
        learner.restore(&state).unwrap();
        let steps = [0, 1].map(|_| learner.step(std::slice::from_ref(batch)).unwrap().loss);
        (evaluated, steps, batch.num_labelled)
    };
    let (evaluated, steps, num_labelled) = losses(0.5, 0);
    assert_eq!(evaluated[0], evaluated[1]);
    assert_ne!(steps[0], steps[1]);
    assert_eq!(losses(0.5, 0).1, steps);
    assert_ne!(losses(0.5, 1).1, steps);
    assert!((evaluated[0] / num_labelled as f32 - steps[0]).abs() > 1e-4);
    let (evaluated, steps, num_labelled) = losses(0.0, 0);
    assert_eq!(steps[0], steps[1]);
    assert!((evaluated[0] / num_labelled as f32 - steps[0]).abs() < 1e-6);
}

#[test]
fn a_checkpoint_of_other_adapters_is_refused() {
    let device = &devices()[0];
    let config = config(TrainMode::EndToEnd, Precision::F32);
    let of = |r: usize| {
        let lora = LoraConfig {
            r,
            ..lora(LoraParts::Language, 0.0)
        };
        adapted(&lora, &config, 1, device)
    };
    let error = of(3).restore(&snapshot(&of(4))).unwrap_err();
    assert!(
        matches!(
            error,
            LearnerError::Checkpoint(CheckpointError::OtherModel { .. })
        ),
        "{error}"
    );
    assert!(error.to_string().contains("lora_A.weight"), "{error}");
    // Another base shows in the digest, which goes into the run's state.
    let other = Vlm::init_with_lora(
        &tiny_vlm(),
        Some(&lora(LoraParts::Language, 0.0)),
        2,
        device,
        compute_dtype(Precision::F32),
    );
    let other = Learner::new(other.unwrap(), config.clone(), device.clone()).unwrap();
    assert!(of(3).base_digest().is_some());
    assert_ne!(of(3).base_digest(), other.base_digest());
}
