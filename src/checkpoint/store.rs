//! The folder of a run's checkpoints: commit, retention, loading.

use std::{
    cmp::Ordering,
    collections::HashSet,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use brazier_models::HostTensor;

use super::{
    Better, CheckpointError, CheckpointInfo, FileEntry, KeepOptions, Metric, Ranking, Result, RunState,
    Snapshot, TensorSpec, complete_steps,
    disk::{Disk, RealDisk},
    manifest::{MANIFEST, hint_previous, step_name},
    newest,
    tensors::{list_file, read_file, write_tensors},
};
use crate::fs::{self, FileLock, TryLock};

const LOCK: &str = ".lock";
const PARTIAL: &str = ".partial-";
const REPLACED: &str = ".replaced-";
const DELETING: &str = ".deleting-";
const PROBE: &str = ".probe-";
/// What names of files with tensors begin with.
pub(super) const TENSORS: &str = "tensors";
pub(super) const MAX_FILE_BYTES: usize = 4 << 30;
/// A killed process may take this long to give back its memory, and with it its lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// The checkpoints of one run, for the one process that writes them. Others read with [`newest`] and [`load`].
pub struct CheckpointStore {
    dir: PathBuf,
    disk: Box<dyn Disk>,
    max_file_bytes: usize,
    _lock: Option<FileLock>,
}

impl CheckpointStore {
    /// Creates the folder if needed, locks it and removes what dead writers left in it.
    ///
    /// The lock lives as long as the store and the process. Where the file system knows no locks, nothing is removed
    /// and two runs in one folder are not noticed.
    ///
    /// # Errors
    /// [`CheckpointError::Busy`] if another process has the folder; otherwise what the file system says.
    pub fn open(dir: &Path) -> Result<Self> {
        Self::open_on(dir, Box::new(RealDisk), MAX_FILE_BYTES, LOCK_PATIENCE)
    }

    pub(super) fn open_on(
        dir: &Path,
        disk: Box<dyn Disk>,
        max_file_bytes: usize,
        patience: Duration,
    ) -> Result<Self> {
        disk.create_dir(dir)?;
        let lock = lock(dir, patience)?;
        let store = CheckpointStore {
            dir: dir.into(),
            disk,
            max_file_bytes,
            _lock: lock,
        };
        store.recover()?;
        Ok(store)
    }

    /// Where the checkpoints are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Steps with a complete checkpoint, ascending, with their folders.
    pub fn steps(&self) -> Result<Vec<(u64, PathBuf)>> {
        complete_steps(&self.dir)
    }

    /// The newest complete checkpoint.
    pub fn newest(&self) -> Result<Option<CheckpointInfo>> {
        newest(&self.dir)
    }

    /// The best complete checkpoint by a metric; of equals the earliest. Damaged manifests are passed over.
    pub fn best(&self, ranking: &Ranking) -> Result<Option<CheckpointInfo>> {
        Ok(self.ranked(ranking)?.into_iter().next())
    }

    /// Writes a checkpoint; when this returns, it is on the disk and complete.
    ///
    /// A checkpoint of the same step is replaced; killed in between, the old one or the new one is there.
    ///
    /// # Errors
    /// [`CheckpointError::NotWritten`]: nothing of it is left, and what was there before still is.
    pub fn commit(&self, snapshot: &Snapshot, metric: Option<&Metric>) -> Result<CheckpointInfo> {
        let step = snapshot.state.step;
        let partial = self.begin(step)?;
        let written = write_tensors(
            self.disk.as_ref(),
            &partial,
            TENSORS,
            &snapshot.tensors,
            self.max_file_bytes,
        );
        match written {
            Ok(files) => self.commit_files(&snapshot.state, metric, files),
            Err(source) => Err(self.give_up(step, source)),
        }
    }

    /// Makes an empty folder for the files of a checkpoint, which [`CheckpointStore::commit_files`] completes.
    ///
    /// # Errors
    /// [`CheckpointError::NotWritten`], as all that follows until the checkpoint is complete.
    pub fn begin(&self, step: u64) -> Result<PathBuf> {
        let partial = self.partial(step);
        let disk = self.disk.as_ref();
        let made = disk
            .remove_dir_all(&partial)
            .and_then(|()| disk.create_dir(&partial));
        match made {
            Ok(()) => Ok(partial),
            Err(source) => Err(self.give_up(step, source.into())),
        }
    }

    /// Makes a checkpoint of files that have been written, and synced, into the folder of [`CheckpointStore::begin`].
    ///
    /// # Errors
    /// As [`CheckpointStore::commit`].
    pub fn commit_files(
        &self,
        state: &RunState,
        metric: Option<&Metric>,
        files: Vec<FileEntry>,
    ) -> Result<CheckpointInfo> {
        let info = CheckpointInfo {
            path: self.dir.join(step_name(state.step)),
            state: state.clone(),
            metric: metric.filter(|metric| metric.value.is_finite()).cloned(),
            files,
        };
        let partial = self.partial(state.step);
        let published = self
            .write_manifest(&partial, &info)
            .and_then(|()| self.publish(&partial, info));
        published.map_err(|source| self.give_up(state.step, source))
    }

    /// Removes what there is of a checkpoint that cannot be completed. What cannot be removed now goes with the next open.
    pub fn abandon(&self, step: u64) {
        let _ = self.disk.remove_dir_all(&self.partial(step));
    }

    fn give_up(&self, step: u64, source: CheckpointError) -> CheckpointError {
        self.abandon(step);
        not_written(&self.dir, step, source)
    }

    fn partial(&self, step: u64) -> PathBuf {
        self.dir.join(format!("{PARTIAL}{}", step_name(step)))
    }

    /// Makes a file by which others find out whether they see this folder. It goes with the next open at the latest.
    ///
    /// # Errors
    /// What the file system says.
    pub fn probe(&self) -> Result<PathBuf> {
        // One that nobody has looked for, so that no client of a shared file system remembers its absence.
        let path = self
            .dir
            .join(format!("{PROBE}{}", rustix::process::getpid().as_raw_nonzero()));
        fs::write_durable(&path, b"")?;
        Ok(path)
    }

    /// Deletes every checkpoint that no rule of `keep` holds.
    ///
    /// Killed in the middle, a checkpoint is complete or gone.
    pub fn retain(&self, keep: &KeepOptions, ranking: &Ranking) -> Result<()> {
        let steps = self.steps()?;
        let mut kept: HashSet<u64> = steps
            .iter()
            .rev()
            .take(keep.last.max(1))
            .map(|(step, _)| *step)
            .collect();
        if keep.best > 0 {
            kept.extend(
                self.ranked(ranking)?
                    .iter()
                    .take(keep.best)
                    .map(CheckpointInfo::step),
            );
        }
        for (step, path) in steps {
            let is_multiple = keep
                .every
                .is_some_and(|every| every > 0 && step.is_multiple_of(every));
            if !kept.contains(&step) && !is_multiple {
                self.delete(&path, step)?;
            }
        }
        Ok(())
    }

    /// Checkpoints that carry the metric, best first, then earliest first.
    fn ranked(&self, ranking: &Ranking) -> Result<Vec<CheckpointInfo>> {
        let mut scored: Vec<(f64, CheckpointInfo)> = self
            .steps()?
            .into_iter()
            .filter_map(|(_, path)| CheckpointInfo::read(&path).ok())
            .filter_map(|info| {
                let metric = info
                    .metric
                    .as_ref()
                    .filter(|metric| metric.name == ranking.metric)?;
                Some((metric.value, info))
            })
            .collect();
        scored.sort_by(|(left, _), (right, _)| {
            let ascending = left.partial_cmp(right).unwrap_or(Ordering::Equal);
            match ranking.better {
                Better::Lower => ascending,
                Better::Higher => ascending.reverse(),
            }
        });
        Ok(scored.into_iter().map(|(_, info)| info).collect())
    }

    fn write_manifest(&self, partial: &Path, info: &CheckpointInfo) -> Result<()> {
        let disk = self.disk.as_ref();
        let mut manifest = disk.create(&partial.join(MANIFEST))?;
        disk.write(&mut manifest, &info.manifest_bytes()?)?;
        disk.sync(&manifest)?;
        Ok(disk.sync_dir(partial)?)
    }

    fn publish(&self, partial: &Path, info: CheckpointInfo) -> Result<CheckpointInfo> {
        let disk = self.disk.as_ref();
        if info.path.is_dir() {
            // Two renames, so for an instant the step has no folder: `recover` knows, and puts the old one back.
            let replaced = self.dir.join(format!("{REPLACED}{}", step_name(info.step())));
            disk.remove_dir_all(&replaced)?;
            disk.rename(&info.path, &replaced)?;
            disk.rename(partial, &info.path).inspect_err(|_| {
                // Should this fail as well, `recover` does it.
                let _ = disk.rename(&replaced, &info.path);
            })?;
            disk.sync_dir(&self.dir)?;
            disk.remove_dir_all(&replaced)?;
        } else {
            disk.rename(partial, &info.path)?;
        }
        disk.sync_dir(&self.dir)?;
        Ok(info)
    }

    fn delete(&self, path: &Path, step: u64) -> Result<()> {
        let doomed = self.dir.join(format!("{DELETING}{}", step_name(step)));
        self.disk.remove_dir_all(&doomed)?;
        self.disk.rename(path, &doomed)?;
        self.disk.sync_dir(&self.dir)?;
        self.disk.remove_file(&doomed.join(MANIFEST))?;
        // On NFS a file that a reader still holds open cannot go yet; the next open removes it.
        let _ = self.disk.remove_dir_all(&doomed);
        Ok(())
    }

    /// Undoes or finishes what a killed writer was at. Without a lock a partial folder may belong to a living one.
    fn recover(&self) -> Result<()> {
        for path in fs::read_dir(&self.dir)? {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            if let Some(step) = name.strip_prefix(REPLACED) {
                let current = self.dir.join(step);
                if current.join(MANIFEST).is_file() || !path.join(MANIFEST).is_file() {
                    self.disk.remove_dir_all(&path)?;
                } else {
                    self.disk.rename(&path, &current)?;
                    self.disk.sync_dir(&self.dir)?;
                }
            } else if self._lock.is_some() && (name.starts_with(PARTIAL) || name.starts_with(DELETING)) {
                self.disk.remove_dir_all(&path)?;
            } else if self._lock.is_some() && name.starts_with(PROBE) {
                self.disk.remove_file(&path)?;
            }
        }
        Ok(())
    }
}

/// Says of which step it was, and what there is instead.
pub(super) fn not_written(dir: &Path, step: u64, source: CheckpointError) -> CheckpointError {
    let last = match complete_steps(dir).ok().and_then(|mut steps| steps.pop()) {
        Some((step, path)) => {
            format!(
                "the last complete checkpoint is step {step} at {}",
                path.display()
            )
        }
        None => "there is no complete checkpoint yet".into(),
    };
    CheckpointError::NotWritten {
        step,
        source: Box::new(source),
        last,
    }
}

/// Reads a checkpoint and checks every file against its manifest.
///
/// # Errors
/// [`CheckpointError::Damaged`] names the file, what was expected and found, and the checkpoint to use instead.
pub fn load(info: &CheckpointInfo) -> Result<Snapshot> {
    Ok(Snapshot {
        tensors: load_tensors(info, &mut |_| true)?,
        state: info.state.clone(),
    })
}

/// As [`load`], but only the tensors that are `wanted` by their name stay in memory. It is asked once for each.
///
/// # Errors
/// As [`load`].
pub fn load_tensors(info: &CheckpointInfo, wanted: &mut dyn FnMut(&str) -> bool) -> Result<Vec<HostTensor>> {
    let mut tensors = Vec::new();
    for entry in &info.files {
        tensors.append(&mut load_file(info, entry, wanted)?);
    }
    Ok(tensors)
}

/// All tensors of one file of a checkpoint, checked as by [`load`].
///
/// # Errors
/// As [`load`].
pub fn load_file(
    info: &CheckpointInfo,
    entry: &FileEntry,
    wanted: &mut dyn FnMut(&str) -> bool,
) -> Result<Vec<HostTensor>> {
    let path = info.path.join(&entry.name);
    read_file(&path, entry, wanted).map_err(|reason| damaged(info, path, reason))
}

/// Name, shape and dtype of each tensor of a checkpoint. Their bytes are not checked.
///
/// # Errors
/// As [`load`], where a file is not there or its beginning is damaged.
pub fn list_tensors(info: &CheckpointInfo) -> Result<Vec<TensorSpec>> {
    let mut specs = Vec::new();
    for entry in &info.files {
        let path = info.path.join(&entry.name);
        let listed = list_file(&path, entry).map_err(|reason| damaged(info, path, reason));
        specs.append(&mut listed?);
    }
    Ok(specs)
}

fn damaged(info: &CheckpointInfo, path: PathBuf, reason: String) -> CheckpointError {
    CheckpointError::Damaged {
        hint: hint_previous(&info.path),
        path,
        reason,
    }
}

fn lock(dir: &Path, patience: Duration) -> Result<Option<FileLock>> {
    let path = dir.join(LOCK);
    let deadline = Instant::now() + patience;
    loop {
        match fs::try_lock(&path)? {
            TryLock::Acquired(lock) => {
                let owner = format!("pid {}\n", rustix::process::getpid().as_raw_nonzero());
                fs::write_durable(&path, owner.as_bytes())?;
                return Ok(Some(lock));
            }
            TryLock::Unsupported => return Ok(None),
            TryLock::Busy if Instant::now() < deadline => thread::sleep(Duration::from_millis(100)),
            TryLock::Busy => {
                let owner = fs::read_to_string(&path).unwrap_or_default().trim().to_string();
                return Err(CheckpointError::Busy {
                    dir: dir.into(),
                    owner,
                });
            }
        }
    }
}
