//! `tokenizer.json` and what lies beside it.

use std::{fs, path::Path, sync::Arc};

use brazier::data::{Tokenizer, token_text};

use crate::{
    harness::{Target, numbered},
    rows::{options, read, tokenizer_folder},
};

const FILES: [&str; 4] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
];
const WORDS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    "\"",
    ",",
    ":",
    "null",
    "true",
    "false",
    "added_tokens",
    "id",
    "content",
    "special",
    "lstrip",
    "rstrip",
    "normalized",
    "single_word",
    "model",
    "type",
    "BPE",
    "Unigram",
    "WordPiece",
    "WordLevel",
    "vocab",
    "merges",
    "dropout",
    "unk_token",
    "unk_id",
    "byte_fallback",
    "fuse_unk",
    "continuing_subword_prefix",
    "max_input_chars_per_word",
    "pre_tokenizer",
    "normalizer",
    "decoder",
    "post_processor",
    "Sequence",
    "ByteLevel",
    "Metaspace",
    "Split",
    "Regex",
    "(a+)+$",
    "(?:",
    "\\\\p{L}",
    "(?=",
    "behavior",
    "Isolated",
    "Precompiled",
    "precompiled_charsmap",
    "AAAA",
    "TemplateProcessing",
    "single",
    "pair",
    "special_tokens",
    "ids",
    "tokens",
    "Replace",
    "Prepend",
    "Strip",
    "Fuse",
    "CTC",
    "truncation",
    "max_length",
    "stride",
    "padding",
    "strategy",
    "Fixed",
    "pad_token",
    "eos_token",
    "bos_token",
    "extra_special_tokens",
    "additional_special_tokens",
    "chat_template",
    "add_bos_token",
    "",
    " ",
    "\\u0000",
    "<image>",
];

/// The small models that are not in the fixture.
const MODELS: [&str; 3] = [
    r#"{"version": "1.0", "added_tokens": [{"id": 3, "content": "<|pad|>", "special": true, "single_word": false, "lstrip": false,
        "rstrip": false, "normalized": false}], "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}, "pre_tokenizer": {"type": "Metaspace",
        "replacement": "▁", "prepend_scheme": "always", "split": true}, "post_processor": {"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}, "decoder": {"type": "Sequence", "decoders":
        [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}, "model": {"type": "Unigram", "unk_id": 0,
        "vocab": [["<unk>", 0.0], ["<s>", 0.0], ["▁a", -1.5], ["<|pad|>", 0.0], ["b", -2.0]], "byte_fallback": false}}"#,
    r###"{"added_tokens": [{"id": 1, "content": "<|pad|>", "special": true, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false}], "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
        "strip_accents": null, "lowercase": true}, "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": null,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true}, "model": {"type": "WordPiece", "unk_token": "[UNK]",
        "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": {"[UNK]": 0, "<|pad|>": 1, "a": 2, "##b": 3}}}"###,
    r#"{"added_tokens": [], "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "\\s+|\\p{N}{1,3}"}, "behavior": "Isolated",
        "invert": false}, "model": {"type": "WordLevel", "vocab": {"<|pad|>": 0, "a": 1, "b": 2}, "unk_token": "<|pad|>"}}"#,
];

/// Each of the files damaged, the others whole; then rows through what was read.
pub(crate) fn tokenizer(dir: &Path) -> Target {
    let dir = dir.to_owned();
    tokenizer_folder(&dir);
    let special = r#"{"pad_token": {"content": "<|pad|>"}, "eos_token": "<|endoftext|>"}"#;
    fs::write(dir.join(FILES[2]), special).unwrap();
    fs::write(
        dir.join(FILES[3]),
        "{% for m in messages %}{{ m.content }}{% endfor %}",
    )
    .unwrap();
    let rows = dir.join("rows.jsonl");
    fs::write(
        &rows,
        "{\"text\": \"a b ab 12345 ☃ <|pad|> <|im_end|>\"}\n{\"prompt\": \"a\", \"completion\": \"b\"}\n",
    )
    .unwrap();
    let whole = FILES.map(|name| fs::read(dir.join(name)).unwrap());
    let mut seeds = numbered(&whole);
    seeds.extend(MODELS.map(|text| [&[0], text.as_bytes()].concat()));
    let config = br#"{"pad_token": "<|pad|>", "eos_token": "b", "chat_template": [{"name": "default", "template": "a"}],
        "added_tokens_decoder": {"3": {"content": "<|pad|>", "special": true}}, "add_bos_token": true}"#;
    seeds.push([&[1], &config[..]].concat());
    let target = Target::new(seeds, WORDS, move |case| {
        let number = usize::from(case[0]);
        let path = dir.join(FILES[number]);
        fs::write(&path, &case[1..]).unwrap();
        let found = match Tokenizer::load(&dir) {
            Ok(tokenizer) => {
                let all: Vec<u32> = (0..tokenizer.vocab_size().min(600) as u32).collect();
                let decoded = tokenizer.decode(&all).map(|text| text.len());
                let special = format!("{:?}", tokenizer.special_tokens());
                let read = read(&options(&dir, rows.clone()), &Arc::new(tokenizer));
                format!("{} {special} {read}", decoded.is_ok())
            }
            Err(error) => error.to_string(),
        };
        drop(token_text(&dir, 3));
        fs::write(&path, &whole[number]).unwrap();
        found
    });
    Target {
        head: 1,
        rounds: 100,
        ..target
    }
}
