//! Files and folders that are written, and those that are not.

use super::*;

const ROWS: &str = "{\"n\": 0}\n{\"n\": 1}\n{\"n\": 2}\n{\"n\": 3}\n{\"n\": 4}\n";

fn room() -> Room {
    let room = Room::new();
    room.write("rows.jsonl", ROWS);
    room
}

#[test]
fn folders_are_cut_into_files() {
    let room = room();
    let sharded = |format| {
        move |options: &mut ConvertOptions| {
            options.format = Some(format);
            options.max_shard_rows = Some(2);
        }
    };
    for (format, to, files) in [
        (
            TargetFormat::Jsonl,
            "j",
            [
                "train-00000-of-00003.jsonl",
                "train-00001-of-00003.jsonl",
                "train-00002-of-00003.jsonl",
            ]
            .as_slice(),
        ),
        (
            TargetFormat::Parquet,
            "p",
            &[
                "train-00000-of-00003.parquet",
                "train-00001-of-00003.parquet",
                "train-00002-of-00003.parquet",
            ],
        ),
        (
            TargetFormat::Arrow,
            "a",
            &[
                "data-00000-of-00003.arrow",
                "data-00001-of-00003.arrow",
                "data-00002-of-00003.arrow",
                "dataset_info.json",
                "state.json",
            ],
        ),
        (
            TargetFormat::Tar,
            "t",
            &[
                "shard-000000.tar",
                "shard-000000.tar.idx",
                "shard-000001.tar",
                "shard-000001.tar.idx",
                "shard-000002.tar",
                "shard-000002.tar.idx",
            ],
        ),
    ] {
        let said = room.convert("rows.jsonl", to, sharded(format));
        assert!(
            said.starts_with(&format!("{to}: 5 rows as {format} in 3 files\n")),
            "{said}"
        );
        assert_eq!(room.files(to), files);
        assert!(
            room.plain(to, Nulls::Kept) == room.plain("rows.jsonl", Nulls::Kept),
            "{to}"
        );
        // By size, in files of one row each.
        room.convert("rows.jsonl", &format!("{to}-small"), |options| {
            options.format = Some(format);
            options.max_shard_bytes = Some(1);
        });
        assert!(room.plain(&format!("{to}-small"), Nulls::Kept) == room.plain("rows.jsonl", Nulls::Kept));
    }
    let said = room.convert("rows.jsonl", "s", |options| {
        options.format = Some(TargetFormat::Parquet);
        options.to_split = Some("validation".into());
    });
    assert_eq!(said, "s: 5 rows as parquet in 1 files\n");
    assert_eq!(room.files("s"), ["validation-00000-of-00001.parquet"]);
}

#[test]
fn an_index_is_the_one_that_prepare_writes() {
    let room = room();
    let said = room.convert("rows.jsonl", "t", |options| {
        options.format = Some(TargetFormat::Tar)
    });
    assert!(said.ends_with(
        "for megatron-energon: brazier data prepare t --sample-type CrudeWebdataset --split-ratio 1,0,0\n"
    ));
    let index = fs::read(&room.path("t/shard-000000.tar.idx")).unwrap();
    assert_eq!(index.len(), 6 * 8);
    super::super::super::prepare(&super::super::super::PrepareOptions {
        path: room.path("t"),
        sample_type: "CrudeWebdataset".into(),
        field_map: Vec::new(),
        split: super::super::super::SplitChoice::Ratio([1, 0, 0]),
        exclude: Vec::new(),
        overwrite: false,
    })
    .unwrap();
    assert_eq!(fs::read(&room.path("t/shard-000000.tar.idx")).unwrap(), index);
    assert!(room.plain("t", Nulls::Kept) == room.plain("rows.jsonl", Nulls::Kept));
}

