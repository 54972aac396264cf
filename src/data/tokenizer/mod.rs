//! A Hugging Face tokenizer: text to ids and back, and which tokens have a role.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tokenizers::{ModelWrapper, PostProcessorWrapper, Tokenizer as HfTokenizer};

use super::{
    error::{DataError, EncodeError},
    rows::IMAGE_TOKEN,
    template::{TURN_END, TURN_START},
};
use crate::fs;

mod encode;
mod fast;
mod files;
#[cfg(test)]
pub(crate) mod fixtures;
mod special;
#[cfg(test)]
mod tests;

use encode::Author;
use fast::Fast;
pub(super) use special::Piece;
use special::Specials;

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
    /// The same tokens in less time, where it can.
    fast: Option<Fast>,
    special: SpecialTokens,
    pad_id: u32,
    eos_id: Option<u32>,
    vocab_size: usize,
    /// Ids that content must never become, however the tokenizer treats them.
    control_ids: Vec<u32>,
    chat_template: Option<String>,
    specials: Specials,
    bos_id: Option<u32>,
    named: Vec<(String, String)>,
    /// What the tokenizer puts before and after every text.
    affixes: (Vec<u32>, Vec<u32>),
    /// What [`IMAGE_TOKEN`] becomes.
    image_token: String,
    /// Of `tokenizer.json`.
    file_digest: [u8; 32],
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
        let file = fs::read(&path)?;
        let mut template = files::parse_tokenizer(&path, &file)?;
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
        let affixes = files::understood(&path, || affixes(&template))?;
        // Affixes aside, all a post-processor does is move the places of tokens in the text.
        template.with_post_processor(None::<PostProcessorWrapper>);
        let fast = Fast::new(&template, &file);
        let mut content = template.clone();
        content.set_encode_special_tokens(true);

        let beside = [
            files::read_json_beside(&path, "tokenizer_config.json")?,
            files::read_json_beside(&path, "special_tokens_map.json")?,
        ];
        let special = files::special_tokens(&path, &beside)?;
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
        let mut texts: Vec<String> = template
            .get_added_tokens_decoder()
            .into_values()
            .filter(|token| token.special)
            .map(|token| token.content)
            .collect();
        texts.extend(
            [
                special.bos.clone(),
                special.eos.clone(),
                Some(special.pad.clone()),
            ]
            .into_iter()
            .flatten(),
        );
        let specials = Specials::new(texts);
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
        let chat_template = files::chat_template(&path, &beside[0])?;
        Ok(Self {
            specials,
            bos_id,
            named: files::named_tokens(&beside),
            affixes,
            image_token: IMAGE_TOKEN.to_owned(),
            file_digest: Sha256::digest(&file).into(),
            path,
            template,
            content,
            fast,
            special,
            pad_id,
            eos_id,
            vocab_size,
            control_ids,
            chat_template,
        })
    }

    /// The same tokenizer with another token for images. Rows and templates go on to say [`IMAGE_TOKEN`] (a template may
    /// say the token itself); where they do, the tokens have this one. What looks like it in a row is plain text.
    ///
    /// Whether there is such a token, [`Tokenizer::image_token_id`] says.
    #[must_use]
    pub fn with_image_token(mut self, token: &str) -> Self {
        self.image_token = token.to_owned();
        self.specials.add(token);
        self.control_ids.extend(self.template.token_to_id(token));
        self.control_ids.sort_unstable();
        self.control_ids.dedup();
        for (name, text) in &mut self.named {
            if name == "image_token" {
                *text = token.to_owned();
            }
        }
        self
    }

    /// The same tokenizer with the image token of a model that knows its id; as it is if that is no special token here, or
    /// one that begins, ends or fills a text.
    #[must_use]
    pub fn with_image_token_of(self, id: u32) -> Self {
        let has_role = id == self.pad_id || [self.bos_id, self.eos_id].contains(&Some(id));
        match self.id_to_token(id).filter(|_| !has_role) {
            Some(token) if self.specials.contains(&token) => self.with_image_token(&token),
            _ => self,
        }
    }

    /// Tokenizers with the same one make the same tokens of the same text.
    pub(super) fn digest(&self) -> String {
        let mut hash = Sha256::new_with_prefix(self.file_digest);
        let roles = (&self.special, &self.control_ids, &self.named, &self.image_token);
        hash.update(format!("{roles:?}"));
        format!("{:x}", hash.finalize())
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

    /// Id of the start of a sequence, where the tokenizer names one.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos_id
    }

    /// Tokens by the names that `tokenizer_config.json` gives them: `bos_token`, `image_token`, ….
    pub(super) fn named_tokens(&self) -> &[(String, String)] {
        &self.named
    }

    /// What the tokenizer puts before and after a text that stands for itself.
    pub(super) fn affixes(&self) -> (&[u32], &[u32]) {
        (&self.affixes.0, &self.affixes.1)
    }

    /// Text of the token that stands for an image: [`IMAGE_TOKEN`] unless [`Tokenizer::with_image_token`] says another.
    pub fn image_token(&self) -> &str {
        &self.image_token
    }

    /// Id of the token that stands for an image.
    ///
    /// # Errors
    /// [`DataError::NoImageToken`].
    pub fn image_token_id(&self) -> Result<u32, DataError> {
        match self.token_to_id(&self.image_token) {
            Some(id) if self.ids(&self.image_token, Author::Template)? == [id] => Ok(id),
            _ => Err(DataError::NoImageToken {
                token: self.image_token.clone(),
                path: self.path.clone(),
            }),
        }
    }

    /// Rows that an embedding table needs: the largest id plus one.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The chat template that came with the tokenizer, as Jinja.
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

    /// Encodes text of the template: special tokens are recognised, none is added. [`IMAGE_TOKEN`] becomes the token that
    /// stands for an image.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn encode_template(&self, text: &str) -> Result<Vec<u32>, EncodeError> {
        self.ids(&self.place_images(text).text, Author::Template)
    }

    /// Encodes text of a row: a special token in it is plain text.
    ///
    /// # Errors
    /// If the tokenizer fails, or the text becomes a control token all the same because `tokenizer.json` does not mark
    /// that token as special.
    pub fn encode_content(&self, text: &str) -> Result<Vec<u32>, EncodeError> {
        let ids = self.ids(text, Author::Row)?;
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
        let (before, after) = self.affixes();
        Ok([before, &self.encode_template(text)?, after].concat())
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

/// Text of a token in a folder's `tokenizer.json`, by its id; none if that is not there, or has no such token.
///
/// # Errors
/// If the file cannot be understood.
pub fn token_text(folder: &Path, id: u32) -> Result<Option<String>, DataError> {
    let path = folder.join("tokenizer.json");
    if !path.is_file() {
        return Ok(None);
    }
    Ok(files::parse_tokenizer(&path, &fs::read(&path)?)?.id_to_token(id))
}

/// What the tokenizer puts around a text.
fn affixes(tokenizer: &HfTokenizer) -> tokenizers::Result<(Vec<u32>, Vec<u32>)> {
    let ids = |special| Ok::<_, tokenizers::Error>(tokenizer.encode_fast("a", special)?.get_ids().to_vec());
    let (with, without) = (ids(true)?, ids(false)?);
    let place = with
        .windows(without.len().max(1))
        .position(|window| window == without);
    match place {
        Some(place) => Ok((with[..place].to_vec(), with[place + without.len()..].to_vec())),
        None => Err("its post-processor changes the tokens of a text".into()),
    }
}
