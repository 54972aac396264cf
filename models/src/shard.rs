//! A decoder that several models hold together, each a part of every matrix: tensor parallelism as in Megatron-LM
//! (<https://arxiv.org/abs/1909.08053>).
//!
//! A shard has some heads of each attention, some columns of the inside of each MLP, and some rows of the token table and of the
//! output projection. It sees the whole hidden state, and what it gives of a half of a block, of the embeddings or of the loss
//! is one term of a sum over the shards. What must be added once, a residual or the bias behind a sum, the first shard adds; the
//! vision tower and the projector are its work. So everything that is linear in an output is such a term as well:
//! gradients of inputs, and of what all shards have a copy of. Gradients of what is cut are complete as they are.

use std::{collections::HashMap, convert::Infallible, ops::Range};

use burn::{
    module::{Module, ModuleMapper, Param, ParamId},
    tensor::{DType, Tensor},
};

use crate::{
    Vlm,
    config::{DecoderConfig, Head, ModelConfigError, refuse},
    host::HostDtype,
    inputs::VlmInputs,
    params::{ParamInfo, fill_part, list_params, replace_value},
    segmented::{Segment, Segmented},
};

/// Which part of a decoder a model holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    /// From 0.
    pub index: usize,
    /// Shards that make up the decoder.
    pub count: usize,
}

impl Shard {
    /// All of it.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// Whether there is no other shard.
    pub fn is_whole(self) -> bool {
        self.count == 1
    }

    /// Whether it adds what must be added once.
    pub fn is_first(self) -> bool {
        self.index == 0
    }

    /// Its places among `len`, which need not divide evenly.
    pub fn range(self, len: usize) -> Range<usize> {
        self.index * len / self.count..(self.index + 1) * len / self.count
    }

    /// Its part of a matrix, in memory of its own; of a vector `[r, 1]`.
    ///
    /// # Shapes
    /// `[r, c]` → rows or columns of it
    pub fn part(self, cut: Cut, whole: &Tensor<2>) -> Tensor<2> {
        let Some(axis) = cut.axis() else {
            return whole.clone();
        };
        let Range { start, end } = self.range(whole.dims()[axis]);
        let part = whole.clone().narrow(axis, start, end - start);
        // A view would keep all of the whole.
        Tensor::from_data(part.into_data(), (&whole.device(), whole.dtype()))
    }

    /// Its part of a parameter.
    pub(crate) fn part_of<const D: usize>(self, path: &str, whole: Tensor<D>) -> Tensor<D> {
        let cut = Cut::of(path);
        if self.is_whole() || cut == Cut::Copied {
            return whole;
        }
        let (rows, count) = (whole.dims()[0], whole.shape().num_elements());
        of_matrix(self.part(cut, &whole.reshape([rows, count / rows])))
    }

    /// Checks that heads and the inside of MLPs divide into so many shards. The vocabulary need not.
    ///
    /// # Errors
    /// If they do not; the error has the numbers.
    pub fn check(count: usize, config: &DecoderConfig) -> Result<(), ModelConfigError> {
        for (name, len) in [
            ("num_attention_heads", config.num_attention_heads),
            ("num_key_value_heads", config.num_key_value_heads),
            ("intermediate_size", config.intermediate_size),
        ] {
            if count == 0 || !len.is_multiple_of(count) {
                let reason = format!("does not divide into {count} parts");
                return Err(refuse(name, len, reason));
            }
        }
        if config.vocab_size < count {
            let reason = format!("has fewer rows than {count} parts");
            return Err(refuse("vocab_size", config.vocab_size, reason));
        }
        Ok(())
    }
}

/// How a parameter is shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Each shard has some outputs of the layer, or some tokens.
    Rows,
    /// Each shard has some inputs of the layer.
    Columns,
    /// Each shard has all of it.
    Copied,
}

