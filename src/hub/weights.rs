//! Weights from safetensors files, mapped into memory and checked against the model.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::{Path, PathBuf},
};

use brazier_models::{HostDtype, HostTensor, VlmConfig};
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::Deserialize;

use super::{
    HubError, Result,
    names::{EMBEDDING, LM_HEAD, from_disk, is_constant},
};
use crate::fs;

/// The file of an unsharded model.
pub(super) const SINGLE_FILE: &str = "model.safetensors";
/// The list of a sharded model's files.
pub(super) const INDEX_FILE: &str = "model.safetensors.index.json";
const MAX_INDEX_BYTES: u64 = 256 << 20;

/// What is read of an index; the rest of it is statistics.
#[derive(Deserialize)]
pub(super) struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Reads the weights of a model folder under the model's names, in the order of `expected`.
///
/// `expected` lists every parameter with its shape. Stored f32 and bf16 stay what they are unless `dtype` asks for one
/// of them; f16 becomes f32, which loses nothing. A tied head may be stored too if it equals the embedding table.
///
/// # Errors
/// If files are missing, damaged or contradict their index, and with the full list of missing, unused and misshapen
/// tensors.
pub fn read_weights(
    dir: &Path,
    config: &VlmConfig,
    expected: &[(String, Vec<usize>)],
    dtype: Option<HostDtype>,
) -> Result<Vec<HostTensor>> {
    let (files, index) = find_files(dir)?;
    let maps = files
        .into_iter()
        .map(|path| fs::mmap(&path).map(|map| (path, map)))
        .collect::<fs::Result<Vec<_>>>()?;
    let mut shards = Vec::with_capacity(maps.len());
    for (path, map) in &maps {
        let shard = SafeTensors::deserialize(map).map_err(|error| HubError::Damaged {
            path: path.clone(),
            reason: format!("{} bytes, not a complete safetensors file: {error}", map.len()),
        })?;
        shards.push((path.as_path(), shard));
    }
    if let Some(index) = &index {
        check_index(dir, index, &shards)?;
    }
    let found = match_tensors(dir, config, expected, &shards)?;
    expected
        .par_iter()
        .zip(found)
        .map(|((name, _), (path, view))| {
            to_host(name, &view, dtype).map_err(|reason| HubError::Damaged {
                path: path.into(),
                reason,
            })
        })
        .collect()
}

/// Files with weights, and what the index says of them.
pub(super) fn find_files(dir: &Path) -> Result<(Vec<PathBuf>, Option<Index>)> {
    // transformers looks in this order.
    let single = dir.join(SINGLE_FILE);
    if single.is_file() {
        return Ok((vec![single], None));
    }
    let path = dir.join(INDEX_FILE);
    if !path.is_file() {
        let pickled = fs::read_dir(dir)?
            .iter()
            .any(|path| path.extension().is_some_and(|ending| ending == "bin"));
        let reason = if pickled {
            "only .bin files\n  hint: load the model in transformers and call save_pretrained, which writes safetensors"
        } else {
            "neither model.safetensors nor model.safetensors.index.json\n  hint: is the download complete?"
        };
        return Err(HubError::NoWeights {
            dir: dir.into(),
            reason: reason.into(),
        });
    }
    let bytes = fs::read_at_most(&path, MAX_INDEX_BYTES)?;
    let index: Index = serde_json::from_slice(&bytes).map_err(|error| HubError::Json {
        path: path.clone(),
        reason: error.to_string(),
    })?;
    let names: HashSet<&String> = index.weight_map.values().collect();
    let mut files = Vec::new();
    for name in names {
        let is_plain = Path::new(name)
            .file_name()
            .is_some_and(|last| last == name.as_str());
        let file = dir.join(name);
        if !is_plain || !file.is_file() {
            let reason = format!(
                "names the file {name}, which is not in the folder\n  hint: is the download complete?"
            );
            return Err(HubError::Damaged { path, reason });
        }
        files.push(file);
    }
    files.sort();
    Ok((files, Some(index)))
}

/// Each tensor is where the index says, and nowhere else.
fn check_index(dir: &Path, index: &Index, shards: &[(&Path, SafeTensors)]) -> Result<()> {
    let mut stored = HashSet::new();
    let mut problems = Vec::new();
    for (path, shard) in shards {
        let file = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        for name in shard.names() {
            stored.insert((name, file));
            match index.weight_map.get(name) {
                Some(said) if said == file => {}
                Some(said) => problems.push(format!("{name} is in {file}, not only in {said}")),
                None => problems.push(format!("{name} is in {file} but not in the index")),
            }
        }
    }
    for (name, file) in &index.weight_map {
        if !stored.contains(&(name.as_str(), file.as_str())) {
            problems.push(format!("{name} is not in {file}"));
        }
    }
    if problems.is_empty() {
        return Ok(());
    }
    problems.sort();
    let reason = format!("contradicts the files:\n  {}", problems.join("\n  "));
    Err(HubError::Damaged {
        path: dir.join(INDEX_FILE),
        reason,
    })
}

