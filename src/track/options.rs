//! What tracking needs to be told: plain structs, filled by the configuration.

use std::path::PathBuf;

/// Where progress is shown while training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ConsoleKind {
    /// `Bar` if standard output is a terminal that can move its cursor, else `Json`.
    #[default]
    Auto,
    /// A progress bar; evaluations and messages appear above it. Where none can be drawn, the same as `Json`.
    Bar,
    /// The lines of metrics.jsonl on standard output, messages on standard error.
    Json,
    /// Nothing at all: ranks other than the first, and tests.
    None,
}

/// Where one run leaves its trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackOptions {
    /// The run directory: holds `metrics.jsonl`, `tensorboard/`, `samples.json` and `report.html`.
    pub dir: PathBuf,
    /// What is shown while training.
    pub console: ConsoleKind,
    /// Whether TensorBoard event files are written as well.
    pub tensorboard: bool,
}
