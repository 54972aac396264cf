//! Low-rank adapters, LoRA (<https://arxiv.org/abs/2106.09685>): `y = x·Wᵀ + b + s·(dropout(x)·Aᵀ)·Bᵀ` with `W` at rest.
//!
//! Reference: `peft/tuners/lora/layer.py` and `peft/tuners/lora/config.py`, whose names are used. An adapter is part of
//! its [`Linear`](crate::layers::Linear), so no layer needs to know of it. The projector has none: it is small and
//! trained in full. Nor do the embedding table and the heads.

use crate::config::{DecoderConfig, MlpKind, ModelConfigError, VisionConfig, VlmConfig, refuse};

/// Ends of the paths of an adapter's parameters.
const ADAPTER: [&str; 2] = [".lora_A.weight", ".lora_B.weight"];

/// Where the parameters of the language model begin.
const LANGUAGE: &str = "language_model.";
/// Where the parameters of the vision tower begin.
const VISION: &str = "vision_tower.";

/// Which linear layers get an adapter, and of what kind.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraConfig {
    /// Rank: rows of `A`, columns of `B`.
    pub r: usize,
    /// Numerator of the scaling.
    pub lora_alpha: f64,
    /// Part of the inputs of `A` that is zeroed in training.
    pub lora_dropout: f64,
    /// Scaling by `alpha / sqrt(r)` (<https://arxiv.org/abs/2312.03732>) instead of `alpha / r`.
    pub use_rslora: bool,
    /// Layers by name.
    pub target_modules: LoraTargets,
    /// Parts of the model in which these layers are looked for.
    pub parts: LoraParts,
}

/// Layers by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoraTargets {
    /// Every linear layer but the projector and the heads.
    AllLinear,
    /// Those whose path is one of these, or ends with a dot and one of these.
    Named(Vec<String>),
}

/// Parts of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoraParts {
    /// The decoder.
    Language,
    /// The vision tower.
    Vision,
    /// Both.
    Both,
}

impl LoraParts {
    /// Whether the vision tower is among them.
    pub fn has_vision(self) -> bool {
        matches!(self, LoraParts::Vision | LoraParts::Both)
    }

    /// Whether the decoder is among them.
    pub fn has_language(self) -> bool {
        matches!(self, LoraParts::Language | LoraParts::Both)
    }

    fn contains(self, path: &str) -> bool {
        (path.starts_with(LANGUAGE) && self.has_language()) || (path.starts_with(VISION) && self.has_vision())
    }
}

impl LoraConfig {
    /// Factor `s` of the update.
    pub fn scaling(&self) -> f64 {
        let r = self.r as f64;
        self.lora_alpha / if self.use_rslora { r.sqrt() } else { r }
    }

    /// Whether the linear layer at this path has an adapter.
    pub fn targets(&self, path: &str) -> bool {
        self.parts.contains(path)
            && !is_head(path)
            && match &self.target_modules {
                LoraTargets::AllLinear => true,
                LoraTargets::Named(names) => names.iter().any(|name| is_named(path, name)),
            }
    }

    /// Checks what [`crate::Vlm::init_with_lora`] takes for granted.
    ///
    /// # Errors
    /// If a number is out of range, a name finds nothing, or a part is not there.
    pub fn validate(&self, config: &VlmConfig) -> Result<(), ModelConfigError> {
        if self.r == 0 {
            return Err(refuse("lora.r", self.r, "must be at least 1"));
        }
        if !(self.lora_alpha.is_finite() && self.lora_alpha > 0.0) {
            return Err(refuse("lora.alpha", self.lora_alpha, "must be above 0"));
        }
        if !(0.0..1.0).contains(&self.lora_dropout) {
            return Err(refuse(
                "lora.dropout",
                self.lora_dropout,
                "must be at least 0 and below 1",
            ));
        }
        if self.parts.has_vision() && config.vision.is_none() {
            return Err(refuse(
                "lora.parts",
                self.parts.name(),
                "the model has no vision part",
            ));
        }
        let paths: Vec<String> = linears(config)
            .into_iter()
            .map(|linear| linear.path)
            .filter(|path| self.parts.contains(path))
            .collect();
        let LoraTargets::Named(names) = &self.target_modules else {
            return Ok(());
        };
        if names.is_empty() {
            return Err(refuse(
                "lora.target_modules",
                "[]",
                "names no layer; write all-linear, or names",
            ));
        }
        let lost = names
            .iter()
            .find(|name| !paths.iter().any(|path| is_named(path, name)));
        let Some(lost) = lost else { return Ok(()) };
        let mut known: Vec<&str> = paths
            .iter()
            .map(|path| path.rsplit('.').next().unwrap_or(path))
            .collect();
        known.sort_unstable();
        known.dedup();
        Err(refuse(
            "lora.target_modules",
            lost,
            format!("no layer of this name; there are: {}", known.join(", ")),
        ))
    }

