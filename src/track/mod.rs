//! What a run tells: metrics.jsonl, the console, TensorBoard, and the report made of them afterwards.

use std::{io, path::PathBuf};

use thiserror::Error;

use self::{
    console::Console,
    jsonl::{Appended, MetricsFile},
    tensorboard::EventFile,
};
pub use self::{
    options::{ConsoleKind, TrackOptions},
    record::{EvalRecord, RanksRecord, StepRecord},
    report::{REPORT_FILE, SAMPLES_FILE, Sample, write_picture, write_report, write_samples},
    system::{ProcessMemory, process_memory},
};
use crate::fs::{self, FsError};

mod console;
mod jsonl;
mod options;
mod record;
mod report;
mod system;
mod tensorboard;

/// Name of the metrics file in the run directory.
pub const METRICS_FILE: &str = "metrics.jsonl";
/// Name of the folder of event files in the run directory.
pub const TENSORBOARD_DIR: &str = "tensorboard";

/// Why tracking failed. The console never fails: a closed terminal or pipe only silences it.
#[derive(Debug, Error)]
pub enum TrackError {
    /// A file could not be opened, read, cut or created.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// A line or event could not be appended.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// A metrics file whose lines are not in the order of their steps cannot be cut at a step without a loss.
    #[error(
        "{} line {later} has step {step}, but line {line} before it is a later step or not readable; \
         hint: two runs may have written to this folder; move the file away and resume again",
        path.display()
    )]
    Disorder {
        /// The metrics file.
        path: PathBuf,
        /// The first line to be cut, from 1.
        line: usize,
        /// The step that would be lost.
        step: u64,
        /// Its line, from 1.
        later: usize,
    },
    /// A line of the metrics is no JSON object.
    #[error("{} line {line} is not a JSON object: {source}; hint: remove the line", path.display())]
    Line {
        /// The metrics file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What the parser found.
        source: serde_json::Error,
    },
    /// The answers are not a list of samples.
    #[error("{} does not hold a list of answers: {source}; hint: remove the file", path.display())]
    Samples {
        /// The file.
        path: PathBuf,
        /// What the parser found.
        source: serde_json::Error,
    },
}

/// The open record of a run: each call goes to metrics.jsonl, TensorBoard and the console.
#[derive(Debug)]
pub struct RunLog {
    metrics: MetricsFile,
    events: Option<EventFile>,
    console: Console,
}

impl RunLog {
    /// Opens the record of a run that goes on after `resume_step`. Lines of later steps, and half a line left by a crash,
    /// are cut off, so that the file ends up as that of a run never interrupted. `resume_step` 0 begins anew: the
    /// metrics of an earlier run in `options.dir` are removed.
    ///
    /// # Errors
    /// [`TrackError::Fs`] if a file cannot be opened; [`TrackError::Disorder`] if cutting would lose an earlier step.
    pub fn open(options: &TrackOptions, total_steps: u64, resume_step: u64) -> Result<Self, TrackError> {
        let TrackOptions {
            dir,
            console,
            tensorboard,
        } = options;
        fs::create_dir_all(dir)?;
        let metrics = MetricsFile::open(&dir.join(METRICS_FILE), resume_step)?;
        let open_events = || EventFile::open(&dir.join(TENSORBOARD_DIR), resume_step);
        let events = tensorboard.then(open_events).transpose()?;
        Ok(Self {
            metrics,
            events,
            console: Console::open(*console, total_steps, resume_step),
        })
    }

    /// Moves the bar on a step that is not logged.
    pub fn progress(&self, step: u64) {
        self.console.progress(step);
    }

    /// Records a step.
    ///
    /// # Errors
    /// [`TrackError::Write`] if the metrics or event file cannot be written.
    pub fn log_step(&mut self, record: &StepRecord) -> Result<(), TrackError> {
        let line = self.metrics.step(record)?;
        if let Some(events) = &mut self.events {
            events.step(record)?;
        }
        self.console.step(record, &line);
        Ok(())
    }

    /// Records an evaluation. One that the metrics already hold, with the same step and the same numbers, is shown but not
    /// written again.
    ///
    /// # Errors
    /// [`TrackError::Write`] if the metrics or event file cannot be written.
    pub fn log_eval(&mut self, record: &EvalRecord) -> Result<(), TrackError> {
        let (line, appended) = self.metrics.eval(record)?;
        if let (Some(events), Appended::Yes) = (&mut self.events, appended) {
            events.eval(record)?;
        }
        self.console.eval(record, &line);
        Ok(())
    }

    /// Tells the user something: above the bar, or on standard error. Kept in no file.
    pub fn message(&mut self, text: &str) {
        self.console.message(text);
    }

    /// Waits until the metrics are on the disk. To be called before a checkpoint is committed, so that not even a power
    /// failure leaves a checkpoint without the metrics of its steps.
    ///
    /// # Errors
    /// [`TrackError::Write`] if the disk refuses.
    pub fn sync(&self) -> Result<(), TrackError> {
        self.metrics.sync()
    }

    /// Leaves the bar as it stands and makes the metrics durable.
    ///
    /// # Errors
    /// [`TrackError::Write`] if the disk refuses.
    pub fn finish(&mut self) -> Result<(), TrackError> {
        self.console.finish();
        self.sync()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn log(dir: &Path, resume_step: u64, steps: std::ops::RangeInclusive<u64>) {
        let options = TrackOptions {
            dir: dir.into(),
            console: ConsoleKind::None,
            tensorboard: true,
        };
        let mut log = RunLog::open(&options, 10, resume_step).unwrap();
        for step in steps {
            log.progress(step);
            log.log_step(&StepRecord {
                step,
                loss: 1.0 / step as f32,
                ..StepRecord::default()
            })
            .unwrap();
        }
        log.message("done");
        log.finish().unwrap();
    }

    #[test]
    fn a_resumed_run_leaves_one_history_and_a_new_one_begins_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(METRICS_FILE);
        log(dir.path(), 0, 1..=10);
        let whole = fs::read_to_string(&path).unwrap();
        log(dir.path(), 7, 8..=10);
        assert_eq!(fs::read_to_string(&path).unwrap(), whole);
        log(dir.path(), 0, 1..=10);
        assert_eq!(fs::read_to_string(&path).unwrap(), whole);
        assert_eq!(fs::read_dir(&dir.path().join(TENSORBOARD_DIR)).unwrap().len(), 3);
    }

    #[test]
    fn an_error_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let blocked = dir.path().join(METRICS_FILE);
        fs::create_dir_all(&blocked).unwrap();
        let options = TrackOptions {
            dir: dir.path().into(),
            console: ConsoleKind::None,
            tensorboard: false,
        };
        let error = RunLog::open(&options, 10, 1).unwrap_err().to_string();
        assert!(error.contains("metrics.jsonl"), "{error}");
    }
}
