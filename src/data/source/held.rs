//! The bytes of a file of rows: mapped, or decompressed into memory or, where they are many, once into the cache.

use std::{
    io::{self, Read},
    path::Path,
};

use bytes::Bytes;
use flate2::read::MultiGzDecoder;

use super::{
    super::error::DataError,
    cache::{self, Cache},
};
use crate::fs;

/// Decompressed content up to here stays in memory.
const IN_MEMORY_BYTES: u64 = 64 << 20;
/// Text and tables compress to a tenth, rarely to a fiftieth; what grows more than this is no data set.
const MAX_GROWTH: u64 = 256;
/// Any file may grow to this.
const ALWAYS_ALLOWED_BYTES: u64 = 64 << 20;
const PIECE_BYTES: usize = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    Gzip,
    Zstd,
}

/// The name that a file has without what says that it is compressed, in lower case: `rows.jsonl` for `rows.jsonl.gz`.
pub(super) fn plain_name(path: &Path) -> String {
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase();
    match compression(&name) {
        Some((_, plain)) => plain.to_owned(),
        None => name,
    }
}

fn compression(name: &str) -> Option<(Compression, &str)> {
    let endings = [
        (".gz", Compression::Gzip),
        (".zst", Compression::Zstd),
        (".zstd", Compression::Zstd),
    ];
    endings
        .into_iter()
        .find_map(|(ending, compression)| Some((compression, name.strip_suffix(ending)?)))
}

/// The content of a file, decompressed if its name ends with `.gz` or `.zst`.
///
/// # Errors
/// If it cannot be read, is damaged, or grows beyond all proportion.
pub(super) fn hold(path: &Path, cache: &Cache) -> Result<Bytes, DataError> {
    let mapped = Bytes::from_owner(fs::mmap(path)?);
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase();
    let Some((compression, _)) = compression(&name) else {
        return Ok(mapped);
    };
    let limit = ALWAYS_ALLOWED_BYTES.max(mapped.len() as u64 * MAX_GROWTH);
    let place = cache.place(path, &mapped, "plain")?;
    if let Some(place) = place.as_deref().filter(|place| fs::exists(place)) {
        return Ok(Bytes::from_owner(fs::mmap(place)?));
    }
    let mut content = reader(compression, &mapped).map_err(|error| damaged(path, &error))?;
    let mut memory = Vec::new();
    let mut start = (&mut content).take(IN_MEMORY_BYTES.min(limit) + 1);
    start
        .read_to_end(&mut memory)
        .map_err(|error| damaged(path, &error))?;
    if memory.len() as u64 <= IN_MEMORY_BYTES {
        return Ok(memory.into());
    }
    match place {
        Some(place) => to_file(path, &place, memory, content, limit),
        None => to_memory(path, memory, content, limit),
    }
}

fn reader<'a>(compression: Compression, bytes: &'a [u8]) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match compression {
        Compression::Gzip => Box::new(MultiGzDecoder::new(bytes)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(bytes)?),
    })
}

fn to_memory(path: &Path, mut start: Vec<u8>, rest: impl Read, limit: u64) -> Result<Bytes, DataError> {
    let left = limit.saturating_sub(start.len() as u64);
    rest.take(left + 1)
        .read_to_end(&mut start)
        .map_err(|error| damaged(path, &error))?;
    match start.len() as u64 > limit {
        true => Err(bomb(path, limit)),
        false => Ok(start.into()),
    }
}

fn to_file(
    path: &Path,
    place: &Path,
    start: Vec<u8>,
    mut rest: impl Read,
    limit: u64,
) -> Result<Bytes, DataError> {
    let beside = cache::beside(place);
    let mut write = || -> Result<(), DataError> {
        let mut output = fs::Output::create(&beside)?;
        output.write_all(&start)?;
        let mut written = start.len() as u64;
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let length = rest.read(&mut piece).map_err(|error| damaged(path, &error))?;
            if length == 0 {
                break;
            }
            written += length as u64;
            if written > limit {
                return Err(bomb(path, limit));
            }
            output.write_all(&piece[..length])?;
        }
        output.sync()?;
        Ok(fs::rename(&beside, place)?)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&beside);
    })?;
    Ok(Bytes::from_owner(fs::mmap(place)?))
}

