//! Floating-point operations that a step cannot do without: what utilisation is measured by (model FLOPs utilisation,
//! <https://arxiv.org/abs/2204.02311>, appendix B). A multiplication and an addition count as two; matrix products and
//! attention count, nothing else does, and neither does what is computed again.

use crate::{
    config::{DecoderConfig, Head, MlpKind, VisionLanguageConfig, VlmConfig},
    ops::AttentionMask,
};

/// How often a part's products are made: once forward, once more for the gradient of inputs, and once for that of weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Passes {
    /// The vision tower.
    pub vision: f64,
    /// The projector.
    pub projector: f64,
    /// The language model.
    pub language: f64,
}

/// What goes through the model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Work<'a> {
    /// Tokens of each segment of each row.
    pub segments: &'a [Vec<usize>],
    /// Rows of the head: labelled tokens, or classified rows.
    pub labelled: usize,
    /// Images.
    pub images: usize,
}

impl Work<'_> {
    fn lengths(&self) -> impl Iterator<Item = usize> {
        self.segments.iter().flatten().copied()
    }
}

/// Operations of one forward and backward pass.
pub fn flops(config: &VlmConfig, passes: Passes, work: &Work<'_>) -> f64 {
    let text = &config.text;
    let tokens: usize = work.lengths().sum();
    let rows_of_head = match &config.head {
        Head::Lm => text.vocab_size,
        Head::Classification { labels } => labels.len(),
    };
    // Behind the last attention there is work for the rows of the head only.
    let unread = tokens.saturating_sub(work.labelled);
    let products = text.num_hidden_layers * block_weights(text) * tokens
        - (output_weights(text) + mlp_weights(text)) * unread
        + text.hidden_size * rows_of_head * work.labelled;
    let pairs: usize = (0..text.num_hidden_layers)
        .map(|layer| {
            work.lengths()
                .map(|length| visible_pairs(text, layer, length))
                .sum::<usize>()
        })
        .sum();
    let language = passes.language * 2.0 * products as f64
        + attention(passes.language, text.num_attention_heads * text.head_dim, pairs);
    match &config.vision {
        Some(vision) => language + work.images as f64 * image(vision, text, passes),
        None => language,
    }
}

/// Two products forward, for scores and values, and four for the gradients, if any are wanted.
fn attention(passes: f64, width: usize, pairs: usize) -> f64 {
    let times = if passes > 1.0 { 3.0 } else { 1.0 };
    times * 4.0 * (width * pairs) as f64
}

/// Numbers in the matrices of a decoder block.
fn block_weights(text: &DecoderConfig) -> usize {
    let inputs = text.num_attention_heads + 2 * text.num_key_value_heads;
    text.hidden_size * text.head_dim * inputs + output_weights(text) + mlp_weights(text)
}

/// Those behind the attention.
fn output_weights(text: &DecoderConfig) -> usize {
    text.hidden_size * text.head_dim * text.num_attention_heads
}

fn mlp_weights(text: &DecoderConfig) -> usize {
    let matrices = match text.mlp {
        MlpKind::SwiGlu => 3,
        MlpKind::Xielu => 2,
    };
    text.hidden_size * text.intermediate_size * matrices
}

/// Pairs of a query and a key that it sees.
fn visible_pairs(text: &DecoderConfig, layer: usize, length: usize) -> usize {
    let window = match text.attention_mask(layer) {
        AttentionMask::SlidingWindow { window } => window.min(length),
        AttentionMask::Causal | AttentionMask::Full => length,
    };
    // The first queries see fewer keys than the window.
    window * (window + 1) / 2 + (length - window) * window
}

fn image(config: &VisionLanguageConfig, text: &DecoderConfig, passes: Passes) -> f64 {
    let vision = &config.vision;
    let (d, positions) = (vision.hidden_size, vision.num_positions());
    // What lies above the selected hidden state is not computed.
    let blocks = config.num_vision_blocks().unwrap_or(vision.num_hidden_layers);
    let block = 4 * d * d + 2 * d * vision.intermediate_size;
    let patches = vision.num_patches() * 3 * vision.patch_size * vision.patch_size * d;
    let tower = passes.vision * 2.0 * (blocks * block * positions + patches) as f64
        + attention(passes.vision, d, blocks * positions * positions);
    let layers = config.projector.layers(d, text.hidden_size);
    let weights: usize = layers.iter().map(|(from, to)| from * to).sum();
    tower + passes.projector * 2.0 * (weights * config.num_image_tokens()) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AttentionBias, LanguageModelType};
    use crate::rope::RopeScaling;

    fn text() -> DecoderConfig {
        DecoderConfig {
            model_type: LanguageModelType::Qwen3,
            vocab_size: 1000,
            hidden_size: 64,
            intermediate_size: 160,
            num_hidden_layers: 3,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 16,
            rms_norm_eps: 1e-6,
            rope_theta: 1e4,
            rope_scaling: RopeScaling::Default,
            max_position_embeddings: 512,
            tie_word_embeddings: true,
            attention_bias: AttentionBias::None,
            sliding_window: None,
            qk_norm: true,
            mlp: MlpKind::SwiGlu,
            mlp_bias: false,
            initializer_range: 0.02,
        }
    }

    /// By hand: 2 operations for each weight and token, three times; each pair 4 operations a number of a head, three times.
    #[test]
    fn a_decoder_by_hand() {
        let config = VlmConfig {
            text: text(),
            vision: None,
            head: Head::Lm,
        };
        let passes = Passes {
            vision: 0.0,
            projector: 0.0,
            language: 3.0,
        };
        let segments = [vec![5, 2], vec![3]];
        let work = Work {
            segments: &segments,
            labelled: 4,
            images: 0,
        };
        let block = 64 * (16 * 12 + 3 * 160);
        let unread = 64 * (16 * 4 + 3 * 160) * 6;
        let products = 3 * block * 10 - unread + 64 * 1000 * 4;
        let pairs = 3 * (15 + 3 + 6);
        let expected = 6 * products + 12 * 64 * pairs;
        assert_eq!(flops(&config, passes, &work), f64::from(expected));
    }

    #[test]
    fn a_window_hides_pairs() {
        let mut text = text();
        assert_eq!(visible_pairs(&text, 0, 6), 21);
        text.sliding_window = Some(crate::config::SlidingWindow {
            window: 2,
            layers: vec![true, false, true],
        });
        assert_eq!([0, 1].map(|layer| visible_pairs(&text, layer, 6)), [11, 21]);
        assert_eq!(visible_pairs(&text, 0, 1), 1);
    }
}
