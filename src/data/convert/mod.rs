//! Rows of any source as JSON lines, Parquet, Arrow or tar shards: `brazier data convert`.
//!
//! Images keep their bytes. What a format cannot hold is an error with file and line, or is said in the [`Converted`].

mod arrow;
mod columns;
mod error;
mod formats;
mod json;
mod jsonl;
mod notes;
mod parquet;
mod pictures;
mod read;
mod replace;
mod schema;
mod shards;
mod tar;
mod target;
#[cfg(test)]
mod tests;
mod types;

use std::path::{Path, PathBuf};

pub use error::ConvertError;
pub use formats::{Compression, TargetFormat};
pub use notes::Converted;
pub use pictures::ImagePlace;

use super::{
    error::RowProblem,
    rows::{Fields, text_as_parts},
    source::{self, Cache, Selection},
    value::Value,
};
use crate::fs;
use error::Refusal;
use notes::Notes;
use read::Source;
use schema::{Columns, Shapes};
use shards::{Limits, Shards};
use target::{Target, wrong};

/// Size of a file in a folder; that of `datasets`.
const SHARD_BYTES: u64 = 500_000_000;

/// What to convert to what.
#[derive(Debug, Clone)]
pub struct ConvertOptions {
    /// The rows.
    pub from: Selection,
    /// The file or folder to write.
    pub to: PathBuf,
    /// What to write; `None`: what the name of `to` says.
    pub format: Option<TargetFormat>,
    /// How files are compressed; `None`: as the name of `to` says, Parquet by Snappy, all else not.
    pub compression: Option<Compression>,
    /// Where images go; `None`: into files beside JSON lines, and into the rows of all else.
    pub images: Option<ImagePlace>,
    /// Where paths of images start; `None`: the folder of the file that names them.
    pub image_dir: Option<PathBuf>,
    /// Names of keys that hold images, turns and their content.
    pub fields: Fields,
    /// Whether the text of a turn becomes a list of one part, so that a column holds turns with images and without.
    pub content_parts: bool,
    /// Name of the split that is written; `None`: that of `from`, or `train`.
    pub to_split: Option<String>,
    /// Most rows to convert.
    pub limit: Option<usize>,
    /// Most rows of a file in a folder.
    pub max_shard_rows: Option<usize>,
    /// About the most bytes of a file in a folder; `None`: 500 MB, but all JSON lines in one file.
    pub max_shard_bytes: Option<u64>,
    /// Whether samples of shards are numbered even where rows bring their `__key__`.
    pub new_keys: bool,
    /// Wrong rows that may be left out.
    pub max_bad_rows: usize,
    /// Whether an earlier data set is replaced.
    pub overwrite: bool,
}

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Looking at all rows for the columns of a table.
    Columns,
    /// Writing.
    Rows,
}

/// A file that rows are written to.
trait Sink {
    /// Writes a row with its key in a shard. One that is refused leaves nothing.
    fn push(&mut self, key: &str, row: Value) -> Result<(), Refusal>;

    /// About the size of the file by now.
    fn size_bytes(&self) -> u64;

    /// Makes the file whole and durable. Says how many names of images it does not keep.
    fn finish(self: Box<Self>) -> Result<usize, ConvertError>;
}

/// Converts a data set. `progress` hears of the rows that are done and their total.
///
/// # Errors
/// If rows are wrong, do not fit into a table, or the target must not or cannot be written. The target is then what it was.
pub fn convert(
    options: &ConvertOptions,
    cache: &Cache,
    progress: &dyn Fn(Stage, usize, usize),
) -> Result<Converted, ConvertError> {
    let mut target = Target::of(options)?;
    let opened = source::open_all(&options.from, cache)?;
    let mut sources: Vec<&Path> = opened.iter().map(|rows| rows.path().as_ref()).collect();
    if !options.from.is_pattern() {
        sources.push(&options.from.path);
    }
    sources.extend(options.image_dir.as_deref().filter(|folder| fs::exists(folder)));
    target.check(&sources)?;
    let mut source = Source::new(&opened, options.limit, options.max_bad_rows);
    if source.num_rows == 0 {
        return Err(wrong("FROM", "there is no row to convert"));
    }
    let mut notes = Notes::of(&opened, options, &target);
    let columns = match target.format.is_table() {
        true => look(options, &target, &mut source, &mut notes, progress)?,
        false => Vec::new(),
    };
    let partial = target.partial();
    partial.begin(target.is_folder)?;
    let shards = Shards::new(
        &target,
        &partial,
        &options.fields,
        &columns,
        limits(options, &target),
        options.new_keys,
    );
    let made = write(options, shards, &mut source, &mut notes, progress).and_then(
        |(num_rows, num_files, num_images)| {
            target.commit(&partial, num_images > 0)?;
            Ok(Converted {
                path: target.path().into(),
                format: target.format,
                is_folder: target.is_folder,
                num_rows,
                num_files,
                num_image_files: num_images,
                bad: std::mem::take(&mut source.bad),
                notes,
            })
        },
    );
    if made.is_err() {
        // The first error is the one to report.
        let _ = partial.remove();
    }
    made
}

