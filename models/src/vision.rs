//! Vision towers: a ViT (<https://arxiv.org/abs/2010.11929>) with what its family has around the blocks, see
//! [`VisionModelType`](crate::VisionModelType).
//!
//! Reference: `transformers/models/clip/modeling_clip.py`, `transformers/models/siglip/modeling_siglip.py`. Shape letters as
//! in [`crate::ops`]; `p` patches of an image, `m` images, `c` channels, `t` tokens: patches, and CLIP's class token.

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
    /// `[d]`; SigLIP has one
    pub bias: Option<Param<Tensor<1>>>,
}

/// A learned vector for each position.
#[derive(Module, Debug)]
pub struct PositionEmbedding {
    /// `[t, d]`
    pub weight: Param<Tensor<2>>,
}

/// Class token where there is one, patches and positions.
#[derive(Module, Debug)]
pub struct VisionEmbeddings {
    class_embedding: Option<Param<Tensor<1>>>,
    patch_embedding: PatchEmbedding,
    position_embedding: PositionEmbedding,
}

impl VisionEmbeddings {
    fn init(config: &VisionConfig, init: &Init) -> Self {
        let (d, patch) = (config.hidden_size, config.patch_size);
        let has_class_token = config.model_type.has_class_token();
        // Scaled to its fan-in: at another scale patches drown the positions, and a tower that is trained from nothing
        // takes long to learn where things are.
        let fan_in = (3 * patch * patch) as f64;
        let patches = init.at("patch_embedding").with_std(fan_in.sqrt().recip());
        let class_position = vec![0.0; if has_class_token { d } else { 0 }];
        let positions = [class_position, sincos_2d(config.grid(), d)].concat();
        Self {
            class_embedding: has_class_token.then(|| init.normal("class_embedding", [d])),
            patch_embedding: PatchEmbedding {
                weight: patches.normal("weight", [d, 3, patch, patch]),
                bias: config
                    .model_type
                    .has_patch_bias()
                    .then(|| init.constant(0.0, [d])),
            },
            position_embedding: PositionEmbedding {
                weight: init.values(positions, [config.num_positions(), d]),
            },
        }
    }

