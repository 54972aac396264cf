//! Arithmetic on backend primitives as expressions, for the generic bodies of the ops.

use std::ops::{Add, Mul, Range, Sub};

use burn::backend::{Backend, TensorMetadata, tensor::FloatTensor};
use burn::tensor::{DType, FloatDType, Shape, Slice};

/// A float primitive of backend `B` with operators. Binary operators broadcast axes of size one.
pub(super) struct Expr<B: Backend>(pub(super) FloatTensor<B>);

impl<B: Backend> Clone for Expr<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B: Backend> Add for Expr<B> {
    type Output = Self;
    fn add(self, rhs: Self) -> Self {
        Self(B::float_add(self.0, rhs.0))
    }
}

impl<B: Backend> Sub for Expr<B> {
    type Output = Self;
    fn sub(self, rhs: Self) -> Self {
        Self(B::float_sub(self.0, rhs.0))
    }
}

impl<B: Backend> Mul for Expr<B> {
    type Output = Self;
    fn mul(self, rhs: Self) -> Self {
        Self(B::float_mul(self.0, rhs.0))
    }
}

impl<B: Backend> Add<f64> for Expr<B> {
    type Output = Self;
    fn add(self, rhs: f64) -> Self {
        Self(B::float_add_scalar(self.0, rhs.into()))
    }
}

impl<B: Backend> Mul<f64> for Expr<B> {
    type Output = Self;
    fn mul(self, rhs: f64) -> Self {
        Self(B::float_mul_scalar(self.0, rhs.into()))
    }
}

impl<B: Backend> Expr<B> {
    /// The tensor in f32: no operation where it already is.
    pub(super) fn f32(x: FloatTensor<B>) -> Self {
        Self(x).cast(DType::F32)
    }

    pub(super) fn cast(self, dtype: DType) -> Self {
        if self.0.dtype() == dtype {
            self
        } else {
            Self(B::float_cast(self.0, FloatDType::from(dtype)))
        }
    }

    pub(super) fn dims(&self) -> Vec<usize> {
        self.0.shape().to_vec()
    }

    pub(super) fn reshape<const D: usize>(self, dims: [usize; D]) -> Self {
        Self(B::float_reshape(self.0, Shape::from(dims)))
    }

    /// A vector `[d]` as `[1, .., 1, d]` of the given rank.
    pub(super) fn row(self, rank: usize) -> Self {
        let mut dims = vec![1; rank];
        dims[rank - 1] = self.0.shape().num_elements();
        Self(B::float_reshape(self.0, Shape::from(dims)))
    }

    /// Sums every axis but the last: `[.., d]` to `[d]`.
    pub(super) fn sum_rows(self) -> Self {
        let d = self.dims().last().copied().unwrap_or(1);
        let n = self.0.shape().num_elements() / d.max(1);
        let sum = B::float_sum_dim(self.reshape([n, d]).0, 0);
        Self(B::float_reshape(sum, Shape::from([d])))
    }

    pub(super) fn sum_last(self) -> Self {
        let last = self.0.rank() - 1;
        Self(B::float_sum_dim(self.0, last))
    }

    pub(super) fn mean_last(self) -> Self {
        let last = self.0.rank() - 1;
        Self(B::float_mean_dim(self.0, last))
    }

    pub(super) fn max_last(self) -> Self {
        let last = self.0.rank() - 1;
        Self(B::float_max_dim(self.0, last))
    }

    pub(super) fn range(self, dim: usize, range: Range<usize>) -> Self {
        let slices: Vec<Slice> = (self.dims().into_iter().enumerate())
            .map(|(d, len)| {
                if d == dim {
                    Slice::from(range.clone())
                } else {
                    Slice::from(0..len)
                }
            })
            .collect();
        Self(B::float_slice(self.0, &slices))
    }

    /// Swaps the last two axes.
    pub(super) fn transpose(self) -> Self {
        Self(B::float_transpose(self.0))
    }

    pub(super) fn matmul(self, rhs: Self) -> Self {
        Self(B::float_matmul(self.0, rhs.0))
    }

    pub(super) fn exp(self) -> Self {
        Self(B::float_exp(self.0))
    }

    pub(super) fn log(self) -> Self {
        Self(B::float_log(self.0))
    }

    pub(super) fn sqrt(self) -> Self {
        Self(B::float_sqrt(self.0))
    }

    /// `ln(1 + exp(x))`, exact where the exponential would overflow or vanish.
    pub(super) fn softplus(self) -> Self {
        let tail = Self(B::float_log1p(
            (Self(B::float_abs(self.0.clone())) * -1.0).exp().0,
        ));
        self.at_least(0.0) + tail
    }

    pub(super) fn tanh(self) -> Self {
        Self(B::float_tanh(self.0))
    }

    pub(super) fn at_least(self, min: f64) -> Self {
        Self(B::float_clamp_min(self.0, min.into()))
    }

    pub(super) fn at_most(self, max: f64) -> Self {
        Self(B::float_clamp_max(self.0, max.into()))
    }

    /// 1 where the number is positive, else 0.
    pub(super) fn heaviside(self) -> Self {
        Self(B::float_sign(self.0)).at_least(0.0)
    }

    pub(super) fn sum(self) -> Self {
        Self(B::float_sum(self.0))
    }

    pub(super) fn recip(self) -> Self {
        Self(B::float_recip(self.0))
    }

    pub(super) fn erf(self) -> Self {
        Self(B::float_erf(self.0))
    }

    /// `1 / (1 + exp(-x))`; an overflow of the exponential gives the right limit, 0.
    pub(super) fn sigmoid(self) -> Self {
        ((self * -1.0).exp() + 1.0).recip()
    }

    pub(super) fn square(self) -> Self {
        self.clone() * self
    }

    pub(super) fn cat(parts: Vec<Self>, dim: usize) -> Self {
        Self(B::float_cat(parts.into_iter().map(|part| part.0).collect(), dim))
    }
}
