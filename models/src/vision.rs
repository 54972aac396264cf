//! The vision tower: CLIP's ViT (<https://arxiv.org/abs/2103.00020>).
//!
//! Reference: `transformers/models/clip/modeling_clip.py`. Shape letters as in [`crate::ops`]; `p` patches of an image,
//! `m` images, `c` channels.

use burn::{
    module::{Module, Param},
    tensor::Tensor,
};

use crate::{
    config::{VisionActivation, VisionConfig},
    init::Init,
    layers::{LayerNorm, Linear},
    ops::{self, Activation, AttentionMask},
};

/// Patches to vectors: a convolution whose stride is its kernel, done as one matrix product.
#[derive(Module, Debug)]
pub struct PatchEmbedding {
    /// `[d, 3, patch, patch]`
    pub weight: Param<Tensor<4>>,
}

/// A learned vector for each position.
#[derive(Module, Debug)]
pub struct PositionEmbedding {
    /// `[1 + patches, d]`
    pub weight: Param<Tensor<2>>,
}

/// Class token, patches and positions.
#[derive(Module, Debug)]
pub struct VisionEmbeddings {
    class_embedding: Param<Tensor<1>>,
    patch_embedding: PatchEmbedding,
    position_embedding: PositionEmbedding,
}

impl VisionEmbeddings {
    fn init(config: &VisionConfig, init: &Init) -> Self {
        let (d, patch) = (config.hidden_size, config.patch_size);
        // Scaled to its fan-in: at another scale patches drown the positions, and a tower that is trained from nothing
        // takes long to learn where things are.
        let fan_in = (3 * patch * patch) as f64;
        let patches = init.at("patch_embedding").with_std(fan_in.sqrt().recip());
        let positions = [vec![0.0; d], sincos_2d(config.image_size / patch, d)].concat();
        Self {
            class_embedding: init.normal("class_embedding", [d]),
            patch_embedding: PatchEmbedding {
                weight: patches.normal("weight", [d, 3, patch, patch]),
            },
            position_embedding: PositionEmbedding {
                weight: init.values(positions, [config.num_patches() + 1, d]),
            },
        }
    }

    fn forward(&self, pixels_mchw: Tensor<4>) -> Tensor<3> {
        let [m, c, height, _] = pixels_mchw.dims();
        let weight = self.patch_embedding.weight.val();
        let [d, _, size, _] = weight.dims();
        let grid = height / size;
        // 1. Cut into patches: [m, c, grid*size, grid*size] -> [m*p, c*size*size].
        let patches = pixels_mchw
            .reshape([m, c, grid, size, grid, size])
            .permute([0, 2, 4, 1, 3, 5])
            .reshape([m * grid * grid, c * size * size]);
        // 2. Project: [m*p, c*size*size] -> [m, p, d].
        let patches_mpd =
            ops::linear(patches, weight.reshape([d, c * size * size]), None).reshape([m, grid * grid, d]);
        // 3. Class token first, then add positions.
        let class_m1d = self.class_embedding.val().reshape([1, 1, d]).expand([m, 1, d]);
        Tensor::cat(vec![class_m1d, patches_mpd], 1) + self.position_embedding.weight.val().unsqueeze::<3>()
    }
}

/// Sines and cosines of row and column, from one radian a patch down to one radian a side, so that every wave tells
/// places apart: where learned positions start. After "sincos2d" of Beyer, Zhai and Kolesnikov
/// (<https://arxiv.org/abs/2205.01580>), whose slowest waves are constant over a small grid. Widths that are no multiple
/// of 4 end in zeros.
///
/// # Shapes
/// → `[side * side * width]`, row by row
fn sincos_2d(side: usize, width: usize) -> Vec<f32> {
    let quarter = width / 4;
    let frequency = |i: usize| (side as f64).powf(-(i as f64) / (quarter.max(2) - 1) as f64);
    let mut values = Vec::with_capacity(side * side * width);
    for (row, column) in (0..side).flat_map(|row| (0..side).map(move |column| (row, column))) {
        let mut position = vec![0.0; width];
        for i in 0..quarter {
            let (x, y) = (column as f64 * frequency(i), row as f64 * frequency(i));
            for (part, value) in [x.sin(), x.cos(), y.sin(), y.cos()].into_iter().enumerate() {
                position[part * quarter + i] = value as f32;
            }
        }
        values.extend(position);
    }
    values
}

/// Bidirectional self-attention with biases.
#[derive(Module, Debug)]
pub struct VisionAttention {
    k_proj: Linear,
    v_proj: Linear,
    q_proj: Linear,
    out_proj: Linear,
    num_heads: usize,
}

