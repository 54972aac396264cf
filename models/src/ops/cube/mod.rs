//! CubeCL kernels, for what fusion of elementwise operations cannot make fast.
//!
//! Kernels count the elements of a tensor one after the other. A tensor that CUDA allocates by its shape is not like that: rows are
//! padded to multiples of bytes that suit the memory. So what goes to a kernel is made by the functions of this module, and checked.

mod attention;
mod rows;

use burn::backend::cubecl::dtype_to_storage_type;
use burn::tensor::{DType, Shape};
use burn_cubecl::{
    ops::{
        numeric::{empty_device_contiguous_dtype, zeros_client},
        reshape,
    },
    tensor::CubeTensor,
};
use cubecl::{CubeDim, calculate_cube_count_elemwise, prelude::*};

pub use attention::keep_scores_below;
pub(super) use attention::{attention, attention_backward};
pub(super) use rows::{add_rows, take_rows_backward};

fn storage(dtype: DType) -> ElemType {
    dtype_to_storage_type(dtype)
}

/// An empty tensor without padding, on the device of another one.
fn like(x: &CubeTensor, shape: Shape, dtype: DType) -> CubeTensor {
    empty_device_contiguous_dtype(x.client.clone(), x.device.clone(), shape, dtype)
}

/// Zeros without padding, on the device of another tensor.
fn zeros_like(x: &CubeTensor, shape: Shape, dtype: DType) -> CubeTensor {
    let flat = Shape::from([shape.num_elements()]);
    reshape(
        zeros_client(x.client.clone(), x.device.clone(), flat, dtype),
        shape,
    )
}

/// A tensor as the argument of a kernel.
///
/// # Panics
/// If its elements do not lie one after the other, or are more than a kernel counts.
fn flat(x: &CubeTensor) -> TensorArg {
    assert!(x.is_contiguous(), "a kernel would misread padded rows");
    assert!(
        u32::try_from(x.meta.num_elements()).is_ok(),
        "a kernel counts 2^32 elements, not {}",
        x.meta.num_elements()
    );
    x.clone().into_tensor_arg()
}

/// A unit for each of so many.
fn units(x: &CubeTensor, num: usize) -> (CubeCount, CubeDim) {
    let dim = CubeDim::new(&x.client, num);
    (calculate_cube_count_elemwise(&x.client, num, dim), dim)
}
