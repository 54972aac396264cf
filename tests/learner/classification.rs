//! A classification head in training: the loss is divided once, by the weights of the labels of the whole step.

use brazier::{
    data::{Batch, Class, Example, collate},
    learner::{
        Learner,
        options::{StepConfig, TrainMode},
    },
};
use brazier_models::{Head, LoraConfig, LoraParts, LoraTargets, Vlm, VlmConfig};
use burn::tensor::{DType, Device};

use crate::{
    all_weights, assert_same, example, moved, snapshot,
    support::{devices, plain_step, tiny_vlm},
};

/// One factor for each class.
const WEIGHTS: [f32; 3] = [0.25, 1.0, 3.0];

fn classifier() -> VlmConfig {
    VlmConfig {
        vision: None,
        head: Head::Classification {
            labels: vec!["a".into(), "b".into(), "c".into()],
        },
        ..tiny_vlm()
    }
}

/// Eight rows of different lengths.
fn rows(step: usize) -> Vec<Example> {
    let classes = [0, 2, 1, 1, 2, 0, 0, 1];
    let numbered = (8 * step + 1..).zip(classes);
    numbered
        .map(|(line, class)| Example {
            labels: Vec::new(),
            class: Some(Class {
                id: class,
                weight: WEIGHTS[class as usize],
            }),
            ..example(line, 0, 1 + line % 7, 2)
        })
        .map(|row| Example {
            labels: vec![-100; row.input_ids.len()],
            ..row
        })
        .collect()
}

fn batches(step: usize, size: usize) -> Vec<Batch> {
    rows(step).chunks(size).map(|rows| collate(rows, 0)).collect()
}

fn learner(lora: Option<&LoraConfig>, config: &StepConfig, device: &Device) -> Learner {
    let model = Vlm::init_with_lora(&classifier(), lora, 1, device, DType::F32).unwrap();
    Learner::new(model, config.clone(), device.clone()).unwrap()
}

/// Micro-batches whose labels weigh differently: a mean of means would show.
#[test]
fn accumulation_does_not_change_the_weighted_loss() {
    for device in &devices() {
        let config = plain_step(TrainMode::LmOnly);
        let run = |size: usize| {
            let mut learner = learner(None, &config, device);
            let reports = (0..3).map(|step| learner.step(&batches(step, size)).unwrap());
            reports
                .map(|report| (report.loss, report.grad_norm, report.labelled_tokens))
                .collect::<Vec<_>>()
        };
        let whole = run(8);
        for size in [4, 3, 1] {
            for (got, expected) in run(size).iter().zip(&whole) {
                assert!(
                    (got.0 - expected.0).abs() < 1e-5 * expected.0,
                    "{got:?}, expected {expected:?}"
                );
                assert!(
                    (got.1 - expected.1).abs() < 1e-4 * expected.1,
                    "{got:?}, expected {expected:?}"
                );
                assert_eq!((got.2, expected.2), (8, 8));
            }
        }
    }
}

/// Only what the weights say among themselves counts.
#[test]
fn weights_are_relative() {
    let device = &devices()[0];
    let config = plain_step(TrainMode::LmOnly);
    let losses = |factor: f32| {
        let mut learner = learner(None, &config, device);
        let mut rows = rows(0);
        for class in rows.iter_mut().filter_map(|row| row.class.as_mut()) {
            class.weight *= factor;
        }
        let loss = learner.step(&[collate(&rows, 0)]).unwrap().loss;
        (loss, snapshot(&learner).tensors)
    };
    // A power of two changes no digit.
    let (one, four) = (losses(1.0), losses(4.0));
    assert_eq!(one.0, four.0);
    let params = |tensors: &[brazier_models::HostTensor]| {
        tensors
            .iter()
            .filter(|tensor| tensor.name.starts_with("param."))
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_same("weights times four", &params(&one.1), &params(&four.1));
}

#[test]
fn a_head_is_trained_in_full_beside_adapters() {
    let lora = LoraConfig {
        r: 2,
        lora_alpha: 2.0,
        lora_dropout: 0.1,
        use_rslora: false,
        target_modules: LoraTargets::Named(vec!["q_proj".into()]),
        parts: LoraParts::Language,
    };
    let mut learner = learner(Some(&lora), &plain_step(TrainMode::Full), &devices()[0]);
    let before = all_weights(&learner);
    for step in 0..2 {
        learner.step(&batches(step, 4)).unwrap();
    }
    let q_proj = |layer: usize, matrix: &str| {
        format!("language_model.model.layers.{layer}.self_attn.q_proj.{matrix}.weight")
    };
    let expected = [
        q_proj(0, "lora_A"),
        q_proj(0, "lora_B"),
        q_proj(1, "lora_A"),
        q_proj(1, "lora_B"),
        "language_model.score.weight".to_owned(),
    ];
    assert_eq!(moved(&before, &all_weights(&learner)), expected);
    let saved = learner.expected_tensors();
    assert!(
        saved
            .iter()
            .any(|(name, ..)| name == "param.language_model.score.weight")
    );
}
