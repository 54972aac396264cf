//! `n` steps, a checkpoint, and `m` more are `n + m` steps, bit for bit.

use brazier::{
    checkpoint::{CheckpointError, CheckpointStore},
    learner::{
        Learner, LearnerError,
        options::{Precision, ScheduleConfig, ScheduleKind, StepConfig, TrainMode},
    },
};
use brazier_models::Vlm;
use burn::tensor::DType;

use crate::{
    assert_same, batches, devices_by_precision, learner, snapshot,
    support::{devices, plain_step, tiny_vlm},
};

/// With everything that depends on the step: a schedule with warm-up, bias correction, moments.
fn config(mode: TrainMode, precision: Precision) -> StepConfig {
    let mut config = StepConfig {
        precision,
        schedule: ScheduleConfig {
            kind: ScheduleKind::Cosine { min_factor: 0.1 },
            warmup_steps: 2,
            total_steps: 7,
        },
        max_grad_norm: Some(0.5),
        ..plain_step(mode)
    };
    config.optimizer.weight_decay = 0.1;
    config
}

fn run(learner: &mut Learner, steps: std::ops::Range<usize>) {
    for step in steps {
        learner.step(&batches(step, 4)).unwrap();
    }
}

#[test]
fn going_on_from_memory_or_disk_changes_no_bit() {
    for (precision, device) in &devices_by_precision() {
        for mode in [TrainMode::Full, TrainMode::EndToEnd] {
            let what = format!("{mode:?} in {precision:?}");
            let config = config(mode, *precision);
            let mut straight = learner(&config, 1, device);
            run(&mut straight, 0..3);
            let middle = snapshot(&straight);
            run(&mut straight, 3..7);
            let end = snapshot(&straight);

            let folder = tempfile::tempdir().unwrap();
            let store = CheckpointStore::open(folder.path()).unwrap();
            let committed = store.commit(&middle, None).unwrap();
            for from_disk in [false, true] {
                // Another seed: what is not in the checkpoint would show.
                let mut resumed = learner(&config, 2, device);
                match from_disk {
                    true => resumed.restore_from(&committed).unwrap(),
                    false => resumed.restore(&middle).unwrap(),
                }
                assert_eq!(resumed.finished_steps(), 3);
                assert_same(&what, &snapshot(&resumed).tensors, &middle.tensors);
                run(&mut resumed, 3..7);
                assert_same(&what, &snapshot(&resumed).tensors, &end.tensors);
            }
        }
    }
}

/// A learner that goes back over its own later state.
#[test]
fn a_learner_can_go_back() {
    for (precision, device) in &devices_by_precision() {
        let config = config(TrainMode::Full, *precision);
        let mut learner = learner(&config, 1, device);
        run(&mut learner, 0..2);
        let middle = snapshot(&learner);
        run(&mut learner, 2..4);
        let end = snapshot(&learner);
        learner.restore(&middle).unwrap();
        assert_same("gone back", &snapshot(&learner).tensors, &middle.tensors);
        run(&mut learner, 2..4);
        assert_same("gone on again", &snapshot(&learner).tensors, &end.tensors);
    }
}

#[test]
fn a_checkpoint_of_something_else_is_refused_and_changes_nothing() {
    let device = &devices()[0];
    let full = config(TrainMode::Full, Precision::F32);
    let mut learner = learner(&full, 1, device);
    run(&mut learner, 0..1);
    let before = snapshot(&learner);

    let mut wider = tiny_vlm();
    wider.text.intermediate_size += 1;
    let wider = Vlm::init(&wider, 1, device, DType::F32).unwrap();
    let wider = Learner::new(wider, full, device.clone()).unwrap();
    let lm_only = crate::learner(&config(TrainMode::LmOnly, Precision::F32), 1, device);
    let mut truncated = before.clone();
    truncated.tensors.pop();
    let others = [
        (snapshot(&wider), "mlp.up_proj.weight"),
        (snapshot(&lm_only), "missing: exp_avg.vision_tower."),
        (truncated, "1 missing: exp_avg_sq."),
    ];
    let folder = tempfile::tempdir().unwrap();
    let store = CheckpointStore::open(folder.path()).unwrap();
    for (other, hint) in others {
        let committed = store.commit(&other, None).unwrap();
        let errors = [learner.restore(&other), learner.restore_from(&committed)];
        for error in errors.map(Result::unwrap_err) {
            assert!(
                matches!(
                    error,
                    LearnerError::Checkpoint(CheckpointError::OtherModel { .. })
                ),
                "{error}"
            );
            assert!(error.to_string().contains(hint), "{error}");
        }
        assert_same(hint, &snapshot(&learner).tensors, &before.tensors);
        assert_eq!(learner.finished_steps(), 1);
    }
}
