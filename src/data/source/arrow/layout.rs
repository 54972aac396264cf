//! Where the parts of an Arrow file lie. Everything that a file says about sizes is checked here, before anything is
//! allocated for it. <https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc>

use std::{ops::Range, sync::Arc};

use arrow::{
    buffer::Buffer,
    datatypes::SchemaRef,
    ipc::{self, Message, MessageHeader, RecordBatch},
};

const MAGIC: &[u8] = b"ARROW1";
const CONTINUATION: [u8; 4] = [0xff; 4];
/// Compressed batches grow less than this.
const MAX_GROWTH: u64 = 256;
/// Any batch may grow to this.
const ALWAYS_ALLOWED_BYTES: u64 = 64 << 20;

/// Schema, dictionaries and batches of a file.
pub(super) struct Layout {
    pub(super) schema: SchemaRef,
    pub(super) dictionaries: Vec<Part>,
    pub(super) batches: Vec<Part>,
}

/// A message with a body.
pub(super) struct Part {
    metadata: Range<usize>,
    pub(super) body: Range<usize>,
    pub(super) num_rows: usize,
    pub(super) compressed: bool,
    /// Memory of the decoded batch.
    pub(super) size_bytes: usize,
}

impl Part {
    pub(super) fn message<'a>(&self, bytes: &'a [u8]) -> Result<Message<'a>, String> {
        root(bytes, self.metadata.clone())
    }
}

/// Finds all parts.
pub(super) fn of(bytes: &Buffer) -> Result<Layout, String> {
    if bytes.starts_with(MAGIC) {
        of_file(bytes)
    } else {
        of_stream(bytes)
    }
}

fn of_stream(bytes: &[u8]) -> Result<Layout, String> {
    let mut at = 0;
    let first = next(bytes, &mut at)?.ok_or("it is empty")?;
    let schema = schema(&root(bytes, first.metadata)?)?;
    let (mut dictionaries, mut batches) = (Vec::new(), Vec::new());
    while let Some(frame) = next(bytes, &mut at)? {
        let message = root(bytes, frame.metadata.clone())?;
        match message.header_type() {
            MessageHeader::RecordBatch => batches.push(batch_of(bytes, &frame, &message)?),
            MessageHeader::DictionaryBatch if batches.is_empty() => {
                dictionaries.push(dictionary_of(bytes, &frame, &message)?);
            }
            MessageHeader::DictionaryBatch => {
                return Err(
                    "a dictionary changes between its batches\n  hint: write it without dictionaries".into(),
                );
            }
            other => return Err(format!("a message of the kind {other:?} where a batch should be")),
        }
    }
    Ok(Layout {
        schema,
        dictionaries,
        batches,
    })
}

fn of_file(bytes: &[u8]) -> Result<Layout, String> {
    const CUT: &str = "its footer is not there: it was cut off";
    let end = bytes.len().checked_sub(10).ok_or(CUT)?;
    let tail = <[u8; 10]>::try_from(&bytes[end..]).map_err(|_| CUT)?;
    let length = ipc::reader::read_footer_length(tail).map_err(|_| CUT)?;
    let start = end.checked_sub(length).ok_or(CUT)?;
    let footer = ipc::root_as_footer(&bytes[start..end]).map_err(|error| error.to_string())?;
    let schema = footer.schema().ok_or("it has no schema")?;
    let schema = Arc::new(ipc::convert::try_fb_to_schema(schema).map_err(|error| error.to_string())?);
    let frame = |block: &ipc::Block| -> Result<Frame, String> {
        let mut at = usize::try_from(block.offset()).map_err(|_| CUT)?;
        next(bytes, &mut at)?.ok_or_else(|| CUT.to_owned())
    };
    let (mut dictionaries, mut batches) = (Vec::new(), Vec::new());
    for block in footer.dictionaries().iter().flatten() {
        let frame = frame(block)?;
        dictionaries.push(dictionary_of(
            bytes,
            &frame,
            &root(bytes, frame.metadata.clone())?,
        )?);
    }
    for block in footer.recordBatches().iter().flatten() {
        let frame = frame(block)?;
        batches.push(batch_of(bytes, &frame, &root(bytes, frame.metadata.clone())?)?);
    }
    Ok(Layout {
        schema,
        dictionaries,
        batches,
    })
}

