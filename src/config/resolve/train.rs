//! `train:`.

use brazier_models::ops::Bodies;

use super::super::{
    defaults,
    raw::{
        RawGroup, RawGroups, RawMode, RawOps, RawOptimizer, RawOptimizerName, RawPrecision, RawRecompute,
        RawSchedule, RawTrain,
    },
    run::{AutoRecompute, Length, Part, ScheduleChoice, Shape, TrainChoice},
    written::Errors,
};
use crate::{
    learner::options::{OptimizerConfig, Precision, Recompute, TrainMode},
    parallel::World,
};

/// `tensor` of the ranks see the same rows.
pub(super) fn resolve(raw: RawTrain, world: World, tensor: usize, errors: &mut Errors) -> TrainChoice {
    let RawTrain {
        mode,
        epochs,
        steps,
        micro_batch_size,
        accumulation,
        global_batch_size,
        optimizer,
        schedule,
        max_grad_norm,
        precision,
        recompute,
        memory_gib,
        vision_cache_gib,
        ops,
    } = raw;
    let optimizer = adamw(optimizer);
    let length = length(epochs, steps, errors);
    let schedule = schedule_choice(schedule, optimizer.lr, errors);
    // With epochs this has to wait for the number of samples.
    if let Length::Steps(steps) = length {
        schedule.over(steps, errors);
    }
    TrainChoice {
        mode: match mode {
            RawMode::Alignment => TrainMode::Alignment,
            RawMode::EndToEnd => TrainMode::EndToEnd,
            RawMode::LmOnly => TrainMode::LmOnly,
            RawMode::Full => TrainMode::Full,
        },
        precision: match precision {
            RawPrecision::F32 => Precision::F32,
            RawPrecision::Bf16 => Precision::Bf16,
        },
        recompute: match recompute {
            RawRecompute::None => Recompute::None,
            RawRecompute::Blocks | RawRecompute::Auto => Recompute::Blocks,
        },
        auto_recompute: auto_recompute(recompute, memory_gib, errors),
        vision_cache: vision_cache_gib.map(bytes_of_gib),
        ops: match ops {
            RawOps::Fused => Bodies::Fused,
            RawOps::Reference => Bodies::Reference,
        },
        optimizer,
        max_grad_norm: (max_grad_norm > 0.0).then_some(max_grad_norm),
        micro_batch_size,
        accumulation: accumulated(
            micro_batch_size,
            accumulation,
            global_batch_size,
            copies(world, tensor),
            errors,
        ),
        length,
        schedule,
    }
}

fn auto_recompute(
    recompute: RawRecompute,
    memory_gib: Option<f64>,
    errors: &mut Errors,
) -> Option<AutoRecompute> {
    let is_auto = recompute == RawRecompute::Auto;
    if memory_gib.is_some() && !is_auto {
        let hint = "set train.recompute to auto, or leave it out";
        errors.refuse("train.memory_gib", "decides nothing here", Some(hint));
    }
    let memory = memory_gib.map(bytes_of_gib);
    is_auto.then_some(AutoRecompute { memory })
}

fn bytes_of_gib(gib: f64) -> u64 {
    (gib * f64::from(1 << 30)) as u64
}

fn length(epochs: Option<f64>, steps: Option<u64>, errors: &mut Errors) -> Length {
    errors.exclusive("train.epochs", "train.steps");
    match (epochs, steps) {
        (_, Some(steps)) => Length::Steps(steps),
        (Some(epochs), None) => Length::Epochs(epochs),
        (None, None) => {
            errors.refuse(
                "train",
                "says no length of the run",
                Some("write train.epochs or train.steps"),
            );
            Length::Epochs(1.0)
        }
    }
}

/// Models that see different rows, and what they are called.
fn copies(world: World, tensor: usize) -> (usize, &'static str) {
    let name = if tensor == 1 { "ranks" } else { "groups of ranks" };
    (world.of_data(tensor).size, name)
}

fn accumulated(
    micro_batch_size: usize,
    accumulation: Option<usize>,
    global_batch_size: Option<usize>,
    (copies, copies_name): (usize, &str),
    errors: &mut Errors,
) -> usize {
    errors.exclusive("train.accumulation", "train.global_batch_size");
    let Some(global) = global_batch_size else {
        return accumulation.unwrap_or(defaults::ACCUMULATION);
    };
    let at_once = micro_batch_size * copies;
    if !global.is_multiple_of(at_once) {
        let below = global / at_once * at_once;
        let reason = format!(
            "is no multiple of {at_once} = train.micro_batch_size {micro_batch_size} x {copies} {copies_name}"
        );
        let nearest = if below == 0 {
            at_once.to_string()
        } else {
            format!("{below} or {}", below + at_once)
        };
        let hint = format!("write {nearest}, or change train.micro_batch_size");
        errors.refuse("train.global_batch_size", &reason, Some(&hint));
    }
    (global / at_once).max(1)
}

