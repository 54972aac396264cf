//! `brazier model`: folders in and out.

use std::{collections::BTreeMap, fs, path::Path};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Value, json};

use crate::project::{Done, Project};

type Stored = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// Every tensor of a folder, by its name on disk.
fn stored(dir: &Path) -> Stored {
    let mut all = Stored::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|ending| ending != "safetensors") {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
            all.insert(name, (view.dtype(), view.shape().to_vec(), view.data().to_vec()));
        }
    }
    assert!(!all.is_empty(), "no tensors in {}", dir.display());
    all
}

fn write_tensors(path: &Path, tensors: &Stored) {
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, bytes))| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, path).unwrap();
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A trained model taken apart: a language model's folder and a CLIP model's.
pub(crate) fn take_apart(project: &Project) {
    let export = project.path("run/export");
    let config = read_json(&export.join("config.json"));
    let (mut language, mut vision) = (Stored::new(), Stored::new());
    for (name, tensor) in stored(&export) {
        if let Some(name) = name.strip_prefix("language_model.") {
            language.insert(name.into(), tensor);
        } else if let Some(name) = name.strip_prefix("vision_tower.") {
            vision.insert(name.into(), tensor);
        }
    }
    vision.insert("logit_scale".into(), (Dtype::F32, vec![1], vec![0; 4]));
    let parts = [
        ("language", language, config["text_config"].clone()),
        (
            "clip",
            vision,
            json!({"model_type": "clip", "vision_config": config["vision_config"]}),
        ),
    ];
    for (name, tensors, config) in parts {
        project.write(&format!("{name}/config.json"), config.to_string().as_bytes());
        write_tensors(&project.path(name).join("model.safetensors"), &tensors);
    }
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        let bytes = fs::read(export.join(name)).unwrap();
        project.write(&format!("language/{name}"), &bytes);
    }
}

fn run(project: &Project, command: &str) -> Done {
    let args: Vec<&str> = command.split_whitespace().collect();
    project.brazier(&args)
}

#[test]
fn import_copies_every_byte_and_export_finds_the_trained_weights() {
    let project = Project::new();
    project.train(&["train.steps=3", "train.mode=alignment"]).exits(0);
    let export = stored(&project.path("run/export"));

    let done = run(
        &project,
        "model import run/export --out copy --max-shard-size 20KB",
    );
    done.exits(0)
        .says(&["wrote copy (LlavaForConditionalGeneration", "GB/s", "peak memory"]);
    assert_eq!(stored(&project.path("copy")), export);
    assert!(project.path("copy/model.safetensors.index.json").is_file());
    for name in [
        "config.json",
        "generation_config.json",
        "preprocessor_config.json",
        "chat_template.jinja",
    ] {
        let [copy, original] = ["copy", "run/export"].map(|dir| project.read(&format!("{dir}/{name}")));
        assert!(copy == original, "{name} has changed");
    }

    // The checkpoint's model is the exported one.
    run(&project, "model export run --out newest")
        .exits(0)
        .says(&["after step 3"]);
    assert_eq!(stored(&project.path("newest")), export);
    let step = "model export run/checkpoints/step-00000003 --out step --dtype bf16";
    run(&project, step).exits(0);
    assert!(
        stored(&project.path("step"))
            .values()
            .all(|(dtype, ..)| *dtype == Dtype::BF16)
    );

    #[cfg(feature = "flex")] // ndarray has no bfloat16
    frozen_parts_are_not_rounded(&project);
}

