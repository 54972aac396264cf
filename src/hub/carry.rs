//! What an imported folder says beyond the model, carried over to an export.

use std::path::{Path, PathBuf};

use brazier_models::VlmConfig;
use serde_json::{Map, Value};

use super::{
    DtypePolicy, ExportOptions, HubError, Result,
    config_in::{MODALITIES, multimeditron_names, read_map},
    image_processor::{PREPROCESSOR, PROCESSOR},
    layout::{MULTIMODAL, MultimeditronNames},
    sidecar::read_object,
};
use crate::fs;

/// Keys that would mislead: Python files that do not come along, and the place from which somebody loaded the model.
const LEFT_BEHIND: [&str; 2] = ["auto_map", "_name_or_path"];
/// Keys of which one says what the others would. Where the export has one, those of the import are out of date.
const ALIASES: [&[&str]; 3] = [
    &["image_token_index", "image_token_id"],
    &["rope_theta", "rope_scaling", "rope_parameters"],
    &["dtype", "torch_dtype"],
];
/// Objects that are merged key by key.
const NESTED: [&str; 2] = ["text_config", "vision_config"];
/// Keys that say in which element type the tensors are.
const DTYPE_KEYS: [&str; 2] = ["dtype", "torch_dtype"];
const PROCESSOR_FILES: [&str; 2] = [PREPROCESSOR, PROCESSOR];

/// Tokens that begin and end texts, as a folder's `generation_config.json` or else its `config.json` names them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenIds {
    /// First token of a text.
    pub bos: Option<u32>,
    /// Tokens that end an answer.
    pub eos: Vec<u32>,
    /// Filler of short rows.
    pub pad: Option<u32>,
}

/// Reads the token ids of a model folder; what it does not name is left out.
///
/// # Errors
/// If a file is no JSON.
pub fn token_ids(dir: &Path) -> Result<TokenIds> {
    let generation = read_object(&dir.join("generation_config.json"))?;
    let config = read_object(&dir.join("config.json"))?;
    let text = config.get("text_config").and_then(Value::as_object);
    let find_key = |key: &str| {
        let places = [Some(&generation), Some(&config), text];
        places
            .into_iter()
            .flatten()
            .find_map(|map| map.get(key).filter(|value| !value.is_null()))
            .cloned()
    };
    // MultiMeditron has words of its own.
    let find = |kind: &str| find_key(&format!("{kind}_id")).or_else(|| find_key(&format!("{kind}_idx")));
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    Ok(TokenIds {
        bos: find("bos_token").as_ref().and_then(id),
        eos: match find("eos_token") {
            Some(Value::Array(ids)) => ids.iter().filter_map(id).collect(),
            one => one.as_ref().and_then(id).into_iter().collect(),
        },
        pad: find("pad_token").as_ref().and_then(id),
    })
}

/// The files of the imported folder; empty without one.
#[derive(Debug, Default)]
pub(super) struct Carried {
    dir: PathBuf,
    config: Map<String, Value>,
    generation: Map<String, Value>,
    processor: Vec<PathBuf>,
    keeps_dtype: bool,
}

impl Carried {
    pub(super) fn read(options: &ExportOptions) -> Result<Self> {
        let Some(dir) = &options.source else {
            return Ok(Self::default());
        };
        let files = PROCESSOR_FILES.map(|name| dir.join(name));
        Ok(Self {
            dir: dir.clone(),
            config: read_object(&dir.join("config.json"))?,
            generation: read_object(&dir.join("generation_config.json"))?,
            processor: files.into_iter().filter(|file| file.is_file()).collect(),
            keeps_dtype: options.dtype_policy == DtypePolicy::Keep,
        })
    }

    /// What kind of model the imported folder has.
    pub(super) fn model_type(&self) -> Option<&str> {
        self.config.get("model_type").and_then(Value::as_str)
    }

    /// The parts that the imported folder names, if it is one of MultiMeditron's.
    pub(super) fn multimeditron_names(&self) -> Option<MultimeditronNames> {
        let is_theirs = self.model_type() == Some(MULTIMODAL);
        is_theirs.then(|| multimeditron_names(&self.config)).flatten()
    }

    /// The imported folder.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Our `config.json` with what else the imported one said, if that was one of the same model type.
    ///
    /// # Errors
    /// If the result would be read back as another model: that is a mistake of this program, or in MultiMeditron's layout the
    /// parts that it names are others.
    pub(super) fn merged_config(&self, config: &VlmConfig, mut ours: Value) -> Result<Value> {
        if let Some(map) = ours.as_object_mut() {
            if map.get("model_type") == self.config.get("model_type") {
                if let Some((key, list)) = self.modalities() {
                    // What a version of MultiMeditron wrote in its own way means what it meant, and the range is not that
                    // of the language model.
                    map.remove(MODALITIES[0]);
                    map.remove("initializer_range");
                    map.insert(key.into(), list.clone());
                }
                merge(map, &self.config);
                for key in DTYPE_KEYS {
                    if let Some(theirs) = self.config.get(key).filter(|_| self.keeps_dtype) {
                        map.insert(key.into(), theirs.clone());
                    }
                }
            }
            let read = read_map(map, &self.dir.join("config.json"))?;
            if read != *config {
                return Err(HubError::Inexpressible {
                    what: "config.json".into(),
                    reason: format!("it would be read back as {read:?}, and the model is {config:?}"),
                });
            }
        }
        Ok(ours)
    }

    fn modalities(&self) -> Option<(&'static str, &Value)> {
        let find = |key| Some((key, self.config.get(key)?));
        let is_theirs = self.model_type() == Some(MULTIMODAL);
        MODALITIES.into_iter().find_map(find).filter(|_| is_theirs)
    }

    /// The imported `generation_config.json` with our token ids where we have any.
    pub(super) fn merged_generation_config(&self, ours: Value) -> Value {
        let mut map = self.generation.clone();
        for (key, value) in ours.as_object().into_iter().flatten() {
            if !value.is_null() || !map.contains_key(key) {
                map.insert(key.clone(), value.clone());
            }
        }
        Value::Object(map)
    }

    /// Puts the imported image processor in place of ours.
    pub(super) fn copy_processor(&self, dir: &Path) -> Result<()> {
        for file in &self.processor {
            fs::copy(file, &dir.join(file.file_name().unwrap_or_default()))?;
        }
        Ok(())
    }
}

fn merge(ours: &mut Map<String, Value>, theirs: &Map<String, Value>) {
    for (key, value) in theirs {
        if NESTED.contains(&key.as_str()) {
            if let (Some(Value::Object(ours)), Value::Object(theirs)) = (ours.get_mut(key), value) {
                merge(ours, theirs);
            }
            continue;
        }
        let aliases = ALIASES.iter().find(|group| group.contains(&key.as_str()));
        let is_said = match aliases {
            Some(group) => group.iter().any(|alias| ours.contains_key(*alias)),
            None => ours.contains_key(key),
        };
        if !is_said && !LEFT_BEHIND.contains(&key.as_str()) {
            ours.insert(key.clone(), value.clone());
        }
    }
}