fn adamw(raw: RawOptimizer) -> OptimizerConfig {
    let RawOptimizer {
        name,
        lr,
        betas: [beta1, beta2],
        eps,
        weight_decay,
        groups,
    } = raw;
    let RawGroups {
        projector,
        vision,
        language,
    } = groups;
    let rate = |group: Option<RawGroup>| group.map(|RawGroup { lr }| lr);
    match name {
        RawOptimizerName::Adamw => OptimizerConfig {
            lr,
            beta1,
            beta2,
            eps,
            weight_decay,
            projector_lr: rate(projector),
            vision_lr: rate(vision),
            language_lr: rate(language),
        },
    }
}

fn schedule_choice(raw: Option<RawSchedule>, lr: f64, errors: &mut Errors) -> ScheduleChoice {
    let Some(raw) = raw else {
        let warmup = Part::Steps(defaults::WARMUP_STEPS);
        return ScheduleChoice {
            warmup,
            shape: Shape::Cosine { min_factor: 0.0 },
        };
    };
    let (steps, ratio, shape) = match raw {
        RawSchedule::Constant {
            warmup_steps,
            warmup_ratio,
        } => (warmup_steps, warmup_ratio, Shape::Constant),
        RawSchedule::Linear {
            warmup_steps,
            warmup_ratio,
            min_lr,
            min_lr_ratio,
        } => {
            let min_factor = min_factor(min_lr, min_lr_ratio, lr, errors);
            (warmup_steps, warmup_ratio, Shape::Linear { min_factor })
        }
        RawSchedule::Cosine {
            warmup_steps,
            warmup_ratio,
        } => (warmup_steps, warmup_ratio, Shape::Cosine { min_factor: 0.0 }),
        RawSchedule::CosineWithMinLr {
            warmup_steps,
            warmup_ratio,
            min_lr,
            min_lr_ratio,
        } => {
            if min_lr.is_none() && min_lr_ratio.is_none() {
                let hint = "write min_lr or min_lr_ratio, or name: cosine";
                errors.refuse(
                    "train.schedule",
                    "cosine_with_min_lr without a minimum",
                    Some(hint),
                );
            }
            let min_factor = min_factor(min_lr, min_lr_ratio, lr, errors);
            (warmup_steps, warmup_ratio, Shape::Cosine { min_factor })
        }
        RawSchedule::Wsd {
            warmup_steps,
            warmup_ratio,
            min_lr,
            min_lr_ratio,
            decay_steps,
            decay_ratio,
        } => {
            let min_factor = min_factor(min_lr, min_lr_ratio, lr, errors);
            let decay = decay(decay_steps, decay_ratio, errors);
            (warmup_steps, warmup_ratio, Shape::Wsd { decay, min_factor })
        }
        RawSchedule::InverseSqrt {
            warmup_steps,
            warmup_ratio,
            timescale,
        } => (warmup_steps, warmup_ratio, Shape::InverseSqrt { timescale }),
    };
    errors.exclusive("train.schedule.warmup_steps", "train.schedule.warmup_ratio");
    let warmup = match (steps, ratio) {
        (None, Some(ratio)) => Part::Ratio(ratio),
        (steps, _) => Part::Steps(steps.unwrap_or(defaults::WARMUP_STEPS)),
    };
    ScheduleChoice { warmup, shape }
}

fn decay(steps: Option<u64>, ratio: Option<f64>, errors: &mut Errors) -> Part {
    errors.exclusive("train.schedule.decay_steps", "train.schedule.decay_ratio");
    match (steps, ratio) {
        (Some(steps), _) => Part::Steps(steps),
        (None, Some(ratio)) => Part::Ratio(ratio),
        (None, None) => {
            errors.refuse(
                "train.schedule",
                "wsd without a decay",
                Some("write decay_steps or decay_ratio"),
            );
            Part::Steps(0)
        }
    }
}

fn min_factor(min_lr: Option<f64>, ratio: Option<f64>, lr: f64, errors: &mut Errors) -> f64 {
    const KEY: &str = "train.schedule.min_lr";
    errors.exclusive(KEY, "train.schedule.min_lr_ratio");
    let min_lr = match (min_lr, ratio) {
        (None, Some(ratio)) => return ratio,
        (min_lr, _) => min_lr.unwrap_or(defaults::MIN_LR),
    };
    if min_lr > lr {
        let reason = format!("larger than the peak, train.optimizer.lr = {lr:?}");
        errors.refuse(KEY, &reason, Some("lower it, or raise train.optimizer.lr"));
    }
    min_lr / lr
}
