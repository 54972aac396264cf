//! What CubeCL is told before a GPU is opened.

use std::path::PathBuf;

use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig, cache::CacheConfig, memory::CudaAllocator};

/// Sets CubeCL up for `devices` GPUs of this process. Of no effect once one is open.
///
/// `kernels` are a folder and a name: what CubeCL compiles and what its tuning finds is kept in a database `folder/name.db`, and what
/// is in there is used: the first start on a GPU takes minutes for both. A `cubecl.toml` that names a place itself has its way. Not
/// for several processes at a time.
///
/// With several GPUs memory is allocated in the order of their work, not at once: to free it at once may wait for a collective on
/// one of them, which waits for another one to begin its part, which the driver may keep waiting meanwhile.
pub fn set_up_gpus(kernels: Option<(PathBuf, &str)>, devices: usize) {
    let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
    if let Some((folder, name)) = kernels
        && matches!(config.environment.path, CacheConfig::Target)
    {
        config.environment.path = CacheConfig::Directory(folder);
        name.clone_into(&mut config.environment.name);
        config.compilation.cache = true;
    }
    if devices > 1 {
        config.memory.cuda.allocator = CudaAllocator::Async;
    }
    CubeClRuntimeConfig::try_set(config);
}
