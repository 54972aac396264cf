//! The commands besides `train`.

use std::{fs, path::Path};

use serde_json::Value;

use crate::project::Project;

#[test]
fn every_command_explains_itself() {
    let project = Project::new();
    for (command, needed) in [
        ("", "train"),
        ("train", "--resume"),
        ("check", "--set"),
        ("check", "--leave-out"),
        ("convert-config", "--dialect"),
        ("data", "synth"),
        ("data synth", "--seed"),
        ("data inspect", "--split"),
        ("data prepare", "--field-map"),
        ("data convert", "Examples:"),
        ("model", "info"),
        ("model info", "config.json"),
        ("model init", "--projector"),
        ("model import", "--max-shard-size"),
        ("model export", "checkpoint"),
        ("generate", "--temperature"),
        ("report", "--picture"),
        ("slurm", "--gpus-per-node"),
        ("doctor", "--devices"),
    ] {
        let args: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
        let done = project.brazier(&args);
        done.exits(0);
        assert!(
            done.stdout.contains(needed) && done.stdout.contains("Usage:"),
            "{command}: {done}"
        );
        let undocumented: Vec<&str> = done
            .stdout
            .lines()
            .filter(|line| line.starts_with("  ") && line.trim_start().starts_with("--"))
            .filter(|line| {
                !line.trim().contains("  ") && !done.stdout.contains(&format!("{line}\n          "))
            })
            .collect();
        assert!(undocumented.is_empty(), "{command}: no word on {undocumented:?}");
    }
    project.brazier(&["--version"]).exits(0);
    project.brazier(&["trian"]).exits(2).says(&["train"]);
    project
        .brazier(&["train", "--stesp", "3"])
        .exits(2)
        .says(&["--stesp"]);
}

#[test]
fn check_prints_numbers_and_memory_and_opens_no_device() {
    let project = Project::new();
    // No build of the tests has all devices, and none has a hundredth GPU: opening one would fail.
    let done = project.brazier(&["check", "--config", "run.yaml", "--set", "device=cuda:99"]);
    done.exits(0);
    for line in [
        "samples per step  4 = 2 in a micro-batch x 2 accumulated x 1 ranks",
        "tokens per step   at most 1024",
        "steps             12 = 2 epochs of 24 samples, 6 steps each",
        "parameters, vision",
        "parameters, projector",
        "parameters, language",
        "memory, parameters",
        "memory, gradients",
        "memory, optimizer",
        "memory, activations",
        "memory, all",
    ] {
        assert!(done.stdout.contains(line), "no `{line}` in {done}");
    }
    assert!(!project.path("run").exists(), "check wrote something");

    // Without arguments it is about the demo.
    let demo = project.brazier(&["check"]);
    demo.exits(0);
    assert!(demo.stdout.contains("steps             4000"), "{demo}");
}

#[test]
fn data_synth_is_a_function_of_its_arguments() {
    let project = Project::new();
    let synth = |out: &str, seed: &str| {
        let args = [
            "data",
            "synth",
            "--out",
            out,
            "--train",
            "6",
            "--eval",
            "2",
            "--image-size",
            "24",
        ];
        project.brazier(&[&args[..], &["--seed", seed]].concat())
    };
    synth("a", "1").exits(0).says(&["drew 6 pictures"]);
    synth("b", "1").exits(0);
    synth("c", "2").exits(0);
    let [a, b, c] = ["a", "b", "c"].map(|name| contents(&project.path(name)));
    assert!(a.len() >= 12, "too few files: {}", a.len());
    assert!(a == b, "the same seed drew something else");
    assert!(a != c, "another seed drew the same");

    // Once drawn it stays; a folder of someone else is left alone.
    let again = synth("a", "1");
    again.exits(0);
    assert!(!again.stderr.contains("drew"), "{again}");
    project.write("mine/thesis.txt", b"years of work");
    synth("mine", "1")
        .exits(2)
        .says(&["mine is not a folder that `brazier data synth` made", "hint:"]);
    assert_eq!(project.read("mine/thesis.txt"), b"years of work");
    let none = ["data", "synth", "--out", "d", "--train", "0"];
    project
        .brazier(&none)
        .exits(2)
        .says(&["train_images = 0: must be 1 to"]);
}

