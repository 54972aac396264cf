//! Which members make a sample, and where they lie.

use std::{collections::HashSet, io::Cursor, path::Path};

use serde::{Deserialize, Serialize};
use tar::{Archive, Entry, EntryType};

use super::super::{
    super::error::DataError,
    cache::{self, Cache, WORTH_KEEPING_BYTES},
};
use crate::fs;

const MAX_NAME_BYTES: usize = 4096;

/// Members that follow each other and have one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::data::source) struct Sample {
    /// Folder and name up to the first dot.
    pub(in crate::data::source) key: String,
    /// First block of its first member's headers.
    pub(in crate::data::source) offset: usize,
    pub(in crate::data::source) members: Vec<Member>,
}

/// A file in the tar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::data::source) struct Member {
    /// The name behind its first dot.
    pub(in crate::data::source) part: String,
    /// First byte of the content in the tar.
    pub(in crate::data::source) start: usize,
    pub(in crate::data::source) size: usize,
}

/// The samples of a shard, and where the last one ends.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(in crate::data::source) struct Index {
    pub(in crate::data::source) samples: Vec<Sample>,
    /// Where the blocks of zeros begin.
    pub(in crate::data::source) end: usize,
}

/// The samples of a shard, from the cache if they are there.
pub(super) fn open(path: &Path, bytes: &[u8], cache: &Cache) -> Result<Index, DataError> {
    let place = match bytes.len() as u64 >= WORTH_KEEPING_BYTES {
        true => cache.place(path, bytes, "members")?,
        false => None,
    };
    if let Some(place) = place.as_deref().filter(|place| fs::exists(place)) {
        // One that is damaged is made again.
        if let Ok(index) = serde_json::from_slice(&fs::read(place)?) {
            return Ok(index);
        }
    }
    let index = find(bytes).map_err(|reason| DataError::Source {
        path: path.into(),
        reason,
    })?;
    if let Some(place) = place {
        let json = serde_json::to_vec(&index).map_err(|error| DataError::Source {
            path: place.clone(),
            reason: error.to_string(),
        })?;
        cache::keep(&place, &json)?;
    }
    Ok(index)
}

fn find(bytes: &[u8]) -> Result<Index, String> {
    let damaged = |error: std::io::Error| format!("no tar file that can be read: {error}");
    let mut archive = Archive::new(Cursor::new(bytes));
    let mut samples: Vec<Sample> = Vec::new();
    let mut keys = HashSet::new();
    let mut end = 0_usize;
    for entry in archive.entries_with_seek().map_err(damaged)? {
        let entry = entry.map_err(damaged)?;
        let name = std::str::from_utf8(&entry.path_bytes())
            .map_err(|error| format!("a member's name is {error}"))?
            .to_owned();
        let (start, size) = (entry.raw_file_position() as usize, entry.size() as usize);
        // Headers of long names come before the member's own.
        let offset = end;
        end = start
            .checked_add(size)
            .filter(|&end| end <= bytes.len())
            .ok_or_else(|| format!("{name:?} ends behind the end of the file: it was cut off"))?
            .next_multiple_of(512);
        if !is_file(&entry, &name)? {
            continue;
        }
        check_name(&name)?;
        let Some((key, part)) = split(&name) else { continue };
        let member = Member {
            part: part.to_owned(),
            start,
            size,
        };
        match samples.last_mut().filter(|sample| sample.key == key) {
            Some(sample) if sample.members.iter().any(|known| known.part == part) => {
                return Err(format!("{name:?} is there twice"));
            }
            Some(sample) => sample.members.push(member),
            None if !keys.insert(key.to_owned()) => {
                return Err(format!(
                    "members of the sample {key:?} do not follow each other, or two samples have this name"
                ));
            }
            None => samples.push(Sample {
                key: key.to_owned(),
                offset,
                members: vec![member],
            }),
        }
    }
    check_end(bytes, end)?;
    Ok(Index { samples, end })
}

/// Two blocks of zeros end a tar. Without them, it may have been cut between two members.
fn check_end(bytes: &[u8], end: usize) -> Result<(), String> {
    let mark = bytes.get(end..end + 512);
    match mark.is_some_and(|mark| mark.iter().all(|&byte| byte == 0)) {
        true => Ok(()),
        false => Err("it has no end mark: it was cut off, or is no tar file".to_owned()),
    }
}

fn is_file<R: std::io::Read>(entry: &Entry<'_, R>, name: &str) -> Result<bool, String> {
    match entry.header().entry_type() {
        EntryType::Regular | EntryType::Continuous => Ok(true),
        EntryType::Directory | EntryType::XGlobalHeader => Ok(false),
        other => Err(format!("{name:?} is no file but {other:?}: refused")),
    }
}

/// Names are never used as paths here, but whoever unpacks such a shard writes outside of the folder.
fn check_name(name: &str) -> Result<(), String> {
    let escapes = name.starts_with('/') || name.split('/').any(|part| part == "..");
    if escapes || name.contains(['\0', '\n']) || name.len() > MAX_NAME_BYTES {
        let shown: String = name.chars().take(80).collect();
        return Err(format!(
            "the name {shown:?} leads out of the tar, or is none: refused"
        ));
    }
    Ok(())
}

/// The name of a member, if readers take it apart again into this key and part.
pub(in crate::data) fn member_name(key: &str, part: &str) -> Result<String, String> {
    let name = format!("{key}.{part}");
    check_name(&name)?;
    match split(&name) == Some((key, part)) {
        true => Ok(name),
        false => Err(format!(
            "{name:?} is no name for {part:?} of the sample {key:?}: keys have no dot in their last part"
        )),
    }
}

/// Key and part: `a/1.left.jpg` is `left.jpg` of `a/1`. What is no member of a sample gives `None`: names without a
/// dot, and those under `__x__`, which WebDataset keeps for itself.
fn split(name: &str) -> Option<(&str, &str)> {
    let name = name.strip_prefix("./").unwrap_or(name);
    let first = name.split('/').next().unwrap_or_default();
    if first.len() >= 4 && first.starts_with("__") && first.ends_with("__") {
        return None;
    }
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    let dot = file + name[file..].find('.')?;
    (dot > file).then(|| (&name[..dot], &name[dot + 1..]))
}
