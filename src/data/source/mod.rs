//! Where rows come from. Every source gives rows by number, whatever holds them, so that any of them can be read again.

mod arrow;
mod cache;
mod cells;
mod columns;
mod energon;
mod files;
mod held;
mod hf;
mod jsonl;
mod lines;
mod parquet;
mod patterns;
mod recent;
mod table;
mod tar;
#[cfg(test)]
mod tests;
mod text;

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

pub use cache::{Cache, WORTH_KEEPING_BYTES};
pub(super) use cache::{fingerprint, keep_pieces};
pub(super) use energon::write_index;
pub use energon::{PrepareOptions, Prepared, SplitChoice, prepare};
pub(super) use tar::{holds_bytes, is_image, member_name};

use super::{
    error::{DataError, RowProblem},
    value::Value,
};
use crate::fs;
use held::hold;

/// Rows of a file, or of a folder that is one thing.
pub(super) trait Rows: Send + Sync {
    /// The file or folder. Paths in rows are relative to the folder of a file, and to a folder itself.
    fn path(&self) -> &Arc<Path>;

    /// Number of rows.
    fn len(&self) -> usize;

    /// The row; `index < len()`. May be called by several threads at once.
    fn read(&self, index: usize) -> Result<Value, RowProblem>;

    /// Number of the row for messages, from 1; the line, where there are lines.
    fn line(&self, index: usize) -> usize;

    /// What holds them, as the configuration calls it.
    fn what(&self) -> &'static str;

    /// Columns of types that are no type of a [`Value`], and are read as text.
    fn rewritten(&self) -> Vec<String> {
        Vec::new()
    }
}

/// What holds the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// By the name of the file, or by what is in the folder.
    #[default]
    Auto,
    /// One JSON object a line.
    Jsonl,
    /// Parquet.
    Parquet,
    /// Arrow, as a stream or as a file; also the folders of Hugging Face's `save_to_disk`.
    Arrow,
    /// Commas between fields, with a header.
    Csv,
    /// Tabs between fields, with a header.
    Tsv,
    /// A document in each file.
    Text,
    /// A document in each line.
    TextLines,
    /// Tar files of samples.
    WebDataset,
    /// A folder that megatron-energon prepared, or its `Metadataset` file.
    Energon,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 10] = [
        Format::Auto,
        Format::Jsonl,
        Format::Parquet,
        Format::Arrow,
        Format::Csv,
        Format::Tsv,
        Format::Text,
        Format::TextLines,
        Format::WebDataset,
        Format::Energon,
    ];

    /// As the configuration calls it.
    pub fn name(self) -> &'static str {
        match self {
            Format::Auto => "auto",
            Format::Jsonl => "jsonl",
            Format::Parquet => "parquet",
            Format::Arrow => "arrow",
            Format::Csv => "csv",
            Format::Tsv => "tsv",
            Format::Text => "text",
            Format::TextLines => "text_lines",
            Format::WebDataset => "webdataset",
            Format::Energon => "energon",
        }
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let all = Format::ALL;
        all.into_iter()
            .find(|format| format.name() == name)
            .ok_or_else(|| {
                let names: Vec<&str> = all.into_iter().map(Format::name).collect();
                format!("there are {}", names.join(", "))
            })
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which rows are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// A file, a folder, or a pattern like `data/*.jsonl`.
    pub path: PathBuf,
    /// What holds the rows.
    pub format: Format,
    /// Which split of a data set of several.
    pub split: Option<String>,
    /// Columns, or keys of rows, that are read; all if `None`.
    pub columns: Option<Vec<String>>,
    /// Whether cells of CSV that look like numbers are numbers; else they are text.
    pub numbers: bool,
}

impl Selection {
    /// All that is at a path.
    pub fn of(path: &Path) -> Self {
        Self {
            path: path.into(),
            format: Format::Auto,
            split: None,
            columns: None,
            numbers: false,
        }
    }

    /// Whether the path stands for the files that match it, rather than for itself.
    pub fn is_pattern(&self) -> bool {
        patterns::is_pattern(&self.path.to_string_lossy()) && !fs::exists(&self.path)
    }

    /// All files at the path, whatever they hold.
    ///
    /// # Errors
    /// If a folder cannot be listed.
    pub fn files(&self) -> Result<Vec<PathBuf>, DataError> {
        if self.is_pattern() {
            return files::of_pattern(&self.path);
        }
        if !fs::is_dir(&self.path) {
            return Ok(vec![self.path.clone()]);
        }
        let mut found = Vec::new();
        files::collect(&self.path, 0, &mut found)?;
        Ok(found)
    }
}

/// Opens all files of rows that are meant, in their order.
///
/// # Errors
/// If there is none; if one cannot be read or does not say what it holds; if a split would have to be guessed.
pub(super) fn open_all(selection: &Selection, cache: &Cache) -> Result<Vec<Box<dyn Rows>>, DataError> {
    let Selection { path, format, .. } = selection;
    let is_energon = energon::is_prepared(path) || energon::is_blend(path);
    if *format == Format::Energon || (*format == Format::Auto && is_energon) {
        return energon::open(
            path,
            selection.split.as_deref(),
            selection.columns.as_deref(),
            cache,
        );
    }
    let files = files::of(selection)?;
    files
        .iter()
        .map(|(path, format)| open(path, *format, selection, cache))
        .collect()
}

fn open(
    path: &Path,
    format: Format,
    selection: &Selection,
    cache: &Cache,
) -> Result<Box<dyn Rows>, DataError> {
    let wanted = selection.columns.as_deref();
    let cells = match selection.numbers {
        true => table::Cells::Typed,
        false => table::Cells::Text,
    };
    if format == Format::Text {
        return Ok(Box::new(text::Document::open(path)?));
    }
    let bytes = hold(path, cache)?;
    Ok(match format {
        Format::Auto | Format::Jsonl => Box::new(jsonl::Jsonl::open(path, bytes, cache, wanted)?),
        Format::Parquet => Box::new(parquet::ParquetFile::open(path, bytes, wanted)?),
        Format::Arrow => Box::new(arrow::ArrowFile::open(path, bytes, wanted)?),
        Format::Csv => Box::new(table::Table::open(path, bytes, cache, wanted, b',', cells)?),
        Format::Tsv => Box::new(table::Table::open(path, bytes, cache, wanted, b'\t', cells)?),
        Format::Text | Format::TextLines => Box::new(text::TextLines::open(path, bytes, cache)?),
        // A folder for the former is taken before; a file of it is a shard.
        Format::Energon | Format::WebDataset => Box::new(tar::Shard::open(path, bytes, cache, wanted)?),
    })
}
