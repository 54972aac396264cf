//! What a run leaves, what a second start does, how it ends early.

use std::fs;

use serde_json::Value;

use crate::project::{NUM_ROWS, Project};

fn has(line: &Value, name: &str) -> bool {
    line.get(name).is_some_and(|value| !value.is_null())
}

#[test]
fn a_run_leaves_what_is_promised() {
    let project = Project::new();
    let done = project.train(&["eval.exact_match=true", "eval.max_new_tokens=4"]);
    done.exits(0).says(&[
        "parameters",
        "samples per step  4",
        "memory, all",
        "finished after",
        "next:",
    ]);

    for file in [
        "config.yaml",
        "env.json",
        "metrics.jsonl",
        "report.html",
        "samples.json",
        "export/config.json",
        "export/model.safetensors",
        "export/tokenizer.json",
        "export/tokenizer_config.json",
        "checkpoints/step-00000009/manifest.json",
        "checkpoints/step-00000012/manifest.json",
    ] {
        assert!(
            !project.read(&format!("run/{file}")).is_empty(),
            "{file} is empty"
        );
    }
    assert_eq!(project.steps(), [9, 12], "the newest two are kept");
    let events = fs::read_dir(project.path("run/tensorboard")).unwrap();
    let events: Vec<_> = events
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        matches!(&events[..], [name] if name.starts_with("events.out.tfevents.")),
        "{events:?}"
    );

    let metrics = project.metrics();
    let (evaluations, steps): (Vec<_>, Vec<_>) = metrics.iter().partition(|line| has(line, "eval_loss"));
    assert_eq!(steps.len(), 12);
    for (line, step) in steps.iter().zip(1_u64..) {
        assert_eq!(line["step"], step);
        assert_eq!(line["samples"], 4);
        assert_eq!(line["epoch"], (4 * step) as f64 / NUM_ROWS as f64);
        for name in [
            "loss",
            "lr",
            "grad_norm",
            "tokens",
            "labelled_tokens",
            "total_tokens",
            "step_seconds",
            "data_seconds",
            "forward_backward_seconds",
            "optimizer_seconds",
            "tokens_per_second",
            "samples_per_second",
        ] {
            assert!(has(line, name), "no {name} in {line}");
        }
    }
    assert!(
        steps[11]["loss"].as_f64() < steps[0]["loss"].as_f64(),
        "nothing was learnt"
    );
    let evaluated: Vec<_> = evaluations
        .iter()
        .map(|line| line["step"].as_u64().unwrap())
        .collect();
    assert_eq!(evaluated, [3, 6, 9, 12]);
    for line in evaluations {
        for name in [
            "eval_perplexity",
            "eval_exact_match",
            "eval_samples",
            "eval_seconds",
        ] {
            assert!(has(line, name), "no {name} in {line}");
        }
    }

    // Without a terminal, standard output is the metrics and nothing else.
    assert_eq!(done.stdout.as_bytes(), project.read("run/metrics.jsonl"));
}

#[test]
fn the_shipped_debug_preset_trains_with_nothing_prepared() {
    let project = Project::new();
    let preset = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/debug.yaml");
    let set = "train.steps=2";
    project
        .brazier(&["train", "--config", preset, "--set", set, "--output", "here"])
        .exits(0);
    project.read("here/export/model.safetensors");
    project.read("data/shapes-debug/tokenizer/tokenizer.json");
    assert!(!project.path("runs").exists(), "--output is where the run goes");
}

#[test]
fn a_finished_run_that_is_started_again_changes_nothing() {
    let project = Project::new();
    project.train(&[]).exits(0);
    let files = [
        "run/export/model.safetensors",
        "run/metrics.jsonl",
        "run/config.yaml",
        "run/env.json",
    ];
    let before = files.map(|name| project.read(name));
    let manifest = project.path("run/checkpoints/step-00000012/manifest.json");
    let written = fs::metadata(&manifest).unwrap().modified().unwrap();

    project.train(&[]).exits(0).says(&["going on from step 12"]);
    for (name, before) in files.into_iter().zip(before) {
        assert_eq!(project.read(name), before, "{name}");
    }
    assert_eq!(project.steps(), [9, 12]);
    assert_eq!(fs::metadata(&manifest).unwrap().modified().unwrap(), written);
}

#[test]
fn a_longer_run_goes_on_where_the_shorter_one_ended() {
    let constant = "train.schedule={name: constant}";
    let whole = Project::new();
    whole.train(&[constant]).exits(0);
    let pieces = Project::new();
    pieces.train(&[constant, "train.steps=6"]).exits(0);
    pieces
        .train(&[constant])
        .exits(0)
        .says(&["going on from step 6", "the configuration has changed"]);
    let weights = "run/export/model.safetensors";
    assert!(pieces.read(weights) == whole.read(weights), "the weights differ");
}

