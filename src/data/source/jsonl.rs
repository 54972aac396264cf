//! One JSON object a line, or a JSON list of objects, as `.json` files have it. The file stays mapped; of each row, its
//! place is kept.

use std::{path::Path, sync::Arc};

use bytes::Bytes;

use super::{
    super::{
        error::{DataError, RowProblem},
        value::Value,
    },
    Format, Rows,
    cache::Cache,
    columns,
    lines::{Line, Lines, LinesBuilder, find_lines},
};

/// A mapped file and the places of its rows.
pub(super) struct Jsonl {
    path: Arc<Path>,
    bytes: Bytes,
    lines: Lines,
    /// Whether rows are elements of a list, with commas between them.
    is_list: bool,
    wanted: Option<Vec<String>>,
}

impl Jsonl {
    /// Finds the lines that are not blank, or the elements of the list. `wanted` are the keys to read, all if `None`.
    pub(super) fn open(
        path: &Path,
        bytes: Bytes,
        cache: &Cache,
        wanted: Option<&[String]>,
    ) -> Result<Self, DataError> {
        let is_list = bytes.trim_ascii_start().first() == Some(&b'[');
        let lines = Lines::open(path, &bytes, cache, "lines", |found| {
            match is_list {
                true => find_elements(&bytes, found).map_err(|reason| DataError::Source {
                    path: path.into(),
                    reason,
                })?,
                false => find_lines(&bytes, found),
            }
            Ok(())
        })?;
        Ok(Self {
            path: path.into(),
            bytes,
            lines,
            is_list,
            wanted: wanted.map(<[String]>::to_vec),
        })
    }
}

impl Rows for Jsonl {
    fn path(&self) -> &Arc<Path> {
        &self.path
    }

    fn len(&self) -> usize {
        self.lines.len()
    }

    fn read(&self, index: usize) -> Result<Value, RowProblem> {
        let mut row = self.lines.slice(index, &self.bytes).trim_ascii_end();
        if self.is_list {
            // What follows an element is one of these, or `find_elements` would have said so.
            row = row.strip_suffix(b",").or(row.strip_suffix(b"]")).unwrap_or(row);
        }
        let row = Value::from_json(row)?;
        Ok(columns::only(row, self.wanted.as_deref()))
    }

    fn line(&self, index: usize) -> usize {
        self.lines.line(index).number
    }

    fn what(&self) -> &'static str {
        Format::Jsonl.name()
    }
}

/// Elements of the list that the file is. Only their borders are looked for; what is between them, `read` looks at.
fn find_elements(bytes: &[u8], found: &mut LinesBuilder) -> Result<(), String> {
    let (mut depth, mut number, mut in_text, mut escaped) = (0_usize, 1, false, false);
    // An element has begun, or may begin.
    let (mut inside, mut may_begin) = (false, true);
    for (at, &byte) in bytes.iter().enumerate() {
        number += usize::from(byte == b'\n');
        if in_text {
            in_text = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        if byte.is_ascii_whitespace() {
            continue;
        }
        if depth == 0 && at > 0 && !may_begin {
            return Err(format!("line {number}: there is more behind the end of the list"));
        }
        if depth == 1 && !inside && byte != b']' {
            if !may_begin || byte == b',' {
                return Err(format!("line {number}: an element of the list is missing"));
            }
            found.push(Line { start: at, number });
            (inside, may_begin) = (true, false);
        }
        match byte {
            b'"' => in_text = true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' if depth == 1 => (inside, may_begin) = (false, true),
            _ => {}
        }
        if depth == 0 {
            may_begin = false;
        }
    }
    match depth {
        0 => Ok(()),
        _ => Err(format!("line {number}: the list does not end: it was cut off")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_keep_their_numbers() {
        let bytes = Bytes::from_static(b"\n{\"a\": 1}\r\n  \n{\"a\": 2}\n{");
        let path = Path::new("rows.jsonl");
        let rows = Jsonl::open(path, bytes, &Cache::default(), None).unwrap();
        assert_eq!((rows.len(), rows.path().as_ref()), (3, path));
        let read = |index: usize| {
            (
                rows.line(index),
                rows.read(index).unwrap().get("a").and_then(Value::as_int),
            )
        };
        assert_eq!((read(0), read(1)), ((2, Some(1)), (4, Some(2))));
        assert_eq!(rows.line(2), 5);
        assert!(rows.read(2).unwrap_err().to_string().starts_with("column 1: EOF"));
    }

    fn list(content: &str) -> Result<Vec<(usize, String)>, String> {
        let bytes = Bytes::copy_from_slice(content.as_bytes());
        let rows = Jsonl::open(Path::new("rows.json"), bytes, &Cache::default(), None)
            .map_err(|error| error.to_string())?;
        let read = |index: usize| {
            let row = rows
                .read(index)
                .map_or_else(|problem| problem.to_string(), |row| format!("{row:?}"));
            (rows.line(index), row)
        };
        Ok((0..rows.len()).map(read).collect())
    }

    #[test]
    fn a_list_of_objects_is_rows() {
        let rows = list("\n[ {\"a\": \"],{\\\"\"},\n {\"b\": [1, [2]]}\n,{}]\n").unwrap();
        assert_eq!(rows.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 3, 4]);
        assert!(rows[0].1.contains("],{\\\""), "{}", rows[0].1);
        assert!(
            rows[1].1.contains("Int(2)") && rows[2].1 == "Object([])",
            "{rows:?}"
        );
        assert_eq!(list("[]").unwrap(), []);
        for (content, expected) in [
            ("[{}, {\"a\": 1}", "line 1: the list does not end"),
            ("[{},\n\n,{}]", "line 3: an element of the list is missing"),
            ("[{}] {}", "line 1: there is more behind the end of the list"),
            ("[", "the list does not end"),
        ] {
            let message = list(content).unwrap_err();
            assert!(message.contains(expected), "{content}: {message}");
        }
        // What only looks like elements is for the parser.
        for content in ["[{} {}]", "[{]", "[{}}", "[1 2]", "[{},]x"] {
            let wrong = list(content).map(|rows| rows.iter().any(|(_, row)| row.contains("column ")));
            assert!(wrong.unwrap_or(true), "{content}");
        }
    }
}
