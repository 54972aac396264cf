//! A special token that a tokenizer gets on the way out.
//!
//! Reference: `add_special_tokens` of the `tokenizers` library, whose entry this is: matched as a whole, before the text is
//! normalised, never split, left out when ids are decoded without special tokens.

use serde_json::{Map, Value, json};

/// Puts the token into a `tokenizer.json`.
///
/// # Errors
/// If the id or the text is taken by another token, or the file has no list of added tokens.
pub(super) fn add_to_tokenizer(tokenizer: &mut Value, token: &str, id: u32) -> Result<(), String> {
    let added = tokenizer
        .get_mut("added_tokens")
        .and_then(Value::as_array_mut)
        .ok_or("it has no list added_tokens")?;
    let taken = added
        .iter()
        .find(|entry| entry["id"] == id || entry["content"] == token);
    if let Some(entry) = taken {
        return Err(format!("{} is already token {}", entry["content"], entry["id"]));
    }
    let Value::Object(mut entry) = description(token) else {
        return Ok(());
    };
    // transformers writes the id first.
    entry.shift_insert(0, "id".into(), id.into());
    added.push(entry.into());
    Ok(())
}

/// Says in a `tokenizer_config.json` what the token is for, by both of the names under which processors look for it.
pub(super) fn add_to_config(config: &mut Map<String, Value>, token: &str, id: u32) {
    if let Some(Value::Object(decoder)) = config.get_mut("added_tokens_decoder") {
        decoder.insert(id.to_string(), description(token));
    }
    let extra = config.entry("extra_special_tokens").or_insert_with(|| json!({}));
    if let Value::Object(extra) = extra {
        extra.insert("image_token".into(), token.into());
    }
    config.insert("image_token".into(), token.into());
}

/// The token for images as a `tokenizer_config.json`, a `special_tokens_map.json` or a `processor_config.json` names it, where
/// it names another: processors would place that one. Says whether something has changed.
pub(super) fn correct_image_token(config: &mut Map<String, Value>, token: &str) -> bool {
    let mut corrected = false;
    let mut correct = |config: &mut Map<String, Value>| {
        if let Some(named) = config.get_mut("image_token") {
            let text = named.get("content").unwrap_or(named);
            if !text.is_null() && text != token {
                *named = token.into();
                corrected = true;
            }
        }
    };
    correct(config);
    if let Some(Value::Object(extra)) = config.get_mut("extra_special_tokens") {
        correct(extra);
    }
    corrected
}

fn description(token: &str) -> Value {
    json!({
        "content": token,
        "single_word": false,
        "lstrip": false,
        "rstrip": false,
        "normalized": false,
        "special": true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_name_another_image_token_are_corrected() {
        let Value::Object(mut config) = json!({
            "image_token": {"content": "<image>", "special": true}, "pad_token": "<image>",
            "extra_special_tokens": {"image_token": "<image>", "other": "<image>"},
        }) else {
            panic!("an object")
        };
        assert!(!correct_image_token(&mut config, "<image>"));
        assert!(correct_image_token(&mut config, "<|0|>"));
        let expected = json!({
            "image_token": "<|0|>", "pad_token": "<image>",
            "extra_special_tokens": {"image_token": "<|0|>", "other": "<image>"},
        });
        assert_eq!(Value::Object(config), expected);
        let mut none = Map::new();
        assert!(!correct_image_token(&mut none, "<|0|>") && none.is_empty());
    }

    #[test]
    fn the_token_becomes_one_id_of_the_tokenizer() {
        let mut file = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"},
        });
        add_to_tokenizer(&mut file, "<image>", 2).unwrap();
        let tokenizer = tokenizers::Tokenizer::from_bytes(file.to_string().as_bytes()).unwrap();
        let ids = |text| tokenizer.encode_fast(text, false).unwrap().get_ids().to_vec();
        assert_eq!(ids("b<image>b"), [1, 2, 1]);
        assert_eq!(tokenizer.decode(&[1, 2], true).unwrap(), "b");
        for (token, id) in [("<image>", 3), ("<other>", 2)] {
            let error = add_to_tokenizer(&mut file, token, id).unwrap_err();
            assert_eq!(error, "\"<image>\" is already token 2");
        }
        assert!(add_to_tokenizer(&mut json!({}), "<image>", 2).is_err());
    }
}
