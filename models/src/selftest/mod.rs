//! Every operation of [`crate::ops`] against its definition, on a device, on shapes that nobody chose: odd, tiny, with long
//! rows, around the sizes at which kernels cut their work.
//!
//! Tests run it on each backend; [`Case::run`] also tells a user whether a machine that nobody knows computes what it should.

mod cases;
pub(crate) mod draw;
pub mod speed;

use burn::tensor::{DType, Device, Tensor, TensorData};

pub use cases::OPS;
#[cfg(test)]
pub(crate) use cases::in_parts;
pub use draw::Draw;

/// A function of flat inputs, which it reshapes itself, with a flat output.
type Function = Box<dyn Fn(&[Tensor<1>]) -> Tensor<1>>;

/// An operation on one set of inputs.
pub struct Case {
    /// Shapes and options, for people.
    pub shapes: String,
    inputs: Vec<Vec<f32>>,
    op: Function,
    definition: Function,
    differentiable: bool,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Case")
            .field("shapes", &self.shapes)
            .finish_non_exhaustive()
    }
}

/// An operation and how its cases are drawn.
#[derive(Debug, Clone, Copy)]
pub struct Op {
    /// As the function of [`crate::ops`].
    pub name: &'static str,
    /// Whether it multiplies matrices.
    pub has_products: bool,
    /// The next case.
    pub case: fn(&mut Draw) -> Case,
}

impl Op {
    /// Largest error that rounding explains on a device.
    pub fn tolerance(&self, device: &Device, dtype: DType) -> f32 {
        match dtype {
            // 8 bits, rounded after each of the definition's operations.
            DType::BF16 => 4e-2,
            _ if self.has_products && crate::ops::rounds_to_tf32(device) => 2e-3,
            _ => 1e-5,
        }
    }
}

/// How far an operation is from its definition: largest difference, as a share of the largest number of the definition's
/// result. Infinite where a number is not finite.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Errors {
    /// Of the output.
    pub output: f32,
    /// Of the gradients in all inputs, for a fixed random combination of the output; 0 where there is no gradient.
    pub gradients: f32,
}

impl Errors {
    /// The larger one.
    pub fn worst(self) -> f32 {
        self.output.max(self.gradients)
    }
}

impl Case {
    /// Runs the operation on `device` in `dtype` and its definition on `reference` in f32, from the same numbers.
    ///
    /// # Errors
    /// If a tensor cannot be read back.
    pub fn run(&self, device: &Device, dtype: DType, reference: &Device) -> Result<Errors, String> {
        let expected = self.evaluate(&self.definition, reference, DType::F32)?;
        let actual = self.evaluate(&self.op, device, dtype)?;
        // A gradient that is zero, like that of attention's queries where each sees one key, is what large terms leave when
        // they cancel: their rounding stays.
        let least = LEAST.max(LEAST_SHARE * expected[1..].iter().map(|x| largest(x)).fold(0.0, f32::max));
        let mut gradients = 0.0f32;
        for (actual, expected) in actual.iter().zip(&expected).skip(1) {
            gradients = gradients.max(difference(actual, expected, least));
        }
        Ok(Errors {
            output: difference(&actual[0], &expected[0], LEAST),
            gradients,
        })
    }

    /// The output, and the gradient of a fixed random combination of it in each input.
    fn evaluate(&self, function: &Function, device: &Device, dtype: DType) -> Result<Vec<Vec<f32>>, String> {
        let device = if self.differentiable {
            device.clone().autodiff()
        } else {
            device.clone()
        };
        let upload = |x: &Vec<f32>| {
            let x = Tensor::<1>::from_data(TensorData::new(x.clone(), [x.len()]), (&device, dtype));
            if self.differentiable { x.require_grad() } else { x }
        };
        let leaves: Vec<Tensor<1>> = self.inputs.iter().map(upload).collect();
        let y = function(&leaves);
        if !self.differentiable {
            return Ok(vec![floats(y)?]);
        }
        let mut results = vec![floats(y.clone().inner())?];
        let n = y.dims()[0];
        let weights = Tensor::from_data(TensorData::new(draw::noise(n, 99), [n]), (&device, y.dtype()));
        let gradients = (y * weights).sum().backward();
        for leaf in &leaves {
            results.push(leaf.grad(&gradients).map_or(Ok(Vec::new()), floats)?);
        }
        Ok(results)
    }
}

fn floats(x: Tensor<1>) -> Result<Vec<f32>, String> {
    let data = x.cast(DType::F32).try_into_data();
    let data = data.map_err(|error| format!("{error:?}"))?;
    data.try_into_vec().map_err(|error| format!("{error:?}"))
}

/// Errors of smaller numbers are taken as shares of this.
const LEAST: f32 = 1e-3;
/// The same for gradients, as a share of the largest one of any input.
const LEAST_SHARE: f32 = 1e-2;

fn largest(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |largest, x| largest.max(x.abs()))
}

fn difference(actual: &[f32], expected: &[f32], least: f32) -> f32 {
    if actual.len() != expected.len() || !actual.iter().all(|x| x.is_finite()) {
        return f32::INFINITY;
    }
    let errors = actual.iter().zip(expected).map(|(a, e)| (a - e).abs());
    errors.fold(0.0, f32::max) / largest(expected).max(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_finite_is_infinitely_wrong() {
        assert_eq!(difference(&[1.0, 2.5], &[1.0, 2.0], LEAST), 0.25);
        assert_eq!(difference(&[LEAST * 0.25], &[0.0], LEAST), 0.25);
        for wrong in [&[f32::NAN, 2.0][..], &[1.0, f32::INFINITY], &[1.0]] {
            assert_eq!(difference(wrong, &[1.0, 2.0], LEAST), f32::INFINITY);
        }
    }
}
