//! What can be written, and how it is compressed.

use std::{fmt, path::Path};

use crate::fs;

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetFormat {
    /// One JSON object a line.
    Jsonl,
    /// Parquet.
    Parquet,
    /// An Arrow stream; in a folder, what `save_to_disk` writes.
    Arrow,
    /// WebDataset shards.
    Tar,
}

impl TargetFormat {
    pub(super) fn is_table(self) -> bool {
        matches!(self, TargetFormat::Parquet | TargetFormat::Arrow)
    }

    pub(super) fn ending(self) -> &'static str {
        match self {
            TargetFormat::Jsonl => "jsonl",
            TargetFormat::Parquet => "parquet",
            TargetFormat::Arrow => "arrow",
            TargetFormat::Tar => "tar",
        }
    }
}

impl fmt::Display for TargetFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.ending())
    }
}

/// How the content is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not.
    None,
    /// JSON lines or the pages of Parquet.
    Gzip,
    /// JSON lines, the pages of Parquet or the batches of Arrow.
    Zstd,
    /// The pages of Parquet.
    Snappy,
    /// The pages of Parquet or the batches of Arrow.
    Lz4,
}

impl Compression {
    pub(super) const ALL: [Self; 5] = [
        Compression::None,
        Compression::Gzip,
        Compression::Zstd,
        Compression::Snappy,
        Compression::Lz4,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
            Compression::Snappy => "snappy",
            Compression::Lz4 => "lz4",
        }
    }

    pub(super) fn is_of(self, format: TargetFormat) -> bool {
        match self {
            Compression::None => true,
            Compression::Gzip => matches!(format, TargetFormat::Jsonl | TargetFormat::Parquet),
            Compression::Zstd => format != TargetFormat::Tar,
            Compression::Snappy => format == TargetFormat::Parquet,
            Compression::Lz4 => format.is_table(),
        }
    }

    /// What is added to names of files that are compressed as a whole.
    pub(super) fn ending(self) -> &'static str {
        match self {
            Compression::Gzip => ".gz",
            Compression::Zstd => ".zst",
            Compression::None | Compression::Snappy | Compression::Lz4 => "",
        }
    }
}

/// What the name of a file says; `None` for a folder.
pub(super) fn by_name(path: &Path) -> Option<(TargetFormat, Compression)> {
    if fs::is_dir(path) {
        return None;
    }
    let name = path.file_name()?.to_string_lossy().to_lowercase();
    let (plain, compression) = match (name.strip_suffix(".gz"), name.strip_suffix(".zst")) {
        (Some(plain), _) => (plain, Compression::Gzip),
        (_, Some(plain)) => (plain, Compression::Zstd),
        _ => (name.as_str(), Compression::None),
    };
    let format = match plain.rsplit_once('.')?.1 {
        "jsonl" | "ndjson" | "json" => TargetFormat::Jsonl,
        "parquet" | "pq" => TargetFormat::Parquet,
        "arrow" => TargetFormat::Arrow,
        "tar" => TargetFormat::Tar,
        _ => return None,
    };
    let is_whole = compression != Compression::None;
    (!is_whole || format == TargetFormat::Jsonl).then_some((format, compression))
}

/// The name of a file of rows without what says its format and how it is compressed.
pub(super) fn without_endings(name: &str) -> &str {
    const ENDINGS: [&str; 8] = [
        ".gz", ".zst", ".jsonl", ".ndjson", ".json", ".parquet", ".pq", ".arrow",
    ];
    let known = |name: &str, ending: &str| {
        let at = name.len().checked_sub(ending.len()).filter(|&at| at > 0)?;
        name.get(at..)
            .is_some_and(|end| end.eq_ignore_ascii_case(ending))
            .then_some(at)
    };
    let cut = |name, endings: &[&str]| {
        endings
            .iter()
            .find_map(|ending| known(name, ending))
            .unwrap_or(name.len())
    };
    let plain = &name[..cut(name, &ENDINGS[..2])];
    &plain[..cut(plain, &ENDINGS[2..])]
}

/// Whether a name is that of a file which is not written, and hardly one of a folder.
pub(super) fn is_other_file(path: &Path) -> bool {
    const OTHERS: [&str; 11] = [
        "csv", "tsv", "tab", "txt", "text", "feather", "zip", "gz", "zst", "tgz", "yaml",
    ];
    let ending = path
        .extension()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase();
    OTHERS.contains(&ending.as_str()) && !fs::is_dir(path)
}
