//! Folders that Hugging Face's `datasets` wrote: `save_to_disk` (of one data set, or of several splits), and its cache.

use std::path::{Component, Path, PathBuf};

use super::{
    super::{error::DataError, value::Value},
    files::{no_split, which_split},
};
use crate::fs;

const MAX_JSON_BYTES: u64 = 64 << 20;
const INFO: &str = "dataset_info.json";
const STATE: &str = "state.json";
const SPLITS: &str = "dataset_dict.json";

/// The Arrow files of such a folder, in the order of its rows; `None` if it is another folder.
pub(super) fn files(folder: &Path, split: Option<&str>) -> Result<Option<Vec<PathBuf>>, DataError> {
    let is_there = |name: &str| fs::exists(&folder.join(name));
    if is_there(SPLITS) {
        return of_splits(folder, split).map(Some);
    }
    if is_there(STATE) && is_there(INFO) {
        return of_state(folder, split).map(Some);
    }
    if is_there(INFO) {
        return of_cache(folder, split);
    }
    Ok(None)
}

fn of_splits(folder: &Path, split: Option<&str>) -> Result<Vec<PathBuf>, DataError> {
    let dict = json(&folder.join(SPLITS))?;
    let known: Vec<String> = match dict.get("splits").and_then(Value::as_list) {
        Some(names) => names
            .iter()
            .filter_map(|name| Some(name.as_text()?.to_owned()))
            .collect(),
        None => return Err(failed(&folder.join(SPLITS), "names no splits")),
    };
    let split = match (split, &known[..]) {
        (Some(split), _) if known.iter().any(|name| name == split) => split,
        (Some(split), _) => return Err(no_split(folder, split, &known)),
        (None, [only]) => only,
        (None, _) => return Err(which_split(folder, &known)),
    };
    of_state(
        &folder.join(plain(split).ok_or_else(|| failed(folder, "a split's name is no name of a folder"))?),
        None,
    )
}

fn of_state(folder: &Path, split: Option<&str>) -> Result<Vec<PathBuf>, DataError> {
    let path = folder.join(STATE);
    let state = json(&path)?;
    let own = state.get("_split").and_then(Value::as_text);
    if let (Some(split), Some(own)) = (split, own)
        && split != own
    {
        return Err(no_split(folder, split, &[own.to_owned()]));
    }
    let indices = ["_indices_files", "_indices_data_files"];
    if indices.iter().any(|key| {
        state
            .get(key)
            .and_then(Value::as_list)
            .is_some_and(|list| !list.is_empty())
    }) {
        return Err(failed(
            &path,
            "its rows are chosen by a list of indices\n  hint: call flatten_indices() before save_to_disk",
        ));
    }
    let files = state.get("_data_files").and_then(Value::as_list);
    let files = files.ok_or_else(|| failed(&path, "names no _data_files"))?;
    let name = |file: &Value| {
        let name = file.get("filename").and_then(Value::as_text).and_then(plain);
        name.map(|name| folder.join(name))
    };
    let files: Option<Vec<PathBuf>> = files.iter().map(name).collect();
    files.ok_or_else(|| failed(&path, "names a data file that is none in its folder"))
}

/// `NAME-SPLIT.arrow` or `NAME-SPLIT-00000-of-00002.arrow`; `cache-….arrow` are results of `map`.
fn of_cache(folder: &Path, split: Option<&str>) -> Result<Option<Vec<PathBuf>>, DataError> {
    let known: Vec<String> = match json(&folder.join(INFO))?.get("splits") {
        Some(Value::Object(splits)) => splits.iter().map(|(name, _)| name.clone()).collect(),
        _ => Vec::new(),
    };
    let mut files = fs::read_dir(folder)?;
    let stem = |file: &PathBuf| {
        file.file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned()
    };
    files.retain(|file| {
        file.extension().is_some_and(|extension| extension == "arrow") && !stem(file).starts_with("cache-")
    });
    if files.is_empty() || known.is_empty() {
        return Ok(None);
    }
    let split = match (split, &known[..]) {
        (Some(split), _) => split,
        (None, [only]) => only,
        (None, _) => return Err(which_split(folder, &known)),
    };
    let is_of = |file: &PathBuf| {
        let stem = stem(file);
        let name = match stem.rsplit_once("-of-") {
            Some((name, _)) => name.rsplit_once('-').map_or(name, |(name, _)| name),
            None => &stem,
        };
        name.rsplit_once('-').is_some_and(|(_, found)| found == split)
    };
    files.retain(is_of);
    match files.is_empty() {
        true => Err(no_split(folder, split, &known)),
        false => Ok(Some(files)),
    }
}

