//! Which backend runs. With `models::ops` the only place that names backends.

use std::{path::Path, rc::Rc};

#[cfg(feature = "cuda")]
use brazier_models::ops::cuda::CudaStream;
use burn::tensor::{DType, Device};
use thiserror::Error;

use crate::{device_choice::DeviceChoice, parallel::Stream};

/// A device that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DeviceError {
    /// The feature is off.
    #[error(
        "this build has no {backend} backend\n  hint: build with --features {backend}, or choose one of: {compiled}"
    )]
    NotCompiled {
        /// The backend asked for.
        backend: &'static str,
        /// Those that are there.
        compiled: String,
    },
    /// The device cannot compute in the dtype.
    #[error("{device} cannot compute in {dtype}\n  hint: set train.precision to f32, or use another device")]
    Dtype {
        /// The device.
        device: String,
        /// The dtype.
        dtype: &'static str,
    },
    /// The driver of a GPU.
    #[error(
        "{reason}\n  hint: nvidia-smi --list-gpus shows those that are there; CUDA_VISIBLE_DEVICES hides others; each rank needs one"
    )]
    Driver {
        /// What it says.
        reason: String,
    },
    /// Something is to be in host memory, and no backend is there.
    #[error(
        "this build has no backend for host memory\n  hint: build with the feature flex, or leave parallel.offload out"
    )]
    NoHost,
    /// No backend at all.
    #[error("this build has no backend\n  hint: build with one of the features flex, ndarray, cuda, wgpu")]
    NoBackend,
}

