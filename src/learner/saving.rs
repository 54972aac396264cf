//! Checkpoints of all ranks: each writes its share of the tensors while training goes on, and the first makes a checkpoint of them
//! when all are on the disk.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{LearnerError, step::Learner};
use crate::{
    checkpoint::{AsyncWriter, CheckpointError, FileEntry, Metric, PartWriter, RunState},
    fs,
    parallel::{Group, World},
};

/// How long a file may take to appear on another host of a shared file system.
const PROBE_PATIENCE: Duration = Duration::from_secs(5);
const PROBE_PAUSE: Duration = Duration::from_millis(50);
const WRITING_PAUSE: Duration = Duration::from_millis(20);

/// Writes the checkpoints of a run; every rank has one, and all ask it for the same things together.
pub struct Saver {
    /// The first rank's.
    writer: Option<AsyncWriter>,
    /// This rank among those that write; `None` if the first does it alone.
    share: Option<World>,
    under_way: Option<Part>,
}

/// This rank's files of a checkpoint that is not complete.
struct Part {
    files: PartWriter,
    state: RunState,
    metric: Option<Metric>,
}

impl Saver {
    /// `writer` is the first rank's. All ranks of the group ask together. Where some do not see the folder of the checkpoints,
    /// the first writes all.
    ///
    /// # Errors
    /// What the file system says, or if a rank is missing or has failed.
    pub fn new(writer: Option<AsyncWriter>, group: &Group) -> Result<Self, LearnerError> {
        let world = group.world();
        let share = match world.size > 1 && sees_same_folder(writer.as_ref(), group)? {
            true => Some(world),
            false => None,
        };
        Ok(Self {
            writer,
            share,
            under_way: None,
        })
    }

    /// Whether every rank writes its share.
    pub fn is_shared(&self) -> bool {
        self.share.is_some()
    }

    /// Copies the learner to host memory, each rank its share, and begins to write. The checkpoint before is on the disk then.
    ///
    /// # Errors
    /// If that one, or this one, cannot be written; if a rank is missing or has failed.
    pub(super) fn save(
        &mut self,
        learner: &Learner,
        state: &RunState,
        metric: Option<Metric>,
    ) -> Result<(), LearnerError> {
        let group = learner.group();
        let Some(world) = self.share else {
            let whole = (group.world().rank == 0).then_some(World::ALONE);
            let snapshot = learner.snapshot(state.clone(), whole)?;
            let submitted = match &mut self.writer {
                Some(writer) => writer.submit(snapshot, metric).map(drop),
                None => Ok(()),
            };
            return group.agree(submitted.map_err(LearnerError::from));
        };
        self.complete(group)?;
        let snapshot = learner.snapshot(state.clone(), Some(world))?;
        let folder = self.begin(state.step, group)?;
        let files = PartWriter::start(folder, world.rank, state.step, snapshot.tensors);
        let files = group.agree(files.map_err(LearnerError::from))?;
        self.under_way = Some(Part {
            files,
            state: state.clone(),
            metric,
        });
        Ok(())
    }

    /// The folder that the first rank makes for a checkpoint.
    fn begin(&mut self, step: u64, group: &Group) -> Result<PathBuf, LearnerError> {
        let made = self.writer.as_mut().map(|writer| writer.begin(step)).transpose();
        let made = group.agree(made.map_err(LearnerError::from))?;
        let name = made.map_or(String::new(), |folder| folder.display().to_string());
        let names = group.exchange_texts(&[name])?;
        Ok(PathBuf::from(names[0].concat()))
    }

    /// Whether this rank has nothing more to write of the checkpoint that is under way, if one is.
    pub(super) fn has_written(&self) -> bool {
        self.under_way.as_ref().is_some_and(|part| part.files.has_ended())
    }

    /// Has the first rank make a checkpoint of what the ranks have written, after waiting for it.
    ///
    /// # Errors
    /// If a rank could not write its files, or is missing.
    pub(super) fn complete(&mut self, group: &Group) -> Result<(), LearnerError> {
        if self.under_way.is_none() {
            return Ok(());
        }
        // A slow disk is no missing rank.
        while group.any(!self.has_written())? {
            std::thread::sleep(WRITING_PAUSE);
        }
        let Some(Part { files, state, metric }) = self.under_way.take() else {
            return Ok(());
        };
        let files = group.agree(files.wait().map_err(LearnerError::from));
        let files = files.inspect_err(|_| {
            if let Some(writer) = &self.writer {
                writer.store().abandon(state.step);
            }
        })?;
        let all = group.exchange(FileEntry::list_to_json(&files))?;
        let completed = match &mut self.writer {
            Some(writer) => complete(writer, state, metric, &all),
            None => Ok(()),
        };
        group.agree(completed.map_err(LearnerError::from))
    }

    /// Returns when the last checkpoint is on the disk.
    ///
    /// # Errors
    /// As [`Saver::complete`].
    pub(super) fn finish(&mut self, group: &Group) -> Result<(), LearnerError> {
        self.complete(group)?;
        let written = self.writer.as_mut().map_or(Ok(None), AsyncWriter::wait);
        group.agree(written.map(drop).map_err(LearnerError::from))
    }
}

/// Whether every rank sees the folder in which the first writes.
fn sees_same_folder(writer: Option<&AsyncWriter>, group: &Group) -> Result<bool, LearnerError> {
    let probe = writer.map(|writer| writer.store().probe()).transpose();
    let probe = group.agree(probe.map_err(LearnerError::from))?;
    let name = probe
        .as_ref()
        .map_or(String::new(), |probe| probe.display().to_string());
    let names = group.exchange_texts(&[name])?;
    let path = PathBuf::from(names[0].concat());
    let is_unseen = group.any(!appears(&path))?;
    if let Some(probe) = probe {
        // What cannot be removed now goes with the next start.
        let _ = fs::remove_file(&probe);
    }
    Ok(!is_unseen)
}

fn appears(path: &Path) -> bool {
    let started = Instant::now();
    while !fs::exists(path) {
        if started.elapsed() > PROBE_PATIENCE {
            return false;
        }
        std::thread::sleep(PROBE_PAUSE);
    }
    true
}

fn complete(
    writer: &mut AsyncWriter,
    state: RunState,
    metric: Option<Metric>,
    files_of_ranks: &[Vec<u8>],
) -> Result<(), CheckpointError> {
    let files = files_of_ranks
        .iter()
        .map(|files| FileEntry::list_from_json(files));
    let files = files.collect::<Result<Vec<_>, _>>()?.concat();
    writer.complete(state, metric, files).map(drop)
}
