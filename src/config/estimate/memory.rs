//! What a step holds.

use std::fmt;

use brazier_models::{
    DecoderConfig, Head, LoraConfig, MlpKind, VisionLanguageConfig, VlmConfig, lora::linears,
};

use super::parameters::{ParameterCounts, head_parameters, num_parameters};
use crate::learner::options::{ParallelConfig, Precision, Recompute, TrainMode, Zero};

/// Sizes of one forward pass on one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchShape {
    /// Rows.
    pub rows: usize,
    /// Tokens of a row.
    pub length: usize,
    /// Images in all rows together.
    pub images: usize,
    /// Rows of logits that exist at the same time.
    pub logit_rows: usize,
}

/// Bytes by part, at the fullest moment of a step. Displayed as a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// Numbers of parameters.
    pub counts: ParameterCounts,
    /// Parameters of adapters, which come on top.
    pub adapters: u64,
    /// How many parameters are trained.
    pub trained: u64,
    /// Parameters in the compute dtype.
    pub parameters_bytes: u64,
    /// Accumulated gradients.
    pub gradients_bytes: u64,
    /// Masters and moments.
    pub optimizer_bytes: u64,
    /// What the backward pass finds.
    pub activations_bytes: u64,
    /// A chunk of logits and its gradient.
    pub logits_bytes: u64,
    /// Ids, labels, pixels and the embedded sequence.
    pub batch_bytes: u64,
    /// Masters and moments that are in host memory instead; not a part of the sum.
    pub offloaded_bytes: u64,
}

impl MemoryEstimate {
    /// The numbers of this model with the bytes of a part of it, whose activations take `more` than those of a model of its
    /// size.
    #[must_use]
    pub(super) fn with_bytes_of(self, part: Self, more: u64) -> Self {
        Self {
            counts: self.counts,
            adapters: self.adapters,
            trained: self.trained,
            activations_bytes: part.activations_bytes + more,
            ..part
        }
    }

    /// What one of several ranks holds of it.
    #[must_use]
    pub fn of_one_rank(self, ranks: u64, parallel: &ParallelConfig) -> Self {
        let part = |bytes: u64, from: Zero| match parallel.zero >= from {
            true => bytes.div_ceil(ranks),
            false => bytes,
        };
        let optimizer_bytes = part(self.optimizer_bytes, Zero::Optimizer);
        let (optimizer_bytes, offloaded_bytes) = match parallel.offload {
            true => (0, optimizer_bytes),
            false => (optimizer_bytes, 0),
        };
        Self {
            parameters_bytes: part(self.parameters_bytes, Zero::Parameters),
            gradients_bytes: part(self.gradients_bytes, Zero::Gradients),
            optimizer_bytes,
            offloaded_bytes,
            ..self
        }
    }

    /// All parts.
    pub fn total_bytes(&self) -> u64 {
        self.rows().iter().map(|(_, bytes)| bytes).sum()
    }

    fn rows(&self) -> [(&'static str, u64); 6] {
        [
            ("parameters", self.parameters_bytes),
            ("gradients", self.gradients_bytes),
            ("optimizer", self.optimizer_bytes),
            ("activations", self.activations_bytes),
            ("logits", self.logits_bytes),
            ("batch", self.batch_bytes),
        ]
    }
}

impl fmt::Display for MemoryEstimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ParameterCounts {
            vision,
            projector,
            language,
        } = self.counts;
        for (part, count) in [
            ("vision", vision),
            ("projector", projector),
            ("language", language),
            ("adapters", self.adapters),
            ("all", self.counts.total() + self.adapters),
            ("trained", self.trained),
        ] {
            writeln!(f, "parameters, {part:<10} {count:>16}")?;
        }
        for (part, bytes) in self.rows() {
            writeln!(f, "memory, {part:<14} {:>16}", readable(bytes))?;
        }
        write!(f, "memory, {:<14} {:>16}", "all", readable(self.total_bytes()))?;
        match self.offloaded_bytes {
            0 => Ok(()),
            bytes => write!(f, "\nmemory, {:<14} {:>16}", "of the host", readable(bytes)),
        }
    }
}

/// `1.5 GiB`.
pub fn readable(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, larger);
    }
    if unit == "B" {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {unit}")
    }
}

/// What a step of this model holds in memory; see the head of this file for the formulas.
pub fn estimate_memory(
    model: &VlmConfig,
    lora: Option<&LoraConfig>,
    mode: TrainMode,
    precision: Precision,
    recompute: Recompute,
    shape: BatchShape,
) -> MemoryEstimate {
    let width = bytes_of(precision);
    let counts = num_parameters(model);
    let (language, vision) = lora.map_or((0, 0), |lora| lora.num_parameters(model));
    let adapters = language + vision;
    // The parts whose weights, or else adapters, are trained.
    let moving = match lora {
        Some(_) => ParameterCounts {
            language: language + head_parameters(model),
            vision,
            ..counts
        },
        None => counts,
    };
    let trained = moving.trained(mode);
    // A tower without adapters rests beside them, as it does in that mode.
    let mode = match (lora, mode) {
        (Some(lora), TrainMode::Full) if !lora.parts.has_vision() => TrainMode::EndToEnd,
        _ => mode,
    };
    let optimizer_width = match precision {
        Precision::F32 => 8,
        Precision::Bf16 => 12,
    };
    let tokens = (shape.rows * shape.length) as u64;
    let logits = match &model.head {
        Head::Lm => shape.logit_rows * model.text.vocab_size,
        Head::Classification { labels } => shape.rows * labels.len(),
    } as u64;
    let side = model.vision.as_ref().map_or(0, |vision| vision.vision.image_size);
    let pixels = (shape.images * 3 * side * side) as u64;
    MemoryEstimate {
        counts,
        adapters,
        trained,
        parameters_bytes: width * (counts.total() + adapters),
        gradients_bytes: 4 * trained,
        optimizer_bytes: optimizer_width * trained,
        activations_bytes: activations(model, lora, mode, width, recompute, shape),
        logits_bytes: 2 * 4 * logits,
        batch_bytes: 2 * 4 * tokens + 4 * pixels + width * tokens * model.text.hidden_size as u64,
        offloaded_bytes: 0,
    }
}

