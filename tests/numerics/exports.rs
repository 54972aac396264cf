//! Exported folders that transformers has loaded.
//!
//! `tests/scripts/record_exports.py` loads the folders that this test writes and records what transformers made of them, with
//! the hash of every file. The files of today must be those: then what was recorded holds for them too.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use brazier::{
    fs,
    hub::{self, ExportOptions},
};
use brazier_models::{HostDtype, VlmConfig};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    FORWARD,
    classification::classifier,
    export_options,
    fixture::{Fixture, path},
    language::{FAMILIES, family},
    support::{devices, weights},
    towers,
};

/// Set to a folder, it receives the exports, for `record_exports.py` to load.
const WRITE: &str = "BRAZIER_WRITE_EXPORTS";

fn models() -> Vec<(String, Fixture, VlmConfig)> {
    let mut models: Vec<_> = FAMILIES
        .iter()
        .map(|name| {
            let (fixture, config) = family(name);
            (format!("language_{name}"), fixture, config)
        })
        .collect();
    for name in ["classification_llama", "classification_qwen3"] {
        let (fixture, config) = classifier(name);
        models.push((name.to_owned(), fixture, config));
    }
    let fixture = Fixture::open("vlm.safetensors");
    let config = fixture.vlm_config();
    models.push(("vlm".to_owned(), fixture, config));
    let (fixture, config) = towers::model("siglip");
    models.push(("vlm_siglip".to_owned(), fixture, config));
    models
}

/// Writes one model in several shards and gives the hash of each file that transformers takes weights or their meaning from.
fn export(dir: &Path, fixture: &Fixture, config: &VlmConfig) -> BTreeMap<String, String> {
    let model = fixture.model(config, "", &devices()[0]);
    let tokenizer = tempfile::tempdir().unwrap();
    let tokenizer = tokenizer.path().join("tokenizer.json");
    fs::write_atomic(&tokenizer, b"{}").unwrap();
    let options = ExportOptions {
        pad_token_id: Some(0),
        ..export_options(HostDtype::F32, 20_000)
    };
    hub::export(dir, config, weights(&model), &tokenizer, &options).unwrap();
    let mut files = BTreeMap::new();
    for file in fs::read_dir(dir).unwrap() {
        let name = file.file_name().unwrap().to_str().unwrap();
        if name == "config.json" || name.starts_with("model") {
            files.insert(name.to_owned(), sha256(&file));
        }
    }
    files
}

fn sha256(path: &Path) -> String {
    let digest = Sha256::digest(fs::read(path).unwrap());
    digest.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

#[test]
fn transformers_has_loaded_these_very_files() {
    if let Some(root) = std::env::var_os(WRITE).map(PathBuf::from) {
        for (name, fixture, config) in models() {
            export(&root.join(&name), &fixture, &config);
        }
        return;
    }
    let recorded: Value = serde_json::from_slice(&fs::read(&path("exports.json")).unwrap()).unwrap();
    let root = tempfile::tempdir().unwrap();
    for (name, fixture, config) in models() {
        let files = export(&root.path().join(&name), &fixture, &config);
        let recorded = &recorded["cases"][&name];
        assert_eq!(
            serde_json::to_value(&files).unwrap(),
            recorded["files"],
            "{name} is exported differently: does transformers still load it? \
             {WRITE}=DIR cargo test --test numerics exports, then tests/scripts/record_exports.py DIR"
        );
        assert_eq!(recorded["missing_or_unexpected"], serde_json::json!({}), "{name}");
        let error = recorded["logits_relative_error"].as_f64().unwrap();
        assert!(error < FORWARD, "{name}: {error:.1e}");
    }
}