/// A file is no longer than its rows, and wrong ones make none.
#[test]
fn wrong_rows_make_no_empty_file() {
    let room = Room::new();
    room.write(
        "rows.jsonl",
        "{\"n\": 0}\n{\"n\": 1}\n{\"image\": {\"bytes\": \"AAAA\"}}\n",
    );
    let options = |options: &mut ConvertOptions| {
        options.format = Some(TargetFormat::Tar);
        options.max_shard_rows = Some(1);
        options.max_bad_rows = 3;
    };
    let said = room.convert("rows.jsonl", "t", options);
    assert!(said.starts_with("t: 2 rows as tar in 2 files\n"), "{said}");
    assert_eq!(room.files("t").len(), 4);
    room.write("bad.jsonl", "{\n7\n");
    let message = room.try_convert("bad.jsonl", "u", options).unwrap_err();
    assert!(
        message.starts_with("FROM: no row is left; the first is ")
            && message.contains("bad.jsonl:1: column 1"),
        "{message}"
    );
    assert_eq!(room.files("").len(), 6);
}

/// `datasets` takes the types from here.
#[test]
fn features_are_those_of_datasets() {
    let room = Room::new();
    room.write("a.png", picture(0));
    let row = r#"{"id": "x", "n": 1, "f": 0.5, "b": true, "z": null, "e": [], "images": ["a.png"], "m": [{"role": "user"}]}"#;
    room.write("rows.jsonl", row);
    room.convert("rows.jsonl", "saved", |options| {
        options.format = Some(TargetFormat::Arrow)
    });
    let info: serde_json::Value =
        serde_json::from_slice(&fs::read(&room.path("saved/dataset_info.json")).unwrap()).unwrap();
    let value = |dtype: &str| serde_json::json!({"dtype": dtype, "_type": "Value"});
    let list = |inside: serde_json::Value| serde_json::json!({"feature": inside, "_type": "List"});
    assert_eq!(
        info["features"],
        serde_json::json!({
            "id": value("string"),
            "n": value("int64"),
            "f": value("float64"),
            "b": value("bool"),
            "z": value("null"),
            "e": list(value("null")),
            "images": list(serde_json::json!({"_type": "Image"})),
            "m": list(serde_json::json!({"role": value("string")})),
        })
    );
    let state: serde_json::Value =
        serde_json::from_slice(&fs::read(&room.path("saved/state.json")).unwrap()).unwrap();
    assert_eq!(state["_split"], "train");
    assert_eq!(state["_fingerprint"].as_str().unwrap().len(), 16);
    // A mark of their own: they go by the columns then.
    room.write("rows.jsonl", "{\"a\": [{\"_type\": \"x\"}]}");
    room.convert("rows.jsonl", "marked", |options| {
        options.format = Some(TargetFormat::Arrow);
    });
    let info = fs::read_to_string(&room.path("marked/dataset_info.json")).unwrap();
    assert!(info.contains("\"features\": null"), "{info}");
    assert_eq!(room.rows("marked"), room.rows("rows.jsonl"));
}

#[test]
fn nothing_is_replaced_unasked() {
    let room = room();
    let to_arrow = |options: &mut ConvertOptions| options.format = Some(TargetFormat::Arrow);
    let by_force = |options: &mut ConvertOptions| options.overwrite = true;
    room.convert("rows.jsonl", "a.parquet", |_| {});
    room.convert("rows.jsonl", "saved", to_arrow);
    for (to, format) in [
        ("a.parquet", TargetFormat::Parquet),
        ("saved", TargetFormat::Arrow),
    ] {
        let message = room
            .try_convert("rows.jsonl", to, |options| options.format = Some(format))
            .unwrap_err();
        assert_eq!(
            message,
            format!("{to}: it is there already\n  hint: --force-overwrite replaces it")
        );
        room.convert("rows.jsonl", to, |options| {
            options.format = Some(format);
            options.limit = Some(2);
            by_force(options);
        });
        assert_eq!(room.rows(to).len(), 2);
    }
    room.write("mine/thesis.txt", "years of work");
    room.write("mine/a.jsonl", "{}");
    let message = room
        .try_convert("rows.jsonl", "mine", |options| {
            to_arrow(options);
            by_force(options);
        })
        .unwrap_err();
    assert!(
        message.starts_with("mine: it holds ")
            && message.contains("thesis.txt, which this command did not write"),
        "{message}"
    );
    let before = room.files("");
    for to in ["rows.jsonl", ""] {
        let message = room
            .try_convert("rows.jsonl", to, |options| {
                options.format = Some(TargetFormat::Jsonl);
                by_force(options);
            })
            .unwrap_err();
        assert!(
            message.contains("it holds the rows that are read\n  hint: name another target"),
            "{to}: {message}"
        );
    }
    assert_eq!(room.files(""), before);
    // What is there stays when a conversion fails half-way.
    room.write("bad.jsonl", "{\"n\": 0}\n{");
    let message = room.try_convert("bad.jsonl", "a.jsonl", |_| {}).unwrap_err();
    assert!(message.contains("bad.jsonl:2"), "{message}");
    room.try_convert("bad.jsonl", "saved", |options| {
        to_arrow(options);
        by_force(options);
    })
    .unwrap_err();
    assert_eq!(room.rows("saved").len(), 2);
    assert_eq!(room.files("").len(), before.len() + 1);
}