/// Bytes of a number in the compute dtype.
pub(super) fn bytes_of(precision: Precision) -> u64 {
    match precision {
        Precision::F32 => 4,
        Precision::Bf16 => 2,
    }
}

/// Blocks of one kind.
struct Blocks {
    number: u64,
    /// Bytes that one keeps for its backward pass.
    whole: u64,
    /// Bytes of its input.
    input: u64,
}

impl Blocks {
    fn kept(&self, recompute: Recompute) -> u64 {
        match recompute {
            Recompute::None => self.number * self.whole,
            Recompute::Blocks => self.number * self.input,
        }
    }
}

fn activations(
    model: &VlmConfig,
    lora: Option<&LoraConfig>,
    mode: TrainMode,
    width: u64,
    recompute: Recompute,
    shape: BatchShape,
) -> u64 {
    let kept_by_adapters = |prefix: &str, num_blocks: usize| {
        lora.map_or(0, |lora| {
            adapter_columns(lora, model, prefix) / num_blocks.max(1) as u64
        })
    };
    let mut text = decoder_blocks(&model.text, width, shape);
    let tokens = (shape.rows * shape.length) as u64;
    text.whole += tokens * width * kept_by_adapters("language_model.", model.text.num_hidden_layers);
    let Some(vision) = &model.vision else {
        return text.kept(recompute) + transient(recompute, &[&text]);
    };
    let mut tower = vision_blocks(vision, width, shape);
    let tokens = (shape.images * vision.vision.num_positions()) as u64;
    tower.whole += tokens * width * kept_by_adapters("vision_tower.", vision.vision.num_hidden_layers);
    let projector = match mode {
        TrainMode::LmOnly => 0,
        TrainMode::Alignment | TrainMode::EndToEnd | TrainMode::Full => {
            projector_bytes(vision, &model.text, width, shape)
        }
    };
    match mode {
        TrainMode::Full => {
            text.kept(recompute) + tower.kept(recompute) + projector + transient(recompute, &[&text, &tower])
        }
        // Gradients stop below the projector, so the tower's blocks come and go.
        TrainMode::Alignment | TrainMode::EndToEnd | TrainMode::LmOnly => {
            text.kept(recompute) + projector + transient(recompute, &[&text])
        }
    }
}

/// Numbers that all adapters of a part keep for one token.
fn adapter_columns(lora: &LoraConfig, model: &VlmConfig, prefix: &str) -> u64 {
    let layers = linears(model).into_iter();
    let layers = layers.filter(|layer| layer.path.starts_with(prefix) && lora.targets(&layer.path));
    let columns = layers.map(|layer| {
        let dropped = if lora.lora_dropout > 0.0 {
            2 * layer.d_in
        } else {
            0
        };
        (lora.r + dropped) as u64
    });
    columns.sum()
}

/// The block that is being computed again.
fn transient(recompute: Recompute, blocks: &[&Blocks]) -> u64 {
    match recompute {
        Recompute::None => 0,
        Recompute::Blocks => blocks.iter().map(|blocks| blocks.whole).max().unwrap_or_default(),
    }
}

fn decoder_blocks(config: &DecoderConfig, width: u64, shape: BatchShape) -> Blocks {
    let &DecoderConfig {
        hidden_size,
        intermediate_size,
        num_hidden_layers,
        head_dim,
        ..
    } = config;
    let queries = config.num_attention_heads * head_dim;
    let keys = config.num_key_value_heads * head_dim;
    let inner = match config.mlp {
        MlpKind::SwiGlu => 4 * intermediate_size,
        MlpKind::Xielu => 2 * intermediate_size,
    };
    let kept = 4 * hidden_size + 2 * queries + 3 * keys + queries + inner;
    let tokens = (shape.rows * shape.length) as u64;
    Blocks {
        number: num_hidden_layers as u64,
        whole: tokens * (width * kept as u64 + 4 * config.num_attention_heads as u64),
        input: tokens * width * hidden_size as u64,
    }
}

fn vision_blocks(config: &VisionLanguageConfig, width: u64, shape: BatchShape) -> Blocks {
    let vision = &config.vision;
    let tokens = (shape.images * vision.num_positions()) as u64;
    let kept = 8 * vision.hidden_size + 2 * vision.intermediate_size;
    Blocks {
        // What lies above the selected hidden state is not computed.
        number: config.num_vision_blocks().unwrap_or(vision.num_hidden_layers) as u64,
        whole: tokens * (width * kept as u64 + 4 * vision.num_attention_heads as u64),
        input: tokens * width * vision.hidden_size as u64,
    }
}

/// Input of the projector, what lies between its layers, and the input of a norm before it.
fn projector_bytes(
    config: &VisionLanguageConfig,
    text: &DecoderConfig,
    width: u64,
    shape: BatchShape,
) -> u64 {
    let tokens = config.vision.num_patches() + usize::from(config.keeps_class_token());
    let features = tokens * config.vision.hidden_size;
    let normed = if config.vision_post_layernorm { features } else { 0 };
    let layers = config
        .projector
        .layers(config.vision.hidden_size, text.hidden_size);
    let between = layers
        .iter()
        .skip(1)
        .map(|(from, _)| 2 * config.num_image_tokens() * from);
    shape.images as u64 * width * (features + normed + between.sum::<usize>()) as u64
}
