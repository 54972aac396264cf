//! Adapters folded into the weights they belong to.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};

use brazier_models::{HostTensor, LoraConfig};
use rayon::prelude::*;
use serde_json::{Map, json};

use super::{
    HubError, Result,
    adapter::{Adapter, layer_of, read_adapter},
    config_in::read_config,
    elements::Element,
    export::{MARKER, write_staged},
    names::from_disk,
    shards::{ExportTensor, pytorch_layout, write_file},
    sidecar::write_json,
    stored::{Form, StoredFile},
    weights::{INDEX_FILE, PICKLED_INDEX_FILE, find_files},
};
use crate::fs;

/// Endings of files with weights: those of the base model do not come along.
const WEIGHTS: [&str; 9] = [
    "safetensors",
    "bin",
    "pt",
    "pth",
    "ckpt",
    "gguf",
    "h5",
    "msgpack",
    "onnx",
];

/// What was merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergeSummary {
    /// The new folder.
    pub dir: PathBuf,
    /// Layers whose weight has changed.
    pub num_layers: usize,
    /// Tensors that the adapter brought whole.
    pub num_replaced: usize,
    /// All tensors.
    pub num_tensors: usize,
}

/// Writes the base model with `W + s·B·A` in the place of each `W` that has an adapter, computed in f32 and rounded once to
/// the dtype it is stored in. Tensors that the adapter brings whole replace those of the base. Every other tensor and file
/// comes along byte for byte, in shards cut as before.
///
/// # Errors
/// If base or adapter cannot be read or do not belong together, or the target holds something else. The target is then
/// as it was.
pub fn merge_adapter(base: &Path, adapter: &Path, output: &Path) -> Result<MergeSummary> {
    let model = read_config(base)?;
    let Adapter { config, tensors, .. } = read_adapter(adapter, &model)?;
    let changes = Changes::new(&config, tensors);
    let (files, index) = find_files(base)?;
    write_staged(output, |dir| {
        let mut done = HashSet::new();
        let mut weight_map = Map::new();
        let (mut num_tensors, mut total_size) = (0, 0);
        for file in &files {
            let file = StoredFile::open(file)?;
            let name = safetensors_name(file.path());
            changes.rewrite(&file, &dir.join(&name), model.vision.is_some(), &mut done)?;
            for (tensor, form) in file.tensors() {
                weight_map.insert(tensor.into(), name.as_str().into());
                total_size += form.size_bytes();
                num_tensors += 1;
            }
        }
        // The files' names have changed, and with them the index.
        if index.is_some_and(|index| index.is_pickled()) {
            weight_map.sort_keys();
            let index = json!({"metadata": {"total_size": total_size}, "weight_map": weight_map});
            write_json(&dir.join(INDEX_FILE), &index)?;
        }
        changes.check_all_done(adapter, &done)?;
        for file in fs::read_dir(base)? {
            let name = file.file_name().unwrap_or_default();
            if file.is_file() && !is_weights(&file) {
                fs::copy(&file, &dir.join(name))?;
            }
        }
        let marker = json!({
            "format": "brazier-merge",
            "version": 1,
            "brazier": env!("CARGO_PKG_VERSION"),
        });
        write_json(&dir.join(MARKER), &marker)?;
        Ok(MergeSummary {
            dir: output.into(),
            num_layers: changes.updates.len(),
            num_replaced: changes.whole.len(),
            num_tensors,
        })
    })
}

fn is_weights(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let ending = file.extension().unwrap_or_default().to_string_lossy();
    WEIGHTS.contains(&&*ending) || name == PICKLED_INDEX_FILE
}

/// The name under which transformers looks for a file of weights, once it is safetensors.
fn safetensors_name(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let stem = match stem.strip_prefix("pytorch_model") {
        Some(rest) => format!("model{rest}"),
        None => stem.into_owned(),
    };
    format!("{stem}.safetensors")
}

/// Both factors of one update, f32, row-major.
struct Update {
    r: usize,
    a: Vec<f32>,
    b: Vec<f32>,
}

/// What happens to the weights, by the model's names.
struct Changes {
    scaling: f32,
    updates: HashMap<String, Update>,
    whole: HashMap<String, HostTensor>,
}

