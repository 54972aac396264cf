//! What is at a path: files and rows, keys and their types, images, the first rows.

use std::{
    collections::BTreeSet,
    fmt::{self, Write as _},
    path::{Path, PathBuf},
};

use super::{
    batch::SampleId,
    error::{DataError, RowError},
    source::{Cache, Rows, Selection, open_all},
    value::Value,
};
use crate::fs;

/// Rows whose keys and images are looked at, spread over all.
const SAMPLED_ROWS: usize = 1000;
/// Characters of a text that are shown.
const SHOWN_CHARS: usize = 60;
/// Values of a list that are shown.
const SHOWN_VALUES: usize = 4;

/// What was found at a path. Displays as a page of text.
#[derive(Debug)]
pub struct Inspection {
    files: Vec<(PathBuf, &'static str, usize)>,
    shape: Shape,
    num_sampled: usize,
    images: Images,
    first: Vec<String>,
    wrong: Vec<String>,
}

#[derive(Debug, Default)]
struct Images {
    in_rows: usize,
    in_files: usize,
    missing: Vec<String>,
}

/// The types that values had.
#[derive(Debug, Default)]
struct Shape {
    num_seen: usize,
    kinds: BTreeSet<&'static str>,
    inside: Option<Box<Shape>>,
    keys: Vec<(String, Shape)>,
}

/// Opens what is meant and looks at rows spread over all of it; shows the first `num_shown`.
///
/// # Errors
/// As opening for training. Rows that cannot be read are part of what is found.
pub fn inspect(selection: &Selection, cache: &Cache, num_shown: usize) -> Result<Inspection, DataError> {
    let opened = open_all(selection, cache)?;
    let num_rows: usize = opened.iter().map(|rows| rows.len()).sum();
    let mut found = Inspection {
        files: opened
            .iter()
            .map(|rows| (rows.path().to_path_buf(), rows.what(), rows.len()))
            .collect(),
        shape: Shape::default(),
        num_sampled: num_rows.min(SAMPLED_ROWS),
        images: Images::default(),
        first: Vec::new(),
        wrong: Vec::new(),
    };
    for number in 0..num_rows.min(num_shown) {
        let (rows, index) = locate(&opened, number);
        let row = rows
            .read(index)
            .map_or_else(|problem| problem.to_string(), |row| shown(&row));
        found.first.push(row);
    }
    for number in 0..found.num_sampled {
        let (rows, index) = locate(
            &opened,
            (number as u128 * num_rows as u128 / found.num_sampled as u128) as usize,
        );
        match rows.read(index) {
            Ok(row) => {
                found.shape.add(&row);
                found
                    .images
                    .add(&row, rows.path().parent().unwrap_or(Path::new("")), false);
            }
            Err(problem) => {
                let sample = SampleId {
                    file: rows.path().clone(),
                    line: rows.line(index),
                };
                found.wrong.push(RowError { sample, problem }.to_string());
            }
        }
    }
    Ok(found)
}

/// The row of a number over all files.
fn locate(opened: &[Box<dyn Rows>], mut number: usize) -> (&dyn Rows, usize) {
    let mut last = &opened[0];
    for rows in opened {
        last = rows;
        if number < rows.len() {
            break;
        }
        number -= rows.len();
    }
    (last.as_ref(), number)
}

impl Shape {
    fn add(&mut self, value: &Value) {
        self.num_seen += 1;
        match value {
            Value::List(values) => {
                let inside = self.inside.get_or_insert_default();
                values.iter().for_each(|value| inside.add(value));
            }
            Value::Object(entries) => {
                for (name, value) in entries {
                    match self.keys.iter_mut().find(|(known, _)| known == name) {
                        Some((_, shape)) => shape.add(value),
                        None => {
                            let mut shape = Shape::default();
                            shape.add(value);
                            self.keys.push((name.clone(), shape));
                        }
                    }
                }
                self.kinds.insert("object");
            }
            Value::Null => drop(self.kinds.insert("null")),
            Value::Bool(_) => drop(self.kinds.insert("bool")),
            Value::Int(_) => drop(self.kinds.insert("int")),
            Value::Float(_) => drop(self.kinds.insert("float")),
            Value::Text(_) => drop(self.kinds.insert("text")),
            Value::Bytes(_) => drop(self.kinds.insert("bytes")),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts: Vec<String> = self
            .kinds
            .iter()
            .filter(|&&kind| kind != "object")
            .map(|&kind| kind.to_owned())
            .collect();
        if self.kinds.contains("object") {
            let keys = self
                .keys
                .iter()
                .map(|(name, shape)| format!("{}: {shape}", quoted(name)));
            parts.push(format!("{{{}}}", keys.collect::<Vec<_>>().join(", ")));
        }
        match &self.inside {
            Some(inside) if inside.num_seen > 0 => parts.push(format!("list of {inside}")),
            Some(_) => parts.push("empty list".to_owned()),
            None => {}
        }
        f.write_str(&parts.join(" or "))
    }
}

impl Images {
    /// Counts what can only be an image: bytes that begin as one, and names that end as one, below a key that says so.
    fn add(&mut self, value: &Value, folder: &Path, named: bool) {
        match value {
            Value::Bytes(bytes) if is_image(bytes) => self.in_rows += 1,
            Value::Text(text) if text.starts_with("data:image/") => self.in_rows += 1,
            Value::Text(text) if named && has_image_name(text) => {
                self.in_files += 1;
                if !fs::exists(&folder.join(text)) {
                    self.missing.push(text.clone());
                }
            }
            Value::List(values) => values.iter().for_each(|value| self.add(value, folder, named)),
            Value::Object(entries) => {
                let has_bytes = value.get("bytes").is_some();
                for (name, value) in entries {
                    let names = ["image", "images", "path", "value"].contains(&name.as_str());
                    self.add(value, folder, names && !has_bytes);
                }
            }
            _ => {}
        }
    }
}

fn is_image(bytes: &[u8]) -> bool {
    image::guess_format(bytes).is_ok()
}

fn has_image_name(text: &str) -> bool {
    let ending = text.rsplit('.').next().unwrap_or_default().to_lowercase();
    ["jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"].contains(&ending.as_str())
}

/// A value in one line, shortened. What a terminal would obey is escaped.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Text(text) => quoted(text),
        Value::Bytes(bytes) => format!("<{} bytes>", bytes.len()),
        Value::List(values) => {
            let mut parts: Vec<String> = values.iter().take(SHOWN_VALUES).map(shown).collect();
            if values.len() > SHOWN_VALUES {
                parts.push(format!("… {} more", values.len() - SHOWN_VALUES));
            }
            format!("[{}]", parts.join(", "))
        }
        Value::Object(entries) => {
            let parts = entries
                .iter()
                .map(|(name, value)| format!("{}: {}", quoted(name), shown(value)));
            format!("{{{}}}", parts.collect::<Vec<_>>().join(", "))
        }
    }
}