    fn forward(&self, pixels_mchw: Tensor<4>) -> Tensor<3> {
        let [m, c, height, _] = pixels_mchw.dims();
        let weight = self.patch_embedding.weight.val();
        let [d, _, size, _] = weight.dims();
        let grid = height / size;
        // 1. Cut into patches, without what is left over: [m, c, side, side] -> [m*p, c*size*size].
        let seen = grid * size;
        let pixels_mchw = match seen == height {
            true => pixels_mchw,
            false => pixels_mchw.narrow(2, 0, seen).narrow(3, 0, seen),
        };
        let patches = pixels_mchw
            .reshape([m, c, grid, size, grid, size])
            .permute([0, 2, 4, 1, 3, 5])
            .reshape([m * grid * grid, c * size * size]);
        // 2. Project: [m*p, c*size*size] -> [m, p, d].
        let bias = self.patch_embedding.bias.as_ref().map(Param::val);
        let patches_mpd =
            ops::linear(patches, weight.reshape([d, c * size * size]), bias).reshape([m, grid * grid, d]);
        // 3. Class token first, then add positions.
        let tokens_mtd = match &self.class_embedding {
            Some(class) => {
                let class_m1d = class.val().reshape([1, 1, d]).expand([m, 1, d]);
                Tensor::cat(vec![class_m1d, patches_mpd], 1)
            }
            None => patches_mpd,
        };
        tokens_mtd + self.position_embedding.weight.val().unsqueeze::<3>()
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
            None,
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

impl VisionMlp {
    fn init(config: &VisionConfig, init: &Init) -> Self {
        let (d, i) = (config.hidden_size, config.intermediate_size);
        Self {
            fc1: Linear::init_with_bias(&init.at("fc1"), d, i),
            fc2: Linear::init_with_bias(&init.at("fc2"), i, d),
        }
    }
}

impl VisionLayer {
    fn init(config: &VisionConfig, init: &Init) -> Self {
        let d = config.hidden_size;
        let attn = init.at("self_attn");
        Self {
            self_attn: VisionAttention {
                k_proj: Linear::init_with_bias(&attn.at("k_proj"), d, d),
                v_proj: Linear::init_with_bias(&attn.at("v_proj"), d, d),
                q_proj: Linear::init_with_bias(&attn.at("q_proj"), d, d),
                out_proj: Linear::init_with_bias(&attn.at("out_proj"), d, d),
                num_heads: config.num_attention_heads,
            },
            layer_norm1: LayerNorm::init(init, d, config.layer_norm_eps),
            mlp: VisionMlp::init(config, &init.at("mlp")),
            layer_norm2: LayerNorm::init(init, d, config.layer_norm_eps),
            activation: match config.hidden_act {
                VisionActivation::QuickGelu => Activation::QuickGelu,
                VisionActivation::Gelu => Activation::Gelu,
                VisionActivation::GeluTanh => Activation::GeluTanh,
            },
        }
    }

    /// # Shapes
    /// `[m, t, d]` → `[m, t, d]`
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

/// SigLIP's attention pooling. A VLM has no use for a pooled image: it is carried through files untouched.
#[derive(Module, Debug)]
pub struct PoolingHead {
    /// `[1, 1, d]`
    probe: Param<Tensor<3>>,
    attention: PoolingAttention,
    layernorm: LayerNorm,
    mlp: VisionMlp,
}

/// `torch.nn.MultiheadAttention`.
#[derive(Module, Debug)]
pub struct PoolingAttention {
    /// Queries, keys and values, `[3 d, d]`
    in_proj_weight: Param<Tensor<2>>,
    /// `[3 d]`
    in_proj_bias: Param<Tensor<1>>,
    out_proj: Linear,
}

impl PoolingHead {
    fn init(config: &VisionConfig, init: &Init) -> Self {
        let d = config.hidden_size;
        let attention = init.at("attention");
        Self {
            probe: init.normal("probe", [1, 1, d]),
            attention: PoolingAttention {
                in_proj_weight: attention.normal("in_proj_weight", [3 * d, d]),
                in_proj_bias: attention.constant(0.0, [3 * d]),
                out_proj: Linear::init_with_bias(&attention.at("out_proj"), d, d),
            },
            layernorm: LayerNorm::init(init, d, config.layer_norm_eps),
            mlp: VisionMlp::init(config, &init.at("mlp")),
        }
    }
}

/// Embeddings, blocks, and the norms around them.
#[derive(Module, Debug)]
pub struct VisionTransformer {
    embeddings: VisionEmbeddings,
    /// CLIP's; so spelt in its files.
    pre_layrnorm: Option<LayerNorm>,
    /// The blocks.
    pub encoder: VisionEncoder,
    /// CLIP's belongs to the pooled output, which a VLM does not use; SigLIP's also makes its `last_hidden_state`. Unused it
    /// is carried through files untouched.
    pub post_layernorm: LayerNorm,
    head: Option<PoolingHead>,
}

impl VisionTransformer {
    /// Hidden state 0: what enters the first block.
    ///
    /// # Shapes
    /// `[m, 3, size, size]` → `[m, t, d]`
    pub fn embed(&self, pixels_mchw: Tensor<4>) -> Tensor<3> {
        let x_mtd = self.embeddings.forward(pixels_mchw);
        match &self.pre_layrnorm {
            Some(norm) => norm.forward(x_mtd),
            None => x_mtd,
        }
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
                pre_layrnorm: config.model_type.has_pre_norm().then(norm),
                encoder: VisionEncoder {
                    layers: (0..config.num_hidden_layers)
                        .map(|i| VisionLayer::init(config, &layer_init.at(i)))
                        .collect(),
                },
                post_layernorm: norm(),
                head: config
                    .vision_use_head
                    .then(|| PoolingHead::init(config, &init.at("head"))),
            },
        }
    }
}
