//! Keys and values of the tokens seen so far, for generation.
//!
//! Prompts of several lengths are padded on the right; what a row generates is stored behind the longest prompt. The places
//! between, which hold nothing, are hidden from its queries, and its positions go on from its own length.

use burn::tensor::{DType, Device, Tensor, TensorData, activation::softmax};

use crate::{
    config::DecoderConfig,
    ops::{self, AttentionMask, RopeTable},
};

/// Keys and values of one block.
#[derive(Debug, Clone)]
pub struct LayerCache {
    /// `[b, g, capacity, k]`
    keys: Tensor<4>,
    /// `[b, g, capacity, k]`
    values: Tensor<4>,
    length: usize,
}

impl LayerCache {
    fn new(config: &DecoderConfig, batch: usize, capacity: usize, device: &Device, dtype: DType) -> Self {
        let shape = [batch, config.num_key_value_heads, capacity, config.head_dim];
        let empty = || Tensor::<4>::zeros(shape, (device, dtype));
        Self {
            keys: empty(),
            values: empty(),
            length: 0,
        }
    }

    /// Appends `t` tokens and returns all held, `[b, g, s, k]` each.
    pub(crate) fn extend(&mut self, keys_bgtk: Tensor<4>, values_bgtk: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
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

/// Keys and values of all blocks.
#[derive(Debug, Clone)]
pub struct KvCache {
    pub(crate) layers: Vec<LayerCache>,
    /// Tokens of each row's prompt.
    prompts: Vec<usize>,
    /// Tokens of the longest prompt.
    width: usize,
}

/// What a block needs to know of the past.
pub(crate) struct Past<'a> {
    pub(crate) cache: &'a mut LayerCache,
    /// For rows of several lengths that each add one token: 0 for places a row sees and `-inf` for others, `[b, 1, s]`.
    pub(crate) hidden_b1s: Option<&'a Tensor<3>>,
}

impl KvCache {
    /// Room for `capacity` tokens of each row. `prompts` are the rows' lengths, of which the longest is `width`.
    pub(crate) fn new(
        config: &DecoderConfig,
        prompts: &[usize],
        width: usize,
        capacity: usize,
        device: &Device,
        dtype: DType,
    ) -> Self {
        let layer = |_| LayerCache::new(config, prompts.len(), capacity.max(width), device, dtype);
        Self {
            layers: (0..config.num_hidden_layers).map(layer).collect(),
            prompts: prompts.to_vec(),
            width,
        }
    }

    /// Number of places held, which is the length of the longest row.
    pub fn len(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.length)
    }

    /// Whether nothing has been stored yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether places between prompt and answer must be hidden from a row.
    fn has_gaps(&self) -> bool {
        !self.is_empty() && self.prompts.iter().any(|&length| length < self.width)
    }

    /// Cosines and sines of the next `t` tokens: one table for all rows, or with gaps a row of the table for each row of the
    /// batch, which adds one token.
    pub(crate) fn rope_table(&self, config: &DecoderConfig, t: usize, device: &Device) -> RopeTable {
        if self.has_gaps() {
            let generated = self.len() - self.width;
            config.rope_table(self.prompts.iter().map(|length| length + generated), device)
        } else {
            config.rope_table(self.len()..self.len() + t, device)
        }
    }

    /// What [`Past::hidden_b1s`] is for the next token in each block.
    pub(crate) fn hidden_places(&self, config: &DecoderConfig, device: &Device) -> HiddenPlaces {
        let mut places: Vec<(AttentionMask, Tensor<3>)> = Vec::new();
        if self.has_gaps() {
            for mask in (0..config.num_hidden_layers).map(|layer| config.attention_mask(layer)) {
                if places.iter().all(|(known, _)| *known != mask) {
                    places.push((mask, self.hidden_b1s(mask, device)));
                }
            }
        }
        HiddenPlaces(places)
    }

    fn hidden_b1s(&self, mask: AttentionMask, device: &Device) -> Tensor<3> {
        let (b, s) = (self.prompts.len(), self.len() + 1);
        let window = match mask {
            AttentionMask::SlidingWindow { window } => window,
            AttentionMask::Full | AttentionMask::Causal => usize::MAX,
        };
        let mut hidden = Vec::with_capacity(b * s);
        for &length in &self.prompts {
            let gap = self.width - length;
            let query = s - 1 - gap;
            hidden.extend((0..s).map(|place| {
                let position = match place {
                    place if place < length => Some(place),
                    place if place < self.width => None,
                    place => Some(place - gap),
                };
                let seen = position.is_some_and(|position| query - position < window);
                if seen { 0.0 } else { f32::NEG_INFINITY }
            }));
        }
        Tensor::from_data(TensorData::new(hidden, [b, 1, s]), (device, DType::F32))
    }
}

/// [`Past::hidden_b1s`] for each kind of mask that blocks have; empty where nothing is hidden.
pub(crate) struct HiddenPlaces(Vec<(AttentionMask, Tensor<3>)>);

impl HiddenPlaces {
    pub(crate) fn of(&self, mask: AttentionMask) -> Option<&Tensor<3>> {
        let same = self.0.iter().find(|(known, _)| *known == mask);
        same.map(|(_, hidden_b1s)| hidden_b1s)
    }
}

/// Attention of one query per row over the places that are not hidden; f32 inside. `t = 1`, so scores are as small as the
/// cache.
///
/// # Shapes
/// `q_bh1k [b, h, 1, k]`, `k_bgsk`, `v_bgsk [b, g, s, k]`, `hidden_b1s [b, 1, s]` → `[b, h, 1, k]`
pub(crate) fn attend_seen(
    q_bh1k: Tensor<4>,
    k_bgsk: Tensor<4>,
    v_bgsk: Tensor<4>,
    hidden_b1s: &Tensor<3>,
) -> Tensor<4> {
    let ([b, h, _, k], [_, g, s, _]) = (q_bh1k.dims(), k_bgsk.dims());
    let dtype = q_bh1k.dtype();
    // The heads of a group are the rows of one product.
    let q_bgik = ops::to_f32(q_bh1k.reshape([b, g, h / g, k]));
    let scores_bgis = q_bgik.matmul(ops::to_f32(k_bgsk).swap_dims(2, 3)) * (k as f64).sqrt().recip();
    let weights_bgis = softmax(scores_bgis + hidden_b1s.clone().reshape([b, 1, 1, s]), 3);
    weights_bgis
        .matmul(ops::to_f32(v_bgsk))
        .cast(dtype)
        .reshape([b, h, 1, k])
}
