//! The file operations a commit is made of, one by one, so that tests can stop the world after any of them.

use std::path::Path;

use crate::fs::{self, Output, Result};

/// Every operation of this room that changes the disk. There is one implementation besides those of tests.
pub(super) trait Disk: Send + Sync {
    fn create_dir(&self, path: &Path) -> Result<()>;
    fn create(&self, path: &Path) -> Result<Output>;
    fn write(&self, file: &mut Output, bytes: &[u8]) -> Result<()>;
    fn sync(&self, file: &Output) -> Result<()>;
    fn sync_dir(&self, path: &Path) -> Result<()>;
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;
    fn remove_file(&self, path: &Path) -> Result<()>;
    fn remove_dir_all(&self, path: &Path) -> Result<()>;
}

/// The file system.
pub(super) struct RealDisk;

impl Disk for RealDisk {
    fn create_dir(&self, path: &Path) -> Result<()> {
        fs::create_dir_all(path)
    }

    fn create(&self, path: &Path) -> Result<Output> {
        Output::create(path)
    }

    fn write(&self, file: &mut Output, bytes: &[u8]) -> Result<()> {
        file.write_all(bytes)
    }

    fn sync(&self, file: &Output) -> Result<()> {
        file.sync()
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        fs::sync_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> Result<()> {
        fs::remove_dir_all(path)
    }
}
