//! Layers shared by the decoder, the vision tower and the projector. Parameters have Hugging Face's names and layouts.

#![expect(non_snake_case, reason = "fields are parameter paths, and PEFT writes lora_A")]

use burn::{
    module::{Module, Param},
    tensor::{Bool, Int, Tensor},
};

use crate::{dropout::Dropout, init::Init, lora::LoraConfig, ops};

/// `x · weightᵀ + bias`, the weight in Hugging Face's `[out, in]` layout, with a low-rank update where the layer has an
/// adapter; see [`crate::lora`].
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`
    pub weight: Param<Tensor<2>>,
    /// `[out]`
    pub bias: Option<Param<Tensor<1>>>,
    /// `[r, in]`
    lora_A: Option<LoraMatrix>,
    /// `[out, r]`
    lora_B: Option<LoraMatrix>,
    /// Factor of the update.
    scaling: f64,
    #[module(skip)]
    dropout: Option<Dropout>,
}

/// One factor of a low-rank update.
#[derive(Module, Debug)]
pub struct LoraMatrix {
    weight: Param<Tensor<2>>,
}

impl Linear {
    /// Weight from `N(0, std²)`, no bias. An adapter starts as PEFT's do: `A` as a fresh `torch.nn.Linear`, `B` 0.
    pub fn init(init: &Init, d_in: usize, d_out: usize) -> Self {
        let lora = init.lora();
        // kaiming_uniform_ with a = sqrt(5): the bound is sqrt(6 / (1 + 5) / in).
        let bound = (d_in as f64).sqrt().recip();
        Self {
            weight: init.normal("weight", [d_out, d_in]),
            bias: None,
            lora_A: lora.map(|lora| LoraMatrix {
                weight: init.at("lora_A").uniform("weight", [lora.r, d_in], bound),
            }),
            lora_B: lora.map(|lora| LoraMatrix {
                weight: init.constant(0.0, [d_out, lora.r]),
            }),
            scaling: lora.map_or(0.0, LoraConfig::scaling),
            dropout: lora.map(|lora| Dropout::new(init.path(), lora.lora_dropout)),
        }
    }

    /// Weight from `N(0, std²)`, bias 0.
    pub fn init_with_bias(init: &Init, d_in: usize, d_out: usize) -> Self {
        Self {
            bias: Some(init.constant(0.0, [d_out])),
            ..Self::init(init, d_in, d_out)
        }
    }

    /// [`Linear::init_with_bias`] or [`Linear::init`].
    pub fn init_biased_if(bias: bool, init: &Init, d_in: usize, d_out: usize) -> Self {
        if bias {
            Self::init_with_bias(init, d_in, d_out)
        } else {
            Self::init(init, d_in, d_out)
        }
    }

    /// # Shapes
    /// `[n, in]` → `[n, out]`
    pub fn forward(&self, x_ni: Tensor<2>) -> Tensor<2> {
        self.forward_biased_if(true, x_ni)
    }

    /// [`Linear::forward`], but the bias, if there is one, is added by somebody else where `adds_bias` says so.
    pub(crate) fn forward_biased_if(&self, adds_bias: bool, x_ni: Tensor<2>) -> Tensor<2> {
        let bias = self.bias.as_ref().filter(|_| adds_bias).map(Param::val);
        let (Some(a), Some(b)) = (&self.lora_A, &self.lora_B) else {
            return ops::linear(x_ni, self.weight.val(), bias);
        };
        let y_no = ops::linear(x_ni.clone(), self.weight.val(), bias);
        let dropped_ni = match &self.dropout {
            Some(dropout) => dropout.apply(x_ni),
            None => x_ni,
        };
        // The scaling where the tensor is narrowest.
        let low_nr = ops::linear(dropped_ni, a.weight.val(), None).mul_scalar(self.scaling);
        y_no + ops::linear(low_nr, b.weight.val(), None)
    }

    /// From now on the inputs are those from some column on, of which dropout knows.
    pub(crate) fn begin_at(&mut self, column: usize) {
        self.dropout = self.dropout.map(|dropout| dropout.beginning_at(column));
    }
}

/// Token table; also the output projection where embeddings are tied.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[vocabulary, d]`
    pub weight: Param<Tensor<2>>,
}

