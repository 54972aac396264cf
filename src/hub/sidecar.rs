//! What lies beside the weights: tokenizer, chat template, image processor.

use std::path::{Path, PathBuf};

use brazier_models::VisionLanguageConfig;
use serde_json::{Map, Value, json};

use super::{
    ExportOptions, HubError, Result,
    added_token::{add_to_config, add_to_tokenizer, correct_image_token},
    image_processor::{PREPROCESSOR, PROCESSOR, image_processor_json},
};
use crate::fs;

const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const SPECIAL_TOKENS: &str = "special_tokens_map.json";
const CHAT_TEMPLATE: &str = "chat_template.jinja";
/// Copied as they are, where they exist.
const COPIED: [&str; 7] = [
    SPECIAL_TOKENS,
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    CHAT_TEMPLATE,
];
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// Copies the tokenizer of a folder (or of a `tokenizer.json` and what lies beside it) and names its chat template.
pub(super) fn write_tokenizer(
    dir: &Path,
    source: &Path,
    is_llava: bool,
    options: &ExportOptions,
) -> Result<()> {
    let file = if source.is_dir() {
        source.join(TOKENIZER)
    } else {
        source.into()
    };
    if !file.is_file() {
        return Err(HubError::NoTokenizer { path: source.into() });
    }
    match options.added_image_token {
        None => drop(fs::copy(&file, &dir.join(TOKENIZER))?),
        Some(id) => write_json(
            &dir.join(TOKENIZER),
            &with_token(&file, &options.image_token, id)?,
        )?,
    }
    let source = file.parent().unwrap_or(Path::new("."));
    for name in COPIED {
        if source.join(name).is_file() {
            fs::copy(&source.join(name), &dir.join(name))?;
        }
    }
    let mut config = read_object(&source.join(TOKENIZER_CONFIG))?;
    config
        .entry("tokenizer_class")
        .or_insert_with(|| "PreTrainedTokenizerFast".into());
    if let Some(id) = options.added_image_token {
        add_to_config(&mut config, &options.image_token, id);
    }
    if is_llava {
        config.insert("processor_class".into(), "LlavaProcessor".into());
    }
    if let Some(template) = &options.chat_template {
        // transformers reads the file; what is older than it reads the key.
        config.insert("chat_template".into(), template.as_str().into());
        fs::write_durable(&dir.join(CHAT_TEMPLATE), template.as_bytes())?;
    }
    write_json(&dir.join(TOKENIZER_CONFIG), &Value::Object(config))
}

/// A `tokenizer.json` with one more special token.
fn with_token(file: &Path, token: &str, id: u32) -> Result<Value> {
    let refuse = |reason: String| HubError::Json {
        path: file.into(),
        reason,
    };
    let mut tokenizer: Value =
        serde_json::from_slice(&fs::read(file)?).map_err(|error| refuse(error.to_string()))?;
    add_to_tokenizer(&mut tokenizer, token, id)
        .map_err(|reason| refuse(format!("the token {token} cannot be added: {reason}")))?;
    Ok(tokenizer)
}

/// The object in a JSON file; of a missing file nothing.
pub(super) fn read_object(path: &Path) -> Result<Map<String, Value>> {
    if !path.is_file() {
        return Ok(Map::new());
    }
    let bytes = fs::read_at_most(path, MAX_CONFIG_BYTES)?;
    serde_json::from_slice(&bytes).map_err(|error| HubError::Json {
        path: path.into(),
        reason: error.to_string(),
    })
}

/// Files of `LlavaProcessor` and of the image processor.
pub(super) fn write_processor(
    dir: &Path,
    config: &VisionLanguageConfig,
    options: &ExportOptions,
) -> Result<()> {
    let processor = json!({
        "processor_class": "LlavaProcessor",
        "image_token": options.image_token,
        "patch_size": config.vision.patch_size,
        "vision_feature_select_strategy": config.vision_feature_select.name(),
        // The class token, which `default` takes off again.
        "num_additional_image_tokens": usize::from(config.vision.model_type.has_class_token()),
    });
    let preprocessor = image_processor_json(&options.image_processor)?;
    write_json(&dir.join(PREPROCESSOR), &preprocessor)?;
    write_json(&dir.join(PROCESSOR), &processor)
}

/// Makes every file that names the token for images name the same one.
pub(super) fn agree_on_image_token(dir: &Path, token: &str) -> Result<()> {
    for name in [TOKENIZER_CONFIG, SPECIAL_TOKENS, PROCESSOR] {
        let path = dir.join(name);
        let mut config = read_object(&path)?;
        if correct_image_token(&mut config, token) {
            write_json(&path, &Value::Object(config))?;
        }
    }
    Ok(())
}

pub(super) fn write_json(path: &Path, value: &Value) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).map_err(|error| HubError::Json {
        path: PathBuf::from(path),
        reason: error.to_string(),
    })?;
    text.push('\n');
    Ok(fs::write_durable(path, text.as_bytes())?)
}
