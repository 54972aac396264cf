//! Tensors to safetensors files of a chosen size, each tensor read when its turn comes.

use std::{borrow::Cow, cell::RefCell, collections::HashMap, path::Path, sync::Arc};

use brazier_models::{HostDtype, HostTensor, VlmConfig};
use safetensors::{Dtype, SafeTensorError, View};
use serde_json::{Map, json};

use super::{
    DtypePolicy, ExportOptions, HubError, ResizeOptions, Result, Table, Weights, names,
    sidecar::write_json,
    stored::{Form, StoredFile, convert, size_bytes},
    weights::{INDEX_FILE, SINGLE_FILE, stored_dtype},
};
use crate::fs::FsError;

/// A tensor that is going to be written: its form is known, its bytes are read when its turn comes.
pub struct ExportTensor<'a> {
    name: String,
    shape: Vec<usize>,
    dtype: Dtype,
    kept_as: Dtype,
    read: Box<dyn Fn() -> Result<Cow<'a, [u8]>> + 'a>,
}

impl<'a> ExportTensor<'a> {
    /// A tensor whose bytes `read` fetches, for instance from a device.
    pub fn fetched(
        name: String,
        shape: Vec<usize>,
        dtype: HostDtype,
        read: impl Fn() -> HostTensor + 'a,
    ) -> Self {
        let dtype = stored_dtype(dtype);
        let read = Box::new(move || Ok(Cow::Owned(read().bytes)));
        Self {
            name,
            shape,
            dtype,
            kept_as: dtype,
            read,
        }
    }

    /// A tensor whose bytes `read` computes.
    pub(super) fn computed(
        name: String,
        shape: Vec<usize>,
        dtype: Dtype,
        read: impl Fn() -> Result<Vec<u8>> + 'a,
    ) -> Self {
        Self {
            name,
            shape,
            dtype,
            kept_as: dtype,
            read: Box::new(move || read().map(Cow::Owned)),
        }
    }

    /// The values of a tensor in host memory, under another name and shape.
    pub fn borrowed(name: String, shape: Vec<usize>, tensor: &'a HostTensor) -> Self {
        let dtype = stored_dtype(tensor.dtype);
        Self {
            name,
            shape,
            dtype,
            kept_as: dtype,
            read: Box::new(|| Ok(Cow::Borrowed(&tensor.bytes))),
        }
    }

    /// A tensor of imported files, with their bytes; `None` if they have none of this name.
    pub fn stored(name: &str, weights: &'a Weights) -> Option<Self> {
        let form = weights.form(name)?;
        let owned = name.to_owned();
        let read = move || weights.read_as(&owned, form.dtype);
        Some(Self::computed(name.into(), form.shape.clone(), form.dtype, read))
    }

    /// A vocabulary table of imported files with fresh rows behind its own; `None` if they have none of this name.
    ///
    /// The fresh rows are as [`ResizeOptions::fill`] draws them with `initializer_range` and `seed`.
    pub fn resized(
        name: &str,
        weights: &'a Weights,
        rows: usize,
        resize: ResizeOptions,
        initializer_range: f64,
        seed: u64,
    ) -> Option<Self> {
        let form = weights.form(name)?;
        let &[old_rows, width] = form.shape.as_slice() else {
            return None;
        };
        let dtype = weights.dtype(name)?;
        let owned = name.to_owned();
        let read = move || {
            let mut bytes = vec![0; rows * width * dtype.size_bytes()];
            let mut table = Table {
                name: &owned,
                width,
                dtype,
                bytes: &mut bytes,
            };
            weights.read_into(&owned, dtype, table.rows_mut(0..old_rows))?;
            resize.fill(&mut table, old_rows, initializer_range, seed);
            Ok(bytes)
        };
        let table = Self::computed(name.into(), vec![rows, width], stored_dtype(dtype), read);
        Some(Self {
            kept_as: form.dtype,
            ..table
        })
    }

    /// A tensor of a file, under a name of the model's.
    pub(super) fn of_file(name: String, file: Arc<StoredFile>, form: Form) -> Self {
        let (shape, dtype) = (form.shape.clone(), form.dtype);
        Self::computed(name, shape, dtype, move || file.read(&form, dtype))
    }

    /// The element type it is written in where each tensor keeps its own: that of the tensor it is a new value of.
    pub fn kept_as(self, dtype: HostDtype) -> Self {
        Self {
            kept_as: stored_dtype(dtype),
            ..self
        }
    }

    /// Extent of each axis.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Its name in the model.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn num_elements(&self) -> usize {
        self.shape.iter().product()
    }
}

impl From<HostTensor> for ExportTensor<'_> {
    fn from(tensor: HostTensor) -> Self {
        let dtype = stored_dtype(tensor.dtype);
        Self {
            name: tensor.name,
            shape: tensor.shape,
            dtype,
            kept_as: dtype,
            read: Box::new(move || Ok(Cow::Owned(tensor.bytes.clone()))),
        }
    }
}

/// Scalars that transformers expects beside the weights, in the element type of one of these.
pub(super) fn constants<'a>(config: &VlmConfig, like: Option<&ExportTensor>) -> Vec<ExportTensor<'a>> {
    let tensors = names::constants(&config.text).into_iter();
    let tensors = tensors.map(|tensor| {
        let tensor = ExportTensor::from(tensor);
        ExportTensor {
            kept_as: like.map_or(tensor.kept_as, |like| like.kept_as),
            ..tensor
        }
    });
    tensors.collect()
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) num_tensors: usize,
    pub(super) num_files: usize,
    pub(super) size_bytes: u64,
}

