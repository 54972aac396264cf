//! How many parameters a model has, and how much memory a step takes: closed formulas, no device.
//!
//! Parameters are exact. Memory is what the run holds on to at its fullest moment, the middle of the backward
//! pass:
//!
//! * parameters: all of them, in the compute dtype (`p` bytes each: 4 for f32, 2 for bf16);
//! * adapters (LoRA): their parameters besides; each one keeps the `r` columns between its factors, and with dropout its
//!   input as it was dropped, and the mask;
//! * gradients: 4 bytes for each trained parameter, since accumulation is in f32;
//! * optimizer: two moments of 4 bytes for each trained parameter, and under bf16 a master of 4 bytes; under
//!   f32 the parameter is its own master;
//! * activations: `p` bytes for each number that a block keeps for its backward pass. With hidden size `D`,
//!   MLP width `I`, `q` and `k` columns of queries and of keys, a decoder block keeps for each token the
//!   inputs of both norms and of the projections behind them (`4D`), queries, keys and values as projected
//!   and queries and keys as rotated (`2q + 3k`), the attention's output (`q`) and the MLP's gate, its
//!   activation, up and their product (`4I`; without a gate up and its activation, `2I`). A vision block keeps
//!   `4D + 3D + D + 2I`. The projector keeps its input, and between two layers what goes into the GELU and what comes out; a
//!   tower's last norm before it keeps its own input. Each attention adds an f32 log-sum-exp for each head. Blocks below which nothing is trained keep nothing. With
//!   `recompute: blocks` a block keeps its input (`D`), and the largest block is whole once;
//! * logits: a chunk of rows times the vocabulary, as f32 logits and as their gradient;
//! * batch: ids and labels, pixels in f32, and the embedded sequence in the compute dtype.
//!
//! Of several ranks each holds its part of what `parallel.zero` names; what a block puts together for a moment is not
//! counted. With `parallel.offload` masters and moments are in host memory.
//!
//! What an allocator wastes and what kernels borrow for a moment is not in it.

use std::fmt;

use brazier_models::{
    AttentionBias, DecoderConfig, Head, LoraConfig, MlpKind, VisionConfig, VisionLanguageConfig, VlmConfig,
    lora::linears,
};

use super::run::{RunConfig, TrainChoice};
use crate::{
    data::Grouping,
    learner::options::{ParallelConfig, Precision, Recompute, TrainMode, Zero},
};

/// Of the memory there is, what an estimate may fill: the rest is for what the estimate leaves out.
const SHARE_TO_FILL: f64 = 0.8;

/// Numbers of parameters by part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParameterCounts {
    /// The vision tower.
    pub vision: u64,
    /// The projector.
    pub projector: u64,
    /// The language model, its head included; a tied head counts once.
    pub language: u64,
}

impl ParameterCounts {
    /// All parts.
    pub fn total(&self) -> u64 {
        self.vision + self.projector + self.language
    }

    /// The parts that move in this mode.
    pub fn trained(&self, mode: TrainMode) -> u64 {
        match mode {
            TrainMode::Alignment => self.projector,
            TrainMode::EndToEnd => self.projector + self.language,
            TrainMode::LmOnly => self.language,
            TrainMode::Full => self.total(),
        }
    }
}

/// Exact numbers of parameters.
pub fn num_parameters(model: &VlmConfig) -> ParameterCounts {
    let (vision, projector) = match &model.vision {
        Some(vision) => (
            vision_parameters(&vision.vision),
            projector_parameters(vision, &model.text),
        ),
        None => (0, 0),
    };
    ParameterCounts {
        vision,
        projector,
        language: language_parameters(&model.text, &model.head),
    }
}

