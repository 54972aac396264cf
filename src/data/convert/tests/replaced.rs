//! What gives way when a target is written again, and what must not.

use super::*;

fn by_force(options: &mut ConvertOptions) {
    options.overwrite = true;
}

/// A file of rows that name as many images under `shots/`.
fn write_rows(room: &Room, name: &str, numbers: std::ops::Range<usize>) {
    let mut rows = String::new();
    for number in numbers {
        room.write(&format!("shots/{number}.png"), picture(4 * number));
        rows += &format!("{{\"image\": \"shots/{number}.png\"}}\n");
    }
    room.write(name, rows);
}

#[test]
fn files_that_share_the_begin_of_a_name_share_no_images() {
    let room = Room::new();
    write_rows(&room, "one.jsonl", 0..1);
    write_rows(&room, "two.jsonl", 1..3);
    room.convert("one.jsonl", "data.train.jsonl", |_| {});
    room.convert("two.jsonl", "data.eval.jsonl.zst", |_| {});
    room.convert("two.jsonl", "data.eval.jsonl.zst", by_force);
    assert_eq!(room.files("data.train-images"), ["shots/0.png"]);
    assert_eq!(room.files("data.eval-images"), ["shots/1.png", "shots/2.png"]);
    assert!(room.plain("data.train.jsonl", Nulls::Kept) == room.plain("one.jsonl", Nulls::Kept));
    // The same folder for both: only if it is of neither.
    for to in ["data.eval.json", "data.eval.parquet"] {
        let message = room
            .try_convert("one.jsonl", to, |options| {
                options.images = Some(ImagePlace::Files);
                by_force(options);
            })
            .unwrap_err();
        assert!(
            message.starts_with("data.eval-images: it is there, but no rows of its"),
            "{message}"
        );
    }
    room.convert("one.jsonl", "data.eval.parquet", |_| {});
    let message = room
        .try_convert("one.jsonl", "data.eval.parquet", |options| {
            options.images = Some(ImagePlace::Files);
            by_force(options);
        })
        .unwrap_err();
    assert!(
        message.contains("it may hold images of data.eval.jsonl.zst, too"),
        "{message}"
    );
    assert_eq!(room.files("data.eval-images").len(), 2);
}

#[test]
fn images_that_are_read_are_not_removed() {
    let room = Room::new();
    write_rows(&room, "rows.jsonl", 0..2);
    room.convert("rows.jsonl", "train.jsonl", |_| {});
    fs::copy(&room.path("train.jsonl"), &room.path("copy.jsonl")).unwrap();
    let message = room
        .try_convert("copy.jsonl", "train.jsonl", by_force)
        .unwrap_err();
    assert!(
        message.contains("train-images: it holds train-images/shots/0.png, which is read: not replaced"),
        "{message}"
    );
    // The same for a folder, whose rows would go on naming them.
    let lines = |options: &mut ConvertOptions| options.format = Some(TargetFormat::Jsonl);
    room.convert("rows.jsonl", "out", lines);
    let row = "{\"image\": \"out/images/shots/1.png\"}\n{";
    room.write("others.jsonl", row);
    for images in [ImagePlace::Keep, ImagePlace::Inline, ImagePlace::Files] {
        let message = room
            .try_convert("others.jsonl", "out", |options| {
                lines(options);
                by_force(options);
                options.images = Some(images);
                options.max_bad_rows = 1;
            })
            .unwrap_err();
        assert!(
            message.contains("out/images/shots/1.png, which is read"),
            "{images:?}: {message}"
        );
    }
    for folder in ["train-images", "out/images"] {
        assert_eq!(room.files(folder), ["shots/0.png", "shots/1.png"]);
    }
    assert!(room.plain("train.jsonl", Nulls::Kept) == room.plain("rows.jsonl", Nulls::Kept));
}

#[test]
fn folders_of_others_stay() {
    let room = Room::new();
    room.write("rows.jsonl", "{\"n\": 0}\n");
    for (file, named) in [
        ("photos/a.jpg", "photos/a.jpg"),
        ("albums/summer/a.jpg", "albums/summer"),
        ("only/images/a.jpg", "only"),
        (
            "part/train-00001-of-00002.parquet",
            "part/train-00001-of-00002.parquet",
        ),
        ("dump/rows.arrow", "dump/rows.arrow"),
        ("logs/b.gz", "logs/b.gz"),
        ("states/state.json", "states"),
    ] {
        room.write(file, "mine");
        let to = file.split('/').next().unwrap();
        let before = room.files(to);
        let message = room
            .try_convert("rows.jsonl", to, |options| {
                options.format = Some(TargetFormat::Parquet);
                by_force(options);
            })
            .unwrap_err();
        assert!(
            message.contains(&format!(
                "it holds {named}, which this command did not write: not replaced"
            )),
            "{to}: {message}"
        );
        assert_eq!(room.files(to), before);
    }
    // What is of this command: all that it writes, each in the place of the one before.
    write_rows(&room, "rows.jsonl", 0..3);
    for format in [
        TargetFormat::Jsonl,
        TargetFormat::Parquet,
        TargetFormat::Arrow,
        TargetFormat::Tar,
    ] {
        for (max_shard_rows, split) in [(None, "a_b.c"), (Some(2), "train")] {
            room.convert("rows.jsonl", "ours", |options| {
                options.format = Some(format);
                options.max_shard_rows = max_shard_rows;
                options.to_split = Some(split.into());
                by_force(options);
            });
        }
    }
    assert_eq!(room.files("ours").len(), 4);
}

/// The rows do not come: what was there is there, images and all.
#[test]
fn a_failed_replacement_leaves_what_was_there() {
    let room = Room::new();
    room.write("train.jsonl", "{}\n");
    room.write("train-images/old.png", "old");
    room.write("saved/train.jsonl", "{}\n");
    for (to, kept) in [("train.jsonl", "train-images"), ("saved", "saved")] {
        let mut options = room.options("rows.jsonl", to);
        options.format = Some(TargetFormat::Jsonl);
        options.overwrite = true;
        let mut target = Target::of(&options).unwrap();
        target.check(&[]).unwrap();
        let before = room.files(kept);
        let partial = target.partial();
        let has_images = to == "train.jsonl";
        if has_images {
            fs::create_dir_all(&partial.images).unwrap();
            fs::write_durable(&partial.images.join("new.png"), b"new").unwrap();
        }
        target.commit(&partial, has_images).unwrap_err();
        partial.remove().unwrap();
        assert_eq!(room.files(kept), before);
    }
    assert_eq!(room.files("").len(), 3);
}
