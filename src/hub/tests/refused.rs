//! Folders that must not be read, and exports that must not be written.

use std::path::Path;

use serde_json::Map;

use super::*;

#[test]
fn damaged_folders_are_refused() {
    let config = lm(false, false);
    let check = |damage: &dyn Fn(&Path), expected: &str| {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("export");
        let options = ExportOptions {
            max_shard_bytes: 1000,
            ..options(HostDtype::F32)
        };
        export(&dir, &config, weights(&config), &tokenizer(root.path()), &options).unwrap();
        damage(&dir);
        let error = read_weights(&dir, &config, &parameters(&config), None)
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{error}");
    };
    let shards = |dir: &Path| -> Vec<_> {
        let is_shard =
            |path: &std::path::PathBuf| path.extension().is_some_and(|ending| ending == "safetensors");
        fs::read_dir(dir).unwrap().into_iter().filter(is_shard).collect()
    };
    let edit_index = |dir: &Path, edit: &dyn Fn(&mut Map<String, Value>)| {
        let path = dir.join("model.safetensors.index.json");
        let mut index = read_json(&path);
        edit(index["weight_map"].as_object_mut().unwrap());
        fs::write_durable(&path, index.to_string().as_bytes()).unwrap();
    };
    check(
        &|dir| fs::truncate(&shards(dir)[1], 300).unwrap(),
        "300 bytes, not a complete safetensors file",
    );
    check(
        &|dir| fs::remove_file(&shards(dir)[1]).unwrap(),
        "model-00002-of-",
    );
    check(
        &|dir| edit_index(dir, &|map| drop(map.remove("lm_head.weight"))),
        "lm_head.weight is in model-",
    );
    let wrong = |map: &mut Map<String, Value>| {
        let other = map["model.embed_tokens.weight"].clone();
        map.insert("lm_head.weight".into(), other);
    };
    check(
        &|dir| edit_index(dir, &wrong),
        "lm_head.weight is not in model-00001-of-",
    );
    let outside =
        |map: &mut Map<String, Value>| drop(map.insert("lm_head.weight".into(), "../x.safetensors".into()));
    check(
        &|dir| edit_index(dir, &outside),
        "names the file ../x.safetensors",
    );
    check(
        &|dir| fs::remove_file(&dir.join("model.safetensors.index.json")).unwrap(),
        "neither model.safetensors nor",
    );
}

#[test]
fn only_an_earlier_export_is_replaced_and_a_failure_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let source = tokenizer(root.path());
    let config = vlm(ProjectorKind::Mlp2);
    let write = |dir: &Path, tokenizer: &Path| {
        export(
            dir,
            &config,
            weights(&config),
            tokenizer,
            &options(HostDtype::F32),
        )
    };
    let occupied = root.path().join("photos");
    fs::create_dir_all(&occupied).unwrap();
    fs::write_durable(&occupied.join("config.json"), b"mine").unwrap();
    let error = write(&occupied, &source).unwrap_err();
    assert!(matches!(error, HubError::Occupied { .. }), "{error}");
    assert_eq!(fs::read(&occupied.join("config.json")).unwrap(), b"mine");

    let dir = root.path().join("new/export");
    write(&dir, &source.join("tokenizer.json")).unwrap();
    fs::write_durable(&dir.join("stale"), b"").unwrap();
    let error = write(&dir, &root.path().join("none")).unwrap_err();
    assert!(matches!(error, HubError::NoTokenizer { .. }), "{error}");
    assert!(dir.join("stale").is_file() && dir.join("config.json").is_file());
    write(&dir, &source).unwrap();
    assert!(!dir.join("stale").exists());
    assert_eq!(fs::read_dir(&root.path().join("new")).unwrap(), [dir]);
}

#[test]
fn what_hugging_face_cannot_say_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let check = |config: &VlmConfig, tensors: Vec<HostTensor>, expected: &str| {
        let dir = root.path().join("export");
        let error = export(
            &dir,
            config,
            tensors,
            &tokenizer(root.path()),
            &options(HostDtype::F32),
        )
        .unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!dir.exists());
    };
    let mut odd = lm(false, true);
    odd.text.hidden_size = 10;
    check(
        &odd,
        weights(&odd),
        "text_config.hidden_size = 10: Hugging Face's LlamaConfig wants a multiple",
    );
    let config = lm(true, true);
    let mut tensors = weights(&config);
    tensors[0].name = "somewhere".into();
    check(
        &config,
        tensors.clone(),
        "tensor somewhere: Hugging Face's layout has no place",
    );
    tensors[0].name = tensors[1].name.clone();
    check(&config, tensors.clone(), "two of this name");
    tensors[0].bytes.pop();
    tensors[0].name = "language_model.model.embed_tokens.weight".into();
    check(&config, tensors, "351 bytes, expected 352");
}
