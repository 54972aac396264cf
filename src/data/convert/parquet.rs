//! Parquet files whose row groups are small enough to be read one by one.

use std::{io::BufWriter, path::PathBuf};

use parquet::{
    arrow::ArrowWriter,
    basic::{Compression as Codec, GzipLevel, ZstdLevel},
    file::{metadata::KeyValue, properties::WriterProperties},
};

use super::{
    super::value::Value,
    Compression, Sink,
    columns::Batch,
    error::{ConvertError, Refusal},
    target::{BUFFER_BYTES, failed},
    types::{Type, schema},
};
use crate::fs::Output;

/// A reader that wants one row decodes its whole row group, so groups with images must not be large.
const GROUP_BYTES: usize = 32 << 20;
const BATCH_BYTES: usize = 4 << 20;
const BATCH_ROWS: usize = 1024;

/// A file of row groups.
pub(super) struct ParquetWriter {
    path: PathBuf,
    writer: ArrowWriter<BufWriter<Output>>,
    batch: Batch,
}

impl ParquetWriter {
    pub(super) fn create(
        output: Output,
        columns: &[(String, Type)],
        compression: Compression,
    ) -> Result<Self, ConvertError> {
        let path = output.path().to_path_buf();
        let schema = schema(columns);
        let codec = match compression {
            Compression::None => Codec::UNCOMPRESSED,
            Compression::Gzip => Codec::GZIP(GzipLevel::default()),
            Compression::Zstd => Codec::ZSTD(ZstdLevel::default()),
            Compression::Snappy => Codec::SNAPPY,
            Compression::Lz4 => Codec::LZ4_RAW,
        };
        // Arrow's schema inside the file has them, too; `datasets` looks for them here.
        let metadata = schema
            .metadata()
            .iter()
            .map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
        let properties = WriterProperties::builder()
            .set_compression(codec)
            .set_max_row_group_bytes(Some(GROUP_BYTES))
            .set_key_value_metadata(Some(metadata.collect()))
            .build();
        let buffered = BufWriter::with_capacity(BUFFER_BYTES, output);
        let writer = ArrowWriter::try_new(buffered, schema.clone(), Some(properties));
        Ok(Self {
            writer: writer.map_err(|error| failed(&path, error))?,
            batch: Batch::new(schema, columns),
            path,
        })
    }

    fn write_batch(&mut self) -> Result<(), ConvertError> {
        let batch = self.batch.take().map_err(|error| failed(&self.path, error))?;
        self.writer
            .write(&batch)
            .map_err(|error| failed(&self.path, error))
    }
}

impl Sink for ParquetWriter {
    fn push(&mut self, _key: &str, row: Value) -> Result<(), Refusal> {
        self.batch.push(&row)?;
        if self.batch.num_rows() >= BATCH_ROWS || self.batch.size_bytes() >= BATCH_BYTES {
            self.write_batch()?;
        }
        Ok(())
    }

    fn size_bytes(&self) -> u64 {
        (self.writer.bytes_written() + self.writer.in_progress_size() + self.batch.size_bytes()) as u64
    }

    fn finish(mut self: Box<Self>) -> Result<usize, ConvertError> {
        self.write_batch()?;
        let Self { path, writer, .. } = *self;
        let buffered = writer.into_inner().map_err(|error| failed(&path, error))?;
        let output = buffered.into_inner().map_err(|error| failed(&path, error))?;
        output.sync()?;
        Ok(0)
    }
}