#[test]
fn another_runs_checkpoint_is_taken_when_it_is_named_and_not_otherwise() {
    let project = Project::new();
    project.train(&["train.steps=3", "output=first"]).exits(0);
    let second = [
        "train",
        "--config",
        "run.yaml",
        "--output",
        "second",
        "--set",
        "train.steps=4",
    ];
    project
        .brazier(&[&second[..], &["--resume", "first"]].concat())
        .exits(0)
        .says(&["going on from step 3"]);
    // Asked again it goes on from its own.
    project
        .brazier(&[&second[..], &["--resume", "first"]].concat())
        .exits(0)
        .says(&["going on from step 4"]);
    let refused = project.brazier(&[&second[..], &["--resume", "none"]].concat());
    refused
        .exits(2)
        .says(&["resume = none", "holds a checkpoint of step 4", "hint:"]);
    let missing = [
        "train", "--config", "run.yaml", "--output", "third", "--resume", "nowhere",
    ];
    project
        .brazier(&missing)
        .exits(2)
        .says(&["checkpoint.resume = nowhere: there is no such folder"]);
}

#[test]
fn a_run_without_improvement_stops_early_and_stays_stopped() {
    let project = Project::new();
    // No evaluation can improve by so much, so the second and the third count as none.
    let patience = "eval.early_stopping={patience: 2, min_delta: 1000.0}";
    project.train(&[patience]).exits(0).says(&["stopped early"]);
    let last = |project: &Project| *project.steps().last().unwrap();
    assert_eq!(last(&project), 9);
    let weights = project.read("run/export/model.safetensors");
    project
        .train(&[patience])
        .exits(0)
        .says(&["going on from step 9", "stopped early"]);
    assert_eq!(last(&project), 9);
    assert!(
        project.read("run/export/model.safetensors") == weights,
        "the weights moved"
    );

    let improving = Project::new();
    improving.train(&["eval.early_stopping={patience: 2}"]).exits(0);
    assert_eq!(last(&improving), 12, "a loss that falls must not stop the run");
}

#[test]
fn the_best_checkpoint_outlives_newer_ones() {
    let project = Project::new();
    // One token is never the answer, so that all evaluations are equally bad: the first of them is the best.
    project.write(
        "eval.jsonl",
        br#"{"messages":[{"role":"user","content":"?"},{"role":"assistant","content":"not in one token"}]}"#,
    );
    project
        .train(&[
            "data.eval=[{path: eval.jsonl}]",
            "eval={every: {steps: 3}, exact_match: true, max_new_tokens: 1, best: {metric: eval_exact_match}}",
            "checkpoint.keep={last: 1, best: 1}",
        ])
        .exits(0);
    assert_eq!(project.steps(), [3, 12]);
}

#[test]
fn every_mth_checkpoint_can_be_kept() {
    let project = Project::new();
    project
        .train(&[
            "checkpoint.every={steps: 2}",
            "checkpoint.keep={last: 1, every: 4}",
        ])
        .exits(0);
    assert_eq!(project.steps(), [4, 8, 12]);
}

/// Every step runs forward, backward and update, so that a gradient that differs shows in the next loss.
#[test]
fn the_definitions_of_the_operations_give_the_same_losses() {
    let train = |ops: &str| -> (Vec<f64>, Vec<u8>) {
        let project = Project::new();
        project.train(&[ops]).exits(0);
        let metrics = project.metrics();
        let losses = metrics.iter().filter_map(|line| line["loss"].as_f64());
        (losses.collect(), project.read("run/export/model.safetensors"))
    };
    let [(fused, weights), (reference, other)] = ["train.ops=fused", "train.ops=reference"].map(train);
    assert_eq!(fused.len(), 12);
    for (step, (fused, reference)) in fused.iter().zip(&reference).enumerate() {
        assert!(
            (fused - reference).abs() <= 1e-4 * fused,
            "step {step}: {fused} fused, {reference} by definition"
        );
    }
    // Else the switch switches nothing: sums are added up in another order.
    assert!(weights != other, "not a bit differs");
}

/// Keeping activations or computing them again is decided by the memory given, or by what the host has, and changes no bit.
#[test]
fn recompute_goes_by_the_memory() {
    let train = |sets: &[&str], says: &str| {
        let project = Project::new();
        project.train(sets).exits(0).says(&[says]);
        project.read("run/export/model.safetensors")
    };
    let auto = "train.recompute=auto";
    let little = train(
        &[auto, "train.memory_gib=0.001"],
        "recompute        blocks: keeping all takes",
    );
    let much = train(
        &[auto, "train.memory_gib=8"],
        "recompute        none: keeping all takes",
    );
    assert!(little == much);
    train(&[auto], "GiB, which fits");
    let project = Project::new();
    let done = project.train(&["train.memory_gib=8"]);
    done.exits(2).says(&["train.memory_gib", "train.recompute"]);
    let done = project.brazier(&[
        "check",
        "--config",
        "run.yaml",
        "--set",
        auto,
        "--set",
        "train.memory_gib=1",
    ]);
    done.exits(0).says(&["recompute        none"]);
}