impl Changes {
    fn new(config: &LoraConfig, tensors: Vec<HostTensor>) -> Self {
        let mut changes = Self {
            scaling: config.scaling() as f32,
            updates: HashMap::new(),
            whole: HashMap::new(),
        };
        for tensor in tensors {
            let Some(layer) = layer_of(&tensor.name) else {
                changes.whole.insert(tensor.name.clone(), tensor);
                continue;
            };
            let update = changes
                .updates
                .entry(format!("{layer}.weight"))
                .or_insert(Update {
                    r: config.r,
                    a: Vec::new(),
                    b: Vec::new(),
                });
            let values = Element::F32.read(&tensor.bytes);
            if tensor.name.ends_with(".lora_A.weight") {
                update.a = values;
            } else {
                update.b = values;
            }
        }
        changes
    }

    /// Writes one file anew and notes which changes it took.
    fn rewrite(
        &self,
        from: &StoredFile,
        to: &Path,
        has_vision: bool,
        done: &mut HashSet<String>,
    ) -> Result<()> {
        let mut tensors = Vec::new();
        for (disk_name, form) in from.tensors() {
            let name = from_disk(disk_name, has_vision).unwrap_or_default();
            if self.updates.contains_key(&name) || self.whole.contains_key(&name) {
                done.insert(name.clone());
            }
            let read = move || {
                let bytes = from.read(form, form.dtype)?;
                self.changed(&name, form, bytes)
                    .map_err(|reason| HubError::Damaged {
                        path: from.path().into(),
                        reason,
                    })
            };
            let (shape, dtype) = (form.shape.clone(), form.dtype);
            tensors.push(ExportTensor::computed(disk_name.into(), shape, dtype, read));
        }
        let metadata = from.metadata().cloned().unwrap_or_else(pytorch_layout);
        write_file(to, tensors, metadata)
    }

    /// The bytes of a tensor after its change, if it has one.
    fn changed(&self, name: &str, form: &Form, bytes: Vec<u8>) -> std::result::Result<Vec<u8>, String> {
        if let Some(update) = self.updates.get(name) {
            let element = Element::of(name, form.dtype)?;
            return update.apply(self.scaling, name, element, &form.shape, &bytes);
        }
        let Some(whole) = self.whole.get(name) else {
            return Ok(bytes);
        };
        if whole.shape != form.shape {
            return Err(format!(
                "{name} is {:?}, and {:?} in the adapter",
                form.shape, whole.shape
            ));
        }
        let values = Element::F32.read(&whole.bytes);
        Ok(Element::of(name, form.dtype)?.write(&values))
    }

    fn check_all_done(&self, adapter: &Path, done: &HashSet<String>) -> Result<()> {
        let names = self.updates.keys().chain(self.whole.keys());
        let mut problems: Vec<String> = names
            .filter(|name| !done.contains(*name))
            .map(|name| format!("unused: {name}, which the base model does not have"))
            .collect();
        if problems.is_empty() {
            return Ok(());
        }
        problems.sort();
        Err(HubError::Mismatch {
            dir: adapter.into(),
            problems,
        })
    }
}

impl Update {
    /// `W + s·B·A`, row by row.
    fn apply(
        &self,
        scaling: f32,
        name: &str,
        element: Element,
        found: &[usize],
        weight: &[u8],
    ) -> std::result::Result<Vec<u8>, String> {
        let (d_out, d_in) = (self.b.len() / self.r, self.a.len() / self.r);
        if found != [d_out, d_in] {
            return Err(format!(
                "{name} is {found:?}, and the adapter is for [{d_out}, {d_in}]"
            ));
        }
        let rows = self.b.par_chunks(self.r);
        let rows = rows.zip(weight.par_chunks(d_in * element.size_bytes()));
        let merged = rows.map(|(b_row, w_row)| {
            let mut delta = vec![0.0f32; d_in];
            for (b, a_row) in b_row.iter().zip(self.a.chunks(d_in)) {
                for (delta, a) in delta.iter_mut().zip(a_row) {
                    *delta += b * a;
                }
            }
            let row = element.read(w_row).into_iter().zip(delta);
            element.write(&row.map(|(w, delta)| w + scaling * delta).collect::<Vec<f32>>())
        });
        Ok(merged.collect::<Vec<_>>().concat())
    }
}
