//! A small tokenizer for tests.

use std::{path::Path, sync::Arc};

use serde_json::{Value, json};
use tokenizers::{
    AddedToken,
    models::bpe::{BPE, Vocab},
    pre_tokenizers::byte_level::ByteLevel,
};

use super::{super::template::CHAT_TEMPLATE_JINJA, HfTokenizer, Tokenizer};
use crate::fs;

pub(crate) const SPECIAL: [&str; 6] = [
    "<|pad|>",
    "<|eos|>",
    "<|im_start|>",
    "<|im_end|>",
    "<image>",
    "<|unk|>",
];

pub(crate) fn config() -> Value {
    json!({"pad_token": "<|pad|>", "eos_token": {"content": "<|eos|>", "special": true}, "bos_token": null,
           "unk_token": "<|unk|>", "chat_template": CHAT_TEMPLATE_JINJA})
}

/// Byte-level BPE whose merges are `c d` and `i t`.
pub(crate) fn write(folder: &Path, special: &[AddedToken], config: &Value) {
    let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let mut tokens: Vec<String> = alphabet.into_iter().map(String::from).collect();
    tokens.extend(["cd".to_owned(), "it".to_owned()]);
    let vocab: Vocab = tokens.into_iter().zip(0..).collect();
    let merges = [("c", "d"), ("i", "t")].map(|(left, right)| (left.to_owned(), right.to_owned()));
    let model = BPE::builder().vocab_and_merges(vocab, merges.into());
    let mut tokenizer = HfTokenizer::new(model.build().unwrap());
    tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, true, true)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    tokenizer.add_tokens(special.to_vec()).unwrap();
    fs::write_durable(
        &folder.join("tokenizer.json"),
        tokenizer.to_string(false).unwrap().as_bytes(),
    )
    .unwrap();
    fs::write_durable(
        &folder.join("tokenizer_config.json"),
        config.to_string().as_bytes(),
    )
    .unwrap();
}

pub(crate) fn write_without(folder: &Path, missing: &str) {
    let special = SPECIAL.iter().filter(|&&token| token != missing);
    let special: Vec<_> = special.map(|&token| AddedToken::from(token, true)).collect();
    write(folder, &special, &config());
}

/// As [`tokenizer`], with one of its tokens for images.
pub(crate) fn tokenizer_with_image_token(token: &str) -> (tempfile::TempDir, Tokenizer) {
    let (dir, tokenizer) = tokenizer();
    let tokenizer = Tokenizer::load(tokenizer.path()).unwrap().with_image_token(token);
    (dir, tokenizer)
}

pub(crate) fn tokenizer() -> (tempfile::TempDir, Arc<Tokenizer>) {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        &SPECIAL.map(|token| AddedToken::from(token, true)),
        &config(),
    );
    let tokenizer = Tokenizer::load(dir.path()).unwrap();
    (dir, Arc::new(tokenizer))
}
