//! The language model: a Llama-style decoder, with Qwen3's QK-norm as an option.
//!
//! Reference: `transformers/models/llama/modeling_llama.py`, `transformers/models/qwen3/modeling_qwen3.py`.
//! Shape letters as in [`crate::ops`].

use burn::{
    module::Module,
    tensor::{Int, Tensor, TensorData, activation::log_softmax},
};

use crate::{
    config::{DecoderConfig, Head},
    init::Init,
    layers::{Embedding, Linear, RmsNorm},
    ops::{self, RopeTable},
};

/// Keys and values of the tokens seen so far, for one block.
#[derive(Debug, Clone)]
pub struct LayerCache {
    /// `[b, g, capacity, k]`
    keys: Tensor<4>,
    /// `[b, g, capacity, k]`
    values: Tensor<4>,
    length: usize,
}

impl LayerCache {
    /// Room for `capacity` tokens of `batch` rows, in the dtype and on the device of `like`.
    pub(crate) fn new(config: &DecoderConfig, batch: usize, capacity: usize, like: &Tensor<2>) -> Self {
        let shape = [batch, config.num_key_value_heads, capacity, config.head_dim];
        let empty = || Tensor::<4>::zeros(shape, (&like.device(), like.dtype()));
        Self {
            keys: empty(),
            values: empty(),
            length: 0,
        }
    }

    /// Number of tokens held.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether nothing has been stored yet.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Appends `t` tokens and returns all held, `[b, g, s, k]` each.
    fn extend(&mut self, keys_bgtk: Tensor<4>, values_bgtk: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let [b, g, t, k] = keys_bgtk.dims();
        let place = [0..b, 0..g, self.length..self.length + t, 0..k];
        self.length += t;
        // `inplace` hands the buffer over instead of a second handle to it, so that it is not copied.
        self.keys
            .inplace(|held| held.slice_assign(place.clone(), keys_bgtk));
        self.values.inplace(|held| held.slice_assign(place, values_bgtk));
        let held = |x: &Tensor<4>| x.clone().narrow(2, 0, self.length);
        (held(&self.keys), held(&self.values))
    }
}

/// Grouped-query self-attention with RoPE.
#[derive(Module, Debug)]
pub struct SelfAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    q_norm: Option<RmsNorm>,
    k_norm: Option<RmsNorm>,
    num_heads: usize,
    num_key_value_heads: usize,
    head_dim: usize,
}

impl SelfAttention {
    fn init(config: &DecoderConfig, init: &Init) -> Self {
        let (h, g, k) = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        );
        let norm = || {
            config
                .qk_norm
                .then(|| RmsNorm::init(init, k, config.rms_norm_eps))
        };
        Self {
            q_proj: Linear::init(&init.at("q_proj"), config.hidden_size, h * k),
            k_proj: Linear::init(&init.at("k_proj"), config.hidden_size, g * k),
            v_proj: Linear::init(&init.at("v_proj"), config.hidden_size, g * k),
            o_proj: Linear::init(&init.at("o_proj"), h * k, config.hidden_size),
            q_norm: norm(),
            k_norm: norm(),
            num_heads: h,
            num_key_value_heads: g,
            head_dim: k,
        }
    }

    fn forward(&self, x_btd: Tensor<3>, rope: &RopeTable, cache: Option<&mut LayerCache>) -> Tensor<3> {
        let [b, t, d] = x_btd.dims();
        let x_nd = x_btd.reshape([b * t, d]);
        // 1. Project and split heads: [n, heads*k] -> [b, t, heads, k].
        let split = |y: Tensor<2>, heads: usize| y.reshape([b, t, heads, self.head_dim]);
        let q = split(self.q_proj.forward(x_nd.clone()), self.num_heads);
        let k = split(self.k_proj.forward(x_nd.clone()), self.num_key_value_heads);
        let v = split(self.v_proj.forward(x_nd), self.num_key_value_heads).swap_dims(1, 2);
        // 2. Normalise each head where the family does; rotate: [b, t, heads, k] -> [b, heads, t, k].
        let normed = |x: Tensor<4>, norm: &Option<RmsNorm>| match norm {
            Some(norm) => norm.forward(x),
            None => x,
        };
        let q = ops::rope(normed(q, &self.q_norm).swap_dims(1, 2), rope);
        let k = ops::rope(normed(k, &self.k_norm).swap_dims(1, 2), rope);
        // 3. Attend, over the past too if there is one.
        let (k, v) = match cache {
            Some(cache) => cache.extend(k, v),
            None => (k, v),
        };
        let y_bhtk = ops::attention(q, k, v, true);
        // 4. Join heads: [b, h, t, k] -> [n, h*k].
        let y_ne = y_bhtk
            .swap_dims(1, 2)
            .reshape([b * t, self.num_heads * self.head_dim]);
        self.o_proj.forward(y_ne).reshape([b, t, d])
    }
}

/// SwiGLU: `down(silu(gate(x)) · up(x))`.
#[derive(Module, Debug)]
pub struct Mlp {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

impl Mlp {
    fn init(config: &DecoderConfig, init: &Init) -> Self {
        let (d, i) = (config.hidden_size, config.intermediate_size);
        Self {
            gate_proj: Linear::init(&init.at("gate_proj"), d, i),
            up_proj: Linear::init(&init.at("up_proj"), d, i),
            down_proj: Linear::init(&init.at("down_proj"), i, d),
        }
    }