/// A name that leads nowhere else.
fn plain(name: &str) -> Option<&str> {
    let mut parts = Path::new(name).components();
    (matches!(parts.next(), Some(Component::Normal(_))) && parts.next().is_none()).then_some(name)
}

fn json(path: &Path) -> Result<Value, DataError> {
    let bytes = fs::read_at_most(path, MAX_JSON_BYTES)?;
    Value::from_json(&bytes).map_err(|problem| failed(path, &problem.to_string()))
}

fn failed(path: &Path, reason: &str) -> DataError {
    DataError::Source {
        path: path.into(),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(entries: &[(&str, &str)], split: Option<&str>) -> String {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in entries {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write_durable(&path, content.as_bytes()).unwrap();
        }
        match files(dir.path(), split) {
            Ok(None) => "another folder".to_owned(),
            Ok(Some(files)) => {
                let names = files
                    .iter()
                    .map(|file| file.strip_prefix(dir.path()).unwrap().display().to_string());
                names.collect::<Vec<_>>().join(" ")
            }
            Err(error) => error.to_string(),
        }
    }

    const FILES: &str = r#"{"_data_files": [{"filename": "data-00001.arrow"}, {"filename": "data-00000.arrow"}],
        "_split": "train", "_indices_files": []}"#;

    #[test]
    fn the_order_is_that_of_the_state() {
        let saved = [("state.json", FILES), ("dataset_info.json", "{}")];
        assert_eq!(find(&saved, None), "data-00001.arrow data-00000.arrow");
        assert_eq!(find(&saved, Some("train")), "data-00001.arrow data-00000.arrow");
        assert!(find(&saved, Some("test")).contains("there is no split \"test\"\n  hint: it has train"));
        assert_eq!(find(&[("x.jsonl", "")], None), "another folder");
    }

    #[test]
    fn splits_have_folders() {
        let saved = [
            ("dataset_dict.json", r#"{"splits": ["train", "test"]}"#),
            ("train/state.json", FILES),
            ("train/dataset_info.json", "{}"),
        ];
        assert_eq!(
            find(&saved, Some("train")),
            "train/data-00001.arrow train/data-00000.arrow"
        );
        assert!(find(&saved, None).contains("has the splits train, test"));
        assert!(find(&saved, Some("dev")).contains("it has train, test"));
        let escaping = [("dataset_dict.json", r#"{"splits": ["../x"]}"#)];
        assert!(find(&escaping, None).contains("a split's name is no name of a folder"));
    }

    #[test]
    fn the_cache_names_splits_in_its_files() {
        let cache = [
            ("dataset_info.json", r#"{"splits": {"train": {}, "test": {}}}"#),
            ("my-set-train-00000-of-00002.arrow", ""),
            ("my-set-train-00001-of-00002.arrow", ""),
            ("my-set-test.arrow", ""),
            ("cache-1234.arrow", ""),
        ];
        let two = "my-set-train-00000-of-00002.arrow my-set-train-00001-of-00002.arrow";
        assert_eq!(find(&cache, Some("train")), two);
        assert_eq!(find(&cache, Some("test")), "my-set-test.arrow");
        assert!(find(&cache, None).contains("has the splits train, test"));
        assert!(find(&cache, Some("dev")).contains("there is no split \"dev\""));
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        for (state, expected) in [
            (
                r#"{"_data_files": [{"filename": "../x.arrow"}]}"#,
                "a data file that is none in its folder",
            ),
            (
                r#"{"_data_files": [{"filename": "x"}], "_indices_files": [{}]}"#,
                "call flatten_indices()",
            ),
            ("{}", "names no _data_files"),
            ("[", "state.json: column"),
        ] {
            let message = find(&[("state.json", state), ("dataset_info.json", "{}")], None);
            assert!(message.contains(expected), "{message}");
        }
    }
}
