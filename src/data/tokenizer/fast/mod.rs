//! A faster way to the same tokens.
//!
//! `tokenizers` keeps, for every word of a text, its letters, where each of them comes from, and a text for each token.
//! Here a text is cut into words by a scanner and words are looked up among those encoded before; nothing is allocated for
//! a word or a token. Only byte-level BPE with the parts that are implemented here in full is taken: [`Fast::new`]
//! declines everything else, and [`Fast::encode`] a text that would have to be changed first, so that `tokenizers` is asked
//! instead. Tests compare both on random texts.

use std::{
    borrow::Cow,
    collections::HashMap,
    ops::Range,
    sync::{
        Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde::Deserialize;
use tokenizers::{
    ModelWrapper, NormalizerWrapper, Tokenizer as HfTokenizer, pre_tokenizers::byte_level::ByteLevel,
};
use unicode_normalization_alignments::{IsNormalized, is_nfc_quick};

mod added;
mod classes;
mod merges;
mod shapes;
mod split;
#[cfg(test)]
mod tests;
mod words;

use added::{Added, Piece};
use classes::Classes;
use merges::Merges;
use split::Splitter;
use words::Words;

/// This text is for `tokenizers`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Declined;

/// A byte-level BPE.
pub(super) struct Fast {
    classes: Classes,
    added: Added,
    /// Whether texts are in NFC, or have to be brought into it.
    nfc: bool,
    splitter: Splitter,
    merges: Merges,
    /// Words encoded before, for as many threads as there may be: each begins to look for a free one elsewhere.
    words: Box<[Mutex<Option<Words>>]>,
}

/// What `tokenizers` keeps to itself of a `tokenizer.json`.
#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow)]
    model: FileModel<'a>,
}

#[derive(Deserialize)]
struct FileModel<'a> {
    #[serde(borrow)]
    merges: FileMerges<'a>,
}

/// Two tokens each, or both in one text with a space between them.
#[derive(Deserialize)]
#[serde(untagged)]
enum FileMerges<'a> {
    #[serde(borrow)]
    Pairs(Vec<(Cow<'a, str>, Cow<'a, str>)>),
    #[serde(borrow)]
    Lines(Vec<Cow<'a, str>>),
}

impl Fast {
    /// The same tokenizer; `None` if not all of it is implemented here. `file` is the `tokenizer.json` it was read from.
    pub(super) fn new(tokenizer: &HfTokenizer, file: &[u8]) -> Option<Self> {
        let nfc = match tokenizer.get_normalizer() {
            None => false,
            Some(NormalizerWrapper::NFC(_)) => true,
            Some(_) => return None,
        };
        let added = tokenizer.get_added_vocabulary().get_added_tokens_decoder();
        if nfc && !added.values().all(|token| is_nfc(&token.content)) {
            return None;
        }
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Some(Self {
            classes: Classes::new()?,
            added: Added::new(tokenizer)?,
            nfc,
            splitter: Splitter::new(tokenizer.get_pre_tokenizer()?)?,
            merges: merges(tokenizer, file)?,
            words: (0..2 * threads).map(|_| Mutex::default()).collect(),
        })
    }

    /// Calls `each` with the tokens of a text and the bytes that they stand for, in order; a token that is part of a
    /// character stands for all of it. Where `special_is_text`, special tokens are text like any other.
    ///
    /// # Errors
    /// [`Declined`], perhaps after some tokens.
    pub(super) fn encode(
        &self,
        text: &str,
        special_is_text: bool,
        mut each: impl FnMut(u32, Range<usize>),
    ) -> Result<(), Declined> {
        if self.nfc && !is_nfc(text) {
            return Err(Declined);
        }
        let mut words = self.words();
        let words = words.get_or_insert_with(Words::new);
        let mut outcome = Ok(());
        self.added
            .pieces(&self.classes, text, special_is_text, &mut |piece| match piece {
                Piece::Token(id, bytes) => each(id, bytes),
                Piece::Text(piece) if outcome.is_ok() => {
                    let start = piece.start;
                    let mut word = |word: Range<usize>| {
                        let mut at = start + word.start;
                        let bytes = &text.as_bytes()[at..start + word.end];
                        for &id in words.tokens(bytes, &self.merges) {
                            let end = at + self.merges.length(id);
                            each(id, whole_characters(text, at..end));
                            at = end;
                        }
                    };
                    outcome = self.splitter.words(&self.classes, &text[piece], &mut word);
                }
                Piece::Text(_) => {}
            });
        outcome
    }

