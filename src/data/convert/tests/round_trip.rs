//! Random rows through every format and back.

use std::fmt::Write as _;

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};

use super::*;

struct Dice(ChaCha8Rng);

impl Dice {
    fn below(&mut self, count: usize) -> usize {
        (self.0.next_u64() % count as u64) as usize
    }

    fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

const TEXTS: [&str; 10] = [
    "",
    " ",
    "plain",
    "é 日本 \u{1F600}",
    "\u{0}\u{7f}\u{2028}",
    "\"\\\n\r\t",
    "<image>",
    "null",
    "0",
    "\u{10FFFD}",
];
const WHOLE: [i64; 8] = [
    0,
    -1,
    7,
    i64::MAX,
    i64::MIN,
    9_007_199_254_740_993,
    -9_007_199_254_740_993,
    1 << 40,
];
const FLOATS: [f64; 8] = [0.5, -0.0, 2.0, 1e300, 5e-324, 0.1, 1.8446744073709552e19, -1e-7];

/// What a place of all rows holds.
enum Kind {
    Bool,
    Int,
    Float,
    Text,
    List(Box<Kind>),
    Object(Vec<(String, Kind)>),
}

fn kind(dice: &mut Dice, depth: usize) -> Kind {
    match dice.below(if depth == 0 { 4 } else { 7 }) {
        0 => Kind::Bool,
        1 => Kind::Int,
        2 => Kind::Float,
        3 => Kind::Text,
        4 | 5 => Kind::List(Box::new(kind(dice, depth - 1))),
        _ => {
            let names = ["a", "b.c", "日", "type", "path"];
            let num = 1 + dice.below(names.len());
            Kind::Object(
                names[..num]
                    .iter()
                    .map(|name| ((*name).to_owned(), kind(dice, depth - 1)))
                    .collect(),
            )
        }
    }
}

fn draw(dice: &mut Dice, kind: &Kind) -> Value {
    if dice.below(6) == 0 {
        return Value::Null;
    }
    match kind {
        Kind::Bool => Value::Bool(dice.below(2) == 0),
        Kind::Int => Value::Int(*dice.one(&WHOLE)),
        Kind::Float => Value::Float(*dice.one(&FLOATS)),
        Kind::Text => Value::Text((*dice.one(&TEXTS)).to_owned()),
        Kind::List(inside) => {
            let length = dice.below(4);
            Value::List((0..length).map(|_| draw(dice, inside)).collect())
        }
        Kind::Object(fields) => Value::Object(entries(dice, fields)),
    }
}

fn entries(dice: &mut Dice, fields: &[(String, Kind)]) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    for (name, kind) in fields {
        if dice.below(5) > 0 {
            let value = draw(dice, kind);
            // In any order.
            found.insert(dice.below(found.len() + 1), (name.clone(), value));
        }
    }
    found
}

/// JSON lines with images beside them: listed, in turns, shared between rows, as base64.
fn rows(dice: &mut Dice, room: &Room) -> String {
    let fields: Vec<(String, Kind)> = (0..4)
        .map(|number| (format!("f{number}"), kind(dice, 3)))
        .collect();
    for number in 0..6 {
        room.write(&format!("in/images/{number}.x"), picture(number));
    }
    let mut lines = String::new();
    let image = |dice: &mut Dice| match dice.below(4) {
        0 => "{\"bytes\": \"iVBORw0KGgp4eHg=\"}".to_owned(),
        1 => "\"data:image/gif;base64,R0lGODlheHl6\"".to_owned(),
        _ => format!("\"images/{}.x\"", dice.below(6)),
    };
    for _ in 0..60 {
        let mut row = entries(dice, &fields);
        row.push(("id".to_owned(), Value::Int(*dice.one(&WHOLE))));
        let text = String::from_utf8(json::line(&Value::Object(row)).unwrap()).unwrap();
        let images: Vec<String> = (0..dice.below(4)).map(|_| image(dice)).collect();
        let listed = match dice.below(4) {
            0 => String::new(),
            1 => ", \"images\": null".to_owned(),
            _ => format!(", \"images\": [{}]", images.join(", ")),
        };
        let mut parts = String::from("{\"type\": \"text\", \"text\": \"?\"}");
        for _ in 0..dice.below(3) {
            let _ = write!(parts, ", {{\"type\": \"image\", \"image\": {}}}", image(dice));
        }
        let _ = writeln!(
            lines,
            "{}{listed}, \"messages\": [{{\"role\": \"user\", \"content\": [{parts}]}}]}}",
            &text[..text.len() - 1]
        );
    }
    lines
}

