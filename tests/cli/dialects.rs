//! Configurations of other trainers, as their users have them.

use crate::project::Project;

/// What a script on transformers' trainer would be given.
const ARGUMENTS: &str = "\
model_name_or_path: base/export
dataset_name: SHAPES/train.jsonl
output_dir: tuned
max_steps: 3
per_device_train_batch_size: 2
learning_rate: 1.0e-3
lr_scheduler_type: constant
max_length: 256
bf16: false
gradient_checkpointing: false
save_strategy: epochs
report_to: none
ddp_find_unused_parameters: false
";

/// A project with a trained model in `base/export`.
fn project() -> Project {
    let project = Project::new();
    project.train(&["output=base"]).exits(0);
    let text = ARGUMENTS.replace("SHAPES", &project.shapes().display().to_string());
    project.write("sft.yaml", text.as_bytes());
    project
}

#[test]
fn arguments_of_transformers_train_and_the_report_says_what_became_of_them() {
    let project = project();
    let done = project.brazier(&["train", "--config", "sft.yaml"]);
    done.exits(0).says(&[
        "read as a configuration of Hugging Face",
        "    sft.yaml\n      1: model_name_or_path = base/export -> model.from = base/export",
        "11: save_strategy = epochs -> checkpoint.every.epochs = 1 (read as epoch)",
        "no effect here, because",
        "13: ddp_find_unused_parameters = false: gradients are reduced in one fixed order",
        "left out, so Hugging Face decides",
        "seed = 42",
    ]);
    let config = String::from_utf8(project.read("tuned/config.yaml")).unwrap();
    assert!(config.contains("from: \"base/export\""), "{config}");

    // The native form of it is the same run.
    project
        .brazier(&["convert-config", "sft.yaml", "-o", "native.yaml"])
        .exits(0)
        .says(&["wrote native.yaml"]);
    let native = String::from_utf8(project.read("native.yaml")).unwrap();
    assert!(native.contains("lr: 0.001 # learning_rate, line 6"), "{native}");
    let again = project.brazier(&["train", "--config", "native.yaml", "--output", "again"]);
    again.exits(0);
    assert!(!again.stderr.contains("read as a configuration"), "{again}");
    let other = String::from_utf8(project.read("again/config.yaml")).unwrap();
    assert_eq!(config, other.replace("\"again\"", "\"tuned\""));
}

#[test]
fn what_is_refused_stops_every_command_unless_it_is_left_out() {
    let project = project();
    let text = String::from_utf8(project.read("sft.yaml")).unwrap();
    project.write(
        "sft.yaml",
        format!("{text}push_to_hub: true\nlerning_rate: 1\n").as_bytes(),
    );
    let expected = [
        "sft.yaml:14: push_to_hub = true: refused: Brazier has no upload to the hub",
        "hint: to go on without it: --leave-out push_to_hub",
        "sft.yaml:15: lerning_rate = 1: no key of Hugging Face that Brazier knows",
        "hint: did you mean learning_rate?",
    ];
    for args in [
        &["train", "--config", "sft.yaml"][..],
        &["check", "--config", "sft.yaml"],
        &["convert-config", "sft.yaml"],
    ] {
        let done = project.brazier(args);
        done.exits(2).says(&expected);
        assert!(done.stdout.is_empty(), "{done}");
    }
    assert!(!project.path("tuned").exists());
    let left_out = ["--leave-out", "push_to_hub", "--leave-out", "lerning_rate"];
    project
        .brazier(&[&["check", "--config", "sft.yaml"][..], &left_out].concat())
        .exits(0)
        .says(&["14: push_to_hub = true: --leave-out says to go on without it"]);
    project
        .brazier(&["convert-config", "sft.yaml", "--dialect", "axolotol"])
        .exits(2)
        .says(&["expected native, multimeditron, axolotl, huggingface or megatron-vlm"]);
}