/// Every file under a folder, by its path.
fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().display().to_string();
                files.push((name, fs::read(&path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

#[test]
fn generate_answers_and_the_seed_decides() {
    let project = Project::new();
    project.train(&[]).exits(0);
    let image = project.shapes().join("images/eval/000000.png");
    let image = image.to_str().unwrap();
    let generate = |extra: &[&str]| {
        let args = [
            "generate",
            "--model",
            "run/export",
            "--prompt",
            "How many?",
            "--max-new-tokens",
            "12",
        ];
        project.brazier(&[&args[..], extra].concat())
    };
    let answer = |extra: &[&str]| {
        let done = generate(extra);
        done.exits(0);
        assert!(done.stdout.ends_with('\n'), "{done}");
        done.stdout
    };
    let with_image: &[&str] = &["--image", image];
    assert_eq!(answer(with_image), answer(with_image));
    assert_eq!(answer(&[]), answer(&[]), "a question needs no image");
    answer(&["--image", image, "--image", image]);

    let drawn = |seed: &str| answer(&["--image", image, "--temperature", "5", "--seed", seed]);
    assert_eq!(drawn("1"), drawn("1"));
    assert_ne!(drawn("1"), drawn("2"));
    // One candidate is left: as without drawing.
    assert_eq!(
        answer(&["--image", image, "--temperature", "5", "--top-k", "1"]),
        answer(with_image)
    );
    assert_eq!(
        answer(&["--image", image, "--temperature", "5", "--top-p", "1e-9"]),
        answer(with_image)
    );

    project.write("bad.png", b"garbage");
    for (extra, parts) in [
        (
            &["--temperature", "0"][..],
            &["--temperature 0: must be above 0", "greedy"][..],
        ),
        (&["--temperature", "NaN"], &["--temperature NaN: must be above 0"]),
        (
            &["--temperature", "1", "--top-k", "0"],
            &["--top-k 0: must be at least 1"],
        ),
        (
            &["--temperature", "1", "--top-p", "1.5"],
            &["--top-p 1.5: must be above 0 and at most 1"],
        ),
        (&["--top-k", "3"], &["--temperature"]),
        (&["--image", "nope.png"], &["nope.png", "No such file"]),
        (&["--image", "bad.png"], &["bad.png", "cannot decode it"]),
        (&["--prompt", "a second one"], &["--prompt"]),
    ] {
        generate(extra).exits(2).says(parts);
    }
    let placeholder = ["generate", "--model", "run/export", "--prompt", "<image> and?"];
    project
        .brazier(&placeholder)
        .exits(2)
        .says(&["image tokens for 0 images"]);
}

#[test]
fn model_info_and_report_read_what_training_left() {
    let project = Project::new();
    project
        .train(&["eval.exact_match=true", "eval.max_new_tokens=2"])
        .exits(0);
    let info = project.brazier(&["model", "info", "run/export"]);
    info.exits(0);
    assert!(
        info.stdout.contains("hidden_size: 16") && info.stdout.contains("parameters "),
        "{info}"
    );
    fs::remove_file(project.path("run/report.html")).unwrap();
    project
        .brazier(&["report", "run", "--picture", "picture.svg"])
        .exits(0);
    let report = String::from_utf8(project.read("run/report.html")).unwrap();
    assert!(report.contains("eval_loss"));
    let outside = ["src=\"http", "href=\"http", "@import"];
    assert!(
        !outside.iter().any(|link| report.contains(link)),
        "the report needs the network"
    );
    assert!(project.read("picture.svg").starts_with(b"<svg"));
}

#[test]
fn data_is_inspected_and_prepared() {
    let project = Project::new();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sources");
    let saved = fixtures.join("saved");
    let saved = saved.to_str().unwrap();
    let done = project.brazier(&["data", "inspect", saved, "--split", "train", "--rows", "1"]);
    done.exits(0);
    for line in [
        "5 rows in 2 files of the format arrow",
        "  \"messages\": list of {\"role\": text, \"content\": text}",
        "images: 4 in the rows, 0 in files",
        "{\"id\": \"row-0\", \"score\": 0.5",
    ] {
        assert!(done.stdout.contains(line), "{line}: {done}");
    }
    let done = project.brazier(&["data", "inspect", saved]);
    done.exits(2)
        .says(&["has the splits train, test", "say which, by split"]);
    fs::write(project.path("bad.jsonl"), "{").unwrap();
    let bad = project.path("bad.jsonl");
    project
        .brazier(&["data", "inspect", bad.to_str().unwrap()])
        .exits(2);

    fs::create_dir(project.path("shards")).unwrap();
    fs::copy(fixtures.join("energon/000000.tar"), project.path("shards/0.tar")).unwrap();
    let shards = project.path("shards");
    let shards = shards.to_str().unwrap();
    let map = r#"{"image": "png", "context": "json[question]", "answers": "txt"}"#;
    let mut args = vec![
        "data",
        "prepare",
        shards,
        "--sample-type",
        "VQASample",
        "--field-map",
        map,
    ];
    project.brazier(&args).exits(2).says(&["--split-ratio"]);
    args.extend(["--split-ratio", "1,0"]);
    project.brazier(&args).exits(2).says(&["write three shares"]);
    args.pop();
    args.push("1,0,0");
    let done = project.brazier(&args);
    done.exits(0);
    assert!(done.stdout.starts_with("2 samples in 1 shards"), "{done}");
    let done = project.brazier(&["data", "inspect", shards]);
    done.exits(0);
    assert!(
        done.stdout.contains("2 rows in 1 files of the format energon"),
        "{done}"
    );
}

/// Operations against their definitions, and times, as a table and as JSON.
#[cfg(feature = "flex")] // ndarray has no bfloat16
#[test]
fn bench_checks_and_times_the_operations() {
    let project = Project::new();
    let done = project.brazier(&[
        "bench",
        "--device",
        "flex",
        "--precision",
        "bf16",
        "--like",
        "demo",
        "--length",
        "8",
        "--seconds",
        "0",
        "--cases",
        "1",
        "--shrink",
        "8",
        "--json",
        "bench.json",
    ]);
    done.exits(0);
    for part in [
        "device flex, BF16",
        "attention with segments",
        "down dw, 8 x 352 x 128",
        "adamw, 180224",
    ] {
        assert!(done.stdout.contains(part), "no {part} in {done}");
    }
    let json: Value = serde_json::from_slice(&project.read("bench.json")).unwrap();
    let errors = json["errors"].as_array().unwrap();
    assert_eq!(errors.len(), 30);
    assert!(errors.iter().all(|row| row["fine"] == true));
    assert!(
        json["operations"]
            .as_array()
            .unwrap()
            .iter()
            .all(|row| row["seconds"].as_f64().unwrap() > 0.0)
    );
    project
        .brazier(&["bench", "--device", "tpu"])
        .exits(2)
        .says(&["--device: no device is called tpu"]);
    project.brazier(&["bench", "--seconds", "-1"]).exits(2);
}

/// What ranks bring arrives, and is timed the way that training sends it.
#[cfg(feature = "flex")]
#[test]
fn bench_checks_and_times_the_ways_between_ranks() {
    let project = Project::new();
    let bench = |more: &[&str]| {
        let common = [
            "bench",
            "--device",
            "flex",
            "--only",
            "collectives",
            "--message",
            "1",
            "--seconds",
            "0",
        ];
        project.brazier(&[&common[..], more].concat())
    };
    for ranks in [1, 3] {
        let done = bench(&["--devices", &ranks.to_string(), "--json", "ranks.json"]);
        done.exits(0);
        assert!(
            done.stdout
                .contains(&format!("{ranks} ranks on flex, through host memory")),
            "{done}"
        );
        let json: Value = serde_json::from_slice(&project.read("ranks.json")).unwrap();
        let rows = json["collectives"].as_array().unwrap();
        let of = |name: &str| rows.iter().filter(|row| row["operation"] == name).count();
        assert_eq!([of("all_reduce"), of("reduce_scatter"), of("all_gather")], [2; 3]);
        assert!(rows.iter().all(|row| row["seconds"].as_f64().unwrap() > 0.0));
        let bus = rows[1]["bus_gbytes_per_second"].as_f64().unwrap()
            / rows[1]["gbytes_per_second"].as_f64().unwrap();
        let expected = 2.0 * (f64::from(ranks) - 1.0) / f64::from(ranks);
        assert!((bus - expected).abs() < 1e-6, "{bus}");
    }
    bench(&["--transport", "nccl"])
        .exits(2)
        .says(&["parallel.transport: nccl is for CUDA devices, and the ranks compute on flex"]);
    bench(&["--devices", "2", "--only", "errors"])
        .exits(2)
        .says(&["the other parts are for one device"]);
}
