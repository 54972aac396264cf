//! axolotl's configurations on rows: token ids and labels are those that axolotl makes of the same file
//! (`tests/scripts/record_axolotl.py`), but for the differences that are listed here.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::*;
use crate::data::{Dataset, IGNORE_LABEL, ImageOptions, NamedTemplate, Split, Tokenizer};

const TEMPLATES: &str = "tests/fixtures/templates";

fn json(path: &str) -> Json {
    serde_json::from_slice(&fs::read(Path::new(path)).unwrap()).unwrap()
}

/// Token ids, and which of them are trained. `None` is a row that is left out.
type Row = Option<(Vec<i32>, Vec<bool>)>;

/// Rows by `file:line`.
type Rows = BTreeMap<String, Row>;

/// What is trained here and not by axolotl: case, row, and each piece of text. See `docs/dialects.md` for the reasons.
const ADDED: &[(&str, &str, &[&str])] = &[
    // The end of an empty answer.
    ("chatml", EMPTY, &["<|im_end|>", "<|im_end|>"]),
    ("chatml, eot_tokens", EMPTY, &["<|im_end|>", "<|im_end|>"]),
    ("chatml, drop", EMPTY, &["<|im_end|>", "<|im_end|>"]),
    ("chatml, truncate", EMPTY, &["<|im_end|>", "<|im_end|>"]),
    ("llama3", EMPTY, &["<|eot_id|>", "<|eot_id|>"]),
    ("apertus", EMPTY, &["<|assistant_end|>", "<|assistant_end|>"]),
    ("llava_jp", EMPTY, &["<|endoftext|>", "<|endoftext|>"]),
    ("turns", EMPTY, &["<end_of_turn>", "<end_of_turn>"]),
    // What a template writes between its prompt and an answer.
    ("qwen3", "common.jsonl:1", &[NO_THOUGHT]),
    ("qwen3", "common.jsonl:2", &[NO_THOUGHT]),
    (
        "qwen3",
        EMPTY,
        &["<|im_end|>", "<think>\n\n</think>\n\n<|im_end|>"],
    ),
    ("qwen3", "common.jsonl:4", &[NO_THOUGHT]),
    ("qwen3", "common.jsonl:5", &[NO_THOUGHT]),
    ("qwen3", "images.jsonl:1", &[NO_THOUGHT]),
    ("qwen3", "thoughts.jsonl:1", &["<think>\n"]),
    ("qwen3", "tools.jsonl:1", &[NO_THOUGHT]),
    ("qwen3, strings", "parts.jsonl:1", &[NO_THOUGHT]),
    ("qwen3, strings", "strings.jsonl:1", &[NO_THOUGHT]),
    ("qwen3, strings", "system.jsonl:1", &[NO_THOUGHT]),
    ("qwen3, tools", "tools.jsonl:1", &["<|im_end|>", NO_THOUGHT]),
    ("inst", "common.jsonl:1", &[" ", " "]),
    ("inst", "common.jsonl:2", &[" "]),
    ("inst", EMPTY, &[" <|endoftext|>", " <|endoftext|>"]),
    ("inst", "common.jsonl:4", &[" ", " "]),
    ("inst", "common.jsonl:5", &[" ", " "]),
    ("inst", "images.jsonl:1", &[" "]),
    // Ends of turns that the template puts together.
    ("apertus, all", "few.jsonl:1", &["<|user_end|>", "<|user_end|>"]),
    ("apertus, all", "few.jsonl:2", &["<|system_end|>", "<|user_end|>"]),
];
const EMPTY: &str = "common.jsonl:3";
const NO_THOUGHT: &str = "<think>\n\n</think>\n\n";

/// Pieces of a document that is left out here as a whole.
const LEFT_OUT: &[(&str, &str)] = &[("completion", "texts.jsonl:3"), ("completion", "texts.jsonl:4")];

/// What axolotl can do and Brazier does not.
const REFUSED: &[(&str, &str)] = &[("alpaca, train_on_inputs", "the words of Alpaca's template")];

struct Recorded {
    file: Json,
    own_templates: Json,
}

impl Recorded {
    fn read() -> Self {
        Self {
            file: json("tests/fixtures/axolotl.json"),
            own_templates: json(&format!("{TEMPLATES}/cases.json"))["templates"].take(),
        }
    }

    fn ids(&self, place: &Json) -> Vec<i32> {
        let ids = self.file["ids"][place.as_u64().unwrap() as usize]
            .as_array()
            .unwrap();
        ids.iter().map(|id| id.as_i64().unwrap() as i32).collect()
    }

