//! Checkpoints: a snapshot of the run in host memory, committed to a folder at once or not at all.
//!
//! ```text
//! <output>/checkpoints/
//!     .lock                       held by the process that trains here
//!     step-00001000/
//!         tensors-00001.safetensors ...
//!         manifest.json           written last; a folder without it is no checkpoint
//! ```
//!
//! Of a run of several ranks each writes files of its own (`tensors-RANK-00001.safetensors ...`), and the first one the manifest,
//! when all files are there. Tensors are whole in any case, so any number of ranks reads them.
//!
//! A checkpoint is written into `.partial-step-N`, every file synced, the manifest last, and the folder then renamed.
//! Killed at any instant, the last commit is there and loads. What dead writers leave behind is removed by the next
//! [`CheckpointStore::open`].

mod disk;
mod error;
mod manifest;
mod options;
mod start;
mod state;
mod store;
mod tensors;
mod writer;

#[cfg(test)]
mod crash_tests;

pub use error::{CheckpointError, Result};
pub use manifest::{CheckpointInfo, FileEntry, Metric, complete_steps, newest};
pub use options::{Better, KeepOptions, Ranking, Resume};
pub use start::{Start, decide_start, find_checkpoint};
pub use state::{Best, RunState, Snapshot, TensorSpec, check_model, fingerprint};
pub use store::{CheckpointStore, list_tensors, load, load_file, load_tensors};
pub use writer::{AsyncWriter, PartWriter};
