//! A finished or running run, read back from its directory.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    fs,
    track::{METRICS_FILE, TrackError},
};

/// Name of the file of answers in the run directory.
pub const SAMPLES_FILE: &str = "samples.json";

/// A held-out question with the model's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// Its picture, absolute or relative to the run directory; `None` if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<PathBuf>,
    /// What was asked.
    pub question: String,
    /// The right answer.
    pub reference: String,
    /// The model's.
    pub answer: String,
    /// Type of question.
    pub kind: String,
}

impl Sample {
    /// Whether the answer is the right one but for white space around it.
    pub fn is_exact(&self) -> bool {
        self.answer.trim() == self.reference.trim()
    }
}

/// Writes the answers that a report will show, atomically, to `samples.json` of a run.
///
/// # Errors
/// [`TrackError::Fs`] if the file cannot be written.
pub fn write_samples(run_dir: &Path, samples: &[Sample]) -> Result<(), TrackError> {
    let path = run_dir.join(SAMPLES_FILE);
    let bad = |error: serde_json::Error| TrackError::Write {
        path: path.clone(),
        source: error.into(),
    };
    let text = serde_json::to_vec_pretty(samples).map_err(bad)?;
    Ok(fs::write_atomic(&path, &text)?)
}

/// What a run left behind.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) steps: Vec<StepRow>,
    pub(super) evals: Vec<EvalRow>,
    pub(super) samples: Vec<Sample>,
}

/// A step's line, as far as a report needs it. What is absent or `null` is NaN.
#[derive(Debug, Default, Clone)]
pub(super) struct StepRow {
    pub(super) step: f64,
    pub(super) fields: Map<String, Value>,
}

/// An evaluation's line.
#[derive(Debug, Default, Clone)]
pub(super) struct EvalRow {
    pub(super) step: f64,
    /// Names without `eval_`, in their order; without samples and seconds.
    pub(super) metrics: Vec<(String, f64)>,
    pub(super) samples: f64,
}

impl StepRow {
    pub(super) fn get(&self, name: &str) -> f64 {
        self.fields.get(name).and_then(Value::as_f64).unwrap_or(f64::NAN)
    }
}

impl EvalRow {
    pub(super) fn get(&self, name: &str) -> f64 {
        self.metrics
            .iter()
            .find(|(key, _)| key == name)
            .map_or(f64::NAN, |(_, value)| *value)
    }
}

impl History {
    pub(super) fn read(run_dir: &Path) -> Result<Self, TrackError> {
        let path = run_dir.join(METRICS_FILE);
        let text = fs::read_to_string(&path)?;
        let mut history = Self::default();
        for (index, line) in text.split_inclusive('\n').enumerate() {
            match serde_json::from_str::<Map<String, Value>>(line) {
                Ok(fields) => history.add(fields),
                // The run is writing this line, or was killed while it did.
                Err(_) if !line.ends_with('\n') => break,
                Err(source) => {
                    return Err(TrackError::Line {
                        path,
                        line: index + 1,
                        source,
                    });
                }
            }
        }
        let path = run_dir.join(SAMPLES_FILE);
        if path.exists() {
            let samples = serde_json::from_slice(&fs::read(&path)?);
            history.samples = samples.map_err(|source| TrackError::Samples { path, source })?;
        }
        Ok(history)
    }

    fn add(&mut self, fields: Map<String, Value>) {
        let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
        let step = fields.get("step").map_or(f64::NAN, number);
        if fields.contains_key("loss") {
            self.steps.push(StepRow { step, fields });
            return;
        }
        let mut row = EvalRow {
            step,
            ..EvalRow::default()
        };
        for (name, value) in &fields {
            match name.strip_prefix("eval_") {
                None | Some("seconds") => {}
                Some("samples") => row.samples = number(value),
                Some(name) => row.metrics.push((name.to_string(), number(value))),
            }
        }
        self.evals.push(row);
    }

    /// One field of all steps.
    pub(super) fn series(&self, name: &str) -> Vec<(f64, f64)> {
        self.steps.iter().map(|row| (row.step, row.get(name))).collect()
    }

