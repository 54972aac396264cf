//! The regular expressions by which byte-level tokenizers cut a text into words, as scanners.
//!
//! Each matches something wherever a text is not at its end, so a text is cut into its matches and nothing is between
//! them. What a scanner does is what the expression does when its alternatives are tried in order, each greedily.

use super::classes::{Classes, Kinds};

/// GPT-2 (also what `ByteLevel` does by itself).
pub(super) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Llama 3, and others after GPT-4.
pub(super) const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2 and 3.
pub(super) const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// GPT-4o and what follows it.
pub(super) const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Mistral's Tekken, and Apertus.
pub(super) const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The expressions above.
#[cfg(test)]
pub(super) const PATTERNS: [&str; 5] = [GPT2, LLAMA3, QWEN2, O200K, TEKKEN];

/// From this many characters of white space on, the regex engine gives up on `\s+(?!\S)`: its stack has a million places.
const MOST_SPACES: usize = 900_000;

/// How an expression cuts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    letters: Letters,
    /// Most characters of a number; 0: any, with a space before it.
    digits: usize,
    /// What may follow signs.
    after_signs: &'static [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Letters {
    /// Small contractions; letters with a space before them. White space knows no lines.
    Gpt2,
    /// Contractions; letters with almost any sign before them.
    Plain,
    /// Letters where case ends a word, with almost any sign before them and, perhaps, a contraction behind them.
    Cased { contractions: bool },
}

/// There is more white space in a row than the regex engine can take.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooManySpaces;

impl Shape {
    /// What `ByteLevel` does by itself.
    pub(super) const BYTE_LEVEL: Self = Self {
        letters: Letters::Gpt2,
        digits: 0,
        after_signs: b"",
    };

    /// The scanner of an expression, if there is one.
    pub(super) fn of(pattern: &str) -> Option<Self> {
        let shape = |letters, digits, after_signs| Self {
            letters,
            digits,
            after_signs,
        };
        Some(match pattern {
            GPT2 => Self::BYTE_LEVEL,
            LLAMA3 => shape(Letters::Plain, 3, b"\r\n"),
            QWEN2 => shape(Letters::Plain, 1, b"\r\n"),
            O200K => shape(Letters::Cased { contractions: true }, 3, b"\r\n/"),
            TEKKEN => shape(Letters::Cased { contractions: false }, 1, b"\r\n/"),
            _ => return None,
        })
    }

    /// Where the match that begins at a byte ends; the text goes on there.
    ///
    /// # Errors
    /// [`TooManySpaces`].
    #[inline]
    pub(super) fn end(self, classes: &Classes, text: &str, at: usize) -> Result<usize, TooManySpaces> {
        let Some((kinds, next)) = classes.at(text, at) else {
            return Ok(text.len());
        };
        let words = match self.letters {
            Letters::Gpt2 => gpt2_word(classes, text, at, kinds, next),
            Letters::Plain => plain_word(classes, text, at, kinds, next),
            Letters::Cased { contractions } => {
                cased_word(classes, text, at, kinds, next).map(|end| match contractions {
                    true => contraction(text, end, true).unwrap_or(end),
                    false => end,
                })
            }
        };
        if let Some(end) = words {
            return Ok(end);
        }
        if let Some(end) = self.number(classes, text, at, kinds, next) {
            return Ok(end);
        }
        if let Some(end) = self.signs(classes, text, at, kinds, next) {
            return Ok(end);
        }
        spaces(classes, text, at, self.letters != Letters::Gpt2)
    }

    fn number(self, classes: &Classes, text: &str, at: usize, kinds: Kinds, next: usize) -> Option<usize> {
        let is_number = |kinds: Kinds| kinds.meets(Kinds::NUMBER);
        if self.digits == 0 {
            let start = after_space(text, at);
            return classes
                .at(text, start)
                .filter(|(kinds, _)| is_number(*kinds))
                .map(|(_, next)| classes.run(text, next, is_number));
        }
        if !is_number(kinds) {
            return None;
        }
        let mut end = next;
        for _ in 1..self.digits {
            match classes.at(text, end) {
                Some((kinds, next)) if is_number(kinds) => end = next,
                _ => break,
            }
        }
        Some(end)
    }

    /// ` ?[^\s\p{L}\p{N}]+`, and what may follow.
    fn signs(self, classes: &Classes, text: &str, at: usize, kinds: Kinds, next: usize) -> Option<usize> {
        let is_sign = |kinds: Kinds| !kinds.meets(Kinds::SPACE | Kinds::LETTER | Kinds::NUMBER);
        let next = match is_sign(kinds) {
            true => next,
            false => classes
                .at(text, after_space(text, at))
                .filter(|(kinds, _)| is_sign(*kinds))
                .map(|(_, next)| next)?,
        };
        let end = classes.run(text, next, is_sign);
        let after = text.as_bytes()[end..].iter();
        Some(end + after.take_while(|byte| self.after_signs.contains(byte)).count())
    }
}

