//! A model to a Hugging Face folder, at once or not at all.

use std::{
    collections::HashSet,
    ffi::OsStr,
    path::{Path, PathBuf},
};

use brazier_models::{HostDtype, VlmConfig};
use serde_json::json;

use super::{
    ExportTensor, HubError, Result,
    carry::Carried,
    config_out::{Layout, config_json, generation_json},
    names::to_disk,
    shards::{self, Written, write_weights},
    sidecar::{write_json, write_processor, write_tokenizer},
};
use crate::{fs, image_processor::ImageProcessor};

/// Marks a folder as written by [`export`]; such a folder may be replaced by the next one.
pub(super) const MARKER: &str = "brazier.json";

/// What a folder says besides the model itself.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportOptions {
    /// A safetensors file holds at most so many bytes of tensors, unless one tensor alone is larger.
    pub max_shard_bytes: usize,
    /// Element type that `config.json` names.
    pub dtype: HostDtype,
    /// Element type on disk.
    pub dtype_policy: DtypePolicy,
    /// The folder the model was imported from. What its `config.json` and `generation_config.json` say that has no effect
    /// here, its token ids and its image processor come along.
    pub source: Option<PathBuf>,
    /// How images were prepared; unused without vision, and where `source` says it itself.
    pub image_processor: ImageProcessor,
    /// The token that stands for an image in text, as the tokenizer spells it; unused without vision.
    pub image_token: String,
    /// Jinja chat template; `None` leaves the one of the tokenizer's folder, if it has one.
    pub chat_template: Option<String>,
    /// First token of a text.
    pub bos_token_id: Option<u32>,
    /// Tokens that end an answer.
    pub eos_token_ids: Vec<u32>,
    /// Filler of short rows.
    pub pad_token_id: Option<u32>,
}

/// In which element type tensors are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DtypePolicy {
    /// Every tensor in [`ExportOptions::dtype`].
    Cast,
    /// Each tensor in the one it comes in: the bytes of what nobody changed stay as they are.
    Keep,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportSummary {
    /// The folder.
    pub dir: PathBuf,
    /// Class that loads it, as in `config.json`.
    pub architecture: &'static str,
    /// Whether transformers has that class. Without it the folder is for this program only.
    pub loads_in_transformers: bool,
    /// Number of tensors.
    pub num_tensors: usize,
    /// Number of safetensors files.
    pub num_files: usize,
    /// Bytes of the tensors.
    pub size_bytes: u64,
}

/// Writes a model folder beside `dir`, syncs it and renames it to `dir`; an earlier export there is replaced.
///
/// `tokenizer` is a folder with a `tokenizer.json`, or that file; what belongs to it and lies beside it comes along.
/// A tied head is not stored. Projectors other than the two-layer one make a `brazier_vlm` folder, which transformers
/// does not know (see [the module](super)).
///
/// # Errors
/// What Hugging Face cannot express, a target that holds something else, tensors under unknown or equal names, and what
/// the file system says. The target is then as it was.
pub fn export<'a, T: Into<ExportTensor<'a>>>(
    dir: &Path,
    config: &VlmConfig,
    tensors: Vec<T>,
    tokenizer: &Path,
    options: &ExportOptions,
) -> Result<ExportSummary> {
    let mut tensors: Vec<ExportTensor> = tensors.into_iter().map(Into::into).collect();
    tensors.extend(shards::constants(config, tensors.first()));
    check_tensors(config, &tensors)?;
    let carried = Carried::read(options)?;
    // Refused before anything is written.
    carried.merged_config(config, config_json(config, options)?)?;
    let written = write_staged(dir, |partial| {
        write_folder(partial, config, tensors, tokenizer, options, &carried)
    })?;
    let layout = Layout::of(config);
    Ok(ExportSummary {
        dir: dir.into(),
        architecture: layout.architecture(config),
        loads_in_transformers: layout != Layout::BrazierVlm,
        num_tensors: written.num_tensors,
        num_files: written.num_files,
        size_bytes: written.size_bytes,
    })
}

