//! Tokens that are looked for in the text as it is, before it is cut into words.

use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};
use tokenizers::{AddedToken, Tokenizer as HfTokenizer};

use super::classes::{Classes, Kinds};

/// Added tokens. Those that a normalizer may change are looked for in what the others leave.
pub(super) struct Added {
    as_they_are: Option<Finder>,
    normalized: Option<Finder>,
}

/// Tokens that are looked for together.
struct Finder {
    texts: AhoCorasick,
    tokens: Vec<Token>,
}

struct Token {
    id: u32,
    special: bool,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
}

/// A piece of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// An added token, with the white space that it takes.
    Token(u32, Range<usize>),
    /// What is between them.
    Text(Range<usize>),
}

impl Added {
    /// The added tokens of a tokenizer. `None` if they cannot be looked for.
    pub(super) fn new(tokenizer: &HfTokenizer) -> Option<Self> {
        let known = tokenizer.get_added_vocabulary();
        let finder = |normalized: bool| {
            let added = known.get_added_tokens_decoder().iter();
            let added: Vec<_> = added
                .filter(|(_, token)| token.normalized == normalized)
                .collect();
            let is_special = |token: &AddedToken| known.is_special_token(&token.content);
            match added.is_empty() {
                true => Some(None),
                false => Finder::new(&added, &is_special).map(Some),
            }
        };
        Some(Self {
            as_they_are: finder(false)?,
            normalized: finder(true)?,
        })
    }

    /// Calls `each` with the pieces of a text, in order. Where `special_is_text`, special tokens are text like any other.
    pub(super) fn pieces(
        &self,
        classes: &Classes,
        text: &str,
        special_is_text: bool,
        each: &mut impl FnMut(Piece),
    ) {
        let find = |finder: &Option<Finder>, text: &str, each: &mut dyn FnMut(Piece)| match finder {
            Some(finder) => finder.pieces(classes, text, special_is_text, each),
            None => each(Piece::Text(0..text.len())),
        };
        find(&self.as_they_are, text, &mut |piece| match piece {
            Piece::Text(outer) => find(&self.normalized, &text[outer.clone()], &mut |piece| {
                let moved = |inner: Range<usize>| outer.start + inner.start..outer.start + inner.end;
                each(match piece {
                    Piece::Text(inner) => Piece::Text(moved(inner)),
                    Piece::Token(id, inner) => Piece::Token(id, moved(inner)),
                });
            }),
            token => each(token),
        });
    }
}

impl Finder {
    fn new(added: &[(&u32, &AddedToken)], is_special: &dyn Fn(&AddedToken) -> bool) -> Option<Self> {
        let texts = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(added.iter().map(|(_, token)| &token.content))
            .ok()?;
        let tokens = added.iter().map(|&(&id, token)| Token {
            id,
            special: is_special(token),
            single_word: token.single_word,
            lstrip: token.lstrip,
            rstrip: token.rstrip,
        });
        Some(Self {
            texts,
            tokens: tokens.collect(),
        })
    }

    fn pieces(&self, classes: &Classes, text: &str, special_is_text: bool, each: &mut dyn FnMut(Piece)) {
        let mut done = 0;
        for found in self.texts.find_iter(text) {
            let token = &self.tokens[found.pattern().as_usize()];
            let (mut start, mut end) = (found.start(), found.end());
            let alone = || {
                let before = text[..start].chars().next_back();
                let after = text[end..].chars().next();
                let in_word = |c: char| classes.of(c).meets(Kinds::WORD);
                !before.into_iter().chain(after).any(in_word)
            };
            if (special_is_text && token.special) || (token.single_word && !alone()) {
                continue;
            }
            let is_space = |c: char| classes.of(c).meets(Kinds::SPACE);
            if token.lstrip {
                // What the token before has taken stays with it.
                start = text[..start].trim_end_matches(is_space).len().max(done);
            }
            if token.rstrip {
                end = text.len() - text[end..].trim_start_matches(is_space).len();
            }
            if done < start {
                each(Piece::Text(done..start));
            }
            each(Piece::Token(token.id, start..end));
            done = end;
        }
        if done < text.len() {
            each(Piece::Text(done..text.len()));
        }
    }
}
