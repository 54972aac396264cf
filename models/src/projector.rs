//! From image features to token embeddings.
//!
//! Reference for the MLP of two layers: `LlavaMultiModalProjector` in `transformers/models/llava/modeling_llava.py`.

use burn::{module::Module, tensor::Tensor};

use crate::{
    config::{ProjectorKind, VisionLanguageConfig},
    init::Init,
    layers::Linear,
    ops::{self, Activation, to_dtype, to_f32},
};

/// Maps features of the vision tower to the decoder's width.
#[derive(Module, Debug)]
pub struct Projector {
    linear_1: Linear,
    linear_2: Option<Linear>,
    linear_3: Option<Linear>,
    #[module(skip)]
    kind: ProjectorKind,
    drops_class_token: bool,
}

impl Projector {
    /// Fresh weights; the configuration must have been validated.
    pub fn init(config: &VisionLanguageConfig, text_width: usize, init: &Init) -> Self {
        let widths = config.projector.layers(config.vision.hidden_size, text_width);
        let linear = |index: usize| {
            let (d_in, d_out) = *widths.get(index)?;
            let init = init.at(format_args!("linear_{}", index + 1));
            Some(Linear::init_with_bias(&init, d_in, d_out))
        };
        let (first_in, first_out) = widths[0];
        Self {
            linear_1: Linear::init_with_bias(&init.at("linear_1"), first_in, first_out),
            linear_2: linear(1),
            linear_3: linear(2),
            kind: config.projector,
            drops_class_token: config.vision.model_type.has_class_token() && !config.keeps_class_token(),
        }
    }

    /// # Shapes
    /// `[m, t, dv]` out of the tower → `[m, tokens, d]`
    pub fn forward(&self, x_mtd: Tensor<3>) -> Tensor<3> {
        let [_, t, _] = x_mtd.dims();
        // 1. Keep the tokens that are asked for.
        let x_mpd = match self.drops_class_token {
            true => x_mtd.narrow(1, 1, t - 1),
            false => x_mtd,
        };
        // 2. Fold blocks of neighbours into one token.
        let x_mpd = match self.kind {
            ProjectorKind::PixelShuffle { factor } => pixel_unshuffle(x_mpd, factor),
            ProjectorKind::AveragePool { kernel } => average_pool(x_mpd, kernel),
            ProjectorKind::Linear | ProjectorKind::Mlp2 | ProjectorKind::Mlp3 => x_mpd,
        };
        // 3. Project, with a GELU between layers.
        let [m, p, d] = x_mpd.dims();
        let first = self.linear_1.forward(x_mpd.reshape([m * p, d]));
        let further = [&self.linear_2, &self.linear_3].into_iter().flatten();
        let y = further.fold(first, |y, linear| {
            linear.forward(ops::activate(y, Activation::Gelu))
        });
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
    let blocks = p.isqrt() / factor;
    // [m, row block, i, column block, j, d] -> [m, row block, column block, d, i, j]
    x_mpd
        .reshape([m, blocks, factor, blocks, factor, d])
        .permute([0, 1, 3, 5, 2, 4])
        .reshape([m, blocks * blocks, d * factor * factor])
}

/// `torch.nn.functional.avg_pool2d` on a square grid of tokens, blocks side by side, in f32.
///
/// # Shapes
/// `[m, g*g, d]` → `[m, (g/k)*(g/k), d]`
fn average_pool(x_mpd: Tensor<3>, kernel: usize) -> Tensor<3> {
    let [m, p, d] = x_mpd.dims();
    let blocks = p.isqrt() / kernel;
    let dtype = x_mpd.dtype();
    // [m, row block, i, column block, j, d] -> [m, row block, column block, i, j, d]
    let blocks_mpkd = to_f32(x_mpd)
        .reshape([m, blocks, kernel, blocks, kernel, d])
        .permute([0, 1, 3, 2, 4, 5])
        .reshape([m, blocks * blocks, kernel * kernel, d]);
    to_dtype(blocks_mpkd.mean_dim(2).reshape([m, blocks * blocks, d]), dtype)
}
