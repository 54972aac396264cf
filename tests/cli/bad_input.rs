//! What the user can get wrong: exit code 2, and a message that says where, what, and what to do.

use std::fs;

use crate::project::{Done, Project};

#[track_caller]
fn refuses(done: &Done, parts: &[&str]) {
    done.exits(2).says(parts);
    assert!(!done.stderr.contains("panicked"), "{done}");
}

#[test]
fn several_processes() {
    let project = Project::new();
    let train = ["train", "--config", "run.yaml"];
    let step = [
        ("SLURM_STEP_ID", "0"),
        ("SLURM_PROCID", "3"),
        ("SLURM_NTASKS", "4"),
        ("SLURM_LOCALID", "3"),
        ("SLURM_STEP_NODELIST", "nid[001-004]"),
    ];
    match cfg!(feature = "mpi") {
        // No MPI has started this one, whatever srun says.
        true => refuses(
            &project.brazier_with(&train, &step),
            &[
                "srun says that this is process 3 of 4, MPI that it is 0 of 1",
                "hint: start with",
            ],
        ),
        false => {
            let impatient = [&train[..], &["--set", "parallel.timeout_seconds=1"]].concat();
            project.brazier_with(&impatient, &step).exits(1).says(&[
                "error: rank 3: the ranks did not meet: the host nid001 is not known",
                "hint: MASTER_ADDR",
            ]);
        }
    }
    let half = [("RANK", "1")];
    refuses(
        &project.brazier_with(&train, &half),
        &["RANK is set and WORLD_SIZE is not", "hint:"],
    );
    assert!(!project.path("run").exists());
}

#[test]
fn configurations() {
    let project = Project::new();
    let check = |sets: &[&str], parts: &[&str]| {
        for command in ["train", "check"] {
            let sets = sets.iter().flat_map(|set| ["--set", set]);
            let args: Vec<&str> = [command, "--config", "run.yaml"]
                .into_iter()
                .chain(sets)
                .collect();
            refuses(&project.brazier(&args), parts);
        }
        assert!(!project.path("run").exists(), "a refused run left something");
    };
    // A misspelt key, a wrong type, a wrong word, a number out of range.
    check(
        &["train.optimiser.lr=1"],
        &[
            "train.optimiser",
            "unknown key",
            "hint: did you mean train.optimizer?",
        ],
    );
    check(
        &["train.steps=many"],
        &["train.steps = many: expected a whole number"],
    );
    check(
        &["train.precision=f64"],
        &["train.precision = f64: expected f32 or bf16"],
    );
    check(&["train.micro_batch_size=0"], &["train.micro_batch_size = 0"]);
    // Contradictions name both places.
    check(
        &["train.epochs=1"],
        &[
            "run.yaml:",
            "train.steps = 12: contradicts train.epochs = 1",
            "hint: keep one",
        ],
    );
    check(
        &["train.global_batch_size=8"],
        &["train.global_batch_size = 8: contradicts train.accumulation = 2 (run.yaml:29)"],
    );
    check(
        &["device=ndarray", "train.precision=bf16"],
        &["train.precision = bf16: ndarray has no bfloat16"],
    );
    check(&["device=tpu"], &["device = tpu: expected auto, cuda"]);
    check(
        &["data.train=[{path: nope.jsonl}]"],
        &["data.train[0].path = nope.jsonl: there is no such file"],
    );
    check(
        &["model.from=nowhere", "model.language=null"],
        &["model.from = nowhere"],
    );
    check(&["nonsense"], &["nonsense"]);
}

#[test]
fn all_errors_come_at_once_with_their_lines() {
    let project = Project::new();
    let good = String::from_utf8(project.read("run.yaml")).unwrap();
    let bad = good
        .replace("hidden_size: 16", "hiden_size: 16")
        .replace("steps: 12", "steps: twelve")
        .replace("log_every: 1", "log_every: -1");
    project.write("run.yaml", bad.as_bytes());
    let done = project.train(&["eval.batch_sise=1"]);
    refuses(
        &done,
        &[
            "run.yaml:6: model.language.hiden_size",
            "did you mean model.language.hidden_size?",
            "train.steps = twelve",
            "track.log_every = -1",
            "--set: eval.batch_sise",
        ],
    );

    project.write("run.yaml", good.replace("seed: 7", "seed: [7").as_bytes());
    refuses(&project.train(&[]), &["run.yaml:"]);
}

#[test]
fn missing_files() {
    let project = Project::new();
    refuses(
        &project.brazier(&["train", "--config", "nope.yaml"]),
        &[
            "nope.yaml",
            "No such file or directory",
            "hint: --config names the YAML file",
        ],
    );
    refuses(&project.train(&["model.tokenizer=nowhere"]), &["nowhere"]);
    refuses(
        &project.brazier(&["report", "nowhere"]),
        &["nowhere/metrics.jsonl", "hint:"],
    );
    let generate = ["generate", "--model", "nowhere", "--prompt", "x"];
    refuses(
        &project.brazier(&generate),
        &["nowhere/config.json", "No such file or directory"],
    );
}

/// A data file with one good row and the given one; training on it.
fn train_on(project: &Project, row: &str) -> Done {
    let image = project.shapes().join("images/train/000000.png");
    project.write("good.png", &fs::read(image).unwrap());
    let rows = format!("{}\n{row}\n", question("[\"good.png\"]", "<image>what?"));
    project.write("rows.jsonl", rows.as_bytes());
    project.train(&["data.train=[{path: rows.jsonl}]"])
}

fn question(images: &str, text: &str) -> String {
    format!(
        r#"{{"messages":[{{"role":"user","content":"{text}"}},{{"role":"assistant","content":"a"}}],"images":{images}}}"#
    )
}

