//! Earlier data gives way to new data: only what a conversion wrote, and only once the new data is in its place.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use super::{
    error::ConvertError,
    target::{IMAGES, is_split_name},
};
use crate::fs;

/// A file or folder that has its name. What had it before is kept until it is known that all else is in place, too.
pub(super) struct Placed {
    from: PathBuf,
    to: PathBuf,
    /// The folder of before.
    old: Option<PathBuf>,
}

impl Placed {
    /// Puts a file or folder in the place of another. If that fails, the other is where it was.
    pub(super) fn put(from: &Path, to: &Path) -> Result<Self, ConvertError> {
        let mut placed = Self {
            from: from.into(),
            to: to.into(),
            old: None,
        };
        if fs::is_dir(to) {
            // A folder does not go over another in one step.
            let old = beside(to, "old");
            fs::rename(to, &old)?;
            placed.old = Some(old);
        }
        match fs::rename(from, to) {
            Ok(()) => Ok(placed),
            Err(error) => Err(placed.restore(error.into())),
        }
    }

    /// Removes what was there before.
    pub(super) fn keep(self) -> Result<(), ConvertError> {
        fs::sync_dir(self.to.parent().unwrap_or(Path::new("")))?;
        match &self.old {
            Some(old) => Ok(fs::remove_dir_all(old)?),
            None => Ok(()),
        }
    }

    /// Takes it away again, because of the error.
    pub(super) fn undo(self, error: ConvertError) -> ConvertError {
        match fs::rename(&self.to, &self.from) {
            Ok(()) => self.restore(error),
            Err(second) => self.lost(&error, &second),
        }
    }

    fn restore(self, error: ConvertError) -> ConvertError {
        match self.old.as_ref().map(|old| fs::rename(old, &self.to)) {
            Some(Err(second)) => self.lost(&error, &second),
            Some(Ok(())) | None => error,
        }
    }

    fn lost(&self, error: &ConvertError, second: &fs::FsError) -> ConvertError {
        let whereabouts = self.old.as_ref().map_or(String::new(), |old| {
            format!(
                "\n  hint: what was there is {}; give it its name back",
                old.display()
            )
        });
        ConvertError::Target {
            path: self.to.clone(),
            reason: format!("{error}; then {second}{whereabouts}"),
        }
    }
}

/// A hidden name on the same file system, of this process alone.
pub(super) fn beside(path: &Path, what: &str) -> PathBuf {
    let mut hidden = OsString::from(".");
    hidden.push(path.file_name().unwrap_or_default());
    hidden.push(format!(".{}.{what}", std::process::id()));
    path.with_file_name(hidden)
}

/// Something in a folder that no conversion to a folder writes, or the folder if it does not hold all its files of rows.
pub(super) fn foreign(folder: &Path) -> Result<Option<PathBuf>, ConvertError> {
    const ROWS: [&str; 6] = [".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet", ".arrow", ".tar"];
    let (mut rows, mut others) = (Vec::new(), Vec::new());
    for path in fs::read_dir(folder)? {
        let name = name_of(&path);
        match (fs::is_dir(&path), name.as_str()) {
            (true, IMAGES) => {
                let inside = foreign_image(&path)?;
                if inside.is_some() {
                    return Ok(inside);
                }
            }
            // Of `data prepare`.
            (true, ".nv-meta") => {}
            (true, _) => return Ok(Some(path)),
            (false, "dataset_info.json" | "state.json") => others.push((path, ".arrow")),
            (false, name) if name.ends_with(".tar.idx") => others.push((path, ".tar")),
            (false, name) if !ROWS.iter().any(|ending| name.ends_with(ending)) => return Ok(Some(path)),
            (false, _) => rows.push((name, path)),
        }
    }
    // Numbers grow longer than the zeros before them.
    rows.sort_by_key(|(name, _)| (name.len(), name.clone()));
    let count = rows.len();
    for (number, (name, path)) in rows.iter().enumerate() {
        if !is_rows(name, number, count) {
            return Ok(Some(path.clone()));
        }
    }
    let Some((name, _)) = rows.first() else {
        return Ok(Some(folder.into()));
    };
    let other = others.into_iter().find(|(_, ending)| !name.ends_with(ending));
    Ok(other.map(|(path, _)| path))
}

/// Whether a conversion names the file of this number so.
fn is_rows(name: &str, number: usize, count: usize) -> bool {
    if name == format!("shard-{number:06}.tar") {
        return true;
    }
    let numbered = format!("-{number:05}-of-{count:05}");
    let split = |ending: &str| name.strip_suffix(ending)?.strip_suffix(&numbered);
    let lines = [".jsonl", ".jsonl.gz", ".jsonl.zst"];
    let is_whole = |ending: &&str| name.strip_suffix(*ending).is_some_and(is_split_name);
    let mut endings = [".parquet", ".arrow"].iter().chain(&lines);
    endings.any(|ending| split(ending).is_some_and(is_split_name)) || count == 1 && lines.iter().any(is_whole)
}

/// Something in a folder of images that is none.
pub(super) fn foreign_image(folder: &Path) -> Result<Option<PathBuf>, ConvertError> {
    foreign_below(folder, 0)
}

fn foreign_below(folder: &Path, depth: usize) -> Result<Option<PathBuf>, ConvertError> {
    const MAX_DEPTH: usize = 16;
    const ENDINGS: [&str; 10] = [
        "jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "pgm",
    ];
    for path in fs::read_dir(folder)? {
        let ending = path
            .extension()
            .unwrap_or_default()
            .to_string_lossy()
            .to_lowercase();
        let inside = match fs::is_dir(&path) {
            true if depth < MAX_DEPTH => foreign_below(&path, depth + 1)?,
            false if ENDINGS.contains(&ending.as_str()) => None,
            _ => Some(path),
        };
        if inside.is_some() {
            return Ok(inside);
        }
    }
    Ok(None)
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
