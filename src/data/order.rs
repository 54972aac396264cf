//! Which sample comes when: pure functions of seed, epoch and position, so that seeking costs nothing and nothing
//! about the order has to be saved.

use std::ops::Range;

use super::{error::DataError, mixture::Mixture, options::BatchPlan};

/// The endless stream of samples over a dataset: epoch after epoch, each a permutation of all rows, or of the places
/// that a mixture gives them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Seed of the permutations.
    pub seed: u64,
    /// Samples of an epoch; at least 1. Without a mixture, the rows of the dataset.
    pub len: usize,
    /// `false` visits the rows in file order.
    pub shuffle: bool,
    /// How often each row comes in an epoch; once without. `len` is its length.
    pub mixture: Option<Mixture>,
}

impl Order {
    /// Epoch (from 0) and row at a position of the stream. Constant time and memory.
    pub fn position_to_sample(&self, position: u64) -> (u64, usize) {
        let len = self.len.max(1) as u64;
        let epoch = position / len;
        (epoch, self.sample(epoch, (position % len) as usize))
    }

    /// Row at a place of an epoch; `place < len`.
    pub(super) fn sample(&self, epoch: u64, place: usize) -> usize {
        let place = match self.shuffle {
            true => permute(self.seed, epoch, self.len.max(1) as u64, place as u64) as usize,
            false => place,
        };
        match &self.mixture {
            None => place,
            Some(mixture) => mixture.row(self.seed, epoch, place, self.shuffle),
        }
    }
}

/// A permutation of `0..len`: a Feistel network on the smallest even number of bits that holds `len` values, applied
/// again while it leads outside (cycle walking, fewer than four times on average).
pub(super) fn permute(seed: u64, epoch: u64, len: u64, index: u64) -> u64 {
    const ROUNDS: u64 = 6;
    let num_bits = u64::BITS - (len - 1).leading_zeros();
    let half_bits = num_bits.div_ceil(2).max(1);
    let mask = (1 << half_bits) - 1;
    let key = mix(mix(seed) ^ epoch);
    let mut value = index;
    loop {
        let (mut left, mut right) = (value >> half_bits, value & mask);
        for round in 0..ROUNDS {
            (left, right) = (right, left ^ (mix(key ^ mix(round << 32 | right)) & mask));
        }
        value = left << half_bits | right;
        if value < len {
            return value;
        }
    }
}

/// The finaliser of SplitMix64 (<https://prng.di.unimi.it/splitmix64.c>).
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

impl BatchPlan {
    /// Checks that the plan delivers something to every rank.
    ///
    /// # Errors
    /// [`DataError::Plan`] for a zero or a rank outside the world.
    pub fn validate(&self) -> Result<(), DataError> {
        for (key, value) in [
            ("micro_batch_size", self.micro_batch_size),
            ("accumulation", self.accumulation),
            ("world_size", self.world_size),
        ] {
            if value == 0 {
                return Err(DataError::Plan {
                    key,
                    value,
                    reason: "must be at least 1".into(),
                });
            }
        }
        if self.rank >= self.world_size {
            let reason = format!("must be below world_size = {}", self.world_size);
            return Err(DataError::Plan {
                key: "rank",
                value: self.rank,
                reason,
            });
        }
        Ok(())
    }

    /// Rows of one optimizer step over all ranks.
    pub fn rows_per_step(&self) -> u64 {
        (self.micro_batch_size * self.accumulation * self.world_size) as u64
    }

    /// Optimizer steps of the whole stream; `None` never ends. The last step may be short.
    pub fn total_steps(&self) -> Option<u64> {
        self.total_rows.map(|total| total.div_ceil(self.rows_per_step()))
    }

    /// Rows that all ranks together have seen before a step.
    pub fn rows_before(&self, step: u64) -> u64 {
        step.saturating_mul(self.rows_per_step())
            .min(self.total_rows.unwrap_or(u64::MAX))
    }

