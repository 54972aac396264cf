//! Tensors to and from safetensors files, hashed on the way, without a second copy of the bytes.

use std::{cmp::Reverse, collections::HashSet, io::Read, path::Path};

use brazier_models::{HostDtype, HostTensor};
use safetensors::{
    Dtype,
    tensor::{Metadata, TensorInfo},
};
use sha2::{Digest, Sha256};

use super::{CheckpointError, FileEntry, Result, TensorSpec, disk::Disk};
use crate::fs::{self, Output};

/// Bytes that are hashed and written in one go.
const CHUNK_BYTES: usize = 8 << 20;
/// Bytes before the header: its length.
const LENGTH_BYTES: usize = 8;

/// Writes tensors into files of about `max_file_bytes`, each synced. Names begin with `stem`.
pub(super) fn write_tensors(
    disk: &dyn Disk,
    dir: &Path,
    stem: &str,
    tensors: &[HostTensor],
    max_file_bytes: usize,
) -> Result<Vec<FileEntry>> {
    check_tensors(tensors)?;
    let mut entries = Vec::new();
    let mut rest = tensors;
    while !rest.is_empty() {
        let mut num_bytes = rest[0].bytes.len();
        let mut count = 1;
        while count < rest.len() && num_bytes + rest[count].bytes.len() <= max_file_bytes {
            num_bytes += rest[count].bytes.len();
            count += 1;
        }
        let (file, after) = rest.split_at(count);
        let name = format!("{stem}-{:05}.safetensors", entries.len() + 1);
        entries.push(write_file(disk, dir, name, file)?);
        rest = after;
    }
    Ok(entries)
}

fn check_tensors(tensors: &[HostTensor]) -> Result<()> {
    let refuse = |tensor: &HostTensor, reason: String| CheckpointError::Tensor {
        name: tensor.name.clone(),
        reason,
    };
    let mut names = HashSet::new();
    for tensor in tensors {
        let expected = tensor.num_elements() * tensor.dtype.size_bytes();
        if tensor.bytes.len() != expected {
            let reason = format!(
                "{} bytes, expected {expected} for {:?} {:?}",
                tensor.bytes.len(),
                tensor.shape,
                tensor.dtype
            );
            return Err(refuse(tensor, reason));
        }
        if !names.insert(tensor.name.as_str()) {
            return Err(refuse(tensor, "two tensors of this name".into()));
        }
    }
    Ok(())
}

fn write_file(disk: &dyn Disk, dir: &Path, name: String, tensors: &[HostTensor]) -> Result<FileEntry> {
    // Wide elements first, so that each tensor lies at a multiple of its element size.
    let mut order: Vec<&HostTensor> = tensors.iter().collect();
    order.sort_by_key(|tensor| Reverse(tensor.dtype.size_bytes()));
    let mut file = HashedFile {
        disk,
        output: disk.create(&dir.join(&name))?,
        hasher: Sha256::new(),
        size_bytes: 0,
    };
    file.write(&header(&order)?)?;
    for tensor in &order {
        file.write(&tensor.bytes)?;
    }
    disk.sync(&file.output)?;
    let sha256 = format!("{:x}", file.hasher.finalize());
    Ok(FileEntry {
        name,
        size_bytes: file.size_bytes,
        sha256,
        num_tensors: tensors.len(),
    })
}

/// Length and JSON header of a safetensors file: <https://huggingface.co/docs/safetensors/index#format>.
fn header(tensors: &[&HostTensor]) -> Result<Vec<u8>> {
    let mut offset = 0;
    let mut infos = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let end = offset + tensor.bytes.len();
        let dtype = match tensor.dtype {
            HostDtype::F32 => Dtype::F32,
            HostDtype::Bf16 => Dtype::BF16,
        };
        let info = TensorInfo {
            dtype,
            shape: tensor.shape.clone(),
            data_offsets: (offset, end),
        };
        infos.push((tensor.name.clone(), info));
        offset = end;
    }
    let refuse = |reason: String| CheckpointError::Tensor {
        name: "header".into(),
        reason,
    };
    let metadata = Metadata::new(None, infos).map_err(|error| refuse(error.to_string()))?;
    let mut json = serde_json::to_vec(&metadata).map_err(|error| refuse(error.to_string()))?;
    json.resize(json.len().next_multiple_of(LENGTH_BYTES), b' ');
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.append(&mut json);
    Ok(bytes)
}

struct HashedFile<'a> {
    disk: &'a dyn Disk,
    output: Output,
    hasher: Sha256,
    size_bytes: u64,
}

impl HashedFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> fs::Result<()> {
        for chunk in bytes.chunks(CHUNK_BYTES) {
            self.hasher.update(chunk);
            self.disk.write(&mut self.output, chunk)?;
            self.size_bytes += chunk.len() as u64;
        }
        Ok(())
    }
}

