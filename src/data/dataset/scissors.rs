//! Rows cut at a random length, as `unif_rand_trunc` of fms-ehrs has it: a model that is to judge a patient's stay while it
//! lasts must not only see whole ones.

use std::ops::Range;

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};

use super::{Row, encoder::Encoder};

/// Sets the lengths apart from what else is drawn from the seed.
const SEED: u64 = 0x51c2_84a7_0f3d_96eb;
/// 32-bit words of a block of ChaCha: each row has a block of its own.
const WORDS: u128 = 16;

/// Where rows are cut.
pub(super) struct Scissors {
    pub(super) seed: u64,
}

impl Scissors {
    /// A length of the range, or its end if it is empty.
    pub(super) fn length(&self, epoch: u64, row: usize, lengths: Range<usize>) -> usize {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed ^ SEED);
        random.set_stream(epoch);
        random.set_word_pos(row as u128 * WORDS);
        // Lemire's multiplication, <https://arxiv.org/abs/1805.10941>, without the rejection: ranges are short.
        let drawn = (u128::from(random.next_u64()) * lengths.len() as u128) >> 64;
        match lengths.is_empty() {
            true => lengths.end,
            false => lengths.start + drawn as usize,
        }
    }
}

impl Encoder {
    /// Tokens that are left of a row at least: all of its images, and a label that counts.
    pub(super) fn shortest(&self, row: &Row) -> usize {
        let is_image = |&token: &u32| Some(token) == self.image_id;
        let images = row.tokens.iter().rposition(is_image).map_or(0, |last| last + 1);
        let label = match row.class {
            Some(_) => 1,
            // The first position has no predecessor to predict it.
            None => row
                .trained
                .iter()
                .map(|range| range.start.max(1)..range.end)
                .find(|range| !range.is_empty())
                .map_or(row.tokens.len(), |range| range.start + 1),
        };
        self.length(&row.tokens[..images.max(label)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// S4.B1: rows without padding are cut like others, and one of a single token stays.
    #[test]
    fn lengths_are_drawn_uniformly_below_the_rows_own() {
        let scissors = Scissors { seed: 3 };
        let mut counts = [0; 10];
        for row in 0..10_000 {
            counts[scissors.length(2, row, 1..10)] += 1;
        }
        assert_eq!(counts[0], 0);
        assert!(
            counts[1..].iter().all(|&count| (1000..1230).contains(&count)),
            "{counts:?}"
        );
        assert_eq!(scissors.length(0, 0, 1..1), 1);
    }

    #[test]
    fn lengths_are_a_function_of_seed_epoch_and_row() {
        let draw = |seed, epoch| {
            let scissors = Scissors { seed };
            (0..50)
                .map(|row| scissors.length(epoch, row, 1..1000))
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(1, 0), draw(1, 0));
        assert_ne!(draw(1, 0), draw(1, 1));
        assert_ne!(draw(1, 0), draw(2, 0));
    }
}