impl VisionAttention {
    fn forward(&self, x_mtd: Tensor<3>) -> Tensor<3> {
        let [m, t, d] = x_mtd.dims();
        let (h, k) = (self.num_heads, d / self.num_heads);
        let x_nd = x_mtd.reshape([m * t, d]);
        // 1. Project and split heads: [n, h*k] -> [m, h, t, k].
        let split = |proj: &Linear| proj.forward(x_nd.clone()).reshape([m, t, h, k]).swap_dims(1, 2);
        let y_mhtk = ops::attention(
            split(&self.q_proj),
            split(&self.k_proj),
            split(&self.v_proj),
            AttentionMask::Full,
        );
        // 2. Join heads: [m, h, t, k] -> [n, h*k].
        self.out_proj
            .forward(y_mhtk.swap_dims(1, 2).reshape([m * t, d]))
            .reshape([m, t, d])
    }
}

/// Two linear layers with an activation between.
#[derive(Module, Debug)]
pub struct VisionMlp {
    fc1: Linear,
    fc2: Linear,
}

/// One pre-norm block.
#[derive(Module, Debug)]
pub struct VisionLayer {
    self_attn: VisionAttention,
    layer_norm1: LayerNorm,
    mlp: VisionMlp,
    layer_norm2: LayerNorm,
    #[module(skip)]
    activation: Activation,
}

impl VisionLayer {
    fn init(config: &VisionConfig, init: &Init) -> Self {
        let (d, i) = (config.hidden_size, config.intermediate_size);
        let attn = init.at("self_attn");
        let mlp = init.at("mlp");
        Self {
            self_attn: VisionAttention {
                k_proj: Linear::init_with_bias(&attn.at("k_proj"), d, d),
                v_proj: Linear::init_with_bias(&attn.at("v_proj"), d, d),
                q_proj: Linear::init_with_bias(&attn.at("q_proj"), d, d),
                out_proj: Linear::init_with_bias(&attn.at("out_proj"), d, d),
                num_heads: config.num_attention_heads,
            },
            layer_norm1: LayerNorm::init(init, d, config.layer_norm_eps),
            mlp: VisionMlp {
                fc1: Linear::init_with_bias(&mlp.at("fc1"), d, i),
                fc2: Linear::init_with_bias(&mlp.at("fc2"), i, d),
            },
            layer_norm2: LayerNorm::init(init, d, config.layer_norm_eps),
            activation: match config.hidden_act {
                VisionActivation::QuickGelu => Activation::QuickGelu,
                VisionActivation::Gelu => Activation::Gelu,
            },
        }
    }

    /// # Shapes
    /// `[m, 1 + p, d]` → `[m, 1 + p, d]`
    pub fn forward(&self, x_mtd: Tensor<3>) -> Tensor<3> {
        let [m, t, d] = x_mtd.dims();
        let x_mtd = x_mtd.clone() + self.self_attn.forward(self.layer_norm1.forward(x_mtd));
        let normed = self.layer_norm2.forward(x_mtd.clone()).reshape([m * t, d]);
        let inner = ops::activate(self.mlp.fc1.forward(normed), self.activation);
        x_mtd + self.mlp.fc2.forward(inner).reshape([m, t, d])
    }
}

/// The blocks; a module of its own because Hugging Face's names have it.
#[derive(Module, Debug)]
pub struct VisionEncoder {
    /// Blocks, in order.
    pub layers: Vec<VisionLayer>,
}

/// Embeddings, blocks, and the norms around them.
///
/// `post_layernorm` belongs to the pooled output, which a VLM does not use: it is carried through files untouched.
#[derive(Module, Debug)]
pub struct VisionTransformer {
    embeddings: VisionEmbeddings,
    pre_layrnorm: LayerNorm,
    /// The blocks.
    pub encoder: VisionEncoder,
    post_layernorm: LayerNorm,
}

impl VisionTransformer {
    /// Hidden state 0: what enters the first block.
    ///
    /// # Shapes
    /// `[m, 3, size, size]` → `[m, 1 + p, d]`
    pub fn embed(&self, pixels_mchw: Tensor<4>) -> Tensor<3> {
        self.pre_layrnorm.forward(self.embeddings.forward(pixels_mchw))
    }
}

/// The tower under the name that LLaVA's files give it.
#[derive(Module, Debug)]
pub struct VisionTower {
    /// The transformer.
    pub vision_model: VisionTransformer,
}

impl VisionTower {
    /// Fresh weights; the configuration must have been validated.
    pub fn init(config: &VisionConfig, init: &Init) -> Self {
        let init = init.with_std(config.initializer_range).at("vision_model");
        let layer_init = init.at("encoder").at("layers");
        let norm = || LayerNorm::init(&init, config.hidden_size, config.layer_norm_eps);
        Self {
            vision_model: VisionTransformer {
                embeddings: VisionEmbeddings::init(config, &init.at("embeddings")),
                pre_layrnorm: norm(),
                encoder: VisionEncoder {
                    layers: (0..config.num_hidden_layers)
                        .map(|i| VisionLayer::init(config, &layer_init.at(i)))
                        .collect(),
                },
                post_layernorm: norm(),
            },
        }
    }
}
