//! From rendered text to tokens: one tokenisation of the whole, and which of the tokens are trained.

use std::ops::Range;

use super::super::{
    error::EncodeError,
    tokenizer::{Piece, Tokenizer},
};

/// Tokens of a row, each image as one image token.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Encoded {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Which of them are trained: ranges in `tokens`, in order, apart from each other.
    pub trained: Vec<Range<usize>>,
    /// Where trained turns are complete, where someone asks: numbers of tokens, rising.
    pub ends: Vec<usize>,
}

impl Encoded {
    /// Trains tokens that come after those trained so far.
    pub(super) fn train(&mut self, tokens: Range<usize>) {
        if tokens.is_empty() {
            return;
        }
        match self.trained.last_mut() {
            Some(range) if range.end == tokens.start => range.end = tokens.end,
            _ => self.trained.push(tokens),
        }
    }

    /// Appends a token.
    pub(in crate::data) fn push(&mut self, token: u32, trained: bool) {
        let place = self.tokens.len();
        self.tokens.push(token);
        if trained {
            self.train(place..place + 1);
        }
    }
}

/// A text whose special tokens come from the template, and what of it is trained. What came from the row and looks like a
/// special token has been replaced by [`Tokenizer::neutralise`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::data) struct Rendered {
    /// The text.
    pub(in crate::data) text: String,
    /// Trained bytes of it, in order.
    pub(in crate::data) trained: Vec<Range<usize>>,
    /// Bytes after which a trained turn is complete, rising, where someone asks.
    pub(in crate::data) ends: Vec<usize>,
}

impl Rendered {
    /// Encodes the text as one. A token is trained if any of its text is, unless it stands for an image.
    ///
    /// # Errors
    /// If the tokenizer fails.
    pub(in crate::data) fn encode(
        &self,
        tokenizer: &Tokenizer,
        image_id: Option<u32>,
    ) -> Result<Encoded, EncodeError> {
        let mut encoded = Encoded::default();
        let mut trained = self.trained.iter().peekable();
        let mut ends = self.ends.iter().peekable();
        for Piece { id, bytes } in tokenizer.encode_pieces(&self.text)? {
            while trained.next_if(|range| range.end <= bytes.start).is_some() {}
            while ends.next_if(|end| **end <= bytes.start).is_some() {
                encoded.ends.push(encoded.tokens.len());
            }
            // A token that covers nothing counts where it stands.
            let end = bytes.end.max(bytes.start + 1);
            let is_trained = trained.peek().is_some_and(|range| range.start < end);
            encoded.push(id, is_trained && Some(id) != image_id);
        }
        encoded.ends.extend(ends.map(|_| encoded.tokens.len()));
        Ok(encoded)
    }
}