/// Names of the compiled-in backends, in the order in which `auto` prefers them.
pub fn compiled() -> Vec<DeviceChoice> {
    [
        cfg!(feature = "cuda").then_some(DeviceChoice::Cuda { index: 0 }),
        cfg!(feature = "wgpu").then_some(DeviceChoice::Wgpu),
        cfg!(feature = "flex").then_some(DeviceChoice::Flex),
        cfg!(feature = "ndarray").then_some(DeviceChoice::Ndarray),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A device for work on files, where nothing is computed: a CPU if one is compiled in.
///
/// # Errors
/// If there is no backend at all.
pub fn for_files() -> Result<Device, DeviceError> {
    host_memory().or_else(|_| open(DeviceChoice::Auto, DType::F32))
}

/// The device for tensors in host memory.
///
/// # Errors
/// If no CPU backend is compiled in.
pub fn host_memory() -> Result<Device, DeviceError> {
    let is_cpu = |choice: &DeviceChoice| matches!(choice, DeviceChoice::Flex | DeviceChoice::Ndarray);
    let choice = compiled().into_iter().find(is_cpu).ok_or(DeviceError::NoHost)?;
    open(choice, DType::F32)
}

/// Turns `auto` into the first compiled-in backend that is present.
///
/// # Errors
/// If there is none.
pub fn decide(choice: DeviceChoice) -> Result<DeviceChoice, DeviceError> {
    if choice != DeviceChoice::Auto {
        return Ok(choice);
    }
    let present = |choice: &DeviceChoice| match choice {
        DeviceChoice::Cuda { .. } => cuda_driver_is_present(),
        _ => true,
    };
    compiled().into_iter().find(present).ok_or(DeviceError::NoBackend)
}

/// Without the driver's device node CubeCL would panic instead of saying no.
fn cuda_driver_is_present() -> bool {
    crate::fs::exists(std::path::Path::new("/dev/nvidiactl"))
}

/// Prepares for `devices` GPUs of this process, from a first one on: compiled and tuned kernels are kept below a folder of caches,
/// one database for each device of each host. To be called before a device is opened; CPUs need nothing.
pub fn set_up(choice: DeviceChoice, cache: Option<&Path>, devices: usize) {
    if !matches!(choice, DeviceChoice::Cuda { .. } | DeviceChoice::Wgpu) {
        return;
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let folder = cache.map(|cache| cache.join("kernels").join(host));
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    brazier_models::ops::set_up_gpus(
        folder.zip(Some(choice.to_string().replace(':', "-").as_str())),
        devices,
    );
    #[cfg(not(any(feature = "cuda", feature = "wgpu")))]
    drop((folder, devices));
}

/// Makes the calling thread, which goes on to ask a CPU for operations, one of rayon's. Else each loop of an operation would be
/// handed to those, and the thread put to sleep and woken, hundreds of times in a step. A single one cannot be this one: others
/// that ask for work would wait while it waits for them.
pub fn compute_here(choice: DeviceChoice) {
    if matches!(choice, DeviceChoice::Cuda { .. } | DeviceChoice::Wgpu) {
        return;
    }
    let asked = std::env::var("RAYON_NUM_THREADS").ok();
    let asked = asked
        .and_then(|count| count.parse().ok())
        .filter(|&count| count > 0);
    let count = asked.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    if count > 1 {
        let threads = rayon::ThreadPoolBuilder::new()
            .num_threads(count)
            .use_current_thread();
        // Where rayon has threads already they compute by themselves, which is slower and no mistake.
        drop(threads.build_global());
    }
}

/// Opens a device for a dtype.
///
/// # Errors
/// If the backend is not compiled in or cannot compute in `dtype`.
pub fn open(choice: DeviceChoice, dtype: DType) -> Result<Device, DeviceError> {
    let device = match decide(choice)? {
        #[cfg(feature = "cuda")]
        DeviceChoice::Cuda { index } => Device::cuda(index),
        #[cfg(not(feature = "cuda"))]
        DeviceChoice::Cuda { .. } => return Err(not_compiled("cuda")),
        #[cfg(feature = "wgpu")]
        DeviceChoice::Wgpu => Device::wgpu(burn::tensor::DeviceKind::DefaultDevice),
        #[cfg(not(feature = "wgpu"))]
        DeviceChoice::Wgpu => return Err(not_compiled("wgpu")),
        #[cfg(feature = "flex")]
        DeviceChoice::Flex => Device::flex(),
        #[cfg(not(feature = "flex"))]
        DeviceChoice::Flex => return Err(not_compiled("flex")),
        #[cfg(feature = "ndarray")]
        #[expect(deprecated, reason = "kept as a second CPU implementation to test against")]
        DeviceChoice::Ndarray => Device::ndarray(),
        #[cfg(not(feature = "ndarray"))]
        DeviceChoice::Ndarray => return Err(not_compiled("ndarray")),
        DeviceChoice::Auto => return Err(DeviceError::NoBackend),
    };
    if dtype == DType::BF16 && !computes_in_bf16(choice, &device) {
        return Err(DeviceError::Dtype {
            device: choice.to_string(),
            dtype: "bf16",
        });
    }
    Ok(device)
}

/// What a device does to numbers of a format that its name does not tell, to be printed behind the name.
pub fn remark(device: &Device, dtype: DType) -> &'static str {
    if dtype == DType::F32 && brazier_models::ops::rounds_to_tf32(device) {
        "; operands of products are rounded to TF32"
    } else {
        ""
    }
}

/// A stream for collectives on a GPU, which becomes the calling thread's current one.
///
/// # Errors
/// If it is no CUDA device, or what its driver says.
pub fn stream(choice: DeviceChoice) -> Result<Rc<dyn Stream>, DeviceError> {
    match choice {
        #[cfg(feature = "cuda")]
        DeviceChoice::Cuda { index } => match CudaStream::open(index) {
            Ok(stream) => Ok(Rc::new(stream)),
            Err(reason) => Err(DeviceError::Driver { reason }),
        },
        _ => Err(not_compiled("cuda")),
    }
}

#[cfg(feature = "cuda")]
impl Stream for CudaStream {
    fn raw(&self) -> *mut std::ffi::c_void {
        self.raw()
    }

    fn is_done(&self) -> Result<bool, String> {
        self.is_done()
    }
}

/// Vulkan and WGSL report bf16 storage, but their arithmetic on it is wrong.
fn computes_in_bf16(choice: DeviceChoice, device: &Device) -> bool {
    !matches!(choice, DeviceChoice::Wgpu | DeviceChoice::Ndarray) && device.supports_dtype(DType::BF16)
}

fn not_compiled(backend: &'static str) -> DeviceError {
    let compiled: Vec<String> = compiled().iter().map(ToString::to_string).collect();
    DeviceError::NotCompiled {
        backend,
        compiled: compiled.join(", "),
    }
}

/// Bytes that tensors occupy on the device, where the backend keeps count.
pub fn memory_in_use(device: &Device) -> Option<u64> {
    device.memory_pool_usage().map(|usage| usage.bytes_in_use)
}

/// Whether a device is one of the CPU backends.
pub fn is_cpu(device: &Device) -> bool {
    let inner = device.clone().inner();
    let is = |choice: DeviceChoice| open(choice, DType::F32).is_ok_and(|cpu| cpu == inner);
    is(DeviceChoice::Flex) || is(DeviceChoice::Ndarray)
}
