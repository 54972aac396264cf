//! Parts of flat tensors, one for each rank, and their way through host memory.
//!
//! A tensor of `n` values has parts of `ceil(n / ranks)` values; what the last ones lack is zeros. Parts do not depend on
//! how tensors are put together for a transfer.

use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::parallel::World;

/// Values of each part.
pub(super) fn part_len(count: usize, size: usize) -> usize {
    count.div_ceil(size)
}

/// # Shapes
/// `[n]` → `[ranks, part]`
pub(super) fn in_parts(flat: Tensor<1>, size: usize) -> Tensor<2> {
    let [count] = flat.dims();
    let part = part_len(count, size);
    padded(flat, part * size).reshape([size, part])
}

/// This rank's part.
///
/// # Shapes
/// `[n]` → `[part]`
pub(super) fn own_part(flat: Tensor<1>, world: World) -> Tensor<1> {
    let [count] = flat.dims();
    let part = part_len(count, world.size);
    let start = (world.rank * part).min(count);
    let len = part.min(count - start);
    if len == 0 {
        return Tensor::zeros([part], (&flat.device(), flat.dtype()));
    }
    padded(flat.narrow(0, start, len), part)
}

fn padded(flat: Tensor<1>, len: usize) -> Tensor<1> {
    let [count] = flat.dims();
    if count == len {
        return flat;
    }
    let zeros = Tensor::zeros([len - count], (&flat.device(), flat.dtype()));
    Tensor::cat(vec![flat, zeros], 0)
}

/// Tensors of these numbers of values, which parts of all ranks make up; the inverse of [`in_parts`], side by side.
///
/// # Shapes
/// `[ranks, sum of parts]` → `[n]` each
pub(super) fn joined(parts: Tensor<2>, counts: &[usize]) -> Vec<Tensor<1>> {
    let size = parts.dims()[0];
    let mut start = 0;
    let tensor = |&count: &usize| {
        let part = part_len(count, size);
        let columns = parts.clone().narrow(1, start, part);
        start += part;
        columns.reshape([size * part]).narrow(0, 0, count)
    };
    counts.iter().map(tensor).collect()
}

/// Consecutive pieces of these lengths.
pub(super) fn pieces(flat: &Tensor<1>, lens: impl Iterator<Item = usize>) -> Vec<Tensor<1>> {
    let mut start = 0;
    let piece = |len| {
        let piece = flat.clone().narrow(0, start, len);
        start += len;
        piece
    };
    lens.map(piece).collect()
}

/// The values of an f32 tensor, in host memory.
pub(super) fn to_floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    let data = tensor.into_data();
    match data.try_into_vec() {
        Ok(values) => values,
        Err(error) => unreachable!("gradients are f32: {error:?}"),
    }
}

/// f32 values on a device.
pub(super) fn from_floats(values: Vec<f32>, device: &Device) -> Tensor<1> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), (device, DType::F32))
}

/// The values of a tensor as bytes.
pub(super) fn to_bytes(tensor: Tensor<1>) -> Vec<u8> {
    tensor.into_data().as_bytes().to_vec()
}

/// Values of a dtype on a device.
pub(super) fn from_bytes<const D: usize>(
    bytes: Vec<u8>,
    shape: [usize; D],
    dtype: DType,
    device: &Device,
) -> Tensor<D> {
    Tensor::from_data(TensorData::from_bytes_vec(bytes, shape, dtype), (device, dtype))
}
