//! Special tokens in text: whose they are, and how a row's text is kept from becoming one.

use std::{borrow::Cow, ops::Range};

use super::{
    super::{error::EncodeError, rows::IMAGE_TOKEN},
    Tokenizer,
    encode::tokens_of,
};

/// First of the characters that stand for special tokens that a row writes out.
const FIRST: u32 = 0x10_0000;
/// How many of them there are.
const MOST: usize = 0xf000;
/// With this byte begin the characters from [`FIRST`] on, and only they.
const FIRST_BYTE: u8 = 0xf4;

/// Texts of special tokens.
pub(super) struct Specials {
    /// The longest first, as tokenizers match them.
    texts: Vec<String>,
    /// For each first byte, whether a text begins with it.
    begins: [bool; 256],
}

/// A token and the bytes of the text that it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::data) struct Piece {
    pub(in crate::data) id: u32,
    pub(in crate::data) bytes: Range<usize>,
}

impl Specials {
    pub(super) fn new(mut texts: Vec<String>) -> Self {
        texts.retain(|text| !text.is_empty());
        texts.sort_by(|a, b| b.len().cmp(&a.len()).then(a.cmp(b)));
        texts.dedup();
        texts.truncate(MOST);
        let mut begins = [false; 256];
        for text in &texts {
            begins[usize::from(text.as_bytes()[0])] = true;
        }
        Self { texts, begins }
    }

    /// Takes one more token among the special ones.
    pub(super) fn add(&mut self, text: &str) {
        let mut texts = std::mem::take(&mut self.texts);
        texts.push(text.to_owned());
        *self = Self::new(texts);
    }

    /// Whether a text is a special token.
    pub(super) fn contains(&self, text: &str) -> bool {
        self.texts.iter().any(|special| special == text)
    }

    /// Which special token the text begins with.
    fn at(&self, text: &str) -> Option<usize> {
        let first = text.as_bytes().first()?;
        if !self.begins[usize::from(*first)] {
            return None;
        }
        self.texts.iter().position(|special| text.starts_with(special))
    }

    /// The special token that a character stands for.
    fn of(&self, c: char) -> Option<&str> {
        let place = (c as u32).checked_sub(FIRST)? as usize;
        self.texts.get(place).map(String::as_str)
    }
}

/// A text with the tokenizer's token in the place of each [`IMAGE_TOKEN`].
pub(super) struct Placed<'a> {
    pub(super) text: Cow<'a, str>,
    /// Bytes of the token.
    length: usize,
    /// Where it stands, rising.
    places: Vec<usize>,
}

impl Placed<'_> {
    /// The byte of the text before that a byte of this one comes from.
    fn origin(&self, at: usize) -> usize {
        let before = self.places.partition_point(|&place| place < at);
        // Inside a token nothing has a place but its start.
        let (at, before) = match before.checked_sub(1).map(|last| (last, self.places[last])) {
            Some((last, place)) if at < place + self.length => (place, last),
            _ => (at, before),
        };
        at - before * self.length + before * IMAGE_TOKEN.len()
    }
}

impl Tokenizer {
    /// A text as the tokenizer has to see it.
    pub(super) fn place_images<'a>(&self, text: &'a str) -> Placed<'a> {
        let token = self.image_token();
        let mut placed = Placed {
            text: Cow::Borrowed(text),
            length: token.len(),
            places: Vec::new(),
        };
        if token != IMAGE_TOKEN && text.contains(IMAGE_TOKEN) {
            let mut whole = String::with_capacity(text.len());
            for (number, piece) in text.split(IMAGE_TOKEN).enumerate() {
                if number > 0 {
                    placed.places.push(whole.len());
                    whole.push_str(token);
                }
                whole.push_str(piece);
            }
            placed.text = Cow::Owned(whole);
        }
        placed
    }

    /// Whether a text has characters that stand for something else here.
    pub(in crate::data) fn has_private(text: &str) -> bool {
        text.as_bytes().contains(&FIRST_BYTE)
    }

    /// Text of a row with a character of its own in the place of whatever looks like a special token.
    /// [`Tokenizer::encode_pieces`] then encodes that as plain text.
    pub(in crate::data) fn neutralise<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let specials = &self.specials;
        let mut clean: Option<String> = None;
        let (mut done, mut at) = (0, 0);
        while at < text.len() {
            let found = match specials.begins[usize::from(text.as_bytes()[at])] && text.is_char_boundary(at) {
                true => specials.at(&text[at..]),
                false => None,
            };
            let stand_in = found.and_then(|place| char::from_u32(FIRST + place as u32));
            match (found, stand_in) {
                (Some(place), Some(stand_in)) => {
                    let clean = clean.get_or_insert_default();
                    clean.push_str(&text[done..at]);
                    clean.push(stand_in);
                    at += specials.texts[place].len();
                    done = at;
                }
                _ => at += 1,
            }
        }
        match clean {
            None => Cow::Borrowed(text),
            Some(clean) => Cow::Owned(clean + &text[done..]),
        }
    }

    /// Length of the special token that a text begins with, images aside.
    pub(in crate::data) fn special_at(&self, text: &str) -> Option<usize> {
        let special = &self.specials.texts[self.specials.at(text)?];
        (special != IMAGE_TOKEN).then_some(special.len())
    }

    /// The first of the special tokens that a text ends with, images aside; white space between and after them does not
    /// count.
    pub(in crate::data) fn trailing_special(&self, text: &str) -> Option<Range<usize>> {
        let mut found = None;
        let mut rest = text.trim_end();
        loop {
            let special = self
                .specials
                .texts
                .iter()
                .find(|special| *special != IMAGE_TOKEN && rest.ends_with(special.as_str()));
            let Some(special) = special else { return found };
            let start = rest.len() - special.len();
            found = Some(start..rest.len());
            rest = rest[..start].trim_end();
        }
    }

    /// Encodes a text whose special tokens the template wrote, and which [`Tokenizer::neutralise`] has freed of others.
    /// All of it is encoded as one; only what had to be neutralised stands alone. [`IMAGE_TOKEN`] becomes the token that
    /// stands for an image.
    ///
    /// # Errors
    /// If the tokenizer fails, or neutralised text becomes a control token all the same.
    pub(in crate::data) fn encode_pieces(&self, text: &str) -> Result<Vec<Piece>, EncodeError> {
        let placed = self.place_images(text);
        let text = placed.text.as_ref();
        let mut pieces: Vec<Piece> = Vec::with_capacity(tokens_of(text));
        let mut at = 0;
        while at < text.len() {
            let rest = &text[at..];
            let stand_in = match Self::has_private(rest) {
                true => rest
                    .char_indices()
                    .find_map(|(place, c)| Some((place, c, self.specials.of(c)?))),
                false => None,
            };
            let plain = stand_in.map_or(rest, |(place, ..)| &rest[..place]);
            if !plain.is_empty() {
                self.append_pieces(plain, at, &mut pieces)?;
            }
            at += plain.len();
            if let Some((_, c, special)) = stand_in {
                let end = at + c.len_utf8();
                let ids = self.encode_content(special)?;
                pieces.extend(ids.into_iter().map(|id| Piece { id, bytes: at..end }));
                at = end;
            }
        }
        if !placed.places.is_empty() {
            for Piece { bytes, .. } in &mut pieces {
                *bytes = placed.origin(bytes.start)..placed.origin(bytes.end);
            }
        }
        Ok(pieces)
    }
}
