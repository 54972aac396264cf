//! Kernels that outlive the process.

use std::path::PathBuf;

use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig, cache::CacheConfig};

/// Keeps what CubeCL compiles and what its tuning finds in a database `folder/name.db`, and uses what is in there: the first
/// start on a GPU takes minutes for both. Of no effect once a device is open; a `cubecl.toml` that names a place itself has
/// its way. Not for several processes at a time.
pub fn keep_kernels(folder: PathBuf, name: &str) {
    let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
    if matches!(config.environment.path, CacheConfig::Target) {
        config.environment.path = CacheConfig::Directory(folder);
        name.clone_into(&mut config.environment.name);
        config.compilation.cache = true;
    }
    CubeClRuntimeConfig::try_set(config);
}
