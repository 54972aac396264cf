//! Numbers that follow from the number of samples.

use super::*;
use crate::{
    data::Stream,
    learner::options::{ScheduleConfig, ScheduleKind},
};

fn plan(sets: &[&str], world: World, num_samples: usize) -> Result<RunPlan, Vec<ConfigError>> {
    resolve(&load_text(BASE, sets).unwrap(), world)
        .unwrap()
        .plan(&Stream::of_samples(num_samples))
}

#[test]
fn steps_of_epochs() {
    for (epochs, micro, samples, steps, total, per_epoch) in [
        ("1", 4, 8, 2, 8, 2),
        ("1", 4, 9, 3, 9, 3),
        ("3", 4, 9, 7, 27, 3),
        ("0.5", 4, 8, 1, 4, 2),
        ("0.01", 4, 9, 1, 1, 3),
        ("2", 100, 9, 1, 18, 1),
    ] {
        let sets = [
            "train.steps=",
            &format!("train.epochs={epochs}"),
            &format!("train.micro_batch_size={micro}"),
        ];
        let RunPlan {
            options,
            batch,
            numbers,
        } = plan(&sets, World::ALONE, samples).unwrap();
        assert_eq!(
            (options.total_steps, batch.total_rows, options.steps_per_epoch),
            (steps, Some(total), per_epoch),
            "{epochs} epochs of {samples} by {micro}"
        );
        assert_eq!(options.step.schedule.total_steps, steps);
        assert_eq!(numbers.total_steps, steps);
    }
}

#[test]
fn a_global_batch_over_ranks() {
    let world = World { rank: 1, size: 2 };
    let sets = ["train.micro_batch_size=4", "train.global_batch_size=24"];
    let RunPlan { batch, numbers, .. } = plan(&sets, world, 240).unwrap();
    assert_eq!(
        (batch.accumulation, batch.rank, batch.world_size, batch.total_rows),
        (3, 1, 2, None)
    );
    assert_eq!(
        (numbers.rows_per_step, numbers.max_tokens_per_step, numbers.epochs),
        (24, 24 * 64, 100.0)
    );
    assert_eq!(
        numbers.to_string(),
        "samples per step  24 = 4 in a micro-batch x 3 accumulated x 2 ranks\n\
         tokens per step   at most 1536 = 24 x 64\n\
         steps             1000 = 100 epochs of 240 samples, 10 steps each\n\
         warm-up           0 steps"
    );
}

/// Ranks that hold one model together see the same rows.
#[test]
fn a_global_batch_over_groups_of_ranks() {
    let world = World { rank: 5, size: 8 };
    let sets = [
        "train.micro_batch_size=4",
        "train.global_batch_size=48",
        "parallel.tensor=2",
    ];
    let RunPlan { batch, numbers, .. } = plan(&sets, world, 240).unwrap();
    assert_eq!(
        (
            batch.accumulation,
            batch.rank,
            batch.world_size,
            numbers.rows_per_step
        ),
        (3, 2, 4, 48)
    );
    let text = numbers.to_string();
    assert!(
        text.starts_with("samples per step  48 = 4 in a micro-batch x 3 accumulated x 4 groups of 2 ranks\n"),
        "{text}"
    );
}

/// Heads, inner columns and vocabulary are shared out, and by ZeRO what is left among those with the same part.
#[test]
fn memory_of_a_part_of_a_model() {
    let memory = |tensor: usize, size: usize, zero: u8| {
        let sets = [
            format!("parallel.tensor={tensor}"),
            format!("parallel.zero={zero}"),
            "train.recompute=none".to_owned(),
        ];
        let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
        let run = resolve(&load_text(BASE, &sets).unwrap(), World { rank: 0, size }).unwrap();
        let model = run.model_config(1000, Some(3)).unwrap().unwrap();
        (
            run.memory(&model, None, 16),
            model,
            run.train.micro_batch_size as u64,
        )
    };
    let (whole, model, rows) = memory(1, 1, 0);
    let (part, ..) = memory(4, 4, 0);
    let (shared, ..) = memory(4, 8, 1);
    let (d, i) = (64, 128);
    let copied =
        whole.counts.vision + whole.counts.projector + (2 * model.text.num_hidden_layers as u64 + 1) * d;
    let cut = whole.counts.total() - copied;
    assert!(cut.is_multiple_of(4));
    assert_eq!(part.parameters_bytes, 4 * (copied + cut / 4));
    assert_eq!(part.gradients_bytes, 4 * (copied + cut / 4));
    assert_eq!(part.optimizer_bytes, 2 * shared.optimizer_bytes);
    assert_eq!(part.logits_bytes, whole.logits_bytes / 4);
    // What a block keeps of the inside of its attention and MLP is a quarter, the rest whole.
    let tokens = model.text.num_hidden_layers as u64 * rows * 64;
    let inside = 4 * (3 * d + 3 * d + 4 * i) + 4 * 4;
    assert_eq!(
        whole.activations_bytes - part.activations_bytes,
        tokens * inside * 3 / 4
    );
    assert_eq!((part.counts, part.trained), (whole.counts, whole.trained));
}

