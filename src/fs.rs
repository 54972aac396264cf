//! File access with the path in every error, and atomic, durable writes. The only user of `std::fs`.

#![expect(
    clippy::disallowed_methods,
    reason = "this is the one place that may call std::fs"
)]

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use thiserror::Error;

/// An operation on a file that failed, with the path.
#[derive(Debug, Error)]
#[error("cannot {operation} {}: {source}", path.display())]
pub struct FsError {
    /// What was tried: `read`, `create`, `write`, ….
    pub operation: &'static str,
    /// On which file or folder.
    pub path: PathBuf,
    /// The system's word.
    pub source: io::Error,
}

/// Result of a file operation.
pub type Result<T> = std::result::Result<T, FsError>;

fn at<'a>(operation: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> FsError + 'a {
    move |source| FsError {
        operation,
        path: path.into(),
        source,
    }
}

/// Reads a whole file.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(at("read", path))
}

/// Reads a whole UTF-8 file.
pub fn read_to_string(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(at("read", path))
}

/// Reads exactly `length` bytes from `offset`.
pub fn read_range(path: &Path, offset: u64, length: usize) -> Result<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; length];
    let file = open(path)?;
    file.read_exact_at(&mut bytes, offset).map_err(at("read", path))?;
    Ok(bytes)
}

/// Opens for reading.
pub fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(at("open", path))
}

/// Creates or truncates for writing. For files that must survive a crash use [`write_atomic`].
pub fn create(path: &Path) -> Result<File> {
    File::create(path).map_err(at("create", path))
}

/// Opens for appending, creating the file if needed.
pub fn append(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(at("open", path))
}

/// Creates a folder and its parents.
pub fn create_dir_all(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(at("create folder", path))
}

/// Removes a folder with all it holds; a missing one is fine.
pub fn remove_dir_all(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(at("remove", path)),
    }
}

/// Removes a file; a missing one is fine.
pub fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(at("remove", path)),
    }
}

/// Renames within one file system, atomically.
pub fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(at("rename", from))
}

/// Copies a file.
pub fn copy(from: &Path, to: &Path) -> Result<u64> {
    fs::copy(from, to).map_err(at("copy", from))
}

/// Entries of a folder, sorted by name.
pub fn read_dir(path: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(path).map_err(at("list", path))?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(at("list", path))?;
    paths.sort();
    Ok(paths)
}

/// Size of a file in bytes.
pub fn size_bytes(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path).map_err(at("stat", path))?.len())
}

/// What tells one state of a file from another, without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Size in bytes.
    pub size_bytes: u64,
    /// When it was last written, in nanoseconds since 1970.
    pub modified_nanos: i128,
}

/// Size and time of the last change of a file.
pub fn stamp(path: &Path) -> Result<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::metadata(path).map_err(at("stat", path))?;
    Ok(Stamp {
        size_bytes: metadata.size(),
        modified_nanos: i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()),
    })
}

/// Whether it is a folder; a link counts as what it leads to.
pub fn is_dir(path: &Path) -> bool {
    path.is_dir()
}

/// Absolute path without links.
pub fn canonicalize(path: &Path) -> Result<PathBuf> {
    fs::canonicalize(path).map_err(at("resolve", path))
}

/// Cuts a file to its first `length` bytes.
pub fn truncate(path: &Path, length: u64) -> Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .open(path)
        .map_err(at("open", path))?;
    file.set_len(length).map_err(at("truncate", path))
}

/// Writes a file and waits until it is on the disk. Not atomic by itself: see [`write_atomic`].
pub fn write_durable(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = create(path)?;
    file.write_all(bytes).map_err(at("write", path))?;
    file.sync_all().map_err(at("sync", path))
}

/// Writes beside `path`, syncs, renames: a reader sees the old file or the new one, never half of one.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    let beside = path.with_file_name(name);
    write_durable(&beside, bytes)
        .and_then(|()| rename(&beside, path))
        .inspect_err(|_| {
            let _ = fs::remove_file(&beside);
        })?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// Makes the names in a folder durable, after a rename or a new file in it.
pub fn sync_dir(path: &Path) -> Result<()> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    open(path)?.sync_all().map_err(at("sync", path))
}

/// Reads at most `limit` bytes; one more is an error, so that a wrong path does not fill the memory.
pub fn read_at_most(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(at("read", path))?;
    if bytes.len() as u64 > limit {
        let source = io::Error::other(format!("larger than {limit} bytes"));
        return Err(FsError {
            operation: "read",
            path: path.into(),
            source,
        });
    }
    Ok(bytes)
}

