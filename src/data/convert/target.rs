//! What is to be written, and where: nothing lies under the final name before all of it is there.

use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};

use super::{
    ConvertOptions, ImagePlace,
    error::ConvertError,
    formats::{Compression, TargetFormat, by_name, is_other_file},
};
use crate::fs;

/// What files are written through.
pub(super) const BUFFER_BYTES: usize = 1 << 20;
/// The folder of images beside rows in a folder; of a file, its name comes before this.
const IMAGES: &str = "images";

/// What is to be written, with everything decided.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) format: TargetFormat,
    pub(super) compression: Compression,
    pub(super) images: ImagePlace,
    /// Whether it is a folder of files rather than one file.
    pub(super) is_folder: bool,
    pub(super) split: String,
    path: PathBuf,
    overwrite: bool,
}

impl Target {
    pub(super) fn of(options: &ConvertOptions) -> Result<Self, ConvertError> {
        if options.to.file_name().is_none() {
            return Err(wrong(
                "TO",
                "it names no file and no folder\n  hint: write the folder by its name",
            ));
        }
        let by_name = by_name(&options.to);
        if by_name.is_none() && is_other_file(&options.to) {
            return Err(wrong(
                "TO",
                "no file of such a name is written\n  hint: name it .jsonl, .parquet, .arrow or .tar",
            ));
        }
        let format = options.format.or(by_name.map(|(format, _)| format)).ok_or_else(|| {
            wrong(
                "TO",
                "its name does not say what to write\n  hint: name a file .jsonl, .parquet, .arrow or .tar, or give --format",
            )
        })?;
        if let Some((named, _)) = by_name.filter(|(named, _)| *named != format) {
            return Err(wrong(
                "--format",
                &format!("{format}, but the name of the file says {named}"),
            ));
        }
        let named = by_name.map(|(_, compression)| compression);
        let compression = match (options.compression, named) {
            (Some(given), Some(named)) if format == TargetFormat::Jsonl && given != named => {
                return Err(wrong(
                    "--compression",
                    &format!("{}, but the name of the file says {}", given.name(), named.name()),
                ));
            }
            (Some(given), _) => given,
            (None, Some(named)) if format == TargetFormat::Jsonl => named,
            // What pyarrow and `datasets` write.
            (None, _) if format == TargetFormat::Parquet => Compression::Snappy,
            (None, _) => Compression::None,
        };
        if !compression.is_of(format) {
            let all = Compression::ALL.into_iter().filter(|known| known.is_of(format));
            let known: Vec<&str> = all.map(Compression::name).collect();
            let reason = format!(
                "{format} is not compressed by {}; it takes {}",
                compression.name(),
                known.join(", ")
            );
            return Err(wrong("--compression", &reason));
        }
        let images = options.images.unwrap_or(match format {
            TargetFormat::Jsonl => ImagePlace::Files,
            _ => ImagePlace::Inline,
        });
        if format == TargetFormat::Tar && images != ImagePlace::Inline {
            return Err(wrong(
                "--images",
                "a shard holds its images itself: leave it out, or write inline",
            ));
        }
        let is_folder = by_name.is_none();
        if !is_folder && (options.max_shard_rows.is_some() || options.max_shard_bytes.is_some()) {
            return Err(wrong(
                "--max-shard-rows, --max-shard-size",
                "one file is no shards\n  hint: name a folder, and give --format",
            ));
        }
        Ok(Self {
            format,
            compression,
            images,
            is_folder,
            split: split_name(options)?,
            path: options.to.clone(),
            overwrite: options.overwrite,
        })
    }

    /// Refuses to write over what is read, and over what is there unless that was asked for and is a data set.
    pub(super) fn check(&self, sources: &[&Path]) -> Result<(), ConvertError> {
        let finals = [
            Some(self.path.clone()),
            (!self.is_folder && self.images == ImagePlace::Files).then(|| self.image_dir()),
        ];
        for path in finals.into_iter().flatten().filter(|path| fs::exists(path)) {
            let real = fs::canonicalize(&path)?;
            for source in sources {
                if fs::canonicalize(source)?.starts_with(&real) {
                    return Err(self.refused(
                        &path,
                        "it holds the rows that are read\n  hint: name another target",
                    ));
                }
            }
            self.check_one(&path)?;
        }
        Ok(())
    }

    fn check_one(&self, path: &Path) -> Result<(), ConvertError> {
        let is_dir = fs::is_dir(path);
        if is_dir && fs::read_dir(path)?.is_empty() && (self.is_folder || path != self.path) {
            return Ok(());
        }
        if !self.overwrite {
            return Err(self.refused(path, "it is there already\n  hint: --force-overwrite replaces it"));
        }
        let should_be_dir = self.is_folder || path != self.path;
        match is_dir {
            _ if is_dir != should_be_dir => {
                let what = if is_dir { "a folder" } else { "a file" };
                Err(self.refused(path, &format!("it is {what}: not replaced\n  hint: name another target")))
            }
            true => match foreign(path, 0)? {
                None => Ok(()),
                Some(other) => Err(self.refused(
                    path,
                    &format!("it holds {}, which this command did not write: not replaced\n  hint: name another target", other.display()),
                )),
            },
            false => Ok(()),
        }
    }

    fn refused(&self, path: &Path, reason: &str) -> ConvertError {
        ConvertError::Target {
            path: path.into(),
            reason: reason.to_owned(),
        }
    }

