//! Where images go.

use super::*;

fn room() -> Room {
    let room = Room::new();
    for (name, number) in [("a.png", 0), ("d/a.png", 4), ("e/a.png", 4)] {
        room.write(&format!("in/{name}"), picture(number));
    }
    room
}

#[test]
fn names_stay_and_files_are_shared() {
    let room = room();
    room.write(
        "in/rows.jsonl",
        r#"{"images": ["a.png", "d/a.png"], "image": {"path": "d/../e/a.png"}}
{"images": ["a.png"], "messages": [{"content": [{"type": "image_url", "image_url": {"url": "d/a.png"}}]}]}
{"modalities": [{"type": "image", "value": {"bytes": "R0lGODlheHl6"}}, {"type": "image", "value": "a.png"}]}
"#,
    );
    let said = room.convert("in", "out", |options| options.format = Some(TargetFormat::Jsonl));
    assert_eq!(said, "out: 3 rows as jsonl in 1 files, 4 files of images\n");
    assert_eq!(
        room.files("out"),
        [
            "images/000000000-2.png",
            "images/000000002-0.gif",
            "images/a.png",
            "images/d/a.png",
            "train.jsonl"
        ]
    );
    assert_eq!(
        room.rows("out"),
        [
            json(
                r#"{"images": ["images/a.png", "images/d/a.png"], "image": {"path": "images/000000000-2.png"}}"#
            ),
            json(
                r#"{"images": ["images/a.png"], "messages": [{"content": [{"type": "image_url", "image_url": {"url": "images/d/a.png"}}]}]}"#
            ),
            json(
                r#"{"modalities": [{"type": "image", "value": "images/000000002-0.gif"}, {"type": "image", "value": "images/a.png"}]}"#
            ),
        ]
    );
    // The names stay the same from then on.
    room.convert("out", "again", |options| {
        options.format = Some(TargetFormat::Jsonl)
    });
    assert_eq!(room.rows("again"), room.rows("out"));
    assert_eq!(room.files("again"), room.files("out"));
    // Beside one file, the folder has its name.
    room.convert("out", "one.jsonl.gz", |_| {});
    assert_eq!(room.files("one-images").len(), 4);
    assert!(room.plain("one.jsonl.gz", Nulls::Kept) == room.plain("out", Nulls::Kept));
}

#[test]
fn two_images_of_one_name_stay_two() {
    let room = Room::new();
    // Of one size, too.
    let row = |number: usize| {
        let image = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, picture(number));
        format!("{{\"image\": {{\"bytes\": \"{image}\", \"path\": \"x.png\"}}}}\n")
    };
    room.write("rows.jsonl", [row(1), row(5), row(1)].concat());
    room.convert("rows.jsonl", "out", |options| {
        options.format = Some(TargetFormat::Jsonl)
    });
    let names: Vec<Value> = room
        .rows("out")
        .iter()
        .map(|row| row.get("image").unwrap().clone())
        .collect();
    let name = |name: &str| Value::Text(name.into());
    assert_eq!(
        names,
        [
            name("images/x.png"),
            name("images/000000001-0.png"),
            name("images/x.png")
        ]
    );
    assert!(room.plain("out", Nulls::Kept) == room.plain("rows.jsonl", Nulls::Kept));
}

#[test]
fn rows_are_kept_as_they_are_on_request() {
    let room = room();
    let lines = "{\"images\": [\"a.png\"], \"n\": null}\n{\"images\": [\"https://example.org/a.png\"]}\n";
    room.write("in/rows.jsonl", lines);
    let said = room.convert("in/rows.jsonl", "out.jsonl", |options| {
        options.images = Some(ImagePlace::Keep)
    });
    assert!(
        said.contains("note: paths of images are as they were; where the rows have moved"),
        "{said}"
    );
    assert_eq!(room.rows("out.jsonl"), room.rows("in/rows.jsonl"));
    room.convert("in/rows.jsonl", "out.parquet", |options| {
        options.images = Some(ImagePlace::Keep)
    });
    let path = Value::List(vec![Value::Text("a.png".into())]);
    assert_eq!(room.rows("out.parquet")[0].get("images"), Some(&path));
    let message = room.try_convert("in/rows.jsonl", "b.jsonl", |_| {}).unwrap_err();
    assert!(
        message.starts_with("in/rows.jsonl:2: images[]: an address on the network"),
        "{message}"
    );
}