fn damaged(path: &Path, error: &io::Error) -> DataError {
    DataError::Source {
        path: path.into(),
        reason: format!("cannot decompress it: {error}\n  hint: the file is damaged or was cut off"),
    }
}

fn bomb(path: &Path, limit: u64) -> DataError {
    DataError::Source {
        path: path.into(),
        reason: format!(
            "decompresses to more than {limit} bytes, {MAX_GROWTH} times its size: refused as a decompression bomb\n  \
             hint: if that is what it holds, decompress it yourself"
        ),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;

    use super::*;

    pub(in crate::data::source) fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstandard(bytes: &[u8]) -> Vec<u8> {
        zstd::stream::encode_all(bytes, 1).unwrap()
    }

    fn written(name: &str, bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        fs::write_durable(&path, bytes).unwrap();
        (dir, path)
    }

    #[test]
    fn compressed_files_give_what_is_in_them() {
        let content = b"{}\n".repeat(1000);
        let twice = [gzip(&content), gzip(&content)].concat();
        for (name, bytes, expected) in [
            ("a.jsonl", content.clone(), content.clone()),
            ("a.jsonl.gz", gzip(&content), content.clone()),
            ("a.jsonl.GZ", twice, content.repeat(2)),
            ("a.jsonl.zst", zstandard(&content), content.clone()),
            ("empty.jsonl", Vec::new(), Vec::new()),
        ] {
            let (_dir, path) = written(name, &bytes);
            assert_eq!(hold(&path, &Cache::default()).unwrap(), expected, "{name}");
        }
        assert_eq!(plain_name(Path::new("d/Rows.JSONL.zst")), "rows.jsonl");
        assert_eq!(plain_name(Path::new("d/rows.csv")), "rows.csv");
    }

    #[test]
    fn damaged_files_and_bombs_are_refused() {
        let content = b"{\"a\": 1}\n".repeat(5000);
        for (name, bytes) in [("a.gz", gzip(&content)), ("a.zst", zstandard(&content))] {
            let (_dir, path) = written(name, &bytes[..bytes.len() - 5]);
            let message = hold(&path, &Cache::default()).unwrap_err().to_string();
            assert!(message.contains("cannot decompress it"), "{message}");
        }
        let zeros = vec![0; ALWAYS_ALLOWED_BYTES as usize + 2];
        for (name, bytes) in [("a.gz", gzip(&zeros)), ("a.zst", zstandard(&zeros))] {
            let (dir, path) = written(name, &bytes);
            for cache in [Cache::default(), Cache::new(Some(dir.path().join("cache")))] {
                let message = hold(&path, &cache)
                    .err()
                    .map(|error| error.to_string())
                    .unwrap_or_default();
                assert!(message.contains("decompression bomb"), "{message}");
            }
            let left = fs::read_dir(&dir.path().join("cache")).unwrap();
            assert!(left.is_empty(), "{left:?}");
        }
    }

    #[test]
    fn large_content_is_decompressed_once() {
        // Numbers, so that it does not shrink like a bomb.
        let mut content = Vec::new();
        for number in 0_u64.. {
            content.extend_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
            if content.len() as u64 > IN_MEMORY_BYTES {
                break;
            }
        }
        let (dir, path) = written("a.jsonl.zst", &zstandard(&content));
        let cache = Cache::new(Some(dir.path().join("cache")));
        assert!(hold(&path, &cache).unwrap() == content);
        let kept = fs::read_dir(&dir.path().join("cache")).unwrap();
        assert_eq!(kept.len(), 1);
        let stamp = fs::stamp(&kept[0]).unwrap();
        assert!(hold(&path, &cache).unwrap() == content);
        assert_eq!(fs::stamp(&kept[0]).unwrap(), stamp, "not written again");
    }
}
