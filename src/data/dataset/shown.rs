//! Rows for people to look at.

use super::{super::error::EncodeError, Dataset};

/// A token as one can read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownToken {
    /// Its text; where that is no text by itself (a part of a letter), as the vocabulary writes it.
    pub text: String,
    /// Whether it is trained.
    pub trained: bool,
    /// How often the model sees it: an image token stands for several.
    pub copies: usize,
}

impl Dataset {
    /// A row token by token; `index < len()`.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub fn shown_tokens(&self, index: usize) -> Result<Vec<ShownToken>, EncodeError> {
        let row = &self.rows[index];
        let tokens = row.tokens.iter().enumerate().map(|(place, &id)| {
            let text = self.encoder.tokenizer.decode_with_special(&[id])?;
            let is_broken = text.is_empty() || text.contains(char::REPLACEMENT_CHARACTER);
            let as_written = is_broken
                .then(|| self.encoder.tokenizer.id_to_token(id))
                .flatten();
            Ok(ShownToken {
                text: as_written.unwrap_or(text),
                trained: row.class.is_none() && row.trained.iter().any(|range| range.contains(&place)),
                copies: match Some(id) == self.encoder.image_id {
                    true => self.encoder.num_image_tokens(),
                    false => 1,
                },
            })
        });
        tokens.collect()
    }
}
