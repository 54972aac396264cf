//! Tensors on their way between ranks: from device to device where the ranks' devices reach each other, else through host
//! memory.

use burn::tensor::{DType, Device, Tensor};

use super::parts::{from_bytes, from_floats, to_bytes, to_floats};
use crate::parallel::{Collective, CollectiveError, Group, Pending};

/// A tensor that comes later.
#[must_use = "an operation has a result, or an error"]
pub struct Coming(State);

enum State {
    Floats(Pending<Vec<f32>>, Device),
    Bytes(Pending<Vec<u8>>, usize, DType, Device),
    #[cfg(feature = "cuda")]
    OnDevice(Pending<()>, Tensor<1>),
}

impl Coming {
    /// Waits for it.
    ///
    /// # Errors
    /// If a rank is missing or has failed.
    pub fn wait(self) -> Result<Tensor<1>, CollectiveError> {
        match self.0 {
            State::Floats(pending, device) => Ok(from_floats(pending.wait()?, &device)),
            State::Bytes(pending, count, dtype, device) => {
                Ok(from_bytes(pending.wait()?, [count], dtype, &device))
            }
            #[cfg(feature = "cuda")]
            State::OnDevice(pending, tensor) => pending.wait().map(|()| tensor),
        }
    }
}

/// Sums over ranks.
///
/// # Shapes
/// `[n]`, f32 → `[n]`, f32
pub fn all_reduce(group: &Group, values: Tensor<1>) -> Coming {
    if reach_each_other(group, &values) {
        return on_devices(group, Collective::AllReduce, values);
    }
    let device = values.device();
    Coming(State::Floats(group.all_reduce(to_floats(values)), device))
}

/// Sums over ranks, of which each keeps its own row.
///
/// # Shapes
/// `[ranks, n]`, f32 → `[n]`, f32
pub fn reduce_scatter(group: &Group, parts: Tensor<2>) -> Coming {
    let [ranks, len] = parts.dims();
    let values = parts.reshape([ranks * len]);
    if reach_each_other(group, &values) {
        return on_devices(group, Collective::ReduceScatter, values);
    }
    let device = values.device();
    Coming(State::Floats(group.reduce_scatter(to_floats(values)), device))
}

/// The parts of all ranks, one after the other.
///
/// # Shapes
/// `[n]` of any dtype → `[ranks * n]`
pub fn all_gather(group: &Group, part: Tensor<1>) -> Coming {
    if reach_each_other(group, &part) {
        return on_devices(group, Collective::AllGather, part);
    }
    let (dtype, device, [len]) = (part.dtype(), part.device(), part.dims());
    let count = len * group.world().size;
    Coming(State::Bytes(
        group.all_gather(to_bytes(part)),
        count,
        dtype,
        device,
    ))
}

/// Whether the ranks' devices can send these values to each other.
#[cfg(not(feature = "cuda"))]
fn reach_each_other(_: &Group, _: &Tensor<1>) -> bool {
    false
}

/// Whether the ranks' devices can send these values to each other.
#[cfg(feature = "cuda")]
fn reach_each_other(group: &Group, values: &Tensor<1>) -> bool {
    group.has_devices()
        && values.dims() != [0]
        && matches!(values.dtype(), DType::F32 | DType::BF16)
        && brazier_models::ops::cuda::is_cuda(&values.device())
}

#[cfg(not(feature = "cuda"))]
fn on_devices(_: &Group, _: Collective, _: Tensor<1>) -> Coming {
    unreachable!("no devices of this build reach each other")
}

#[cfg(feature = "cuda")]
fn on_devices(group: &Group, collective: Collective, values: Tensor<1>) -> Coming {
    use brazier_models::ops::cuda::CudaTensor;

    use crate::parallel::{DeviceDtype, DeviceSpans};

    let (device, [count]) = (values.device(), values.dims());
    let dtype = match values.dtype() {
        DType::BF16 => DeviceDtype::Bf16,
        _ => DeviceDtype::F32,
    };
    let rank = group.world().rank;
    let count_out = collective.count_out(count, group.world().size);
    // Zeros are written, so whoever waits for them also waits for what their memory held before.
    let out = Tensor::zeros([count_out], (&device, values.dtype()));
    let (from, to) = (CudaTensor::new(values), CudaTensor::new(out.clone()));
    let pending = group.on_devices(collective.name(), move |devices| {
        let failed = |reason| CollectiveError::Engine { rank, reason };
        let (mut from, mut to) = (from.map_err(failed)?, to.map_err(failed)?);
        from.wait().map_err(failed)?;
        to.wait().map_err(failed)?;
        let spans = DeviceSpans {
            from: from.address(),
            to: to.address(),
            count,
            dtype,
        };
        devices.run(collective, spans)
    });
    Coming(State::OnDevice(pending, out))
}