/// Whether [`export`] may write there: a new or empty folder, or an earlier export.
///
/// # Errors
/// [`HubError::Occupied`] if there is something else.
pub fn check_target(dir: &Path) -> Result<()> {
    let is_occupied = dir.is_file() || (dir.is_dir() && !fs::read_dir(dir)?.is_empty());
    if is_occupied && !dir.join(MARKER).is_file() {
        return Err(HubError::Occupied {
            dir: dir.into(),
            marker: MARKER,
        });
    }
    Ok(())
}

/// Lets `write` fill a folder beside `dir`, syncs it and renames it to `dir`. What was there is replaced if it has the
/// marker, which `write` writes last.
pub(super) fn write_staged<T>(dir: &Path, write: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    check_target(dir)?;
    let parent = dir
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let partial = beside(dir, "partial");
    fs::create_dir_all(parent)?;
    fs::remove_dir_all(&partial)?;
    fs::create_dir_all(&partial)?;
    let publish_all = |written| {
        for file in fs::read_dir(&partial)? {
            fs::sync_file(&file)?;
        }
        fs::sync_dir(&partial)?;
        publish(dir, &partial, parent).map(|()| written)
    };
    write(&partial).and_then(publish_all).inspect_err(|_| {
        // The error that counts is the first one.
        let _ = fs::remove_dir_all(&partial);
    })
}

/// Writes every file, the marker last.
fn write_folder(
    dir: &Path,
    config: &VlmConfig,
    tensors: Vec<ExportTensor>,
    tokenizer: &Path,
    options: &ExportOptions,
    carried: &Carried,
) -> Result<Written> {
    let written = write_weights(dir, config.vision.is_some(), tensors, options)?;
    let json = carried.merged_config(config, config_json(config, options)?)?;
    write_json(&dir.join("config.json"), &json)?;
    let json = carried.merged_generation_config(generation_json(options));
    write_json(&dir.join("generation_config.json"), &json)?;
    write_tokenizer(dir, tokenizer, config.vision.is_some(), options)?;
    if let Some(vision) = &config.vision {
        write_processor(dir, vision, options)?;
        carried.copy_processor(dir)?;
    }
    let layout = Layout::of(config);
    let marker = json!({
        "format": "brazier-export",
        "version": 1,
        "brazier": env!("CARGO_PKG_VERSION"),
        "architecture": layout.architecture(config),
        "loads_in_transformers": layout != Layout::BrazierVlm,
    });
    write_json(&dir.join(MARKER), &marker)?;
    Ok(written)
}

fn beside(dir: &Path, word: &str) -> PathBuf {
    let name = dir.file_name().unwrap_or(OsStr::new("export"));
    dir.with_file_name(format!(".{}.{word}", name.to_string_lossy()))
}

fn publish(dir: &Path, partial: &Path, parent: &Path) -> Result<()> {
    let replaced = beside(dir, "replaced");
    fs::remove_dir_all(&replaced)?;
    if dir.is_dir() {
        fs::rename(dir, &replaced)?;
    }
    fs::rename(partial, dir).inspect_err(|_| {
        // Should this fail too, the old folder is still there under its other name.
        let _ = fs::rename(&replaced, dir);
    })?;
    fs::sync_dir(parent)?;
    Ok(fs::remove_dir_all(&replaced)?)
}

fn check_tensors(config: &VlmConfig, tensors: &[ExportTensor]) -> Result<()> {
    let mut names = HashSet::new();
    for tensor in tensors {
        let refuse = |reason: &str| HubError::Inexpressible {
            what: format!("tensor {}", tensor.name()),
            reason: reason.into(),
        };
        if to_disk(tensor.name(), config.vision.is_some()).is_none() {
            return Err(refuse("Hugging Face's layout has no place for it"));
        }
        if !names.insert(tensor.name()) {
            return Err(refuse("there are two of this name"));
        }
    }
    Ok(())
}
