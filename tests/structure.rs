//! Conventions that are cheap to check, held against the source: who imports whom, where backends and `std::fs` are named,
//! that unknown keys are refused. A failure names file, line and rule. The rules are explained in ARCHITECTURE.md and
//! CONTRIBUTING.md; what only a reader can judge is not here.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test stops at the first surprise, and reads the source from outside the program"
)]

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

/// A folder or file of `src/`: the rooms it may import, and which of [`WATCHED`] it may name.
struct Room {
    name: &'static str,
    rooms: &'static [&'static str],
    crates: &'static [&'static str],
}

const fn room(name: &'static str, rooms: &'static [&'static str], crates: &'static [&'static str]) -> Room {
    Room { name, rooms, crates }
}

/// The table of ARCHITECTURE.md, "The rooms". Only `cli` imports `config`, and nobody imports `cli`.
const ROOMS: &[Room] = &[
    room("fs", &[], &[]),
    room("signal", &[], &[]),
    room("device_choice", &[], &[]),
    room("parallel", &[], &[]),
    room("cluster", &["fs", "parallel"], &[]),
    room(
        "device",
        &["fs", "device_choice", "parallel"],
        &["brazier_models", "burn"],
    ),
    room("image_processor", &["fs"], &[]),
    // The YAML is what megatron-energon writes beside its shards.
    room(
        "data",
        &["fs", "image_processor"],
        &["saphyr_parser", "serde", "serde_json"],
    ),
    room("track", &["fs"], &["serde", "serde_json"]),
    room(
        "checkpoint",
        &["fs"],
        &["brazier_models", "safetensors", "serde", "serde_json"],
    ),
    room(
        "hub",
        &["fs", "image_processor"],
        &["brazier_models", "safetensors", "serde", "serde_json"],
    ),
    room("generate", &["data"], &["brazier_models", "burn"]),
    room(
        "learner",
        &[
            "fs",
            "device",
            "data",
            "parallel",
            "track",
            "checkpoint",
            "generate",
            "signal",
        ],
        &["brazier_models", "burn"],
    ),
    room(
        "config",
        &[
            "fs",
            "device_choice",
            "data",
            "parallel",
            "track",
            "checkpoint",
            "hub",
            "learner",
        ],
        &[
            "brazier_models",
            "saphyr_parser",
            "schemars",
            "serde",
            "serde_json",
        ],
    ),
    room(
        "cli",
        &[
            "fs",
            "device",
            "device_choice",
            "data",
            "parallel",
            "cluster",
            "track",
            "checkpoint",
            "hub",
            "image_processor",
            "generate",
            "signal",
            "learner",
            "config",
        ],
        &["anyhow", "brazier_models", "burn", "clap", "serde_json"],
    ),
];

/// Crates that are not everybody's business: tensors, formats, the command line, YAML.
const WATCHED: &[&str] = &[
    "anyhow",
    "brazier_models",
    "burn",
    "clap",
    "saphyr_parser",
    "safetensors",
    "schemars",
    "serde",
    "serde_json",
];

/// What the models may depend on: Burn and its kernels, random numbers, errors. No format, no file, nothing of the trainer.
const MODEL_DEPENDENCIES: &[&str] = &[
    "burn",
    "burn-cubecl",
    "burn-flex",
    "cubecl",
    "cubecl-cuda",
    "cubecl-runtime",
    "cudarc",
    "gemm",
    "rand_chacha",
    "rayon",
    "thiserror",
];

#[test]
fn rooms_import_only_what_the_table_allows() {
    let mut offences = Offences::new("rooms import one way (ARCHITECTURE.md, \"The rooms\")");
    for source in sources("src") {
        let Some(name) = source.room() else { continue };
        let Some(room) = ROOMS.iter().find(|room| room.name == name) else {
            offences.add(&source, 0, &format!("the room `{name}` is not in the table"));
            continue;
        };
        for (offset, imported) in source.rooms() {
            if imported != name && !room.rooms.contains(&imported) {
                offences.add(&source, offset, &format!("`{name}` may not import `{imported}`"));
            }
        }
        for krate in WATCHED.iter().filter(|krate| !room.crates.contains(krate)) {
            for offset in source.crates(krate) {
                offences.add(
                    &source,
                    offset,
                    &format!("`{name}` may not use the crate `{krate}`"),
                );
            }
        }
    }
    offences.assert_none();
}

#[test]
fn the_table_is_the_one_of_the_documentation() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let documented: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next())
        .flat_map(|cell| cell.split(", "))
        .filter_map(|name| name.strip_prefix('`')?.strip_suffix('`'))
        .filter(|name| !name.starts_with("models"))
        .collect();
    let checked: BTreeSet<&str> = ROOMS.iter().map(|room| room.name).collect();
    assert_eq!(
        documented, checked,
        "rooms of ARCHITECTURE.md (left) and of this test (right)"
    );
    for name in checked {
        let paths = [format!("src/{name}.rs"), format!("src/{name}/mod.rs")];
        assert!(
            paths.iter().any(|path| root().join(path).exists()),
            "no such room: {name}"
        );
    }
}