/// A run in bf16 that started from f32 files: what was frozen is not rounded, what was trained comes from its master.
#[cfg(feature = "flex")]
fn frozen_parts_are_not_rounded(project: &Project) {
    let export = stored(&project.path("run/export"));
    let sets = [
        "output=second",
        "train.steps=2",
        "train.mode=alignment",
        "train.precision=bf16",
        "model.from=run/export",
        "model.language=null",
        "model.vision=null",
        "model.projector=null",
        "model.tokenizer=null",
    ];
    project.train(&sets).exits(0);
    run(project, "model export second --out second-export").exits(0);
    let second = stored(&project.path("second-export"));
    let rounded = stored(&project.path("second/export"));
    for (name, (dtype, _, bytes)) in &second {
        assert_eq!(*dtype, Dtype::F32, "{name}");
        if name.starts_with("multi_modal_projector.") {
            let upper: Vec<u8> = rounded[name].2.clone();
            let rounded: Vec<u8> = bytes
                .as_chunks::<4>()
                .0
                .iter()
                .flat_map(|bytes| half::bf16::from_f32(f32::from_le_bytes(*bytes)).to_le_bytes())
                .collect();
            assert_eq!(rounded, upper, "{name}");
            assert_ne!(*bytes, export[name].2, "{name} was not trained");
        } else {
            assert_eq!(*bytes, export[name].2, "{name}");
        }
    }
}

#[test]
fn init_joins_two_folders_and_training_starts_from_there() {
    let project = Project::new();
    project.train(&["train.steps=1"]).exits(0);
    take_apart(&project);
    let init = "model init --language language --vision clip --vision-feature-layer -1 --out";
    run(&project, &format!("{init} joined --seed 5"))
        .exits(0)
        .says(&["wrote joined (LlavaForConditionalGeneration"]);
    let (whole, joined) = (
        stored(&project.path("run/export")),
        stored(&project.path("joined")),
    );
    assert_eq!(
        whole.keys().collect::<Vec<_>>(),
        joined.keys().collect::<Vec<_>>(),
        "other tensors than those of a whole model"
    );
    for (name, tensor) in &joined {
        let is_projector = name.starts_with("multi_modal_projector.");
        assert_eq!(*tensor != whole[name], is_projector, "{name}");
    }
    run(&project, &format!("{init} again --seed 5")).exits(0);
    run(&project, &format!("{init} other --seed 6")).exits(0);
    assert_eq!(stored(&project.path("again")), joined);
    assert_ne!(stored(&project.path("other")), joined);
    run(&project, "model info joined --load f32").exits(0);

    let from = "model.from=joined";
    let mut sets = vec![from, "train.steps=1", "output=second"];
    sets.extend([
        "model.language=null",
        "model.vision=null",
        "model.projector=null",
        "model.tokenizer=null",
    ]);
    project
        .train(&sets)
        .exits(0)
        .says(&["starting from the weights in joined"]);

    let refused = |command: &str, parts: &[&str]| {
        run(&project, command).exits(2).says(parts);
    };
    images_are_prepared_as_the_vision_folder_says(&project, init);
    refused(
        &format!("{init} new --image-token <picture>"),
        &["--image-token <picture>", "hint: add it with --add-image-token"],
    );
    refused(
        &format!("{init} new --projector mlp9"),
        &["expected mlp, mlp3, linear, pixel_shuffle:FACTOR or"],
    );
    refused(&format!("{init} new --max-shard-size 5TB"), &["5TB", "GiB"]);
    refused(
        "model init --language joined --vision clip --out new",
        &["a language model is expected"],
    );
    refused(
        "model init --language language --vision language --out new",
        &["expected a vision tower"],
    );
    project.write("mine/thesis.txt", b"years of work");
    refused(
        &format!("{init} mine"),
        &["mine exists and is not an export of this program", "hint:"],
    );
    assert_eq!(project.read("mine/thesis.txt"), b"years of work");
}

/// From the folder of the tower through `init` and `import` to training and `generate`.
fn images_are_prepared_as_the_vision_folder_says(project: &Project, init: &str) {
    let side = read_json(&project.path("clip/config.json"))["vision_config"]["image_size"].clone();
    let mut processor = json!({
        "image_processor_type": "SiglipImageProcessor", "size": {"height": side, "width": side}, "resample": 2,
        "image_mean": [0.5, 0.25, 0.125], "image_std": [0.5, 0.5, 0.25]
    });
    let write = |processor: &Value| {
        project.write("clip/preprocessor_config.json", processor.to_string().as_bytes());
    };
    write(&processor);
    run(project, &format!("{init} prepared --seed 5")).exits(0);
    let written = read_json(&project.path("prepared/preprocessor_config.json"));
    for key in [
        "image_processor_type",
        "size",
        "resample",
        "image_mean",
        "image_std",
    ] {
        assert_eq!(written[key], processor[key], "{key}");
    }
    assert_eq!(written["do_center_crop"], false);
    run(project, "model import prepared --out copied").exits(0);
    assert_eq!(
        read_json(&project.path("copied/preprocessor_config.json")),
        written
    );

    processor["do_thumbnail"] = true.into();
    write(&processor);
    run(project, &format!("{init} new")).exits(2).says(&[
        "clip/preprocessor_config.json",
        "do_thumbnail = true: what it asks for is not built in",
    ]);
    fs::remove_file(project.path("clip/preprocessor_config.json")).unwrap();
}