/// The byte after a space, if there is one.
fn after_space(text: &str, at: usize) -> usize {
    at + usize::from(text.as_bytes().get(at) == Some(&b' '))
}

/// `'s|'t|'re|'ve|'m|'ll|'d`, and of any case.
fn contraction(text: &str, at: usize, any_case: bool) -> Option<usize> {
    let rest = text.as_bytes().get(at..)?.strip_prefix(b"'")?;
    let fold = |byte: Option<&u8>| {
        byte.map(|byte| match any_case {
            true => byte.to_ascii_lowercase(),
            false => *byte,
        })
    };
    match (fold(rest.first()), fold(rest.get(1))) {
        (Some(b's' | b't' | b'm' | b'd'), _) => Some(at + 2),
        (Some(b'r' | b'v'), Some(b'e')) | (Some(b'l'), Some(b'l')) => Some(at + 3),
        // Without case, the long s is an s.
        _ if any_case && rest.starts_with("ſ".as_bytes()) => Some(at + 1 + "ſ".len()),
        _ => None,
    }
}

fn is_letter(kinds: Kinds) -> bool {
    kinds.meets(Kinds::LETTER)
}

fn gpt2_word(classes: &Classes, text: &str, at: usize, kinds: Kinds, next: usize) -> Option<usize> {
    if is_letter(kinds) {
        return Some(classes.run(text, next, is_letter));
    }
    match text.as_bytes()[at] {
        b' ' => {
            let (kinds, next) = classes.at(text, next)?;
            is_letter(kinds).then(|| classes.run(text, next, is_letter))
        }
        b'\'' => contraction(text, at, false),
        _ => None,
    }
}

/// Whether a character may stand before the letters of a word: `[^\r\n\p{L}\p{N}]`.
fn leads(text: &str, at: usize, kinds: Kinds) -> bool {
    !kinds.meets(Kinds::LETTER | Kinds::NUMBER) && !matches!(text.as_bytes()[at], b'\r' | b'\n')
}

fn plain_word(classes: &Classes, text: &str, at: usize, kinds: Kinds, next: usize) -> Option<usize> {
    if is_letter(kinds) {
        return Some(classes.run(text, next, is_letter));
    }
    if let Some(end) = contraction(text, at, true) {
        return Some(end);
    }
    if !leads(text, at, kinds) {
        return None;
    }
    let (kinds, next) = classes.at(text, next)?;
    is_letter(kinds).then(|| classes.run(text, next, is_letter))
}

/// The first two alternatives of [`O200K`] without their contractions: each is tried with a sign before it, then without.
fn cased_word(classes: &Classes, text: &str, at: usize, kinds: Kinds, next: usize) -> Option<usize> {
    let lead = leads(text, at, kinds).then_some(next);
    let lowered = |start: usize| ends_low(classes, text, start);
    let raised = |start: usize| {
        let end = classes.run(text, start, |kinds| kinds.meets(Kinds::UPPER));
        let low_end = classes.run(text, end, |kinds| kinds.meets(Kinds::LOWER));
        (end > start).then_some(low_end)
    };
    lead.and_then(lowered)
        .or_else(|| lowered(at))
        .or_else(|| lead.and_then(raised))
        .or_else(|| raised(at))
}

/// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+`
fn ends_low(classes: &Classes, text: &str, start: usize) -> Option<usize> {
    // Where the last character that is of both kinds ends: the first part gives it back if it must.
    let (mut at, mut both) = (start, None);
    while let Some((kinds, end)) = classes.at(text, at) {
        if !kinds.meets(Kinds::UPPER) {
            break;
        }
        if kinds.meets(Kinds::LOWER) {
            both = Some(end);
        }
        at = end;
    }
    let end = classes.run(text, at, |kinds| kinds.meets(Kinds::LOWER));
    if end > at { Some(end) } else { both }
}

/// `\s*[\r\n]+` where lines count, `\s+(?!\S)` and `\s+`.
fn spaces(classes: &Classes, text: &str, at: usize, lines: bool) -> Result<usize, TooManySpaces> {
    let (mut end, mut last, mut line_end, mut count) = (at, at, None, 0);
    while let Some((kinds, next)) = classes.at(text, end) {
        if !kinds.meets(Kinds::SPACE) {
            break;
        }
        if matches!(text.as_bytes()[end], b'\r' | b'\n') {
            line_end = Some(next);
        }
        (last, end, count) = (end, next, count + 1);
    }
    if count > MOST_SPACES {
        return Err(TooManySpaces);
    }
    Ok(match line_end.filter(|_| lines) {
        Some(line_end) => line_end,
        // The last one belongs to the word that follows, unless it is the only one.
        None if end < text.len() && last > at => last,
        None => end,
    })
}
