//! AdamW, clipping, schedules, and all of it together in a recorded run.

use std::collections::BTreeSet;

use brazier::{
    data::{Batch, ImageBatch, ImageSource, PaddingSide},
    learner::{
        Learner, lr_factor,
        options::{OptimizerConfig, ScheduleConfig, ScheduleKind, StepConfig, TrainMode},
    },
};
use brazier_models::{
    IGNORE_INDEX,
    ops::{self, AdamwState, AdamwStep},
};
use burn::tensor::{DType, Device, Tensor, TensorData};
use serde_json::Value;

use crate::{
    check, check_unused,
    fixture::{self, Fixture},
    is_zero_in_theory,
    support::{devices, f32s, plain_step, sample, weights},
    values,
};

/// The tensors of `adamw.safetensors` as flat state.
fn check_adamw(fixture: &Fixture, name: &str, device: &Device) {
    let flat = |values: Vec<f32>| {
        let count = values.len();
        Tensor::<1>::from_data(TensorData::new(values, [count]), (device, DType::F32))
    };
    let init = fixture.f32s(&format!("init.{name}"));
    let gradients = fixture.f32s(&format!("grad.{name}"));
    let (norms, lrs) = (fixture.f32s("grad_norm"), fixture.f64s("lr"));
    let (beta1, beta2) = (fixture.number("beta1"), fixture.number("beta2"));
    let zeros = || flat(vec![0.0; init.len()]);
    let mut state = AdamwState {
        master: flat(init.clone()),
        m: zeros(),
        v: zeros(),
    };
    let mut compared = 0;
    for (step, gradient) in (0i32..).zip(gradients.chunks(init.len())) {
        let norm = f64::from(norms[step as usize]);
        state = ops::adamw(
            state,
            flat(gradient.to_vec()),
            AdamwStep {
                lr: lrs[step as usize],
                beta1,
                beta2,
                eps: fixture.number("eps"),
                weight_decay: fixture.about["weight_decay"][name].as_f64().unwrap(),
                bias_correction1: 1.0 - beta1.powi(step + 1),
                bias_correction2: 1.0 - beta2.powi(step + 1),
                grad_scale: (fixture.number("max_grad_norm") / (norm + 1e-6)).min(1.0),
            },
        );
        let recorded = format!("after.{}.{name}", step + 1);
        if fixture.has(&recorded) {
            compared += 1;
            let moments = [
                ("", &state.master),
                (".exp_avg", &state.m),
                (".exp_avg_sq", &state.v),
            ];
            for (moment, tensor) in moments {
                let what = format!("{recorded}{moment}");
                check(&what, &values(tensor.clone()), &fixture.f32s(&what), 1e-6);
            }
        }
    }
    assert_eq!(
        compared,
        fixture.about["recorded_after_steps"].as_array().unwrap().len()
    );
}

/// Clipped and unclipped steps; the formulas around the op are tested by `training_agrees_with_pytorch`.
#[test]
fn adamw_agrees_with_pytorch() {
    let fixture = Fixture::open("adamw.safetensors");
    for device in &devices() {
        for name in ["matrix", "bias", "norm"] {
            check_adamw(&fixture, name, device);
        }
    }
}

fn schedule_kind(kind: &Value) -> ScheduleKind {
    let min_factor = || kind["min_factor"].as_f64().unwrap();
    let steps = |key: &str| kind[key].as_u64().unwrap();
    match kind["type"].as_str().unwrap() {
        "constant" => ScheduleKind::Constant,
        "linear" => ScheduleKind::Linear {
            min_factor: min_factor(),
        },
        "cosine" => ScheduleKind::Cosine {
            min_factor: min_factor(),
        },
        "wsd" => ScheduleKind::Wsd {
            decay_steps: steps("decay_steps"),
            min_factor: min_factor(),
        },
        "inverse_sqrt" => ScheduleKind::InverseSqrt {
            timescale: steps("timescale"),
        },
        other => panic!("unknown schedule {other}"),
    }
}

#[test]
fn schedules_agree_with_transformers() {
    let text = brazier::fs::read_to_string(&fixture::path("schedules.json")).unwrap();
    let file: Value = serde_json::from_str(&text).unwrap();
    for case in file["cases"].as_array().unwrap() {
        let config = ScheduleConfig {
            kind: schedule_kind(&case["kind"]),
            warmup_steps: case["warmup_steps"].as_u64().unwrap(),
            total_steps: case["total_steps"].as_u64().unwrap(),
        };
        // transformers' warmup_stable_decay rises from its minimum, ours from 0 like all others.
        let rises_from_elsewhere = case.get("hf_warmup_starts_at").is_some();
        let first = if rises_from_elsewhere {
            config.warmup_steps
        } else {
            0
        };
        for (step, factor) in (0u64..)
            .zip(case["factors"].as_array().unwrap())
            .skip(first as usize)
        {
            let (got, expected) = (lr_factor(&config, step), factor.as_f64().unwrap());
            assert!(
                (got - expected).abs() < 1e-12,
                "{} at step {step}: {got}, expected {expected}",
                case["name"]
            );
        }
    }
}