#[test]
fn schedules() {
    let check = |schedule: &str, kind: ScheduleKind, warmup_steps: u64| {
        let set = format!("train.schedule={{{schedule}}}");
        let schedule = plan(&[&set], World::ALONE, 10).unwrap().options.step.schedule;
        assert_eq!(
            schedule,
            ScheduleConfig {
                kind,
                warmup_steps,
                total_steps: 1000
            },
            "{set}"
        );
    };
    check("name: constant, warmup_steps: 1000", ScheduleKind::Constant, 1000);
    check("name: constant, warmup_ratio: 0.0301", ScheduleKind::Constant, 31);
    check("name: linear", ScheduleKind::Linear { min_factor: 0.0 }, 0);
    check(
        "name: linear, min_lr: 5e-4",
        ScheduleKind::Linear { min_factor: 0.5 },
        0,
    );
    check("name: cosine", ScheduleKind::Cosine { min_factor: 0.0 }, 0);
    check(
        "name: cosine_with_min_lr, min_lr_ratio: 0.1",
        ScheduleKind::Cosine { min_factor: 0.1 },
        0,
    );
    check(
        "name: wsd, decay_ratio: 0.2",
        ScheduleKind::Wsd {
            decay_steps: 200,
            min_factor: 0.0,
        },
        0,
    );
    check(
        "name: wsd, decay_steps: 9, min_lr: 1e-3, warmup_steps: 991",
        ScheduleKind::Wsd {
            decay_steps: 9,
            min_factor: 1.0,
        },
        991,
    );
    check(
        "name: inverse_sqrt",
        ScheduleKind::InverseSqrt { timescale: 10_000 },
        0,
    );
}

#[test]
fn no_schedule_is_cosine() {
    let schedule = plan(&[], World::ALONE, 10).unwrap().options.step.schedule;
    assert_eq!(schedule.kind, ScheduleKind::Cosine { min_factor: 0.0 });
}

#[test]
fn what_only_the_number_of_samples_shows() {
    assert_refused(
        plan(&[], World::ALONE, 0),
        "run.yaml:16: data.train: holds no sample\n  hint: check the files, and data.too_long",
    );
    assert_refused(
        plan(
            &[
                "train.steps=",
                "train.epochs=1",
                "train.schedule={name: constant, warmup_steps: 11}",
            ],
            World::ALONE,
            10,
        ),
        "--set: train.schedule.warmup_steps = 11: larger than the run's 10 steps\n  \
         hint: lower it, or raise train.steps or train.epochs",
    );
}

#[test]
fn no_clipping_at_zero() {
    assert_eq!(
        resolve_base(&["train.max_grad_norm=0"])
            .unwrap()
            .train
            .max_grad_norm,
        None
    );
    assert_eq!(
        resolve_base(&["train.max_grad_norm=0.5"])
            .unwrap()
            .train
            .max_grad_norm,
        Some(0.5)
    );
}

#[test]
fn numbers_that_cannot_be_multiplied_are_refused() {
    for (sets, expected) in [
        (
            &[
                "train.micro_batch_size=4294967295",
                "train.accumulation=4294967295",
            ][..],
            "more than a step can have",
        ),
        (
            &["parallel.devices=4294967295", "train.micro_batch_size=2"],
            "more than a step can have",
        ),
        (&["train.accumulation=4294967296"], "must be at most 4294967295"),
        (
            &["model.vision.image_size=9223372036854775807"],
            "must be at most 4294967295",
        ),
        (
            &["model.vision.num_hidden_layers=9223372036854775807"],
            "must be at most 4294967295",
        ),
        (
            &["model.language.hidden_size=4294967294"],
            "must be at most 1048576",
        ),
        (
            &[
                "model.language.num_hidden_layers=4294967295",
                "model.language.sliding_window=8",
            ],
            "must be at most 4096",
        ),
    ] {
        let errors = match resolve_base(sets) {
            Ok(run) => match run.plan(&Stream::of_samples(10)) {
                Ok(_) => run.model_config(300, Some(3)).unwrap_err(),
                Err(errors) => errors,
            },
            Err(errors) => errors,
        };
        assert!(words(&errors).contains(expected), "{sets:?}: {}", words(&errors));
    }
}