/// For each expected tensor the stored one, or every difference.
fn match_tensors<'a>(
    dir: &Path,
    config: &VlmConfig,
    expected: &[(String, Vec<usize>)],
    shards: &[(&'a Path, SafeTensors<'a>)],
) -> Result<Vec<(&'a Path, TensorView<'a>)>> {
    let mut problems = Vec::new();
    let mut stored: HashMap<String, (&'a Path, TensorView<'a>)> = HashMap::new();
    for (path, shard) in shards {
        for (disk_name, view) in shard.tensors() {
            match from_disk(&disk_name, config.vision.is_some()) {
                None if is_constant(&disk_name) => {}
                None => problems.push(format!("unused: {disk_name} {:?}", view.shape())),
                Some(name) if is_constant(&name) => {}
                Some(name) => {
                    if stored.insert(name.clone(), (path, view)).is_some() {
                        problems.push(format!("twice: {name}, under two names"));
                    }
                }
            }
        }
    }
    if config.text.tie_word_embeddings {
        drop_tied_head(&mut stored, &mut problems);
    }
    let mut found = Vec::with_capacity(expected.len());
    for (name, shape) in expected {
        match stored.remove(name) {
            None => problems.push(format!("missing: {name} {shape:?}")),
            Some((_, view)) if view.shape() != shape.as_slice() => {
                problems.push(format!(
                    "misshapen: {name} {:?}, expected {shape:?}",
                    view.shape()
                ));
            }
            Some(place) => found.push(place),
        }
    }
    problems.extend(
        stored
            .iter()
            .map(|(name, (_, view))| format!("unused: {name} {:?}", view.shape())),
    );
    if problems.is_empty() {
        return Ok(found);
    }
    problems.sort();
    Err(HubError::Mismatch {
        dir: dir.into(),
        problems,
    })
}

/// Some programs store a tied head all the same. It must be the embedding table, or the config is wrong.
fn drop_tied_head<'a>(stored: &mut HashMap<String, (&'a Path, TensorView<'a>)>, problems: &mut Vec<String>) {
    let Some((_, head)) = stored.remove(LM_HEAD) else {
        return;
    };
    let is_embedding = stored
        .get(EMBEDDING)
        .is_some_and(|(_, embedding)| embedding.dtype() == head.dtype() && embedding.data() == head.data());
    if !is_embedding {
        problems.push(format!(
            "unused: {LM_HEAD} {:?} differs from the embedding table, but tie_word_embeddings is true",
            head.shape()
        ));
    }
}

fn to_host(
    name: &str,
    view: &TensorView,
    dtype: Option<HostDtype>,
) -> std::result::Result<HostTensor, String> {
    let (bytes, stored) = match view.dtype() {
        Dtype::F32 => (view.data().to_vec(), HostDtype::F32),
        Dtype::BF16 => (view.data().to_vec(), HostDtype::Bf16),
        Dtype::F16 => {
            let widen = |half| f16::from_le_bytes(half).to_f32().to_le_bytes();
            (convert(view.data(), widen), HostDtype::F32)
        }
        other => return Err(format!("tensor {name} is {other}, expected F32, BF16 or F16")),
    };
    let tensor = HostTensor {
        name: name.into(),
        shape: view.shape().to_vec(),
        dtype: stored,
        bytes,
    };
    Ok(cast(tensor, dtype.unwrap_or(stored)))
}

/// The same tensor in another dtype; to bf16 it rounds to nearest, ties to even.
pub(super) fn cast(tensor: HostTensor, dtype: HostDtype) -> HostTensor {
    let bytes = match (tensor.dtype, dtype) {
        (HostDtype::F32, HostDtype::Bf16) => convert(&tensor.bytes, |float| {
            bf16::from_f32(f32::from_le_bytes(float)).to_le_bytes()
        }),
        (HostDtype::Bf16, HostDtype::F32) => convert(&tensor.bytes, |half| {
            bf16::from_le_bytes(half).to_f32().to_le_bytes()
        }),
        (HostDtype::F32, HostDtype::F32) | (HostDtype::Bf16, HostDtype::Bf16) => tensor.bytes,
    };
    HostTensor {
        dtype,
        bytes,
        ..tensor
    }
}

/// Converts elements of `FROM` bytes, wherever they lie in memory, to elements of `TO` bytes.
fn convert<const FROM: usize, const TO: usize>(
    bytes: &[u8],
    element: impl Fn([u8; FROM]) -> [u8; TO],
) -> Vec<u8> {
    let (elements, _) = bytes.as_chunks::<FROM>();
    let mut converted = Vec::with_capacity(elements.len() * TO);
    for bytes in elements {
        converted.extend_from_slice(&element(*bytes));
    }
    converted
}
