//! One JSON object a line, plain or compressed.

use std::io::{self, BufWriter, Write};

use flate2::write::GzEncoder;

use super::{
    super::value::Value,
    Compression, Sink,
    error::{ConvertError, Refusal},
    json,
    target::{BUFFER_BYTES, failed},
};
use crate::fs::Output;

/// Level 3 is the one that `zstd` itself takes.
const ZSTD_LEVEL: i32 = 3;

type Buffered = BufWriter<Output>;

/// A file of lines.
pub(super) enum JsonLines {
    Plain(Buffered),
    Gzip(GzEncoder<Buffered>),
    Zstd(zstd::stream::write::Encoder<'static, Buffered>),
}

impl JsonLines {
    pub(super) fn create(output: Output, compression: Compression) -> Result<Self, ConvertError> {
        let path = output.path().to_path_buf();
        let output = BufWriter::with_capacity(BUFFER_BYTES, output);
        Ok(match compression {
            Compression::Gzip => JsonLines::Gzip(GzEncoder::new(output, flate2::Compression::default())),
            Compression::Zstd => {
                let encoder = zstd::stream::write::Encoder::new(output, ZSTD_LEVEL);
                JsonLines::Zstd(encoder.map_err(|error| failed(&path, error))?)
            }
            Compression::None | Compression::Snappy | Compression::Lz4 => JsonLines::Plain(output),
        })
    }

    fn output(&self) -> &Output {
        match self {
            JsonLines::Plain(output) => output.get_ref(),
            JsonLines::Gzip(encoder) => encoder.get_ref().get_ref(),
            JsonLines::Zstd(encoder) => encoder.get_ref().get_ref(),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            JsonLines::Plain(output) => output.write_all(bytes),
            JsonLines::Gzip(encoder) => encoder.write_all(bytes),
            JsonLines::Zstd(encoder) => encoder.write_all(bytes),
        }
    }

    fn end(self) -> io::Result<Output> {
        let output = match self {
            JsonLines::Plain(output) => output,
            JsonLines::Gzip(encoder) => encoder.finish()?,
            JsonLines::Zstd(encoder) => encoder.finish()?,
        };
        Ok(output.into_inner()?)
    }
}

impl Sink for JsonLines {
    fn push(&mut self, _key: &str, row: Value) -> Result<(), Refusal> {
        let mut line = json::line(&row)?;
        line.push(b'\n');
        let written = self.write(&line);
        Ok(written.map_err(|error| failed(self.output().path(), error))?)
    }

    fn size_bytes(&self) -> u64 {
        self.output().written_bytes()
    }

    fn finish(self: Box<Self>) -> Result<usize, ConvertError> {
        let path = self.output().path().to_path_buf();
        let output = self.end().map_err(|error| failed(&path, error))?;
        output.sync()?;
        Ok(0)
    }
}
