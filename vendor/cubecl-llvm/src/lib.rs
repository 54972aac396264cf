//! The part of `cubecl-llvm` 0.11.3 that `cubecl-cuda` 0.11.3 names, without LLVM behind it.
//!
//! Every kernel of this workspace is compiled by NVRTC from CUDA C++ (`cubecl/cuda-cpp`), so the LLVM
//! back end is linked but never chosen. See the README for why, and for when this crate can go.

use std::ffi::c_char;

use cubecl_core::prelude::KernelDefinition;
use cubecl_server::{compiler::CompilationError, kernel::BufferIOAttr};

/// What the PTX back end would need to know of the driver.
pub mod nvptx {
    /// The PTX ISA version that a driver loads.
    pub mod ptx_version {
        /// A PTX ISA version; never constructed here, since nothing is lowered to PTX.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum PtxVersion {}

        impl PtxVersion {
            /// Always `None`: no PTX is emitted by this crate.
            pub fn for_driver(_driver_version: i32) -> Option<Self> {
                None
            }
        }

        impl std::fmt::Display for PtxVersion {
            fn fmt(&self, _f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match *self {}
            }
        }
    }
}

/// What both LLVM targets would share.
pub mod shared {
    /// Features that the LLVM back end cannot lower.
    pub mod lowered_features {
        /// The GPU family code is lowered for.
        pub enum GpuTarget {
            /// NVIDIA.
            Nvptx,
        }

        /// Removes nothing: NVRTC lowers all that `cubecl-cpp` emits.
        pub fn restrict_features<T>(_properties: &mut T, _target: GpuTarget) {}
    }
}

/// The target of a [`PlironCompiler`].
#[derive(Clone, Copy, Debug)]
pub enum LlvmTarget {
    /// PTX for NVIDIA GPUs.
    Nvptx,
}

/// The LLVM compiler's options, as `cubecl-cuda` fills them in.
#[derive(Clone, Debug, Default)]
pub struct PlironOptions {
    /// Architecture by name.
    pub arch: Option<String>,
    /// Architecture as the runtime read it.
    pub sm_arch: Option<cubecl_core::ir::nvidia::SmArch>,
    /// Newest PTX the driver loads.
    pub ptx_version: Option<nvptx::ptx_version::PtxVersion>,
    /// Whether launch parameters are grid constants.
    pub grid_constants: bool,
}

/// A compiled PTX module.
#[derive(Clone, Debug)]
pub struct NvptxModule {
    /// PTX text, NUL-terminated.
    pub ptx: Vec<c_char>,
    /// Kernel name.
    pub entrypoint: String,
    /// LLVM IR, for logs.
    pub ir: String,
    /// Dynamic shared memory in bytes.
    pub shared_memory_size: usize,
    /// How each buffer is used.
    pub io: Vec<BufferIOAttr>,
}

/// What the LLVM compiler returns.
pub enum PlironArtifact {
    /// PTX for NVIDIA.
    NvptxCode(NvptxModule),
    /// Any other target's code.
    Other,
}

/// The LLVM compiler, which this crate does not have.
#[derive(Clone, Debug)]
pub struct PlironCompiler {
    /// The target it would lower to.
    pub target: LlvmTarget,
}

impl PlironCompiler {
    /// Never reached with `cubecl/cuda-cpp`.
    ///
    /// # Panics
    /// Always: the build chose the LLVM back end without having it.
    pub fn compile(
        &mut self,
        _kernel: KernelDefinition,
        _options: &PlironOptions,
    ) -> Result<PlironArtifact, CompilationError> {
        panic!(
            "cubecl was built without LLVM (vendor/cubecl-llvm); enable the feature `cubecl/cuda-cpp` so that NVRTC compiles the kernels"
        )
    }

    /// File tag of LLVM IR.
    pub fn lang_tag(&self) -> &'static str {
        "ll"
    }
}
