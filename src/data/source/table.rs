//! CSV and TSV with a header, as RFC 4180 has it: fields may be quoted, and hold line breaks then. Cells are text.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use csv::{ByteRecord, Position, Reader, ReaderBuilder};

use super::{
    super::{
        error::{DataError, RowProblem},
        value::Value,
    },
    Format, Rows,
    cache::Cache,
    lines::{Line, Lines, LinesBuilder},
    text::utf8,
};

/// A mapped file and the places of its records.
pub(super) struct Table {
    path: Arc<Path>,
    bytes: Bytes,
    lines: Lines,
    header: Vec<String>,
    delimiter: u8,
    cells: Cells,
    wanted: Option<Vec<String>>,
}

/// What becomes of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cells {
    /// Text, whatever it looks like: `007` keeps its zeros.
    Text,
    /// `true`, `false` and numbers as such, an empty cell as nothing, all else as text.
    Typed,
}

impl Table {
    /// Reads the header and finds the records. `wanted` are the columns to read, all if `None`.
    pub(super) fn open(
        path: &Path,
        bytes: Bytes,
        cache: &Cache,
        wanted: Option<&[String]>,
        delimiter: u8,
        cells: Cells,
    ) -> Result<Self, DataError> {
        let failed = |reason: String| DataError::Source {
            path: path.into(),
            reason,
        };
        let header = header(&bytes, delimiter).map_err(failed)?;
        if let Some(missing) = wanted
            .iter()
            .copied()
            .flatten()
            .find(|&name| !header.contains(name))
        {
            let known = header.join(", ");
            return Err(failed(format!(
                "there is no column {missing:?}\n  hint: it has {known}"
            )));
        }
        // The fields of a record depend on the delimiter; where it ends may, too.
        let what = format!("records-{delimiter}");
        let lines = Lines::open(path, &bytes, cache, &what, |found| {
            find_records(&bytes, delimiter, header.len(), found).map_err(failed)
        })?;
        Ok(Self {
            path: path.into(),
            bytes,
            lines,
            header,
            delimiter,
            cells,
            wanted: wanted.map(<[String]>::to_vec),
        })
    }
}

impl Rows for Table {
    fn path(&self) -> &Arc<Path> {
        &self.path
    }

    fn len(&self) -> usize {
        self.lines.len()
    }

    fn read(&self, index: usize) -> Result<Value, RowProblem> {
        let mut reader = reader(self.lines.slice(index, &self.bytes), self.delimiter);
        let mut record = ByteRecord::new();
        let there = reader.read_byte_record(&mut record).is_ok_and(|there| there);
        if !there || record.len() != self.header.len() {
            return Err(RowProblem::Source {
                reason: "the file was changed since it was opened".to_owned(),
            });
        }
        let mut entries = Vec::with_capacity(record.len());
        for (name, field) in self.header.iter().zip(&record) {
            if self.wanted.as_ref().is_some_and(|wanted| !wanted.contains(name)) {
                continue;
            }
            let value = self.cells.value(field).map_err(|problem| RowProblem::Source {
                reason: format!("column {name:?}: {problem}"),
            })?;
            if value != Value::Null {
                entries.push((name.clone(), value));
            }
        }
        Ok(Value::Object(entries))
    }

    fn line(&self, index: usize) -> usize {
        self.lines.line(index).number
    }

    fn what(&self) -> &'static str {
        match self.delimiter {
            b',' => Format::Csv.name(),
            _ => Format::Tsv.name(),
        }
    }
}

impl Cells {
    fn value(self, field: &[u8]) -> Result<Value, RowProblem> {
        let text = utf8(field)?;
        if self == Cells::Text {
            return Ok(Value::Text(text));
        }
        Ok(match text.as_str() {
            "" => Value::Null,
            "true" | "True" | "TRUE" => Value::Bool(true),
            "false" | "False" | "FALSE" => Value::Bool(false),
            written => {
                let is_number = written.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
                let float = || {
                    written
                        .parse()
                        .ok()
                        .filter(|float: &f64| is_number && float.is_finite())
                };
                match written.parse() {
                    Ok(number) => Value::Int(number),
                    Err(_) => float().map_or(Value::Text(text), Value::Float),
                }
            }
        })
    }
}

fn reader(bytes: &[u8], delimiter: u8) -> Reader<&[u8]> {
    ReaderBuilder::new()
        .delimiter(delimiter)
        .has_headers(false)
        .flexible(true)
        .from_reader(bytes)
}

