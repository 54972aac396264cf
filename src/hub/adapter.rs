//! Adapters as PEFT stores them: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Keys are `base_model.model.`, the layer's path in transformers' model, and `.lora_A.weight` or `.lora_B.weight`. What was
//! trained in full beside the adapters (`modules_to_save`) is stored under its own path.

mod config;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
};

use brazier_models::{
    HostDtype, HostTensor, LoraConfig, LoraParts, LoraTargets, VlmConfig,
    lora::{LinearShape, is_adapter, linears},
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::json;

use self::config::{config_json, parse_config};
use super::{
    HubError, Result,
    elements::read_f32,
    export::{MARKER, write_staged},
    names::from_disk,
    section::Problems,
    shards::write_error,
    sidecar::write_json,
};
use crate::fs;

const CONFIG_FILE: &str = "adapter_config.json";
const WEIGHTS_FILE: &str = "adapter_model.safetensors";
const MAX_CONFIG_BYTES: u64 = 16 << 20;
/// What PEFT puts before every path.
const PREFIX: &str = "base_model.model.";
/// Modules that may be stored in full, as they begin in our names and as PEFT names them.
const SAVED_MODULES: [(&str, &str); 2] = [
    ("multi_modal_projector.", "multi_modal_projector"),
    ("language_model.score.", "score"),
];

/// Adapters, and what was trained in full beside them.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    /// Which layers, and how.
    pub config: LoraConfig,
    /// The model they belong to, as it was named when they were trained: a folder or a name on the hub.
    pub base: Option<String>,
    /// Under the model's names; f32 if they were read.
    pub tensors: Vec<HostTensor>,
}

/// Reads the adapters of a model.
///
/// # Errors
/// If files are missing or damaged; with every key that asks for what is not built in; with every tensor that is not
/// part of an adapter of this model.
pub fn read_adapter(dir: &Path, model: &VlmConfig) -> Result<Adapter> {
    let path = dir.join(CONFIG_FILE);
    let bytes = fs::read_at_most(&path, MAX_CONFIG_BYTES)?;
    let map: serde_json::Map<_, _> = serde_json::from_slice(&bytes).map_err(|error| HubError::Json {
        path: path.clone(),
        reason: error.to_string(),
    })?;
    let problems = Problems::default();
    let numbers = parse_config(&map, &problems);
    let problems = problems.into_inner();
    if !problems.is_empty() {
        return Err(HubError::Adapter { path, problems });
    }
    let tensors = read_tensors(dir, model)?;
    let layers = check_tensors(&tensors, numbers.r, model).map_err(|problems| HubError::Mismatch {
        dir: dir.into(),
        problems,
    })?;
    let has = |prefix: &str| layers.iter().any(|layer| layer.starts_with(prefix));
    let parts = match (has("language_model."), has("vision_tower.")) {
        (true, true) => LoraParts::Both,
        (false, true) => LoraParts::Vision,
        (_, false) => LoraParts::Language,
    };
    Ok(Adapter {
        config: LoraConfig {
            r: numbers.r,
            lora_alpha: numbers.lora_alpha,
            lora_dropout: numbers.lora_dropout,
            use_rslora: numbers.use_rslora,
            target_modules: LoraTargets::Named(layers.into_iter().collect()),
            parts,
        },
        base: numbers.base,
        tensors,
    })
}

fn read_tensors(dir: &Path, model: &VlmConfig) -> Result<Vec<HostTensor>> {
    let path = dir.join(WEIGHTS_FILE);
    if !path.is_file() {
        return Err(HubError::NoWeights {
            dir: dir.into(),
            reason: format!(
                "no {WEIGHTS_FILE}\n  hint: save the adapter in PEFT with save_pretrained, which writes it"
            ),
        });
    }
    let map = fs::mmap(&path)?;
    let damaged = |reason: String| HubError::Damaged {
        path: path.clone(),
        reason,
    };
    let stored = SafeTensors::deserialize(&map).map_err(|error| damaged(error.to_string()))?;
    let mut tensors = Vec::new();
    let mut problems = Vec::new();
    for (key, view) in stored.tensors() {
        let name = key
            .strip_prefix(PREFIX)
            .and_then(|name| from_disk(name, model.vision.is_some()));
        match name.filter(|name| is_adapter(name) || saved_module(name).is_some()) {
            Some(name) => tensors.push(read_f32(&name, &view).map_err(damaged)?),
            None => problems.push(format!("unused: {key} {:?}", view.shape())),
        }
    }
    if problems.is_empty() {
        // Whatever the order of the file, ours is that of the names.
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        return Ok(tensors);
    }
    problems.sort();
    Err(HubError::Mismatch {
        dir: dir.into(),
        problems,
    })
}

