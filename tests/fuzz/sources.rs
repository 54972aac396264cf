//! Files of rows.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use brazier::data::{Cache, Format, Selection, inspect};

use crate::{
    harness::{Target, numbered},
    repair,
};

const JSON: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\"",
    "\\u0000",
    "\\ud800",
    "\\",
    "null",
    "true",
    "1e400",
    "\u{feff}",
    "\r\n",
    "\n",
    "\"a\":",
    "[[[[",
    "\u{1F600}",
];
const CELLS: &[&str] = &[
    ",", "\t", "\"", "\"\"", "\n", "\r", "\r\n", "\u{feff}", "NaN", "inf", "a", "\",\"", "true",
];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sources")
}

pub(crate) fn fixture(name: &str) -> Vec<u8> {
    fs::read(fixtures().join(name)).unwrap()
}

/// All that `brazier data inspect` says of a path, with numbers of cells and without.
fn look(path: &Path, format: Format, cache: &Cache) -> String {
    let looked = [false, true].map(|numbers| {
        let selection = Selection {
            numbers,
            format,
            ..Selection::of(path)
        };
        match inspect(&selection, cache, 2) {
            Ok(found) => found.to_string(),
            Err(error) => error.to_string(),
        }
    });
    looked.concat()
}

/// The bytes as a file of that name.
fn file(
    dir: &Path,
    name: &'static str,
    format: Format,
    seeds: Vec<Vec<u8>>,
    words: &'static [&'static str],
) -> Target {
    let path = dir.join(name);
    Target::new(seeds, words, move |bytes| {
        fs::write(&path, bytes).unwrap();
        look(&path, format, &Cache::default())
    })
}

pub(crate) fn jsonl(dir: &Path) -> Target {
    let seeds = vec![
        fixture("rows.jsonl"),
        b"{\"a\": [1, {\"b\": null}], \"c\": -1.5e3}\n\n{}\n".to_vec(),
    ];
    file(dir, "a.jsonl", Format::Auto, seeds, JSON)
}

/// A JSON file that is one list.
pub(crate) fn lists(dir: &Path) -> Target {
    let seeds = vec![
        b"[{\"a\": \"]\\\"\"}, {\"a\": [1, [2]]},\n{\"a\": {\"b\": \"}\"}}]\n".to_vec(),
        b" [ ] ".to_vec(),
    ];
    file(dir, "a.json", Format::Auto, seeds, JSON)
}

pub(crate) fn csv(dir: &Path) -> Target {
    let seeds = vec![
        b"a,b\n1,\"x\ny\"\n2,z\n".to_vec(),
        b"\xef\xbb\xbfa;b,a\r\n\"\"\"\",-1e3\r\n".to_vec(),
    ];
    file(dir, "a.csv", Format::Auto, seeds, CELLS)
}

pub(crate) fn tsv(dir: &Path) -> Target {
    file(
        dir,
        "a.tsv",
        Format::Auto,
        vec![b"a\tb\n1\tx y\n2\t\"z\"\n".to_vec()],
        CELLS,
    )
}

