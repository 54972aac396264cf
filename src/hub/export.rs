//! A model to a Hugging Face folder, at once or not at all.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsStr,
    path::{Path, PathBuf},
};

use brazier_models::{HostDtype, HostTensor, VlmConfig};
use safetensors::{Dtype, SafeTensorError, tensor::TensorView};
use serde_json::{Map, json};

use super::{
    HubError, Result,
    config_out::{Layout, config_json, generation_json},
    names::to_disk,
    sidecar::{write_json, write_processor, write_tokenizer},
    weights::{INDEX_FILE, SINGLE_FILE, cast},
};
use crate::fs::{self, FsError};

/// Marks a folder as written by [`export`]; such a folder may be replaced by the next one.
pub(super) const MARKER: &str = "brazier.json";

/// What a folder says besides the model itself.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportOptions {
    /// A safetensors file holds at most so many bytes of tensors, unless one tensor alone is larger.
    pub max_shard_bytes: usize,
    /// Element type on disk.
    pub dtype: HostDtype,
    /// Subtracted per channel from pixels in `0..=1`; unused without vision.
    pub image_mean: [f32; 3],
    /// Divides what is left; unused without vision.
    pub image_std: [f32; 3],
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
pub fn export(
    dir: &Path,
    config: &VlmConfig,
    tensors: Vec<HostTensor>,
    tokenizer: &Path,
    options: &ExportOptions,
) -> Result<ExportSummary> {
    check_tensors(config, &tensors)?;
    // Refused before anything is written.
    config_json(config, options)?;
    let layout = Layout::of(config);
    let mut summary = ExportSummary {
        dir: dir.into(),
        architecture: layout.architecture(config),
        loads_in_transformers: layout != Layout::BrazierVlm,
        num_tensors: tensors.len(),
        size_bytes: 0,
    };
    summary.size_bytes = write_staged(dir, |partial| {
        write_folder(partial, config, tensors, tokenizer, options, &summary)
    })?;
    Ok(summary)
}

/// Lets `write` fill a folder beside `dir`, syncs it and renames it to `dir`. What was there is replaced if it has the
/// marker, which `write` writes last.
pub(super) fn write_staged<T>(dir: &Path, write: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let is_occupied = dir.is_file() || (dir.is_dir() && !fs::read_dir(dir)?.is_empty());
    if is_occupied && !dir.join(MARKER).is_file() {
        return Err(HubError::Occupied {
            dir: dir.into(),
            marker: MARKER,
        });
    }
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

/// Writes every file, the marker last. Gives the bytes of all tensors.
fn write_folder(
    dir: &Path,
    config: &VlmConfig,
    tensors: Vec<HostTensor>,
    tokenizer: &Path,
    options: &ExportOptions,
    summary: &ExportSummary,
) -> Result<u64> {
    let size_bytes = write_weights(dir, config, tensors, options)?;
    write_json(&dir.join("config.json"), &config_json(config, options)?)?;
    write_json(&dir.join("generation_config.json"), &generation_json(options))?;
    write_tokenizer(dir, tokenizer, config.vision.is_some(), options)?;
    if let Some(vision) = &config.vision {
        write_processor(dir, vision, options)?;
    }
    let marker = json!({
        "format": "brazier-export",
        "version": 1,
        "brazier": env!("CARGO_PKG_VERSION"),
        "architecture": summary.architecture,
        "loads_in_transformers": summary.loads_in_transformers,
    });
    write_json(&dir.join(MARKER), &marker)?;
    Ok(size_bytes)
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

fn check_tensors(config: &VlmConfig, tensors: &[HostTensor]) -> Result<()> {
    let mut names = HashSet::new();
    for tensor in tensors {
        let refuse = |reason: String| HubError::Inexpressible {
            what: format!("tensor {}", tensor.name),
            reason,
        };
        if to_disk(&tensor.name, config.vision.is_some()).is_none() {
            return Err(refuse("Hugging Face's layout has no place for it".into()));
        }
        if !names.insert(tensor.name.as_str()) {
            return Err(refuse("there are two of this name".into()));
        }
        let expected = tensor.num_elements() * tensor.dtype.size_bytes();
        if tensor.bytes.len() != expected {
            return Err(refuse(format!(
                "{} bytes, expected {expected}",
                tensor.bytes.len()
            )));
        }
    }
    Ok(())
}

/// Writes one file, or shards and their index. Gives the bytes of all tensors.
fn write_weights(
    dir: &Path,
    config: &VlmConfig,
    tensors: Vec<HostTensor>,
    options: &ExportOptions,
) -> Result<u64> {
    let mut shards: Vec<Vec<HostTensor>> = Vec::new();
    let (mut size_bytes, mut shard_bytes, mut num_parameters) = (0, 0, 0);
    for tensor in tensors {
        let num_bytes = tensor.num_elements() * options.dtype.size_bytes();
        match shards.last_mut() {
            Some(shard) if shard_bytes + num_bytes <= options.max_shard_bytes => shard.push(tensor),
            _ => {
                shard_bytes = 0;
                shards.push(vec![tensor]);
            }
        }
        shard_bytes += num_bytes;
        size_bytes += num_bytes as u64;
        num_parameters += num_bytes / options.dtype.size_bytes();
    }
    let num_shards = shards.len();
    let mut weight_map = Map::new();
    for (index, shard) in shards.into_iter().enumerate() {
        let name = match num_shards {
            1 => SINGLE_FILE.to_string(),
            _ => format!("model-{:05}-of-{num_shards:05}.safetensors", index + 1),
        };
        let shard: Vec<HostTensor> = shard
            .into_iter()
            .map(|tensor| cast(tensor, options.dtype))
            .collect();
        for tensor in &shard {
            let stored = to_disk(&tensor.name, config.vision.is_some()).unwrap_or(&tensor.name);
            weight_map.insert(stored.into(), name.as_str().into());
        }
        write_shard(&dir.join(name), &shard, config.vision.is_some())?;
    }
    if num_shards > 1 {
        weight_map.sort_keys();
        let metadata = json!({"total_size": size_bytes, "total_parameters": num_parameters});
        write_json(
            &dir.join(INDEX_FILE),
            &json!({"metadata": metadata, "weight_map": weight_map}),
        )?;
    }
    Ok(size_bytes)
}

fn write_shard(path: &Path, tensors: &[HostTensor], has_vision: bool) -> Result<()> {
    let mut views = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let dtype = match tensor.dtype {
            HostDtype::F32 => Dtype::F32,
            HostDtype::Bf16 => Dtype::BF16,
        };
        let view = TensorView::new(dtype, tensor.shape.clone(), &tensor.bytes)
            .map_err(|error| write_error(path, error))?;
        views.push((to_disk(&tensor.name, has_vision).unwrap_or(&tensor.name), view));
    }
    // transformers refuses files that do not say which framework's layout they follow.
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::serialize_to_file(views, Some(metadata), path).map_err(|error| write_error(path, error))
}

/// What safetensors says of a file that it could not write.
pub(super) fn write_error(path: &Path, error: SafeTensorError) -> HubError {
    match error {
        SafeTensorError::IoError(source) => HubError::Fs(FsError {
            operation: "write",
            path: path.into(),
            source,
        }),
        other => HubError::Damaged {
            path: path.into(),
            reason: other.to_string(),
        },
    }
}