fn header(bytes: &[u8], delimiter: u8) -> Result<Vec<String>, String> {
    let mut record = ByteRecord::new();
    let read = reader(bytes, delimiter).read_byte_record(&mut record);
    if !read.map_err(|error| error.to_string())? {
        return Err("it is empty\n  hint: the first line names the columns".to_owned());
    }
    let mut names: Vec<String> = Vec::with_capacity(record.len());
    for field in &record {
        let name = utf8(field).map_err(|problem| format!("the header is {problem}"))?;
        if name.is_empty() || names.contains(&name) {
            return Err(format!(
                "the header names the column {name:?} {}\n  hint: the first line gives each column a name of its own",
                if name.is_empty() { "by nothing" } else { "twice" }
            ));
        }
        names.push(name);
    }
    Ok(names)
}

fn find_records(
    bytes: &[u8],
    delimiter: u8,
    num_fields: usize,
    found: &mut LinesBuilder,
) -> Result<(), String> {
    let mut reader = reader(bytes, delimiter);
    let mut record = ByteRecord::new();
    let mut is_header = true;
    while reader
        .read_byte_record(&mut record)
        .map_err(|error| error.to_string())?
    {
        if std::mem::take(&mut is_header) {
            continue;
        }
        let place = record.position().ok_or("the reader of CSV lost its place")?;
        if record.len() != num_fields {
            return Err(format!(
                "line {}: {} fields, but the header names {num_fields} columns\n  \
                 hint: quote fields that hold the delimiter or a line break",
                first_line(bytes, place).number,
                record.len()
            ));
        }
        found.push(first_line(bytes, place));
    }
    Ok(())
}

/// Where a record really begins: the reader counts the line breaks before it as its own.
fn first_line(bytes: &[u8], place: &Position) -> Line {
    let (mut start, mut number) = (place.byte() as usize, place.line() as usize);
    while let Some(byte @ (b'\r' | b'\n')) = bytes.get(start) {
        number += usize::from(*byte == b'\n');
        start += 1;
    }
    Line { start, number }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(content: &[u8], delimiter: u8, cells: Cells) -> Result<Table, DataError> {
        let bytes = Bytes::copy_from_slice(content);
        Table::open(
            Path::new("a.csv"),
            bytes,
            &Cache::default(),
            None,
            delimiter,
            cells,
        )
    }

    fn refused(content: &[u8]) -> String {
        match open(content, b',', Cells::Text) {
            Ok(table) => (0..table.len())
                .find_map(|index| table.read(index).err())
                .map_or("taken".to_owned(), |problem| problem.to_string()),
            Err(error) => error.to_string(),
        }
    }

    fn json(json: &str) -> Value {
        Value::from_json(json.as_bytes()).unwrap()
    }

    #[test]
    fn quoted_fields_may_hold_anything() {
        let content = "\u{feff}id,text\r\n007,\"a, \"\"b\"\"\nc\"\n\n8,é";
        let table = open(content.as_bytes(), b',', Cells::Text).unwrap();
        assert_eq!(table.len(), 2);
        assert_eq!(
            table.read(0).unwrap(),
            json(r#"{"id": "007", "text": "a, \"b\"\nc"}"#)
        );
        assert_eq!(table.read(1).unwrap(), json(r#"{"id": "8", "text": "é"}"#));
        assert_eq!([table.line(0), table.line(1)], [2, 5]);
    }

    #[test]
    fn numbers_are_numbers_where_that_is_asked_for() {
        let content = b"a\tb\n007\tinf\n-1.5e2\ttrue\n\t9999999999999999999\n+\tnan";
        let table = open(content, b'\t', Cells::Typed).unwrap();
        let rows: Vec<Value> = (0..table.len()).map(|index| table.read(index).unwrap()).collect();
        assert_eq!(rows[0], json(r#"{"a": 7, "b": "inf"}"#));
        assert_eq!(rows[1], json(r#"{"a": -150.0, "b": true}"#));
        assert_eq!(rows[2], json(r#"{"b": 1e19}"#));
        assert_eq!(rows[3], json(r#"{"a": "+", "b": "nan"}"#));
    }

    #[test]
    fn what_cannot_be_a_table_is_refused() {
        for (content, expected) in [
            (b"".as_slice(), "it is empty"),
            (b"a,b,a\n1,2,3\n", "names the column \"a\" twice"),
            (b"a,\n1,2\n", "names the column \"\" by nothing"),
            (
                b"a,b\n1,2\n3\n",
                "a.csv: line 3: 1 fields, but the header names 2",
            ),
            (b"a,b\n1,2,3\n", "line 2: 3 fields"),
            (b"a\n\xff\n", "column \"a\": not UTF-8 from byte 0 on"),
        ] {
            let message = refused(content);
            assert!(message.contains(expected), "{message}");
        }
    }
}