fn saved_module(name: &str) -> Option<&'static str> {
    let mut modules = SAVED_MODULES.iter();
    modules.find_map(|(prefix, module)| name.starts_with(prefix).then_some(*module))
}

/// The layer an adapter's tensor belongs to.
pub(super) fn layer_of(name: &str) -> Option<&str> {
    let ends = [".lora_A.weight", ".lora_B.weight"];
    ends.iter().find_map(|end| name.strip_suffix(end))
}

/// Each adapter is whole, of rank `r`, and on a layer of the model. Gives the layers.
fn check_tensors(
    tensors: &[HostTensor],
    r: usize,
    model: &VlmConfig,
) -> std::result::Result<BTreeSet<String>, Vec<String>> {
    let shapes: HashMap<&str, &[usize]> = tensors
        .iter()
        .map(|tensor| (tensor.name.as_str(), tensor.shape.as_slice()))
        .collect();
    let known: BTreeMap<String, LinearShape> = linears(model)
        .into_iter()
        .map(|linear| (linear.path.clone(), linear))
        .collect();
    let layers: BTreeSet<String> = shapes
        .keys()
        .filter_map(|name| layer_of(name))
        .map(str::to_owned)
        .collect();
    let mut problems = Vec::new();
    for layer in &layers {
        let Some(LinearShape { d_in, d_out, .. }) = known.get(layer) else {
            problems.push(format!("unused: {layer}, a layer that the model does not have"));
            continue;
        };
        for (matrix, expected) in [("lora_A", [r, *d_in]), ("lora_B", [*d_out, r])] {
            let name = format!("{layer}.{matrix}.weight");
            match shapes.get(name.as_str()) {
                None => problems.push(format!("missing: {name} {expected:?}")),
                Some(shape) if **shape != expected => {
                    problems.push(format!("misshapen: {name} {shape:?}, expected {expected:?}"));
                }
                Some(_) => {}
            }
        }
    }
    if layers.is_empty() {
        problems.push("missing: every adapter; there is no tensor of one".to_owned());
    }
    if problems.is_empty() {
        Ok(layers)
    } else {
        Err(problems)
    }
}

/// Writes adapters beside `dir` and renames them to it; an earlier export there is replaced. PEFT loads the folder where
/// transformers knows the base model.
///
/// # Errors
/// A target that holds something else, and what the file system says. The target is then as it was.
pub fn write_adapter(dir: &Path, model: &VlmConfig, adapter: &Adapter) -> Result<()> {
    write_staged(dir, |dir| {
        let saved: BTreeSet<&str> = adapter
            .tensors
            .iter()
            .filter_map(|tensor| saved_module(&tensor.name))
            .collect();
        write_json(&dir.join(CONFIG_FILE), &config_json(model, adapter, &saved))?;
        let path = dir.join(WEIGHTS_FILE);
        let mut views = Vec::with_capacity(adapter.tensors.len());
        for tensor in &adapter.tensors {
            let dtype = match tensor.dtype {
                HostDtype::F32 => Dtype::F32,
                HostDtype::Bf16 => Dtype::BF16,
            };
            let view = TensorView::new(dtype, tensor.shape.clone(), &tensor.bytes);
            let view = view.map_err(|error| write_error(&path, error))?;
            let name = format!(
                "{PREFIX}{}",
                transformers_path(&tensor.name, model.vision.is_some())
            );
            views.push((name, view));
        }
        let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
        safetensors::serialize_to_file(views, Some(metadata), &path)
            .map_err(|error| write_error(&path, error))?;
        let marker = json!({
            "format": "brazier-adapter",
            "version": 1,
            "brazier": env!("CARGO_PKG_VERSION"),
        });
        write_json(&dir.join(MARKER), &marker)
    })
}

/// Path of a parameter or layer in transformers' model, which is not always that in its files.
fn transformers_path(name: &str, has_vision: bool) -> String {
    let renamed = |from: &str, to: &str| Some(format!("{to}{}", name.strip_prefix(from)?));
    let path = if has_vision {
        renamed("language_model.model.", "model.language_model.")
            .or_else(|| renamed("vision_tower.vision_model.", "model.vision_tower."))
            .or_else(|| renamed("multi_modal_projector.", "model.multi_modal_projector."))
    } else {
        renamed("language_model.", "")
    };
    path.unwrap_or_else(|| name.to_owned())
}
