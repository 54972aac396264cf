//! metrics.jsonl: append-only, one JSON object a line, cut back to the checkpoint on resume.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{EvalRecord, StepRecord, TrackError};
use crate::fs;

/// In the line of every evaluation and of no step.
const EVAL_SECONDS: &str = "eval_seconds";

/// The open metrics file of a run.
#[derive(Debug)]
pub(super) struct MetricsFile {
    path: PathBuf,
    file: File,
    /// Evaluations at the newest evaluated step, with their times set to 0.
    latest: Vec<String>,
}

#[derive(Deserialize)]
struct Stamp {
    step: u64,
}

impl MetricsFile {
    /// Opens the file for a run that goes on after `resume_step`; 0 begins it anew.
    pub(super) fn open(path: &Path, resume_step: u64) -> Result<Self, TrackError> {
        let mut latest = Vec::new();
        if resume_step == 0 {
            fs::remove_file(path)?;
        } else if path.exists() {
            let kept = scan(path, resume_step)?;
            if kept.bytes < fs::size_bytes(path)? {
                fs::truncate(path, kept.bytes)?;
            }
            latest = kept.latest;
        }
        Ok(Self {
            path: path.into(),
            file: fs::append(path)?,
            latest,
        })
    }

    pub(super) fn step(&mut self, record: &StepRecord) -> Result<String, TrackError> {
        let line = self.encode(record)?;
        self.append(&line)?;
        Ok(line)
    }

    /// Appends an evaluation, unless the file already holds the same one: a run killed between its last checkpoint
    /// and its end repeats its last evaluation.
    pub(super) fn eval(&mut self, record: &EvalRecord) -> Result<(String, Appended), TrackError> {
        let line = self.encode(record)?;
        let timeless = self.encode(&EvalRecord {
            seconds: 0.0,
            ..record.clone()
        })?;
        if self.latest.contains(&timeless) {
            return Ok((line, Appended::No));
        }
        if self
            .latest
            .first()
            .is_some_and(|other| step_of(other) != Some(record.step))
        {
            self.latest.clear();
        }
        self.append(&line)?;
        self.latest.push(timeless);
        Ok((line, Appended::Yes))
    }

    pub(super) fn sync(&self) -> Result<(), TrackError> {
        self.file.sync_data().map_err(|source| TrackError::Write {
            path: self.path.clone(),
            source,
        })
    }

    fn encode(&self, record: &impl serde::Serialize) -> Result<String, TrackError> {
        let bad = |error: serde_json::Error| TrackError::Write {
            path: self.path.clone(),
            source: error.into(),
        };
        serde_json::to_string(record).map_err(bad)
    }

    /// One system call per line, so that nothing but a crash of the machine leaves half of one.
    fn append(&mut self, line: &str) -> Result<(), TrackError> {
        let line = format!("{line}\n");
        let bad = |source| TrackError::Write {
            path: self.path.clone(),
            source,
        };
        self.file.write_all(line.as_bytes()).map_err(bad)
    }
}

/// Whether a line was new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Appended {
    Yes,
    No,
}

struct Kept {
    bytes: u64,
    latest: Vec<String>,
}

fn step_of(line: &str) -> Option<u64> {
    serde_json::from_str::<Stamp>(line).ok().map(|stamp| stamp.step)
}

/// Finds how many bytes belong to steps up to `resume_step`. What follows must be later steps or the remains of a
/// crash: a line of an earlier step behind them is an error rather than lost.
fn scan(path: &Path, resume_step: u64) -> Result<Kept, TrackError> {
    let mut reader = BufReader::new(fs::open(path)?);
    let (mut kept, mut cut_at_line, mut line_number) = (
        Kept {
            bytes: 0,
            latest: Vec::new(),
        },
        None,
        0,
    );
    let mut line = Vec::new();
    let mut latest_step = None;
    loop {
        line.clear();
        let bad = |source| fs::FsError {
            operation: "read",
            path: path.into(),
            source,
        };
        let length = reader.read_until(b'\n', &mut line).map_err(bad)?;
        if length == 0 {
            return Ok(kept);
        }
        line_number += 1;
        let text = std::str::from_utf8(&line)
            .ok()
            .and_then(|text| text.strip_suffix('\n'));
        let step = text.and_then(step_of);
        match (text, step) {
            (Some(text), Some(step)) if step <= resume_step => {
                if let Some(line) = cut_at_line {
                    return Err(TrackError::Disorder {
                        path: path.into(),
                        line,
                        step,
                        later: line_number,
                    });
                }
                kept.bytes += length as u64;
                if let Some(timeless) = timeless_evaluation(text) {
                    if latest_step.replace(step) != Some(step) {
                        kept.latest.clear();
                    }
                    kept.latest.push(timeless);
                }
            }
            _ => cut_at_line = cut_at_line.or(Some(line_number)),
        }
    }
}

