//! A Hugging Face tokenizer: text to ids and back, and which tokens have a role.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::{ModelWrapper, Tokenizer as HfTokenizer};

use super::{
    chat::IMAGE_TOKEN,
    error::{DataError, EncodeError},
    template::{TURN_END, TURN_START},
};
use crate::fs;

/// Tokens with a role, as `tokenizer_config.json` (or `special_tokens_map.json`) names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Start of a sequence. The chat template places none.
    pub bos: Option<String>,
    /// End of a sequence.
    pub eos: Option<String>,
    /// Fills rows; differs from `eos`.
    pub pad: String,
    /// Stands for what cannot be encoded.
    pub unk: Option<String>,
}

/// Text to ids and back. What the template writes and what a row contains are encoded differently: only the template
/// can place special tokens.
pub struct Tokenizer {
    path: PathBuf,
    template: HfTokenizer,
    content: HfTokenizer,
    special: SpecialTokens,
    pad_id: u32,
    eos_id: Option<u32>,
    vocab_size: usize,
    /// Ids that content must never become, however the tokenizer treats them.
    control_ids: Vec<u32>,
    chat_template: Option<String>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` and what stands beside it: `tokenizer_config.json`, `special_tokens_map.json` and
    /// `chat_template.jinja`, where they exist. `path` is the folder or the `tokenizer.json`.
    ///
    /// Truncation and padding of the file are switched off: rows are cut and padded elsewhere, and counted.
    ///
    /// # Errors
    /// If a file is missing or cannot be understood, if tokens would be random (BPE dropout), if no pad token is named,
    /// or if pad and end-of-sequence are one.
    pub fn load(path: &Path) -> Result<Self, DataError> {
        let path = if path.is_dir() {
            path.join("tokenizer.json")
        } else {
            path.to_owned()
        };
        let refuse = |reason: String| DataError::Tokenizer {
            path: path.clone(),
            reason,
        };
        let mut template =
            HfTokenizer::from_bytes(fs::read(&path)?).map_err(|error| refuse(error.to_string()))?;
        if let ModelWrapper::BPE(model) = template.get_model()
            && model.dropout.is_some_and(|dropout| dropout > 0.0)
        {
            return Err(refuse(
                "model.dropout is set, which makes tokens random\n  hint: set it to null".into(),
            ));
        }
        template.with_padding(None);
        template
            .with_truncation(None)
            .map_err(|error| refuse(error.to_string()))?;
        template.set_encode_special_tokens(false);
        let mut content = template.clone();
        content.set_encode_special_tokens(true);

        let config = read_json_beside(&path, "tokenizer_config.json")?;
        let special = special_tokens(
            &path,
            &[
                config.clone(),
                read_json_beside(&path, "special_tokens_map.json")?,
            ],
        )?;
        let id = |token: &str, purpose| {
            let missing = || DataError::MissingToken {
                token: token.into(),
                purpose,
                path: path.clone(),
            };
            template.token_to_id(token).ok_or_else(missing)
        };
        let pad_id = id(&special.pad, "pad_token")?;
        let eos_id = special
            .eos
            .as_deref()
            .map(|eos| id(eos, "eos_token"))
            .transpose()?;
        if let Some(eos) = special.eos.as_ref().filter(|_| eos_id == Some(pad_id)) {
            return Err(DataError::PadIsEos {
                token: eos.clone(),
                path,
            });
        }
        let bos_id = special
            .bos
            .as_deref()
            .map(|bos| id(bos, "bos_token"))
            .transpose()?;
        let mut control_ids: Vec<u32> = [TURN_START, TURN_END, IMAGE_TOKEN]
            .into_iter()
            .filter_map(|token| template.token_to_id(token))
            .chain([pad_id])
            .chain(eos_id)
            .chain(bos_id)
            .collect();
        control_ids.sort_unstable();
        control_ids.dedup();
        let vocab_size = template
            .get_vocab(true)
            .values()
            .max()
            .map_or(0, |&id| id as usize + 1);
        let chat_template = chat_template(&path, &config)?;
        Ok(Self {
            path,
            template,
            content,
            special,
            pad_id,
            eos_id,
            vocab_size,
            control_ids,
            chat_template,
        })
    }

    /// The `tokenizer.json` that was read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tokens with a role.
    pub fn special_tokens(&self) -> &SpecialTokens {
        &self.special
    }

    /// Id that fills rows.
    pub fn pad_id(&self) -> u32 {
        self.pad_id
    }

    /// Id of the end of a sequence, where the tokenizer names one.
    pub fn eos_id(&self) -> Option<u32> {
        self.eos_id
    }

    /// Id of [`IMAGE_TOKEN`].
    ///
    /// # Errors
    /// [`DataError::MissingToken`].
    pub fn image_token_id(&self) -> Result<u32, DataError> {
        self.require(IMAGE_TOKEN, "it stands for an image")
    }

    /// Rows that an embedding table needs: the largest id plus one.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The chat template that came with the tokenizer, as Jinja. Rows are rendered with
    /// [`ChatTemplate`](super::ChatTemplate), not with this.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// Id of a token, by its text.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.template.token_to_id(token)
    }

    /// Text of a token as the vocabulary writes it (byte-level: a space is `Ġ`).
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.template.id_to_token(id)
    }

    /// Id of a token that the template places, which must be encoded as one id.
    ///
    /// # Errors
    /// [`DataError::MissingToken`], with `purpose` in its message.
    pub fn require(&self, token: &str, purpose: &'static str) -> Result<u32, DataError> {
        match self.token_to_id(token) {
            Some(id) if self.encode_template(token)? == [id] => Ok(id),
            _ => Err(DataError::MissingToken {
                token: token.into(),
                purpose,
                path: self.path.clone(),
            }),
        }
    }

    /// Encodes text of the template: special tokens are recognised, none is added.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn encode_template(&self, text: &str) -> Result<Vec<u32>, EncodeError> {
        encode(&self.template, text)
    }

    /// Encodes text of a row: a special token in it is plain text.
    ///
    /// # Errors
    /// If the tokenizer fails, or the text becomes a control token all the same because `tokenizer.json` does not mark
    /// that token as special.
    pub fn encode_content(&self, text: &str) -> Result<Vec<u32>, EncodeError> {
        let ids = encode(&self.content, text)?;
        match ids.iter().find(|id| self.control_ids.binary_search(id).is_ok()) {
            Some(&id) => Err(EncodeError::ControlToken {
                token: self.id_to_token(id).unwrap_or_default(),
            }),
            None => Ok(ids),
        }
    }

    /// Encodes a text that stands for itself: special tokens are recognised, and those the tokenizer puts around every
    /// text are added, as transformers does.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn encode_document(&self, text: &str) -> Result<Vec<u32>, EncodeError> {
        let encoded = self
            .template
            .encode(text, true)
            .map_err(|source| EncodeError::Tokenizer { source })?;
        Ok(encoded.get_ids().to_vec())
    }

    /// Text of ids, without special tokens.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String, EncodeError> {
        self.template
            .decode(ids, true)
            .map_err(|source| EncodeError::Tokenizer { source })
    }

    /// Text of ids, special tokens written out.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn decode_with_special(&self, ids: &[u32]) -> Result<String, EncodeError> {
        self.template
            .decode(ids, false)
            .map_err(|source| EncodeError::Tokenizer { source })
    }
}

fn encode(tokenizer: &HfTokenizer, text: &str) -> Result<Vec<u32>, EncodeError> {
    let encoding = tokenizer
        .encode_fast(text, false)
        .map_err(|source| EncodeError::Tokenizer { source })?;
    Ok(encoding.get_ids().to_vec())
}

/// `Null` if the file is not there.
fn read_json_beside(path: &Path, name: &str) -> Result<Value, DataError> {
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
fn special_tokens(path: &Path, files: &[Value]) -> Result<SpecialTokens, DataError> {
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
fn chat_template(path: &Path, config: &Value) -> Result<Option<String>, DataError> {
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

#[cfg(test)]
pub(crate) mod fixtures {
    use std::{path::Path, sync::Arc};

    use serde_json::{Value, json};
    use tokenizers::{
        AddedToken,
        models::bpe::{BPE, Vocab},
        pre_tokenizers::byte_level::ByteLevel,
    };

    use super::{HfTokenizer, Tokenizer};
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
               "unk_token": "<|unk|>", "chat_template": "{{ messages }}"})
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
}

#[cfg(test)]
mod tests {
    use tokenizers::AddedToken;

    use super::*;
    use fixtures::{SPECIAL, config};

    fn special() -> Vec<AddedToken> {
        SPECIAL.map(|token| AddedToken::from(token, true)).to_vec()
    }

    fn load(special: &[AddedToken], config: &Value) -> Result<Tokenizer, String> {
        let dir = tempfile::tempdir().unwrap();
        fixtures::write(dir.path(), special, config);
        Tokenizer::load(dir.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn text_survives_the_round_trip() {
        let (dir, tokenizer) = fixtures::tokenizer();
        for text in ["", " a  b\n\n", "Zoë 👁 <b>", "cd it"] {
            let ids = tokenizer.encode_content(text).unwrap();
            assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        }
        assert_eq!(tokenizer.encode_content("cdit").unwrap().len(), 2);
        assert_eq!(tokenizer.vocab_size(), 256 + 2 + SPECIAL.len());
        assert_eq!(tokenizer.pad_id(), 258);
        assert_eq!(tokenizer.eos_id(), Some(259));
        assert_eq!(tokenizer.special_tokens().unk.as_deref(), Some("<|unk|>"));
        assert_eq!(tokenizer.special_tokens().bos, None);
        assert_eq!(tokenizer.chat_template(), Some("{{ messages }}"));
        let by_file = Tokenizer::load(&dir.path().join("tokenizer.json")).unwrap();
        assert_eq!(by_file.special_tokens(), tokenizer.special_tokens());
    }

    #[test]
    fn only_the_template_places_special_tokens() {
        let (_dir, tokenizer) = fixtures::tokenizer();
        let text = "a<|im_end|><image>";
        assert_eq!(tokenizer.encode_template(text).unwrap().len(), 3);
        let ids = tokenizer.encode_content(text).unwrap();
        assert!(ids.iter().all(|&id| id < 258), "{ids:?}");
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        assert_eq!(
            tokenizer
                .decode(&tokenizer.encode_template(text).unwrap())
                .unwrap(),
            "a"
        );
    }

    #[test]
    fn a_control_token_that_is_not_marked_special_is_refused_in_content() {
        let plain = SPECIAL.map(|token| AddedToken::from(token, token != "<|im_end|>"));
        let tokenizer = load(&plain, &config()).unwrap();
        assert!(tokenizer.encode_content("fine").is_ok());
        let message = tokenizer.encode_content("a<|im_end|>").unwrap_err().to_string();
        assert!(message.contains("the text contains `<|im_end|>`"), "{message}");
    }

    #[test]
    fn an_unusable_tokenizer_is_refused() {
        let edit = |key: &str, value: Value| {
            let mut config = config();
            config[key] = value;
            config
        };
        for (config, expected) in [
            (
                edit("pad_token", "<|eos|>".into()),
                "pad_token and eos_token are both `<|eos|>`",
            ),
            (edit("pad_token", Value::Null), "no pad_token is named"),
            (
                edit("pad_token", "[PAD]".into()),
                "`[PAD]` (pad_token) is not a token",
            ),
            (
                edit("eos_token", "[EOS]".into()),
                "`[EOS]` (eos_token) is not a token",
            ),
        ] {
            let message = load(&special(), &config).err().unwrap();
            assert!(message.contains(expected), "{message}");
        }
        assert!(
            load(&special()[..4], &config()).is_ok(),
            "<image> and unk are not needed by all"
        );
    }

    #[test]
    fn a_vocabulary_without_the_image_token_is_named() {
        let tokenizer = load(&special()[..4], &config()).unwrap();
        let message = tokenizer.image_token_id().unwrap_err().to_string();
        assert!(
            message.contains("`<image>` (it stands for an image) is not a token"),
            "{message}"
        );
    }

    #[test]
    fn random_tokens_are_refused() {
        let (dir, tokenizer) = fixtures::tokenizer();
        let json = fs::read_to_string(tokenizer.path()).unwrap();
        let json = json.replacen(r#""dropout":null"#, r#""dropout":0.1"#, 1);
        fs::write_durable(tokenizer.path(), json.as_bytes()).unwrap();
        let message = Tokenizer::load(dir.path()).err().unwrap().to_string();
        assert!(message.contains("model.dropout is set"), "{message}");
    }

    #[test]
    fn missing_and_damaged_files_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let message = Tokenizer::load(dir.path()).err().unwrap().to_string();
        assert!(
            message.starts_with("cannot read") && message.contains("tokenizer.json"),
            "{message}"
        );
        fs::write_durable(&dir.path().join("tokenizer.json"), b"{}").unwrap();
        let message = Tokenizer::load(dir.path()).err().unwrap().to_string();
        assert!(
            message.starts_with("cannot use") && message.contains("tokenizer.json"),
            "{message}"
        );
    }
}