    /// The recorded rows of a case.
    fn rows(&self, case: &Json) -> Rows {
        let mut rows = Rows::new();
        for (file, results) in case["results"].as_object().unwrap() {
            for (number, result) in results.as_array().unwrap().iter().enumerate() {
                let row = result.as_array().map(|row| {
                    let mask = row[1].as_str().unwrap().chars().map(|bit| bit == '1');
                    (self.ids(&row[0]), mask.collect())
                });
                rows.insert(format!("{file}:{}", number + 1), row);
            }
        }
        rows
    }

    /// A folder with what a case needs.
    fn folder(&self, case: &Json) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| fs::write_atomic(&folder.path().join(name), text.as_bytes()).unwrap();
        let mut tokenizer = json(&format!("{TEMPLATES}/tokenizer_config.json"));
        tokenizer["eos_token"] = case["eos"].clone();
        if let Some(name) = case["template"].as_str() {
            tokenizer["chat_template"] = match NamedTemplate::from_name(name) {
                Some(named) => named.source().into(),
                None => self.own_templates[name].clone(),
            };
        }
        fs::copy(
            Path::new(&format!("{TEMPLATES}/tokenizer.json")),
            &folder.path().join("tokenizer.json"),
        )
        .unwrap();
        write("tokenizer_config.json", &tokenizer.to_string());
        write("config.json", "{}");
        write("x.png", "");
        for (name, rows) in self.file["rows"].as_object().unwrap() {
            let rows = rows.as_array().unwrap().iter().map(|row| format!("{row}\n"));
            write(&format!("{name}.jsonl"), &rows.collect::<String>());
        }
        let config = [&self.file["head"], &case["config"]].map(|text| text.as_str().unwrap());
        write("axolotl.yaml", &config.concat());
        folder
    }
}

/// What becomes of the rows here.
fn ours(folder: &Path) -> Result<Rows, String> {
    let env = |name: &str| (name == "DIR").then(|| folder.display().to_string());
    let request = Request {
        sets: &[],
        leave_out: &[],
        dialect: None,
    };
    let run = read(&folder.join("axolotl.yaml"), request, &env)
        .result
        .and_then(|loaded| resolve(&loaded, World::ALONE))
        .map_err(|errors| words(&errors))?;
    let tokenizer = Tokenizer::load(&run.data.tokenizer).unwrap().into();
    let images = ImageOptions::clip(2, 1);
    let dataset = Dataset::open(Split::Train, &run.data, Some(images), tokenizer);
    let dataset = dataset.map_err(|error| error.to_string())?;
    let rows = (0..dataset.len()).map(|index| {
        let sample = dataset.sample(index);
        let file = sample.file.file_name().unwrap().to_str().unwrap();
        let (ids, labels) = dataset.ids_and_labels(index);
        let mask = labels.iter().map(|&label| label != IGNORE_LABEL).collect();
        assert!(
            ids.iter()
                .zip(&labels)
                .all(|(id, label)| [*id, IGNORE_LABEL].contains(label))
        );
        (format!("{file}:{}", sample.line), Some((ids, mask)))
    });
    Ok(rows.collect())
}

/// Text of each run of tokens at the places of a mask.
fn pieces(tokenizer: &Tokenizer, ids: &[i32], mask: &[bool]) -> Vec<String> {
    let tokens: Vec<(u32, bool)> = ids
        .iter()
        .map(|&id| id as u32)
        .zip(mask.iter().copied())
        .collect();
    let runs = tokens
        .chunk_by(|(_, one), (_, other)| one == other)
        .filter(|run| run[0].1);
    runs.map(|run| {
        let ids: Vec<u32> = run.iter().map(|(id, _)| *id).collect();
        tokenizer.decode_with_special(&ids).unwrap()
    })
    .collect()
}

/// Compares a row; gives what is trained here and not by axolotl.
fn compare(tokenizer: &Tokenizer, place: &str, theirs: &Row, ours: &Row) -> Vec<String> {
    let Some((ids, their_mask)) = theirs else {
        assert_eq!(*ours, None, "{place}: axolotl leaves it out");
        return Vec::new();
    };
    // A row that teaches nothing is left out.
    let nothing = (ids.clone(), vec![false; ids.len()]);
    let (our_ids, our_mask) = ours.as_ref().unwrap_or(&nothing);
    assert_eq!(our_ids, ids, "{place}");
    // The first token has nothing before it that could predict it.
    let (their_mask, our_mask) = (&their_mask[1..], &our_mask[1..]);
    let only = |these: &[bool], others: &[bool]| {
        let mask: Vec<bool> = these
            .iter()
            .zip(others)
            .map(|(one, other)| *one && !other)
            .collect();
        pieces(tokenizer, &ids[1..], &mask)
    };
    assert_eq!(
        only(their_mask, our_mask),
        [""; 0],
        "{place}: trained by axolotl alone"
    );
    only(our_mask, their_mask)
}