/// Reads those tensors of one file that are `wanted`, and checks size and hash of all of it on the way.
///
/// # Errors
/// In words: what was expected and what was found.
pub(super) fn read_file(
    path: &Path,
    entry: &FileEntry,
    wanted: &mut dyn FnMut(&str) -> bool,
) -> std::result::Result<Vec<HostTensor>, String> {
    let size_bytes = fs::size_bytes(path).map_err(|error| error.to_string())?;
    if size_bytes != entry.size_bytes {
        return Err(format!("{size_bytes} bytes, expected {}", entry.size_bytes));
    }
    let input = fs::open(path).map_err(|error| error.to_string())?;
    let mut reader = HashingReader {
        input,
        hasher: Sha256::new(),
    };
    let (tensors, num_tensors) = read_tensors(&mut reader, size_bytes, wanted)?;
    let sha256 = format!("{:x}", reader.hasher.finalize());
    if sha256 != entry.sha256 {
        return Err(format!(
            "its bytes have changed: sha256 {sha256}, expected {}",
            entry.sha256
        ));
    }
    if num_tensors != entry.num_tensors {
        return Err(format!("{num_tensors} tensors, expected {}", entry.num_tensors));
    }
    Ok(tensors)
}

struct HashingReader<R> {
    input: R,
    hasher: Sha256,
}

impl<R: Read> HashingReader<R> {
    fn read(&mut self, num_bytes: usize) -> std::result::Result<Vec<u8>, String> {
        let mut bytes = vec![0; num_bytes];
        for chunk in bytes.chunks_mut(CHUNK_BYTES) {
            self.fill(chunk)?;
        }
        Ok(bytes)
    }

    /// Hashes bytes and forgets them.
    fn pass_over(&mut self, num_bytes: usize) -> std::result::Result<(), String> {
        let mut bytes = vec![0; num_bytes.min(CHUNK_BYTES)];
        for start in (0..num_bytes).step_by(CHUNK_BYTES) {
            self.fill(&mut bytes[..CHUNK_BYTES.min(num_bytes - start)])?;
        }
        Ok(())
    }

    fn fill(&mut self, chunk: &mut [u8]) -> std::result::Result<(), String> {
        self.input
            .read_exact(chunk)
            .map_err(|error| format!("cannot be read: {error}"))?;
        self.hasher.update(&*chunk);
        Ok(())
    }
}

/// Name, shape and dtype of each tensor of a file; its bytes are neither read nor checked.
///
/// # Errors
/// In words: what was expected and what was found.
pub(super) fn list_file(path: &Path, entry: &FileEntry) -> std::result::Result<Vec<TensorSpec>, String> {
    let input = fs::open(path).map_err(|error| error.to_string())?;
    let mut reader = HashingReader {
        input,
        hasher: Sha256::new(),
    };
    let metadata = read_header(&mut reader, entry.size_bytes)?;
    let spec = |name: String| {
        let info = metadata.info(&name)?;
        Some(host_dtype(&name, info.dtype).map(|dtype| (name, info.shape.clone(), dtype)))
    };
    metadata.offset_keys().into_iter().filter_map(spec).collect()
}

fn host_dtype(name: &str, dtype: Dtype) -> std::result::Result<HostDtype, String> {
    match dtype {
        Dtype::F32 => Ok(HostDtype::F32),
        Dtype::BF16 => Ok(HostDtype::Bf16),
        other => Err(format!("tensor {name} is {other}, expected F32 or BF16")),
    }
}

fn read_header<R: Read>(
    reader: &mut HashingReader<R>,
    size_bytes: u64,
) -> std::result::Result<Metadata, String> {
    let garbled = "its bytes have changed: the header is not one of safetensors";
    let mut length = [0; LENGTH_BYTES];
    length.copy_from_slice(&reader.read(LENGTH_BYTES)?);
    let length = u64::from_le_bytes(length);
    // A garbled length must not ask for more memory than the file has bytes.
    if length > size_bytes.saturating_sub(LENGTH_BYTES as u64) {
        return Err(garbled.into());
    }
    let json = reader.read(length as usize)?;
    let metadata: Metadata = serde_json::from_slice(&json).map_err(|error| format!("{garbled}: {error}"))?;
    if (LENGTH_BYTES as u64 + length).saturating_add(metadata.data_len() as u64) != size_bytes {
        return Err(garbled.into());
    }
    Ok(metadata)
}

fn read_tensors<R: Read>(
    reader: &mut HashingReader<R>,
    size_bytes: u64,
    wanted: &mut dyn FnMut(&str) -> bool,
) -> std::result::Result<(Vec<HostTensor>, usize), String> {
    let metadata = read_header(reader, size_bytes)?;
    let mut tensors = Vec::new();
    let names = metadata.offset_keys();
    let num_tensors = names.len();
    for name in names {
        let Some(info) = metadata.info(&name) else {
            continue;
        };
        let dtype = host_dtype(&name, info.dtype)?;
        let (start, end) = info.data_offsets;
        if !wanted(&name) {
            reader.pass_over(end - start)?;
            continue;
        }
        tensors.push(HostTensor {
            shape: info.shape.clone(),
            dtype,
            bytes: reader.read(end - start)?,
            name,
        });
    }
    Ok((tensors, num_tensors))
}