#[test]
fn a_missing_image_token_is_added_on_request() {
    let project = Project::new();
    project.train(&["train.steps=1"]).exits(0);
    take_apart(&project);
    let init = "model init --language language --vision clip --vision-feature-layer -1 --add-image-token";
    run(&project, &format!("{init} --image-token <picture> --out new")).exits(0);
    let [old, new] = ["language", "new"].map(|dir| stored(&project.path(dir)));
    let table = "model.embed_tokens.weight";
    let (before, after) = (&old[table], &new[&format!("language_model.{table}")]);
    let [rows, width] = before.1[..] else {
        panic!("{:?}", before.1)
    };
    assert_eq!(after.1, [rows + 1, width]);
    // Old rows keep their bytes; the fresh one is near their mean.
    let (kept, fresh) = after.2.split_at(before.2.len());
    assert!(kept == before.2);
    let floats = |bytes: &[u8]| -> Vec<f32> {
        let chunks = bytes.as_chunks::<4>().0.iter();
        chunks.map(|&chunk| f32::from_le_bytes(chunk)).collect()
    };
    let table = floats(kept);
    for (column, value) in floats(fresh).into_iter().enumerate() {
        let mean = table.iter().skip(column).step_by(width).sum::<f32>() / rows as f32;
        assert!((value - mean).abs() < 1e-3, "{value}, mean {mean}");
    }
    assert_eq!(
        read_json(&project.path("new/config.json"))["image_token_index"],
        rows
    );
    let tokenizer = read_json(&project.path("new/tokenizer.json"));
    let added = tokenizer["added_tokens"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (&added["content"], &added["id"]),
        (&json!("<picture>"), &json!(rows))
    );
    assert_eq!(
        read_json(&project.path("new/tokenizer_config.json"))["image_token"],
        "<picture>"
    );
    run(&project, "model info new --load f32").exits(0);

    // A token that is there is taken, and no row added.
    run(&project, &format!("{init} --out same")).exits(0);
    let same = stored(&project.path("same"));
    assert_eq!(same["language_model.model.embed_tokens.weight"], *before);
}

#[test]
fn info_tells_family_files_and_throughput() {
    let project = Project::new();
    project.train(&["train.steps=1"]).exits(0);
    let done = run(&project, "model info run/export --load f32");
    done.exits(0);
    for part in [
        "LlavaForConditionalGeneration",
        "in 1 files: F32",
        "tokenizer.json",
        "GB/s",
        "peak memory",
    ] {
        assert!(done.stdout.contains(part), "no `{part}` in {done}");
    }
}

