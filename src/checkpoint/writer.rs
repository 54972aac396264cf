//! Writing in the background: training goes on while a snapshot reaches the disk.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread::{Builder, JoinHandle},
};

use brazier_models::HostTensor;

use super::{
    CheckpointError, CheckpointInfo, CheckpointStore, FileEntry, KeepOptions, Metric, Ranking, Result,
    RunState, Snapshot,
    disk::RealDisk,
    store::{MAX_FILE_BYTES, TENSORS, not_written},
    tensors::write_tensors,
};

/// Writes one snapshot at a time on a thread of its own, then applies retention.
///
/// At most one snapshot is held: the next one waits for it. Dropped, it waits for the write under way.
pub struct AsyncWriter {
    store: Arc<CheckpointStore>,
    keep: KeepOptions,
    ranking: Ranking,
    under_way: Option<JoinHandle<Result<CheckpointInfo>>>,
}

impl AsyncWriter {
    /// A writer with nothing under way.
    pub fn new(store: Arc<CheckpointStore>, keep: KeepOptions, ranking: Ranking) -> Self {
        AsyncWriter {
            store,
            keep,
            ranking,
            under_way: None,
        }
    }

    /// Hands over a snapshot and returns, after the previous write if that is still going. Gives what that one committed.
    ///
    /// # Errors
    /// The previous write's error; the new snapshot is then not written.
    pub fn submit(&mut self, snapshot: Snapshot, metric: Option<Metric>) -> Result<Option<CheckpointInfo>> {
        self.start(move |store| store.commit(&snapshot, metric.as_ref()))
    }

    /// As [`AsyncWriter::submit`], of a checkpoint whose files are there: see [`CheckpointStore::commit_files`].
    ///
    /// # Errors
    /// The previous write's error.
    pub fn complete(
        &mut self,
        state: RunState,
        metric: Option<Metric>,
        files: Vec<FileEntry>,
    ) -> Result<Option<CheckpointInfo>> {
        self.start(move |store| store.commit_files(&state, metric.as_ref(), files))
    }

    fn start(
        &mut self,
        commit: impl FnOnce(&CheckpointStore) -> Result<CheckpointInfo> + Send + 'static,
    ) -> Result<Option<CheckpointInfo>> {
        let previous = self.wait()?;
        let (store, keep, ranking) = (Arc::clone(&self.store), self.keep.clone(), self.ranking.clone());
        let write = move || {
            let info = commit(&store)?;
            store.retain(&keep, &ranking)?;
            Ok(info)
        };
        self.under_way = Some(spawn(write)?);
        Ok(previous)
    }

    /// Where it writes.
    pub fn store(&self) -> &CheckpointStore {
        &self.store
    }

    /// A folder for the files of the next checkpoint, after the previous write; see [`CheckpointStore::begin`].
    ///
    /// # Errors
    /// The previous write's error, or what the file system says.
    pub fn begin(&mut self, step: u64) -> Result<PathBuf> {
        self.wait()?;
        self.store.begin(step)
    }

    /// Waits for the write under way, if there is one, and gives what it committed.
    ///
    /// # Errors
    /// That write's error.
    pub fn wait(&mut self) -> Result<Option<CheckpointInfo>> {
        match self.under_way.take().map(JoinHandle::join) {
            None => Ok(None),
            Some(Ok(written)) => written.map(Some),
            Some(Err(_)) => Err(CheckpointError::WriterGone),
        }
    }
}

impl Drop for AsyncWriter {
    fn drop(&mut self) {
        // Whoever wants the error calls `wait`; here only the write must not be cut off.
        let _ = self.wait();
    }
}

fn spawn<T: Send + 'static>(
    write: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<JoinHandle<Result<T>>> {
    let thread = Builder::new().name("checkpoint".into());
    thread.spawn(write).map_err(|_| CheckpointError::WriterGone)
}

/// One rank's files of a checkpoint, on their way to the disk.
///
/// Dropped, it waits for them.
pub struct PartWriter(Option<JoinHandle<Result<Vec<FileEntry>>>>);

impl PartWriter {
    /// Writes the tensors of the `number`-th rank into the folder that [`CheckpointStore::begin`] has made for a step.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn start(folder: PathBuf, number: usize, step: u64, tensors: Vec<HostTensor>) -> Result<Self> {
        let write = move || {
            let stem = format!("{TENSORS}-{number:05}");
            let files = write_tensors(&RealDisk, &folder, &stem, &tensors, MAX_FILE_BYTES);
            files.map_err(|source| not_written(folder.parent().unwrap_or(Path::new(".")), step, source))
        };
        Ok(Self(Some(spawn(write)?)))
    }

    /// Whether they are on the disk, or never will be.
    pub fn has_ended(&self) -> bool {
        self.0.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for them.
    ///
    /// # Errors
    /// [`CheckpointError::NotWritten`]
    pub fn wait(mut self) -> Result<Vec<FileEntry>> {
        match self.0.take().map(JoinHandle::join) {
            Some(Ok(written)) => written,
            None | Some(Err(_)) => Err(CheckpointError::WriterGone),
        }
    }
}

impl Drop for PartWriter {
    fn drop(&mut self) {
        // Whoever wants the error calls `wait`; here only the write must not be cut off.
        let _ = self.0.take().map(JoinHandle::join);
    }
}