#[test]
fn models_know_no_file_no_format_and_nothing_of_the_trainer() {
    let mut offences = Offences::new("models take tensors and give tensors");
    for source in sources("models/src") {
        for krate in ["brazier", "serde", "serde_json", "safetensors", "clap", "anyhow"] {
            for offset in source.crates(krate) {
                offences.add(
                    &source,
                    offset,
                    &format!("models may not use the crate `{krate}`"),
                );
            }
        }
        for module in ["fs", "env", "net", "process"] {
            for offset in source.std_modules(module) {
                offences.add(&source, offset, &format!("models may not use `std::{module}`"));
            }
        }
    }
    offences.assert_none();

    let manifest = fs::read_to_string(root().join("models/Cargo.toml")).unwrap();
    let (_, dependencies) = manifest.split_once("\n[dependencies]\n").unwrap();
    let dependencies = dependencies.split("\n[").next().unwrap();
    for line in dependencies.lines().filter(|line| line.contains('=')) {
        let name = line.split(['.', ' ', '=']).next().unwrap();
        assert!(
            MODEL_DEPENDENCIES.contains(&name),
            "models/Cargo.toml: `{name}` is not among the dependencies that models may have (tests/structure.rs)"
        );
    }
}

#[test]
fn backends_are_named_in_two_places() {
    let mut offences = Offences::new("backends are named in src/device.rs and models/src/ops only");
    let allowed = |path: &str| path == "src/device.rs" || path.starts_with("models/src/ops");
    for source in sources("src").into_iter().chain(sources("models/src")) {
        if allowed(&source.name) {
            continue;
        }
        for (offset, word) in words(&source.code) {
            let is_crate = word == "cubecl" || word == "cubek" || (word.starts_with("burn_"));
            let before = &source.code[..offset];
            let is_device = before.ends_with("Device::")
                && [
                    "flex", "cuda", "wgpu", "ndarray", "default", "rocm", "vulkan", "metal", "tch",
                ]
                .contains(&word);
            let is_backend = before.ends_with("burn::") && word == "backend";
            if is_crate || is_device || is_backend {
                offences.add(&source, offset, &format!("`{word}`"));
            }
        }
    }
    offences.assert_none();
}

#[test]
fn files_are_touched_in_one_place() {
    let mut offences = Offences::new("std::fs is used in src/fs.rs only, so that every error has its path");
    for source in sources("src").iter().filter(|source| source.name != "src/fs.rs") {
        // An open file is a type like any other; opening one is not.
        for offset in source.std_modules("fs") {
            if !source.code[offset..].starts_with("fs::File") {
                offences.add(source, offset, "`std::fs`");
            }
        }
        for (offset, word) in words(&source.code) {
            let is_path = source.code[offset + word.len()..].starts_with("::");
            if word == "OpenOptions" || (word == "File" && is_path) {
                offences.add(source, offset, &format!("`{word}`"));
            }
        }
    }
    offences.assert_none();
}

#[test]
fn unknown_keys_are_refused() {
    let mut offences = Offences::new("every type that is read from a configuration denies unknown fields");
    let mut files = vec![Source::read(&root().join("src/config/raw.rs"))];
    files.extend(sources("src/config/raw"));
    let mut types = 0;
    for source in &files {
        let items = deserialized_items(&source.code);
        types += items.len();
        for item in items {
            denies_unknown_fields(source, &item, &mut offences);
        }
    }
    assert!(types > 20, "the test no longer finds the types of src/config/raw");
    offences.assert_none();
}

fn denies_unknown_fields(source: &Source, item: &Item<'_>, offences: &mut Offences) {
    let Item {
        offset,
        attributes,
        declaration,
        body,
    } = item;
    // A plain list of words has no fields; of several alternatives with one value each, serde takes exactly one.
    let is_tagged = attributes.contains("tag =");
    let has_fields = declaration.contains("struct ") || is_tagged || body.contains('{');
    if has_fields && !attributes.contains("deny_unknown_fields") {
        offences.add(
            source,
            *offset,
            &format!("`{declaration}` lacks deny_unknown_fields"),
        );
    }
    // A number or a text has no keys, of whichever type it turns out to be.
    let is_scalar = |payload: &str| ["bool", "i64", "f64", "String"].contains(&payload);
    let mut payloads = body.split('(').skip(1).filter_map(|rest| rest.split_once(')'));
    let has_no_keys = !body.contains('{') && payloads.all(|(payload, _)| is_scalar(payload));
    for word in ["flatten", "untagged"] {
        let is_harmless = word == "untagged" && declaration.contains("enum ") && has_no_keys;
        if (attributes.contains(word) && !is_harmless) || body.contains(&format!("serde({word}")) {
            let what = format!("`{declaration}` uses {word}, which lets unknown keys pass");
            offences.add(source, *offset, &what);
        }
    }
}

