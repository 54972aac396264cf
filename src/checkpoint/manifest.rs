//! The file that makes a folder a checkpoint.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{CheckpointError, Result, RunState};
use crate::fs;

pub(super) const MANIFEST: &str = "manifest.json";
const FORMAT: &str = "brazier-checkpoint";
const VERSION: u32 = 1;
/// A manifest holds no tensor; a larger one is something else.
const MAX_MANIFEST_BYTES: u64 = 64 << 20;

/// Value of an evaluation metric that belongs to a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    /// Name as in metrics.jsonl.
    pub name: String,
    /// Its value. One that is not finite is left out when the checkpoint is written.
    pub value: f64,
}

/// One file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Name inside the folder.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// Hash of its bytes, in hexadecimal.
    pub sha256: String,
    /// Tensors in it.
    pub num_tensors: usize,
}

impl FileEntry {
    /// What another rank writes is told as JSON.
    pub fn list_to_json(files: &[Self]) -> Vec<u8> {
        match serde_json::to_vec(files) {
            Ok(json) => json,
            Err(error) => unreachable!("names and numbers are JSON: {error}"),
        }
    }

    /// The inverse of [`FileEntry::list_to_json`].
    ///
    /// # Errors
    /// If it is something else.
    pub fn list_from_json(json: &[u8]) -> Result<Vec<Self>> {
        serde_json::from_slice(json).map_err(|error| CheckpointError::Tensor {
            name: "files of another rank".into(),
            reason: error.to_string(),
        })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: String,
    version: u32,
    metric: Option<Metric>,
    state: RunState,
    files: Vec<FileEntry>,
}

/// Read before the rest, so that a manifest of another version is named as such.
#[derive(Deserialize)]
struct ManifestFormat {
    format: String,
    version: u32,
}

/// A complete checkpoint: its manifest has been read, its tensors have not.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckpointInfo {
    /// Its folder.
    pub path: PathBuf,
    /// Everything but the tensors.
    pub state: RunState,
    /// What the evaluation at this step gave, if there was one.
    pub metric: Option<Metric>,
    /// Its files.
    pub files: Vec<FileEntry>,
}

impl CheckpointInfo {
    /// Step after which it was taken.
    pub fn step(&self) -> u64 {
        self.state.step
    }

    /// Bytes of its tensors on the disk.
    pub fn size_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size_bytes).sum()
    }

    /// Reads the manifest of a checkpoint folder.
    ///
    /// # Errors
    /// If the folder is no complete checkpoint, or its manifest is damaged or of another format.
    pub fn read(path: &Path) -> Result<Self> {
        let file = path.join(MANIFEST);
        if !file.is_file() {
            return Err(CheckpointError::NotFound { path: path.into() });
        }
        let bytes = fs::read_at_most(&file, MAX_MANIFEST_BYTES)?;
        let damaged = |reason: String| CheckpointError::Damaged {
            path: file.clone(),
            reason,
            hint: hint_previous(path),
        };
        let known: ManifestFormat = serde_json::from_slice(&bytes)
            .map_err(|error| damaged(format!("{} bytes: {error}", bytes.len())))?;
        if known.format != FORMAT || known.version != VERSION {
            return Err(CheckpointError::Format {
                path: file,
                found: format!("{} {}", known.format, known.version),
                known: format!("{FORMAT} {VERSION}"),
            });
        }
        let Manifest {
            format: _,
            version: _,
            metric,
            state,
            files,
        } = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        Ok(CheckpointInfo {
            path: path.into(),
            state,
            metric,
            files,
        })
    }

    pub(super) fn manifest_bytes(&self) -> Result<Vec<u8>> {
        let manifest = Manifest {
            format: FORMAT.into(),
            version: VERSION,
            metric: self.metric.clone(),
            state: self.state.clone(),
            files: self.files.clone(),
        };
        serde_json::to_vec_pretty(&manifest).map_err(|error| CheckpointError::Damaged {
            path: self.path.join(MANIFEST),
            reason: error.to_string(),
            hint: "this is a bug of the program, not of your data".into(),
        })
    }
}

/// Name of the folder of a step.
pub(super) fn step_name(step: u64) -> String {
    format!("step-{step:08}")
}

/// Steps of a folder that have a manifest, ascending by number, with their folders. No folder: no steps.
pub fn complete_steps(dir: &Path) -> Result<Vec<(u64, PathBuf)>> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let mut steps: Vec<(u64, PathBuf)> = fs::read_dir(dir)?
        .into_iter()
        .filter_map(|path| {
            let step = path.file_name()?.to_str()?.strip_prefix("step-")?.parse().ok()?;
            path.join(MANIFEST).is_file().then_some((step, path))
        })
        .collect();
    steps.sort();
    Ok(steps)
}

/// The newest complete checkpoint of a folder; reads only, so it may be asked while a run writes there.
///
/// # Errors
/// If the newest one's manifest cannot be read: an older one is never taken in silence.
pub fn newest(dir: &Path) -> Result<Option<CheckpointInfo>> {
    complete_steps(dir)?
        .pop()
        .map(|(_, path)| CheckpointInfo::read(&path))
        .transpose()
}

/// Which checkpoint to use instead of a damaged one.
pub(super) fn hint_previous(damaged: &Path) -> String {
    let dir = damaged.parent().unwrap_or(Path::new("."));
    let number = |path: &Path| {
        path.file_name()?
            .to_str()?
            .strip_prefix("step-")?
            .parse::<u64>()
            .ok()
    };
    let previous = complete_steps(dir)
        .unwrap_or_default()
        .into_iter()
        .rfind(|(step, _)| number(damaged).is_some_and(|this| *step < this));
    match previous {
        Some((step, path)) => format!(
            "remove {} to go on from step {step} at {}",
            damaged.display(),
            path.display()
        ),
        None => format!(
            "there is no earlier checkpoint; remove {} to start over",
            damaged.display()
        ),
    }
}