fn language_parameters(config: &DecoderConfig, head: &Head) -> u64 {
    let &DecoderConfig {
        vocab_size,
        hidden_size,
        intermediate_size,
        num_hidden_layers,
        head_dim,
        ..
    } = config;
    let &DecoderConfig {
        num_attention_heads,
        num_key_value_heads,
        tie_word_embeddings,
        attention_bias,
        qk_norm,
        mlp,
        mlp_bias,
        ..
    } = config;
    let heads = num_attention_heads + 2 * num_key_value_heads;
    let attention_biases = match attention_bias {
        AttentionBias::None => 0,
        AttentionBias::Qkv => head_dim * heads,
        AttentionBias::All => head_dim * heads + hidden_size,
    };
    let attention =
        2 * hidden_size * head_dim * (num_attention_heads + num_key_value_heads) + attention_biases;
    let head_norms = if qk_norm { 2 * head_dim } else { 0 };
    let (inner, alphas) = match mlp {
        MlpKind::SwiGlu => (2, 0),
        MlpKind::Xielu => (1, 2),
    };
    let mlp_biases = if mlp_bias {
        inner * intermediate_size + hidden_size
    } else {
        0
    };
    let mlp = (inner + 1) * hidden_size * intermediate_size + alphas + mlp_biases;
    let block = 2 * hidden_size + attention + head_norms + mlp;
    let head_rows = match head {
        Head::Lm if tie_word_embeddings => 0,
        Head::Lm => vocab_size,
        Head::Classification { labels } => labels.len(),
    };
    ((vocab_size + head_rows) * hidden_size + num_hidden_layers * block + hidden_size) as u64
}

/// Of a classification head, which is trained in full beside adapters.
fn head_parameters(model: &VlmConfig) -> u64 {
    match &model.head {
        Head::Lm => 0,
        Head::Classification { labels } => (labels.len() * model.text.hidden_size) as u64,
    }
}

fn vision_parameters(config: &VisionConfig) -> u64 {
    let &VisionConfig {
        hidden_size,
        intermediate_size,
        num_hidden_layers,
        patch_size,
        ..
    } = config;
    let norm = 2 * hidden_size;
    let family = config.model_type;
    let of_family = |has: bool, size: usize| if has { size } else { 0 };
    let embeddings = of_family(family.has_class_token(), hidden_size)
        + of_family(family.has_patch_bias(), hidden_size)
        + hidden_size * 3 * patch_size * patch_size
        + config.num_positions() * hidden_size;
    let attention = 4 * linear(hidden_size, hidden_size);
    let mlp = linear(hidden_size, intermediate_size) + linear(intermediate_size, hidden_size);
    let head = of_family(config.vision_use_head, hidden_size + attention + norm + mlp);
    let pre_norm = of_family(family.has_pre_norm(), norm);
    (embeddings + num_hidden_layers * (2 * norm + attention + mlp) + pre_norm + norm + head) as u64
}

fn projector_parameters(config: &VisionLanguageConfig, text: &DecoderConfig) -> u64 {
    let layers = config
        .projector
        .layers(config.vision.hidden_size, text.hidden_size);
    layers.iter().map(|&(from, to)| linear(from, to) as u64).sum()
}

