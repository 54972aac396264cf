//! The same tokens and the same places as `tokenizers`, on random texts.

use serde_json::{Value, json};
use tokenizers::{AddedToken, models::TrainerWrapper, models::bpe::BpeTrainerBuilder};

use super::{shapes::*, *};

/// Draws by SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut drawn = self.0;
        drawn = (drawn ^ (drawn >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        drawn = (drawn ^ (drawn >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((drawn ^ (drawn >> 31)) % sides as u64) as usize
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

const WORDS: [&str; 24] = [
    "the",
    "The",
    "THE",
    "lesion",
    "Learning",
    "iPhone",
    "HTTPServer",
    "naïve",
    "Zürich",
    "ǅungla",
    "ʰab",
    "привет",
    "Ἀθῆναι",
    "שלום",
    "مرحبا",
    "नमस्ते",
    "你好世界",
    "こんにちは",
    "한국어",
    "ﬁne",
    "ſs",
    "Ωmega",
    "straße",
    "x",
];
const SIGNS: [&str; 32] = [
    "'s",
    "'S",
    "'ſ",
    "'t",
    "'LL",
    "'re",
    "'vE",
    "'m",
    "'d",
    "'",
    "''",
    "'x",
    "’s",
    ".",
    "...",
    "!?",
    "/",
    "//\n",
    "!\n/",
    "*/\r\n//",
    "=>",
    "<",
    "<|",
    "|>",
    "_",
    "\u{301}",
    "e\u{301}",
    "👩\u{200d}💻",
    "🇨🇭",
    "\u{200b}",
    "\u{0}",
    "\u{fffd}",
];
const SPACES: [&str; 14] = [
    " ", " ", " ", "  ", "   ", "\n", "\r\n", "\n\n", " \n ", "\t", "\u{a0}", "\u{3000}", "\u{85}", "\u{1c}",
];
const DIGITS: [&str; 10] = ["0", "7", "12", "1234567", "٣٤", "²", "Ⅻ", "½", "१२३", "3.14"];
const ADDED: [&str; 12] = [
    "<|im_start|>",
    "<|im_end|>",
    "<a>",
    "<a>b",
    "<image>",
    "[left]",
    "[right]",
    "[both]",
    "word",
    "Zür",
    " gap",
    "<|im_",
];

fn added() -> Vec<AddedToken> {
    let token = |text: &str, special: bool| AddedToken::from(text, special);
    vec![
        token("<|im_start|>", true),
        token("<|im_end|>", true),
        token("<a>", false).normalized(false),
        token("<a>b", false).normalized(false),
        token("<image>", true).normalized(true),
        token("[left]", true).lstrip(true),
        token("[right]", true).rstrip(true),
        token("[both]", false).lstrip(true).rstrip(true),
        token("word", false).single_word(true),
        token("Zür", false),
        token(" gap", false).normalized(false),
        token("lesion", false).single_word(true).normalized(false),
    ]
}

/// A text of pieces that tokenizers treat differently.
fn text(dice: &mut Dice) -> String {
    let mut text = String::new();
    for _ in 0..dice.below(24) {
        match dice.below(16) {
            0..=4 => text.push_str(dice.one(&WORDS)),
            5..=8 => text.push_str(dice.one(&SPACES)),
            9 | 10 => text.push_str(dice.one(&SIGNS)),
            11 => text.push_str(dice.one(&DIGITS)),
            12 => text.push_str(dice.one(&ADDED)),
            13 => text.extend((0..dice.below(6)).map(|_| char::from(dice.below(128) as u8))),
            14 => {
                text.extend((0..dice.below(4)).filter_map(|_| char::from_u32(dice.below(0x11_0000) as u32)))
            }
            _ => text.push_str(&dice.one(&WORDS).repeat(dice.below(40))),
        }
    }
    text
}

/// A byte-level BPE trained on such texts as a whole, so that there are tokens across every border that a pre-tokenizer
/// may draw.
fn trained(pre_tokenizer: &Value, normalizer: &Value, ignore_merges: bool) -> (HfTokenizer, Vec<u8>) {
    let json = json!({"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": byte_level(false),
        "post_processor": null, "decoder": null, "model": {"type": "BPE", "vocab": {}, "merges": []}});
    let mut tokenizer = HfTokenizer::from_bytes(json.to_string()).unwrap();
    let trainer = BpeTrainerBuilder::new()
        .vocab_size(900)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    tokenizer
        .train(&mut TrainerWrapper::from(trainer), texts(1, 300).into_iter())
        .unwrap();
    tokenizer.add_tokens(added()).unwrap();
    let mut json: Value = serde_json::from_str(&tokenizer.to_string(false).unwrap()).unwrap();
    json["normalizer"] = normalizer.clone();
    json["pre_tokenizer"] = pre_tokenizer.clone();
    json["model"]["ignore_merges"] = ignore_merges.into();
    if ignore_merges {
        // What only the vocabulary knows, no merge leads to.
        json["model"]["merges"].as_array_mut().unwrap().drain(..40);
    }
    let file = json.to_string().into_bytes();
    (HfTokenizer::from_bytes(&file).unwrap(), file)
}

fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

fn split(pattern: &str, behavior: &str, invert: bool) -> Value {
    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert})
}

fn sequence(first: &[Value], use_regex: bool) -> Value {
    let parts = [first, &[byte_level(use_regex)]].concat();
    json!({"type": "Sequence", "pretokenizers": parts})
}

/// Compares ids and places; says how many of the texts were taken.
fn compare(hf: &HfTokenizer, file: &[u8], texts: &[String]) -> usize {
    let fast = Fast::new(hf, file).unwrap();
    let mut taken = 0;
    for special_is_text in [false, true] {
        let mut hf = hf.clone();
        hf.set_encode_special_tokens(special_is_text);
        // The second time, words are known.
        for text in texts.iter().chain(texts) {
            let mut found = Vec::new();
            let each = |id, bytes| found.push((id, bytes));
            if fast.encode(text, special_is_text, each).is_err() {
                continue;
            }
            taken += 1;
            let encoding = hf.encode(text.as_str(), false).unwrap();
            let places = encoding.get_offsets().iter().map(|&(start, end)| start..end);
            let expected: Vec<_> = encoding.get_ids().iter().copied().zip(places).collect();
            assert_eq!(found, expected, "{text:?}, {special_is_text}");
            let ids = hf.encode_fast(text.as_str(), false).unwrap();
            assert!(
                ids.get_ids().iter().eq(found.iter().map(|(id, _)| id)),
                "{text:?}"
            );
        }
    }
    taken / 4
}

fn texts(seed: u64, count: usize) -> Vec<String> {
    let mut dice = Dice(seed);
    (0..count).map(|_| text(&mut dice)).collect()
}

#[test]
fn every_shape_gives_the_tokens_of_the_crate() {
    let texts = texts(7, 400);
    for (number, pattern) in PATTERNS.into_iter().enumerate() {
        let pre_tokenizer = sequence(&[split(pattern, "Isolated", false)], false);
        let (hf, file) = trained(&pre_tokenizer, &Value::Null, number % 2 == 0);
        assert_eq!(compare(&hf, &file, &texts), texts.len());
    }
}

#[test]
fn other_ways_of_cutting_give_the_tokens_of_the_crate() {
    // As Qwen 3.5's.
    let marks = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let digits = |individual: bool| json!({"type": "Digits", "individual_digits": individual});
    let texts = texts(8, 200);
    for pre_tokenizer in [
        byte_level(true),
        byte_level(false),
        sequence(&[split(marks, "Isolated", false)], false),
        sequence(&[split(LLAMA3, "Removed", true)], false),
        sequence(&[digits(true)], true),
        sequence(&[digits(false)], true),
        sequence(
            &[
                split(r"\p{N}{1,3}", "Isolated", false),
                split("[一-龥]+", "Isolated", false),
            ],
            true,
        ),
    ] {
        let (hf, file) = trained(&pre_tokenizer, &Value::Null, false);
        assert_eq!(compare(&hf, &file, &texts), texts.len());
    }
}

#[test]
fn what_is_not_in_nfc_is_left_to_the_crate() {
    let pre_tokenizer = sequence(&[split(QWEN2, "Isolated", false)], false);
    let (hf, file) = trained(&pre_tokenizer, &json!({"type": "NFC"}), false);
    let texts = texts(9, 600);
    let taken = compare(&hf, &file, &texts);
    assert!(taken > texts.len() / 4 && taken < texts.len(), "{taken}");
    let fast = Fast::new(&hf, &file).unwrap();
    assert_eq!(fast.encode("e\u{301}", false, |_, _| {}), Err(Declined));
    assert_eq!(fast.encode("\u{e9}", false, |_, _| {}), Ok(()));
}

#[test]
fn long_words_and_runs_give_the_tokens_of_the_crate() {
    let mut dice = Dice(10);
    let mut texts: Vec<String> = [
        " ", "\n", " \n", "a", "the ", "é", "你", "7", "!", "<a>", "[both] ",
    ]
    .into_iter()
    .flat_map(|piece| [47, 48, 49, 255, 256, 5000].map(|times| piece.repeat(times)))
    .collect();
    // Words of one letter's pieces, so that merges compete.
    texts.extend((0..40).map(|_| {
        let letters =
            (0..30 + dice.below(400)).map(|_| dice.one(&["th", "e", "le", "s", "i", "on", "é", "Z"]));
        letters.collect::<String>()
    }));
    for pattern in [GPT2, O200K] {
        let pre_tokenizer = sequence(&[split(pattern, "Isolated", false)], false);
        let (hf, file) = trained(&pre_tokenizer, &Value::Null, false);
        assert_eq!(compare(&hf, &file, &texts), texts.len());
    }
}

#[test]
fn more_words_than_are_kept_are_no_matter() {
    let (hf, file) = trained(&byte_level(true), &Value::Null, false);
    let fast = Fast::new(&hf, &file).unwrap();
    let ids = |text: &str| {
        let mut ids = Vec::new();
        fast.encode(text, false, |id, _| ids.push(id)).unwrap();
        ids
    };
    let first = ids(" the lesion");
    // Twice as many, so that the words are emptied in between.
    for number in 0..70_000 {
        let letter = |place: u32| char::from(b'a' + (number / 26_u32.pow(place) % 26) as u8);
        let word: String = (0..4).map(letter).collect();
        let found = ids(&word);
        if number % 1000 == 0 {
            assert_eq!(
                found,
                hf.encode_fast(word.as_str(), false).unwrap().get_ids(),
                "{word}"
            );
        }
    }
    assert_eq!(ids(" the lesion"), first);
}

#[test]
fn threads_share_a_tokenizer() {
    let (hf, file) = trained(&byte_level(true), &Value::Null, false);
    let fast = Fast::new(&hf, &file).unwrap();
    let texts = texts(11, 100);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for text in &texts {
                    let mut ids = Vec::new();
                    fast.encode(text, false, |id, _| ids.push(id)).unwrap();
                    assert_eq!(ids, hf.encode_fast(text.as_str(), false).unwrap().get_ids());
                }
            });
        }
    });
}

