//! What goes wrong between ranks.

use thiserror::Error;

/// Why ranks could not do something together. No rank gets a wrong result: each of them gets an error.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CollectiveError {
    /// Not all ranks came.
    #[error(
        "rank {rank} of {size} waited {seconds} s in {operation}{missing}\n  \
         hint: look at the last lines of the other ranks; a rank that is slow, as in its first step, needs a longer \
         parallel.timeout_seconds"
    )]
    TimedOut {
        /// Who waited.
        rank: usize,
        /// Ranks in all.
        size: usize,
        /// For what.
        operation: &'static str,
        /// How long.
        seconds: u64,
        /// `" for rank 3"`, as far as it is known who did not come.
        missing: String,
    },
    /// Another rank has failed.
    #[error("rank {rank} failed: {message}")]
    Peer {
        /// Which one.
        rank: usize,
        /// What it said.
        message: String,
    },
    /// Ranks are not at the same place of the program.
    #[error(
        "rank {rank} is in {found}, others are in {expected}\n  \
         hint: all ranks need the same program, configuration and data"
    )]
    Disagree {
        /// Who came last.
        rank: usize,
        /// What it does.
        found: String,
        /// What those do that came before.
        expected: String,
    },
    /// Ranks were started with different settings.
    #[error(
        "{what} differs between ranks: rank 0 has {first}, rank {rank} has {other}\n  \
         hint: start all ranks with the same command line, files and version"
    )]
    Settings {
        /// What was compared.
        what: String,
        /// Of rank 0.
        first: String,
        /// The first rank with another one.
        rank: usize,
        /// Its value.
        other: String,
    },
    /// Processes did not find each other.
    #[error("the ranks did not meet: {reason}")]
    Meeting {
        /// Why, and what to do about it.
        reason: String,
    },
    /// The engine itself.
    #[error("rank {rank}: {reason}")]
    Engine {
        /// Where.
        rank: usize,
        /// What it says.
        reason: String,
    },
}

impl CollectiveError {
    /// Whether it only tells of another rank's failure.
    pub fn is_echo(&self) -> bool {
        matches!(self, Self::Peer { .. })
    }
}
