//! The language model: a Llama-style decoder and what Mistral, Qwen2, Qwen3 and Apertus change in it.
//!
//! Reference: `modeling_llama.py`, `modeling_mistral.py`, `modeling_qwen2.py`, `modeling_qwen3.py` and
//! `modeling_apertus.py` in `transformers/models/`.
//! Shape letters as in [`crate::ops`].

use burn::{
    module::{Module, Param},
    tensor::{Int, Tensor, TensorData, activation::log_softmax},
};

use crate::{
    cache::{Past, attend_seen},
    config::{AttentionBias, DecoderConfig, Head, LanguageModelType, MlpKind},
    dropout,
    init::Init,
    layers::{Embedding, Linear, RmsNorm},
    ops::{self, AttentionMask, RopeTable, Segments},
    shard::Shard,
};

/// Where a block's queries look.
pub(crate) enum Scope<'a> {
    /// At the tokens before them in their row.
    Row,
    /// At those of them that are of their segment.
    Segments(&'a Segments),
    /// At the tokens held as well.
    Past(Past<'a>),
}

/// What is asked of a half of a block.
#[derive(Clone, Copy)]
pub(crate) struct Pass<'a> {
    /// Whether it adds what must be added once, see [`crate::shard`].
    pub(crate) is_first: bool,
    /// The tokens, row-major in `[b, t]`, whose hidden states are wanted behind the attention; all without. What comes after
    /// the last attention of a model is work for those that the head reads, and for no others. `[n]`
    pub(crate) rows_n: Option<&'a Tensor<1, Int>>,
}

impl Pass<'_> {
    /// All of it, for all tokens.
    pub(crate) const WHOLE: Self = Self {
        is_first: true,
        rows_n: None,
    };

    /// # Shapes
    /// `[b, t, d]` → `[1, n, d]`
    fn wanted(self, x_btd: Tensor<3>) -> Tensor<3> {
        let Some(rows_n) = self.rows_n else {
            return x_btd;
        };
        let [b, t, d] = x_btd.dims();
        ops::take_rows(x_btd.reshape([b * t, d]), rows_n.clone()).unsqueeze_dim(0)
    }
}

/// Grouped-query self-attention with RoPE, over all tokens before or a window of them.
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
    #[module(skip)]
    mask: AttentionMask,
}

impl SelfAttention {
    fn init(config: &DecoderConfig, layer: usize, init: &Init) -> Self {
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
        let (qkv_bias, o_bias) = match config.attention_bias {
            AttentionBias::None => (false, false),
            AttentionBias::Qkv => (true, false),
            AttentionBias::All => (true, true),
        };
        let qkv = |name: &str, heads: usize| {
            Linear::init_biased_if(qkv_bias, &init.at(name), config.hidden_size, heads * k)
        };
        Self {
            q_proj: qkv("q_proj", h),
            k_proj: qkv("k_proj", g),
            v_proj: qkv("v_proj", g),
            o_proj: Linear::init_biased_if(o_bias, &init.at("o_proj"), h * k, config.hidden_size),
            q_norm: norm(),
            k_norm: norm(),
            num_heads: h,
            num_key_value_heads: g,
            head_dim: k,
            mask: config.attention_mask(layer),
        }
    }

    /// The heads of a shard.
    fn hold(&mut self, config: &DecoderConfig, shard: Shard) {
        let heads = shard.range(config.num_attention_heads);
        self.num_heads = heads.len();
        self.num_key_value_heads = shard.range(config.num_key_value_heads).len();
        self.o_proj.begin_at(heads.start * self.head_dim);
    }

    fn forward(&self, x_btd: Tensor<3>, rope: &RopeTable, scope: Scope, pass: Pass) -> Tensor<3> {
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
        let rotated = |x_bthk: Tensor<4>, heads: usize| match b > 1 && rope.len() == b * t {
            // Each token of each row has a position of its own: all are one row.
            true => ops::rope(
                x_bthk.reshape([1, b * t, heads, self.head_dim]).swap_dims(1, 2),
                rope,
            )
            .swap_dims(1, 2)
            .reshape([b, t, heads, self.head_dim])
            .swap_dims(1, 2),
            false => ops::rope(x_bthk.swap_dims(1, 2), rope),
        };
        let q = rotated(normed(q, &self.q_norm), self.num_heads);
        let k = rotated(normed(k, &self.k_norm), self.num_key_value_heads);
        // 3. Attend, over the past too if there is one.
        let y_bhtk = match scope {
            Scope::Row => ops::attention(q, k, v, self.mask, None),
            Scope::Segments(segments) => ops::attention(q, k, v, self.mask, Some(segments)),
            Scope::Past(Past { cache, hidden_b1s }) => {
                let (k, v) = cache.extend(k, v);
                match hidden_b1s {
                    Some(hidden) => attend_seen(q, k, v, hidden),
                    None => ops::attention(q, k, v, self.mask, None),
                }
            }
        };
        // 4. Join heads: [b, h, t, k] -> [b, t, h*k].
        let y_bte = y_bhtk
            .swap_dims(1, 2)
            .reshape([b, t, self.num_heads * self.head_dim]);
        let y_bte = pass.wanted(y_bte);
        if let Some(rows_n) = pass.rows_n {
            dropout::narrow(rows_n);
        }
        let [b, t, e] = y_bte.dims();
        self.o_proj
            .forward_biased_if(pass.is_first, y_bte.reshape([b * t, e]))
            .reshape([b, t, d])
    }
}

