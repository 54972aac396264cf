//! What ranks tell each other of a step: their share of it before the backward pass, their loss after it.

use crate::{
    data::Batch,
    parallel::{CollectiveError, Group},
};

/// One rank's micro-batches of a step.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Share {
    pub(super) labelled_tokens: u64,
    pub(super) loss_weight: f64,
    /// Floating-point operations.
    pub(super) flops: f64,
    pub(super) tokens: u64,
    /// Samples of each micro-batch.
    pub(super) samples: Vec<u64>,
    /// Micro-batches with something to learn from.
    pub(super) rounds: u64,
    /// Whether any of these has images.
    pub(super) has_images: bool,
    /// Images whose features were at hand; see [`super::vision_cache`].
    pub(super) images_found: u64,
    /// Images whose features have to be computed first.
    pub(super) images_missing: u64,
}

impl Share {
    /// `images` are those found and those missing, where there is a cache.
    pub(super) fn of(batches: &[Batch], flops: f64, images: [u64; 2]) -> Self {
        let labelled = || batches.iter().filter(|batch| batch.num_labelled > 0);
        Self {
            labelled_tokens: batches.iter().map(|batch| batch.num_labelled as u64).sum(),
            loss_weight: batches.iter().map(Batch::loss_weight).sum(),
            flops,
            tokens: batches.iter().map(|batch| batch.num_tokens as u64).sum(),
            samples: batches.iter().map(|batch| batch.samples.len() as u64).collect(),
            rounds: labelled().count() as u64,
            has_images: labelled().any(|batch| batch.images.is_some()),
            images_found: images[0],
            images_missing: images[1],
        }
    }

    /// Whole numbers up to 2^53 are f64, exactly.
    fn encode(&self) -> Vec<f64> {
        let numbers = [
            self.labelled_tokens as f64,
            self.loss_weight,
            self.flops,
            self.tokens as f64,
            self.rounds as f64,
            f64::from(u8::from(self.has_images)),
            self.images_found as f64,
            self.images_missing as f64,
        ];
        let samples = self.samples.iter().map(|&samples| samples as f64);
        numbers.into_iter().chain(samples).collect()
    }

    fn decode(numbers: &[f64]) -> Option<Self> {
        let &[
            labelled_tokens,
            loss_weight,
            flops,
            tokens,
            rounds,
            has_images,
            images_found,
            images_missing,
            ref samples @ ..,
        ] = numbers
        else {
            return None;
        };
        Some(Self {
            labelled_tokens: labelled_tokens as u64,
            loss_weight,
            flops,
            tokens: tokens as u64,
            samples: samples.iter().map(|&samples| samples as u64).collect(),
            rounds: rounds as u64,
            has_images: has_images != 0.0,
            images_found: images_found as u64,
            images_missing: images_missing as u64,
        })
    }
}

/// The shares of all ranks.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Shares(Vec<Share>);

impl Shares {
    /// Tells the others this rank's share.
    ///
    /// # Errors
    /// If a rank is missing or has failed.
    pub(super) fn exchange(group: &Group, own: &Share) -> Result<Self, CollectiveError> {
        let shares = group.exchange_numbers(&own.encode())?;
        let shares: Option<Vec<Share>> = shares.iter().map(|share| Share::decode(share)).collect();
        shares.map(Self).ok_or_else(|| CollectiveError::Engine {
            rank: group.world().rank,
            reason: "a share of a step that is no share".to_owned(),
        })
    }

    pub(super) fn labelled_tokens(&self) -> u64 {
        self.0.iter().map(|share| share.labelled_tokens).sum()
    }

    /// By what the summed loss is divided.
    pub(super) fn loss_weight(&self) -> f64 {
        self.0.iter().map(|share| share.loss_weight).sum()
    }

    pub(super) fn flops(&self) -> f64 {
        self.0.iter().map(|share| share.flops).sum()
    }

    pub(super) fn tokens(&self) -> u64 {
        self.0.iter().map(|share| share.tokens).sum()
    }

    pub(super) fn samples(&self) -> u64 {
        self.0.iter().flat_map(|share| &share.samples).sum()
    }

    /// Rounds of the step: those of the rank with the most.
    pub(super) fn rounds(&self) -> u64 {
        self.0.iter().map(|share| share.rounds).max().unwrap_or(0)
    }

    /// Whether a rank has images.
    pub(super) fn have_images(&self) -> bool {
        self.0.iter().any(|share| share.has_images)
    }

    /// Images whose features were at hand.
    pub(super) fn images_found(&self) -> u64 {
        self.0.iter().map(|share| share.images_found).sum()
    }

    /// Images whose features have to be computed first.
    pub(super) fn images_missing(&self) -> u64 {
        self.0.iter().map(|share| share.images_missing).sum()
    }

    /// Samples of the step before a micro-batch of a rank, in the order in which one rank alone would see them: the
    /// micro-batches of all ranks before the next ones of any.
    pub(super) fn samples_before(&self, rank: usize, micro: usize) -> u64 {
        let of = |share: &Share, micro: usize| share.samples.get(micro).copied().unwrap_or(0);
        let earlier = (0..micro).map(|micro| self.0.iter().map(|share| of(share, micro)).sum::<u64>());
        let beside = self.0[..rank].iter().map(|share| of(share, micro));
        earlier.sum::<u64>() + beside.sum::<u64>()
    }
}

/// Loss and gradient of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Norms {
    /// Summed loss over all ranks.
    pub(super) loss: f64,
    /// Norm of the gradient of that sum.
    pub(super) grad_norm: f64,
    /// The first rank whose own loss is not finite.
    pub(super) suspect: Option<usize>,
}

impl Norms {
    /// Adds up losses, and the squares of the first `num_parts` ranks, which together have every part of the gradients.
    ///
    /// # Errors
    /// If a rank is missing or has failed.
    pub(super) fn exchange(
        group: &Group,
        loss: f64,
        squares: f64,
        num_parts: usize,
    ) -> Result<Self, CollectiveError> {
        let all = group.exchange_numbers(&[loss, squares])?;
        let column = |index: usize| all.iter().filter_map(move |numbers| numbers.get(index).copied());
        Ok(Self {
            loss: column(0).sum(),
            grad_norm: column(1).take(num_parts).sum::<f64>().sqrt(),
            suspect: column(0).position(|loss: f64| !loss.is_finite()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_counted_as_one_rank_would_see_them() {
        let share = |samples: &[u64]| Share {
            labelled_tokens: 3,
            loss_weight: 2.5,
            flops: 1e12,
            tokens: 7,
            samples: samples.to_vec(),
            rounds: samples.len() as u64,
            has_images: true,
            images_found: 5,
            images_missing: 2,
        };
        let shares = Shares(vec![share(&[4, 4]), share(&[4, 3]), share(&[4])]);
        let before = |rank, micro| shares.samples_before(rank, micro);
        assert_eq!([before(0, 0), before(1, 0), before(2, 0)], [0, 4, 8]);
        assert_eq!([before(0, 1), before(1, 1), before(2, 1)], [12, 16, 19]);
        assert_eq!(
            (shares.samples(), shares.rounds(), shares.loss_weight()),
            (19, 2, 7.5)
        );
        assert_eq!(Share::decode(&share(&[4, 3]).encode()), Some(share(&[4, 3])));
    }
}