fn schema(message: &Message<'_>) -> Result<SchemaRef, String> {
    let schema = message
        .header_as_schema()
        .ok_or("it does not begin with a schema")?;
    let schema = ipc::convert::try_fb_to_schema(schema);
    Ok(Arc::new(schema.map_err(|error| error.to_string())?))
}

struct Frame {
    metadata: Range<usize>,
    body: Range<usize>,
}

/// The message at `at`, which is moved behind it; `None` at the end mark.
fn next(bytes: &[u8], at: &mut usize) -> Result<Option<Frame>, String> {
    const CUT: &str = "it ends in the middle of a message: it was cut off";
    let word = |at: usize| -> Result<[u8; 4], String> {
        let word = bytes
            .get(at..at.saturating_add(4))
            .and_then(|word| word.try_into().ok());
        word.ok_or_else(|| "it ends without its end mark: it was cut off".to_owned())
    };
    let mut length = word(*at)?;
    let mut start = *at + 4;
    // Before version 0.15, the length came without a mark.
    if length == CONTINUATION {
        length = word(start)?;
        start += 4;
    }
    let length = u32::from_le_bytes(length) as usize;
    if length == 0 {
        return Ok(None);
    }
    let metadata = start
        ..start
            .checked_add(length)
            .filter(|&end| end <= bytes.len())
            .ok_or(CUT)?;
    let body_length = usize::try_from(root(bytes, metadata.clone())?.bodyLength()).map_err(|_| CUT)?;
    let start = metadata.end;
    let end = start
        .checked_add(body_length)
        .filter(|&end| end <= bytes.len())
        .ok_or(CUT)?;
    *at = end;
    Ok(Some(Frame {
        metadata,
        body: start..end,
    }))
}

fn root(bytes: &[u8], metadata: Range<usize>) -> Result<Message<'_>, String> {
    let metadata = bytes.get(metadata).ok_or("a message is gone")?;
    ipc::root_as_message(metadata).map_err(|error| format!("a message is damaged: {error}"))
}

fn dictionary_of(bytes: &[u8], frame: &Frame, message: &Message<'_>) -> Result<Part, String> {
    let batch = message
        .header_as_dictionary_batch()
        .ok_or("a dictionary is none")?;
    part(bytes, frame, &batch.data().ok_or("a dictionary has no data")?)
}

fn batch_of(bytes: &[u8], frame: &Frame, message: &Message<'_>) -> Result<Part, String> {
    part(
        bytes,
        frame,
        &message.header_as_record_batch().ok_or("a batch is none")?,
    )
}

/// Checks that the buffers of a batch lie inside it, and that it has no more rows than can be in it.
fn part(bytes: &[u8], frame: &Frame, batch: &RecordBatch<'_>) -> Result<Part, String> {
    let body = &bytes[frame.body.clone()];
    let compressed = batch.compression().is_some();
    let mut size: u64 = 0;
    for buffer in batch.buffers().iter().flatten() {
        let start = usize::try_from(buffer.offset()).ok();
        let length = usize::try_from(buffer.length()).ok();
        let range = start
            .zip(length)
            .and_then(|(start, length)| Some(start..start.checked_add(length)?));
        let buffer = range
            .and_then(|range| body.get(range))
            .ok_or("a column lies outside its batch")?;
        let stored = match buffer.first_chunk::<8>() {
            // The length before compression; -1 marks a buffer that is not compressed.
            Some(&length) if compressed && length != [0xff; 8] => u64::from_le_bytes(length),
            _ => buffer.len() as u64,
        };
        size = size.saturating_add(stored);
    }
    let limit = ALWAYS_ALLOWED_BYTES.max(body.len() as u64 * MAX_GROWTH);
    if size > limit {
        return Err(format!(
            "a batch of {} bytes claims to hold {size}: refused as a decompression bomb",
            body.len()
        ));
    }
    let num_rows = u64::try_from(batch.length()).map_err(|_| "a batch has less than no rows")?;
    // A row takes a bit at least.
    if num_rows > size.saturating_mul(8) {
        return Err(format!("a batch of {size} bytes claims to hold {num_rows} rows"));
    }
    Ok(Part {
        metadata: frame.metadata.clone(),
        body: frame.body.clone(),
        num_rows: num_rows as usize,
        compressed,
        size_bytes: size as usize,
    })
}
