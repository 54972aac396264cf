//! What can go wrong with Hugging Face folders.

use std::path::PathBuf;

use thiserror::Error;

use crate::fs::FsError;

/// Result of an operation on a Hugging Face folder.
pub type Result<T> = std::result::Result<T, HubError>;

/// A folder that cannot be read or written.
#[derive(Debug, Error)]
pub enum HubError {
    /// The file system said no.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// A name of the hub without a snapshot in the cache.
    #[error(
        "there is no folder {name}, and no model of this name in the cache of the Hugging Face hub{offline}\n  looked \
         in {looked}\n  hint: {fetch}"
    )]
    NotCached {
        /// The name.
        name: String,
        /// Where it would be.
        looked: String,
        /// A word on offline mode, or nothing.
        offline: &'static str,
        /// The command that gets it.
        fetch: String,
    },
    /// A snapshot that is not whole.
    #[error("the download in {} is not complete:{}\n  hint: {fetch}", dir.display(), list(problems))]
    Incomplete {
        /// The snapshot.
        dir: PathBuf,
        /// What is missing.
        problems: Vec<String>,
        /// The command that gets the rest.
        fetch: String,
    },
    /// A file that is not the JSON it should be.
    #[error("{}: {reason}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        reason: String,
    },
    /// A model that this program's models are not.
    #[error("{}: this model cannot be built:{}", path.display(), list(problems))]
    Config {
        /// The `config.json`.
        path: PathBuf,
        /// Each with key, value and reason.
        problems: Vec<String>,
    },
    /// Images prepared in a way that is not built in.
    #[error("{}: this image processor cannot be used:{}", path.display(), list(problems))]
    ImageProcessor {
        /// The file.
        path: PathBuf,
        /// Each with key, value and reason.
        problems: Vec<String>,
    },
    /// Adapters of a kind that is not built in.
    #[error("{}: this adapter cannot be used:{}", path.display(), list(problems))]
    Adapter {
        /// The `adapter_config.json`.
        path: PathBuf,
        /// Each with key, value and reason.
        problems: Vec<String>,
    },
    /// No weights in a form that is read.
    #[error("no weights in {}: {reason}", dir.display())]
    NoWeights {
        /// The folder.
        dir: PathBuf,
        /// What there is instead, and what to do.
        reason: String,
    },
    /// A file of weights or an index that is damaged or contradicts itself.
    #[error("{}: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Tensors that are not the model's, each by name.
    #[error(
        "the weights in {} are not those of the model:{}\n  hint: config.json must be the one that was saved with the \
         weights",
        dir.display(),
        list(problems)
    )]
    Mismatch {
        /// The folder.
        dir: PathBuf,
        /// Every missing, unused and misshapen tensor.
        problems: Vec<String>,
    },
    /// What Hugging Face's format cannot say.
    #[error("cannot export {what}: {reason}")]
    Inexpressible {
        /// Key and value, or tensor.
        what: String,
        /// Why not.
        reason: String,
    },
    /// The target holds something that is not an earlier export.
    #[error(
        "{} exists and is not an export of this program (it has no {marker})\n  hint: choose another folder, or move \
         that one away",
        dir.display()
    )]
    Occupied {
        /// The target.
        dir: PathBuf,
        /// File that marks an export.
        marker: &'static str,
    },
    /// No tokenizer where one was named.
    #[error("{} has no tokenizer.json\n  hint: give the folder of a fast tokenizer, or its tokenizer.json", path.display())]
    NoTokenizer {
        /// Where it was looked for.
        path: PathBuf,
    },
}

fn list(lines: &[String]) -> String {
    lines.iter().map(|line| format!("\n  {line}")).collect()
}
