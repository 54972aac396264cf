//! What can stop training.

use brazier_models::{InputError, ModelConfigError};
use thiserror::Error;

use super::options::TrainMode;
use crate::{
    checkpoint::CheckpointError, data::DataError, device::DeviceError, parallel::CollectiveError,
    track::TrackError,
};

/// Why a run stopped before its end.
#[derive(Debug, Error)]
pub enum LearnerError {
    /// The mode trains parts that the model does not have.
    #[error(
        "train.mode = {mode:?} leaves nothing to train in this model\n  \
         hint: alignment trains a projector, lm_only a language model; use full to train everything"
    )]
    NothingToTrain {
        /// The mode.
        mode: TrainMode,
    },
    /// A batch that does not fit the model.
    #[error("samples {samples}: {source}")]
    Input {
        /// Where the rows come from.
        samples: String,
        /// What does not fit.
        source: InputError,
    },
    /// A step with nothing to learn from.
    #[error(
        "step {step}: none of its tokens is labelled (samples {samples})\n  \
         hint: see that rows have assistant turns within data.sequence_length"
    )]
    NoLabelledToken {
        /// Finished steps before this one.
        step: u64,
        /// Where the rows come from.
        samples: String,
    },
    /// Loss or gradient overflowed or became NaN.
    #[error(
        "step {step}: loss {loss}, gradient norm {grad_norm}: not finite; nothing was updated (samples {samples})\n  \
         hint: lower train.optimizer.lr or lengthen the warm-up; if it is always these samples, look at them; \
         the last checkpoint is intact"
    )]
    NotFinite {
        /// Finished steps before this one.
        step: u64,
        /// Loss per labelled token.
        loss: f64,
        /// Global norm.
        grad_norm: f64,
        /// Where the rows of the suspicious micro-batches come from.
        samples: String,
    },
    /// The decoder does not divide into so many shards.
    #[error("{0}")]
    Shards(#[from] ModelConfigError),
    /// Ranks could not do something together.
    #[error(transparent)]
    Ranks(#[from] CollectiveError),
    /// There is no device for the optimizer's state.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Reading data failed.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Saving or loading failed.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Writing metrics failed.
    #[error(transparent)]
    Track(#[from] TrackError),
}

impl LearnerError {
    /// Whether every rank has it, and at the same place.
    pub(super) fn is_shared(&self) -> bool {
        matches!(self, Self::NotFinite { .. } | Self::NoLabelledToken { .. })
    }
}