    fn forward(&self, x_btd: Tensor<3>) -> Tensor<3> {
        let [b, t, d] = x_btd.dims();
        let x_nd = x_btd.reshape([b * t, d]);
        let inner = ops::swiglu(self.gate_proj.forward(x_nd.clone()), self.up_proj.forward(x_nd));
        self.down_proj.forward(inner).reshape([b, t, d])
    }
}

/// One pre-norm block.
#[derive(Module, Debug)]
pub struct DecoderLayer {
    self_attn: SelfAttention,
    mlp: Mlp,
    input_layernorm: RmsNorm,
    post_attention_layernorm: RmsNorm,
}

impl DecoderLayer {
    fn init(config: &DecoderConfig, init: &Init) -> Self {
        let norm = || RmsNorm::init(init, config.hidden_size, config.rms_norm_eps);
        Self {
            self_attn: SelfAttention::init(config, &init.at("self_attn")),
            mlp: Mlp::init(config, &init.at("mlp")),
            input_layernorm: norm(),
            post_attention_layernorm: norm(),
        }
    }

    /// # Shapes
    /// `x_btd [b, t, d]`, a table of the `t` positions → `[b, t, d]`. With a cache the `t` tokens follow those held.
    pub fn forward(&self, x_btd: Tensor<3>, rope: &RopeTable, cache: Option<&mut LayerCache>) -> Tensor<3> {
        let normed = self.input_layernorm.forward(x_btd.clone());
        let x_btd = x_btd + self.self_attn.forward(normed, rope, cache);
        let normed = self.post_attention_layernorm.forward(x_btd.clone());
        x_btd + self.mlp.forward(normed)
    }
}

/// Embeddings, blocks and final norm.
#[derive(Module, Debug)]
pub struct Decoder {
    /// Token table.
    pub embed_tokens: Embedding,
    /// Blocks, in order.
    pub layers: Vec<DecoderLayer>,
    /// Before the head.
    pub norm: RmsNorm,
}

/// Decoder and output projection.
#[derive(Module, Debug)]
pub struct CausalLm {
    /// The decoder.
    pub model: Decoder,
    /// `None` where the token table is the output projection, or a classification head is in its place.
    pub lm_head: Option<Linear>,
    /// The classification head, `[labels, d]`.
    score: Option<Linear>,
}

impl CausalLm {
    /// Fresh weights; the configuration must have been validated.
    pub fn init(config: &DecoderConfig, head: &Head, init: &Init) -> Self {
        let init = init.with_std(config.initializer_range);
        let (untied, num_labels) = match head {
            Head::Lm => (!config.tie_word_embeddings, None),
            Head::Classification { labels } => (false, Some(labels.len())),
        };
        let model_init = init.at("model");
        let layer_init = model_init.at("layers");
        let (v, d) = (config.vocab_size, config.hidden_size);
        Self {
            model: Decoder {
                embed_tokens: Embedding::init(&model_init.at("embed_tokens"), v, d),
                layers: (0..config.num_hidden_layers)
                    .map(|i| DecoderLayer::init(config, &layer_init.at(i)))
                    .collect(),
                norm: RmsNorm::init(&model_init, d, config.rms_norm_eps),
            },
            lm_head: untied.then(|| Linear::init(&init.at("lm_head"), d, v)),
            score: num_labels.map(|labels| Linear::init(&init.at("score"), d, labels)),
        }
    }

    /// The output projection, `[v, d]`; of a classification head `[labels, d]`.
    pub fn head_weight(&self) -> Tensor<2> {
        match self.lm_head.as_ref().or(self.score.as_ref()) {
            Some(head) => head.weight.val(),
            None => self.model.embed_tokens.weight.val(),
        }
    }

    /// Sum of the cross-entropies of the labelled rows, f32.
    ///
    /// # Shapes
    /// `x_btd` out of the last block; `rows_n` index `b*t`; `targets_n` token ids → `[1]`.
    pub fn loss_sum(&self, x_btd: Tensor<3>, rows_n: Tensor<1, Int>, targets_n: Tensor<1, Int>) -> Tensor<1> {
        let [b, t, d] = x_btd.dims();
        let labelled_nd = ops::take_rows(x_btd.reshape([b * t, d]), rows_n);
        ops::linear_cross_entropy(
            self.model.norm.forward(labelled_nd),
            self.head_weight(),
            targets_n,
        )
    }

    /// Sum of the cross-entropies of classes at chosen rows, each times its weight, f32.
    ///
    /// # Shapes
    /// `x_btd` out of the last block; `rows_n` index `b*t`; `classes_n` class ids; `weights` n numbers → `[1]`.
    pub fn class_loss_sum(
        &self,
        x_btd: Tensor<3>,
        rows_n: Tensor<1, Int>,
        classes_n: Tensor<1, Int>,
        weights: &[f32],
    ) -> Tensor<1> {
        let [b, t, d] = x_btd.dims();
        let n = weights.len();
        let logits_nv = self.logits(ops::take_rows(x_btd.reshape([b * t, d]), rows_n));
        let weights_n = Tensor::<1>::from_data(TensorData::new(weights.to_vec(), [n]), &logits_nv.device());
        let losses_n1 = log_softmax(logits_nv, 1).gather(1, classes_n.reshape([n, 1]));
        (losses_n1.reshape([n]) * weights_n).sum().neg()
    }

    /// Logits of chosen rows in f32. For generation and tests; training uses [`CausalLm::loss_sum`].
    ///
    /// # Shapes
    /// `x_nd [n, d]` out of the last block → `[n, v]`.
    pub fn logits(&self, x_nd: Tensor<2>) -> Tensor<2> {
        ops::to_f32(ops::linear(
            self.model.norm.forward(x_nd),
            self.head_weight(),
            None,
        ))
    }
}
