//! One safetensors file: what its header says, and the bytes of one tensor at a time.
//!
//! Files are read by position, not mapped. On a file in the page cache that is no slower (a gigabyte in 0.49 s against
//! 0.58 s, two cores), a page that was read does not count against this process, and a file that somebody cuts short is
//! an error and not a signal.

use std::path::{Path, PathBuf};

use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::{
    Dtype,
    tensor::{Metadata, TensorInfo},
};

use super::{HubError, Result};
use crate::fs::{self, Input};

/// Bytes before the header: its length.
const LENGTH_BYTES: u64 = 8;
/// Elements that one thread reads and converts in one go.
const CHUNK_ELEMENTS: usize = 1 << 20;

/// An open file and its header.
#[derive(Debug)]
pub(super) struct StoredFile {
    input: Input,
    metadata: Metadata,
    data_start: u64,
}

impl StoredFile {
    /// Reads and checks the header; the file must be as long as it says.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let input = Input::open(path)?;
        let size_bytes = input.size_bytes()?;
        let damaged = |reason: String| HubError::Damaged {
            path: path.into(),
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
        Ok(Self {
            input,
            metadata,
            data_start,
        })
    }

    pub(super) fn path(&self) -> &Path {
        self.input.path()
    }

    /// Name and form of each tensor, in the order of the file.
    pub(super) fn tensors(&self) -> impl Iterator<Item = (String, &TensorInfo)> {
        let names = self.metadata.offset_keys();
        names
            .into_iter()
            .filter_map(|name| self.metadata.info(&name).map(|info| (name, info)))
    }

    /// Reads a tensor and converts its elements to `dtype`.
    pub(super) fn read(&self, info: &TensorInfo, dtype: Dtype) -> Result<Vec<u8>> {
        let num_elements: usize = info.shape.iter().product();
        let mut bytes = vec![0; num_elements * size_bytes(dtype)];
        self.read_into(info, dtype, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads a tensor to a place of its size in `dtype`, and converts its elements to that.
    pub(super) fn read_into(&self, info: &TensorInfo, dtype: Dtype, bytes: &mut [u8]) -> Result<()> {
        let (from, to) = (size_bytes(info.dtype), size_bytes(dtype));
        let start = self.data_start + info.data_offsets.0 as u64;
        let read = |(index, chunk): (usize, &mut [u8])| -> fs::Result<()> {
            let offset = start + (index * CHUNK_ELEMENTS * from) as u64;
            if info.dtype == dtype {
                return self.input.read_exact_at(chunk, offset);
            }
            let mut stored = vec![0; chunk.len() / to * from];
            self.input.read_exact_at(&mut stored, offset)?;
            convert(info.dtype, &stored, dtype, chunk);
            Ok(())
        };
        let chunks = bytes.par_chunks_mut(CHUNK_ELEMENTS * to).enumerate();
        Ok(chunks.try_for_each(read)?)
    }

    /// Whether two tensors have the same form and bytes.
    pub(super) fn is_equal(&self, info: &TensorInfo, other: &Self, theirs: &TensorInfo) -> Result<bool> {
        if info.dtype != theirs.dtype || info.shape != theirs.shape {
            return Ok(false);
        }
        let (start, end) = info.data_offsets;
        let chunk_bytes = CHUNK_ELEMENTS;
        let (mut left, mut right) = (vec![0; chunk_bytes], vec![0; chunk_bytes]);
        for offset in (0..end - start).step_by(chunk_bytes) {
            let count = chunk_bytes.min(end - start - offset);
            let place =
                |file: &Self, info: &TensorInfo| file.data_start + (info.data_offsets.0 + offset) as u64;
            self.input.read_exact_at(&mut left[..count], place(self, info))?;
            other
                .input
                .read_exact_at(&mut right[..count], place(other, theirs))?;
            if left[..count] != right[..count] {
                return Ok(false);
            }
        }
        Ok(true)
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