impl Cut {
    /// Of the parameter at a path.
    pub fn of(path: &str) -> Self {
        const OUTPUTS: [&str; 5] = ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"];
        const INPUTS: [&str; 2] = ["o_proj", "down_proj"];
        let Some(inside) = path.strip_prefix("language_model.") else {
            return Self::Copied;
        };
        if matches!(inside, "model.embed_tokens.weight" | "lm_head.weight") {
            return Self::Rows;
        }
        let names: Vec<&str> = inside.split('.').collect();
        let Some(at) = names.iter().position(|name| name.ends_with("_proj")) else {
            return Self::Copied;
        };
        // What reads the layer's input has its columns, and what makes its output its rows.
        match (names[at], &names[at + 1..]) {
            (layer, ["weight" | "bias"] | ["lora_B", "weight"]) if OUTPUTS.contains(&layer) => Self::Rows,
            (layer, ["weight"] | ["lora_A", "weight"]) if INPUTS.contains(&layer) => Self::Columns,
            _ => Self::Copied,
        }
    }

    /// The axis along which the parts lie, of the parameter as a matrix.
    pub fn axis(self) -> Option<usize> {
        match self {
            Self::Rows => Some(0),
            Self::Columns => Some(1),
            Self::Copied => None,
        }
    }
}

impl Vlm {
    /// Which part of the decoder this is.
    pub fn shard(&self) -> Shard {
        self.shard
    }

    /// All parameters as they are in the whole, in module order, with their ids in this model.
    pub fn whole_params(&self) -> Vec<ParamInfo> {
        let own = list_params(self);
        if self.shard.is_whole() {
            return own;
        }
        let weight = self.language_model.head_weight();
        let (lora, device) = (self.lora(), weight.device());
        let Ok(whole) = Self::init_deferred(self.config(), lora, 0, &device, weight.dtype()) else {
            unreachable!("this model was built from the same configuration");
        };
        let whole = list_params(&whole).into_iter().zip(own);
        whole
            .map(|(whole, own)| ParamInfo { id: own.id, ..whole })
            .collect()
    }

    /// Fills a whole model as [`fill_params`](crate::params::fill_params) does and keeps the part of a shard: no more than one
    /// parameter is whole at any time if the model was deferred.
    ///
    /// # Errors
    /// The first one of `next`.
    pub fn fill<E>(
        self,
        shard: Shard,
        dtype: HostDtype,
        next: impl FnMut(&ParamInfo, &mut [u8]) -> Result<bool, E>,
    ) -> Result<Self, E> {
        let mut model = fill_part(self, shard, dtype, next)?;
        model.hold(shard);
        Ok(model)
    }

    /// A part of a whole model.
    #[must_use]
    pub fn into_shard(self, shard: Shard) -> Self {
        let part = |info: &ParamInfo, whole| Ok::<_, Infallible>(shard.part(Cut::of(&info.path), &whole));
        match self.reshard(shard, part) {
            Ok(model) => model,
            Err(never) => match never {},
        }
    }

    /// The same model as another shard: `value` makes from each parameter that is cut the one to have in its place, both as
    /// matrices, vectors as `[r, 1]`.
    ///
    /// # Errors
    /// The first one of `value`.
    pub fn reshard<E>(
        self,
        shard: Shard,
        value: impl FnMut(&ParamInfo, Tensor<2>) -> Result<Tensor<2>, E>,
    ) -> Result<Self, E> {
        let cut = list_params(&self)
            .into_iter()
            .filter(|info| Cut::of(&info.path) != Cut::Copied);
        let mut exchange = Exchange {
            cut: cut.map(|info| (info.id, info)).collect(),
            value,
            error: None,
        };
        let mut model = self.map(&mut exchange);
        if let Some(error) = exchange.error {
            return Err(error);
        }
        model.hold(shard);
        Ok(model)
    }

    /// Log-sum-exps of the labelled tokens' logits over this model's part of the vocabulary, f32; `None` with a classification
    /// head, which is not cut.
    ///
    /// # Shapes
    /// `x [1, n, d]` before the final norm → `[n]`
    pub fn log_sums(&self, x: Tensor<3>) -> Option<Tensor<1>> {
        match self.config().head {
            Head::Lm => Some(self.language_model.log_sums(x.squeeze_dim(0))),
            Head::Classification { .. } => None,
        }
    }