#[test]
fn ids_and_labels_are_those_of_axolotl() {
    let recorded = Recorded::read();
    let tokenizer = Tokenizer::load(Path::new(TEMPLATES)).unwrap();
    let (mut added, mut left_out, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    let mut num_rows = 0;
    for case in recorded.file["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let ours = match ours(recorded.folder(case).path()) {
            Ok(ours) => ours,
            Err(error) => {
                refused.push((name, error));
                continue;
            }
        };
        for (place, theirs) in recorded.rows(case) {
            let ours = ours.get(&place).cloned().flatten();
            if ours.is_none() && theirs.as_ref().is_some_and(|(_, mask)| mask.contains(&true)) {
                left_out.push((name, place));
                continue;
            }
            let more = compare(&tokenizer, &format!("{name}, {place}"), &theirs, &ours);
            if !more.is_empty() {
                added.push((name, place, more));
            }
            num_rows += 1;
        }
    }
    assert!(num_rows > 80, "{num_rows}");
    let expected = ADDED
        .iter()
        .map(|(case, row, texts)| (*case, (*row).to_owned(), strings(texts)));
    let mut expected: Vec<_> = expected.collect();
    expected.sort();
    added.sort();
    assert_eq!(added, expected);
    let expected = LEFT_OUT.iter().map(|(case, row)| (*case, (*row).to_owned()));
    assert_eq!(left_out, expected.collect::<Vec<_>>());
    assert_eq!(refused.len(), REFUSED.len(), "{refused:?}");
    for ((name, error), (expected, reason)) in refused.iter().zip(REFUSED) {
        assert!(name == expected && error.contains(reason), "{name}: {error}");
    }
}

#[test]
fn what_one_data_set_says_of_labels_is_not_said_for_another() {
    let two = |first: &str, second: &str| {
        let sets = format!(
            "base_model: x\nsequence_len: 64\ndatasets:\n  - {{path: a, type: chat_template{first}}}\n  \
             - {{path: b, type: {second}}}\n"
        );
        refused(&translate(&sets))
    };
    for (first, default) in [
        (", train_on_eos: all", "turn"),
        (", train_on_eot: none", "turn"),
        (", roles_to_train: [user, assistant]", "[assistant]"),
        (", chat_template: chatml", "tokenizer_default"),
    ] {
        let error = two(first, "chat_template");
        let expected = format!("datasets[1] leaves it out, which means {default}");
        assert!(error.contains(&expected), "{first}: {error}");
        assert_eq!(two(first, "completion"), "", "a text has no turns");
        assert_eq!(two(first, &format!("chat_template{first}")), "");
    }
    for said in [", train_on_eos: turn", ", roles_to_train: [assistant]", ""] {
        assert_eq!(two(said, "chat_template"), "", "that is the default");
    }
    let error = two("", "alpaca");
    assert!(
        error.contains("Brazier renders all data sets with one"),
        "{error}"
    );
}

#[test]
fn rows_of_the_type_alpaca_have_its_template() {
    let text =
        "base_model: x\nsequence_len: 64\ndatasets: [{path: a, type: alpaca}]\nchat_template: chatml\n";
    let translated = translate(text);
    assert_eq!(refused(&translated), "");
    assert_eq!(native(&translated, "data.template").as_deref(), Some("alpaca"));
    // axolotl's own template of this name is another: it has no introduction.
    let named = "base_model: x\nsequence_len: 64\nchat_template: alpaca\n";
    assert!(refused(&translate(named)).contains("no template alpaca yet"));
}

#[test]
fn the_end_of_turns_decides_where_both_ends_are_given() {
    let text = "base_model: x\nsequence_len: 64\neot_tokens: ['<|im_end|>']\n\
                datasets: [{path: a, type: chat_template, train_on_eos: none, train_on_eot: all}]\n";
    let translated = translate(text);
    assert_eq!(refused(&translated), "");
    assert_eq!(native(&translated, "data.masks.eos").as_deref(), Some("all"));
    let words = reason(&translated, "datasets[0].train_on_eos");
    assert!(words.is_some_and(|words| words.contains("train_on_eot says")));
}
