//! Parquet files. The file stays mapped; a row group is decoded when one of its rows is read, and the last ones are kept.

use std::{path::Path, sync::Arc};

use arrow::array::{Array, RecordBatch};
use bytes::Bytes;
use parquet::arrow::{
    ProjectionMask,
    arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder},
};

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

/// Memory for decoded row groups, more where they are larger.
const DECODED_BYTES: usize = 512 << 20;
/// A row group that takes more memory is refused.
const MAX_GROUP_BYTES: usize = 4 << 30;
/// Rows decoded before the memory they take is looked at.
const PIECE_ROWS: usize = 1024;

/// A mapped file of row groups.
pub(super) struct ParquetFile {
    path: Arc<Path>,
    bytes: Bytes,
    metadata: ArrowReaderMetadata,
    /// Columns that are read; all without.
    projection: Option<Vec<usize>>,
    /// First row of each row group, and the number of rows.
    starts: Vec<usize>,
    decoded: Recent<Arc<Vec<RecordBatch>>>,
}

impl ParquetFile {
    /// Reads the footer. `wanted` are the columns to read, all if `None`.
    pub(super) fn open(path: &Path, bytes: Bytes, wanted: Option<&[String]>) -> Result<Self, DataError> {
        let failed = |reason: String| DataError::Source {
            path: path.into(),
            reason: format!("no Parquet file that can be read: {reason}"),
        };
        let metadata = guarded(|| {
            ArrowReaderMetadata::load(&bytes, ArrowReaderOptions::new()).map_err(|error| error.to_string())
        });
        let metadata = metadata.map_err(failed)?;
        let projection = wanted
            .map(|wanted| columns::places(wanted, metadata.schema().fields()))
            .transpose()
            .map_err(failed)?;
        let (mut starts, mut largest) = (vec![0_usize], 0);
        for group in metadata.metadata().row_groups() {
            let rows = usize::try_from(group.num_rows()).unwrap_or(usize::MAX);
            starts.push(starts.last().copied().unwrap_or(0).saturating_add(rows));
            largest = largest.max(usize::try_from(group.total_byte_size()).unwrap_or(0));
        }
        let num_rows = starts.last().copied().unwrap_or(0);
        // Columns that repeat one value take next to nothing, but no row of a data set is that.
        if num_rows > 65_536 + 16 * bytes.len() {
            return Err(failed(format!(
                "{} bytes claim to hold {num_rows} rows",
                bytes.len()
            )));
        }
        Ok(Self {
            path: path.into(),
            bytes,
            metadata,
            projection,
            starts,
            decoded: Recent::new(largest, DECODED_BYTES),
        })
    }

    fn group(&self, number: usize) -> Result<Arc<Vec<RecordBatch>>, String> {
        self.decoded.part(number, || guarded(|| self.decode(number)))
    }

    fn decode(&self, number: usize) -> Result<Arc<Vec<RecordBatch>>, String> {
        let builder =
            ParquetRecordBatchReaderBuilder::new_with_metadata(self.bytes.clone(), self.metadata.clone());
        let mask = match &self.projection {
            None => ProjectionMask::all(),
            Some(places) => ProjectionMask::roots(builder.parquet_schema(), places.iter().copied()),
        };
        let reader = builder
            .with_projection(mask)
            .with_row_groups(vec![number])
            .with_batch_size(PIECE_ROWS)
            .build()
            .map_err(|error| error.to_string())?;
        let (mut pieces, mut size_bytes, mut num_rows) = (Vec::new(), 0, 0);
        for piece in reader {
            let piece = piece.map_err(|error| error.to_string())?;
            size_bytes += piece
                .columns()
                .iter()
                .map(|column| column.get_array_memory_size())
                .sum::<usize>();
            num_rows += piece.num_rows();
            if size_bytes > MAX_GROUP_BYTES {
                return Err(format!(
                    "row group {number} takes more than {MAX_GROUP_BYTES} bytes\n  \
                     hint: write the file with a smaller row_group_size"
                ));
            }
            pieces.push(piece);
        }
        if num_rows != self.starts[number + 1] - self.starts[number] {
            return Err(format!(
                "row group {number} has {num_rows} rows, not as many as it says"
            ));
        }
        Ok(Arc::new(pieces))
    }

    fn row(&self, index: usize) -> Result<Value, RowProblem> {
        let number = self.starts.partition_point(|&start| start <= index) - 1;
        let group = self.group(number).map_err(damaged)?;
        let index = index - self.starts[number];
        match group.get(index / PIECE_ROWS) {
            Some(piece) if index % PIECE_ROWS < piece.num_rows() => cells::row(piece, index % PIECE_ROWS),
            _ => Err(damaged("it is cut into uneven pieces".to_owned())),
        }
    }
}

impl Rows for ParquetFile {
    fn path(&self) -> &Arc<Path> {
        &self.path
    }

    fn len(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    fn read(&self, index: usize) -> Result<Value, RowProblem> {
        guarded(|| Ok(self.row(index))).map_err(damaged)?
    }

    fn line(&self, index: usize) -> usize {
        index + 1
    }

    fn what(&self) -> &'static str {
        Format::Parquet.name()
    }

    fn rewritten(&self) -> Vec<String> {
        cells::rewritten(self.metadata.schema(), self.projection.as_deref())
    }
}

fn damaged(reason: String) -> RowProblem {
    RowProblem::Source {
        reason: format!("cannot read its row group: {reason}"),
    }
}
