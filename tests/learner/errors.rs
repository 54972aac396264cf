//! What stops a step, and that nothing has moved then.

use brazier::{
    data::{Batch, collate},
    learner::{
        Learner, LearnerError,
        options::{Recompute, StepConfig, TrainMode},
    },
};
use brazier_models::{
    HostDtype, HostTensor, InputError, Vlm,
    params::{LoadError, load_params},
};
use burn::tensor::DType;

use crate::{
    all_weights, assert_same, batches, devices_by_precision, example, learner, snapshot,
    support::{devices, plain_step, tiny_vlm, weights},
};

/// A step that must fail, and leave everything as it was.
fn refused(learner: &mut Learner, batches: &[Batch]) -> LearnerError {
    let (before, steps) = (snapshot(learner), learner.finished_steps());
    let error = learner.step(batches).unwrap_err();
    assert_same("a refused step", &before.tensors, &snapshot(learner).tensors);
    assert_eq!(learner.finished_steps(), steps);
    error
}

#[test]
fn a_loss_that_is_not_finite_names_step_and_samples_and_moves_nothing() {
    for (precision, device) in &devices_by_precision() {
        for (poison, recompute) in [(f32::NAN, Recompute::None), (f32::INFINITY, Recompute::Blocks)] {
            let config = StepConfig {
                precision: *precision,
                recompute,
                ..plain_step(TrainMode::Full)
            };
            let (mut poisoned, mut untouched) = (learner(&config, 1, device), learner(&config, 1, device));
            for learner in [&mut poisoned, &mut untouched] {
                learner.step(&batches(0, 2)).unwrap();
            }
            let mut bad = batches(1, 2);
            // The second micro-batch: lines 11 and 12.
            bad[1].images.as_mut().unwrap().pixels[5] = poison;
            let error = refused(&mut poisoned, &bad);
            let LearnerError::NotFinite { step, samples, .. } = &error else {
                panic!("{error}")
            };
            assert_eq!((*step, samples.as_str()), (1, "rows.jsonl:11, rows.jsonl:12"));
            assert!(error.to_string().starts_with("step 1: loss "), "{error}");

            for learner in [&mut poisoned, &mut untouched] {
                learner.step(&batches(2, 2)).unwrap();
            }
            assert_same(
                "the step after",
                &snapshot(&poisoned).tensors,
                &snapshot(&untouched).tensors,
            );
        }
    }
}

#[test]
fn a_step_without_a_labelled_token_names_its_samples() {
    let mut learner = learner(&plain_step(TrainMode::Full), 1, &devices()[0]);
    let mut silent = collate(&[example(4, 1, 3, 0), example(7, 0, 5, 0)], 0);
    // The first position of a row has no predecessor: its label does not count.
    silent.labels[0] = 1;
    let error = refused(&mut learner, &[silent]);
    let LearnerError::NoLabelledToken { step: 0, samples } = &error else {
        panic!("{error}")
    };
    assert_eq!(samples, "rows.jsonl:4, rows.jsonl:7");
    assert!(
        error
            .to_string()
            .contains("hint: see that rows have assistant turns"),
        "{error}"
    );
}

#[test]
fn a_micro_batch_without_labels_changes_nothing() {
    let config = plain_step(TrainMode::Full);
    let device = &devices()[0];
    let (mut with, mut without) = (learner(&config, 1, device), learner(&config, 1, device));
    let mut silenced = batches(0, 4);
    silenced.insert(1, collate(&[example(90, 1, 3, 0)], 0));
    let with_report = with.step(&silenced).unwrap();
    let without_report = without.step(&batches(0, 4)).unwrap();
    assert_eq!(with_report.loss, without_report.loss);
    assert_eq!(with_report.samples, without_report.samples + 1);
    assert_same(
        "a silent micro-batch",
        &snapshot(&with).tensors,
        &snapshot(&without).tensors,
    );
}

#[test]
fn a_batch_that_does_not_fit_names_its_samples() {
    let mut learner = learner(&plain_step(TrainMode::Full), 1, &devices()[0]);
    let mut bad = batches(0, 4);
    bad[1].input_ids[3] = 99;
    let error = refused(&mut learner, &bad);
    let LearnerError::Input {
        samples,
        source: InputError::Vocabulary { .. },
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!(samples, "rows.jsonl:5, rows.jsonl:6, rows.jsonl:7, rows.jsonl:8");

    let mut bad = batches(0, 4);
    bad[0].images = None;
    let error = refused(&mut learner, &bad);
    assert!(
        matches!(
            error,
            LearnerError::Input {
                source: InputError::ImageTokens { .. },
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn weights_that_do_not_fit_are_listed_at_once() {
    let model = Vlm::init(&tiny_vlm(), 1, &devices()[0], DType::F32).unwrap();
    let before = weights(&model);
    let mut tensors = before.clone();
    let missing = tensors.remove(3).name;
    let misshapen = &mut tensors[10];
    let (name, right) = (misshapen.name.clone(), misshapen.shape.clone());
    misshapen.shape.insert(0, 1);
    let wrong = misshapen.shape.clone();
    tensors.push(HostTensor {
        name: "language_model.lm_head.weight".into(),
        shape: vec![1],
        dtype: HostDtype::F32,
        bytes: vec![0; 4],
    });
    let (model, error) = load_params(model, tensors).err().unwrap();
    let expected = LoadError {
        missing: vec![missing.clone()],
        unexpected: vec!["language_model.lm_head.weight".into()],
        misshapen: vec![(name.clone(), right.clone(), wrong.clone())],
    };
    assert_eq!(error, expected);
    let message = error.to_string();
    for part in [
        format!("missing (1): {missing}"),
        "unexpected (1): language_model.lm_head.weight".into(),
        format!("{name}: expected shape {right:?}, got {wrong:?}"),
    ] {
        assert!(message.contains(&part), "{message}");
    }
    assert_same("the refused load", &weights(&model), &before);
    let learner = Learner::new(model, plain_step(TrainMode::Full), devices()[0].clone()).unwrap();
    assert_same("in the learner", &all_weights(&learner), &before);
}