/// Writes one file, or shards and their index. `name_of` gives the name on disk for the model's.
pub(super) fn write_weights(
    dir: &Path,
    name_of: &dyn Fn(&str) -> String,
    tensors: Vec<ExportTensor>,
    options: &ExportOptions,
) -> Result<Written> {
    let num_tensors = tensors.len();
    let mut shards: Vec<Vec<Outgoing>> = Vec::new();
    let (mut size_bytes, mut shard_bytes, mut num_parameters) = (0, 0, 0);
    let problem = RefCell::new(None);
    for tensor in tensors {
        let outgoing = Outgoing::new(tensor, options, &problem);
        let num_bytes = outgoing.data_len();
        size_bytes += num_bytes as u64;
        num_parameters += outgoing.tensor.num_elements();
        match shards.last_mut() {
            Some(shard) if shard_bytes + num_bytes <= options.max_shard_bytes => {
                shard_bytes += num_bytes;
                shard.push(outgoing);
            }
            _ => {
                shard_bytes = num_bytes;
                shards.push(vec![outgoing]);
            }
        }
    }
    let num_files = shards.len();
    let mut weight_map = Map::new();
    for (index, shard) in shards.into_iter().enumerate() {
        let name = match num_files {
            1 => SINGLE_FILE.to_string(),
            _ => format!("model-{:05}-of-{num_files:05}.safetensors", index + 1),
        };
        let shard: Vec<(String, Outgoing)> = shard
            .into_iter()
            .map(|outgoing| (name_of(outgoing.tensor.name()), outgoing))
            .collect();
        for (disk_name, _) in &shard {
            weight_map.insert(disk_name.clone(), name.as_str().into());
        }
        write_shard(&dir.join(name), shard, pytorch_layout(), &problem)?;
    }
    if num_files > 1 {
        weight_map.sort_keys();
        let metadata = json!({"total_size": size_bytes, "total_parameters": num_parameters});
        write_json(
            &dir.join(INDEX_FILE),
            &json!({"metadata": metadata, "weight_map": weight_map}),
        )?;
    }
    Ok(Written {
        num_tensors,
        num_files,
        size_bytes,
    })
}

/// transformers refuses files that do not say which framework's layout they follow.
pub(super) fn pytorch_layout() -> HashMap<String, String> {
    HashMap::from([("format".to_string(), "pt".to_string())])
}

/// Writes one file: each tensor under its name, in its own element type.
pub(super) fn write_file(
    path: &Path,
    tensors: Vec<ExportTensor>,
    metadata: HashMap<String, String>,
) -> Result<()> {
    let problem = RefCell::new(None);
    let outgoing = tensors.into_iter().map(|tensor| {
        let outgoing = Outgoing {
            dtype: tensor.dtype,
            tensor,
            problem: &problem,
        };
        (outgoing.tensor.name.clone(), outgoing)
    });
    write_shard(path, outgoing.collect(), metadata, &problem)
}

fn write_shard(
    path: &Path,
    shard: Vec<(String, Outgoing)>,
    metadata: HashMap<String, String>,
    problem: &RefCell<Option<HubError>>,
) -> Result<()> {
    let written = safetensors::serialize_to_file(shard, Some(metadata), path);
    // What could not be read went into the file as zeros; the file goes with the folder.
    if let Some(error) = problem.take() {
        return Err(error);
    }
    written.map_err(|error| write_error(path, error))
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

/// A tensor in the form in which it is written. safetensors asks for the bytes of one after the other.
struct Outgoing<'a, 'p> {
    tensor: ExportTensor<'a>,
    dtype: Dtype,
    /// The first error of reading: `View` has no room for one.
    problem: &'p RefCell<Option<HubError>>,
}

impl<'a, 'p> Outgoing<'a, 'p> {
    fn new(
        tensor: ExportTensor<'a>,
        options: &ExportOptions,
        problem: &'p RefCell<Option<HubError>>,
    ) -> Self {
        let dtype = match options.dtype_policy {
            DtypePolicy::Cast => stored_dtype(options.dtype),
            DtypePolicy::Keep => tensor.kept_as,
        };
        Self {
            tensor,
            dtype,
            problem,
        }
    }

    fn bytes(&self) -> Result<Cow<'a, [u8]>> {
        let bytes = (self.tensor.read)()?;
        let expected = self.tensor.num_elements() * size_bytes(self.tensor.dtype);
        if bytes.len() != expected {
            return Err(HubError::Inexpressible {
                what: format!("tensor {}", self.tensor.name),
                reason: format!("{} bytes, expected {expected}", bytes.len()),
            });
        }
        if self.dtype == self.tensor.dtype {
            return Ok(bytes);
        }
        let mut converted = vec![0; self.data_len()];
        convert(self.tensor.dtype, &bytes, self.dtype, &mut converted);
        Ok(Cow::Owned(converted))
    }
}

impl View for Outgoing<'_, '_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.tensor.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        if self.problem.borrow().is_some() {
            return Cow::Owned(vec![0; self.data_len()]);
        }
        self.bytes().unwrap_or_else(|error| {
            self.problem.replace(Some(error));
            Cow::Owned(vec![0; self.data_len()])
        })
    }

    fn data_len(&self) -> usize {
        self.tensor.num_elements() * size_bytes(self.dtype)
    }
}