    /// Positions of the stream that make micro-batch `micro` of `step` on this rank; empty past the end.
    ///
    /// A step takes consecutive positions. Ranks alternate by micro-batch, so the rows of a step do not depend on
    /// how many ranks share them.
    pub fn positions(&self, step: u64, micro: usize) -> Range<u64> {
        let total = self.total_rows.unwrap_or(u64::MAX);
        let size = self.micro_batch_size as u64;
        let start = step
            .saturating_mul(self.rows_per_step())
            .saturating_add((micro * self.world_size + self.rank) as u64 * size);
        start.min(total)..start.saturating_add(size).min(total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(seed: u64, len: usize, epoch: u64) -> Vec<usize> {
        let order = Order {
            seed,
            len,
            shuffle: true,
            mixture: None,
        };
        let start = epoch * len as u64;
        (start..start + len as u64)
            .map(|position| {
                let (found, index) = order.position_to_sample(position);
                assert_eq!(found, epoch);
                index
            })
            .collect()
    }

    #[test]
    fn every_epoch_is_a_permutation() {
        for len in [1, 2, 3, 4, 5, 7, 8, 9, 63, 64, 65, 1000, 4097] {
            for number in [0, 1, 17] {
                let mut indices = epoch(3, len, number);
                indices.sort_unstable();
                assert_eq!(indices, (0..len).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn epochs_and_seeds_differ() {
        assert_ne!(epoch(0, 100, 0), epoch(0, 100, 1));
        assert_ne!(epoch(0, 100, 0), epoch(1, 100, 0));
        // Neighbouring seeds and epochs are not the same stream shifted.
        assert_ne!(epoch(0, 100, 1), epoch(1, 100, 0));
    }

    /// A resumed run must find the order it left: these values may never change.
    #[test]
    fn the_order_is_frozen() {
        assert_eq!(epoch(42, 10, 0), [8, 9, 3, 0, 5, 7, 4, 6, 1, 2]);
    }

    #[test]
    fn rows_reach_all_places_evenly() {
        let mut counts = vec![[0_u32; 10]; 10];
        for number in 0..2000 {
            for (place, index) in epoch(5, 10, number).into_iter().enumerate() {
                counts[index][place] += 1;
            }
        }
        // 200 expected, standard deviation 13.4.
        assert!(
            counts.iter().flatten().all(|count| (140..260).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn without_shuffle_rows_come_in_file_order() {
        let order = Order {
            seed: 9,
            len: 3,
            shuffle: false,
            mixture: None,
        };
        let found: Vec<_> = (2..5)
            .map(|position| order.position_to_sample(position))
            .collect();
        assert_eq!(found, [(0, 2), (1, 0), (1, 1)]);
    }

    #[test]
    fn every_epoch_of_a_mixture_has_its_places() {
        let mixture = Mixture::new(&[(10, 1.0), (10, 0.5), (3, 2.0)]);
        let order = Order {
            seed: 3,
            len: mixture.len(),
            shuffle: true,
            mixture: Some(mixture),
        };
        let mut counts = [0; 23];
        for position in 0..2 * order.len as u64 {
            counts[order.position_to_sample(position).1] += 1;
        }
        assert_eq!(counts[..10], [2; 10]);
        assert_eq!(counts[10..20], [1; 10]);
        assert_eq!(counts[20..], [4; 3]);
    }

    #[test]
    fn a_step_is_cut_into_micro_batches_and_ranks() {
        let plan = |rank| BatchPlan {
            micro_batch_size: 2,
            accumulation: 2,
            rank,
            world_size: 2,
            total_rows: Some(13),
        };
        assert_eq!((plan(0).rows_per_step(), plan(0).total_steps()), (8, Some(2)));
        assert_eq!([plan(0).positions(0, 0), plan(1).positions(0, 0)], [0..2, 2..4]);
        assert_eq!([plan(0).positions(0, 1), plan(1).positions(0, 1)], [4..6, 6..8]);
        assert_eq!(
            [plan(0).positions(1, 1), plan(1).positions(1, 1)],
            [12..13, 13..13]
        );
        assert_eq!(plan(1).positions(u64::MAX, 0), 13..13);
        assert_eq!([0, 1, 2].map(|step| plan(0).rows_before(step)), [0, 8, 13]);
    }

    #[test]
    fn a_plan_that_cuts_nothing_is_refused() {
        let plan = BatchPlan {
            micro_batch_size: 1,
            accumulation: 1,
            rank: 0,
            world_size: 1,
            total_rows: None,
        };
        assert!(plan.validate().is_ok());
        assert_eq!(plan.total_steps(), None);
        for (plan, expected) in [
            (
                BatchPlan {
                    micro_batch_size: 0,
                    ..plan
                },
                "micro_batch_size = 0: must be at least 1",
            ),
            (
                BatchPlan {
                    accumulation: 0,
                    ..plan
                },
                "accumulation = 0: must be at least 1",
            ),
            (
                BatchPlan { rank: 1, ..plan },
                "rank = 1: must be below world_size = 1",
            ),
        ] {
            assert_eq!(plan.validate().unwrap_err().to_string(), expected);
        }
    }
}
