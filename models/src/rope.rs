//! Rotary frequencies beyond the plain ones: how models reach longer texts than they were first trained on.
//!
//! Reference: `transformers/modeling_rope_utils.py`. All arithmetic is f64 on the host.

use std::f64::consts::TAU;

use burn::tensor::Device;

use crate::ops::RopeTable;

/// What is done to the rotary frequencies. Names of the numbers are those of `rope_parameters` in `config.json`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// Nothing.
    Default,
    /// All frequencies are divided by `factor` (<https://arxiv.org/abs/2306.15595>).
    Linear {
        /// At least 1.
        factor: f64,
    },
    /// Llama 3.1: low frequencies are divided, high ones kept, those between interpolated.
    Llama3(Llama3Scaling),
    /// YaRN (<https://arxiv.org/abs/2309.00071>).
    Yarn(YarnScaling),
}

/// Llama 3.1's scaling.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Llama3Scaling {
    /// Divides low frequencies; at least 1.
    pub factor: f64,
    /// Frequencies that turn less often than this over the original context are divided.
    pub low_freq_factor: f64,
    /// Frequencies that turn more often than this over the original context are kept.
    pub high_freq_factor: f64,
    /// Context of the first training, in tokens.
    pub original_max_position_embeddings: usize,
}

/// YaRN's scaling.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct YarnScaling {
    /// Divides low frequencies; at least 1.
    pub factor: f64,
    /// Context of the first training, in tokens.
    pub original_max_position_embeddings: usize,
    /// Multiplies cosines and sines; `None` follows from `factor` and the two `mscale`s.
    pub attention_factor: Option<f64>,
    /// Frequencies that turn more often than this over the original context are kept.
    pub beta_fast: f64,
    /// Frequencies that turn less often than this over the original context are divided.
    pub beta_slow: f64,
    /// Numerator of the attention factor; counts only together with `mscale_all_dim`.
    pub mscale: Option<f64>,
    /// Denominator of the attention factor.
    pub mscale_all_dim: Option<f64>,
    /// Whether the ends of the ramp between both kinds are rounded outwards to whole dimensions.
    pub truncate: bool,
}

impl RopeScaling {
    /// Frequencies `[head_dim / 2]` in radians per token, and the factor of cosines and sines.
    pub fn frequencies(&self, head_dim: usize, theta: f64) -> (Vec<f64>, f64) {
        let plain = (0..head_dim / 2).map(|i| theta.powf(-2.0 * i as f64 / head_dim as f64));
        match self {
            RopeScaling::Default => (plain.collect(), 1.0),
            RopeScaling::Linear { factor } => (plain.map(|frequency| frequency / factor).collect(), 1.0),
            RopeScaling::Llama3(scaling) => (plain.map(|frequency| scaling.scaled(frequency)).collect(), 1.0),
            RopeScaling::Yarn(scaling) => {
                let ramp = scaling.ramp(head_dim, theta);
                let scaled = plain.enumerate().map(|(i, frequency)| {
                    let divided = ramp.divided(i);
                    frequency * (1.0 - divided) + frequency / scaling.factor * divided
                });
                (scaled.collect(), scaling.attention_factor())
            }
        }
    }

    /// Cosines and sines of positions.
    pub fn table(
        &self,
        positions: impl IntoIterator<Item = usize>,
        head_dim: usize,
        theta: f64,
        device: &Device,
    ) -> RopeTable {
        let (frequencies, factor) = self.frequencies(head_dim, theta);
        RopeTable::of_frequencies(positions, &frequencies, factor, device)
    }

    /// Positions that make sense where a `config.json` says `max_position_embeddings`: the original context times the
    /// factor for linear scaling and YaRN, whose files name the original context.
    pub fn max_positions(&self, max_position_embeddings: usize) -> usize {
        let times = |context: usize, factor: f64| (context as f64 * factor).round() as usize;
        match self {
            RopeScaling::Default | RopeScaling::Llama3(_) => max_position_embeddings,
            RopeScaling::Linear { factor } => times(max_position_embeddings, *factor),
            RopeScaling::Yarn(scaling) => {
                max_position_embeddings.max(times(scaling.original_max_position_embeddings, scaling.factor))
            }
        }
    }

    /// Key, value and reason of the first number that makes no sense.
    pub(crate) fn problem(&self) -> Option<(&'static str, f64, &'static str)> {
        let factor = |factor: f64| {
            (!(factor.is_finite() && factor >= 1.0)).then_some(("factor", factor, "must be at least 1"))
        };
        let original = |context: usize| {
            let key = "original_max_position_embeddings";
            (context == 0).then_some((key, 0.0, "must be at least 1"))
        };
        match self {
            RopeScaling::Default => None,
            RopeScaling::Linear { factor: by } => factor(*by),
            RopeScaling::Llama3(scaling) => {
                let low = scaling.low_freq_factor;
                let ordered = low > 0.0 && low < scaling.high_freq_factor;
                let reason = "must be positive and smaller than high_freq_factor";
                factor(scaling.factor)
                    .or(original(scaling.original_max_position_embeddings))
                    .or((!ordered).then_some(("low_freq_factor", low, reason)))
            }
            RopeScaling::Yarn(scaling) => {
                let slow = scaling.beta_slow;
                let ordered = slow > 0.0 && slow <= scaling.beta_fast;
                let reason = "must be positive and at most beta_fast";
                factor(scaling.factor)
                    .or(original(scaling.original_max_position_embeddings))
                    .or((!ordered).then_some(("beta_slow", slow, reason)))
            }
        }
    }
}

impl Llama3Scaling {
    fn scaled(&self, frequency: f64) -> f64 {
        let turns = self.original_max_position_embeddings as f64 * frequency / TAU;
        if turns > self.high_freq_factor {
            frequency
        } else if turns < self.low_freq_factor {
            frequency / self.factor
        } else {
            let kept = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor);
            frequency / self.factor * (1.0 - kept) + frequency * kept
        }
    }
}

/// Dimensions between which frequencies go from kept to divided.
struct Ramp {
    from: f64,
    to: f64,
}

impl Ramp {
    /// How far frequency `i` is divided, 0 to 1.
    fn divided(&self, i: usize) -> f64 {
        ((i as f64 - self.from) / (self.to - self.from)).clamp(0.0, 1.0)
    }
}

impl YarnScaling {
    fn ramp(&self, head_dim: usize, theta: f64) -> Ramp {
        // The dimension whose frequency turns so often over the original context.
        let dimension = |turns: f64| {
            let context = self.original_max_position_embeddings as f64;
            head_dim as f64 * (context / (turns * TAU)).ln() / (2.0 * theta.ln())
        };
        let (from, to) = (dimension(self.beta_fast), dimension(self.beta_slow));
        let (from, to) = if self.truncate {
            (from.floor(), to.ceil())
        } else {
            (from, to)
        };
        let (from, to) = (from.max(0.0), to.min(head_dim as f64 - 1.0));
        Ramp {
            from,
            to: if from == to { to + 0.001 } else { to },
        }
    }

    fn attention_factor(&self) -> f64 {
        let scale = |weight: f64| {
            if self.factor <= 1.0 {
                1.0
            } else {
                0.1 * weight * self.factor.ln() + 1.0
            }
        };
        match (self.attention_factor, self.mscale, self.mscale_all_dim) {
            (Some(factor), ..) => factor,
            (None, Some(above), Some(below)) => scale(above) / scale(below),
            (None, ..) => scale(1.0),
        }
    }
}
