//! Files made once from a file of rows: where its lines begin, what was compressed in it.
//!
//! A name is made of the path, the size, the time of the last change and samples of the content, so that another
//! file never finds them. Whoever makes one writes beside it and renames: two processes at once both end with whole files.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use sha2::{Digest, Sha256};

use super::super::error::DataError;
use crate::fs;

/// Reads a variable of the environment.
pub(crate) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Nothing is kept of a smaller file: making it anew is quick.
pub const WORTH_KEEPING_BYTES: u64 = 32 << 20;
const SAMPLE_BYTES: usize = 4096;
const NUM_SAMPLES: usize = 64;
const WRITE_BYTES: usize = 1 << 20;

/// A folder for such files; without one, nothing is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cache {
    dir: Option<PathBuf>,
}

impl Cache {
    /// Keeps files in `dir`, which is made when it is needed.
    pub fn new(dir: Option<PathBuf>) -> Self {
        Self { dir }
    }

    /// `$BRAZIER_CACHE`, else `brazier` in `$XDG_CACHE_HOME` or `~/.cache`.
    pub fn of_environment(env: Env) -> Self {
        let set = |name: &str| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let dir = set("BRAZIER_CACHE").or_else(|| {
            let caches = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
            Some(caches?.join("brazier"))
        });
        Self::new(dir)
    }

    /// The folder.
    pub fn dir(&self) -> Option<&Path> {
        self.dir.as_deref()
    }

    /// Where what is made of this file lies, or would lie; `None` without a folder. `what` is made part of the name.
    pub(in crate::data) fn place(
        &self,
        path: &Path,
        bytes: &[u8],
        what: &str,
    ) -> Result<Option<PathBuf>, DataError> {
        let Some(dir) = &self.dir else { return Ok(None) };
        fs::create_dir_all(dir)?;
        let key = fingerprint(path, bytes)?;
        Ok(Some(dir.join(format!("{}.{what}", &key[..32]))))
    }
}

/// A name beside `place` that no one else uses.
pub(super) fn beside(place: &Path) -> PathBuf {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let mut name = place.file_name().unwrap_or_default().to_os_string();
    // Processes of several hosts may have one number.
    let nanos = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.subsec_nanos());
    name.push(format!(".{}-{nanos}-{number}.tmp", std::process::id()));
    place.with_file_name(name)
}

/// Writes a file as a whole, or not at all.
pub(super) fn keep(place: &Path, bytes: &[u8]) -> fs::Result<()> {
    let beside = beside(place);
    let written = fs::write_durable(&beside, bytes).and_then(|()| fs::rename(&beside, place));
    written.inspect_err(|_| {
        let _ = fs::remove_file(&beside);
    })
}

/// Writes pieces one after the other and their CRC-32C behind them, as a whole or not at all.
pub(in crate::data) fn keep_pieces(place: &Path, pieces: impl Iterator<Item = Vec<u8>>) -> fs::Result<()> {
    let beside = beside(place);
    let written = write_pieces(&beside, pieces).and_then(|()| fs::rename(&beside, place));
    written.inspect_err(|_| {
        let _ = fs::remove_file(&beside);
    })
}

fn write_pieces(path: &Path, pieces: impl Iterator<Item = Vec<u8>>) -> fs::Result<()> {
    let mut output = fs::Output::create(path)?;
    let (mut sum, mut waiting) = (0, Vec::with_capacity(2 * WRITE_BYTES));
    for piece in pieces {
        waiting.extend(piece);
        if waiting.len() >= WRITE_BYTES {
            sum = crc32c::crc32c_append(sum, &waiting);
            output.write_all(&waiting)?;
            waiting.clear();
        }
    }
    sum = crc32c::crc32c_append(sum, &waiting);
    waiting.extend(sum.to_le_bytes());
    output.write_all(&waiting)?;
    output.sync()
}

/// Path, size, time of the last change and samples of the content.
pub(in crate::data) fn fingerprint(path: &Path, bytes: &[u8]) -> Result<String, DataError> {
    let fs::Stamp {
        size_bytes,
        modified_nanos,
    } = fs::stamp(path)?;
    let mut hash = Sha256::new();
    hash.update(fs::canonicalize(path)?.as_os_str().as_encoded_bytes());
    hash.update([0]);
    hash.update(size_bytes.to_le_bytes());
    hash.update(modified_nanos.to_le_bytes());
    let last = bytes.len().saturating_sub(SAMPLE_BYTES);
    for sample in 0..NUM_SAMPLES {
        let start = last / (NUM_SAMPLES - 1) * sample;
        let start = if sample + 1 == NUM_SAMPLES { last } else { start };
        hash.update(&bytes[start..bytes.len().min(start + SAMPLE_BYTES)]);
    }
    Ok(format!("{:x}", hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_content_has_another_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        let cache = Cache::new(Some(dir.path().join("cache")));
        let place = |bytes: &[u8]| {
            fs::write_durable(&path, bytes).unwrap();
            cache.place(&path, bytes, "lines").unwrap().unwrap()
        };
        let first = place(b"one");
        assert_ne!(first, place(b"two"), "same length, perhaps the same nanosecond");
        assert_ne!(first, place(b"one "));
        assert!(first.extension().is_some_and(|extension| extension == "lines"));
        assert_eq!(Cache::new(None).place(&path, b"", "lines").unwrap(), None);
    }

    #[test]
    fn the_environment_names_the_folder() {
        let dir = |set: &[(&str, &str)]| {
            let env = |name: &str| {
                set.iter()
                    .find(|(key, _)| *key == name)
                    .map(|(_, value)| (*value).to_owned())
            };
            Cache::of_environment(&env).dir
        };
        assert_eq!(dir(&[("BRAZIER_CACHE", "/c"), ("HOME", "/h")]), Some("/c".into()));
        assert_eq!(
            dir(&[("XDG_CACHE_HOME", "/x"), ("HOME", "/h")]),
            Some("/x/brazier".into())
        );
        assert_eq!(
            dir(&[("XDG_CACHE_HOME", ""), ("HOME", "/h")]),
            Some("/h/.cache/brazier".into())
        );
        assert_eq!(dir(&[]), None);
    }

    #[test]
    fn files_are_kept_whole_by_several_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("kept");
        let content = |byte: u8| vec![byte; 100_000];
        std::thread::scope(|scope| {
            for byte in 0..8 {
                let place = &place;
                scope.spawn(move || keep(place, &content(byte)).unwrap());
            }
        });
        let found = fs::read(&place).unwrap();
        assert_eq!(found, content(found[0]));
        assert_eq!(
            fs::read_dir(dir.path()).unwrap(),
            [place],
            "nothing is left beside it"
        );
    }
}
