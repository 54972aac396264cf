//! Where a run begins.

use std::path::{Path, PathBuf};

use super::{CheckpointError, CheckpointInfo, CheckpointStore, Result, Resume, newest};
use crate::fs;

/// Folder of the checkpoints inside a run folder.
const CHECKPOINTS: &str = "checkpoints";

/// Where a run begins.
#[derive(Debug, Clone, PartialEq)]
pub enum Start {
    /// From this run's own newest checkpoint, as if it had never stopped.
    Resume(CheckpointInfo),
    /// From another run's checkpoint; this run's folder has none yet.
    Other(CheckpointInfo),
    /// From imported weights, at step 0.
    Import(PathBuf),
    /// From random weights, at step 0.
    Scratch,
}

/// Decides where a run begins:
///
/// 1. This run's own newest complete checkpoint (`auto` or a path).
/// 2. Another run's checkpoint, if `resume` is a path: a folder `step-N`, a folder of such folders, or a run folder.
/// 3. Imported weights.
/// 4. Scratch.
///
/// The order matters: a requeued job must find 1 before 2 and 3, or it would start over in silence.
///
/// # Errors
/// `resume = none` in a folder that holds checkpoints is refused, since the newest of them would later pass for this
/// run's own; so is a path to an older checkpoint of this very run. A path without a complete checkpoint, and a newest
/// checkpoint with a damaged manifest, are errors too: nothing else is taken in their place.
pub fn decide_start(resume: &Resume, store: &CheckpointStore, import: Option<&Path>) -> Result<Start> {
    let own = store.newest()?;
    match (resume, own) {
        (Resume::None, Some(own)) => {
            return Err(CheckpointError::WouldMix {
                dir: store.dir().into(),
                step: own.step(),
            });
        }
        (Resume::Path(path), Some(own)) => {
            refuse_rewind(path, &own)?;
            return Ok(Start::Resume(own));
        }
        (Resume::Auto, Some(own)) => return Ok(Start::Resume(own)),
        (Resume::Path(path), None) => return Ok(Start::Other(find_checkpoint(path)?)),
        (Resume::Auto | Resume::None, None) => {}
    }
    Ok(import.map_or(Start::Scratch, |path| Start::Import(path.into())))
}

/// An older checkpoint beside our newest one: the user wants to go back, which one folder cannot hold.
fn refuse_rewind(path: &Path, own: &CheckpointInfo) -> Result<()> {
    // The other run may have been removed since it was read for the first time; that is no harm here.
    let Ok(asked) = fs::canonicalize(path) else {
        return Ok(());
    };
    let own_path = fs::canonicalize(&own.path)?;
    if asked != own_path && asked.parent() == own_path.parent() {
        return Err(CheckpointError::Rewind {
            path: path.into(),
            newest: own.step(),
        });
    }
    Ok(())
}

/// The checkpoint that a path means: a folder `step-N`, or the newest one of a run folder or of its `checkpoints/`.
///
/// Reads only, so it may be asked while a run writes there.
///
/// # Errors
/// If there is no complete checkpoint, or the manifest of the one that is meant is damaged.
pub fn find_checkpoint(path: &Path) -> Result<CheckpointInfo> {
    match CheckpointInfo::read(path) {
        Err(CheckpointError::NotFound { .. }) => {}
        found => return found,
    }
    for dir in [path.join(CHECKPOINTS), path.into()] {
        if let Some(info) = newest(&dir)? {
            return Ok(info);
        }
    }
    Err(CheckpointError::NotFound { path: path.into() })
}
