//! Words that were encoded before.

use super::merges::{Buffers, Merges};

/// Most words that are kept.
const MOST_WORDS: usize = 1 << 15;
/// Longer words are not kept.
const MOST_BYTES: usize = u8::MAX as usize;

/// Words and their tokens. When it is full it is emptied: what is frequent comes back at once.
pub(super) struct Words {
    /// Twice as many as words, so that a free one is near.
    slots: Box<[Slot]>,
    len: usize,
    /// Bytes of all words.
    bytes: Vec<u8>,
    /// Tokens of all words.
    tokens: Vec<u32>,
    /// Tokens of the last word that is not kept.
    rare: Vec<u32>,
    buffers: Buffers,
}

/// A word by places in [`Words`]; free if it has no bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    hash: u32,
    bytes: u32,
    tokens: u32,
    num_bytes: u8,
    num_tokens: u8,
}

impl Words {
    pub(super) fn new() -> Self {
        Self {
            slots: vec![Slot::default(); 2 * MOST_WORDS].into(),
            len: 0,
            bytes: Vec::new(),
            tokens: Vec::new(),
            rare: Vec::new(),
            buffers: Buffers::default(),
        }
    }

    /// The tokens of a word.
    #[inline]
    pub(super) fn tokens(&mut self, word: &[u8], merges: &Merges) -> &[u32] {
        if word.len() > MOST_BYTES || word.is_empty() {
            return self.encode_rare(word, merges);
        }
        let hash = hash(word);
        let mut place = hash as usize & (self.slots.len() - 1);
        loop {
            let slot = self.slots[place];
            if slot.num_bytes == 0 {
                return self.encode(word, hash, place, merges);
            }
            let start = slot.bytes as usize;
            if slot.hash == hash
                && usize::from(slot.num_bytes) == word.len()
                && &self.bytes[start..start + word.len()] == word
            {
                let start = slot.tokens as usize;
                return &self.tokens[start..start + usize::from(slot.num_tokens)];
            }
            place = (place + 1) & (self.slots.len() - 1);
        }
    }

    /// Encodes a new word and keeps it.
    #[cold]
    fn encode(&mut self, word: &[u8], hash: u32, place: usize, merges: &Merges) -> &[u32] {
        let mut place = place;
        if self.len == MOST_WORDS {
            self.slots.fill(Slot::default());
            self.bytes.clear();
            self.tokens.clear();
            self.len = 0;
            place = hash as usize & (self.slots.len() - 1);
        }
        let start = self.tokens.len();
        merges.encode(word, &mut self.buffers, &mut self.tokens);
        // At most 2^15 words of at most 255 bytes, none of which becomes more than one token.
        self.slots[place] = Slot {
            hash,
            bytes: self.bytes.len() as u32,
            tokens: start as u32,
            num_bytes: word.len() as u8,
            num_tokens: (self.tokens.len() - start) as u8,
        };
        self.bytes.extend_from_slice(word);
        self.len += 1;
        &self.tokens[start..]
    }

    /// Encodes a word that is not kept.
    #[cold]
    fn encode_rare(&mut self, word: &[u8], merges: &Merges) -> &[u32] {
        self.rare.clear();
        merges.encode(word, &mut self.buffers, &mut self.rare);
        &self.rare
    }
}

/// A hash of a short text; the table is small and bounded, so nobody gains from collisions.
#[inline]
fn hash(word: &[u8]) -> u32 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mix = |state: u64, part: u64| {
        let product = u128::from(state ^ part) * u128::from(FACTOR);
        product as u64 ^ (product >> 64) as u64
    };
    let whole = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
    let mut state = word.len() as u64;
    if let [.., _, _, _, _, _, _, _, _] = word {
        let mut chunks = word.chunks_exact(8);
        for chunk in &mut chunks {
            state = mix(state, whole(chunk));
        }
        state = mix(state, whole(&word[word.len() - 8..]));
    } else {
        let mut part = 0;
        for &byte in word {
            part = part << 8 | u64::from(byte);
        }
        state = mix(state, part);
    }
    (state >> 32) as u32 ^ state as u32
}
