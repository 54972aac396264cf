//! `configs/`, its README, and the defaults that are documented.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::{
    schema::{SCHEMA, alternatives, inline_yaml, properties, tag, without_null},
    *,
};

fn configs() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("configs")
}

fn shipped() -> Vec<std::path::PathBuf> {
    let is_yaml = |path: &std::path::PathBuf| path.extension().is_some_and(|extension| extension == "yaml");
    fs::read_dir(&configs())
        .unwrap()
        .into_iter()
        .filter(is_yaml)
        .collect()
}

/// A folder with the files that the shipped configurations look for in `${DATA}`.
fn data() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["captions", "conversations", "held-out", "instructions", "train"] {
        fs::write_atomic(&folder.path().join(name).with_extension("jsonl"), b"{}").unwrap();
    }
    folder
}

#[test]
fn every_shipped_config_resolves() {
    let paths = shipped();
    assert!(paths.len() > 5);
    let data = data();
    let env = |name: &str| (name == "DATA").then(|| data.path().display().to_string());
    for path in paths {
        let run = load(&path, &[], &env).and_then(|loaded| resolve(&loaded, World::ALONE));
        let run = run.unwrap_or_else(|errors| panic!("{}", words(&errors)));
        if let Some(synth) = &run.synth {
            run.plan(&crate::data::Stream::of_samples(synth.options.train_images))
                .unwrap();
        }
    }
}

#[test]
fn the_readme_is_up_to_date() {
    let path = configs().join("README.md");
    let expected = readme();
    if std::env::var_os("BRAZIER_WRITE_README").is_some() {
        fs::write_atomic(&path, expected.as_bytes()).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap();
    let differs = written
        .lines()
        .zip(expected.lines())
        .position(|(written, expected)| written != expected);
    assert_eq!(
        (written.len(), differs),
        (expected.len(), None),
        "configs/README.md is out of date: run this test with BRAZIER_WRITE_README=1"
    );
}

#[test]
fn every_key_is_explained() {
    let text = readme();
    for row in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = row.split(" | ").collect();
        let [_, type_name, default, meaning, example] = cells[..] else {
            panic!("{row}")
        };
        assert!(meaning.len() > 5 && !default.is_empty(), "{row}");
        assert!(
            type_name.contains("mapping") || example.starts_with('`'),
            "no example: {row}"
        );
    }
}

/// What the YAML of a resolved run says for each key that has a documented default.
fn compare_defaults(
    schema: &Json,
    value: &Json,
    path: &str,
    given: &[&str],
    seen: &mut BTreeMap<String, bool>,
) {
    let schema = without_null(schema);
    let chosen = tag(alternatives(schema)).and_then(|tag| {
        alternatives(schema)
            .iter()
            .find(|one| one["properties"][tag]["const"] == value[tag])
    });
    let options = chosen.map_or_else(|| vec![schema], |chosen| vec![chosen]);
    for (key, property) in options.into_iter().flat_map(properties) {
        let path = tree::join(path, key);
        let default = &property["default"];
        let is_mapping = property.get("properties").is_some();
        if !default.is_null() && !is_mapping && !given.contains(&path.as_str()) {
            let seen = seen.entry(path.clone()).or_default();
            if let Some(effective) = value.get(key) {
                assert_eq!(inline_yaml(effective), inline_yaml(default), "{path}");
                *seen = true;
            }
        }
        compare_defaults(property, &value[key], &path, given, seen);
    }
}

#[test]
fn documented_defaults_are_the_ones_in_effect() {
    let mut seen = BTreeMap::new();
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer.json"] {
        fs::write_atomic(&folder.path().join(name), b"{}").unwrap();
    }
    let from = folder.path().display();
    let import = format!("model={{from: {from}, resize_vocabulary: {{pad_to_multiple_of: 8}}}}");
    let adapters = format!("model={{from: {}, lora: {{}}}}", folder.path().display());
    for (sets, given) in [
        (&[][..], &[][..]),
        (&["eval.exact_match=true"], &["eval.exact_match"]),
        (&["eval.early_stopping.patience=2"], &[]),
        (&["data.masks={eos: all}"], &["data.masks.eos"]),
        (&["train.schedule={name: linear}"], &[]),
        (&["train.schedule={name: wsd, decay_steps: 5}"], &[]),
        (&["train.schedule={name: inverse_sqrt}"], &[]),
        (
            &[
                "model.language.model_type=qwen2",
                "model.language.sliding_window=9",
                "model.language.rope_scaling={rope_type: llama3, factor: 8, original_max_position_embeddings: 16}",
            ],
            &[],
        ),
        (
            &[
                "model.language.rope_scaling={rope_type: yarn, factor: 8, original_max_position_embeddings: 16}",
            ],
            &[],
        ),
        (&[&import, "data.synth.image_size=32"], &[]),
        (&[adapters.as_str(), "data.synth.image_size=32"], &[]),
    ] {
        let yaml = resolve_base(sets).unwrap().to_yaml().unwrap();
        let tree = yaml::parse(&"effective.yaml".into(), &yaml, &no_env).unwrap();
        let value = schema::check(&tree).unwrap();
        compare_defaults(&SCHEMA, &value, "", given, &mut seen);
    }
    let unseen: Vec<_> = seen
        .iter()
        .filter(|(_, seen)| !**seen)
        .map(|(key, _)| key)
        .collect();
    assert!(
        unseen.is_empty(),
        "no run in this test uses the default of {unseen:?}"
    );
    assert!(seen.len() > 30, "{seen:?}");
}

#[test]
fn the_effective_yaml_gives_the_same_run() {
    let data = data();
    let read = |path: &std::path::PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        text.replace("${DATA}", &data.path().display().to_string())
    };
    let mut texts: Vec<_> = shipped().iter().map(read).collect();
    texts.push(BASE.replace("runs/test", "'$${X}: # \"quoted\" é'"));
    texts.push(format!(
        "{BASE}  schedule: {{name: wsd, decay_ratio: 0.1, warmup_ratio: 0.1, min_lr_ratio: 0.1}}\n"
    ));
    texts.push(format!(
        "{BASE}eval: {{every: never}}\ncheckpoint: {{every: never, keep: {{last: 1}}}}\n"
    ));
    for text in texts {
        let first = resolve_text(&text).unwrap();
        let yaml = first.to_yaml().unwrap();
        let mut second = resolve_text(&yaml).unwrap_or_else(|errors| panic!("{yaml}\n{}", words(&errors)));
        assert_eq!(second.to_yaml().unwrap(), yaml);
        (second.raw, second.written) = (first.raw.clone(), first.written.clone());
        assert_eq!(second, first);
    }
}
