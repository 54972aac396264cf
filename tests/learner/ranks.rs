//! Several ranks make the step of one.

use std::{sync::Arc, time::Duration};

use brazier::{
    data::Batch,
    learner::{
        Learner, LearnerError, compute_dtype,
        options::{ParallelConfig, Precision, Recompute, StepConfig, TrainMode, Zero},
    },
    parallel::{CollectiveError, Group, Threads},
};
use brazier_models::{HostTensor, LoraConfig, LoraParts, LoraTargets, Vlm};
use burn::tensor::Device;

use crate::{
    all_weights, assert_same, batches, devices_by_precision, share_of_snapshot, snapshot,
    support::{devices, f32s, plain_step, tiny_vlm},
};

pub(crate) const ZEROS: [Zero; 4] = [Zero::None, Zero::Optimizer, Zero::Gradients, Zero::Parameters];
pub(crate) const STEPS: usize = 4;

/// Runs a rank on each of `size` threads; gives what they return, in the order of the ranks.
pub(crate) fn on_ranks<T: Send>(size: usize, run: impl Fn(Arc<Group>) -> T + Sync) -> Vec<T> {
    let timeout = Duration::from_secs(60);
    std::thread::scope(|scope| {
        let ranks: Vec<_> = Threads::group(size, timeout)
            .into_iter()
            .map(|engine| {
                let run = &run;
                scope.spawn(move || run(Arc::new(Group::start(move || Ok(engine), timeout).unwrap())))
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// Of micro-batches that one rank alone would accumulate, those of this rank.
fn share(all: Vec<Batch>, group: &Group) -> Vec<Batch> {
    let world = group.world();
    all.into_iter().skip(world.rank).step_by(world.size).collect()
}

pub(crate) fn config(mode: TrainMode, precision: Precision, recompute: Recompute) -> StepConfig {
    let mut config = StepConfig {
        precision,
        recompute,
        // Low enough to clip.
        max_grad_norm: Some(0.5),
        ..plain_step(mode)
    };
    config.optimizer.weight_decay = 0.1;
    config
}

/// Small buckets, so that there are several.
pub(crate) fn parallel(zero: Zero) -> ParallelConfig {
    ParallelConfig {
        zero,
        offload: false,
        bucket_elements: 300,
        tensor: 1,
    }
}

fn model(lora: Option<&LoraConfig>, precision: Precision, device: &Device) -> Vlm {
    Vlm::init_with_lora(&tiny_vlm(), lora, 1, device, compute_dtype(precision)).unwrap()
}

/// Losses, norms and final weights of a rank.
pub(crate) struct Trained {
    pub(crate) losses: Vec<f32>,
    pub(crate) norms: Vec<f32>,
    pub(crate) weights: Vec<HostTensor>,
}

fn train(
    group: Arc<Group>,
    zero: Zero,
    config: &StepConfig,
    lora: Option<&LoraConfig>,
    device: &Device,
) -> Trained {
    let model = model(lora, config.precision, device);
    let mut learner = Learner::in_group(
        model,
        config.clone(),
        device.clone(),
        group.clone(),
        parallel(zero),
    )
    .unwrap();
    let reports: Vec<_> = (0..STEPS)
        .map(|step| learner.step(&share(batches(step, 2), &group)).unwrap())
        .collect();
    assert!(reports.iter().all(|report| report.samples == 8));
    Trained {
        losses: reports.iter().map(|report| report.loss).collect(),
        norms: reports.iter().map(|report| report.grad_norm).collect(),
        weights: all_weights(&learner),
    }
}

pub(crate) fn assert_close(what: &str, ranks: &Trained, alone: &Trained, tolerance: f32) {
    let pairs = ranks
        .losses
        .iter()
        .zip(&alone.losses)
        .chain(ranks.norms.iter().zip(&alone.norms));
    for (ranks, alone) in pairs {
        assert!(
            (ranks - alone).abs() <= tolerance * alone.abs(),
            "{what}: {ranks} and {alone}"
        );
    }
    for (ranks, alone) in ranks.weights.iter().zip(&alone.weights) {
        // The gradient of a key bias is 0 in exact arithmetic; AdamW makes steps of its rounding.
        if alone.name.ends_with("k_proj.bias") {
            continue;
        }
        let pairs = f32s(&ranks.bytes).into_iter().zip(f32s(&alone.bytes));
        let error = pairs
            .map(|(ranks, alone)| (ranks - alone).abs())
            .fold(0.0, f32::max);
        assert!(error < 1e-6, "{what}: {} differs by {error:e}", alone.name);
    }
}

/// Four micro-batches on up to four ranks; with three, one rank has two of them. Some have images, some have none, and
/// frozen parts have no gradient anywhere.
#[test]
fn ranks_learn_what_one_learns() {
    let device = &devices()[0];
    for (mode, recompute) in [
        (TrainMode::Full, Recompute::None),
        (TrainMode::Full, Recompute::Blocks),
        (TrainMode::EndToEnd, Recompute::Blocks),
        (TrainMode::LmOnly, Recompute::Blocks),
        (TrainMode::Alignment, Recompute::None),
    ] {
        let config = config(mode, Precision::F32, recompute);
        let alone = train(Arc::new(Group::alone()), Zero::None, &config, None, device);
        for (size, zero) in [2, 3, 4]
            .into_iter()
            .flat_map(|size| ZEROS.map(|zero| (size, zero)))
        {
            let what = format!("{mode:?}, {recompute:?}, {size} ranks, {zero:?}");
            let ranks = on_ranks(size, |group| train(group, zero, &config, None, device));
            assert_close(&what, &ranks[0], &alone, 1e-6);
            for rank in &ranks[1..] {
                assert_same(&what, &rank.weights, &ranks[0].weights);
                assert_eq!(rank.losses, ranks[0].losses, "{what}");
            }
        }
    }
}

#[test]
fn adapters_with_dropout_do_not_see_the_ranks() {
    let device = &devices()[0];
    let lora = LoraConfig {
        r: 3,
        lora_alpha: 6.0,
        lora_dropout: 0.3,
        use_rslora: true,
        target_modules: LoraTargets::AllLinear,
        parts: LoraParts::Language,
    };
    let config = config(TrainMode::Full, Precision::F32, Recompute::None);
    let alone = train(Arc::new(Group::alone()), Zero::None, &config, Some(&lora), device);
    for zero in ZEROS {
        let ranks = on_ranks(3, |group| train(group, zero, &config, Some(&lora), device));
        assert_close(&format!("{zero:?}"), &ranks[1], &alone, 1e-6);
    }
}

/// Masters and moments in host memory, whole or in parts.
#[test]
fn offload_changes_nothing() {
    for (precision, device) in devices_by_precision() {
        let config = config(TrainMode::Full, precision, Recompute::Blocks);
        let train = |group: Arc<Group>, zero, offload| {
            let parallel = ParallelConfig {
                offload,
                ..parallel(zero)
            };
            let model = model(None, config.precision, &device);
            let mut learner =
                Learner::in_group(model, config.clone(), device.clone(), group.clone(), parallel).unwrap();
            let losses = [0, 1, 2].map(|step| learner.step(&share(batches(step, 2), &group)).unwrap().loss);
            (losses, snapshot(&learner).tensors)
        };
        let alone = |offload| train(Arc::new(Group::alone()), Zero::None, offload);
        let ((losses, state), (expected, same)) = (alone(true), alone(false));
        assert_eq!(losses, expected, "{device:?}");
        assert_same("alone", &state, &same);
        for zero in ZEROS {
            let both =
                [true, false].map(|offload| on_ranks(2, |group| train(group, zero, offload)).remove(1));
            assert_eq!(both[0].0, both[1].0, "{zero:?}");
            assert_same(&format!("{zero:?}"), &both[0].1, &both[1].1);
        }
    }
}

/// Each rank writes about as much, and together they write what one would.
#[test]
fn shares_of_a_snapshot_are_the_whole() {
    for (precision, device) in devices_by_precision() {
        let config = config(TrainMode::EndToEnd, precision, Recompute::Blocks);
        let layouts = ZEROS.into_iter().flat_map(|zero| [(3, 1, zero), (4, 2, zero)]);
        for (size, tensor, zero) in layouts {
            let what = format!("{size} ranks, {tensor} together, {zero:?}, {precision:?}");
            let found = on_ranks(size, |group| {
                let layout = ParallelConfig {
                    tensor,
                    ..parallel(zero)
                };
                let model = model(None, config.precision, &device);
                let learner =
                    Learner::in_group(model, config.clone(), device.clone(), group.clone(), layout).unwrap();
                let whole = snapshot(&learner).tensors;
                let share = share_of_snapshot(&learner, Some(group.world())).tensors;
                assert!(share_of_snapshot(&learner, None).tensors.is_empty());
                (whole, share)
            });
            let mut whole = found[0].0.clone();
            let bytes =
                |tensors: &[HostTensor]| tensors.iter().map(|tensor| tensor.bytes.len()).sum::<usize>();
            let largest = whole.iter().map(|tensor| tensor.bytes.len()).max().unwrap();
            for (_, share) in &found {
                assert!(
                    bytes(share) <= bytes(&whole) / size + largest,
                    "{what}: {}",
                    bytes(share)
                );
            }
            let mut shares: Vec<HostTensor> = found.into_iter().flat_map(|(_, share)| share).collect();
            shares.sort_by(|a, b| a.name.cmp(&b.name));
            whole.sort_by(|a, b| a.name.cmp(&b.name));
            assert_same(&what, &shares, &whole);
        }
    }
}

/// In bf16 the masters are in parts, and the parameters of all ranks are the same bits.
#[test]
fn bf16_parameters_are_the_same_on_every_rank() {
    for (precision, device) in devices_by_precision() {
        if precision != Precision::Bf16 {
            continue;
        }
        let config = config(TrainMode::Full, precision, Recompute::None);
        let alone = train(Arc::new(Group::alone()), Zero::None, &config, None, &device);
        for zero in ZEROS {
            let ranks = on_ranks(2, |group| train(group, zero, &config, None, &device));
            assert_same(&format!("{zero:?}"), &ranks[1].weights, &ranks[0].weights);
            for (ranks, alone) in ranks[0].losses.iter().zip(&alone.losses) {
                // Another order of a sum flips the last bit of a bf16 parameter now and then.
                assert!(
                    (ranks - alone).abs() < 1e-3 * alone,
                    "{zero:?}: {ranks} and {alone}"
                );
            }
        }
    }
}

/// A checkpoint knows nothing of ranks.
#[test]
fn any_number_of_ranks_goes_on_from_any() {
    let device = &devices()[0];
    let config = config(TrainMode::Full, Precision::F32, Recompute::None);
    let whole = train(Arc::new(Group::alone()), Zero::None, &config, None, device);
    for (before, after) in [(1, 3), (3, 1), (2, 4), (3, 2)] {
        for zero in ZEROS {
            let saved = on_ranks(before, |group| {
                let model = model(None, config.precision, device);
                let mut learner = Learner::in_group(
                    model,
                    config.clone(),
                    device.clone(),
                    group.clone(),
                    parallel(zero),
                )
                .unwrap();
                for step in 0..2 {
                    learner.step(&share(batches(step, 2), &group)).unwrap();
                }
                snapshot(&learner)
            });
            let losses = on_ranks(after, |group| {
                let model = Vlm::init(&tiny_vlm(), 9, device, compute_dtype(config.precision)).unwrap();
                let mut learner = Learner::in_group(
                    model,
                    config.clone(),
                    device.clone(),
                    group.clone(),
                    parallel(zero),
                )
                .unwrap();
                learner.restore(&saved[0]).unwrap();
                [2, 3].map(|step| learner.step(&share(batches(step, 2), &group)).unwrap().loss)
            });
            for (loss, expected) in losses[0].iter().zip(&whole.losses[2..]) {
                let what = format!("from {before} to {after} ranks, {zero:?}");
                assert!(
                    (loss - expected).abs() <= 1e-6 * expected,
                    "{what}: {loss} and {expected}"
                );
            }
        }
    }
}

#[test]
fn a_rank_that_cannot_go_on_tells_the_others() {
    let device = &devices()[0];
    let config = config(TrainMode::Full, Precision::F32, Recompute::None);
    let errors = on_ranks(3, |group| {
        let model = model(None, config.precision, device);
        let mut learner = Learner::in_group(
            model,
            config.clone(),
            device.clone(),
            group.clone(),
            parallel(Zero::None),
        )
        .unwrap();
        let mut own = share(batches(0, 2), &group);
        if group.world().rank == 1 {
            own[0].input_ids[0] = 999;
        }
        (learner.step(&own).unwrap_err(), learner.finished_steps())
    });
    assert!(
        matches!(errors[1].0, LearnerError::Input { .. }),
        "{}",
        errors[1].0
    );
    for (error, steps) in [&errors[0], &errors[2]] {
        let text = error.to_string();
        assert!(text.starts_with("rank 1 failed: samples rows.jsonl:"), "{text}");
        assert!(text.contains("token id 999"), "{text}");
        assert_eq!(*steps, 0);
    }
}

/// The rank that does not come is named, and nobody waits for ever.
#[test]
fn a_rank_that_does_not_come_is_named() {
    let timeout = Duration::from_millis(300);
    let errors = std::thread::scope(|scope| {
        let ranks: Vec<_> = Threads::group(3, timeout)
            .into_iter()
            .map(|engine| {
                scope.spawn(move || {
                    let group = Group::start(move || Ok(engine), timeout).unwrap();
                    match group.world().rank {
                        2 => None,
                        _ => Some(group.all_reduce(vec![1.0; 7]).wait().unwrap_err()),
                    }
                })
            })
            .collect();
        ranks
            .into_iter()
            .map(|rank| rank.join().unwrap())
            .collect::<Vec<_>>()
    });
    for error in errors.into_iter().flatten() {
        assert!(matches!(error, CollectiveError::TimedOut { .. }), "{error}");
        assert!(
            error.to_string().contains("in reduce_scatter for rank 2"),
            "{error}"
        );
    }
}

#[test]
fn ranks_with_other_settings_are_refused() {
    let errors = on_ranks(2, |group| {
        let rank = group.world().rank;
        let settings = [
            ("version", "1".to_owned()),
            ("train.optimizer.lr", format!("1e-{rank}")),
        ];
        group.check_same(&settings).unwrap_err().to_string()
    });
    for error in errors {
        assert!(
            error.starts_with("train.optimizer.lr differs between ranks: rank 0 has 1e-0, rank 1 has 1e-1"),
            "{error}"
        );
    }
}