    /// Words that no other thread uses now, if there are any.
    fn words(&self) -> MutexGuard<'_, Option<Words>> {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static THREAD: usize = THREADS.fetch_add(1, Ordering::Relaxed);
        }
        let first = THREAD.with(|thread| thread % self.words.len());
        let (after, before) = (&self.words[first..], &self.words[..first]);
        for words in after.iter().chain(before) {
            match words.try_lock() {
                Ok(words) => return words,
                Err(TryLockError::Poisoned(poisoned)) => return emptied(poisoned),
                Err(TryLockError::WouldBlock) => {}
            }
        }
        self.words[first].lock().unwrap_or_else(emptied)
    }
}

/// What a thread that panicked may have left half done.
fn emptied<'a>(poisoned: PoisonError<MutexGuard<'a, Option<Words>>>) -> MutexGuard<'a, Option<Words>> {
    let mut words = poisoned.into_inner();
    *words = None;
    words
}

/// Whether normalising surely changes nothing.
fn is_nfc(text: &str) -> bool {
    text.is_ascii() || is_nfc_quick(text.chars()) == IsNormalized::Yes
}

#[inline]
fn whole_characters(text: &str, bytes: Range<usize>) -> Range<usize> {
    let Range { mut start, mut end } = bytes;
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    while !text.is_char_boundary(end) {
        end += 1;
    }
    start..end
}

/// The merges of a tokenizer whose model is a BPE over bytes.
fn merges(tokenizer: &HfTokenizer, file: &[u8]) -> Option<Merges> {
    let ModelWrapper::BPE(model) = tokenizer.get_model() else {
        return None;
    };
    // Every byte is a token, so what the model says of unknown characters never counts.
    let is_empty = |text: &Option<String>| text.as_deref().unwrap_or_default().is_empty();
    let random = model.dropout.is_some_and(|dropout| dropout > 0.0);
    if random || !is_empty(&model.continuing_subword_prefix) || !is_empty(&model.end_of_word_suffix) {
        return None;
    }
    let vocab = model.get_vocab();
    let mut ids: Vec<u32> = vocab.values().copied().collect();
    ids.sort_unstable();
    if ids.windows(2).any(|pair| pair[0] == pair[1]) {
        return None;
    }
    let File { model: in_file } = serde_json::from_slice(file).ok()?;
    let pair = |left: &str, right: &str| {
        let id = |token: &str| vocab.get(token).copied();
        Some(([id(left)?, id(right)?], id(&[left, right].concat())?))
    };
    let pairs: Option<Vec<_>> = match &in_file.merges {
        FileMerges::Pairs(pairs) => pairs.iter().map(|(left, right)| pair(left, right)).collect(),
        FileMerges::Lines(lines) => lines
            .iter()
            .filter(|line| !line.starts_with("#version"))
            .map(|line| line.split_once(' ').and_then(|(left, right)| pair(left, right)))
            .collect(),
    };
    let letters = letters();
    let bytes =
        |token: &str| -> Option<Box<[u8]>> { token.chars().map(|c| letters.get(&c).copied()).collect() };
    let vocab: HashMap<Box<[u8]>, u32> = vocab
        .iter()
        .filter_map(|(token, &id)| Some((bytes(token)?, id)))
        .collect();
    Merges::new(&vocab, &pairs?, model.ignore_merges)
}

/// The byte that each letter of a byte-level vocabulary stands for: printable ones stand for themselves, the others have
/// the letters from U+0100 on, in order.
fn letters() -> HashMap<char, u8> {
    let alphabet = ByteLevel::alphabet();
    let mut next = 0x100;
    (0..=u8::MAX)
        .filter_map(|byte| {
            let itself = char::from(byte);
            let letter = match alphabet.contains(&itself) {
                true => itself,
                false => {
                    next += 1;
                    char::from_u32(next - 1)?
                }
            };
            Some((letter, byte))
        })
        .collect()
}
