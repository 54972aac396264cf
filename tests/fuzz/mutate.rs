//! New cases from old ones.

use std::ops::Range;

use rand_chacha::{ChaCha8Rng, rand_core::RngCore};

use crate::harness::{MAX_CASE, Target};

/// Numbers at which readers go wrong.
const NUMBERS: [u64; 16] = [
    0,
    1,
    7,
    255,
    256,
    65_535,
    65_536,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 32,
    1 << 40,
    1 << 52,
    0x7fff_ffff_ffff_ffff,
    1 << 63,
    u64::MAX,
];
/// The same as text, and others that only text can say.
const WRITTEN: [&str; 18] = [
    "0",
    "-1",
    "1",
    "255",
    "65536",
    "2147483647",
    "2147483648",
    "4294967296",
    "1099511627776",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "1e308",
    "1e-320",
    "NaN",
    "-0",
    "0.5",
];
const BYTES: [u8; 12] = [
    0, 0xff, 0x7f, 0x80, b'"', b'\n', b'{', b'}', b'[', b',', b'\\', b' ',
];

/// A case made of one or two of the corpus.
pub(crate) fn mutated(corpus: &[Vec<u8>], target: &Target, random: &mut ChaCha8Rng) -> Vec<u8> {
    let mut draw = Draw { random };
    let (head, body) = draw.one_of(corpus).split_at(target.head);
    let mut body = body.to_vec();
    let others: Vec<&[u8]> = corpus
        .iter()
        .filter_map(|other| other.strip_prefix(head))
        .collect();
    for _ in 0..=draw.below(4) {
        match target.words.is_empty() || draw.below(4) == 0 {
            true => draw.change_bytes(&mut body, &others),
            false => draw.change_text(&mut body, &others, target.words),
        }
        body.truncate(MAX_CASE);
    }
    let mut case = [head, &body].concat();
    if let Some(repair) = target.repair.filter(|_| draw.below(2) == 0) {
        repair(&mut case);
    }
    case
}

struct Draw<'a> {
    random: &'a mut ChaCha8Rng,
}

impl Draw<'_> {
    /// Below `limit`; 0 if that is 0.
    fn below(&mut self, limit: usize) -> usize {
        (self.random.next_u64() % limit.max(1) as u64) as usize
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    /// A part of something of that length, short more often than long.
    fn range(&mut self, length: usize) -> Range<usize> {
        let start = self.below(length + 1);
        let most = [4, 16, 64, length][self.below(4)];
        start..length.min(start + 1 + self.below(most))
    }

    fn change_bytes(&mut self, body: &mut Vec<u8>, others: &[&[u8]]) {
        let at = self.below(body.len() + 1);
        let range = self.range(body.len());
        match self.below(10) {
            0 | 1 => {
                if let Some(byte) = body.get_mut(at) {
                    *byte ^= 1 << self.below(8);
                }
            }
            2 => {
                if let Some(byte) = body.get_mut(at) {
                    *byte = *self.one_of(&BYTES);
                }
            }
            3 | 4 => self.write_number(body, at),
            5 => body.truncate(at),
            6 => drop(body.drain(range)),
            7 => {
                // Longer by far, where something grows with what it reads.
                let part = body[range].to_vec();
                let times = [1, 1, 3, 1000][self.below(4)].min(MAX_CASE / part.len().max(1));
                body.splice(at..at, part.repeat(times));
            }
            8 => {
                let noise: Vec<u8> = (0..1 + self.below(8)).map(|_| self.below(256) as u8).collect();
                body.splice(at..at, noise);
            }
            _ => self.splice(body, others),
        }
    }

    /// A number in one of its widths and both orders of bytes: lengths are where a reader trusts too much.
    fn write_number(&mut self, body: &mut [u8], at: usize) {
        let width = [1, 2, 4, 8][self.below(4)];
        let near = body.len() as u64;
        let number = match self.below(4) {
            0 => near.wrapping_sub(8).wrapping_add(self.below(16) as u64),
            _ => *self.one_of(&NUMBERS),
        };
        let mut bytes = number.to_le_bytes()[..width].to_vec();
        if self.below(3) == 0 {
            bytes.reverse();
        }
        let end = (at + width).min(body.len());
        body[at..end].copy_from_slice(&bytes[..end - at]);
    }

    /// A part of another one in the place of a part of this one.
    fn splice(&mut self, body: &mut Vec<u8>, others: &[&[u8]]) {
        let other = *self.one_of(others);
        let (from, to) = (self.range(other.len()), self.range(body.len()));
        body.splice(to, other[from].to_vec());
    }

    fn change_text(&mut self, body: &mut Vec<u8>, others: &[&[u8]], words: &[&str]) {
        let at = self.below(body.len() + 1);
        match self.below(9) {
            0 => drop(body.splice(at..at, self.one_of(words).bytes())),
            1 | 2 => {
                let word = *self.one_of(words);
                self.replace_token(body, word.as_bytes());
            }
            3 => {
                let number = *self.one_of(&WRITTEN);
                let range = self.number(body);
                body.splice(range, number.bytes());
            }
            4 | 5 => {
                let other = *self.one_of(others);
                let token = other[self.token(other)].to_vec();
                self.replace_token(body, &token);
            }
            6 => self.move_lines(body),
            7 => {
                // Depth, where something calls itself.
                let depth = [2, 50, 5000, 60_000][self.below(4)];
                let open = [&b"["[..], b"{", b"(", b"{\"a\":", b"- ", b"{% if a %}", b"\n "][self.below(7)];
                body.splice(at..at, open.repeat(depth.min(MAX_CASE / 2 / open.len())));
            }
            _ => self.splice(body, others),
        }
    }

    /// A word, a number or a single sign.
    fn token(&mut self, text: &[u8]) -> Range<usize> {
        let is_word = |&byte: &u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte) || byte >= 0x80;
        let at = self.below(text.len());
        if !text.get(at).is_some_and(is_word) {
            return at..text.len().min(at + 1);
        }
        let start = text[..at]
            .iter()
            .rposition(|byte| !is_word(byte))
            .map_or(0, |before| before + 1);
        let length = text[at..].iter().position(|byte| !is_word(byte));
        start..length.map_or(text.len(), |length| at + length)
    }

    /// A number of the text, if it has some.
    fn number(&mut self, text: &[u8]) -> Range<usize> {
        let is_digit = |at: usize| text.get(at).is_some_and(u8::is_ascii_digit);
        let starts: Vec<usize> = (0..text.len())
            .filter(|&at| is_digit(at) && (at == 0 || !is_digit(at - 1)))
            .collect();
        if starts.is_empty() {
            return self.token(text);
        }
        let start = *self.one_of(&starts);
        start..(start..=text.len()).find(|&at| !is_digit(at)).unwrap_or(start)
    }

    fn replace_token(&mut self, body: &mut Vec<u8>, by: &[u8]) {
        let range = self.token(body);
        body.splice(range, by.iter().copied());
    }

    /// Doubles, drops or swaps lines.
    fn move_lines(&mut self, body: &mut Vec<u8>) {
        let mut lines: Vec<&[u8]> = body.split_inclusive(|&byte| byte == b'\n').collect();
        if lines.is_empty() {
            return;
        }
        let (one, other) = (self.below(lines.len()), self.below(lines.len()));
        match self.below(3) {
            0 => lines.swap(one, other),
            1 => lines.insert(other, lines[one]),
            _ => drop(lines.remove(one)),
        }
        *body = lines.concat();
    }
}