#[test]
fn damaged_folders_say_what_to_do() {
    let project = Project::new();
    project.train(&["train.steps=1"]).exits(0);
    let fresh = || {
        let _ = fs::remove_dir_all(project.path("m"));
        run(&project, "model import run/export --out m --max-shard-size 20KB").exits(0);
    };
    let check = |damage: &dyn Fn(&Path), parts: &[&str]| {
        fresh();
        damage(&project.path("m"));
        let generate = project.brazier(&["generate", "--model", "m", "--prompt", "x"]);
        let from = [
            "output=second",
            "model.from=m",
            "model.language=null",
            "model.vision=null",
            "model.projector=null",
        ];
        let commands = [run(&project, "model info m"), generate, project.train(&from)];
        for done in commands {
            done.exits(2).says(parts);
            assert!(!done.stderr.contains("panicked"), "{done}");
        }
    };
    let shard = |dir: &Path| {
        let index = read_json(&dir.join("model.safetensors.index.json"));
        let name = index["weight_map"]["language_model.model.norm.weight"]
            .as_str()
            .unwrap();
        dir.join(name)
    };
    let edit = |dir: &Path, change: &dyn Fn(&mut Value)| {
        let mut config = read_json(&dir.join("config.json"));
        change(&mut config);
        fs::write(dir.join("config.json"), config.to_string()).unwrap();
    };
    check(
        &|dir| {
            let bytes = fs::read(shard(dir)).unwrap();
            fs::write(shard(dir), &bytes[..bytes.len() - 10]).unwrap();
        },
        &[
            "not a complete safetensors file",
            "hint: is the download complete?",
        ],
    );
    check(
        &|dir| fs::remove_file(shard(dir)).unwrap(),
        &[
            "model.safetensors.index.json: names the file model-0",
            "hint: is the download complete?",
        ],
    );
    check(
        &|dir| {
            let mut tensors = stored_file(&shard(dir));
            let (_, shape, _) = tensors.get_mut("language_model.model.norm.weight").unwrap();
            *shape = vec![4, 4];
            write_tensors(&shard(dir), &tensors);
        },
        &[
            "misshapen: language_model.model.norm.weight [4, 4], expected [16]",
            "hint:",
        ],
    );
    check(
        &|dir| {
            edit(dir, &|config| {
                config["text_config"]["model_type"] = "gpt_neox".into()
            })
        },
        &["text_config.model_type = \"gpt_neox\"", "llama"],
    );
    check(
        &|dir| edit(dir, &|config| config["model_type"] = "blip-2".into()),
        &["model_type = \"blip-2\": expected llava"],
    );
}

fn stored_file(path: &Path) -> Stored {
    let bytes = fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
    let tensors = tensors
        .into_iter()
        .map(|(name, view)| (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec())));
    tensors.collect()
}

#[test]
fn names_of_the_hub_are_looked_up_in_its_cache() {
    let project = Project::new();
    project.train(&["train.steps=1"]).exits(0);
    let snapshot = "cache/hub/models--org--model/snapshots/abc";
    for entry in fs::read_dir(project.path("run/export")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        project.write(&format!("{snapshot}/{name}"), &fs::read(&path).unwrap());
    }
    project.write("cache/hub/models--org--model/refs/main", b"abc");
    let cache = project.path("cache");
    let with_cache = |args: &[&str]| {
        let home = cache.to_str().unwrap();
        project.brazier_with(args, &[("HF_HOME", home), ("HF_HUB_CACHE", "")])
    };
    with_cache(&["model", "info", "org/model"]).exits(0);
    with_cache(&[
        "generate",
        "--model",
        "org/model@main",
        "--prompt",
        "x",
        "--max-new-tokens",
        "2",
    ])
    .exits(0);
    let mut train = vec![
        "train",
        "--config",
        "run.yaml",
        "--set",
        "output=second",
        "--set",
        "train.steps=1",
    ];
    for set in [
        "from=org/model",
        "language=null",
        "vision=null",
        "projector=null",
        "tokenizer=null",
    ] {
        train.push("--set");
        train.push(Box::leak(format!("model.{set}").into_boxed_str()));
    }
    with_cache(&train).exits(0);
    let yaml = String::from_utf8(project.read("second/config.yaml")).unwrap();
    assert!(yaml.contains("from: \"org/model\""), "{yaml}");
    with_cache(&["model", "export", "second", "--out", "out"]).exits(0);

    let missing = ["there is no folder org/other", "hint: hf download org/other"];
    with_cache(&["model", "info", "org/other"])
        .exits(2)
        .says(&missing);
    for argument in &mut train {
        if *argument == "model.from=org/model" {
            *argument = "model.from=org/other";
        }
    }
    with_cache(&train).exits(2).says(&missing);
    fs::remove_file(project.path(&format!("{snapshot}/config.json"))).unwrap();
    with_cache(&["model", "info", "org/model"]).exits(2).says(&[
        "is not complete",
        "config.json is missing",
        "hint: hf download org/model",
    ]);
}
