//! A run's estimate, and what it decides by it.

use brazier_models::{DecoderConfig, LoraConfig, VlmConfig};

use super::memory::{BatchShape, MemoryEstimate, bytes_of, estimate_memory, readable};
use crate::{
    config::run::{RunConfig, TrainChoice},
    data::Grouping,
    learner::options::{Recompute, Zero},
};

/// Of the memory there is, what an estimate may fill: the rest is for what the estimate leaves out.
const SHARE_TO_FILL: f64 = 0.8;

impl RunConfig {
    /// Memory of a step with the longest rows this run allows, on one of its ranks. Each row has one image, or as many as
    /// samples that share it may bring.
    pub fn memory(&self, model: &VlmConfig, lora: Option<&LoraConfig>, logit_rows: usize) -> MemoryEstimate {
        let rows = self.train.micro_batch_size;
        let images = model
            .vision
            .as_ref()
            .map_or(0, |vision| rows * self.images_per_row(vision.num_image_tokens()));
        let shape = BatchShape {
            rows,
            length: self.data.padded_length(),
            images,
            logit_rows,
        };
        let parallel = &self.parallel.learner;
        let of = |model: &VlmConfig| {
            let TrainChoice {
                mode,
                precision,
                recompute,
                ..
            } = self.train;
            estimate_memory(model, lora, mode, precision, recompute, shape)
        };
        let copies = self.world.of_data(parallel.tensor).size as u64;
        let whole = of(model);
        // A block of a part is two links, each with an input.
        let inputs = match self.train.recompute {
            Recompute::None => 0,
            Recompute::Blocks => (shape.rows * shape.length * model.text.hidden_size) as u64,
        };
        let more = bytes_of(self.train.precision) * model.text.num_hidden_layers as u64 * inputs;
        match parallel.tensor {
            1 => whole,
            tensor => whole.with_bytes_of(of(&part_of(model, tensor)), more),
        }
        .of_one_rank(copies, parallel)
    }

    /// Decides what `train.recompute: auto` leaves open, from the bytes a rank's device has, and says why; nothing where the
    /// user has decided.
    pub fn settle_recompute(
        &mut self,
        model: &VlmConfig,
        lora: Option<&LoraConfig>,
        logit_rows: usize,
        available: u64,
    ) -> Option<String> {
        self.train.auto_recompute?;
        let keeping = RunConfig {
            train: TrainChoice {
                recompute: Recompute::None,
                ..self.train.clone()
            },
            ..self.clone()
        };
        let needed = keeping.memory(model, lora, logit_rows).total_bytes();
        let [needed_text, available_text] = [needed, available].map(readable);
        // Parameters that come and go with their block must not be held by what the block keeps.
        let parallel = &self.parallel.learner;
        if parallel.zero == Zero::Parameters && self.world.of_data(parallel.tensor).size > 1 {
            return Some("blocks, which parallel.zero: 3 needs".to_owned());
        }
        let fits = needed as f64 <= SHARE_TO_FILL * available as f64;
        if fits {
            self.train.recompute = Recompute::None;
        }
        let (name, verb) = if fits {
            ("none", "fits")
        } else {
            ("blocks", "is too much")
        };
        Some(format!(
            "{name}: keeping all takes about {needed_text} of {available_text}, which {verb}"
        ))
    }

    fn images_per_row(&self, num_image_tokens: usize) -> usize {
        let Grouping::Packed { max_images } = self.data.grouping else {
            return 1;
        };
        let fitting = self.data.sequence_length / num_image_tokens.max(1);
        fitting.min(max_images.unwrap_or(fitting)).max(1)
    }
}

/// The largest of the parts that so many ranks have of a model.
fn part_of(model: &VlmConfig, tensor: usize) -> VlmConfig {
    let text = &model.text;
    VlmConfig {
        text: DecoderConfig {
            num_attention_heads: text.num_attention_heads.div_ceil(tensor),
            num_key_value_heads: text.num_key_value_heads.div_ceil(tensor),
            intermediate_size: text.intermediate_size.div_ceil(tensor),
            vocab_size: text.vocab_size.div_ceil(tensor),
            ..text.clone()
        },
        ..model.clone()
    }
}
