//! A model to a Hugging Face folder, at once or not at all.

use std::{
    borrow::Cow,
    collections::HashSet,
    ffi::OsStr,
    path::{Path, PathBuf},
};

use brazier_models::{HostDtype, VlmConfig};
use serde_json::{Value, json};

use super::{
    ExportTensor, HubError, Result,
    cache::locate,
    carry::Carried,
    config_out::{config_json, generation_json},
    layout::{ExportLayout, Layout, MultimeditronNames},
    names::{Part, to_disk},
    other_half::other_half,
    shards::{self, Written, write_weights},
    sidecar::{agree_on_image_token, read_object, write_json, write_processor, write_tokenizer},
};
use crate::{fs, image_processor::ImageProcessor};

/// Marks a folder as written by [`export`]; such a folder may be replaced by the next one.
pub(super) const MARKER: &str = "brazier.json";

/// What a folder says besides the model itself.
#[derive(Debug, Clone, PartialEq)]
pub struct ExportOptions {
    /// Which kind of folder it is to be; a language model alone has one kind.
    pub layout: ExportLayout,
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
    /// The id under which the exported tokenizer gets [`image_token`](Self::image_token), where the tokenizer that is
    /// copied lacks it.
    pub added_image_token: Option<u32>,
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
    /// Which kind of folder it is.
    pub layout: Layout,
    /// Class that loads it, as in `config.json`.
    pub architecture: &'static str,
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
/// A tied head is not stored. What LLaVA cannot say makes another kind of folder, which transformers does not know (see
/// [the module](super)).
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
    let carried = Carried::read(options)?;
    let layout = Layout::choose(config, &options.layout, carried.model_type())?;
    let outgoing = Folder {
        config,
        layout,
        names: names(layout, &options.layout, &carried),
        options,
        carried,
    };
    tensors.extend(outgoing.other_half()?);
    outgoing.check_tensors(&tensors)?;
    // Refused before anything is written.
    outgoing.config_json()?;
    let written = write_staged(dir, |partial| outgoing.write(partial, tensors, tokenizer))?;
    Ok(ExportSummary {
        dir: dir.into(),
        layout,
        architecture: layout.architecture(config),
        num_tensors: written.num_tensors,
        num_files: written.num_files,
        size_bytes: written.size_bytes,
    })
}

/// The names of the parts, where a layout needs some and they are known.
fn names(layout: Layout, wanted: &ExportLayout, carried: &Carried) -> Option<MultimeditronNames> {
    match (layout, wanted) {
        (Layout::Multimeditron, ExportLayout::Multimeditron(Some(names))) => Some(names.clone()),
        (Layout::Multimeditron, _) => carried.multimeditron_names(),
        (Layout::Decoder | Layout::Llava | Layout::Brazier, _) => None,
    }
}

/// The kind of folder that an export has if nothing else is asked for: of a model that comes from `source`, with the
/// class that loads it.
///
/// # Errors
/// If the folder's `config.json` is no JSON.
pub fn usual_layout(config: &VlmConfig, source: &Path) -> Result<Layout> {
    let map = read_object(&source.join("config.json"))?;
    let model_type = map.get("model_type").and_then(Value::as_str);
    Ok(Layout::auto(config, model_type))
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

/// A folder that is going to be written.
struct Folder<'a> {
    config: &'a VlmConfig,
    layout: Layout,
    names: Option<MultimeditronNames>,
    options: &'a ExportOptions,
    carried: Carried,
}

impl Folder<'_> {
    fn config_json(&self) -> Result<Value> {
        let ours = config_json(self.config, self.layout, self.names.as_ref(), self.options)?;
        self.carried.merged_config(self.config, ours)
    }

    fn disk_name(&self, name: &str) -> Option<String> {
        to_disk(name, self.layout, self.config).map(Cow::into_owned)
    }

    /// MultiMeditron's folders hold a whole two-tower model: the imported one's, or that of the model they name.
    fn other_half<'t>(&self) -> Result<Vec<ExportTensor<'t>>> {
        match &self.names {
            Some(_) if self.carried.multimeditron_names().is_some() => {
                other_half(self.carried.dir(), Part::Whole)
            }
            Some(names) => {
                let env = |name: &str| std::env::var(name).ok();
                other_half(&locate(Path::new(&names.clip_name), &env)?, Part::Vision)
            }
            None => Ok(Vec::new()),
        }
    }

    fn check_tensors(&self, tensors: &[ExportTensor]) -> Result<()> {
        let mut names = HashSet::new();
        for tensor in tensors {
            let refuse = |reason: &str| HubError::Inexpressible {
                what: format!("tensor {}", tensor.name()),
                reason: reason.into(),
            };
            if self.disk_name(tensor.name()).is_none() {
                return Err(refuse("Hugging Face's layout has no place for it"));
            }
            if !names.insert(tensor.name()) {
                return Err(refuse("there are two of this name"));
            }
        }
        Ok(())
    }

    /// Writes every file, the marker last.
    fn write(&self, dir: &Path, tensors: Vec<ExportTensor>, tokenizer: &Path) -> Result<Written> {
        let Self { config, options, .. } = self;
        let name_of = |name: &str| self.disk_name(name).unwrap_or_else(|| name.to_owned());
        let written = write_weights(dir, &name_of, tensors, options)?;
        write_json(&dir.join("config.json"), &self.config_json()?)?;
        let json = self.carried.merged_generation_config(generation_json(options));
        write_json(&dir.join("generation_config.json"), &json)?;
        write_tokenizer(
            dir,
            tokenizer,
            self.layout == Layout::Llava || self.layout == Layout::Brazier,
            options,
        )?;
        if let Some(vision) = &config.vision {
            write_processor(dir, vision, options)?;
            self.carried.copy_processor(dir)?;
            agree_on_image_token(dir, &options.image_token)?;
        }
        let marker = json!({
            "format": "brazier-export",
            "version": 1,
            "brazier": env!("CARGO_PKG_VERSION"),
            "architecture": self.layout.architecture(config),
            "loads_in_transformers": self.layout.loads_in_transformers(),
        });
        write_json(&dir.join(MARKER), &marker)?;
        Ok(written)
    }
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