#[test]
fn rows_are_the_same_after_every_format() {
    for seed in 0..12 {
        let room = Room::new();
        let mut dice = Dice(ChaCha8Rng::seed_from_u64(seed));
        let lines = rows(&mut dice, &room);
        room.write("in/rows.jsonl", lines);
        let to = |format| move |options: &mut ConvertOptions| options.format = Some(format);
        room.convert("in/rows.jsonl", "a.parquet", |_| {});
        room.convert("a.parquet", "saved", |options| {
            options.format = Some(TargetFormat::Arrow);
            options.max_shard_rows = Some(25);
        });
        room.convert("saved", "shards", |options| {
            options.format = Some(TargetFormat::Tar);
            options.max_shard_rows = Some(17);
        });
        room.convert("shards", "out", to(TargetFormat::Jsonl));
        let expected = room.plain("in/rows.jsonl", Nulls::LeftOut);
        assert_eq!(expected.len(), 60);
        for name in ["a.parquet", "saved", "shards", "out"] {
            assert!(
                room.plain(name, Nulls::LeftOut) == expected,
                "seed {seed}: {name}"
            );
        }
        // Without a table, null is kept too; so are the names of keys and their order.
        room.convert("in", "t.tar", |_| {});
        room.convert("t.tar", "b.jsonl.zst", |options| {
            options.images = Some(ImagePlace::Inline)
        });
        room.convert("b.jsonl.zst", "c", to(TargetFormat::Jsonl));
        let expected = room.plain("in/rows.jsonl", Nulls::Kept);
        for name in ["t.tar", "b.jsonl.zst", "c"] {
            assert!(room.plain(name, Nulls::Kept) == expected, "seed {seed}: {name}");
        }
    }
}

#[test]
fn bytes_that_are_no_image_pass_through_tables_and_shards() {
    let room = Room::new();
    let sample = |number: u8| {
        let bytes = vec![number, 0, 255];
        Value::Object(vec![
            ("__key__".into(), Value::Text(format!("d/{number}"))),
            ("npy".into(), Value::Bytes(bytes)),
            ("n".into(), Value::Int(number.into())),
        ])
    };
    let rows: Vec<Value> = (0..3).map(sample).collect();
    let mut keys = tar::Keys::new(false);
    let output = fs::Output::create(&room.path("a.tar")).unwrap();
    let mut shard: Box<dyn Sink> = Box::new(tar::TarWriter::create(output));
    for (number, row) in rows.iter().enumerate() {
        let mut row = row.clone();
        let key = keys.of(number, &mut row).unwrap();
        assert!(shard.push(&key, row).is_ok());
    }
    shard.finish().unwrap();
    room.convert("a.tar", "a.parquet", |_| {});
    room.convert("a.parquet", "a.arrow", |_| {});
    room.convert("a.arrow", "b.tar", |_| {});
    for name in ["a.tar", "a.parquet", "a.arrow", "b.tar"] {
        for (row, expected) in room.rows(name).into_iter().zip(&rows) {
            for key in ["__key__", "npy", "n"] {
                assert_eq!(row.get(key), expected.get(key), "{name}");
            }
        }
    }
    assert_eq!(
        fs::read(&room.path("a.tar")).unwrap(),
        fs::read(&room.path("b.tar")).unwrap()
    );
    let message = room.try_convert("a.tar", "a.jsonl", |_| {}).unwrap_err();
    assert!(
        message.starts_with("a.tar:1: npy: JSON holds no bytes\n  hint: if they are an image"),
        "{message}"
    );
}
