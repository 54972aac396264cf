//! Which files an entry of the configuration stands for: a file, a pattern, or a folder, and what each holds.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::{super::error::DataError, Format, Selection, held::plain_name, hf, patterns};
use crate::fs;

/// Deepest folder that is looked into.
const MAX_DEPTH: usize = 8;
/// Names by which files say to which split they belong, in the way of the Hugging Face hub.
const SPLITS: &[&str] = &["train", "test", "validation", "valid", "val", "dev", "eval"];

/// Files in their order, each with its format, which is never [`Format::Auto`].
pub(super) fn of(selection: &Selection) -> Result<Vec<(PathBuf, Format)>, DataError> {
    let Selection {
        path, format, split, ..
    } = selection;
    let failed = |reason: String| DataError::Source {
        path: path.clone(),
        reason,
    };
    if fs::is_dir(path) {
        return of_folder(selection);
    }
    let files = match selection.is_pattern() {
        false => vec![path.clone()],
        true => of_pattern(path)?,
    };
    let files = match split {
        Some(split) if files.len() > 1 => of_split(files, split, path)?,
        Some(split) if !has_split(&files[0], split) => {
            return Err(failed(format!(
                "is one file, not the split {split:?} of a data set\n  hint: leave split out"
            )));
        }
        _ => files,
    };
    files
        .into_iter()
        .map(|file| {
            let format = match format {
                Format::Auto => format_of(&file).ok_or_else(|| DataError::Format { path: file.clone() })?,
                given => *given,
            };
            Ok((file, format))
        })
        .collect()
}

/// The files that a pattern stands for; one at least.
pub(super) fn of_pattern(path: &Path) -> Result<Vec<PathBuf>, DataError> {
    let failed = |reason: String| DataError::Source {
        path: path.into(),
        reason,
    };
    let files = patterns::files(path).map_err(failed)?;
    match files.is_empty() {
        true => Err(failed("no file has such a name".to_owned())),
        false => Ok(files),
    }
}

/// What a file holds, by its name.
pub(super) fn format_of(path: &Path) -> Option<Format> {
    let name = plain_name(path);
    let (_, ending) = name.rsplit_once('.')?;
    match ending {
        "jsonl" | "ndjson" | "json" => Some(Format::Jsonl),
        "parquet" | "pq" => Some(Format::Parquet),
        "arrow" | "feather" => Some(Format::Arrow),
        "csv" => Some(Format::Csv),
        "tsv" | "tab" => Some(Format::Tsv),
        "txt" | "text" | "md" => Some(Format::Text),
        "tar" | "tgz" => Some(Format::WebDataset),
        _ => None,
    }
}

fn of_folder(selection: &Selection) -> Result<Vec<(PathBuf, Format)>, DataError> {
    let Selection {
        path, format, split, ..
    } = selection;
    if matches!(format, Format::Auto | Format::Arrow)
        && let Some(files) = hf::files(path, split.as_deref())?
    {
        return Ok(files.into_iter().map(|file| (file, Format::Arrow)).collect());
    }
    let mut files = Vec::new();
    collect(path, 0, &mut files)?;
    let is_wanted = |file: &PathBuf| match format {
        Format::Auto => format_of(file).is_some(),
        Format::TextLines => format_of(file) == Some(Format::Text),
        given => format_of(file) == Some(*given),
    };
    // A page about the data is none of it.
    let is_page = |file: &PathBuf| plain_name(file).starts_with("readme.");
    files.retain(|file| is_wanted(file) && !is_page(file));
    let formats: BTreeSet<String> = files
        .iter()
        .filter_map(|file| format_of(file))
        .map(|found| found.to_string())
        .collect();
    let failed = |reason: String| DataError::Source {
        path: path.clone(),
        reason,
    };
    if files.is_empty() {
        let what = match format {
            Format::Auto => "rows".to_owned(),
            given => format!("the format {given}"),
        };
        return Err(failed(format!("no file of {what} in this folder")));
    }
    if formats.len() > 1 {
        let formats: Vec<String> = formats.into_iter().collect();
        return Err(failed(format!(
            "files of several formats are in this folder: {}\n  hint: say which, by format",
            formats.join(", ")
        )));
    }
    let files = match split {
        Some(split) => of_split(files, split, path)?,
        None => of_one_split(files, path)?,
    };
    let found = |file: &Path| match format {
        Format::Auto => format_of(file).unwrap_or_default(),
        given => *given,
    };
    Ok(files
        .into_iter()
        .map(|file| (file.clone(), found(&file)))
        .collect())
}

/// All files below a folder that are not hidden.
pub(super) fn collect(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), DataError> {
    for path in fs::read_dir(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') {
            continue;
        }
        if !fs::is_dir(&path) {
            files.push(path);
        } else if depth < MAX_DEPTH {
            collect(&path, depth + 1, files)?;
        }
    }
    Ok(())
}

/// Files of a split; all files of a data set that knows no splits are its `train`, as on the hub.
fn of_split(files: Vec<PathBuf>, split: &str, path: &Path) -> Result<Vec<PathBuf>, DataError> {
    let known = splits(&files, path);
    if known.is_empty() && split == "train" {
        return Ok(files);
    }
    let of_split: Vec<PathBuf> = files.into_iter().filter(|file| has_split(file, split)).collect();
    match of_split.is_empty() {
        false => Ok(of_split),
        true => Err(no_split(path, split, &known)),
    }
}

