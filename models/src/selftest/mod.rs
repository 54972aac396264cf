//! Every operation of [`crate::ops`] against its definition, on a device, on shapes that nobody chose: odd, tiny, with long
//! rows, around the sizes at which kernels cut their work.
//!
//! Tests run it on each backend; [`Case::run`] also tells a user whether a machine that nobody knows computes what it should.

mod cases;
pub(crate) mod draw;
pub mod speed;

use burn::tensor::{DType, Device, Tensor, TensorData};

pub use cases::OPS;
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
    /// The next case.
    pub case: fn(&mut Draw) -> Case,
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
        let mut gradients = 0.0f32;
        for (actual, expected) in actual.iter().zip(&expected).skip(1) {
            gradients = gradients.max(difference(actual, expected));
        }
        Ok(Errors {
            output: difference(&actual[0], &expected[0]),
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
    let data = x.cast(DType::F32).into_data();
    data.try_into_vec().map_err(|error| format!("{error:?}"))
}

/// Numbers below a thousandth are compared as if that were the largest.
fn difference(actual: &[f32], expected: &[f32]) -> f32 {
    if actual.len() != expected.len() {
        return f32::INFINITY;
    }
    let (mut largest, mut worst) = (1e-3f32, 0.0f32);
    for (a, e) in actual.iter().zip(expected) {
        let error = (a - e).abs();
        if !error.is_finite() {
            return f32::INFINITY;
        }
        largest = largest.max(e.abs());
        worst = worst.max(error);
    }
    worst / largest
}