    /// How rows name the folder of images.
    pub(super) fn image_folder_name(&self) -> String {
        match self.is_folder {
            true => IMAGES.to_owned(),
            false => {
                let name = self.path.file_name().unwrap_or_default().to_string_lossy();
                let stem = name.split('.').next().unwrap_or_default();
                format!("{stem}-{IMAGES}")
            }
        }
    }

    fn image_dir(&self) -> PathBuf {
        self.path.with_file_name(self.image_folder_name())
    }

    /// Where it is made.
    pub(super) fn partial(&self) -> Partial {
        let beside = beside(&self.path, "partial");
        Partial {
            rows: beside.clone(),
            images: match self.is_folder {
                true => beside.join(IMAGES),
                false => self
                    .path
                    .with_file_name(beside_name(&self.image_folder_name().into(), "partial")),
            },
        }
    }

    /// Name of a shard in the folder, once it is known how many there are.
    pub(super) fn shard_name(&self, number: usize, count: usize) -> String {
        let ending = self.format.ending();
        let of_many = format!("{number:05}-of-{count:05}");
        match self.format {
            TargetFormat::Tar => format!("shard-{number:06}.{ending}"),
            TargetFormat::Arrow => format!("data-{of_many}.{ending}"),
            TargetFormat::Parquet => format!("{}-{of_many}.{ending}", self.split),
            TargetFormat::Jsonl if count == 1 => {
                format!("{}.{ending}{}", self.split, self.compression.ending())
            }
            TargetFormat::Jsonl => format!("{}-{of_many}.{ending}{}", self.split, self.compression.ending()),
        }
    }

    /// Gives what was made its name.
    pub(super) fn commit(&self, partial: &Partial, has_images: bool) -> Result<(), ConvertError> {
        if !self.is_folder && has_images {
            replace(&partial.images, &self.image_dir())?;
        }
        replace(&partial.rows, &self.path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Where things are made.
pub(super) struct Partial {
    /// The file or folder of rows.
    pub(super) rows: PathBuf,
    /// The folder of images.
    pub(super) images: PathBuf,
}

impl Partial {
    /// Makes room, and a folder for the rows if they are to have one.
    pub(super) fn begin(&self, is_folder: bool) -> Result<(), ConvertError> {
        self.remove()?;
        match (is_folder, self.rows.parent()) {
            (true, _) => fs::create_dir_all(&self.rows)?,
            (false, Some(folder)) if !folder.as_os_str().is_empty() => fs::create_dir_all(folder)?,
            (false, _) => {}
        }
        Ok(())
    }

    pub(super) fn remove(&self) -> Result<(), ConvertError> {
        match fs::is_dir(&self.rows) {
            true => fs::remove_dir_all(&self.rows)?,
            false => fs::remove_file(&self.rows)?,
        }
        Ok(fs::remove_dir_all(&self.images)?)
    }
}

/// Puts a file or folder in the place of another.
fn replace(from: &Path, to: &Path) -> Result<(), ConvertError> {
    if fs::is_dir(to) {
        // A folder does not go over another in one step.
        let old = beside(to, "old");
        fs::rename(to, &old)?;
        fs::rename(from, to)?;
        fs::remove_dir_all(&old)?;
    } else {
        fs::rename(from, to)?;
    }
    Ok(fs::sync_dir(to.parent().unwrap_or(Path::new("")))?)
}

/// A hidden name on the same file system, of this process alone.
fn beside(path: &Path, what: &str) -> PathBuf {
    path.with_file_name(beside_name(
        &path.file_name().unwrap_or_default().to_owned(),
        what,
    ))
}

fn beside_name(name: &OsString, what: &str) -> OsString {
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.{what}", std::process::id()));
    hidden
}

/// Something in a folder that no conversion writes.
fn foreign(folder: &Path, depth: usize) -> Result<Option<PathBuf>, ConvertError> {
    const MAX_DEPTH: usize = 16;
    const ENDINGS: [&str; 17] = [
        "jsonl", "gz", "zst", "parquet", "arrow", "tar", "idx", "jpg", "jpeg", "png", "webp", "bmp", "gif",
        "tif", "tiff", "ppm", "pgm",
    ];
    for path in fs::read_dir(folder)? {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let ending = path
            .extension()
            .unwrap_or_default()
            .to_string_lossy()
            .to_lowercase();
        if fs::is_dir(&path) {
            let inside = match name.as_str() {
                // Of `data prepare`.
                ".nv-meta" => None,
                _ if depth >= MAX_DEPTH => Some(path),
                _ => foreign(&path, depth + 1)?,
            };
            if inside.is_some() {
                return Ok(inside);
            }
        } else if !ENDINGS.contains(&ending.as_str())
            && !["dataset_info.json", "state.json"].contains(&name.as_str())
        {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// The name of the written split, which becomes part of names of files.
fn split_name(options: &ConvertOptions) -> Result<String, ConvertError> {
    let name = options
        .to_split
        .as_deref()
        .or(options.from.split.as_deref())
        .unwrap_or("train");
    let is_good = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
    match !name.is_empty() && !name.starts_with('.') && name.chars().all(is_good) {
        true => Ok(name.to_owned()),
        false => Err(wrong(
            "--to-split",
            &format!("{name:?} is no name of a split: letters, digits and _ make one"),
        )),
    }
}

pub(super) fn wrong(option: &str, reason: &str) -> ConvertError {
    ConvertError::Option {
        option: option.to_owned(),
        reason: reason.to_owned(),
    }
}

/// A file that cannot be written, by the word of what writes it.
pub(super) fn failed(path: &Path, reason: impl fmt::Display) -> ConvertError {
    ConvertError::Write {
        path: path.into(),
        reason: reason.to_string(),
    }
}