#[test]
fn images_under_other_keys_are_named_or_seen() {
    let room = room();
    room.write("in/rows.jsonl", "{\"photo\": \"a.png\", \"talk\": 1}\n");
    room.convert("in/rows.jsonl", "text.parquet", |_| {});
    assert_eq!(
        room.rows("text.parquet")[0].get("photo"),
        Some(&Value::Text("a.png".into()))
    );
    let named = |options: &mut ConvertOptions| options.fields.images = Some("photo".into());
    room.convert("in/rows.jsonl", "image.parquet", named);
    let held = |row: &Value, key: &str| row.get(key).and_then(|image| image.get("bytes")).cloned();
    let bytes = Some(Value::Bytes(picture(0)));
    assert_eq!(held(&room.rows("image.parquet")[0], "photo"), bytes);
    // Bytes that begin as an image does need no name.
    room.convert("image.parquet", "out", |options| {
        options.format = Some(TargetFormat::Jsonl)
    });
    assert_eq!(
        room.rows("out")[0].get("photo"),
        Some(&Value::Text("images/a.png".into()))
    );
    let message = room.try_convert("image.parquet", "a.tar", |_| {}).unwrap_err();
    assert!(
        message.contains("an image is where no reader of shards looks for one\n  hint: name its key"),
        "{message}"
    );
    let said = room.convert("image.parquet", "a.tar", named);
    assert!(
        said.contains("note: \"photo\" is \"images\" or \"image\" in the shards"),
        "{said}"
    );
    assert!(said.contains("note: 1 images had other names"), "{said}");
    assert_eq!(held(&room.rows("a.tar")[0], "image"), bytes);
}

#[test]
fn members_are_named_by_their_sample() {
    let room = room();
    room.write(
        "in/rows.jsonl",
        r#"{"images": ["a.png", "d/a.png"]}
{"image": "a.png"}
{"messages": [{"content": [{"type": "image", "image": "a.png"}]}], "images": ["d/a.png"]}
{"text": "no image"}
{"images": []}
"#,
    );
    room.convert("in/rows.jsonl", "a.tar", |_| {});
    let bytes = fs::read(&room.path("a.tar")).unwrap();
    let mut archive = ::tar::Archive::new(&bytes[..]);
    let names: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|entry| String::from_utf8(entry.unwrap().path_bytes().into_owned()).unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "000000000.json",
            "000000000.0.png",
            "000000000.1.png",
            "000000001.json",
            "000000001.png",
            "000000002.json",
            "000000002.0.png",
            "000000002.1.png",
            "000000003.json",
            "000000004.json"
        ]
    );
    assert!(room.plain("a.tar", Nulls::Kept) == room.plain("in/rows.jsonl", Nulls::Kept));
}

#[test]
fn an_image_that_is_not_there_is_an_error_of_its_row() {
    let room = room();
    let rows = "{\"image\": \"a.png\"}\n{\"image\": \"b.png\"}\n{\"image\": 7}\n";
    room.write("in/rows.jsonl", rows);
    for to in ["a.parquet", "a.arrow", "a.tar", "a.jsonl"] {
        let message = room.try_convert("in/rows.jsonl", to, |_| {}).unwrap_err();
        assert!(message.starts_with("in/rows.jsonl:2: "), "{message}");
        assert!(message.contains("b.png: No such file"), "{message}");
        let said = room.convert("in/rows.jsonl", to, |options| options.max_bad_rows = 2);
        assert!(said.contains(&format!("{to}: 1 rows as ")), "{said}");
        assert!(
            said.contains("2 rows are wrong and left out:\n  in/rows.jsonl:2: "),
            "{said}"
        );
        assert!(
            said.contains("in/rows.jsonl:3: image: expected a path, bytes or base64, found a number"),
            "{said}"
        );
        assert_eq!(room.plain(to, Nulls::Kept).len(), 1);
    }
    let message = room
        .try_convert("in/rows.jsonl", "b.tar", |options| options.max_bad_rows = 1)
        .unwrap_err();
    assert!(
        message.starts_with("2 rows are wrong, more than --max-bad-rows 1; the first is in/rows.jsonl:2"),
        "{message}"
    );
    room.convert("in/rows.jsonl", "c.jsonl", |options| {
        options.image_dir = Some(room.path("in"));
        options.limit = Some(1);
    });
}