/// A document in a file, or in each line of it.
pub(crate) fn text(dir: &Path) -> Target {
    let path = dir.join("a.txt");
    let seeds = vec!["one\n\ntwo ☃\r\nthree".into(), b"\xef\xbb\xbf\xff\n".to_vec()];
    Target::new(seeds, CELLS, move |bytes| {
        fs::write(&path, bytes).unwrap();
        let looked = [Format::Text, Format::TextLines].map(|format| look(&path, format, &Cache::default()));
        looked.concat()
    })
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Much from little.
fn bomb() -> Vec<u8> {
    b"{\"a\": 1}\n".repeat(1 << 18)
}

pub(crate) fn gzip(dir: &Path) -> Target {
    let rows = fixture("rows.jsonl");
    let seeds = vec![
        compressed(&rows),
        [compressed(&rows), compressed(b"{}\n")].concat(),
        compressed(&bomb()),
    ];
    file(dir, "a.jsonl.gz", Format::Auto, seeds, &[])
}

pub(crate) fn zstd(dir: &Path) -> Target {
    let pack = |bytes: &[u8]| ::zstd::stream::encode_all(bytes, 1).unwrap();
    let rows = fixture("rows.jsonl");
    let seeds = vec![pack(&rows), [pack(&rows), pack(b"{}\n")].concat(), pack(&bomb())];
    file(dir, "a.jsonl.zst", Format::Auto, seeds, &[])
}

pub(crate) fn parquet(dir: &Path) -> Target {
    let seeds = vec![
        fixture("rows.parquet"),
        fixture("timelines.parquet"),
        b"PAR1PAR1\0\0\0\0PAR1".to_vec(),
    ];
    Target {
        // What the reader lets a row group take: a page's length is a number of 32 bits, and the crate reserves it before it
        // reads. The memory stays untouched.
        max_memory: 4 << 30,
        ..file(dir, "a.parquet", Format::Auto, seeds, &[])
    }
}

pub(crate) fn arrow(dir: &Path) -> Target {
    let seeds = [
        "rows.arrow",
        "rows.feather",
        "saved/test/data-00000-of-00001.arrow",
    ]
    .map(fixture);
    let seeds = seeds
        .into_iter()
        .chain([b"ARROW1\0\0\0\0\0\0\0\0\0\0ARROW1".to_vec()]);
    file(dir, "a.arrow", Format::Auto, seeds.collect(), &[])
}

pub(crate) fn webdataset(dir: &Path) -> Target {
    Target {
        repair: Some(repair::tar),
        ..file(
            dir,
            "a.tar",
            Format::Auto,
            vec![fixture("shard.tar"), fixture("energon/000000.tar")],
            &[],
        )
    }
}

/// What lies beside rows: energon's metadata and that of `save_to_disk`.
pub(crate) fn sidecars(dir: &Path) -> Target {
    const FILES: [&str; 8] = [
        "energon/.nv-meta/dataset.yaml",
        "energon/.nv-meta/split.yaml",
        "energon/.nv-meta/.info.json",
        "energon/000000.tar.idx",
        "saved/dataset_dict.json",
        "saved/train/state.json",
        "saved/train/dataset_info.json",
        "blend.yaml",
    ];
    const BLEND: &str = "__module__: megatron.energon\n__class__: Metadataset\nsplits:\n  train:\n    datasets:\n      - weight: 1\n        \
                         path: energon\n        split_part: train\n";
    let dir = dir.to_owned();
    copy(&fixtures().join("energon"), &dir.join("energon"));
    copy(&fixtures().join("saved"), &dir.join("saved"));
    fs::write(dir.join("blend.yaml"), BLEND).unwrap();
    let whole = FILES.map(|name| fs::read(dir.join(name)).unwrap());
    let words = &[
        "sample_type:",
        "__class__:",
        "field_map:",
        "subflavors:",
        "split_parts:",
        "000001.tar",
        "../",
        "*a",
        "&a",
        "- ",
        "weight:",
        "{",
        "}",
        "[",
        "null",
        "shard_counts",
        "exclude",
        "_data_files",
        "filename",
        "splits",
    ];
    let target = Target::new(numbered(&whole), words, move |case| {
        let number = usize::from(case[0]);
        let path = dir.join(FILES[number]);
        fs::write(&path, &case[1..]).unwrap();
        let mut seen = String::new();
        for (name, split) in [("energon", "val"), ("saved", "train"), ("blend.yaml", "train")] {
            let selection = Selection {
                split: Some(split.into()),
                ..Selection::of(&dir.join(name))
            };
            seen += &match inspect(&selection, &Cache::default(), 1) {
                Ok(found) => found.to_string(),
                Err(error) => error.to_string(),
            };
        }
        fs::write(&path, &whole[number]).unwrap();
        seen
    });
    Target {
        head: 1,
        rounds: 150,
        ..target
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &to),
            false => drop(fs::copy(&path, &to).unwrap()),
        }
    }
}

/// The cached places of the lines of a large file.
pub(crate) fn line_index(dir: &Path) -> Target {
    let (path, cache) = (dir.join("large.jsonl"), dir.join("cache"));
    // Nearly all of it is blank: an index is only kept for large files, and that is no reason to parse much.
    let mut content = vec![b'\n'; 33 << 20];
    for place in [0, 1 << 20, 30 << 20] {
        content[place..place + 9].copy_from_slice(b"{\"a\": 12}");
    }
    fs::write(&path, &content).unwrap();
    let _ = fs::remove_dir_all(&cache);
    let cached = Cache::new(Some(cache.clone()));
    look(&path, Format::Auto, &cached);
    let mut kept = fs::read_dir(&cache).unwrap();
    let index = kept.next().unwrap().unwrap().path();
    assert!(kept.next().is_none());
    let seeds = vec![fs::read(&index).unwrap()];
    let target = Target::new(seeds, &[], move |bytes| {
        fs::write(&index, bytes).unwrap();
        look(&path, Format::Auto, &cached)
    });
    Target {
        repair: Some(repair::line_index),
        rounds: 30,
        ..target
    }
}
