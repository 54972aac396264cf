//! From a text to its words: what the pre-tokenizer of a byte-level tokenizer does.

use std::ops::Range;

use fancy_regex::Regex;
use tokenizers::{
    PreTokenizerWrapper, SplitDelimiterBehavior,
    pre_tokenizers::{
        byte_level::ByteLevel,
        split::{Split, SplitPattern},
    },
};

use super::{
    Declined,
    classes::Classes,
    shapes::{Shape, TooManySpaces},
};

/// One way of cutting; the pieces of one are cut by the next.
enum Step {
    /// An expression for which there is a scanner.
    Shape(Shape),
    /// An expression: its matches, and what is between them. `tokenizers` uses the same engine.
    Regex(Box<Regex>),
    /// Numbers, digit by digit or as a whole.
    Digits { individual: bool },
}

/// Cuts a text into words.
pub(super) struct Splitter {
    steps: Vec<Step>,
}

impl Splitter {
    /// The splitter of a pre-tokenizer; `None` for what is not done here.
    pub(super) fn new(pre_tokenizer: &PreTokenizerWrapper) -> Option<Self> {
        let parts = match pre_tokenizer {
            PreTokenizerWrapper::Sequence(parts) => parts.as_ref(),
            single => std::slice::from_ref(single),
        };
        let (last, first) = parts.split_last()?;
        let PreTokenizerWrapper::ByteLevel(ByteLevel {
            add_prefix_space: false,
            use_regex,
            ..
        }) = last
        else {
            return None;
        };
        let mut steps = first.iter().map(step).collect::<Option<Vec<_>>>()?;
        if *use_regex {
            steps.push(Step::Shape(Shape::BYTE_LEVEL));
        }
        Some(Self { steps })
    }

    /// Calls `word` with the bytes of each word, in order.
    pub(super) fn words(
        &self,
        classes: &Classes,
        text: &str,
        word: &mut impl FnMut(Range<usize>),
    ) -> Result<(), Declined> {
        cut(&self.steps, classes, text, 0..text.len(), word)
    }
}

fn step(part: &PreTokenizerWrapper) -> Option<Step> {
    match part {
        PreTokenizerWrapper::Digits(digits) => Some(Step::Digits {
            individual: digits.individual_digits,
        }),
        PreTokenizerWrapper::Split(Split {
            pattern: SplitPattern::Regex(pattern),
            behavior,
            invert,
            ..
        }) => match (Shape::of(pattern), behavior, invert) {
            // Nothing is between the matches of a shape: dropping that changes nothing.
            (Some(shape), SplitDelimiterBehavior::Isolated, _)
            | (Some(shape), SplitDelimiterBehavior::Removed, true) => Some(Step::Shape(shape)),
            (None, SplitDelimiterBehavior::Isolated, _) => {
                Some(Step::Regex(Box::new(Regex::new(pattern).ok()?)))
            }
            _ => None,
        },
        _ => None,
    }
}

fn cut(
    steps: &[Step],
    classes: &Classes,
    text: &str,
    piece: Range<usize>,
    word: &mut impl FnMut(Range<usize>),
) -> Result<(), Declined> {
    let Some((step, rest)) = steps.split_first() else {
        if !piece.is_empty() {
            word(piece);
        }
        return Ok(());
    };
    // What is before and after a piece is nothing to an expression.
    let inside = &text[piece.clone()];
    let mut next = |from: usize, to: usize| {
        let piece = piece.start + from..piece.start + to;
        cut(rest, classes, text, piece, word)
    };
    let mut at = 0;
    match step {
        Step::Shape(shape) => {
            while at < inside.len() {
                let end = shape.end(classes, inside, at).map_err(|TooManySpaces| Declined)?;
                next(at, end)?;
                at = end;
            }
        }
        Step::Regex(regex) => {
            for found in regex.find_iter(inside) {
                let found = found.map_err(|_| Declined)?;
                next(at, found.start())?;
                next(found.start(), found.end())?;
                at = found.end();
            }
            next(at, inside.len())?;
        }
        Step::Digits { individual } => {
            let mut was_number = None;
            for (place, c) in inside.char_indices() {
                let is_number = c.is_numeric();
                if was_number.is_some_and(|was| was != is_number || (is_number && *individual)) {
                    next(at, place)?;
                    at = place;
                }
                was_number = Some(is_number);
            }
            next(at, inside.len())?;
        }
    }
    Ok(())
}