    /// One metric of all evaluations that have it.
    pub(super) fn eval_series(&self, name: &str) -> Vec<(f64, f64)> {
        let all = self.evals.iter().map(|row| (row.step, row.get(name)));
        all.filter(|(_, value)| !value.is_nan()).collect()
    }

    /// All names of metrics, in the order in which they first appeared.
    pub(super) fn metric_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for (name, _) in self.evals.iter().flat_map(|row| &row.metrics) {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        names
    }

    /// Seconds of training without evaluations and checkpoints, from tokens and rates, since not each step is logged.
    pub(super) fn training_seconds(&self) -> f64 {
        let mut tokens_before = 0.0;
        let parts = self.steps.iter().map(|row| {
            let tokens = row.get("total_tokens");
            let seconds = (tokens - tokens_before) / row.get("tokens_per_second");
            tokens_before = tokens;
            seconds
        });
        parts.filter(|seconds| seconds.is_finite()).sum()
    }
}

/// The mean over a window around each point, a sixtieth of all points wide: smooth, and without a lag.
pub(super) fn smooth(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let reach = points.len() / 120;
    let window = |index: usize| &points[index.saturating_sub(reach)..points.len().min(index + reach + 1)];
    let mean = |index: usize| {
        let finite: Vec<f64> = window(index)
            .iter()
            .map(|(_, y)| *y)
            .filter(|y| y.is_finite())
            .collect();
        finite.iter().sum::<f64>() / finite.len() as f64
    };
    points
        .iter()
        .enumerate()
        .map(|(index, &(x, _))| (x, mean(index)))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn run(lines: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::append(&dir.path().join(METRICS_FILE))
            .unwrap()
            .write_all(lines.as_bytes())
            .unwrap();
        dir
    }

    #[test]
    fn reads_steps_and_evaluations_of_a_running_run() {
        let dir = run(
            "{\"step\":1,\"loss\":2.5,\"total_tokens\":100,\"tokens_per_second\":50}\n\
             {\"step\":1,\"epoch\":0.1,\"eval_loss\":3,\"eval_exact_match/a\":0.5,\"eval_samples\":9,\"eval_seconds\":1}\n\
             {\"step\":4,\"loss\":null,\"total_tokens\":400,\"tokens_per_second\":100}\n\
             {\"step\":5,\"lo",
        );
        let history = History::read(dir.path()).unwrap();
        assert_eq!(history.steps.len(), 2);
        assert!(history.series("loss")[1].1.is_nan());
        assert_eq!(history.eval_series("exact_match/a"), [(1.0, 0.5)]);
        assert_eq!(history.metric_names(), ["loss", "exact_match/a"]);
        assert_eq!(history.evals[0].samples, 9.0);
        assert_eq!(history.training_seconds(), 2.0 + 3.0);
    }

    #[test]
    fn a_broken_line_is_named() {
        let error = History::read(run("{\"step\":1,\"loss\":1}\n???\n").path())
            .unwrap_err()
            .to_string();
        assert!(error.contains("metrics.jsonl line 2"), "{error}");
    }

    #[test]
    fn samples_go_there_and_back() {
        let dir = run("");
        let sample = |image: Option<&str>, answer: &str| Sample {
            image: image.map(PathBuf::from),
            question: "How many?".into(),
            reference: "2".into(),
            answer: answer.into(),
            kind: "count".into(),
        };
        let samples = [sample(Some("a.png"), "2 "), sample(None, "3")];
        write_samples(dir.path(), &samples).unwrap();
        assert_eq!(History::read(dir.path()).unwrap().samples, samples);
        assert_eq!(samples.map(|sample| sample.is_exact()), [true, false]);
    }

    #[test]
    fn smoothing_keeps_a_constant_and_fills_gaps() {
        let points: Vec<_> = (0..600)
            .map(|n| (f64::from(n), if n == 300 { f64::NAN } else { 2.0 }))
            .collect();
        assert!(smooth(&points).iter().all(|&(_, y)| y == 2.0));
    }
}