#[test]
fn tokenizers_of_files_give_the_tokens_of_the_crate() {
    let file =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/templates/tokenizer.json");
    let file = crate::fs::read(&file).unwrap();
    let mut hf = HfTokenizer::from_bytes(&file).unwrap();
    hf.with_post_processor(None::<tokenizers::PostProcessorWrapper>);
    let texts = texts(12, 300);
    assert_eq!(compare(&hf, &file, &texts), texts.len());
}

/// Changes a tokenizer's file and says whether it is taken.
fn takes(change: impl Fn(&mut Value)) -> bool {
    let (_, file) = trained(&byte_level(true), &Value::Null, false);
    let mut json: Value = serde_json::from_slice(&file).unwrap();
    change(&mut json);
    let file = json.to_string().into_bytes();
    Fast::new(&HfTokenizer::from_bytes(&file).unwrap(), &file).is_some()
}

#[test]
fn what_is_not_implemented_is_declined() {
    assert!(takes(|_| {}));
    let lines = |json: &mut Value| {
        let merges = json["model"]["merges"].as_array_mut().unwrap();
        for merge in merges {
            *merge = format!("{} {}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap()).into();
        }
    };
    assert!(takes(lines), "merges as lines");
    assert!(takes(|json| json["model"]["end_of_word_suffix"] = "".into()));
    assert!(
        takes(|json| json["model"]["unk_token"] = "<a>".into()),
        "no byte is unknown"
    );
    for (key, value) in [
        ("normalizer", json!({"type": "Lowercase"})),
        ("pre_tokenizer", Value::Null),
        ("pre_tokenizer", json!({"type": "Whitespace"})),
        (
            "pre_tokenizer",
            json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true}),
        ),
        (
            "pre_tokenizer",
            json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
        ),
        (
            "pre_tokenizer",
            sequence(&[split(GPT2, "MergedWithNext", false)], false),
        ),
        ("pre_tokenizer", sequence(&[split("x", "Removed", true)], false)),
        ("pre_tokenizer", sequence(&[byte_level(true)], false)),
    ] {
        assert!(!takes(|json| json[key] = value.clone()), "{key}: {value}");
    }
    assert!(!takes(|json| json["model"]["dropout"] = 0.1.into()));
    let prefixed = |json: &mut Value| {
        json["model"]["continuing_subword_prefix"] = "##".into();
        json["model"]["merges"] = json!([]);
    };
    assert!(!takes(prefixed));
    let without_a_byte = |json: &mut Value| {
        let id = json["model"]["vocab"].as_object_mut().unwrap().shift_remove("é");
        json["model"]["vocab"]["no letter"] = id.unwrap();
        json["model"]["merges"] = json!([]);
    };
    assert!(!takes(without_a_byte));
    let not_normal = |json: &mut Value| {
        json["normalizer"] = json!({"type": "NFC"});
        json["added_tokens"][0]["content"] = "e\u{301}".into();
    };
    assert!(!takes(not_normal));
}

#[test]
fn more_white_space_than_the_engine_takes_is_declined() {
    let (hf, file) = trained(&byte_level(true), &Value::Null, false);
    let fast = Fast::new(&hf, &file).unwrap();
    assert_eq!(
        fast.encode(&" ".repeat(1_000_000), false, |_, _| {}),
        Err(Declined)
    );
}
