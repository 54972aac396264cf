//! What a library for collectives needs of a CUDA device: the address of a tensor, and a stream beside CubeCL's own, which
//! nobody else can reach.
#![expect(unsafe_code, reason = "the CUDA driver")]

use std::{ffi::c_void, mem::MaybeUninit};

use burn::backend::DispatchDevice;
use burn::tensor::{Device, Tensor};
use burn_cubecl::{Cube, CubeBackend, CubeDevice, kernel::into_contiguous, tensor::CubeTensor};
use cubecl::{
    future::{DynFut, block_on},
    prelude::Scalar,
    server::ServerError,
    tf32,
};
use cubecl_cuda::CudaRuntime;
use cubecl_runtime::{runtime::Runtime, storage::ManagedResource};
use cudarc::driver::{
    result::{self, DriverError},
    sys,
};

type Server = <CudaRuntime as Runtime>::Server;
type Resource = <<Server as cubecl_runtime::server::ServerStorage>::Storage as cubecl_runtime::storage::ComputeStorage>::Resource;

/// Whether tensors of a device are in the memory of a CUDA device.
pub fn is_cuda(device: &Device) -> bool {
    matches!(
        device.clone().inner().as_dispatch(),
        DispatchDevice::Cube(CubeDevice::Cuda(_))
    )
}

/// Whether a device is one of CUDA whose tensor cores take TF32.
pub(super) fn has_tf32(device: &Device) -> bool {
    match device.clone().inner().as_dispatch() {
        DispatchDevice::Cube(CubeDevice::Cuda(device)) => {
            let client = CudaRuntime::client(device);
            client.properties().supports_type(tf32::elem_type_native())
        }
        _ => false,
    }
}

/// A tensor in the memory of a CUDA device, which may not be computed yet. Goes from thread to thread; the memory stays where it
/// is as long as this exists.
pub struct CudaTensor {
    _tensor: CubeTensor,
    resource: ManagedResource<Resource>,
    computed: DynFut<Result<(), ServerError>>,
}

impl CudaTensor {
    /// Has everything launched that the tensor is computed by; does not wait for it.
    ///
    /// # Errors
    /// If something of that could not be launched.
    ///
    /// # Panics
    /// If the tensor is elsewhere; see [`is_cuda`].
    pub fn new(flat: Tensor<1>) -> Result<Self, String> {
        let fused = match flat.try_into_primitive::<Cube>() {
            Ok(fused) => fused,
            Err(error) => unreachable!("no tensor on a CUDA device: {error:?}"),
        };
        let client = fused.client.clone();
        let tensor = into_contiguous(client.resolve_tensor_float::<CubeBackend>(fused));
        let resource = tensor.client.get_resource::<Server>(tensor.handle.clone());
        // Marks this place of the stream on which the tensor is computed: what is launched there later is not waited for.
        let stream = tensor.handle.stream;
        let computed = stream.executes(|| tensor.client.sync_buffers([&tensor.handle]));
        Ok(Self {
            resource: resource.map_err(|error| error.to_string())?,
            computed,
            _tensor: tensor,
        })
    }

    /// Waits until the tensor is computed.
    ///
    /// # Errors
    /// If something of what it is computed by has failed.
    pub fn wait(&mut self) -> Result<(), String> {
        block_on(self.computed.as_mut()).map_err(|error| error.to_string())
    }

    /// Where its first element is.
    pub fn address(&self) -> u64 {
        self.resource.resource().ptr
    }
}

/// A stream of a CUDA device. Belongs to the thread that made it.
pub struct CudaStream(sys::CUstream);

impl CudaStream {
    /// Makes the device, the `index`-th that is visible, the current one of the calling thread.
    ///
    /// # Errors
    /// What the driver says.
    pub fn open(index: usize) -> Result<Self, String> {
        let open = || -> Result<Self, DriverError> {
            result::init()?;
            let device = result::device::get(index as i32)?;
            // SAFETY: the device is one that the driver has named. Its context is CubeCL's too, and stays until the process ends.
            unsafe { result::ctx::set_current(result::primary_ctx::retain(device)?)? };
            let mut stream = MaybeUninit::uninit();
            let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
            // SAFETY: the address is that of a stream, which is there after a success.
            unsafe {
                sys::cuStreamCreate(stream.as_mut_ptr(), flags).result()?;
                Ok(Self(stream.assume_init()))
            }
        };
        open().map_err(|error| format!("CUDA device {index}: {error}"))
    }

    /// `cudaStream_t`
    pub fn raw(&self) -> *mut c_void {
        self.0.cast()
    }

    /// Whether it has done all it was given.
    ///
    /// # Errors
    /// What the driver says.
    pub fn is_done(&self) -> Result<bool, String> {
        // SAFETY: the stream is there.
        match unsafe { sys::cuStreamQuery(self.0) } {
            sys::CUresult::CUDA_SUCCESS => Ok(true),
            sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            error => Err(DriverError(error).to_string()),
        }
    }
}

impl Drop for CudaStream {
    fn drop(&mut self) {
        // SAFETY: the stream is there, and nobody has it any longer. A process that ends may have no driver any more.
        let _ = unsafe { sys::cuStreamDestroy_v2(self.0) };
    }
}
