//! The two kinds of lines in metrics.jsonl.
//!
//! Numbers are written with the fewest digits that read back as the same bits, f32 as f32 and f64 as f64. NaN and
//! infinity, which JSON lacks, become `null`.

use serde::{Serialize, Serializer, ser::SerializeMap};

/// One logged optimizer step, over all ranks. The field names are those of metrics.jsonl.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct StepRecord {
    /// Optimizer steps done, this one included; the first is 1.
    pub step: u64,
    /// Passes over the training data so far.
    pub epoch: f64,
    /// Cross-entropy in nats per labelled token of this step.
    pub loss: f32,
    /// Peak-group learning rate used by this step.
    pub lr: f64,
    /// Global L2 norm of the gradient before clipping.
    pub grad_norm: f32,
    /// Tokens of this step without padding.
    pub tokens: u64,
    /// Tokens of this step that were trained on.
    pub labelled_tokens: u64,
    /// Samples of this step.
    pub samples: u64,
    /// Wall time of the whole step.
    pub step_seconds: f64,
    /// Of it, waiting for data.
    pub data_seconds: f64,
    /// Of it, forward and backward passes.
    pub forward_backward_seconds: f64,
    /// Of it, clipping and the optimizer.
    pub optimizer_seconds: f64,
    /// `tokens / step_seconds`.
    pub tokens_per_second: f64,
    /// `samples / step_seconds`.
    pub samples_per_second: f64,
    /// Floating-point operations that the step cannot do without, per device and second, in 10^12.
    pub tflops: f64,
    /// `tflops` as a share of `track.peak_tflops`; left out of the line where that is not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mfu: Option<f64>,
    /// Images of this step for which the vision tower had nothing to compute; left out of the line where there is no cache
    /// for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vision_cache_hits: Option<u64>,
    /// Images of this step that went through the vision tower; left out as above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vision_cache_misses: Option<u64>,
    /// Tokens without padding since the first step of the run, resumptions included.
    pub total_tokens: u64,
    /// Memory in use on the device; left out of the line where it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_memory_bytes: Option<u64>,
    /// Resident memory of this process; left out of the line where it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process_memory_bytes: Option<u64>,
    /// What each rank did; left out of the line where there is one.
    #[serde(flatten)]
    pub ranks: Option<RanksRecord>,
}

/// One value for each rank, of a mean step since the last line.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct RanksRecord {
    /// Waiting for data.
    pub rank_data_seconds: Vec<f64>,
    /// The step without waiting for other ranks.
    pub rank_work_seconds: Vec<f64>,
    /// Operations between ranks, whether anybody waited for them or not.
    pub rank_communication_seconds: Vec<f64>,
    /// Memory on the device, or resident memory of the process where that is not known.
    pub rank_memory_bytes: Vec<u64>,
    /// The rank that works longest: the others wait for it.
    pub slowest_rank: usize,
}

/// One evaluation. Its line has `step`, `epoch`, the metrics under their own names, `eval_samples`, `eval_seconds`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct EvalRecord {
    /// Optimizer steps done when it was made; 0 before training.
    pub step: u64,
    /// Passes over the training data so far.
    pub epoch: f64,
    /// Full names with values: `eval_loss`, `eval_perplexity`, `eval_exact_match` (a fraction of 1), and
    /// `eval_exact_match/<type>` for each type of question.
    pub metrics: Vec<(String, f64)>,
    /// Wall time.
    pub seconds: f64,
    /// Samples evaluated.
    pub samples: u64,
}

impl EvalRecord {
    /// The value of one metric by its full name.
    pub fn metric(&self, name: &str) -> Option<f64> {
        self.metrics
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| *value)
    }
}

impl Serialize for EvalRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.metrics.len() + 4))?;
        map.serialize_entry("step", &self.step)?;
        map.serialize_entry("epoch", &self.epoch)?;
        for (name, value) in &self.metrics {
            map.serialize_entry(name, value)?;
        }
        map.serialize_entry("eval_samples", &self.samples)?;
        map.serialize_entry("eval_seconds", &self.seconds)?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_lines_have_the_documented_names_in_order() {
        let full = StepRecord {
            mfu: Some(0.5),
            vision_cache_hits: Some(3),
            vision_cache_misses: Some(4),
            device_memory_bytes: Some(1),
            process_memory_bytes: Some(2),
            ..StepRecord::default()
        };
        let value = serde_json::to_value(&full).unwrap();
        let names: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
        let expected = "step epoch loss lr grad_norm tokens labelled_tokens samples step_seconds data_seconds \
                        forward_backward_seconds optimizer_seconds tokens_per_second samples_per_second \
                        tflops mfu vision_cache_hits vision_cache_misses total_tokens device_memory_bytes process_memory_bytes";
        assert_eq!(names.join(" "), expected);
        let bare = serde_json::to_string(&StepRecord::default()).unwrap();
        assert!(!bare.contains("memory") && !bare.contains("cache"), "{bare}");
    }

    #[test]
    fn evaluation_lines_spread_their_metrics() {
        let metrics = vec![
            ("eval_loss".to_string(), 0.1),
            ("eval_exact_match/count".to_string(), 0.5),
        ];
        let record = EvalRecord {
            step: 7,
            epoch: 0.5,
            metrics,
            seconds: 1.5,
            samples: 64,
        };
        let line = serde_json::to_string(&record).unwrap();
        let expected = r#"{"step":7,"epoch":0.5,"eval_loss":0.1,"eval_exact_match/count":0.5,"eval_samples":64,"eval_seconds":1.5}"#;
        assert_eq!(line, expected);
    }

    #[test]
    fn every_bit_of_an_f32_survives() {
        // A walk through the exponents with a stride that is coprime to the mantissa's length.
        for bits in (0_u32..0x7f80_0000)
            .step_by(1_000_003)
            .chain([1, 0x007f_ffff, 0x0080_0000, 0x7f7f_ffff])
        {
            let loss = f32::from_bits(bits);
            let line = serde_json::to_string(&StepRecord {
                loss,
                ..StepRecord::default()
            })
            .unwrap();
            let text = line.split("\"loss\":").nth(1).unwrap().split(',').next().unwrap();
            assert_eq!(text.parse::<f32>().unwrap().to_bits(), bits, "{text}");
            // Readers such as Python take the detour over f64.
            assert_eq!((text.parse::<f64>().unwrap() as f32).to_bits(), bits, "{text}");
        }
    }

    #[test]
    fn what_is_not_finite_is_null() {
        let record = StepRecord {
            loss: f32::NAN,
            grad_norm: f32::INFINITY,
            ..StepRecord::default()
        };
        let line = serde_json::to_string(&record).unwrap();
        assert!(
            line.contains(r#""loss":null"#) && line.contains(r#""grad_norm":null"#),
            "{line}"
        );
    }
}
