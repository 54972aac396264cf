//! One file with weights, safetensors or pickled by PyTorch: what it says of its tensors, and the bytes of one at a time.
//!
//! Safetensors files are read by position, not mapped. On a file in the page cache that is no slower (a gigabyte in 0.49 s
//! against 0.58 s, two cores), a page that was read does not count against this process, and a file that somebody cuts
//! short is an error and not a signal.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use half::{bf16, f16};
use pytorch_reader::{DType, PytorchError, PytorchReader, Tensor};
use rayon::prelude::*;
use safetensors::{Dtype, tensor::Metadata};

use super::{HubError, Result};
use crate::fs::{self, FsError, Input};

/// Bytes before the header of a safetensors file: its length.
const LENGTH_BYTES: u64 = 8;
/// Elements that one thread reads and converts in one go.
const CHUNK_ELEMENTS: usize = 1 << 20;

/// An open file and what it says of its tensors.
#[derive(Debug)]
pub(super) struct StoredFile {
    input: Input,
    metadata: Option<HashMap<String, String>>,
    forms: Vec<(String, Form)>,
}

/// One stored tensor, not yet read.
#[derive(Debug, Clone)]
pub(super) struct Form {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    place: Place,
}

/// Where the bytes of a tensor are.
#[derive(Debug, Clone)]
enum Place {
    /// At this byte of a safetensors file.
    Offset(u64),
    /// Where the reader of pickles knows.
    Pickled(Tensor),
}

impl Form {
    /// Bytes of the tensor in its file.
    pub(super) fn size_bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * size_bytes(self.dtype)
    }
}