/// The error for a split that is not there.
pub(super) fn no_split(path: &Path, split: &str, known: &[String]) -> DataError {
    let hint = match known.is_empty() {
        true => "it has no splits: leave split out".to_owned(),
        false => format!("it has {}", known.join(", ")),
    };
    DataError::Source {
        path: path.into(),
        reason: format!("there is no split {split:?}\n  hint: {hint}"),
    }
}

/// The error for a data set of several splits where none is named.
pub(super) fn which_split(path: &Path, known: &[String]) -> DataError {
    DataError::Source {
        path: path.into(),
        reason: format!("has the splits {}\n  hint: say which, by split", known.join(", ")),
    }
}

fn of_one_split(files: Vec<PathBuf>, path: &Path) -> Result<Vec<PathBuf>, DataError> {
    let known = splits(&files, path);
    match known.len() {
        0 | 1 => Ok(files),
        _ => Err(which_split(path, &known)),
    }
}

/// Splits that the files' names tell.
fn splits(files: &[PathBuf], path: &Path) -> Vec<String> {
    let has = |split: &&&str| {
        files.iter().any(|file| {
            let inside = file.strip_prefix(path).unwrap_or(file);
            has_split(inside, split)
        })
    };
    SPLITS
        .iter()
        .filter(has)
        .map(|split| (*split).to_owned())
        .collect()
}

/// Whether a file is of a split: `train.jsonl`, `train-00000-of-00002.parquet` or `train/0.parquet`.
fn has_split(file: &Path, split: &str) -> bool {
    let name = plain_name(file);
    let starts = name
        .strip_prefix(split)
        .is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric()));
    let folder = file.parent().and_then(Path::file_name);
    starts || folder.is_some_and(|folder| folder == split)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write_durable(&path, b"").unwrap();
        }
        dir
    }

    fn find(dir: &tempfile::TempDir, name: &str, format: Format, split: Option<&str>) -> String {
        let selection = Selection {
            format,
            split: split.map(str::to_owned),
            ..Selection::of(&dir.path().join(name))
        };
        match of(&selection) {
            Ok(files) => {
                let shown = files.iter().map(|(file, format)| {
                    let file = file.strip_prefix(dir.path()).unwrap();
                    format!("{}:{format}", file.display())
                });
                shown.collect::<Vec<_>>().join(" ")
            }
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn files_patterns_and_folders_are_found() {
        let dir = folder(&[
            "a.jsonl.gz",
            "b.jsonl",
            "c/1.parquet",
            "c/2.parquet",
            "c/README.md",
            "c/.hidden.parquet",
            "d.bin",
            "e/1.txt",
            "e/2.csv",
            "f/x",
        ]);
        let find = |name: &str, format: Format| find(&dir, name, format, None);
        assert_eq!(find("a.jsonl.gz", Format::Auto), "a.jsonl.gz:jsonl");
        assert_eq!(find("?.jsonl*", Format::Auto), "a.jsonl.gz:jsonl b.jsonl:jsonl");
        assert_eq!(find("c", Format::Auto), "c/1.parquet:parquet c/2.parquet:parquet");
        assert_eq!(find("d.bin", Format::TextLines), "d.bin:text_lines");
        assert_eq!(find("e", Format::TextLines), "e/1.txt:text_lines");
        assert_eq!(find("e", Format::Csv), "e/2.csv:csv");
        assert!(find("d.bin", Format::Auto).contains("d.bin: which kind of file is this?"));
        assert!(find("e", Format::Auto).contains("files of several formats are in this folder: csv, text"));
        assert!(find("f", Format::Auto).contains("no file of rows in this folder"));
        assert!(find("e", Format::Parquet).contains("no file of the format parquet in this folder"));
        assert!(find("*.tar", Format::Auto).contains("no file has such a name"));
    }

    #[test]
    fn a_split_is_never_guessed() {
        let dir = folder(&[
            "hub/data/train-00000-of-00002.parquet",
            "hub/data/train-00001-of-00002.parquet",
            "hub/data/test-00000-of-00001.parquet",
            "plain/training.parquet",
            "folders/train/0.parquet",
            "folders/val/0.parquet",
            "one/train.parquet",
        ]);
        let find = |name: &str, split: Option<&str>| find(&dir, name, Format::Auto, split);
        let two =
            "hub/data/train-00000-of-00002.parquet:parquet hub/data/train-00001-of-00002.parquet:parquet";
        assert_eq!(find("hub", Some("train")), two);
        assert!(find("hub", None).contains("has the splits train, test\n  hint: say which, by split"));
        assert!(find("hub", Some("dev")).contains("there is no split \"dev\"\n  hint: it has train, test"));
        assert_eq!(find("folders", Some("val")), "folders/val/0.parquet:parquet");
        assert_eq!(find("plain", Some("train")), "plain/training.parquet:parquet");
        assert_eq!(find("one", None), "one/train.parquet:parquet");
        assert!(find("plain", Some("test")).contains("it has no splits: leave split out"));
        assert!(find("plain/training.parquet", Some("train")).contains("is one file, not the split"));
    }
}
