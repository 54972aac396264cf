//! What can go wrong with checkpoints.

use std::{io, path::PathBuf};

use thiserror::Error;

use crate::fs::FsError;

/// Result of an operation on checkpoints.
pub type Result<T> = std::result::Result<T, CheckpointError>;

/// A checkpoint that could not be written, found, read or used.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// The file system said no.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// Saving failed; what was written of it has been removed and earlier checkpoints are untouched.
    #[error("checkpoint of step {step} not written: {source}; {last}\n  hint: {}", write_hint(.source))]
    NotWritten {
        /// Step that was to be saved.
        step: u64,
        /// Why.
        source: Box<CheckpointError>,
        /// Which checkpoint is the last complete one, in words.
        last: String,
    },
    /// A tensor that is not what it claims to be.
    #[error("tensor {name}: {reason}")]
    Tensor {
        /// Its name.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A file that is not what was committed.
    #[error("damaged checkpoint: {}: {reason}\n  hint: {hint}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Expected and found.
        reason: String,
        /// Which checkpoint to use instead.
        hint: String,
    },
    /// Written by a program that knows another format.
    #[error(
        "{}: checkpoint format {found}, this program reads format {known}\n  hint: use the program that wrote it",
        path.display()
    )]
    Format {
        /// The manifest.
        path: PathBuf,
        /// Format and version found.
        found: String,
        /// Format and version known.
        known: String,
    },
    /// No complete checkpoint where one was asked for.
    #[error(
        "no complete checkpoint at {}\n  hint: give a folder step-N with a manifest.json, or a run folder that has one \
         under checkpoints/",
        path.display()
    )]
    NotFound {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The run is to start anew in a folder that has checkpoints.
    #[error(
        "resume = none, but {} already holds a checkpoint of step {step}\n  hint: choose another output folder, or go on \
         with resume = auto",
        dir.display()
    )]
    WouldMix {
        /// Folder of the checkpoints.
        dir: PathBuf,
        /// Newest step there.
        step: u64,
    },
    /// An older checkpoint of this very run was asked for.
    #[error(
        "{} is not this run's newest checkpoint (step {newest}); going on from it would mix two histories in one \
         folder\n  hint: choose another output folder, or remove the later checkpoints",
        path.display()
    )]
    Rewind {
        /// What was asked for.
        path: PathBuf,
        /// Newest step of this run.
        newest: u64,
    },
    /// Someone else trains into the same folder.
    #[error(
        "another process ({owner}) writes checkpoints in {}\n  hint: wait for it, stop it, or choose another output \
         folder",
        dir.display()
    )]
    Busy {
        /// Folder of the checkpoints.
        dir: PathBuf,
        /// What the lock file says of its owner.
        owner: String,
    },
    /// The checkpoint's tensors are not those of the model that should take them.
    #[error(
        "the checkpoint of step {step} is of another model: {differences}\n  hint: resume with the model settings the \
         run was started with, or choose another output folder"
    )]
    OtherModel {
        /// Its step.
        step: u64,
        /// Missing, unexpected and misshapen tensors, the first few of each.
        differences: String,
    },
    /// The order of the data would not be the one the run was started with.
    #[error(
        "the checkpoint of step {step} was made with other data: {differences}\n  hint: resume with the data settings \
         the run was started with, or choose another output folder"
    )]
    OtherData {
        /// Its step.
        step: u64,
        /// Each differing entry, with both values.
        differences: String,
    },
    /// The thread that writes checkpoints is gone.
    #[error("the checkpoint writer stopped unexpectedly; see the messages above")]
    WriterGone,
}

impl CheckpointError {
    /// Whether the request was wrong, rather than the machine: which checkpoint was asked for, or with which settings.
    pub fn is_users(&self) -> bool {
        match self {
            CheckpointError::Damaged { .. }
            | CheckpointError::Format { .. }
            | CheckpointError::NotFound { .. }
            | CheckpointError::WouldMix { .. }
            | CheckpointError::Rewind { .. }
            | CheckpointError::Busy { .. }
            | CheckpointError::OtherModel { .. }
            | CheckpointError::OtherData { .. } => true,
            CheckpointError::Fs(_)
            | CheckpointError::NotWritten { .. }
            | CheckpointError::Tensor { .. }
            | CheckpointError::WriterGone => false,
        }
    }

    /// The system's error at the root, if there is one.
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        match self {
            CheckpointError::Fs(error) => Some(error.source.kind()),
            CheckpointError::NotWritten { source, .. } => source.io_kind(),
            _ => None,
        }
    }
}

fn write_hint(source: &CheckpointError) -> &'static str {
    match source.io_kind() {
        Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge) => {
            "free space or keep fewer checkpoints (checkpoint.keep), then start again: the run resumes by itself"
        }
        Some(io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
            "make the folder writable or choose another output folder"
        }
        _ => "mend the cause and start again: the run resumes from the last complete checkpoint",
    }
}
