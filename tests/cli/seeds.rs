//! Configurations of other trainers as their users run them: the files as they are, on tiny models in the hub's cache. Only the
//! learning rates are higher, so that few steps show.

use std::{fs, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use crate::{
    models::take_apart,
    project::{Done, Project},
};

const TOKEN: &str = "<|reserved_special_token_0|>";

/// A project with the fixture and its DeepSpeed file.
fn project(fixture: &str, rate: (&str, &str)) -> Project {
    let project = Project::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/dialects");
    let text = fs::read_to_string(folder.join(fixture)).unwrap();
    assert!(text.contains(rate.0), "{text}");
    project.write("config.yaml", text.replace(rate.0, rate.1).as_bytes());
    let deepspeed = fs::read(folder.join("deepspeed.json")).unwrap();
    project.write("deepspeed.json", &deepspeed);
    project
}

/// Puts a folder of the project into the hub's cache.
fn publish(project: &Project, folder: &str, name: &str) {
    let cache = format!("hf/hub/models--{}", name.replace('/', "--"));
    project.write(&format!("{cache}/refs/main"), b"abc");
    for entry in fs::read_dir(project.path(folder)).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap();
        project.write(
            &format!("{cache}/snapshots/abc/{file}"),
            &fs::read(&path).unwrap(),
        );
    }
}

/// The program, in the environment that the files expect.
fn brazier(project: &Project, args: &[&str]) -> Done {
    let [home, data, runs] = ["hf", "data", "runs"].map(|name| project.path(name).display().to_string());
    let variables = [
        ("HF_HOME", home.as_str()),
        ("HF_HUB_CACHE", ""),
        ("DATA", data.as_str()),
        ("RUNS", runs.as_str()),
        ("USER", "me"),
    ];
    project.brazier_with(args, &variables)
}

/// The losses of a run, which must fall.
fn losses(project: &Project, run: &str) -> Vec<f64> {
    let metrics = String::from_utf8(project.read(&format!("{run}/metrics.jsonl"))).unwrap();
    let lines = metrics
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let losses: Vec<f64> = lines.filter_map(|line| line["loss"].as_f64()).collect();
    assert!(losses.iter().all(|loss| loss.is_finite()), "{losses:?}");
    assert!(losses.last() < losses.first(), "{losses:?}");
    losses
}

fn read_json(project: &Project, name: &str) -> Value {
    serde_json::from_slice(&project.read(name)).unwrap()
}

/// A row of shapes as MultiMeditron's rows are.
fn with_bytes(project: &Project, line: &str) -> String {
    let row: Value = serde_json::from_str(line).unwrap();
    let text = |part: &Value| match part["text"].as_str() {
        Some(text) => text.to_owned(),
        None => TOKEN.to_owned(),
    };
    let turns = row["messages"].as_array().unwrap().iter();
    let turns: Vec<Value> = turns
        .map(|turn| match turn["content"].as_array() {
            Some(parts) => {
                json!({"role": turn["role"], "content": parts.iter().map(text).collect::<String>()})
            }
            None => turn.clone(),
        })
        .collect();
    let image = fs::read(project.shapes().join(row["images"][0].as_str().unwrap())).unwrap();
    let value = json!({"bytes": STANDARD.encode(image), "path": null});
    let row = json!({"conversations": turns, "modalities": [{"type": "image", "value": value}]});
    format!("{row}\n")
}

/// A language model whose tokenizer has another token for images, and a tower, where `multimeditron.yaml` looks for them.
fn multimeditron() -> Project {
    let project = project("multimeditron.yaml", ("1.0e-4", "1.0e-2"));
    project
        .train(&[
            "train.steps=1",
            "model.language.model_type=qwen3",
            // What the image's tokens are, the next token depends on.
            "model.language.initializer_range=0.2",
            "eval=null",
            "data.eval=null",
        ])
        .exits(0);
    take_apart(&project);
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        let text = String::from_utf8(project.read(&format!("language/{name}"))).unwrap();
        assert!(text.contains("<image>"), "{text}");
        project.write(
            &format!("language/{name}"),
            text.replace("<image>", TOKEN).as_bytes(),
        );
    }
    let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/data/template/named/qwen3.jinja");
    project.write("language/chat_template.jinja", &fs::read(template).unwrap());
    publish(&project, "language", "Qwen/Qwen3-8B");
    publish(&project, "clip", "openai/clip-vit-large-patch14");
    let rows = fs::read_to_string(project.shapes().join("train.jsonl")).unwrap();
    let rows: String = rows.lines().map(|line| with_bytes(&project, line)).collect();
    project.write("data/images/train.jsonl", rows.repeat(6).as_bytes());
    project
}

