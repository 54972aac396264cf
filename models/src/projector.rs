//! From image features to token embeddings.
//!
//! Reference for the MLP: `LlavaMultiModalProjector` in `transformers/models/llava/modeling_llava.py`.

use burn::{module::Module, tensor::Tensor};

use crate::{
    config::{FeatureSelect, ProjectorKind, VisionLanguageConfig},
    init::Init,
    layers::Linear,
    ops::{self, Activation},
};

/// Maps features of the vision tower to the decoder's width.
#[derive(Module, Debug)]
pub struct Projector {
    linear_1: Linear,
    linear_2: Option<Linear>,
    #[module(skip)]
    kind: ProjectorKind,
    #[module(skip)]
    select: FeatureSelect,
}

impl Projector {
    /// Fresh weights; the configuration must have been validated.
    pub fn init(config: &VisionLanguageConfig, text_width: usize, init: &Init) -> Self {
        let width = config.vision.hidden_size;
        let first = init.at("linear_1");
        let (linear_1, linear_2) = match config.projector {
            ProjectorKind::Linear => (Linear::init_with_bias(&first, width, text_width), None),
            ProjectorKind::Mlp2 => (
                Linear::init_with_bias(&first, width, text_width),
                Some(Linear::init_with_bias(
                    &init.at("linear_2"),
                    text_width,
                    text_width,
                )),
            ),
            ProjectorKind::PixelShuffle { factor } => (
                Linear::init_with_bias(&first, width * factor * factor, text_width),
                None,
            ),
        };
        Self {
            linear_1,
            linear_2,
            kind: config.projector,
            select: config.vision_feature_select,
        }
    }

    /// # Shapes
    /// `[m, 1 + p, dv]` out of the tower → `[m, tokens, d]`
    pub fn forward(&self, x_mtd: Tensor<3>) -> Tensor<3> {
        let [_, t, _] = x_mtd.dims();
        // 1. Keep the tokens that are asked for.
        let x_mpd = match self.select {
            FeatureSelect::Default => x_mtd.narrow(1, 1, t - 1),
            FeatureSelect::Full => x_mtd,
        };
        // 2. Fold blocks of neighbours into one token.
        let x_mpd = match self.kind {
            ProjectorKind::PixelShuffle { factor } => pixel_unshuffle(x_mpd, factor),
            ProjectorKind::Linear | ProjectorKind::Mlp2 => x_mpd,
        };
        // 3. Project.
        let [m, p, d] = x_mpd.dims();
        let y = self.linear_1.forward(x_mpd.reshape([m * p, d]));
        let y = match &self.linear_2 {
            Some(linear_2) => linear_2.forward(ops::activate(y, Activation::Gelu)),
            None => y,
        };
        let width = y.dims()[1];
        y.reshape([m, p, width])
    }
}

/// `torch.nn.functional.pixel_unshuffle` on a square grid of tokens: output channel `c·f² + i·f + j` is channel `c` of
/// row `i`, column `j` inside the block.
///
/// # Shapes
/// `[m, g*g, d]` → `[m, (g/f)*(g/f), d*f*f]`
fn pixel_unshuffle(x_mpd: Tensor<3>, factor: usize) -> Tensor<3> {
    let [m, p, d] = x_mpd.dims();
    let side = p.isqrt();
    let blocks = side / factor;
    // [m, row block, i, column block, j, d] -> [m, row block, column block, d, i, j]
    x_mpd
        .reshape([m, blocks, factor, blocks, factor, d])
        .permute([0, 1, 3, 5, 2, 4])
        .reshape([m, blocks * blocks, d * factor * factor])
}
