//! One set of rows in every format, as `tests/scripts/fixtures_sources.py` wrote it. Damaged copies of them: `tests/fuzz`.

use std::path::{Path, PathBuf};

use super::*;
use crate::fs;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sources")
}

fn read(selection: &Selection) -> Result<Vec<Value>, String> {
    let opened = open_all(selection, &Cache::default()).map_err(|error| error.to_string())?;
    let rows = opened
        .iter()
        .flat_map(|rows| (0..rows.len()).map(|index| rows.read(index)));
    rows.map(|row| row.map_err(|problem| problem.to_string()))
        .collect()
}

fn read_fixture(name: &str, split: Option<&str>) -> Vec<Value> {
    let selection = Selection {
        split: split.map(str::to_owned),
        ..Selection::of(&fixtures().join(name))
    };
    read(&selection).unwrap()
}

/// A row with each image as its bytes, and without what only some formats have.
fn alike(row: Value) -> Value {
    let Value::Object(mut entries) = row else {
        panic!("{row:?}")
    };
    entries.retain(|(name, _)| name != "__key__");
    for (name, value) in &mut entries {
        let Value::List(images) = value else { continue };
        for image in images.iter_mut().filter(|_| name == "images") {
            let bytes = match &*image {
                Value::Text(path) => Value::Bytes(fs::read(&fixtures().join(path)).unwrap()),
                held => held.get("bytes").unwrap().clone(),
            };
            *image = bytes;
        }
    }
    Value::Object(entries)
}

#[test]
fn rows_are_the_same_whatever_holds_them() {
    let expected: Vec<Value> = read_fixture("rows.jsonl", None).into_iter().map(alike).collect();
    assert_eq!(expected.len(), 5);
    let images = |row: &Value| row.get("images").unwrap().as_list().unwrap().len();
    assert_eq!(expected.iter().map(images).collect::<Vec<_>>(), [0, 1, 2, 0, 1]);
    for (name, split) in [
        ("rows.parquet", None),
        ("rows.feather", None),
        ("rows.arrow", None),
        ("saved", Some("train")),
        ("shard.tar", None),
    ] {
        let found: Vec<Value> = read_fixture(name, split).into_iter().map(alike).collect();
        assert_eq!(found, expected, "{name}");
    }
    let test = read_fixture("saved/test", None)
        .into_iter()
        .map(alike)
        .collect::<Vec<_>>();
    assert_eq!(test, expected[..1]);
    let test = read_fixture("saved", Some("test"))
        .into_iter()
        .map(alike)
        .collect::<Vec<_>>();
    assert_eq!(test, expected[..1]);
}

#[test]
fn a_set_prepared_by_energon_is_read() {
    let text = |row: &Value, key: &str| {
        row.get(key)
            .and_then(Value::as_text)
            .unwrap_or_default()
            .to_owned()
    };
    let rows = read_fixture("energon", Some("val"));
    let found: Vec<_> = rows
        .iter()
        .map(|row| (text(row, "question"), text(row, "answer")))
        .collect();
    assert_eq!(
        found,
        [
            ("what 10".into(), "answer 10".into()),
            ("what 11".into(), "answer 11".into())
        ]
    );
    assert!(
        matches!(rows[1].get("image").unwrap().get("bytes"), Some(Value::Bytes(png)) if png.starts_with(b"\x89PNG"))
    );
}

/// S4.1, S4.2: columns of fms-ehrs, `large_list` and times included.
#[test]
fn timelines_of_tokens_are_read() {
    let rows = read_fixture("timelines.parquet", None);
    let ids = |row: &Value, key: &str| -> Vec<i64> {
        row.get(key)
            .unwrap()
            .as_list()
            .unwrap()
            .iter()
            .filter_map(Value::as_int)
            .collect()
    };
    assert_eq!(ids(&rows[0], "tokens"), [1, 5, 6, 2]);
    assert_eq!(ids(&rows[1], "padded"), [1, 7, 2, 0, 0, 0, 0, 0]);
    assert_eq!(ids(&rows[2], "padded"), [1, 9, 9, 9, 9, 9, 9, 3]);
    assert_eq!(rows[0].get("same_admission_death"), Some(&Value::Bool(true)));
    assert_eq!(rows[2].get("same_admission_death"), None);
    assert_eq!(rows[1].get("seq_len"), Some(&Value::Int(3)));
    assert_eq!(
        rows[0].get("times").unwrap().as_list().unwrap()[0],
        Value::Text("2020-01-01T00:00:00".into())
    );
}

#[test]
fn only_the_wanted_columns_are_read() {
    let wanted = ["score".to_owned(), "id".to_owned()];
    for name in [
        "rows.jsonl",
        "rows.parquet",
        "rows.feather",
        "rows.arrow",
        "shard.tar",
    ] {
        let selection = Selection {
            columns: Some(wanted.to_vec()),
            ..Selection::of(&fixtures().join(name))
        };
        for (number, row) in read(&selection).unwrap().into_iter().enumerate() {
            let expected = [
                ("id".to_owned(), Value::Text(format!("row-{number}"))),
                ("score".to_owned(), Value::Float(number as f64 + 0.5)),
            ];
            assert_eq!(row, Value::Object(expected.into()), "{name}");
        }
    }
    for name in ["rows.parquet", "rows.arrow"] {
        let selection = Selection {
            columns: Some(vec!["nothing".into()]),
            ..Selection::of(&fixtures().join(name))
        };
        let message = read(&selection).unwrap_err();
        assert!(
            message.contains("there is no column \"nothing\"\n  hint: it has id, score"),
            "{message}"
        );
    }
}

#[test]
fn several_threads_read_at_once() {
    use rayon::prelude::*;
    for name in ["rows.parquet", "rows.feather", "rows.arrow", "shard.tar"] {
        let opened = open_all(&Selection::of(&fixtures().join(name)), &Cache::default()).unwrap();
        let alone: Vec<Value> = (0..opened[0].len())
            .map(|index| opened[0].read(index).unwrap())
            .collect();
        (0..500_usize).into_par_iter().for_each(|number| {
            let index = number * 7 % alone.len();
            assert_eq!(opened[0].read(index).unwrap(), alone[index]);
        });
    }
}

/// Whatever is cut off, rows are never lost in silence.
#[test]
fn truncated_files_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["rows.parquet", "rows.arrow", "rows.feather", "shard.tar"] {
        let whole = fs::read(&fixtures().join(name)).unwrap();
        let path = dir.path().join(name);
        for length in (0..whole.len()).step_by(whole.len() / 40) {
            // A tar ends with blocks of zeros, of which one is enough.
            if name == "shard.tar" && whole[length.saturating_sub(512)..].iter().all(|&byte| byte == 0) {
                continue;
            }
            fs::write_durable(&path, &whole[..length]).unwrap();
            let message = read(&Selection::of(&path)).unwrap_err();
            assert!(message.contains(name), "{name} cut at {length}: {message}");
        }
    }
}