/// The micro-batches of one recorded step.
fn recorded_batches(fixture: &Fixture, step: usize) -> Vec<Batch> {
    let pool_shape = fixture.shape("pixel_pool");
    let image_len = pool_shape[1..].iter().product();
    let pool = fixture.f32s("pixel_pool");
    let read = |micro: usize| {
        let name = |key: &str| format!("step.{step}.micro.{micro}.{key}");
        let shape = fixture.shape(&name("input_ids"));
        let (rows, length) = (shape[0], shape[1]);
        let labels = fixture.i32s(&name("labels"));
        let images = fixture
            .has(&name("images"))
            .then(|| fixture.i32s(&name("images")));
        let counts = |row: &[i32]| row[1..].iter().filter(|&&label| label != IGNORE_INDEX).count();
        let mask = fixture.i32s(&name("attention_mask"));
        let tokens = |row: &[i32]| vec![row.iter().sum::<i32>() as usize];
        Batch {
            rows,
            length,
            padding_side: PaddingSide::Right,
            segments: mask.chunks(length).map(tokens).collect(),
            input_ids: fixture.i32s(&name("input_ids")),
            images: images.map(|images| ImageBatch {
                pixels: images
                    .iter()
                    .flat_map(|&i| &pool[i as usize * image_len..][..image_len])
                    .copied()
                    .collect(),
                sources: vec![ImageSource::Decoded(None); images.len()],
            }),
            samples: (1..=rows).map(sample).collect(),
            num_tokens: mask.iter().sum::<i32>() as usize,
            num_labelled: labels.chunks(length).map(counts).sum(),
            labels,
            classes: None,
        }
    };
    (0..fixture.number("accumulation") as usize).map(read).collect()
}

fn recorded_step_config(fixture: &Fixture) -> StepConfig {
    StepConfig {
        optimizer: OptimizerConfig {
            lr: fixture.number("lr"),
            beta1: fixture.number("beta1"),
            beta2: fixture.number("beta2"),
            eps: fixture.number("eps"),
            weight_decay: fixture.number("weight_decay"),
            projector_lr: None,
            vision_lr: None,
            language_lr: None,
        },
        schedule: ScheduleConfig {
            kind: ScheduleKind::Cosine { min_factor: 0.0 },
            warmup_steps: fixture.number("warmup_steps") as u64,
            total_steps: fixture.number("num_steps") as u64,
        },
        max_grad_norm: Some(fixture.number("max_grad_norm")),
        ..plain_step(TrainMode::Full)
    }
}

fn check_decay_groups(fixture: &Fixture, learner: &Learner) {
    let names = fixture.about["decayed"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap());
    let expected: BTreeSet<&str> = names
        .filter(|name| learner.whole_model().unwrap().uses(name))
        .collect();
    let params = learner.trainable().params.iter();
    let decayed = params
        .filter(|param| param.weight_decay > 0.0)
        .map(|param| param.info.path.as_str());
    assert_eq!(decayed.collect::<BTreeSet<_>>(), expected);
}

/// Twenty steps of two micro-batches: data, accumulation, loss, clipping, schedule, decay groups, update.
#[test]
fn training_agrees_with_pytorch() {
    let fixture = Fixture::open("training.safetensors");
    let start = Fixture::open("vlm.safetensors");
    for device in devices() {
        let model = start.model(&fixture.vlm_config(), "", &device);
        let before = weights(&model);
        let mut learner = Learner::new(model, recorded_step_config(&fixture), device).unwrap();
        check_decay_groups(&fixture, &learner);
        let num_steps = fixture.number("num_steps") as usize;
        let (mut losses, mut norms) = (Vec::new(), Vec::new());
        for step in 0..num_steps {
            let report = learner.step(&recorded_batches(&fixture, step)).unwrap();
            losses.push(report.loss);
            norms.push(report.grad_norm);
            assert_eq!(report.labelled_tokens as i32, fixture.i32s("num_labelled")[step]);
            assert!((report.lr - fixture.f64s("lr")[step]).abs() < 1e-12);
        }
        for (name, curve) in [("loss", losses), ("grad_norm", norms)] {
            for (step, (got, expected)) in curve.iter().zip(fixture.f64s(name)).enumerate() {
                check(
                    &format!("{name} of step {step}"),
                    &[*got],
                    &[expected as f32],
                    1e-5,
                );
            }
        }
        check_unused(
            &learner.whole_model().unwrap(),
            &fixture.about["without_gradient"],
        );
        for (before, after) in before.iter().zip(weights(&learner.whole_model().unwrap())) {
            let path = &after.name;
            if !learner.whole_model().unwrap().uses(path) {
                assert_eq!(before.bytes, after.bytes, "{path} moved");
            } else if !is_zero_in_theory(path) {
                check(
                    path,
                    &f32s(&after.bytes),
                    &fixture.f32s(&format!("final.{path}")),
                    1e-4,
                );
            }
        }
    }
}
