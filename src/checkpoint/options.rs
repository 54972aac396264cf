//! What the user may ask of checkpoints, as plain structs.

use std::path::PathBuf;

/// Which checkpoints survive. A checkpoint stays if any rule keeps it; the newest always stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeepOptions {
    /// The newest so many.
    pub last: usize,
    /// The best so many by the run's metric.
    pub best: usize,
    /// Steps that are multiples of this.
    pub every: Option<u64>,
}

/// Which way a metric improves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// Smaller is better, as for a loss.
    Lower,
    /// Larger is better, as for an accuracy.
    Higher,
}

/// By which metric checkpoints are compared. Those that carry another metric, or none, are never best.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranking {
    /// Name as in metrics.jsonl: `eval_loss`, ….
    pub metric: String,
    /// Which way it improves.
    pub better: Better,
}

/// Where a run may go on from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resume {
    /// This run's newest checkpoint if there is one.
    Auto,
    /// Nowhere: the run is new, and a run folder that already holds checkpoints is refused.
    None,
    /// A checkpoint, or the newest one of a run folder, unless this run already has checkpoints of its own.
    Path(PathBuf),
}