/// xIELU's two learned numbers, see [`ops::xielu`].
#[derive(Module, Debug)]
pub struct Xielu {
    /// `[1]`
    alpha_p: Param<Tensor<1>>,
    /// `[1]`
    alpha_n: Param<Tensor<1>>,
}

impl Xielu {
    /// Both coefficients of the curve 0.8.
    fn init(init: &Init) -> Self {
        let inverse_softplus = |x: f64| x.exp_m1().ln() as f32;
        Self {
            alpha_p: init.constant(inverse_softplus(0.8), [1]),
            alpha_n: init.constant(inverse_softplus(0.8 - ops::XIELU_BETA), [1]),
        }
    }

    fn forward(&self, x_ni: Tensor<2>) -> Tensor<2> {
        ops::xielu(x_ni, self.alpha_p.val(), self.alpha_n.val())
    }
}

/// `down(silu(gate(x)) · up(x))`, or `down(xielu(up(x)))`.
#[derive(Module, Debug)]
pub struct Mlp {
    gate_proj: Option<Linear>,
    up_proj: Linear,
    down_proj: Linear,
    act_fn: Option<Xielu>,
}

impl Mlp {
    fn init(config: &DecoderConfig, init: &Init) -> Self {
        let (d, i) = (config.hidden_size, config.intermediate_size);
        let linear = |name: &str, from: usize, to: usize| {
            Linear::init_biased_if(config.mlp_bias, &init.at(name), from, to)
        };
        let (gate_proj, act_fn) = match config.mlp {
            MlpKind::SwiGlu => (Some(linear("gate_proj", d, i)), None),
            MlpKind::Xielu => (None, Some(Xielu::init(init))),
        };
        Self {
            gate_proj,
            up_proj: linear("up_proj", d, i),
            down_proj: linear("down_proj", i, d),
            act_fn,
        }
    }

    /// The inner columns of a shard.
    fn hold(&mut self, config: &DecoderConfig, shard: Shard) {
        self.down_proj
            .begin_at(shard.range(config.intermediate_size).start);
    }

    fn forward(&self, x_btd: Tensor<3>, is_first: bool) -> Tensor<3> {
        let [b, t, d] = x_btd.dims();
        let x_nd = x_btd.reshape([b * t, d]);
        let inner = match (&self.gate_proj, &self.act_fn) {
            (Some(gate), None) => ops::swiglu(gate.forward(x_nd.clone()), self.up_proj.forward(x_nd)),
            (None, Some(act_fn)) => act_fn.forward(self.up_proj.forward(x_nd)),
            _ => unreachable!("an MLP has either a gate or xIELU"),
        };
        self.down_proj
            .forward_biased_if(is_first, inner)
            .reshape([b, t, d])
    }
}

/// One pre-norm block. Its two norms have the names of the family's files: Apertus' are called otherwise.
#[derive(Module, Debug)]
pub struct DecoderLayer {
    self_attn: SelfAttention,
    mlp: Mlp,
    input_layernorm: Option<RmsNorm>,
    post_attention_layernorm: Option<RmsNorm>,
    attention_layernorm: Option<RmsNorm>,
    feedforward_layernorm: Option<RmsNorm>,
}

impl DecoderLayer {
    fn init(config: &DecoderConfig, layer: usize, init: &Init) -> Self {
        let norm = || Some(RmsNorm::init(init, config.hidden_size, config.rms_norm_eps));
        let (llama, apertus) = match config.model_type {
            LanguageModelType::Llama
            | LanguageModelType::Mistral
            | LanguageModelType::Qwen2
            | LanguageModelType::Qwen3 => ([norm(), norm()], [None, None]),
            LanguageModelType::Apertus => ([None, None], [norm(), norm()]),
        };
        let [input_layernorm, post_attention_layernorm] = llama;
        let [attention_layernorm, feedforward_layernorm] = apertus;
        Self {
            self_attn: SelfAttention::init(config, layer, &init.at("self_attn")),
            mlp: Mlp::init(config, &init.at("mlp")),
            input_layernorm,
            post_attention_layernorm,
            attention_layernorm,
            feedforward_layernorm,
        }
    }

    /// # Shapes
    /// `x_btd [b, t, d]`, a table of the `t` positions or one of all `b*t` tokens → `[b, t, d]`, or `[1, n, d]` of `n` wanted
    /// tokens. With a past the `t` tokens follow those held.
    pub(crate) fn forward(&self, x_btd: Tensor<3>, rope: &RopeTable, scope: Scope, pass: Pass) -> Tensor<3> {
        let x_btd = self.forward_attention(x_btd, rope, scope, pass);
        self.forward_mlp(x_btd, pass.is_first)
    }

