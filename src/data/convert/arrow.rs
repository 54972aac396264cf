//! Arrow streams, and what `save_to_disk` of Hugging Face's `datasets` writes beside them.

use std::{
    io::BufWriter,
    path::{Path, PathBuf},
};

use arrow::ipc::{
    CompressionType,
    writer::{IpcWriteOptions, StreamWriter},
};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{
    super::value::Value,
    Compression, Sink,
    columns::Batch,
    error::{ConvertError, Refusal},
    target::{BUFFER_BYTES, failed},
    types::{Type, features, schema},
};
use crate::fs::{self, Output};

/// Rows of a batch, as `datasets` writes them.
const BATCH_ROWS: usize = 1000;
const BATCH_BYTES: usize = 16 << 20;

/// A file of record batches.
pub(super) struct ArrowWriter {
    path: PathBuf,
    writer: StreamWriter<BufWriter<Output>>,
    batch: Batch,
}

impl ArrowWriter {
    pub(super) fn create(
        output: Output,
        columns: &[(String, Type)],
        compression: Compression,
    ) -> Result<Self, ConvertError> {
        let path = output.path().to_path_buf();
        let schema = schema(columns);
        let codec = match compression {
            Compression::Lz4 => Some(CompressionType::LZ4_FRAME),
            Compression::Zstd => Some(CompressionType::ZSTD),
            Compression::None | Compression::Gzip | Compression::Snappy => None,
        };
        let buffered = BufWriter::with_capacity(BUFFER_BYTES, output);
        let writer = IpcWriteOptions::default()
            .try_with_compression(codec)
            .and_then(|options| StreamWriter::try_new_with_options(buffered, &schema, options));
        Ok(Self {
            writer: writer.map_err(|error| failed(&path, error))?,
            batch: Batch::new(schema, columns),
            path,
        })
    }

    fn write_batch(&mut self) -> Result<(), ConvertError> {
        if self.batch.num_rows() == 0 {
            return Ok(());
        }
        let batch = self.batch.take().map_err(|error| failed(&self.path, error))?;
        self.writer
            .write(&batch)
            .map_err(|error| failed(&self.path, error))
    }
}

impl Sink for ArrowWriter {
    fn push(&mut self, _key: &str, row: Value) -> Result<(), Refusal> {
        self.batch.push(&row)?;
        if self.batch.num_rows() >= BATCH_ROWS || self.batch.size_bytes() >= BATCH_BYTES {
            self.write_batch()?;
        }
        Ok(())
    }

    fn size_bytes(&self) -> u64 {
        self.writer.get_ref().get_ref().written_bytes() + self.batch.size_bytes() as u64
    }

    fn finish(mut self: Box<Self>) -> Result<usize, ConvertError> {
        self.write_batch()?;
        let Self { path, writer, .. } = *self;
        // The end mark is written by this, too.
        let buffered = writer.into_inner().map_err(|error| failed(&path, error))?;
        let output = buffered.into_inner().map_err(|error| failed(&path, error))?;
        output.sync()?;
        Ok(0)
    }
}

/// Writes what `load_from_disk` looks for: the features, and the files in their order.
pub(super) fn describe(
    folder: &Path,
    names: &[String],
    columns: &[(String, Type)],
    split: &str,
) -> Result<(), ConvertError> {
    let info = json!({
        "citation": "",
        "description": "",
        "features": features(columns),
        "homepage": "",
        "license": "",
    });
    let files: Vec<_> = names.iter().map(|name| json!({"filename": name})).collect();
    let state = json!({
        "_data_files": files,
        "_fingerprint": fingerprint(folder, names)?,
        "_format_columns": null,
        "_format_kwargs": {},
        "_format_type": null,
        "_output_all_columns": false,
        "_split": split,
    });
    for (name, content) in [("dataset_info.json", info), ("state.json", state)] {
        fs::write_durable(&folder.join(name), format!("{content:#}\n").as_bytes())?;
    }
    Ok(())
}

/// By this, `datasets` finds results of its own that it cached: another content must have another one.
fn fingerprint(folder: &Path, names: &[String]) -> Result<String, ConvertError> {
    let mut hash = Sha256::new();
    for name in names {
        hash.update(fs::mmap(&folder.join(name))?);
    }
    Ok(hash
        .finalize()
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect())
}
