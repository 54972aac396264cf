//! Classifying rows: from a language model to a folder with a head for classes, and on from there.

use std::fmt::Write as _;

use serde_json::Value;

use crate::project::Project;

const RUN_YAML: &str = "\
output: run
seed: 3
model:
  from: base/export
  head:
    kind: classification
    labels: [small, large]
    class_weights: [1.0, 2.0]
data:
  train: [{path: train.jsonl}]
  eval: [{path: eval.jsonl}]
  sequence_length: 16
train:
  mode: lm_only
  steps: 200
  micro_batch_size: 8
  optimizer:
    lr: 0.02
eval:
  every: {steps: 100}
  batch_size: 3
  best: {metric: eval_auroc}
track:
  log_every: 10
";

/// Rows whose class is whether the last token is above 20: the label as a name or an id.
fn rows(count: usize, first: usize) -> String {
    let mut text = String::new();
    for row in first..first + count {
        let last = 4 + (row * 7919) % 33;
        let before: Vec<String> = (0..row % 5).map(|at| (4 + (row + at) % 30).to_string()).collect();
        let ids = [before, vec![last.to_string()]].concat().join(", ");
        let label = match (last > 20, row % 2) {
            (true, 0) => "\"large\"",
            (true, _) => "1",
            (false, 0) => "\"small\"",
            (false, _) => "0",
        };
        writeln!(text, "{{\"input_ids\": [{ids}], \"label\": {label}}}").unwrap();
    }
    text
}

/// A language model in `base/export`, rows, and a run that classifies them.
fn project() -> Project {
    let project = Project::new();
    let text_only = [
        "train.steps=1",
        "output=base",
        "model.vision=null",
        "model.projector=null",
        "eval=null",
    ];
    // The shapes have images; a language model gets rows of its own.
    let chat = "{\"messages\": [{\"role\": \"user\", \"content\": \"red\"}, {\"role\": \"assistant\", \"content\": \"blue\"}]}\n";
    project.write("chat.jsonl", chat.repeat(8).as_bytes());
    let data = ["data.train=[{path: chat.jsonl}]", "data.eval=null"];
    project.train(&[&text_only[..], &data].concat()).exits(0);
    project.write("train.jsonl", rows(160, 0).as_bytes());
    project.write("eval.jsonl", rows(40, 1000).as_bytes());
    project.write("run.yaml", RUN_YAML.as_bytes());
    project
}

#[test]
fn a_language_model_learns_to_classify() {
    let project = project();
    project
        .train(&[])
        .exits(0)
        .says(&["LlamaForSequenceClassification"]);
    let config: Value = serde_json::from_slice(&project.read("run/export/config.json")).unwrap();
    assert_eq!(config["id2label"]["1"], "large");
    assert_eq!(config["label2id"]["large"], 1);
    assert_eq!(config["problem_type"], "single_label_classification");
    let metrics = project.metrics();
    let last = metrics
        .iter()
        .rev()
        .find(|line| line.get("eval_accuracy").is_some())
        .unwrap();
    assert!(last["eval_accuracy"].as_f64().unwrap() > 0.9, "{last}");
    assert!(last["eval_auroc"].as_f64().unwrap() > 0.95, "{last}");
    assert!(last["eval_macro_f1"].as_f64().unwrap() > 0.9, "{last}");

    let predictions = String::from_utf8(project.read("run/predictions.jsonl")).unwrap();
    assert_eq!(predictions.lines().count(), 40);
    let first: Value = serde_json::from_str(predictions.lines().next().unwrap()).unwrap();
    assert_eq!(first["line"], 1);
    assert!(["small", "large"].contains(&first["predicted"].as_str().unwrap()));
    assert_eq!(first["probabilities"].as_array().unwrap().len(), 2);

    // The folder brings its own classes; going on with it starts from what was learned.
    let again = [
        "output=again",
        "model.from=run/export",
        "model.head=null",
        "train.steps=1",
        "train.optimizer.lr=1e-9",
    ];
    project.train(&again).exits(0);
    let text = String::from_utf8(project.read("again/metrics.jsonl")).unwrap();
    assert!(text.lines().last().unwrap().contains("eval_accuracy"), "{text}");
    let of = |line: &Value| line["eval_accuracy"].as_f64().unwrap();
    assert_eq!(
        of(&serde_json::from_str(text.lines().last().unwrap()).unwrap()),
        of(last)
    );

    // With adapters the head is trained and stored in full, as PEFT does.
    let adapters = ["output=adapted", "model.lora={r: 2}", "train.steps=2"];
    project.train(&adapters).exits(0);
    let config: Value = serde_json::from_slice(&project.read("adapted/export/adapter_config.json")).unwrap();
    assert_eq!(config["task_type"], "SEQ_CLS");
    assert_eq!(config["modules_to_save"][0], "score");
}

#[test]
fn what_does_not_fit_is_refused() {
    let project = project();
    let check = |sets: &[&str], parts: &[&str]| {
        project.train(sets).exits(2).says(parts);
    };
    check(
        &["model.head.class_weights=[1.0]"],
        &[
            "model.head.class_weights",
            "1 weights for 2 classes: small, large",
        ],
    );
    check(
        &["model.head.class_weights=[1.0, -1.0]"],
        &["model.head.class_weights", "must be above 0"],
    );
    check(&["model.head.labels=null"], &["model.head", "says no classes"]);
    check(
        &["model.head.num_labels=2"],
        &["model.head.num_labels", "contradicts model.head.labels"],
    );
    check(
        &["model.head.labels=[a, a]"],
        &["model.head.labels", "two classes have this name"],
    );
    check(
        &["eval.exact_match=true"],
        &["eval.exact_match", "classification head"],
    );
    check(
        &["eval.best.metric=eval_perplexity"],
        &["eval.best.metric", "is not computed for this head"],
    );
    check(
        &["model.head=null"],
        &["eval.best.metric", "is not computed for this head"],
    );
    check(
        &["model.head.labels=[tiny, huge]"],
        &["train.jsonl:1: label small is not one of the classes: tiny, huge"],
    );
    project.write("train.jsonl", b"{\"input_ids\": [], \"label\": 0}\n");
    check(&[], &["train.jsonl:1", "the row has no token"]);
    project.write("train.jsonl", b"{\"input_ids\": [4, 70000], \"label\": 0}\n");
    check(&[], &["token id 70000 is outside the vocabulary"]);
}