/// Maps a file into memory for reading; pages are read when they are first touched.
pub fn mmap(path: &Path) -> Result<memmap2::Mmap> {
    let file = open(path)?;
    #[expect(
        unsafe_code,
        reason = "a map is sound while nobody changes the file; inputs are not written to"
    )]
    let map = unsafe { memmap2::Mmap::map(&file) };
    map.map_err(at("map", path))
}

/// An open file that names itself in every error, for reading pieces of it from several threads.
#[derive(Debug)]
pub struct Input {
    file: File,
    path: PathBuf,
}

impl Input {
    /// Opens for reading.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Input {
            file: open(path)?,
            path: path.into(),
        })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its present size.
    pub fn size_bytes(&self) -> Result<u64> {
        Ok(self.file.metadata().map_err(at("stat", &self.path))?.len())
    }

    /// Fills `bytes` from `offset`.
    pub fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> Result<()> {
        use std::os::unix::fs::FileExt;
        self.file
            .read_exact_at(bytes, offset)
            .map_err(at("read", &self.path))
    }
}

/// A new file that names itself in every error, for writing in pieces.
#[derive(Debug)]
pub struct Output {
    file: File,
    path: PathBuf,
    written_bytes: u64,
}

impl Output {
    /// Creates or truncates.
    pub fn create(path: &Path) -> Result<Self> {
        Ok(Output {
            file: create(path)?,
            path: path.into(),
            written_bytes: 0,
        })
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What was written by now.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes
    }

    /// Appends all the bytes.
    pub fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        Write::write_all(self, bytes).map_err(at("write", &self.path))
    }

    /// Waits until it is on the disk.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(at("sync", &self.path))
    }
}

/// For libraries that write; they name the file by [`Output::path`] themselves.
impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.file.write(bytes)?;
        self.written_bytes += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// What became of an attempt to lock.
#[derive(Debug)]
pub enum TryLock {
    /// Locked until this is dropped or the process ends, however it ends.
    Acquired(FileLock),
    /// Someone else holds the lock.
    Busy,
    /// The file system knows no locks.
    Unsupported,
}

/// An exclusive lock, released when dropped.
#[derive(Debug)]
pub struct FileLock {
    _file: File,
}

/// Tries to lock a file, which is created if needed. Its content is not touched.
pub fn try_lock(path: &Path) -> Result<TryLock> {
    let file = append(path)?;
    match file.try_lock() {
        Ok(()) => Ok(TryLock::Acquired(FileLock { _file: file })),
        Err(fs::TryLockError::WouldBlock) => Ok(TryLock::Busy),
        Err(fs::TryLockError::Error(error)) => {
            let unsupported = [
                rustix::io::Errno::NOLCK,
                rustix::io::Errno::OPNOTSUPP,
                rustix::io::Errno::NOSYS,
            ];
            if unsupported
                .iter()
                .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
            {
                return Ok(TryLock::Unsupported);
            }
            Err(at("lock", path)(error))
        }
    }
}

/// Makes a file's bytes durable, for files that a library wrote.
pub fn sync_file(path: &Path) -> Result<()> {
    open(path)?.sync_all().map_err(at("sync", path))
}

/// Makes all that was written to the file system of a file or folder durable: for very many files at once.
pub fn sync_file_system(path: &Path) -> Result<()> {
    let file = open(path)?;
    #[cfg(target_os = "linux")]
    rustix::fs::syncfs(&file).map_err(|errno| at("sync", path)(errno.into()))?;
    // Other systems know it of all file systems at once only.
    #[cfg(not(target_os = "linux"))]
    {
        drop(file);
        rustix::fs::sync();
    }
    Ok(())
}

/// Room on a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub total_bytes: u64,
    /// What this user may still write.
    pub free_bytes: u64,
}

/// Room on the file system that a file or folder is on.
pub fn space(path: &Path) -> Result<Space> {
    let numbers = rustix::fs::statvfs(path).map_err(|errno| at("stat", path)(errno.into()))?;
    Ok(Space {
        total_bytes: numbers.f_blocks * numbers.f_frsize,
        free_bytes: numbers.f_bavail * numbers.f_frsize,
    })
}

/// Whether there is such a file, folder or other thing.
pub fn exists(path: &Path) -> bool {
    path.exists()
}