fn quoted(text: &str) -> String {
    let mut chars = text.chars();
    let start: String = chars.by_ref().take(SHOWN_CHARS).collect();
    match chars.count() {
        0 => format!("{start:?}"),
        more => format!("{start:?}… {more} more"),
    }
}

impl fmt::Display for Inspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let num_rows: usize = self.files.iter().map(|(.., rows)| rows).sum();
        let formats: BTreeSet<&str> = self.files.iter().map(|(_, format, _)| *format).collect();
        let formats: Vec<&str> = formats.into_iter().collect();
        writeln!(
            f,
            "{num_rows} rows in {} files of the format {}",
            self.files.len(),
            formats.join(", ")
        )?;
        const SHOWN_FILES: usize = 10;
        for (path, _, rows) in self.files.iter().take(SHOWN_FILES) {
            writeln!(f, "  {}: {rows} rows", path.display())?;
        }
        if self.files.len() > SHOWN_FILES {
            writeln!(f, "  … {} more files", self.files.len() - SHOWN_FILES)?;
        }
        writeln!(f, "keys of {} rows:", self.num_sampled)?;
        for (name, shape) in &self.shape.keys {
            let some = match shape.num_seen < self.shape.num_seen {
                true => format!(" (in {} of {})", shape.num_seen, self.shape.num_seen),
                false => String::new(),
            };
            writeln!(f, "  {}: {shape}{some}", quoted(name))?;
        }
        self.write_images(f)?;
        writeln!(f, "first rows:")?;
        self.first.iter().try_for_each(|row| writeln!(f, "  {row}"))?;
        if let Some(first) = self.wrong.first() {
            writeln!(
                f,
                "{} of {} rows cannot be read; the first:\n  {first}",
                self.wrong.len(),
                self.num_sampled
            )?;
        }
        Ok(())
    }
}

impl Inspection {
    /// Rows that were looked at and cannot be read.
    pub fn num_wrong(&self) -> usize {
        self.wrong.len()
    }

    fn write_images(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Images {
            in_rows,
            in_files,
            missing,
        } = &self.images;
        let mut line = format!("images: {in_rows} in the rows, {in_files} in files");
        if let Some(first) = missing.first() {
            write!(
                line,
                ", {} of which are not there, first {}",
                missing.len(),
                quoted(first)
            )?;
        }
        writeln!(f, "{line}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(name: &str, content: &[u8]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        fs::write_durable(&path, content).unwrap();
        fs::write_durable(&dir.path().join("1.png"), b"").unwrap();
        let found = inspect(&Selection::of(&path), &Cache::default(), 2).unwrap();
        found
            .to_string()
            .replace(&format!("{}/", dir.path().display()), "")
    }

    #[test]
    fn a_page_says_what_is_there() {
        let long = "x".repeat(100);
        let rows = format!(
            "{{\"text\": \"a\\u001b[31m\", \"ids\": [1, 2, 3, 4, 5], \"images\": [\"1.png\", \"2.png\"]}}\n\
             {{\"text\": null, \"messages\": [{{\"role\": \"user\", \"n\": 1.5}}, {{\"role\": \"{long}\"}}], \"images\": []}}\n{{\n"
        );
        let expected = format!(
            "3 rows in 1 files of the format jsonl\n  a.jsonl: 3 rows\nkeys of 3 rows:\n  \"text\": null or text\n  \
             \"ids\": list of int (in 1 of 2)\n  \"images\": list of text\n  \
             \"messages\": list of {{\"role\": text, \"n\": float}} (in 1 of 2)\n\
             images: 0 in the rows, 2 in files, 1 of which are not there, first \"2.png\"\nfirst rows:\n  \
             {{\"text\": \"a\\u{{1b}}[31m\", \"ids\": [1, 2, 3, 4, … 1 more], \"images\": [\"1.png\", \"2.png\"]}}\n  \
             {{\"text\": null, \"messages\": [{{\"role\": \"user\", \"n\": 1.5}}, {{\"role\": \"{}\"… 40 more}}], \"images\": []}}\n\
             1 of 3 rows cannot be read; the first:\n  a.jsonl:3: column 1: EOF while parsing an object\n",
            &long[..60]
        );
        assert_eq!(page("a.jsonl", rows.as_bytes()), expected);
    }

    #[test]
    fn an_empty_file_has_no_rows() {
        assert!(page("a.jsonl", b"").starts_with("0 rows in 1 files of the format jsonl"));
    }
}
