//! Conversions, and the way back.

mod images;
mod limits;
mod replaced;
mod round_trip;
mod targets;

use std::path::{Path, PathBuf};

use super::{
    super::{source::open_all, value::Value},
    *,
};
use crate::fs;

struct Room {
    dir: tempfile::TempDir,
}

impl Room {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write_durable(&path, content.as_ref()).unwrap();
        path
    }

    fn options(&self, from: &str, to: &str) -> ConvertOptions {
        ConvertOptions {
            from: Selection::of(&self.path(from)),
            to: self.path(to),
            format: None,
            compression: None,
            images: None,
            image_dir: None,
            fields: Fields::default(),
            content_parts: false,
            to_split: None,
            limit: None,
            max_shard_rows: None,
            max_shard_bytes: None,
            new_keys: false,
            max_bad_rows: 0,
            overwrite: false,
        }
    }

    /// What the conversion says, or its error, with paths relative to the room.
    fn run(&self, options: &ConvertOptions) -> Result<String, String> {
        let done = convert(options, &Cache::default(), &|_, _, _| {});
        let here = format!("{}/", self.dir.path().display());
        done.map(|converted| converted.to_string().replace(&here, ""))
            .map_err(|error| error.to_string().replace(&here, ""))
    }

    fn convert(&self, from: &str, to: &str, change: impl FnOnce(&mut ConvertOptions)) -> String {
        self.try_convert(from, to, change)
            .unwrap_or_else(|error| panic!("{from} to {to}: {error}"))
    }

    fn try_convert(
        &self,
        from: &str,
        to: &str,
        change: impl FnOnce(&mut ConvertOptions),
    ) -> Result<String, String> {
        let mut options = self.options(from, to);
        change(&mut options);
        self.run(&options)
    }

    /// Rows, each as it is in the file.
    fn rows(&self, name: &str) -> Vec<Value> {
        let opened = open_all(&Selection::of(&self.path(name)), &Cache::default()).unwrap();
        let rows = opened
            .iter()
            .flat_map(|rows| (0..rows.len()).map(|index| rows.read(index).unwrap()));
        rows.collect()
    }

    /// Rows with the bytes of each image in its place, without what only some formats have.
    fn plain(&self, name: &str, nulls: Nulls) -> Vec<Value> {
        let opened = open_all(&Selection::of(&self.path(name)), &Cache::default()).unwrap();
        let rows = opened.iter().flat_map(|rows| {
            let folder = rows.path().parent().unwrap();
            (0..rows.len()).map(move |index| plain(rows.read(index).unwrap(), folder, nulls))
        });
        rows.collect()
    }

    /// Names of all files.
    fn files(&self, name: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.path(name)];
        while let Some(folder) = folders.pop() {
            for path in fs::read_dir(&folder).unwrap() {
                match fs::is_dir(&path) {
                    true => folders.push(path),
                    false => found.push(path.strip_prefix(self.path(name)).unwrap().display().to_string()),
                }
            }
        }
        found.sort();
        found
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Nulls {
    Kept,
    LeftOut,
}

fn plain(mut row: Value, folder: &Path, nulls: Nulls) -> Value {
    pictures::gather(&mut row, &Fields::default(), folder, false, &mut Vec::new()).unwrap();
    sorted(row, nulls)
}

/// Keys in order, no key of the sample, images without their names.
fn sorted(value: Value, nulls: Nulls) -> Value {
    match value {
        Value::List(values) => Value::List(values.into_iter().map(|value| sorted(value, nulls)).collect()),
        Value::Object(mut entries) => {
            if let Some((_, bytes @ Value::Bytes(_))) = entries.iter().find(|(name, _)| name == "bytes") {
                return bytes.clone();
            }
            entries
                .retain(|(name, value)| name != "__key__" && (nulls == Nulls::Kept || *value != Value::Null));
            entries.sort_by(|(one, _), (other, _)| one.cmp(other));
            Value::Object(
                entries
                    .into_iter()
                    .map(|(name, value)| (name, sorted(value, nulls)))
                    .collect(),
            )
        }
        value => value,
    }
}

/// Bytes that begin as a picture does.
fn picture(number: usize) -> Vec<u8> {
    const STARTS: [&[u8]; 4] = [
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
        b"GIF89a",
        b"RIFF\x10\0\0\0WEBP",
    ];
    let rest = (0..40).map(|byte: usize| (byte * number * 7 + number) as u8);
    STARTS[number % 4].iter().copied().chain(rest).collect()
}

fn json(text: &str) -> Value {
    Value::from_json(text.as_bytes()).unwrap()
}
