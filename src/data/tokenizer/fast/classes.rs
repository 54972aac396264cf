//! Kinds of characters, as the regular expressions of tokenizers mean them.

use std::ops::BitOr;

use regex_syntax::hir::{Class, HirKind};

/// A set of kinds; a character belongs to several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kinds(u8);

impl Kinds {
    /// `\p{L}`
    pub(super) const LETTER: Self = Self(1);
    /// `\p{N}`
    pub(super) const NUMBER: Self = Self(2);
    /// `\s`
    pub(super) const SPACE: Self = Self(4);
    /// `\w`
    pub(super) const WORD: Self = Self(8);
    /// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`
    pub(super) const UPPER: Self = Self(16);
    /// `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`
    pub(super) const LOWER: Self = Self(32);

    const PATTERNS: [(Self, &str); 6] = [
        (Self::LETTER, r"\p{L}"),
        (Self::NUMBER, r"\p{N}"),
        (Self::SPACE, r"\s"),
        (Self::WORD, r"\w"),
        (Self::UPPER, r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"),
        (Self::LOWER, r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"),
    ];

    /// Whether one of these is among the others.
    pub(super) fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl BitOr for Kinds {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The kinds of every character. They come from the regex engine's own tables, so that a scanner and an expression agree
/// on which version of Unicode there is.
pub(super) struct Classes {
    kinds: Box<[Kinds]>,
}

impl Classes {
    /// Asks the engine; `None` if it was built without its tables.
    pub(super) fn new() -> Option<Self> {
        let mut kinds = vec![Kinds(0); char::MAX as usize + 1];
        for (kind, pattern) in Kinds::PATTERNS {
            let class = regex_syntax::parse(pattern).ok()?;
            let HirKind::Class(Class::Unicode(class)) = class.kind() else {
                return None;
            };
            for range in class.ranges() {
                for entry in &mut kinds[range.start() as usize..=range.end() as usize] {
                    *entry = *entry | kind;
                }
            }
        }
        Some(Self { kinds: kinds.into() })
    }

    /// The kinds of a character.
    pub(super) fn of(&self, c: char) -> Kinds {
        self.kinds[c as usize]
    }

    /// The character that begins at a byte, as its kinds and where it ends; `None` at the end of the text.
    #[inline]
    pub(super) fn at(&self, text: &str, at: usize) -> Option<(Kinds, usize)> {
        let byte = *text.as_bytes().get(at)?;
        if byte < 0x80 {
            return Some((self.kinds[usize::from(byte)], at + 1));
        }
        let c = text[at..].chars().next()?;
        Some((self.of(c), at + c.len_utf8()))
    }

    /// Where a run of characters ends, all of which `wanted` holds for.
    #[inline]
    pub(super) fn run(&self, text: &str, mut at: usize, wanted: impl Fn(Kinds) -> bool) -> usize {
        while let Some((kinds, end)) = self.at(text, at) {
            if !wanted(kinds) {
                break;
            }
            at = end;
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_those_of_the_engine() {
        let classes = Classes::new().unwrap();
        for (kind, pattern) in Kinds::PATTERNS {
            let regex = fancy_regex::Regex::new(&format!("^{pattern}$")).unwrap();
            for c in '\0'..=char::MAX {
                let mut buffer = [0; 4];
                let expected = regex.is_match(c.encode_utf8(&mut buffer)).unwrap();
                assert_eq!(classes.of(c).meets(kind), expected, "{c:?} and {pattern}");
            }
        }
        let text = "aé 1";
        assert_eq!(classes.run(text, 0, |kinds| kinds.meets(Kinds::LETTER)), 3);
        assert_eq!(classes.at(text, text.len()), None);
    }
}
