//! Adapters from the configuration to the merged model.

use crate::project::Project;

/// A trained model in `base/export`, and in `run.yaml` a run of adapters on it.
fn project() -> Project {
    let project = Project::new();
    project
        .train(&["train.steps=3", "output=base", "eval=null", "data.eval=null"])
        .exits(0);
    let shapes = project.shapes().display().to_string();
    project.write("run.yaml", RUN_YAML.replace("SHAPES", &shapes).as_bytes());
    project
}

const RUN_YAML: &str = "\
output: run
seed: 3
model:
  from: base/export
  lora:
    r: 4
    alpha: 8
    dropout: 0.2
    rslora: true
    target_modules: [q_proj, down_proj]
data:
  train: [{path: SHAPES/train.jsonl}]
  sequence_length: 256
train:
  mode: end_to_end
  steps: 6
  micro_batch_size: 2
  optimizer:
    lr: 0.01
checkpoint:
  every: {steps: 3}
  keep: {last: 9}
track:
  log_every: 1
";

/// Of 2 blocks of width 16, one key head of 8 and an MLP of 32: r * (16 + 16) and r * (32 + 16) for each.
const NUM_ADAPTERS: &str = "parameters, adapters                640\n";

#[test]
fn adapters_are_trained_resumed_merged_and_used() {
    let project = project();
    project.train(&[]).exits(0).says(&[
        NUM_ADAPTERS,
        "exported adapters run/export",
        "brazier model merge --base base/export --adapter run/export",
    ]);
    let config: serde_json::Value =
        serde_json::from_slice(&project.read("run/export/adapter_config.json")).unwrap();
    assert_eq!(
        config["target_modules"],
        r".*\blanguage_model\..*\.(down_proj|q_proj)"
    );
    assert_eq!(config["modules_to_save"][0], "multi_modal_projector");
    let base = config["base_model_name_or_path"].as_str().unwrap();
    assert!(base.starts_with('/') && base.ends_with("base/export"), "{base}");

    // From the middle, in another folder: the same adapters to the last bit, dropout included.
    let resumed = ["output=other", "checkpoint.resume=run/checkpoints/step-00000003"];
    project.train(&resumed).exits(0).says(&["going on from step 3"]);
    let weights = "export/adapter_model.safetensors";
    assert!(project.read(&format!("run/{weights}")) == project.read(&format!("other/{weights}")));

    // Merged, the model says what base and adapters say.
    let merge = [
        "model",
        "merge",
        "--base",
        "base/export",
        "--adapter",
        "run/export",
        "--output",
        "merged",
    ];
    let done = project.brazier(&merge);
    done.exits(0);
    assert!(
        done.stderr
            .contains("4 of them with an adapter folded in, 4 replaced"),
        "{done}"
    );
    let answer = |model: &[&str]| {
        let prompt = ["--prompt", "What colour is it?", "--max-new-tokens", "12"];
        let done = project.brazier(&[&["generate"], model, &prompt].concat());
        done.exits(0);
        done.stdout
    };
    let merged = answer(&["--model", "merged"]);
    assert_eq!(
        merged,
        answer(&["--model", "base/export", "--adapter", "run/export"])
    );

    // The adapters of one run are where the next one begins.
    let further = [
        "output=further",
        "train.steps=1",
        "train.optimizer.lr=1e-12",
        "model.lora={from: run/export}",
    ];
    project.train(&further).exits(0);
    let lengths = ["run", "further"].map(|run| project.read(&format!("{run}/{weights}")).len());
    assert_eq!(lengths[0], lengths[1]);
}

#[test]
fn adapters_that_cannot_be_are_refused() {
    let project = project();
    let check = |sets: &[&str], parts: &[&str]| {
        project.train(sets).exits(2).says(parts);
    };
    check(
        &["model.lora.target_modules=[query]"],
        &[
            "model.lora.target_modules",
            "query",
            "no layer of this name; there are: down_proj, gate_proj",
        ],
    );
    check(&["model.lora.r=0"], &["model.lora.r"]);
    check(&["model.lora.dropout=1.0"], &["model.lora.dropout"]);
    check(
        &["model.lora.parts=vision"],
        &["model.lora.parts", "train.mode leaves the vision tower as it is"],
    );
    check(
        &["train.mode=alignment"],
        &["model.lora", "has no effect: train.mode = alignment"],
    );
    check(
        &["model.lora.from=nowhere"],
        &["model.lora.r", "has no effect", "there is no adapter_config.json"],
    );
    let scratch = "model={tokenizer: base/export, language: {hidden_size: 8, intermediate_size: 8, num_hidden_layers: 1, \
                   num_attention_heads: 1, max_position_embeddings: 256}, lora: {r: 2}}";
    check(&[scratch, "train.mode=full"], &["model.lora", "write model.from"]);

    project.train(&["train.steps=1"]).exits(0);
    // Another base of the same shape, and a checkpoint of adapters of the first.
    let base = Project::new();
    base.train(&[
        "train.steps=1",
        "output=base",
        "seed=99",
        "eval=null",
        "data.eval=null",
    ])
    .exits(0);
    let other = format!("model.from={}", base.path("base/export").display());
    check(
        &["train.steps=2", &other, "output=again", "checkpoint.resume=run"],
        &["model.from weights was"],
    );
}
