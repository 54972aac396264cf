//! Where a model is: a folder, or a name of the Hugging Face hub (`Qwen/Qwen3-8B`, `Qwen/Qwen3-8B@main`) whose snapshot
//! lies in the hub's cache.
//!
//! The layout is that of `huggingface_hub`: `models--ORG--NAME/refs/REVISION` holds a commit's hash, and
//! `models--ORG--NAME/snapshots/HASH/` links to the files in `blobs/`, where `*.incomplete` is a download that was cut off.

use std::path::{Path, PathBuf};

use super::{HubError, Result, weights::missing_files};
use crate::fs;

/// Reads a variable of the environment.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The name of a model on the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoId {
    /// `ORG/NAME`.
    pub id: String,
    /// Branch, tag or commit; `main` if none is named.
    pub revision: String,
}

impl RepoId {
    /// Reads `ORG/NAME` or `ORG/NAME@REVISION`; `None` if it cannot be such a name.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, revision) = text.split_once('@').unwrap_or((text, "main"));
        let (org, name) = id.split_once('/')?;
        let is_word = |word: &str| {
            let starts_well = word.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
            starts_well
                && word
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        };
        let is_revision = !revision.is_empty()
            && revision
                .split('/')
                .all(|part| !part.is_empty() && part != "." && part != "..");
        (is_word(org) && is_word(name) && is_revision).then(|| Self {
            id: id.into(),
            revision: revision.into(),
        })
    }

    /// What downloads it.
    pub fn fetch_command(&self) -> String {
        match self.revision.as_str() {
            "main" => format!("hf download {}", self.id),
            revision => format!("hf download {} --revision {revision}", self.id),
        }
    }

    fn folder(&self) -> String {
        format!("models--{}", self.id.replace('/', "--"))
    }
}

/// Finds the folder of a model: `path` itself if there is such a folder or file, else the snapshot of that name in the
/// hub's cache. A path that cannot be such a name is given back as it is.
///
/// # Errors
/// If there is no such snapshot, or only half of it; the message says where was looked, and with which command to fetch the model.
pub fn locate(path: &Path, env: Env) -> Result<PathBuf> {
    if fs::exists(path) {
        return Ok(path.into());
    }
    let Some(repo) = path.to_str().and_then(RepoId::parse) else {
        // Whoever opens it says what is missing.
        return Ok(path.into());
    };
    let cache = cache_dir(env);
    if let Some(snapshot) = cache
        .as_deref()
        .map(|cache| snapshot(cache, &repo))
        .transpose()?
        .flatten()
    {
        return Ok(snapshot);
    }
    Err(HubError::NotCached {
        fetch: repo.fetch_command(),
        name: path.display().to_string(),
        looked: match cache {
            Some(cache) => cache.join(repo.folder()).display().to_string(),
            None => "nowhere: neither HF_HOME nor HOME is set".into(),
        },
        offline: if is_offline(env) {
            " (offline mode is on: nothing was asked of the network)"
        } else {
            ""
        },
    })
}

