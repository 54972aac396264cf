//! Weights as PyTorch pickles them, beside the same values as safetensors (`tests/scripts/fixtures_pickled.py`).

use std::path::{Path, PathBuf};

use super::{
    super::{HubError, read_weights},
    lm, parameters,
};
use crate::fs;

const INDEX: &str = "pytorch_model.bin.index.json";

pub(in crate::hub) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

/// A folder with copies of fixtures under other names.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (from, to) in files {
        fs::copy(&fixture(from), &dir.path().join(to)).unwrap();
    }
    dir
}

fn sharded() -> tempfile::TempDir {
    folder(&[
        ("pickled_1.bin", "pytorch_model-00001-of-00002.bin"),
        ("pickled_2.bin", "pytorch_model-00002-of-00002.bin"),
        ("pickled_index.json", INDEX),
    ])
}

fn refusal(dir: &Path) -> HubError {
    let config = lm(false, true);
    read_weights(dir, &config, &parameters(&config), None).unwrap_err()
}

#[test]
fn pickles_hold_what_safetensors_hold() {
    let config = lm(false, true);
    let read = |dir: &Path| read_weights(dir, &config, &parameters(&config), None).unwrap();
    let expected = read(folder(&[("pickled.safetensors", "model.safetensors")]).path());
    assert_eq!(
        read(folder(&[("pickled_legacy.bin", "pytorch_model.bin")]).path()),
        expected
    );
    assert_eq!(read(sharded().path()), expected);
}

#[test]
fn damaged_pickles_are_refused() {
    let dir = sharded();
    let shard = dir.path().join("pytorch_model-00002-of-00002.bin");
    fs::truncate(&shard, 4000).unwrap();
    let message = refusal(dir.path()).to_string();
    assert!(
        message.contains("00002-of-00002.bin: not a complete PyTorch file"),
        "{message}"
    );
    fs::remove_file(&shard).unwrap();
    let message = refusal(dir.path()).to_string();
    assert!(
        message.contains(INDEX) && message.contains("which is not in the folder"),
        "{message}"
    );
}

#[test]
fn code_in_a_pickle_is_not_executed() {
    let dir = tempfile::tempdir().unwrap();
    let witness = dir.path().join("executed");
    let code = format!("cos\nsystem\n(S'touch {}'\ntR.", witness.display());
    fs::write_durable(&dir.path().join("pytorch_model.bin"), code.as_bytes()).unwrap();
    let message = refusal(dir.path()).to_string();
    assert!(
        message.contains("pytorch_model.bin: not a complete PyTorch file"),
        "{message}"
    );
    assert!(!witness.exists());
}
