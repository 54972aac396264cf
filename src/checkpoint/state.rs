//! What a checkpoint holds: tensors, and everything else that affects the next step.

use std::collections::{BTreeMap, HashMap};

use brazier_models::{HostDtype, HostTensor};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{CheckpointError, Result};

/// How many names an error lists of each kind of difference.
const NUM_LISTED: usize = 8;

/// Everything a run needs to go on as if it had never stopped.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Parameters, fp32 masters, moments. Names are unique; [`super::load`] may give them back in another order.
    pub tensors: Vec<HostTensor>,
    /// The rest.
    pub state: RunState,
}

/// Counters and descriptions. What is a pure function of seed and step (schedule, data order) is not here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunState {
    /// Optimizer steps made.
    pub step: u64,
    /// Samples consumed over all ranks: the position in the endless stream of epochs.
    pub samples: u64,
    /// Tokens seen, without padding.
    pub tokens: u64,
    /// Tokens that were trained on.
    pub labelled_tokens: u64,
    /// Best evaluation so far.
    pub best: Option<Best>,
    /// Evaluations since then, for early stopping.
    pub evaluations_without_improvement: u32,
    /// [`fingerprint`] of the tensors.
    pub model_fingerprint: String,
    /// Hash of the resolved configuration, to tell the user that it changed. A change is no error by itself.
    pub config_hash: String,
    /// What the order of the data depends on (seed, number of samples, global batch size, …). A resumed run must agree.
    pub data: BTreeMap<String, String>,
}

/// The best evaluation so far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Best {
    /// Step after which it was measured.
    pub step: u64,
    /// Value of the run's metric; finite.
    pub value: f64,
}

impl RunState {
    /// Refuses to go on over data in another order.
    pub fn check_data(&self, current: &BTreeMap<String, String>) -> Result<()> {
        let absent = String::from("absent");
        let keys: std::collections::BTreeSet<_> = self.data.keys().chain(current.keys()).collect();
        let differences: Vec<String> = keys
            .into_iter()
            .filter(|key| self.data.get(*key) != current.get(*key))
            .map(|key| {
                let then = self.data.get(key).unwrap_or(&absent);
                let now = current.get(key).unwrap_or(&absent);
                format!("{key} was {then}, is {now}")
            })
            .collect();
        if differences.is_empty() {
            return Ok(());
        }
        Err(CheckpointError::OtherData {
            step: self.step,
            differences: differences.join("; "),
        })
    }
}

/// Name, shape and dtype of a tensor.
pub type TensorSpec = (String, Vec<usize>, HostDtype);

/// A hash over names, shapes and dtypes, independent of their order: equal for models that can exchange tensors.
pub fn fingerprint(tensors: &[TensorSpec]) -> String {
    let mut lines: Vec<String> = tensors
        .iter()
        .map(|(name, shape, dtype)| format!("{name} {shape:?} {dtype:?}\n"))
        .collect();
    lines.sort();
    let mut hasher = Sha256::new();
    lines.iter().for_each(|line| hasher.update(line));
    format!("{:x}", hasher.finalize())
}

/// Compares the tensors of the checkpoint of a step with those a model expects.
///
/// # Errors
/// [`CheckpointError::OtherModel`] with the first missing, unexpected and misshapen names.
pub fn check_model(step: u64, found: &[TensorSpec], expected: &[TensorSpec]) -> Result<()> {
    let mut found: HashMap<&str, (&Vec<usize>, HostDtype)> = found
        .iter()
        .map(|(name, shape, dtype)| (name.as_str(), (shape, *dtype)))
        .collect();
    let (mut missing, mut misshapen) = (Vec::new(), Vec::new());
    for (name, shape, dtype) in expected {
        match found.remove(name.as_str()) {
            None => missing.push(format!("{name} {shape:?} {dtype:?}")),
            Some(there) if there != (shape, *dtype) => misshapen.push(format!(
                "{name} {:?} {:?}, expected {shape:?} {dtype:?}",
                there.0, there.1
            )),
            Some(_) => {}
        }
    }
    let mut unexpected: Vec<String> = found
        .iter()
        .map(|(name, (shape, dtype))| format!("{name} {shape:?} {dtype:?}"))
        .collect();
    unexpected.sort();
    let differences: Vec<String> = [
        ("missing", missing),
        ("unexpected", unexpected),
        ("different", misshapen),
    ]
    .into_iter()
    .filter(|(_, names)| !names.is_empty())
    .map(|(kind, names)| describe(kind, &names))
    .collect();
    if differences.is_empty() {
        return Ok(());
    }
    Err(CheckpointError::OtherModel {
        step,
        differences: differences.join("; "),
    })
}