fn limits(options: &ConvertOptions, target: &Target) -> Limits {
    let is_asked_for = options.max_shard_rows.is_some() || target.format == TargetFormat::Jsonl;
    let bytes = if is_asked_for { u64::MAX } else { SHARD_BYTES };
    Limits {
        rows: options.max_shard_rows.unwrap_or(usize::MAX),
        bytes: options.max_shard_bytes.unwrap_or(bytes),
    }
}

/// Finds the columns for all rows.
fn look(
    options: &ConvertOptions,
    target: &Target,
    source: &mut Source<'_>,
    notes: &mut Notes,
    progress: &dyn Fn(Stage, usize, usize),
) -> Result<Vec<(String, types::Type)>, ConvertError> {
    let mut shapes = Shapes::default();
    let work = |row: &mut Value, folder: &Path| {
        let mut places = Vec::new();
        if options.content_parts {
            text_as_parts(row, &options.fields)?;
        }
        let folder = options.image_dir.as_deref().unwrap_or(folder);
        match target.images {
            ImagePlace::Inline => pictures::foresee(row, &options.fields, folder, false, &mut places)?,
            ImagePlace::Keep => pictures::held(row, &options.fields, &mut places)?,
            ImagePlace::Files => {
                pictures::foresee(row, &options.fields, folder, true, &mut Vec::new())?;
                // Names take the places of images.
                pictures::place(row, &options.fields, &mut |_, _| Ok(String::new()))?;
            }
        }
        Ok::<_, RowProblem>(places)
    };
    source.each(
        work,
        &|done, all| progress(Stage::Columns, done, all),
        |_, sample, row, images| {
            notes.see(&row, sample);
            Ok(shapes.add(&row, images, sample)?)
        },
    )?;
    let Columns { columns, widened } = shapes.finish()?;
    notes.widened = widened;
    if target.format == TargetFormat::Parquet
        && let Some(place) = columns
            .iter()
            .find_map(|(name, inside)| inside.empty_struct(name))
    {
        let reason = format!(
            "{place:?} is an object without keys in every row, which Parquet does not hold\n  hint: write arrow, or leave it out by --columns"
        );
        return Err(wrong("--format", &reason));
    }
    Ok(columns)
}

fn write(
    options: &ConvertOptions,
    mut shards: Shards<'_>,
    source: &mut Source<'_>,
    notes: &mut Notes,
    progress: &dyn Fn(Stage, usize, usize),
) -> Result<(usize, usize, usize), ConvertError> {
    let target = shards.target();
    let (images, format) = (target.images, target.format);
    // Where names take the places of images, what is around them stays.
    let within = images == ImagePlace::Files || format == TargetFormat::Tar;
    let work = |row: &mut Value, folder: &Path| {
        if options.content_parts {
            text_as_parts(row, &options.fields)?;
        }
        let folder = options.image_dir.as_deref().unwrap_or(folder);
        if target.replaces_a_folder() {
            pictures::paths(row, &options.fields, folder, &mut |image| target.reads(image))?;
        }
        match images {
            ImagePlace::Keep => Ok(()),
            ImagePlace::Inline | ImagePlace::Files => {
                pictures::gather(row, &options.fields, folder, within, &mut Vec::new())
            }
        }
    };
    source.each(
        work,
        &|done, all| progress(Stage::Rows, done, all),
        |number, sample, row, ()| {
            target.check_reads()?;
            if !format.is_table() {
                notes.see(&row, sample);
            }
            shards.push(number, row, notes)
        },
    )?;
    let num_rows = shards.num_rows;
    if let (0, Some(first)) = (num_rows, source.bad.first()) {
        return Err(wrong("FROM", &format!("no row is left; the first is {first}")));
    }
    let (num_files, num_images) = shards.finish(notes)?;
    Ok((num_rows, num_files, num_images))
}