#[test]
fn resolve_names_every_field() {
    let mut offences =
        Offences::new("resolve takes raw types apart without `..`, so that a new key cannot be forgotten");
    for source in sources("src/config/resolve") {
        for (offset, word) in words(&source.code).filter(|(_, word)| word.starts_with("Raw")) {
            let rest = source.code[offset..]
                .trim_start_matches(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
            let Some(fields) = rest.trim_start().strip_prefix('{') else {
                continue;
            };
            let fields = &fields[..closing_brace(fields)];
            if fields.trim_end().ends_with("..") {
                offences.add(&source, offset, &format!("`{word} {{ .. }}`"));
            }
        }
    }
    offences.assert_none();
}

/// What was found against one rule.
struct Offences {
    rule: &'static str,
    list: String,
}

impl Offences {
    fn new(rule: &'static str) -> Self {
        let list = String::new();
        Self { rule, list }
    }

    fn add(&mut self, source: &Source, offset: usize, what: &str) {
        let line = 1 + source.code[..offset].matches('\n').count();
        writeln!(self.list, "  {}:{line}: {what}", source.name).unwrap();
    }

    #[track_caller]
    fn assert_none(self) {
        assert!(self.list.is_empty(), "rule: {}\n{}", self.rule, self.list);
    }
}

/// A source file.
struct Source {
    /// Path from the root of the repository.
    name: String,
    /// The text, with comments and string literals blanked out, so that offsets and lines are the file's.
    code: String,
}

impl Source {
    fn read(path: &Path) -> Self {
        Self {
            name: path.strip_prefix(root()).unwrap().display().to_string(),
            code: blank(&fs::read_to_string(path).unwrap()),
        }
    }

    /// Which room of `src/` it belongs to; the two roots of the crate belong to none.
    fn room(&self) -> Option<&str> {
        let name = self.name.strip_prefix("src/")?.split('/').next()?;
        let name = name.strip_suffix(".rs").unwrap_or(name);
        (!["lib", "main"].contains(&name)).then_some(name)
    }

    /// Rooms that it names by `crate::room` or `crate::{room, ..}`.
    fn rooms(&self) -> Vec<(usize, &str)> {
        let mut found = Vec::new();
        for (at, _) in words(&self.code).filter(|(_, word)| *word == "crate") {
            let Some(rest) = self.code[at..].strip_prefix("crate::") else {
                continue;
            };
            let at = at + "crate::".len();
            match rest.strip_prefix('{') {
                Some(group) => {
                    let group = &group[..closing_brace(group)];
                    found.extend(
                        heads(group)
                            .into_iter()
                            .map(|(offset, name)| (at + 1 + offset, name)),
                    );
                }
                None => found.extend(words(rest).next().map(|(_, name)| (at, name))),
            }
        }
        found
    }

    /// Where a path begins with this crate.
    fn crates(&self, krate: &str) -> Vec<usize> {
        words(&self.code)
            .filter(|(at, word)| *word == krate && !self.code[..*at].ends_with("::"))
            .filter(|(at, word)| {
                let is_path = self.code[at + word.len()..].starts_with("::");
                let is_used = ["use ", "extern crate "]
                    .iter()
                    .any(|start| self.code[..*at].ends_with(start));
                is_path || is_used
            })
            .map(|(at, _)| at)
            .collect()
    }

    /// Where the module of `std` is named, alone or in a group.
    fn std_modules(&self, module: &str) -> Vec<usize> {
        let mut found = Vec::new();
        for (at, _) in words(&self.code).filter(|(_, word)| *word == "std") {
            let Some(rest) = self.code[at..].strip_prefix("std::") else {
                continue;
            };
            let at = at + "std::".len();
            let names: Vec<_> = match rest.strip_prefix('{') {
                Some(group) => heads(&group[..closing_brace(group)])
                    .into_iter()
                    .map(|(offset, name)| (1 + offset, name))
                    .collect(),
                None => words(rest).take(1).collect(),
            };
            let here = names.into_iter().filter(|(_, name)| *name == module);
            found.extend(here.map(|(offset, _)| at + offset));
        }
        found
    }
}

/// A type that serde reads: its attributes, the line that declares it, and what is between its braces.
struct Item<'a> {
    offset: usize,
    attributes: &'a str,
    declaration: &'a str,
    body: &'a str,
}

