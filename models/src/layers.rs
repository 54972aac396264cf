//! Layers shared by the decoder, the vision tower and the projector. Parameters have Hugging Face's names and layouts.

use burn::{
    module::{Module, Param},
    tensor::{Int, Tensor},
};

use crate::{init::Init, ops};

/// `x · weightᵀ + bias`, the weight in Hugging Face's `[out, in]` layout.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`
    pub weight: Param<Tensor<2>>,
    /// `[out]`
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    /// Weight from `N(0, std²)`, no bias.
    pub fn init(init: &Init, d_in: usize, d_out: usize) -> Self {
        Self {
            weight: init.normal("weight", [d_out, d_in]),
            bias: None,
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
        ops::linear(x_ni, self.weight.val(), self.bias.as_ref().map(Param::val))
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

    /// # Shapes
    /// `[n]` → `[n, d]`
    pub fn forward(&self, ids_n: Tensor<1, Int>) -> Tensor<2> {
        ops::take_rows(self.weight.val(), ids_n)
    }
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