impl Embedding {
    /// Rows from `N(0, std²)`.
    pub fn init(init: &Init, rows: usize, width: usize) -> Self {
        Self {
            weight: init.normal("weight", [rows, width]),
        }
    }

    /// The rows of tokens. The table gets no gradient here: see [`Embedding::gradient`].
    ///
    /// # Shapes
    /// `[n]` → `[n, d]`
    pub fn forward(&self, ids_n: Tensor<1, Int>) -> Tensor<2> {
        ops::take_rows(self.weight.val().set_require_grad(false), ids_n)
    }

    /// Of a table that is the rows of a larger one from `first_row` on: tokens of other rows are 0.
    ///
    /// # Shapes
    /// `[n]` → `[n, d]`
    pub(crate) fn forward_own(&self, ids_n: Tensor<1, Int>, first_row: usize) -> Tensor<2> {
        let (rows_n, is_own_n) = self.own(ids_n, first_row);
        keep_rows(self.forward(rows_n), is_own_n)
    }

    /// The table's gradient from that of the rows, as rows to be added to a sum ([`ops::add_rows`]): nearly all rows of the
    /// whole would be 0.
    ///
    /// # Shapes
    /// `ids_n [n]`, `dy_nd [n, d]` → rows of the table `[n]` and what to add to them `[n, d]`
    pub(crate) fn gradient(
        &self,
        ids_n: Tensor<1, Int>,
        first_row: usize,
        dy_nd: Tensor<2>,
    ) -> (Tensor<1, Int>, Tensor<2>) {
        let (rows_n, is_own_n) = self.own(ids_n, first_row);
        (rows_n, keep_rows(dy_nd, is_own_n))
    }

    /// Rows that tokens have here, and whether they do; if not, some row.
    fn own(&self, ids_n: Tensor<1, Int>, first_row: usize) -> (Tensor<1, Int>, Tensor<1, Bool>) {
        let ids_n = ids_n - first_row as i64;
        let rows_n = ids_n.clone().clamp(0, self.weight.dims()[0] as i64 - 1);
        let is_own_n = rows_n.clone().equal(ids_n);
        (rows_n, is_own_n)
    }
}

/// Rows that are not kept are 0.
///
/// # Shapes
/// `x_nd [n, d]`, `is_kept_n [n]` → `[n, d]`
pub(crate) fn keep_rows(x_nd: Tensor<2>, is_kept_n: Tensor<1, Bool>) -> Tensor<2> {
    let factors_n = is_kept_n.float().cast(x_nd.dtype());
    x_nd * factors_n.unsqueeze_dim::<2>(1)
}

/// See [`ops::rms_norm`].
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[d]`
    pub weight: Param<Tensor<1>>,
    /// Inside the root.
    pub eps: f64,
}

impl RmsNorm {
    /// Weight 1.
    pub fn init(init: &Init, width: usize, eps: f64) -> Self {
        Self {
            weight: init.constant(1.0, [width]),
            eps,
        }
    }

    /// Normalises the last axis.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::rms_norm(x, self.weight.val(), self.eps)
    }
}

/// See [`ops::layer_norm`].
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `[d]`
    pub weight: Param<Tensor<1>>,
    /// `[d]`
    pub bias: Param<Tensor<1>>,
    /// Inside the root.
    pub eps: f64,
}

impl LayerNorm {
    /// Weight 1, bias 0.
    pub fn init(init: &Init, width: usize, eps: f64) -> Self {
        Self {
            weight: init.constant(1.0, [width]),
            bias: init.constant(0.0, [width]),
            eps,
        }
    }

    /// Normalises the last axis.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::layer_norm(x, self.weight.val(), self.bias.val(), self.eps)
    }
}