#[test]
fn rows() {
    let project = Project::new();
    let check = |row: &str, parts: &[&str]| {
        let done = train_on(&project, row);
        refuses(&done, &["rows.jsonl:2"]);
        refuses(&done, parts);
    };
    check(
        &question("[]", "<image>what?"),
        &["1 image placeholders in the text, but 0 in \"images\"", "hint:"],
    );
    check(
        &question("[\"good.png\"]", "what?"),
        &["0 image placeholders in the text, but 1 in \"images\"", "hint:"],
    );
    check(
        &question("[\"nope.png\"]", "<image>what?"),
        &["image 1", "nope.png", "No such file", "hint:"],
    );
    check(
        "{\"messages\": 3}",
        &["messages: expected a list of turns, found a number"],
    );
    check("{\"messages\": []}", &["messages is empty"]);
    check("not JSON", &["column 2"]);
    check(
        &question("[]", &"long ".repeat(400)),
        &["more than data.sequence_length = 256", "hint:"],
    );

    project.write("bad.png", b"\x89PNG\r\n\x1a\n and then nothing of the kind");
    check(
        &question("[\"bad.png\"]", "<image>what?"),
        &["bad.png", "cannot decode it"],
    );
    project.write("bad.png", b"garbage");
    check(
        &question("[\"bad.png\"]", "<image>what?"),
        &["bad.png", "cannot decode it"],
    );
}

#[test]
fn a_data_set_with_nothing_to_learn() {
    let project = Project::new();
    project.write(
        "rows.jsonl",
        br#"{"messages":[{"role":"user","content":"hello"}]}"#,
    );
    let done = project.train(&["data.train=[{path: rows.jsonl}]"]);
    refuses(
        &done,
        &[
            "no labelled token in",
            "rows.jsonl",
            "hint: only the turns of the role \"assistant\"",
        ],
    );
    project.write("rows.jsonl", b"\n");
    refuses(
        &project.train(&["data.train=[{path: rows.jsonl}]"]),
        &["rows.jsonl"],
    );
}

#[test]
fn devices_that_are_not_there() {
    let project = Project::new();
    let missing = [
        ("cuda", cfg!(feature = "cuda")),
        ("wgpu", cfg!(feature = "wgpu")),
        ("flex", cfg!(feature = "flex")),
        ("ndarray", cfg!(feature = "ndarray")),
    ];
    for (device, _) in missing.into_iter().filter(|(_, is_compiled)| !is_compiled) {
        let done = project.brazier(&["train", "--config", "run.yaml", "--device", device]);
        let named = format!("hint: build with --features {device}, or choose one of: ");
        refuses(&done, &[&format!("this build has no {device} backend"), &named]);
        assert!(
            !done.stderr.contains("training data"),
            "told after the data was read only: {done}"
        );
    }
    refuses(
        &project.brazier(&["generate", "--model", ".", "--prompt", "x", "--device", "tpu"]),
        &["--device: no device is called tpu"],
    );
}

#[test]
fn damaged_checkpoints() {
    let project = Project::new();
    project.train(&["train.steps=6"]).exits(0);
    let newest = "run/checkpoints/step-00000006";
    let cut = |name: &str, parts: &[&str]| {
        let name = format!("{newest}/{name}");
        let whole = project.read(&name);
        for keep in [whole.len() - 1, whole.len() / 2, 0] {
            project.write(&name, &whole[..keep]);
            let done = project.train(&[]);
            refuses(&done, &[&name, "hint:", "step-00000003"]);
            refuses(&done, parts);
        }
        project.write(&name, &whole);
    };
    cut("tensors-00001.safetensors", &["damaged checkpoint"]);
    cut("manifest.json", &["damaged checkpoint"]);

    let name = format!("{newest}/tensors-00001.safetensors");
    let mut flipped = project.read(&name);
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    project.write(&name, &flipped);
    refuses(&project.train(&[]), &["damaged checkpoint", &name]);
    flipped[middle] ^= 1;
    project.write(&name, &flipped);
    project.train(&[]).exits(0).says(&["going on from step 6"]);
}

#[test]
fn checkpoints_of_something_else() {
    let project = Project::new();
    project.train(&["train.steps=3"]).exits(0);
    let other_model = |set: &str, parts: &[&str]| {
        let done = project.train(&[set]);
        refuses(
            &done,
            &[
                "the checkpoint of step 3 is of another model",
                "hint: resume with the model settings",
            ],
        );
        refuses(&done, parts);
    };
    other_model(
        "model.language.num_hidden_layers=3",
        &["missing", "language_model.model.layers.2."],
    );
    other_model(
        "model.language.num_hidden_layers=1",
        &["unexpected", "language_model.model.layers.1."],
    );
    other_model(
        "model.language.intermediate_size=48",
        &["different", "[48, 16] F32"],
    );
    other_model("train.mode=alignment", &["unexpected"]);

    let other_data = |set: &str, difference: &str| {
        let done = project.train(&[set]);
        refuses(
            &done,
            &[
                "the checkpoint of step 3 was made with other data",
                difference,
                "hint:",
            ],
        );
    };
    other_data("seed=8", "seed was 7, is 8");
    other_data("data.shuffle=false", "data.shuffle was true, is false");
    other_data("train.accumulation=4", "samples per step was 4, is 8");
    let rows = fs::read(project.shapes().join("eval.jsonl")).unwrap();
    let images = project.shapes().join("images");
    std::os::unix::fs::symlink(images, project.path("images")).unwrap();
    project.write("rows.jsonl", &rows);
    other_data("data.train=[{path: rows.jsonl}]", "data.train rows was 24, is 4");
    project.train(&[]).exits(0);
}
