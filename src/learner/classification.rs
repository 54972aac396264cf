//! How good a classification is.

use crate::data::SampleId;

/// What the model says of one row.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// The row.
    pub sample: SampleId,
    /// Its class.
    pub class: usize,
    /// Probability of each class.
    pub probabilities: Vec<f32>,
}

impl Prediction {
    /// From the logits of the classes.
    pub(super) fn new(sample: SampleId, class: usize, logits: &[f32]) -> Self {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exps: Vec<f32> = logits.iter().map(|logit| (logit - largest).exp()).collect();
        let sum: f32 = exps.iter().sum();
        Self {
            sample,
            class,
            probabilities: exps.into_iter().map(|exp| exp / sum).collect(),
        }
    }

    /// The most probable class; of several the first.
    pub fn predicted(&self) -> usize {
        let mut best = 0;
        for (class, probability) in self.probabilities.iter().enumerate() {
            if *probability > self.probabilities[best] {
                best = class;
            }
        }
        best
    }
}

/// `eval_accuracy` and `eval_macro_f1`; for two classes also precision, recall and F1 of class 1, and the area under the
/// ROC curve of its probability, if both classes occur. As scikit-learn computes them.
pub(super) fn metrics(predictions: &[Prediction], num_labels: usize) -> Vec<(String, f64)> {
    let pairs: Vec<(usize, usize)> = predictions
        .iter()
        .map(|row| (row.class, row.predicted()))
        .collect();
    let right = pairs
        .iter()
        .filter(|(class, predicted)| class == predicted)
        .count();
    let scores: Vec<ClassScore> = (0..num_labels)
        .map(|class| ClassScore::of(class, &pairs))
        .collect();
    // A class that neither occurs nor is predicted has no part in the mean.
    let present: Vec<f64> = scores
        .iter()
        .filter(|score| score.occurs)
        .map(|score| score.f1)
        .collect();
    let mut metrics = vec![
        ("eval_accuracy", right as f64 / pairs.len() as f64),
        (
            "eval_macro_f1",
            present.iter().sum::<f64>() / present.len() as f64,
        ),
    ];
    if let [_, one] = scores.as_slice() {
        metrics.extend([
            ("eval_precision", one.precision),
            ("eval_recall", one.recall),
            ("eval_f1", one.f1),
        ]);
        metrics.extend(auroc(predictions).map(|area| ("eval_auroc", area)));
    }
    metrics
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// Scores of one class against all others; 0 where nothing can be divided.
struct ClassScore {
    occurs: bool,
    precision: f64,
    recall: f64,
    f1: f64,
}

impl ClassScore {
    fn of(class: usize, pairs: &[(usize, usize)]) -> Self {
        let count = |wanted: &dyn Fn(&(usize, usize)) -> bool| {
            pairs.iter().filter(|pair| wanted(pair)).count() as f64
        };
        let both = count(&|pair| *pair == (class, class));
        let (actual, predicted) = (count(&|pair| pair.0 == class), count(&|pair| pair.1 == class));
        let ratio = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        Self {
            occurs: actual + predicted > 0.0,
            precision: ratio(both, predicted),
            recall: ratio(both, actual),
            f1: ratio(2.0 * both, actual + predicted),
        }
    }
}

/// The share of pairs of a row of class 1 and one of class 0 in which the first has the larger probability of class 1; ties
/// count half (Mann and Whitney, 1947).
fn auroc(predictions: &[Prediction]) -> Option<f64> {
    let mut rows: Vec<(f32, bool)> = predictions
        .iter()
        .map(|row| (row.probabilities[1], row.class == 1))
        .collect();
    rows.sort_by(|a, b| a.0.total_cmp(&b.0));
    let positives = rows.iter().filter(|(_, positive)| *positive).count() as f64;
    let negatives = rows.len() as f64 - positives;
    if positives == 0.0 || negatives == 0.0 {
        return None;
    }
    let (mut below, mut wins) = (0.0, 0.0);
    for tied in rows.chunk_by(|a, b| a.0 == b.0) {
        let positive = tied.iter().filter(|(_, positive)| *positive).count() as f64;
        let negative = tied.len() as f64 - positive;
        wins += positive * (below + negative / 2.0);
        below += negative;
    }
    Some(wins / (positives * negatives))
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use super::*;

    fn rows(rows: &[(usize, &[f32])]) -> Vec<Prediction> {
        let file: Arc<Path> = Path::new("rows.jsonl").into();
        let numbered = rows.iter().zip(1..);
        numbered
            .map(|((class, probabilities), line)| Prediction {
                sample: SampleId {
                    file: file.clone(),
                    line,
                },
                class: *class,
                probabilities: probabilities.to_vec(),
            })
            .collect()
    }

    #[track_caller]
    fn check(found: &[(String, f64)], expected: &[(&str, f64)]) {
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, expected.iter().map(|(name, _)| *name).collect::<Vec<_>>());
        for ((name, found), (_, expected)) in found.iter().zip(expected) {
            assert!(
                (found - expected).abs() < 1e-12,
                "{name}: {found}, expected {expected}"
            );
        }
    }

    /// The numbers are scikit-learn's, for these rows.
    #[test]
    fn two_classes() {
        let predictions = rows(&[
            (0, &[0.9, 0.1]),
            (0, &[0.6, 0.4]),
            (1, &[0.65, 0.35]),
            (1, &[0.2, 0.8]),
            (0, &[0.2, 0.8]),
            (1, &[0.4, 0.6]),
        ]);
        check(
            &metrics(&predictions, 2),
            &[
                ("eval_accuracy", 4.0 / 6.0),
                ("eval_macro_f1", 2.0 / 3.0),
                ("eval_precision", 2.0 / 3.0),
                ("eval_recall", 2.0 / 3.0),
                ("eval_f1", 2.0 / 3.0),
                ("eval_auroc", 5.5 / 9.0),
            ],
        );
    }

    #[test]
    fn more_classes_and_some_that_are_not_there() {
        let predictions = rows(&[
            (0, &[0.5, 0.3, 0.1, 0.1]),
            (1, &[0.5, 0.3, 0.1, 0.1]),
            (1, &[0.1, 0.7, 0.1, 0.1]),
            (2, &[0.1, 0.7, 0.1, 0.1]),
        ]);
        // F1 of the classes: 2/3, 1/2, 0; the fourth neither occurs nor is predicted.
        check(
            &metrics(&predictions, 4),
            &[("eval_accuracy", 0.5), ("eval_macro_f1", (2.0 / 3.0 + 0.5) / 3.0)],
        );
        // Of one class alone there is no curve.
        let one = metrics(&rows(&[(1, &[0.2, 0.8])]), 2);
        assert!(one.iter().all(|(name, _)| name != "eval_auroc"));
    }

    #[test]
    fn probabilities_are_the_softmax() {
        let sample = rows(&[(0, &[1.0])]).remove(0).sample;
        let row = Prediction::new(sample, 2, &[1000.0, 1000.0 + 3f32.ln(), 999.0]);
        let expected = [1.0, 3.0, (-1f32).exp()].map(|x| x / (4.0 + (-1f32).exp()));
        for (found, expected) in row.probabilities.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-4, "{found}, expected {expected}");
        }
        assert_eq!(row.predicted(), 1);
    }
}