fn deserialized_items(code: &str) -> Vec<Item<'_>> {
    let derives = code.match_indices("#[derive(");
    let items = derives.filter_map(|(start, _)| {
        let item = &code[start..];
        let declared = ["struct ", "enum "]
            .iter()
            .filter_map(|word| item.find(word))
            .min()?;
        let (attributes, rest) = item.split_at(declared);
        let brace = rest.find('{')?;
        let body = &rest[brace + 1..];
        attributes.contains("Deserialize").then(|| Item {
            offset: start + declared,
            attributes,
            declaration: rest[..brace].trim(),
            body: &body[..closing_brace(body)],
        })
    });
    items.collect()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file under a folder.
fn sources(folder: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(Source::read(&path));
            }
        }
    }
    assert!(!found.is_empty(), "no source in {folder}");
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Identifiers and keywords with their offsets.
fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = at + code[at..].find(is_word)?;
        let length = code[start..].find(|c| !is_word(c)).unwrap_or(code.len() - start);
        at = start + length;
        Some((start, &code[start..at]))
    })
}

/// First words of the comma-separated paths of a group, not of the groups inside.
fn heads(group: &str) -> Vec<(usize, &str)> {
    let (mut depth, mut at_head, mut found) = (0_usize, true, Vec::new());
    for (offset, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => at_head = true,
            c if at_head && (c.is_alphanumeric() || c == '_') => {
                found.extend(words(&group[offset..]).next().map(|(_, word)| (offset, word)));
                at_head = false;
            }
            _ => {}
        }
    }
    found
}

/// Where the brace closes that was opened just before this text.
fn closing_brace(text: &str) -> usize {
    let mut depth = 1_usize;
    for (offset, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return offset;
        }
    }
    text.len()
}

/// Replaces comments and the insides of literals by blanks. Lines and byte offsets stay.
fn blank(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text.as_bytes()[at..];
        let is_start = at == 0 || !(bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
        let length = match rest {
            [b'/', b'/', ..] => rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len()),
            [b'/', b'*', ..] => find(rest, b"*/").map_or(rest.len(), |end| end + 2),
            [b'"', ..] => quoted(rest),
            [b'r', b'"' | b'#', ..] | [b'b', b'r', ..] if is_start => raw_string(rest).unwrap_or(0),
            [b'\'', b'\\', ..] => {
                2 + rest[3..]
                    .iter()
                    .position(|&byte| byte == b'\'')
                    .map_or(0, |end| end + 2)
            }
            [b'\'', _, b'\'', ..] => 3,
            _ => 0,
        };
        for byte in &mut bytes[at..at + length] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at += length.max(1);
    }
    String::from_utf8(bytes).unwrap()
}

/// Length of a string literal that begins here.
fn quoted(text: &[u8]) -> usize {
    let mut at = 1;
    while at < text.len() && text[at] != b'"' {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(text.len())
}

/// Length of a raw string literal, if one begins here.
fn raw_string(text: &[u8]) -> Option<usize> {
    let prefix = 1 + usize::from(text[0] == b'b');
    let hashes = text[prefix..].iter().take_while(|&&byte| byte == b'#').count();
    let open = prefix + hashes + 1;
    (text.get(open - 1) == Some(&b'"')).then_some(())?;
    let close = [b"\"".as_slice(), &text[prefix..prefix + hashes]].concat();
    Some(open + find(&text[open..], &close)? + close.len())
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}

#[test]
fn the_reader_of_source_sees_code_only() {
    let code = blank(
        "use a; // crate::b\nlet s = \"crate::{c}\\\"\"; let r = r#\"crate::\"d\"#; let q = '\"'; 'x: loop {}",
    );
    assert_eq!(code.matches("crate").count(), 0, "{code}");
    assert!(code.contains("'x: loop {}"), "{code}");

    let source = Source {
        name: "src/data/x.rs".into(),
        code: "use crate::{\n    fs::{self, y},\n    hub,\n};\nfn f() { crate::cli::g(); serde_json::h(); std::fs::i() }".into(),
    };
    let rooms: Vec<&str> = source.rooms().into_iter().map(|(_, room)| room).collect();
    assert_eq!(rooms, ["fs", "hub", "cli"]);
    assert_eq!(
        (source.room(), source.crates("serde_json").len()),
        (Some("data"), 1)
    );
    assert_eq!(
        (source.crates("serde").len(), source.std_modules("fs").len()),
        (0, 1)
    );
}