#[test]
fn the_name_says_what_is_written() {
    let room = room();
    let wrong = |to: &str, change: &dyn Fn(&mut ConvertOptions)| {
        room.try_convert("rows.jsonl", to, |options| change(options))
            .unwrap_err()
    };
    let none = |_: &mut ConvertOptions| {};
    assert!(wrong("out", &none).starts_with("TO: its name does not say what to write\n  hint: "));
    for to in ["a.csv", "a.parquet.gz", "a.tar.zst"] {
        let message = wrong(to, &|options| options.format = Some(TargetFormat::Jsonl));
        assert!(
            message.starts_with("TO: no file of such a name is written"),
            "{message}"
        );
    }
    assert!(wrong("..", &none).starts_with("TO: it names no file and no folder"));
    assert!(
        wrong("a.tar", &|options| options.format = Some(TargetFormat::Arrow))
            .starts_with("--format: arrow, but the name of the file says tar")
    );
    assert!(
        wrong("a.jsonl.gz", &|options| options.compression =
            Some(Compression::None))
        .starts_with("--compression: none, but the name of the file says gzip")
    );
    assert!(
        wrong("a.tar", &|options| options.compression = Some(Compression::Gzip))
            .starts_with("--compression: tar is not compressed by gzip; it takes none")
    );
    assert!(
        wrong("a.arrow", &|options| options.compression =
            Some(Compression::Snappy))
        .starts_with("--compression: arrow is not compressed by snappy; it takes none, zstd, lz4")
    );
    assert!(
        wrong("a.tar", &|options| options.images = Some(ImagePlace::Files))
            .starts_with("--images: a shard holds")
    );
    assert!(
        wrong("a.arrow", &|options| options.max_shard_rows = Some(1))
            .starts_with("--max-shard-rows, --max-shard-size: one file is no shards")
    );
    assert!(
        wrong("d", &|options| {
            options.format = Some(TargetFormat::Parquet);
            options.to_split = Some("../x".into());
        })
        .starts_with("--to-split: \"../x\" is no name of a split")
    );
    let expected = room.rows("rows.jsonl");
    for (to, compressions) in [
        (
            "a.parquet",
            [
                Compression::None,
                Compression::Gzip,
                Compression::Zstd,
                Compression::Snappy,
                Compression::Lz4,
            ]
            .as_slice(),
        ),
        (
            "a.arrow",
            &[Compression::None, Compression::Zstd, Compression::Lz4],
        ),
    ] {
        for &compression in compressions {
            room.convert("rows.jsonl", to, |options| {
                options.compression = Some(compression);
                options.overwrite = true;
            });
            assert_eq!(room.rows(to), expected, "{to}, {compression:?}");
        }
    }
    for to in ["b.jsonl.gz", "b.jsonl.zst", "b.ndjson", "b.json"] {
        room.convert("rows.jsonl", to, |_| {});
        assert_eq!(room.rows(to), expected, "{to}");
    }
    room.convert("rows.jsonl", "z", |options| {
        options.format = Some(TargetFormat::Jsonl);
        options.compression = Some(Compression::Zstd);
    });
    assert_eq!(room.files("z"), ["train.jsonl.zst"]);
}