fn describe(kind: &str, names: &[String]) -> String {
    let listed = names
        .iter()
        .take(NUM_LISTED)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    match names.len().saturating_sub(NUM_LISTED) {
        0 => format!("{} {kind}: {listed}", names.len()),
        more => format!("{} {kind}: {listed} and {more} more", names.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> RunState {
        RunState {
            step: 7,
            samples: 0,
            tokens: 0,
            labelled_tokens: 0,
            best: None,
            evaluations_without_improvement: 0,
            model_fingerprint: String::new(),
            config_hash: String::new(),
            data: BTreeMap::from([("seed".into(), "1".into()), ("samples".into(), "100".into())]),
        }
    }

    #[test]
    fn another_model_is_refused_with_its_differences() {
        let f32 = HostDtype::F32;
        let found = [
            ("a".into(), vec![2], f32),
            ("b".into(), vec![3], f32),
            ("x".into(), vec![1], HostDtype::Bf16),
        ];
        let same = [
            ("b".into(), vec![3], f32),
            ("a".into(), vec![2], f32),
            ("x".into(), vec![1], HostDtype::Bf16),
        ];
        check_model(7, &found, &same).unwrap();

        let other = [
            ("a".into(), vec![2], f32),
            ("b".into(), vec![4], f32),
            ("c".into(), vec![5], f32),
        ];
        let message = check_model(7, &found, &other).unwrap_err().to_string();
        assert!(message.contains("1 missing: c [5] F32"), "{message}");
        assert!(message.contains("1 unexpected: x [1] Bf16"), "{message}");
        assert!(
            message.contains("1 different: b [3] F32, expected [4] F32"),
            "{message}"
        );

        let other_dtype = [
            ("a".into(), vec![2], HostDtype::Bf16),
            same[0].clone(),
            same[2].clone(),
        ];
        assert!(check_model(7, &found, &other_dtype).is_err());
    }

    #[test]
    fn the_fingerprint_sees_names_shapes_and_dtypes_but_not_their_order() {
        let f32 = HostDtype::F32;
        let base = fingerprint(&[("a".into(), vec![2, 3], f32), ("b".into(), vec![1], f32)]);
        assert_eq!(
            base,
            fingerprint(&[("b".into(), vec![1], f32), ("a".into(), vec![2, 3], f32)])
        );
        for other in [
            ("a", vec![3, 2], f32),
            ("c", vec![2, 3], f32),
            ("a", vec![2, 3], HostDtype::Bf16),
        ] {
            let (name, shape, dtype) = other;
            assert_ne!(
                base,
                fingerprint(&[(name.into(), shape, dtype), ("b".into(), vec![1], f32)])
            );
        }
    }

    #[test]
    fn other_data_is_refused_with_both_values() {
        let state = state();
        state.check_data(&state.data).unwrap();
        let mut now = state.data.clone();
        now.insert("seed".into(), "2".into());
        now.insert("batch".into(), "8".into());
        let message = state.check_data(&now).unwrap_err().to_string();
        assert!(message.contains("seed was 1, is 2"), "{message}");
        assert!(message.contains("batch was absent, is 8"), "{message}");
        assert!(!message.contains("samples was"), "{message}");
    }
}