impl StoredFile {
    /// Reads what a file says of its tensors, and checks that it holds them: a `.bin` is a pickle of PyTorch's, every other
    /// a safetensors file.
    ///
    /// # Errors
    /// If it cannot be read, is damaged, or is pickled and holds more than tensors.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let input = Input::open(path)?;
        let (metadata, forms) = match path.extension() {
            Some(ending) if ending == "bin" => (None, pickled_forms(path)?),
            _ => {
                let header = read_header(&input)?;
                (header.metadata.metadata().clone(), header.forms())
            }
        };
        Ok(Self {
            input,
            metadata,
            forms,
        })
    }

    pub(super) fn path(&self) -> &Path {
        self.input.path()
    }

    /// What a safetensors file says of itself.
    pub(super) fn metadata(&self) -> Option<&HashMap<String, String>> {
        self.metadata.as_ref()
    }

    /// Name and form of each tensor, in the order of the file.
    pub(super) fn tensors(&self) -> impl Iterator<Item = (&str, &Form)> {
        self.forms.iter().map(|(name, form)| (name.as_str(), form))
    }

    /// Reads a tensor and converts its elements to `dtype`.
    pub(super) fn read(&self, form: &Form, dtype: Dtype) -> Result<Vec<u8>> {
        let num_elements: usize = form.shape.iter().product();
        let mut bytes = vec![0; num_elements * size_bytes(dtype)];
        self.read_into(form, dtype, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads a tensor to a place of its size in `dtype`, and converts its elements to that.
    pub(super) fn read_into(&self, form: &Form, dtype: Dtype, bytes: &mut [u8]) -> Result<()> {
        let (from, to) = (size_bytes(form.dtype), size_bytes(dtype));
        let chunks = bytes.par_chunks_mut(CHUNK_ELEMENTS * to).enumerate();
        match &form.place {
            Place::Offset(start) => {
                let read = |(index, chunk): (usize, &mut [u8])| -> fs::Result<()> {
                    let offset = start + (index * CHUNK_ELEMENTS * from) as u64;
                    if form.dtype == dtype {
                        return self.input.read_exact_at(chunk, offset);
                    }
                    let mut stored = vec![0; chunk.len() / to * from];
                    self.input.read_exact_at(&mut stored, offset)?;
                    convert(form.dtype, &stored, dtype, chunk);
                    Ok(())
                };
                Ok(chunks.try_for_each(read)?)
            }
            Place::Pickled(tensor) => {
                let stored = tensor
                    .read()
                    .map_err(|error| unreadable(self.path(), error.into()))?;
                chunks.for_each(|(index, chunk)| {
                    let start = index * CHUNK_ELEMENTS * from;
                    convert(
                        form.dtype,
                        &stored[start..][..chunk.len() / to * from],
                        dtype,
                        chunk,
                    );
                });
                Ok(())
            }
        }
    }

    /// Whether two tensors have the same form and bytes.
    pub(super) fn is_equal(&self, form: &Form, other: &Self, theirs: &Form) -> Result<bool> {
        if form.dtype != theirs.dtype || form.shape != theirs.shape {
            return Ok(false);
        }
        let (Place::Offset(left), Place::Offset(right)) = (&form.place, &theirs.place) else {
            return Ok(self.read(form, form.dtype)? == other.read(theirs, theirs.dtype)?);
        };
        // An embedding table is large: a piece at a time.
        let (mut ours, mut others) = (vec![0; CHUNK_ELEMENTS], vec![0; CHUNK_ELEMENTS]);
        for offset in (0..form.size_bytes()).step_by(CHUNK_ELEMENTS) {
            let count = CHUNK_ELEMENTS.min(form.size_bytes() - offset);
            self.input
                .read_exact_at(&mut ours[..count], left + offset as u64)?;
            other
                .input
                .read_exact_at(&mut others[..count], right + offset as u64)?;
            if ours[..count] != others[..count] {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Header of a safetensors file.
struct Header {
    metadata: Metadata,
    data_start: u64,
}

/// Reads and checks the header; the file must be as long as it says.
fn read_header(input: &Input) -> Result<Header> {
    let size_bytes = input.size_bytes()?;
    let damaged = |reason: String| HubError::Damaged {
        path: input.path().into(),
        reason: format!(
            "{size_bytes} bytes, not a complete safetensors file: {reason}\n  hint: is the download complete?"
        ),
    };
    let mut length = [0; LENGTH_BYTES as usize];
    if size_bytes < LENGTH_BYTES {
        return Err(damaged("no room for a header".into()));
    }
    input.read_exact_at(&mut length, 0)?;
    let length = u64::from_le_bytes(length);
    // A garbled length must not ask for more memory than the file has bytes.
    if length > size_bytes - LENGTH_BYTES {
        return Err(damaged(format!("a header of {length} bytes is announced")));
    }
    let mut json = vec![0; length as usize];
    input.read_exact_at(&mut json, LENGTH_BYTES)?;
    let metadata: Metadata = serde_json::from_slice(&json).map_err(|error| damaged(error.to_string()))?;
    let data_start = LENGTH_BYTES + length;
    let expected = data_start.saturating_add(metadata.data_len() as u64);
    if expected != size_bytes {
        return Err(damaged(format!("the header asks for {expected}")));
    }
    Ok(Header { metadata, data_start })
}

impl Header {
    fn forms(&self) -> Vec<(String, Form)> {
        let form = |name: String| {
            let info = self.metadata.info(&name)?;
            let form = Form {
                dtype: info.dtype,
                shape: info.shape.clone(),
                place: Place::Offset(self.data_start + info.data_offsets.0 as u64),
            };
            Some((name, form))
        };
        self.metadata.offset_keys().into_iter().filter_map(form).collect()
    }
}

/// Tensors of a file that `torch.save` wrote. Nothing in it is executed: the reader knows the few constructors that
/// tensors need, and refuses every other.
fn pickled_forms(path: &Path) -> Result<Vec<(String, Form)>> {
    let reader = PytorchReader::new(path).map_err(|error| unreadable(path, error))?;
    let mut forms: Vec<(String, Form)> = reader
        .into_tensors()
        .into_iter()
        .map(|(name, tensor)| {
            let form = Form {
                dtype: pickled_dtype(tensor.dtype()),
                shape: tensor.shape().to_vec(),
                place: Place::Pickled(tensor),
            };
            (name, form)
        })
        .collect();
    forms.sort_by(|(left, _), (right, _)| left.cmp(right));
    Ok(forms)
}

fn pickled_dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::I16 => Dtype::I16,
        DType::I8 => Dtype::I8,
        DType::U64 => Dtype::U64,
        DType::U32 => Dtype::U32,
        DType::U16 => Dtype::U16,
        DType::U8 => Dtype::U8,
        DType::Bool => Dtype::BOOL,
    }
}

/// What the reader of pickles says: the system's errors as such, all else is the file's fault.
fn unreadable(path: &Path, error: PytorchError) -> HubError {
    use std::io::ErrorKind::{InvalidData, UnexpectedEof};
    match error {
        PytorchError::Io(source) if !matches!(source.kind(), InvalidData | UnexpectedEof) => {
            HubError::Fs(FsError {
                operation: "read",
                path: path.into(),
                source,
            })
        }
        error => HubError::Damaged {
            path: path.into(),
            reason: format!(
                "not a complete PyTorch file of tensors: {error}\n  hint: is the download complete? Otherwise load the \
                 model in transformers and call save_pretrained, which writes safetensors"
            ),
        },
    }
}

/// Whether elements of this type can be a model's weights.
pub(super) fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F32 | Dtype::BF16 | Dtype::F16)
}

/// Bytes of one element.
pub(super) fn size_bytes(dtype: Dtype) -> usize {
    dtype.bitsize() / 8
}

/// Converts elements; to a narrower type they are rounded to nearest, ties to even.
///
/// Both types are [`is_float`], and `to_bytes` has room for as many elements as `from_bytes` has.
pub(super) fn convert(from: Dtype, from_bytes: &[u8], to: Dtype, to_bytes: &mut [u8]) {
    let widen = |bytes: [u8; 2]| match from {
        Dtype::BF16 => bf16::from_le_bytes(bytes).to_f32(),
        _ => f16::from_le_bytes(bytes).to_f32(),
    };
    let narrow = |float: f32| match to {
        Dtype::BF16 => bf16::from_f32(float).to_le_bytes(),
        _ => f16::from_f32(float).to_le_bytes(),
    };
    match (from, to) {
        _ if from == to => to_bytes.copy_from_slice(from_bytes),
        (Dtype::F32, _) => each(from_bytes, to_bytes, |bytes| narrow(f32::from_le_bytes(bytes))),
        (_, Dtype::F32) => each(from_bytes, to_bytes, |bytes| widen(bytes).to_le_bytes()),
        _ => each(from_bytes, to_bytes, |bytes| narrow(widen(bytes))),
    }
}

/// Elements of `FROM` bytes, wherever they lie in memory, to elements of `TO` bytes.
fn each<const FROM: usize, const TO: usize>(
    from: &[u8],
    to: &mut [u8],
    element: impl Fn([u8; FROM]) -> [u8; TO],
) {
    let (from, _) = from.as_chunks::<FROM>();
    let (to, _) = to.as_chunks_mut::<TO>();
    for (from, to) in from.iter().zip(to) {
        *to = element(*from);
    }
}

/// Paths of files, for messages.
pub(super) fn file_name(path: &Path) -> &str {
    path.file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default()
}

/// An error about one tensor of a file.
pub(super) fn wrong_dtype(path: PathBuf, name: &str, dtype: Dtype) -> HubError {
    HubError::Damaged {
        path,
        reason: not_a_float(name, dtype),
    }
}

/// What is wrong with a tensor that is not [`is_float`].
pub(super) fn not_a_float(name: &str, dtype: Dtype) -> String {
    format!("tensor {name} is {dtype}, expected F32, BF16 or F16")
}
