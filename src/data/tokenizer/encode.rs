//! Text to ids: the faster way where it can, else that of the crate.

use std::ops::Range;

use tokenizers::Tokenizer as HfTokenizer;

use super::{super::error::EncodeError, Piece, Tokenizer};

/// Whose text it is: only the template can place special tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Author {
    /// The template's.
    Template,
    /// A row's.
    Row,
}

impl Tokenizer {
    /// The tokens of a text.
    pub(super) fn ids(&self, text: &str, author: Author) -> Result<Vec<u32>, EncodeError> {
        let mut ids = Vec::with_capacity(tokens_of(text));
        if let Some(fast) = &self.fast
            && fast
                .encode(text, author == Author::Row, |id, _| ids.push(id))
                .is_ok()
        {
            return Ok(ids);
        }
        let encoding = self
            .as_written_by(author)
            .encode_fast(text, false)
            .map_err(|source| EncodeError::Tokenizer { source })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Appends the tokens of a text of the template that stands at `at`.
    pub(super) fn append_pieces(
        &self,
        text: &str,
        at: usize,
        pieces: &mut Vec<Piece>,
    ) -> Result<(), EncodeError> {
        let before = pieces.len();
        let mut push = |id, bytes: Range<usize>| {
            let bytes = at + bytes.start..at + bytes.end;
            pieces.push(Piece { id, bytes });
        };
        if let Some(fast) = &self.fast
            && fast.encode(text, false, &mut push).is_ok()
        {
            return Ok(());
        }
        pieces.truncate(before);
        let encoding = self
            .template
            .encode(text, false)
            .map_err(|source| EncodeError::Tokenizer { source })?;
        let places = encoding
            .get_offsets()
            .iter()
            .map(|&(start, end)| at + start..at + end);
        let ids = encoding.get_ids().iter();
        pieces.extend(ids.zip(places).map(|(&id, bytes)| Piece { id, bytes }));
        Ok(())
    }

    fn as_written_by(&self, author: Author) -> &HfTokenizer {
        match author {
            Author::Template => &self.template,
            Author::Row => &self.content,
        }
    }
}

/// About as many tokens as a text has, rather more.
pub(super) fn tokens_of(text: &str) -> usize {
    text.len() / 3 + 1
}