#[test]
fn multimeditrons_alignment_runs() {
    let project = multimeditron();
    brazier(&project, &["train", "--config", "config.yaml"])
        .exits(0)
        .says(&[
            &format!("4: attachment_token = {TOKEN} -> model.image_token = {TOKEN}"),
            "144 of 144 rows used",
            "144 images",
        ]);
    // 32 rows in a step.
    assert_eq!(losses(&project, "runs/alignment").len(), 5);

    // Whoever reads the export finds the token by its id and by its name.
    let export = "runs/alignment/export";
    let added = &read_json(&project, &format!("{export}/tokenizer.json"))["added_tokens"];
    let mut added = added.as_array().unwrap().iter();
    let token = added.find(|token| token["content"] == TOKEN).unwrap();
    let config = read_json(&project, &format!("{export}/config.json"));
    assert_eq!(config["image_token_index"], token["id"]);
    for (file, path) in [
        ("processor_config.json", "/image_token"),
        ("tokenizer_config.json", "/extra_special_tokens/image_token"),
    ] {
        let json = read_json(&project, &format!("{export}/{file}"));
        assert_eq!(json.pointer(path), Some(&json!(TOKEN)), "{json}");
    }
    let image = project.shapes().join("images/train/000000.png");
    let image = image.to_str().unwrap();
    let export = project.path(export);
    let ask = [
        "generate",
        "--max-new-tokens",
        "2",
        "--prompt",
        "What is it?",
        "--image",
        image,
    ];
    brazier(
        &project,
        &[&ask[..], &["--model", export.to_str().unwrap()]].concat(),
    )
    .exits(0);
    // And the run's checkpoint becomes a folder of MultiMeditron's.
    brazier(
        &project,
        &[
            "model",
            "export",
            "runs/alignment",
            "--layout",
            "multimeditron",
            "--out",
            "theirs",
        ],
    )
    .exits(0);
    assert_eq!(
        read_json(&project, "theirs/config.json")["attachment_token_idx"],
        token["id"]
    );
    brazier(&project, &[&ask[..], &["--model", "theirs"]].concat()).exits(0);
}

#[test]
fn a_tokenizer_without_the_attachment_token_is_explained() {
    let project = multimeditron();
    let text = String::from_utf8(project.read("config.yaml")).unwrap();
    project.write("config.yaml", text.replace(TOKEN, "<|nowhere|>").as_bytes());
    brazier(&project, &["check", "--config", "config.yaml"])
        .exits(2)
        .says(&[
            "`<|nowhere|>` (it stands for an image) is not a token of this vocabulary",
            "brazier model init --image-token '<|nowhere|>' --add-image-token",
        ]);
}

/// A language model of Apertus' kind where `axolotl.yaml` looks for it, and rows for both of its data sets.
fn axolotl() -> Project {
    let project = project("axolotl.yaml", ("1.0e-5", "1.0e-2"));
    let said = "a red circle left of a blue square ".repeat(20);
    let rows = format!("{}\n", json!({"text": said}));
    project.write(
        "text.jsonl",
        "{\"text\": \"a red circle\"}\n".repeat(8).as_bytes(),
    );
    project
        .train(&[
            "train.steps=1",
            "model.language.model_type=apertus",
            "model.language.max_position_embeddings=4096",
            "model.vision=null",
            "model.projector=null",
            "data.train=[{path: text.jsonl}]",
            "data.eval=null",
            "eval=null",
        ])
        .exits(0);
    publish(&project, "run/export", "swiss-ai/Apertus-8B-Instruct-2509");
    let turns = json!([{"from": "user", "value": "What is there?"}, {"from": "assistant", "value": said}]);
    let chat = format!("{}\n", json!({"conversations": turns}));
    project.write("data/conversations.jsonl", chat.repeat(150).as_bytes());
    project.write("data/pretrain.jsonl", rows.repeat(150).as_bytes());
    project
}

#[test]
fn axolotls_two_data_sets_run_in_packs() {
    let project = axolotl();
    let train = ["train", "--config", "config.yaml", "--set", "output=tuned"];
    brazier(&project, &train)
        .exits(2)
        .says(&["--leave-out wandb_project"]);
    let without = ["--leave-out", "wandb_project", "--leave-out", "wandb_name"];
    brazier(&project, &[&train[..], &without].concat())
        .exits(0)
        .says(&["300 of 300 rows used", "300 samples in "]);
    assert!(losses(&project, "tuned").len() > 1);
    let exported = read_json(&project, "tuned/export/config.json");
    assert_eq!(exported["model_type"], "apertus");
    let ask = [
        "generate",
        "--model",
        "tuned/export",
        "--prompt",
        "What is there?",
        "--max-new-tokens",
        "2",
    ];
    brazier(&project, &ask).exits(0);
}
