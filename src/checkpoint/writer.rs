//! Writing in the background: training goes on while a snapshot reaches the disk.

use std::{sync::Arc, thread::JoinHandle};

use super::{
    CheckpointError, CheckpointInfo, CheckpointStore, KeepOptions, Metric, Ranking, Result, Snapshot,
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
        let previous = self.wait()?;
        let (store, keep, ranking) = (Arc::clone(&self.store), self.keep.clone(), self.ranking.clone());
        let write = move || write(&store, &keep, &ranking, &snapshot, metric.as_ref());
        let thread = std::thread::Builder::new().name("checkpoint".into());
        let under_way = thread.spawn(write).map_err(|_| CheckpointError::WriterGone)?;
        self.under_way = Some(under_way);
        Ok(previous)
    }

    /// Writes a snapshot and returns when it is on the disk, after the previous one.
    ///
    /// # Errors
    /// The previous write's error, in which case the snapshot is not written, or its own.
    pub fn save_now(&mut self, snapshot: &Snapshot, metric: Option<&Metric>) -> Result<CheckpointInfo> {
        self.wait()?;
        write(&self.store, &self.keep, &self.ranking, snapshot, metric)
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

    /// Waits for the last write and ends. Gives what it committed, if one was under way.
    ///
    /// # Errors
    /// That write's error.
    pub fn finish(mut self) -> Result<Option<CheckpointInfo>> {
        self.wait()
    }
}

impl Drop for AsyncWriter {
    fn drop(&mut self) {
        // Whoever wants the error calls `finish`; here only the write must not be cut off.
        let _ = self.wait();
    }
}

fn write(
    store: &CheckpointStore,
    keep: &KeepOptions,
    ranking: &Ranking,
    snapshot: &Snapshot,
    metric: Option<&Metric>,
) -> Result<CheckpointInfo> {
    let info = store.commit(snapshot, metric)?;
    store.retain(keep, ranking)?;
    Ok(info)
}