/// Weight and bias.
fn linear(from: usize, to: usize) -> usize {
    from * to + to
}

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
fn readable(bytes: u64) -> String {
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
    let width = match precision {
        Precision::F32 => 4,
        Precision::Bf16 => 2,
    };
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
        estimate_memory(
            model,
            lora,
            self.train.mode,
            self.train.precision,
            self.train.recompute,
            shape,
        )
        .of_one_rank(self.world.size as u64, &self.parallel.learner)
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
        if self.parallel.learner.zero == Zero::Parameters && self.world.size > 1 {
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

#[cfg(test)]
mod tests {
    use brazier_models::{
        FeatureSelect, LanguageModelType, LoraParts, LoraTargets, ProjectorKind, RopeScaling,
        VisionActivation, VisionModelType,
    };

    use super::*;

    fn llama_7b(vocab_size: usize) -> DecoderConfig {
        DecoderConfig {
            model_type: LanguageModelType::Llama,
            vocab_size,
            hidden_size: 4096,
            intermediate_size: 11008,
            num_hidden_layers: 32,
            num_attention_heads: 32,
            num_key_value_heads: 32,
            head_dim: 128,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::Default,
            max_position_embeddings: 4096,
            tie_word_embeddings: false,
            attention_bias: AttentionBias::None,
            qk_norm: false,
            sliding_window: None,
            mlp: MlpKind::SwiGlu,
            mlp_bias: false,
            initializer_range: 0.02,
        }
    }

    fn llava_7b() -> VlmConfig {
        let vision = VisionConfig {
            model_type: VisionModelType::Clip,
            hidden_size: 1024,
            intermediate_size: 4096,
            num_hidden_layers: 24,
            num_attention_heads: 16,
            image_size: 336,
            patch_size: 14,
            layer_norm_eps: 1e-5,
            hidden_act: VisionActivation::QuickGelu,
            vision_use_head: false,
            initializer_range: 0.02,
        };
        let vision = VisionLanguageConfig {
            vision,
            projector: ProjectorKind::Mlp2,
            vision_feature_layer: -2,
            vision_feature_select: FeatureSelect::Default,
            vision_post_layernorm: false,
            image_token_id: 32000,
        };
        VlmConfig {
            text: llama_7b(32064),
            vision: Some(vision),
            head: Head::Lm,
        }
    }

    /// As Hugging Face counts `llava-hf/llava-1.5-7b-hf`.
    #[test]
    fn parameters_of_llava() {
        let counts = num_parameters(&llava_7b());
        assert_eq!(
            counts,
            ParameterCounts {
                vision: 303_507_456,
                projector: 20_979_712,
                language: 6_738_939_904
            }
        );
        assert_eq!(counts.total(), 7_063_427_072);
        assert_eq!(counts.trained(TrainMode::Alignment), 20_979_712);
        assert_eq!(counts.trained(TrainMode::EndToEnd), 6_759_919_616);
    }

    /// As Hugging Face counts the towers of `google/siglip-so400m-patch14-384` and `google/siglip2-base-patch16-512`, pooling
    /// heads included.
    #[test]
    fn parameters_of_siglip_towers() {
        let base = VisionConfig {
            model_type: VisionModelType::Siglip,
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            image_size: 512,
            patch_size: 16,
            layer_norm_eps: 1e-6,
            hidden_act: VisionActivation::GeluTanh,
            vision_use_head: true,
            initializer_range: 0.02,
        };
        assert_eq!(vision_parameters(&base), 93_520_128);
        let so400m = VisionConfig {
            hidden_size: 1152,
            intermediate_size: 4304,
            num_hidden_layers: 27,
            num_attention_heads: 16,
            image_size: 384,
            patch_size: 14,
            ..base
        };
        assert_eq!(vision_parameters(&so400m), 428_225_600);
    }

    /// As Hugging Face counts `meta-llama/Llama-3.1-8B`, `Qwen/Qwen3-0.6B`, `swiss-ai/Apertus-8B-2509` and
    /// `Qwen/Qwen2.5-0.5B`.
    #[test]
    fn parameters_of_language_models() {
        let llama = DecoderConfig {
            intermediate_size: 14336,
            num_key_value_heads: 8,
            ..llama_7b(128_256)
        };
        assert_eq!(
            num_parameters(&VlmConfig {
                text: llama,
                vision: None,
                head: Head::Lm
            })
            .total(),
            8_030_261_248
        );
        let qwen = DecoderConfig {
            model_type: LanguageModelType::Qwen3,
            hidden_size: 1024,
            intermediate_size: 3072,
            num_hidden_layers: 28,
            num_attention_heads: 16,
            num_key_value_heads: 8,
            tie_word_embeddings: true,
            qk_norm: true,
            ..llama_7b(151_936)
        };
        assert_eq!(
            num_parameters(&VlmConfig {
                text: qwen,
                vision: None,
                head: Head::Lm
            })
            .total(),
            596_049_920
        );
        let apertus = DecoderConfig {
            model_type: LanguageModelType::Apertus,
            intermediate_size: 21504,
            num_key_value_heads: 8,
            qk_norm: true,
            mlp: MlpKind::Xielu,
            ..llama_7b(131_072)
        };
        assert_eq!(
            num_parameters(&VlmConfig {
                text: apertus,
                vision: None,
                head: Head::Lm,
            })
            .total(),
            8_053_338_176
        );
        let qwen2 = DecoderConfig {
            model_type: LanguageModelType::Qwen2,
            hidden_size: 896,
            intermediate_size: 4864,
            num_hidden_layers: 24,
            num_attention_heads: 14,
            num_key_value_heads: 2,
            head_dim: 64,
            tie_word_embeddings: true,
            attention_bias: AttentionBias::Qkv,
            ..llama_7b(151_936)
        };
        assert_eq!(
            num_parameters(&VlmConfig {
                text: qwen2,
                vision: None,
                head: Head::Lm,
            })
            .total(),
            494_032_768
        );
    }

    fn estimate(mode: TrainMode, precision: Precision, recompute: Recompute) -> MemoryEstimate {
        let shape = BatchShape {
            rows: 2,
            length: 1024,
            images: 2,
            logit_rows: 256,
        };
        estimate_memory(&llava_7b(), None, mode, precision, recompute, shape)
    }

    /// ZeRO's table: <https://arxiv.org/abs/1910.02054>, figure 1.
    #[test]
    fn ranks_divide_what_is_in_parts() {
        let model = VlmConfig {
            text: llama_7b(32_000),
            vision: None,
            head: Head::Lm,
        };
        let shape = BatchShape {
            rows: 1,
            length: 16,
            images: 0,
            logit_rows: 16,
        };
        let whole = estimate_memory(
            &model,
            None,
            TrainMode::Full,
            Precision::Bf16,
            Recompute::Blocks,
            shape,
        );
        let one = whole.trained;
        let of = |zero, offload| {
            let parallel = ParallelConfig {
                zero,
                offload,
                ..ParallelConfig::default()
            };
            let rank = whole.of_one_rank(4, &parallel);
            [
                rank.parameters_bytes,
                rank.gradients_bytes,
                rank.optimizer_bytes,
                rank.offloaded_bytes,
            ]
        };
        assert_eq!(of(Zero::None, false), [2 * one, 4 * one, 12 * one, 0]);
        assert_eq!(of(Zero::Optimizer, false), [2 * one, 4 * one, 3 * one, 0]);
        assert_eq!(of(Zero::Gradients, true), [2 * one, one, 0, 3 * one]);
        assert_eq!(of(Zero::Parameters, false), [one / 2, one, 3 * one, 0]);
    }

    /// Seven layers of each decoder block, and the projector in full: the rest has neither gradients nor moments.
    #[test]
    fn adapters_alone_have_optimizer_state() {
        let shape = BatchShape {
            rows: 2,
            length: 1024,
            images: 2,
            logit_rows: 256,
        };
        let estimate = |dropout: f64, parts: LoraParts, mode: TrainMode| {
            let lora = LoraConfig {
                r: 16,
                lora_alpha: 32.0,
                lora_dropout: dropout,
                use_rslora: false,
                target_modules: LoraTargets::AllLinear,
                parts,
            };
            estimate_memory(
                &llava_7b(),
                Some(&lora),
                mode,
                Precision::Bf16,
                Recompute::None,
                shape,
            )
        };
        let language = estimate(0.0, LoraParts::Language, TrainMode::EndToEnd);
        let adapters = 32 * 16 * (4 * (4096 + 4096) + 3 * (4096 + 11008));
        assert_eq!(language.adapters, adapters);
        assert_eq!(language.trained, adapters + 20_979_712);
        assert_eq!(language.parameters_bytes, 2 * (7_063_427_072 + adapters));
        assert_eq!(language.gradients_bytes, 4 * language.trained);
        assert_eq!(language.optimizer_bytes, 12 * language.trained);
        let whole = super::estimate_memory(
            &llava_7b(),
            None,
            TrainMode::EndToEnd,
            Precision::Bf16,
            Recompute::None,
            shape,
        );
        assert_eq!(
            language.activations_bytes - whole.activations_bytes,
            2048 * 32 * 2 * 7 * 16
        );
        let dropped = estimate(0.1, LoraParts::Language, TrainMode::EndToEnd);
        assert_eq!(
            dropped.activations_bytes - language.activations_bytes,
            2048 * 32 * 2 * 2 * (6 * 4096 + 11008)
        );
        // Beside a tower that rests, full is no more than end_to_end.
        assert_eq!(estimate(0.0, LoraParts::Language, TrainMode::Full), language);
        let both = estimate(0.0, LoraParts::Both, TrainMode::Full);
        assert_eq!(both.adapters - adapters, 24 * 16 * (4 * 2048 + 2 * (1024 + 4096)));
        assert!(both.activations_bytes > language.activations_bytes);
        assert!(
            language
                .to_string()
                .contains("parameters, adapters           39976960\n"),
            "{language}"
        );
    }

    #[test]
    fn memory_by_part() {
        let full = estimate(TrainMode::Full, Precision::Bf16, Recompute::None);
        assert_eq!(full.parameters_bytes, 2 * 7_063_427_072);
        assert_eq!(full.gradients_bytes, 4 * 7_063_427_072);
        assert_eq!(full.optimizer_bytes, 12 * 7_063_427_072);
        assert_eq!(full.logits_bytes, 2 * 4 * 256 * 32064);
        assert_eq!(
            full.batch_bytes,
            8 * 2048 + 4 * 2 * 3 * 336 * 336 + 2 * 2048 * 4096
        );
        // By hand: 32 decoder blocks of 4D + 3q + 3k + 4I, 23 of 24 vision blocks of 8D + 2I, and the projector.
        let decoder = 32 * 2048 * (2 * (4 * 4096 + 6 * 4096 + 4 * 11008) + 4 * 32);
        let vision = 23 * 2 * 577 * (2 * (8 * 1024 + 2 * 4096) + 4 * 16);
        let projector = 2 * 2 * (576 * 1024 + 2 * 576 * 4096);
        assert_eq!(full.activations_bytes, decoder + vision + projector);
        let parts = [
            full.parameters_bytes,
            full.gradients_bytes,
            full.optimizer_bytes,
            full.activations_bytes,
        ];
        assert_eq!(
            full.total_bytes(),
            parts.iter().sum::<u64>() + full.logits_bytes + full.batch_bytes
        );
    }

    #[test]
    fn what_saves_memory_does() {
        let full = estimate(TrainMode::Full, Precision::F32, Recompute::None);
        assert_eq!(full.optimizer_bytes, 8 * 7_063_427_072);
        let recompute = estimate(TrainMode::Full, Precision::F32, Recompute::Blocks);
        assert!(recompute.activations_bytes * 10 < full.activations_bytes);
        let alignment = estimate(TrainMode::Alignment, Precision::F32, Recompute::None);
        assert!(alignment.activations_bytes < full.activations_bytes);
        assert_eq!(alignment.gradients_bytes, 4 * 20_979_712);
    }

    #[test]
    fn the_table() {
        let table = estimate(TrainMode::Alignment, Precision::Bf16, Recompute::Blocks).to_string();
        assert!(
            table.contains("parameters, trained            20979712\n"),
            "{table}"
        );
        assert!(
            table.contains("memory, parameters             13.2 GiB\n"),
            "{table}"
        );
        assert_eq!(
            [readable(0), readable(1023), readable(1536)],
            ["0 B", "1023 B", "1.5 KiB"]
        );
    }
}
