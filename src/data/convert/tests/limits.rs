//! What formats do not hold is an error, or is said.

use super::*;

fn note(rows: &str, to: &str) -> String {
    let room = Room::new();
    room.write("rows.jsonl", rows);
    room.convert("rows.jsonl", to, |_| {})
}

fn refused(rows: &str, to: &str) -> String {
    let room = Room::new();
    room.write("rows.jsonl", rows);
    let message = room.try_convert("rows.jsonl", to, |_| {}).unwrap_err();
    assert_eq!(room.files(""), ["rows.jsonl"], "nothing is left");
    message
}

#[test]
fn null_is_not_told_from_a_missing_key_in_a_table() {
    let rows = "{\"a\": 1, \"b\": {\"c\": null, \"d\": [null, 1]}}\n{\"a\": null}\n{}\n";
    for to in ["a.parquet", "a.arrow"] {
        let said = note(rows, to);
        let expected = "note: 2 keys hold null, first in rows.jsonl:1: a table does not tell that from a key that is not there";
        assert!(
            said.replace(&*std::env::temp_dir().to_string_lossy(), "")
                .contains(expected),
            "{said}"
        );
    }
    let room = Room::new();
    room.write("rows.jsonl", rows);
    room.convert("rows.jsonl", "a.parquet", |_| {});
    let found = [r#"{"a": 1, "b": {"d": [null, 1]}}"#, "{}", "{}"].map(json);
    assert_eq!(room.rows("a.parquet"), found);
    for to in ["a.tar", "b.jsonl"] {
        let said = room.convert("rows.jsonl", to, |_| {});
        assert!(!said.contains("note"), "{said}");
        assert!(room.plain(to, Nulls::Kept) == room.plain("rows.jsonl", Nulls::Kept));
    }
}

#[test]
fn contradictions_name_both_rows() {
    for (rows, expected) in [
        (
            "{\"a\": 1}\n{\"a\": null}\n{\"a\": \"x\"}\n",
            "rows.jsonl:3: a is text, but a number in rows.jsonl:1\n  hint: a column of a table has one kind of value; jsonl and tar hold",
        ),
        (
            "{\"m\": []}\n{\"m\": [{\"content\": \"x\"}]}\n{\"m\": [{\"content\": [1]}]}\n",
            "rows.jsonl:3: m[].content is a list, but text in rows.jsonl:2\n  hint: a column of a table has one kind of value; \
             --content-parts",
        ),
        (
            "{\"a\": true}\n{\"a\": 0}\n",
            "rows.jsonl:2: a is a number, but a truth value in rows.jsonl:1",
        ),
        (
            "{\"a\": 1}\n{\"a\": 9007199254740993}\n{\"a\": 0.5}\n",
            "rows.jsonl:3: a is a number with a fraction or an exponent, but a whole number of more than 53 bits in rows.jsonl:2",
        ),
    ] {
        for to in ["a.parquet", "a.arrow"] {
            let message = refused(rows, to);
            assert!(message.starts_with(expected), "{message}");
        }
        let said = note(rows, "a.tar") + &note(rows, "b.jsonl");
        assert!(!said.contains("note"), "{said}");
    }
}

#[test]
fn numbers_that_change_are_said() {
    let room = Room::new();
    room.write("rows.jsonl", "{\"a\": 1, \"b\": [2]}\n{\"a\": 0.5, \"b\": [3]}\n");
    let said = room.convert("rows.jsonl", "a.parquet", |_| {});
    assert!(
        said.contains("note: whole numbers became floats (1 is 1.0) where other rows have fractions: a\n"),
        "{said}"
    );
    assert_eq!(room.rows("a.parquet")[0], json(r#"{"a": 1.0, "b": [2]}"#));
    for to in ["a.parquet", "a.tar", "b.jsonl"] {
        let said = note("{\"a\": 1}\n{\"b\": 18446744073709551615}\n", to);
        assert!(
            said.contains("note: 1 numbers are beyond 64 bits, first in "),
            "{said}"
        );
        assert!(
            said.contains("rows.jsonl:2: they are floats of 53 bits"),
            "{said}"
        );
    }
}

#[test]
fn what_makes_no_table_is_refused() {
    let many: String = (0..4097).map(|key| format!("{{\"k{key}\": 1}}\n")).collect();
    for (rows, to, expected) in [
        (
            "{\"a\": null}\n{}\n",
            "a.parquet",
            "rows.jsonl:2: no key of any row up to this one has a value",
        ),
        (
            many.as_str(),
            "a.arrow",
            "rows.jsonl:4097: \"k4096\" is the key after 4096 others",
        ),
        (
            "{\"a\": 1, \"b\": [{}]}\n",
            "a.parquet",
            "--format: \"b[]\" is an object without keys in every row",
        ),
        (
            "{\"a\": 1}\n[1]\n",
            "a.arrow",
            "rows.jsonl:2: the row: expected an object, found a list",
        ),
        ("{\"a\": 1}\n{\n", "a.arrow", "rows.jsonl:2: column 1: EOF"),
        ("", "a.jsonl", "FROM: there is no row to convert"),
    ] {
        let message = refused(rows, to);
        assert!(message.starts_with(expected), "{message}");
    }
    let room = Room::new();
    room.write("rows.jsonl", "{\"a\": 1, \"b\": [{}, null], \"c\": []}\n");
    room.convert("rows.jsonl", "a.arrow", |_| {});
    assert_eq!(room.rows("a.arrow"), room.rows("rows.jsonl"));
}

#[test]
fn numbers_that_are_none_are_no_json() {
    let room = Room::new();
    let columns = [
        ("x".to_owned(), types::Type::Float),
        ("y".to_owned(), types::Type::Int),
    ];
    let output = fs::Output::create(&room.path("a.parquet")).unwrap();
    let mut file: Box<dyn Sink> =
        Box::new(parquet::ParquetWriter::create(output, &columns, Compression::Lz4).unwrap());
    let row = Value::Object(vec![("x".into(), Value::Float(f64::INFINITY))]);
    assert!(file.push("", row).is_ok());
    let other = Value::Object(vec![("x".into(), Value::Text(String::new()))]);
    assert!(
        file.push("", other).is_err(),
        "a row that the columns were not made for"
    );
    file.finish().unwrap();
    for to in ["a.jsonl", "a.tar"] {
        let message = room.try_convert("a.parquet", to, |_| {}).unwrap_err();
        assert!(
            message.contains("a.parquet:1: x: JSON holds no number that is infinite"),
            "{message}"
        );
    }
    room.convert("a.parquet", "a.arrow", |_| {});
    assert_eq!(
        room.rows("a.arrow")[0].get("x"),
        Some(&Value::Float(f64::INFINITY))
    );
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sources/timelines.parquet");
    if fs::exists(&fixture) {
        let said = room.convert("a.parquet", "b.arrow", |options| options.from.path = fixture);
        assert!(
            said.contains("note: columns of dates, times and the like are text now: times\n"),
            "{said}"
        );
    }
}

#[test]
fn keys_of_samples_are_one_of_a_kind() {
    for (rows, expected) in [
        (
            "{\"__key__\": \"a\"}\n{\"__key__\": \"a\"}\n",
            "rows.jsonl:2: an earlier row has the same __key__, \"a\"\n  hint: --new-keys",
        ),
        (
            "{\"__key__\": \"a\"}\n{}\n",
            "rows.jsonl:2: some rows have a \"__key__\" and some have none\n  hint: --new-keys",
        ),
        (
            "{\"__key__\": \"a.b\"}\n",
            "rows.jsonl:1: \"a.b.json\" is no name for \"json\" of the sample \"a.b\"",
        ),
        (
            "{\"__key__\": \"../a\"}\n",
            "rows.jsonl:1: the name \"../a.json\" leads out of the tar",
        ),
        (
            "{\"__key__\": \"__a__/b\"}\n",
            "rows.jsonl:1: \"__a__/b.json\" is no name",
        ),
        (
            "{\"__key__\": 7}\n",
            "rows.jsonl:1: __key__: expected text, found a number",
        ),
    ] {
        let message = refused(rows, "a.tar");
        assert!(message.starts_with(expected), "{message}");
    }
    let room = Room::new();
    room.write("rows.jsonl", "{\"__key__\": \"a\"}\n{\"__key__\": \"a\"}\n{}\n");
    room.convert("rows.jsonl", "a.tar", |options| options.new_keys = true);
    let keys = room
        .rows("a.tar")
        .iter()
        .map(|row| row.get("__key__").cloned())
        .collect::<Vec<_>>();
    assert_eq!(
        keys,
        ["000000000", "000000001", "000000002"].map(|key| Some(Value::Text(key.into())))
    );
}

#[test]
fn text_and_parts_go_together_on_request() {
    let room = Room::new();
    room.write(
        "rows.jsonl",
        r#"{"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, {"role": "assistant", "content": "b"}]}"#,
    );
    let message = room.try_convert("rows.jsonl", "a.parquet", |_| {}).unwrap_err();
    assert!(
        message.contains("messages[].content is text, but a list in "),
        "{message}"
    );
    room.convert("rows.jsonl", "a.parquet", |options| options.content_parts = true);
    assert_eq!(
        room.rows("a.parquet"),
        [json(
            r#"{"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "b"}]}]}"#
        )]
    );
}