    /// This shard's term of [`Segmented::loss_sum`]; `log_sums_n` are those of all shards together. With a classification head
    /// it is the first shard's, and the others' is 0.
    ///
    /// # Shapes
    /// `x [1, n, d]` before the final norm, `log_sums_n [n]` → `[1]`
    pub fn loss_term(&self, x: Tensor<3>, inputs: &VlmInputs, log_sums_n: Option<Tensor<1>>) -> Tensor<1> {
        match log_sums_n {
            Some(log_sums_n) => self.language_model.loss_term(
                x.squeeze_dim(0),
                inputs.targets_n.clone(),
                log_sums_n,
                self.shard.range(self.config().text.vocab_size).start,
            ),
            None if self.shard.is_first() => self.loss_sum(x, inputs),
            None => Tensor::zeros([1], (&x.device(), DType::F32)),
        }
    }

    /// Whether what this model gives of a link is one term of a sum over the shards.
    pub fn gives_term(&self, segment: Segment) -> bool {
        match segment {
            Segment::Embed | Segment::Attention(_) | Segment::Mlp(_) | Segment::Head => {
                !self.shard.is_whole()
            }
            Segment::VisionEmbeddings | Segment::VisionBlock(_) | Segment::Projector | Segment::Block(_) => {
                false
            }
        }
    }

    /// Whether a link is this model's work: images are the first shard's.
    pub fn runs(&self, segment: Segment) -> bool {
        self.shard.is_first()
            || !matches!(
                segment,
                Segment::VisionEmbeddings | Segment::VisionBlock(_) | Segment::Projector
            )
    }
}

/// A matrix, or the vector that is its one column.
fn of_matrix<const D: usize>(matrix: Tensor<2>) -> Tensor<D> {
    let extents = matrix.dims();
    matrix.reshape(std::array::from_fn::<usize, D, _>(|axis| extents[axis]))
}

/// Puts other values in the places of parameters that are cut.
struct Exchange<F, E> {
    cut: HashMap<ParamId, ParamInfo>,
    value: F,
    error: Option<E>,
}

impl<E, F: FnMut(&ParamInfo, Tensor<2>) -> Result<Tensor<2>, E>> ModuleMapper for Exchange<F, E> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(info) = self.cut.get(&param.id).filter(|_| self.error.is_none()) else {
            return param;
        };
        replace_value(param, |old| {
            let (rows, count) = (old.dims()[0], old.shape().num_elements());
            match (self.value)(info, old.clone().reshape([rows, count / rows])) {
                Ok(new) => of_matrix(new),
                Err(error) => {
                    self.error = Some(error);
                    old
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_follows_from_the_path() {
        let layer = "language_model.model.layers.3.";
        for (path, cut) in [
            ("self_attn.q_proj.weight", Cut::Rows),
            ("self_attn.v_proj.bias", Cut::Rows),
            ("self_attn.k_proj.lora_B.weight", Cut::Rows),
            ("self_attn.k_proj.lora_A.weight", Cut::Copied),
            ("self_attn.q_norm.weight", Cut::Copied),
            ("self_attn.o_proj.weight", Cut::Columns),
            ("self_attn.o_proj.bias", Cut::Copied),
            ("mlp.gate_proj.weight", Cut::Rows),
            ("mlp.up_proj.bias", Cut::Rows),
            ("mlp.down_proj.lora_A.weight", Cut::Columns),
            ("mlp.down_proj.lora_B.weight", Cut::Copied),
            ("mlp.act_fn.alpha_p", Cut::Copied),
            ("input_layernorm.weight", Cut::Copied),
        ] {
            assert_eq!(Cut::of(&format!("{layer}{path}")), cut, "{path}");
        }
        for (path, cut) in [
            ("language_model.model.embed_tokens.weight", Cut::Rows),
            ("language_model.lm_head.weight", Cut::Rows),
            ("language_model.score.weight", Cut::Copied),
            ("language_model.model.norm.weight", Cut::Copied),
            ("multi_modal_projector.linear_1.weight", Cut::Copied),
            (
                "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight",
                Cut::Copied,
            ),
        ] {
            assert_eq!(Cut::of(path), cut, "{path}");
        }
    }

    #[test]
    fn parts_cover_everything_once() {
        for (len, count) in [(8, 2), (7, 3), (5, 5), (151_937, 8)] {
            let ranges: Vec<_> = (0..count)
                .map(|index| Shard { index, count }.range(len))
                .collect();
            assert_eq!((ranges[0].start, ranges[count - 1].end), (0, len));
            assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert!(
                ranges
                    .iter()
                    .all(|range| range.len() <= len.div_ceil(count) && !range.is_empty())
            );
        }
    }
}