    /// The first half. Of a shard one term of it, with the residual if it is the first.
    pub(crate) fn forward_attention(
        &self,
        x_btd: Tensor<3>,
        rope: &RopeTable,
        scope: Scope,
        pass: Pass,
    ) -> Tensor<3> {
        let normed = norm(&self.input_layernorm, &self.attention_layernorm, &x_btd);
        let y_btd = self.self_attn.forward(normed, rope, scope, pass);
        match pass.is_first {
            true => pass.wanted(x_btd) + y_btd,
            false => y_btd,
        }
    }

    /// The second half, in the same way, of the tokens it is given.
    pub(crate) fn forward_mlp(&self, x_btd: Tensor<3>, is_first: bool) -> Tensor<3> {
        let normed = norm(
            &self.post_attention_layernorm,
            &self.feedforward_layernorm,
            &x_btd,
        );
        let y_btd = self.mlp.forward(normed, is_first);
        if is_first { x_btd + y_btd } else { y_btd }
    }
}

/// Normalises by the norm that a family has under one name or the other.
fn norm(llama: &Option<RmsNorm>, apertus: &Option<RmsNorm>, x_btd: &Tensor<3>) -> Tensor<3> {
    let Some(norm) = llama.as_ref().or(apertus.as_ref()) else {
        unreachable!("a block has two norms under one name or the other");
    };
    norm.forward(x_btd.clone())
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
                    .map(|i| DecoderLayer::init(config, i, &layer_init.at(i)))
                    .collect(),
                norm: RmsNorm::init(&model_init, d, config.rms_norm_eps),
            },
            lm_head: untied.then(|| Linear::init(&init.at("lm_head"), d, v)),
            score: num_labels.map(|labels| Linear::init(&init.at("score"), d, labels)),
        }
    }

    /// Makes room for what a shard has of each block.
    pub(crate) fn hold(&mut self, config: &DecoderConfig, shard: Shard) {
        for layer in &mut self.model.layers {
            layer.self_attn.hold(config, shard);
            layer.mlp.hold(config, shard);
        }
    }

    /// The output projection, `[v, d]`; of a classification head `[labels, d]`.
    pub fn head_weight(&self) -> Tensor<2> {
        match self.lm_head.as_ref().or(self.score.as_ref()) {
            Some(head) => head.weight.val(),
            None => self.model.embed_tokens.weight.val(),
        }
    }

    /// Sum of the cross-entropies of the labelled tokens, f32.
    ///
    /// # Shapes
    /// `x_nd` out of the last block; `targets_n` token ids → `[1]`.
    pub fn loss_sum(&self, x_nd: Tensor<2>, targets_n: Tensor<1, Int>) -> Tensor<1> {
        ops::linear_cross_entropy(self.model.norm.forward(x_nd), self.head_weight(), targets_n)
    }

    /// Log-sum-exps of the labelled tokens' logits, f32; of a shard over its part of the vocabulary.
    ///
    /// # Shapes
    /// As [`CausalLm::loss_sum`] → `[n]`.
    pub fn log_sums(&self, x_nd: Tensor<2>) -> Tensor<1> {
        ops::linear_log_sum_exp(self.model.norm.forward(x_nd), self.head_weight())
    }

    /// A shard's term of [`CausalLm::loss_sum`]; its part of the vocabulary begins at `first_row`, and `log_sums_n` are over all
    /// of it.
    ///
    /// # Shapes
    /// As [`CausalLm::loss_sum`], `log_sums_n [n]` → `[1]`.
    pub fn loss_term(
        &self,
        x_nd: Tensor<2>,
        targets_n: Tensor<1, Int>,
        log_sums_n: Tensor<1>,
        first_row: usize,
    ) -> Tensor<1> {
        ops::linear_cross_entropy_part(
            self.model.norm.forward(x_nd),
            self.head_weight(),
            targets_n - first_row as i64,
            log_sums_n,
        )
    }

    /// Sum of the cross-entropies of classes, each times its weight, f32.
    ///
    /// # Shapes
    /// `x_nd` out of the last block; `classes_n` class ids; `weights` n numbers → `[1]`.
    pub fn class_loss_sum(&self, x_nd: Tensor<2>, classes_n: Tensor<1, Int>, weights: &[f32]) -> Tensor<1> {
        let n = weights.len();
        let logits_nv = self.logits(x_nd);
        let weights_n = Tensor::<1>::from_data(TensorData::new(weights.to_vec(), [n]), &logits_nv.device());
        let losses_n1 = log_softmax(logits_nv, 1).gather(1, classes_n.reshape([n, 1]));
        (losses_n1.reshape([n]) * weights_n).sum().neg()
    }

    /// Logits in f32. For generation and tests; training uses [`CausalLm::loss_sum`].
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
