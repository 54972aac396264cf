//! Arrow files: the stream format of `save_to_disk` and of the cache of Hugging Face's `datasets`, and the file format
//! of `.arrow` and `.feather` with a footer. The file stays mapped; a row is found through the batches' lengths.

mod layout;

use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, OnceLock},
};

use arrow::{
    array::{ArrayRef, RecordBatch},
    buffer::Buffer,
    datatypes::SchemaRef,
    ipc::{self, MetadataVersion},
};
use bytes::Bytes;
use layout::Part;

use super::{
    super::{
        error::{DataError, RowProblem},
        value::Value,
    },
    Format, Rows,
    cells::{self, guarded},
    columns,
    recent::Recent,
};

/// Memory for batches that had to be decompressed.
const DECOMPRESSED_BYTES: usize = 256 << 20;

/// A mapped file of record batches.
pub(super) struct ArrowFile {
    path: Arc<Path>,
    buffer: Buffer,
    schema: SchemaRef,
    /// Columns that are read; all without.
    projection: Option<Vec<usize>>,
    dictionaries: HashMap<i64, ArrayRef>,
    batches: Vec<Part>,
    /// First row of each batch, and the number of rows.
    starts: Vec<usize>,
    decoded: Decoded,
}

enum Decoded {
    /// Batches that are views of the mapped file: kept for good.
    Views(Vec<OnceLock<Result<RecordBatch, String>>>),
    /// Batches with memory of their own.
    Copies(Recent<RecordBatch>),
}

impl ArrowFile {
    /// Finds the batches of a file. `wanted` are the columns to read, all if `None`.
    pub(super) fn open(path: &Path, bytes: Bytes, wanted: Option<&[String]>) -> Result<Self, DataError> {
        let failed = |reason: String| DataError::Source {
            path: path.into(),
            reason: format!("no Arrow file that can be read: {reason}"),
        };
        let buffer = Buffer::from(bytes);
        let layout = guarded(|| layout::of(&buffer)).map_err(failed)?;
        let projection = wanted
            .map(|wanted| columns::places(wanted, layout.schema.fields()))
            .transpose()
            .map_err(failed)?;
        let dictionaries =
            guarded(|| dictionaries(&buffer, &layout.schema, &layout.dictionaries)).map_err(failed)?;
        let mut starts = vec![0];
        for batch in &layout.batches {
            starts.push(starts.last().copied().unwrap_or(0) + batch.num_rows);
        }
        let size = layout
            .batches
            .iter()
            .map(|batch| batch.size_bytes)
            .max()
            .unwrap_or(0);
        let decoded = match layout.batches.iter().any(|batch| batch.compressed) {
            true => Decoded::Copies(Recent::new(size, DECOMPRESSED_BYTES)),
            false => Decoded::Views((0..layout.batches.len()).map(|_| OnceLock::new()).collect()),
        };
        Ok(Self {
            path: path.into(),
            buffer,
            schema: layout.schema,
            projection,
            dictionaries,
            batches: layout.batches,
            starts,
            decoded,
        })
    }

    fn batch(&self, number: usize) -> Result<RecordBatch, String> {
        let decode = || guarded(|| self.decode(&self.batches[number]));
        match &self.decoded {
            Decoded::Views(batches) => batches[number].get_or_init(decode).clone(),
            Decoded::Copies(recent) => recent.part(number, decode),
        }
    }

    fn decode(&self, part: &Part) -> Result<RecordBatch, String> {
        let message = part.message(&self.buffer)?;
        let batch = message.header_as_record_batch().ok_or("a batch is gone")?;
        let body = self.buffer.slice_with_length(part.body.start, part.body.len());
        let batch = ipc::reader::read_record_batch(
            &body,
            batch,
            self.schema.clone(),
            &self.dictionaries,
            self.projection.as_deref(),
            &message.version(),
        );
        let batch = batch.map_err(|error| error.to_string())?;
        match batch.num_rows() == part.num_rows {
            true => Ok(batch),
            false => Err("a batch has not as many rows as it says".to_owned()),
        }
    }
}

fn dictionaries(
    buffer: &Buffer,
    schema: &SchemaRef,
    parts: &[Part],
) -> Result<HashMap<i64, ArrayRef>, String> {
    let mut found = HashMap::new();
    for part in parts {
        let message = part.message(buffer)?;
        let batch = message
            .header_as_dictionary_batch()
            .ok_or("a dictionary is gone")?;
        let body = buffer.slice_with_length(part.body.start, part.body.len());
        let version: MetadataVersion = message.version();
        ipc::reader::read_dictionary(&body, batch, schema, &mut found, &version)
            .map_err(|error| error.to_string())?;
    }
    Ok(found)
}

impl Rows for ArrowFile {
    fn path(&self) -> &Arc<Path> {
        &self.path
    }

    fn len(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    fn read(&self, index: usize) -> Result<Value, RowProblem> {
        let number = self.starts.partition_point(|&start| start <= index) - 1;
        let row = || cells::row(&self.batch(number).map_err(damaged)?, index - self.starts[number]);
        guarded(|| Ok(row())).map_err(damaged)?
    }

    fn line(&self, index: usize) -> usize {
        index + 1
    }

    fn what(&self) -> &'static str {
        Format::Arrow.name()
    }

    fn rewritten(&self) -> Vec<String> {
        cells::rewritten(&self.schema, self.projection.as_deref())
    }
}

fn damaged(reason: String) -> RowProblem {
    RowProblem::Source {
        reason: format!("cannot read its batch: {reason}"),
    }
}
