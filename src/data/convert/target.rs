//! What is to be written, and where: nothing lies under the final name before all of it is there.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use super::{
    ConvertOptions, ImagePlace,
    error::ConvertError,
    formats::{Compression, TargetFormat, by_name, is_other_file, without_endings},
    replace::{Placed, beside, foreign, foreign_image},
};
use crate::fs;

/// What files are written through.
pub(super) const BUFFER_BYTES: usize = 1 << 20;
/// The folder of images beside rows in a folder; of a file, its name comes before this.
pub(super) const IMAGES: &str = "images";

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
    /// The folder that is there and gives way, without links.
    replaced: Option<PathBuf>,
    /// An image that is read and would be removed with that folder.
    endangered: OnceLock<PathBuf>,
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
            replaced: None,
            endangered: OnceLock::new(),
        })
    }

    /// Refuses to write over what is read, and over what is there unless that was asked for and is a data set.
    pub(super) fn check(&mut self, sources: &[&Path]) -> Result<(), ConvertError> {
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
            if fs::is_dir(&path) {
                self.replaced = Some(real);
            }
        }
        Ok(())
    }

    /// Whether images that are read must be told to [`Target::reads`].
    pub(super) fn replaces_a_folder(&self) -> bool {
        self.replaced.is_some()
    }

    /// Hears of an image that is read.
    pub(super) fn reads(&self, image: &Path) {
        let Some(replaced) = &self.replaced else {
            return;
        };
        // One that is not there is an error of its row.
        if fs::canonicalize(image).is_ok_and(|real| real.starts_with(replaced)) {
            self.endangered.get_or_init(|| image.into());
        }
    }

    /// Refuses to remove what was read.
    pub(super) fn check_reads(&self) -> Result<(), ConvertError> {
        match (self.endangered.get(), &self.replaced) {
            (Some(image), Some(replaced)) => {
                let reason = format!(
                    "it holds {}, which is read: not replaced\n  hint: name another target",
                    image.display()
                );
                Err(self.refused(replaced, &reason))
            }
            _ => Ok(()),
        }
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
            true if !self.is_folder => self.check_images(path),
            true => match foreign(path)? {
                None => Ok(()),
                Some(other) => Err(self.refused(
                    path,
                    &format!("it holds {}, which this command did not write: not replaced\n  hint: name another target", other.display()),
                )),
            },
            false => Ok(()),
        }
    }

    /// The folder of images gives way only together with its rows.
    fn check_images(&self, path: &Path) -> Result<(), ConvertError> {
        if !fs::exists(&self.path) {
            return Err(self.refused(
                path,
                "it is there, but no rows of its: not replaced\n  hint: name another target",
            ));
        }
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        for other in fs::read_dir(folder.unwrap_or(Path::new(".")))? {
            // Tables hold their images themselves unless asked.
            let is_other = other.file_name() != self.path.file_name()
                && by_name(&other).is_some_and(|(format, _)| format == TargetFormat::Jsonl);
            if is_other && folder_name(&other) == self.image_folder_name() {
                let reason = format!(
                    "it may hold images of {}, too: not replaced\n  hint: name another target",
                    other.display()
                );
                return Err(self.refused(path, &reason));
            }
        }
        match foreign_image(path)? {
            None => Ok(()),
            Some(other) => Err(self.refused(
                path,
                &format!("it holds {}, which this command did not write: not replaced\n  hint: name another target", other.display()),
            )),
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
            false => folder_name(&self.path),
        }
    }

    fn image_dir(&self) -> PathBuf {
        self.path.with_file_name(self.image_folder_name())
    }

    /// Where it is made.
    pub(super) fn partial(&self) -> Partial {
        let rows = beside(&self.path, "partial");
        Partial {
            images: match self.is_folder {
                true => rows.join(IMAGES),
                false => beside(&self.image_dir(), "partial"),
            },
            rows,
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
        self.check_reads()?;
        if has_images {
            // Each of them by itself would take far longer.
            fs::sync_file_system(&partial.images)?;
        }
        let images = match !self.is_folder && has_images {
            true => Some(Placed::put(&partial.images, &self.image_dir())?),
            false => None,
        };
        match (Placed::put(&partial.rows, &self.path), images) {
            (Ok(rows), images) => {
                rows.keep()?;
                images.map_or(Ok(()), Placed::keep)
            }
            (Err(error), Some(images)) => Err(images.undo(error)),
            (Err(error), None) => Err(error),
        }
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

/// The folder of images that belongs to a file of rows.
fn folder_name(rows: &Path) -> String {
    let name = rows.file_name().unwrap_or_default().to_string_lossy();
    format!("{}-{IMAGES}", without_endings(&name))
}

/// The name of the written split, which becomes part of names of files.
fn split_name(options: &ConvertOptions) -> Result<String, ConvertError> {
    let name = options
        .to_split
        .as_deref()
        .or(options.from.split.as_deref())
        .unwrap_or("train");
    match is_split_name(name) {
        true => Ok(name.to_owned()),
        false => Err(wrong(
            "--to-split",
            &format!("{name:?} is no name of a split: letters, digits and _ make one"),
        )),
    }
}

pub(super) fn is_split_name(name: &str) -> bool {
    let is_good = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
    !name.is_empty() && !name.starts_with('.') && name.chars().all(is_good)
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
