//! Where the rows of a text file begin, kept in the cache for large files: opening one again reads nothing of it.

use std::path::Path;

use bytes::Bytes;

use super::{
    super::error::DataError,
    cache::{self, Cache, WORTH_KEEPING_BYTES},
};
use crate::fs;

const MAGIC: &[u8; 8] = b"BRZLINE1";
const HEADER_BYTES: usize = 24;
/// First byte and line number of each row.
///
/// As it lies on the disk, little-endian: magic, number of rows and size of the content as u64; for each row its
/// first byte as u64 and its line as u64; CRC-32C of all that as u32.
pub(super) struct Lines {
    bytes: Bytes,
}

/// Where a row begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) start: usize,
    /// From 1.
    pub(super) number: usize,
}

/// Collects the rows of a file.
pub(super) struct LinesBuilder {
    bytes: Vec<u8>,
    num_rows: u64,
}

impl LinesBuilder {
    pub(super) fn new(size_bytes: usize) -> Self {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&0_u64.to_le_bytes());
        bytes.extend_from_slice(&(size_bytes as u64).to_le_bytes());
        Self { bytes, num_rows: 0 }
    }

    pub(super) fn push(&mut self, line: Line) {
        self.bytes.extend_from_slice(&(line.start as u64).to_le_bytes());
        self.bytes.extend_from_slice(&(line.number as u64).to_le_bytes());
        self.num_rows += 1;
    }

    fn finish(mut self) -> Lines {
        self.bytes[8..16].copy_from_slice(&self.num_rows.to_le_bytes());
        let sum = crc32c::crc32c(&self.bytes);
        self.bytes.extend_from_slice(&sum.to_le_bytes());
        Lines {
            bytes: self.bytes.into(),
        }
    }
}

impl Lines {
    /// Takes the index of a file from the cache, or makes it by `find`.
    pub(super) fn open(
        path: &Path,
        content: &[u8],
        cache: &Cache,
        what: &str,
        find: impl FnOnce(&mut LinesBuilder) -> Result<(), DataError>,
    ) -> Result<Self, DataError> {
        let place = match content.len() as u64 >= WORTH_KEEPING_BYTES {
            true => cache.place(path, content, what)?,
            false => None,
        };
        if let Some(lines) = place
            .as_deref()
            .and_then(|place| Self::load(place, content.len()))
        {
            return Ok(lines);
        }
        let mut builder = LinesBuilder::new(content.len());
        find(&mut builder)?;
        let lines = builder.finish();
        if let Some(place) = place {
            cache::keep(&place, &lines.bytes)?;
        }
        Ok(lines)
    }

    /// An index that is damaged or of another content is made again.
    fn load(place: &Path, size_bytes: usize) -> Option<Self> {
        let bytes = Bytes::from_owner(fs::exists(place).then(|| fs::mmap(place).ok())??);
        let (body, sum) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
        let lines = Self { bytes: bytes.clone() };
        let whole = body.len() >= HEADER_BYTES
            && body.starts_with(MAGIC)
            && crc32c::crc32c(body).to_le_bytes() == sum
            && lines.number_at(16) == Some(size_bytes)
            && lines.len().checked_mul(16)?.checked_add(HEADER_BYTES)? == body.len();
        whole.then_some(lines)
    }

    pub(super) fn len(&self) -> usize {
        self.number_at(8).unwrap_or_default()
    }

    /// `index < len()`.
    pub(super) fn line(&self, index: usize) -> Line {
        let at = HEADER_BYTES + 16 * index;
        Line {
            start: self.number_at(at).unwrap_or_default(),
            number: self.number_at(at + 8).unwrap_or_default(),
        }
    }

    /// From where the row begins to where the next one does.
    pub(super) fn slice<'a>(&self, index: usize, content: &'a [u8]) -> &'a [u8] {
        let start = self.line(index).start;
        let end = if index + 1 < self.len() {
            self.line(index + 1).start
        } else {
            content.len()
        };
        content.get(start..end).unwrap_or_default()
    }

    fn number_at(&self, at: usize) -> Option<usize> {
        let bytes = self.bytes.get(at..at + 8)?;
        usize::try_from(u64::from_le_bytes(bytes.try_into().ok()?)).ok()
    }
}

/// Lines that are not blank.
pub(super) fn find_lines(content: &[u8], found: &mut LinesBuilder) {
    let mut start = 0;
    for (place, line) in content.split(|&byte| byte == b'\n').enumerate() {
        if !line.trim_ascii().is_empty() {
            found.push(Line {
                start,
                number: place + 1,
            });
        }
        start += line.len() + 1;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn open(path: &Path, cache: &Cache) -> (Lines, Bytes) {
        let content = Bytes::from_owner(fs::mmap(path).unwrap());
        let lines = Lines::open(path, &content, cache, "lines", |found| {
            find_lines(&content, found);
            Ok(())
        });
        (lines.unwrap(), content)
    }

    #[test]
    fn a_row_goes_to_where_the_next_one_begins() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows");
        fs::write_durable(&path, b"\n{\"a\": 1}\r\n  \n{}").unwrap();
        let (lines, content) = open(&path, &Cache::default());
        assert_eq!((lines.len(), lines.line(1)), (2, Line { start: 14, number: 4 }));
        assert_eq!(lines.slice(0, &content), b"{\"a\": 1}\r\n  \n");
        assert_eq!(lines.slice(1, &content), b"{}");
        assert_eq!(lines.slice(1, b"{}"), b"", "a file that shrank");
    }

    /// The goal is a million rows in a second; reading them all first would take longer.
    #[test]
    fn the_index_of_a_large_file_is_kept_and_checked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows");
        let row = [b"{\"text\": \"".as_slice(), &[b'x'; 20], b"\"}\n"].concat();
        let num_rows = WORTH_KEEPING_BYTES as usize / row.len() + 1;
        fs::write_durable(&path, &row.repeat(num_rows)).unwrap();
        let cache = Cache::new(Some(dir.path().join("cache")));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| assert_eq!(open(&path, &cache).0.len(), num_rows));
            }
        });
        let kept = fs::read_dir(&dir.path().join("cache")).unwrap();
        assert_eq!(kept.len(), 1, "{kept:?}");

        let start = Instant::now();
        let content = fs::mmap(&path).unwrap();
        let opened = Lines::open(&path, &content, &cache, "lines", |_| panic!("read again"));
        let seconds = start.elapsed().as_secs_f64();
        assert_eq!(opened.unwrap().len(), num_rows);
        assert!(seconds < 1.0, "{seconds}");

        let whole = fs::read(&kept[0]).unwrap();
        for broken in [b"".to_vec(), whole[..whole.len() - 1].to_vec(), {
            let mut bytes = whole.clone();
            bytes[HEADER_BYTES + 5] ^= 1;
            bytes
        }] {
            fs::write_durable(&kept[0], &broken).unwrap();
            assert_eq!(open(&path, &cache).0.line(1).start, row.len());
            assert_eq!(fs::read(&kept[0]).unwrap(), whole, "made again");
        }
    }
}
