//! What stands beside `tokenizer.json`.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use serde_json::Value;

use super::{super::error::DataError, HfTokenizer, SpecialTokens};
use crate::fs;

/// What a `tokenizer.json` says.
pub(super) fn parse_tokenizer(path: &Path, bytes: &[u8]) -> Result<HfTokenizer, DataError> {
    understood(path, || HfTokenizer::from_bytes(bytes))
}

/// What the crate that reads a `tokenizer.json` makes of it. On some broken ones it panics: that is the file's problem alone.
pub(super) fn understood<T>(
    path: &Path,
    read: impl FnOnce() -> tokenizers::Result<T>,
) -> Result<T, DataError> {
    let reason = match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(read)) => return Ok(read),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it is damaged: the reader of tokenizers panicked".to_owned(),
    };
    Err(DataError::Tokenizer {
        path: path.into(),
        reason,
    })
}

/// `Null` if the file is not there.
pub(super) fn read_json_beside(path: &Path, name: &str) -> Result<Value, DataError> {
    let path = path.with_file_name(name);
    if !path.is_file() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&fs::read(&path)?).map_err(|error| DataError::Tokenizer {
        path,
        reason: error.to_string(),
    })
}

/// A token is written as a string, or as an object with its text in `content`; `null` means none.
pub(super) fn special_tokens(path: &Path, files: &[Value]) -> Result<SpecialTokens, DataError> {
    let token = |key: &str| {
        files.iter().find_map(|file| {
            let token = file.get(key)?;
            Some(
                token
                    .as_str()
                    .or_else(|| token.get("content")?.as_str())?
                    .to_owned(),
            )
        })
    };
    let pad = token("pad_token").ok_or_else(|| DataError::Tokenizer {
        path: path.with_file_name("tokenizer_config.json"),
        reason: "no pad_token is named\n  hint: rows of different length are padded with it; name one there"
            .into(),
    })?;
    Ok(SpecialTokens {
        bos: token("bos_token"),
        eos: token("eos_token"),
        pad,
        unk: token("unk_token"),
    })
}

/// A file of its own, or a key of the configuration: a string, or a list of named templates.
pub(super) fn chat_template(path: &Path, config: &Value) -> Result<Option<String>, DataError> {
    let file = path.with_file_name("chat_template.jinja");
    if file.is_file() {
        return Ok(Some(fs::read_to_string(&file)?));
    }
    Ok(config.get("chat_template").and_then(|template| match template {
        Value::String(text) => Some(text.clone()),
        Value::Array(named) => named
            .iter()
            .find(|template| template.get("name").and_then(Value::as_str) == Some("default"))
            .and_then(|template| Some(template.get("template")?.as_str()?.to_owned())),
        _ => None,
    }))
}

/// Every token that the files name by a key, as `image_token`: templates know them by these names.
pub(super) fn named_tokens(files: &[Value]) -> Vec<(String, String)> {
    let mut named: Vec<(String, String)> = Vec::new();
    let extra = files.iter().filter_map(|file| file.get("extra_special_tokens"));
    for (key, token) in files.iter().chain(extra).filter_map(Value::as_object).flatten() {
        let text = token.as_str().or_else(|| token.get("content")?.as_str());
        let is_new = named.iter().all(|(known, _)| known != key);
        if let Some(text) = text.filter(|_| is_new && key.ends_with("_token")) {
            named.push((key.clone(), text.to_owned()));
        }
    }
    named
}