/// An evaluation's line with its time set to 0; `None` for a step's line.
fn timeless_evaluation(line: &str) -> Option<String> {
    if !line.contains(EVAL_SECONDS) {
        return None;
    }
    let mut value: serde_json::Value = serde_json::from_str(line).ok()?;
    *value.get_mut(EVAL_SECONDS)? = 0.0.into();
    Some(value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64) -> StepRecord {
        StepRecord {
            step,
            loss: 1.0 / step as f32,
            ..StepRecord::default()
        }
    }

    fn eval(step: u64, loss: f64, seconds: f64) -> EvalRecord {
        EvalRecord {
            step,
            epoch: 0.1,
            metrics: vec![("eval_loss".into(), loss)],
            seconds,
            samples: 3,
        }
    }

    fn write(file: &mut MetricsFile, steps: std::ops::RangeInclusive<u64>) {
        for n in steps {
            file.step(&step(n)).unwrap();
            if n % 4 == 0 {
                file.eval(&eval(n, 1.0 / n as f64, 0.0)).unwrap();
            }
        }
    }

    fn fresh() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        (dir, path)
    }

    #[test]
    fn a_killed_and_resumed_file_equals_an_unbroken_one() {
        let (_dir, whole) = fresh();
        write(&mut MetricsFile::open(&whole, 0).unwrap(), 1..=12);
        let whole = fs::read(&whole).unwrap();
        for checkpoint in 0..=8 {
            let (_dir, path) = fresh();
            write(&mut MetricsFile::open(&path, 0).unwrap(), 1..=9);
            // The kill came in the middle of a line.
            fs::append(&path)
                .unwrap()
                .write_all(br#"{"step":10,"epo"#)
                .unwrap();
            write(
                &mut MetricsFile::open(&path, checkpoint).unwrap(),
                checkpoint + 1..=12,
            );
            assert!(fs::read(&path).unwrap() == whole, "resumed at step {checkpoint}");
        }
    }

    #[test]
    fn remains_of_a_crash_are_cut() {
        for remains in [
            "{\"step\":3",
            "{\"step\":2}",
            "\0\0\0\0",
            "\0\0\n\0{\"step\":9}\n",
            "{\"step\":4,\n",
        ] {
            let (_dir, path) = fresh();
            write(&mut MetricsFile::open(&path, 0).unwrap(), 1..=2);
            let before = fs::read(&path).unwrap();
            fs::append(&path).unwrap().write_all(remains.as_bytes()).unwrap();
            drop(MetricsFile::open(&path, 2).unwrap());
            assert_eq!(fs::read(&path).unwrap(), before, "{remains:?}");
        }
    }

    #[test]
    fn lines_in_disorder_are_refused_and_kept() {
        for middle in ["nonsense\n", "{\"step\":90}\n"] {
            let (_dir, path) = fresh();
            let text = format!("{{\"step\":1}}\n{middle}{{\"step\":2}}\n");
            fs::append(&path).unwrap().write_all(text.as_bytes()).unwrap();
            let error = MetricsFile::open(&path, 5).unwrap_err().to_string();
            assert!(error.contains("line 3") && error.contains("line 2"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn a_repeated_evaluation_is_written_once() {
        let (_dir, path) = fresh();
        let mut file = MetricsFile::open(&path, 0).unwrap();
        write(&mut file, 1..=4);
        assert_eq!(file.eval(&eval(4, 0.25, 9.0)).unwrap().1, Appended::No);
        assert_eq!(file.eval(&eval(4, 0.75, 9.0)).unwrap().1, Appended::Yes);
        drop(file);
        let before = fs::read(&path).unwrap();
        let mut file = MetricsFile::open(&path, 4).unwrap();
        assert_eq!(file.eval(&eval(4, 0.25, 1.0)).unwrap().1, Appended::No);
        assert_eq!(file.eval(&eval(4, 0.75, 2.0)).unwrap().1, Appended::No);
        assert_eq!(fs::read(&path).unwrap(), before);
        assert_eq!(file.eval(&eval(5, 0.25, 1.0)).unwrap().1, Appended::Yes);
        assert_eq!(
            file.eval(&eval(4, 0.25, 1.0)).unwrap().1,
            Appended::Yes,
            "only the newest step is remembered"
        );
    }
}