    /// Numbers of values in the adapters of the decoder and of the vision tower.
    pub fn num_parameters(&self, config: &VlmConfig) -> (u64, u64) {
        let mut counts = (0, 0);
        for LinearShape { path, d_in, d_out } in linears(config) {
            if self.targets(&path) {
                let count = if path.starts_with(VISION) {
                    &mut counts.1
                } else {
                    &mut counts.0
                };
                *count += (self.r * (d_in + d_out)) as u64;
            }
        }
        counts
    }
}

impl LoraParts {
    fn name(self) -> &'static str {
        match self {
            LoraParts::Language => "language",
            LoraParts::Vision => "vision",
            LoraParts::Both => "both",
        }
    }
}

/// PEFT's rule for names in a list.
fn is_named(path: &str, name: &str) -> bool {
    path.strip_suffix(name)
        .is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// The output projection is never applied as a layer, and a classification head is trained in full.
fn is_head(path: &str) -> bool {
    !path.contains(".layers.")
}

/// Whether a parameter belongs to an adapter.
pub fn is_adapter(path: &str) -> bool {
    ADAPTER.iter().any(|end| path.ends_with(end))
}

/// A linear layer that can have an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinearShape {
    /// Path of the layer.
    pub path: String,
    /// Columns of its weight.
    pub d_in: usize,
    /// Rows of its weight.
    pub d_out: usize,
}

/// The linear layers of a model's blocks, in module order, from its numbers alone: what an adapter may be attached to is
/// told before any weight is made.
pub fn linears(config: &VlmConfig) -> Vec<LinearShape> {
    let mut found = Vec::new();
    if let Some(vision) = &config.vision {
        add_blocks(
            "vision_tower.vision_model.encoder.layers",
            vision.vision.num_hidden_layers,
            &vision_layers(&vision.vision),
            &mut found,
        );
    }
    add_blocks(
        "language_model.model.layers",
        config.text.num_hidden_layers,
        &decoder_layers(&config.text),
        &mut found,
    );
    found
}

/// Name inside a block, inputs, outputs.
type BlockLayer = (&'static str, usize, usize);

fn add_blocks(prefix: &str, num_blocks: usize, layers: &[BlockLayer], found: &mut Vec<LinearShape>) {
    for block in 0..num_blocks {
        found.extend(layers.iter().map(|&(name, d_in, d_out)| LinearShape {
            path: format!("{prefix}.{block}.{name}"),
            d_in,
            d_out,
        }));
    }
}

fn decoder_layers(config: &DecoderConfig) -> Vec<BlockLayer> {
    let (d, i) = (config.hidden_size, config.intermediate_size);
    let queries = config.num_attention_heads * config.head_dim;
    let keys = config.num_key_value_heads * config.head_dim;
    let mut layers = vec![
        ("self_attn.q_proj", d, queries),
        ("self_attn.k_proj", d, keys),
        ("self_attn.v_proj", d, keys),
        ("self_attn.o_proj", queries, d),
    ];
    if config.mlp == MlpKind::SwiGlu {
        layers.push(("mlp.gate_proj", d, i));
    }
    layers.extend([("mlp.up_proj", d, i), ("mlp.down_proj", i, d)]);
    layers
}

fn vision_layers(config: &VisionConfig) -> Vec<BlockLayer> {
    let (d, i) = (config.hidden_size, config.intermediate_size);
    vec![
        ("self_attn.k_proj", d, d),
        ("self_attn.v_proj", d, d),
        ("self_attn.q_proj", d, d),
        ("self_attn.out_proj", d, d),
        ("mlp.fc1", d, i),
        ("mlp.fc2", i, d),
    ]
}