/// Where `huggingface_hub` keeps its snapshots.
pub fn cache_dir(env: Env) -> Option<PathBuf> {
    let named = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    named("HF_HUB_CACHE")
        .or_else(|| named("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| named("HF_HOME").map(|home| home.join("hub")))
        .or_else(|| named("XDG_CACHE_HOME").map(|cache| cache.join("huggingface/hub")))
        .or_else(|| named("HOME").map(|home| home.join(".cache/huggingface/hub")))
}

/// Whether the user has forbidden the network, in the words `huggingface_hub` and transformers know.
pub fn is_offline(env: Env) -> bool {
    ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].iter().any(|name| {
        env(name).is_some_and(|value| matches!(value.to_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE"))
    })
}

/// The snapshot of a revision, if the cache has it; it must be whole.
fn snapshot(cache: &Path, repo: &RepoId) -> Result<Option<PathBuf>> {
    let folder = cache.join(repo.folder());
    let reference = folder.join("refs").join(&repo.revision);
    let commit = match reference.is_file() {
        true => fs::read_to_string(&reference)?.trim().to_owned(),
        // A commit's hash is its own reference.
        false => repo.revision.clone(),
    };
    let snapshot = folder.join("snapshots").join(commit);
    if !snapshot.is_dir() {
        return Ok(None);
    }
    let mut missing = missing_files(&snapshot)?;
    for path in fs::read_dir(&snapshot)? {
        if !fs::exists(&path) {
            let link = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            missing.push(format!("{link} links to a file that is not there"));
        }
    }
    if missing.is_empty() {
        return Ok(Some(snapshot));
    }
    let blobs = folder.join("blobs");
    if blobs.is_dir() {
        let partial = fs::read_dir(&blobs)?;
        let partial = partial
            .iter()
            .filter(|path| path.extension().is_some_and(|ending| ending == "incomplete"));
        missing.extend(partial.map(|path| format!("{} was cut off while it was downloaded", path.display())));
    }
    Err(HubError::Incomplete {
        dir: snapshot,
        problems: missing,
        fetch: repo.fetch_command(),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    /// A cache with one whole snapshot of `org/name`, laid out as `huggingface_hub` does.
    fn fake_cache() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("hub/models--org--name");
        let snapshot = folder.join("snapshots").join(COMMIT);
        for dir in [folder.join("refs/pr"), folder.join("blobs"), snapshot.clone()] {
            fs::create_dir_all(&dir).unwrap();
        }
        fs::write_durable(&folder.join("refs/main"), COMMIT.as_bytes()).unwrap();
        fs::write_durable(&folder.join("refs/pr/1"), format!("{COMMIT}\n").as_bytes()).unwrap();
        let files = [
            ("config.json", "{}"),
            (
                "model.safetensors.index.json",
                r#"{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}"#,
            ),
            ("1.safetensors", ""),
            ("2.safetensors", ""),
        ];
        for (index, (name, text)) in files.iter().enumerate() {
            fs::write_durable(&folder.join(format!("blobs/{index}")), text.as_bytes()).unwrap();
            symlink(format!("../../blobs/{index}"), snapshot.join(name)).unwrap();
        }
        root
    }

    fn located(root: &Path, name: &str, offline: bool) -> Result<PathBuf> {
        locate(Path::new(name), &|key| match key {
            "HF_HOME" => Some(root.display().to_string()),
            "HF_HUB_OFFLINE" if offline => Some("1".into()),
            _ => None,
        })
    }

    #[test]
    fn a_snapshot_is_found_by_name_branch_and_commit() {
        let root = fake_cache();
        let snapshot = root.path().join("hub/models--org--name/snapshots").join(COMMIT);
        for name in [
            "org/name".to_owned(),
            "org/name@main".into(),
            "org/name@pr/1".into(),
            format!("org/name@{COMMIT}"),
        ] {
            assert_eq!(located(root.path(), &name, true).unwrap(), snapshot, "{name}");
        }
        // A folder comes first, and what cannot be a name is a path.
        let here = root.path().join("hub");
        assert_eq!(located(root.path(), here.to_str().unwrap(), false).unwrap(), here);
        for path in ["nowhere", "./org/name", "a/b/c", "/x/y", "../org"] {
            assert_eq!(located(root.path(), path, false).unwrap(), Path::new(path));
        }
    }

    #[test]
    fn what_is_not_there_comes_with_the_command_that_gets_it() {
        let root = fake_cache();
        let check = |name: &str, offline: bool, parts: &[&str]| {
            let error = located(root.path(), name, offline).unwrap_err().to_string();
            for part in parts {
                assert!(error.contains(part), "no `{part}` in {error}");
            }
        };
        let looked = format!(
            "looked in {}",
            root.path().join("hub/models--org--other").display()
        );
        check(
            "org/other",
            false,
            &[
                "there is no folder org/other",
                &looked,
                "hint: hf download org/other",
            ],
        );
        check(
            "org/other",
            true,
            &["offline mode is on", "hf download org/other"],
        );
        check(
            "org/name@v2",
            false,
            &["hint: hf download org/name --revision v2"],
        );
        let nowhere = locate(Path::new("org/name"), &|_| None).unwrap_err().to_string();
        assert!(nowhere.contains("neither HF_HOME nor HOME is set"), "{nowhere}");
    }

    #[test]
    fn half_a_download_is_no_model() {
        let root = fake_cache();
        let folder = root.path().join("hub/models--org--name");
        let snapshot = folder.join("snapshots").join(COMMIT);
        fs::remove_file(&snapshot.join("2.safetensors")).unwrap();
        fs::remove_file(&folder.join("blobs/0")).unwrap();
        fs::write_durable(&folder.join("blobs/abc.incomplete"), b"half").unwrap();
        let error = located(root.path(), "org/name", false).unwrap_err().to_string();
        for part in [
            "is not complete",
            "config.json is missing",
            "config.json links to a file that is not there",
            "2.safetensors is missing; model.safetensors.index.json names it",
            "abc.incomplete was cut off",
            "hint: hf download org/name",
        ] {
            assert!(error.contains(part), "no `{part}` in {error}");
        }
    }

    #[test]
    fn the_cache_is_where_the_environment_says() {
        let check = |variables: &[(&str, &str)], expected: Option<&str>| {
            let env = |key: &str| {
                let found = variables.iter().find(|(name, _)| *name == key);
                found.map(|(_, value)| (*value).to_owned())
            };
            assert_eq!(cache_dir(&env), expected.map(PathBuf::from), "{variables:?}");
        };
        check(&[("HOME", "/h")], Some("/h/.cache/huggingface/hub"));
        check(
            &[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")],
            Some("/x/huggingface/hub"),
        );
        check(&[("HOME", "/h"), ("HF_HOME", "/f")], Some("/f/hub"));
        check(&[("HF_HOME", "/f"), ("HF_HUB_CACHE", "/c")], Some("/c"));
        check(&[("HF_HOME", "/f"), ("HF_HUB_CACHE", "")], Some("/f/hub"));
        check(&[], None);
        for (value, expected) in [("1", true), ("true", true), ("0", false), ("", false)] {
            let offline = is_offline(&|key| (key == "TRANSFORMERS_OFFLINE").then(|| value.to_owned()));
            assert_eq!(offline, expected, "{value}");
        }
    }
}
