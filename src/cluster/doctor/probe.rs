//! How a machine is looked at: files, folders, variables. A trait, so that tests look at machines that do not exist.

use std::path::Path;

use crate::fs::{self, Space};

/// Most of one file that is read: the loader's cache is the largest.
const MAX_FILE_BYTES: u64 = 32 << 20;

/// What can be asked of a machine. Whatever cannot be had is `None` or empty: to look is never an error.
pub trait Probe {
    /// A variable of the environment.
    fn var(&self, name: &str) -> Option<String>;
    /// Bytes of a file.
    fn read(&self, path: &str) -> Option<Vec<u8>>;
    /// Whether there is such a file or folder.
    fn exists(&self, path: &str) -> bool;
    /// Names in a folder, sorted.
    fn names(&self, folder: &str) -> Vec<String>;
    /// Absolute path without links.
    fn real(&self, path: &str) -> Option<String>;
    /// Room on the file system of a path that exists.
    fn space(&self, path: &str) -> Option<Space>;
    /// CPUs that this process may use.
    fn num_cpus(&self) -> usize;
}

/// This machine.
#[derive(Debug, Clone, Copy)]
pub struct Machine;

impl Probe for Machine {
    fn var(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn read(&self, path: &str) -> Option<Vec<u8>> {
        fs::read_at_most(Path::new(path), MAX_FILE_BYTES).ok()
    }

    fn exists(&self, path: &str) -> bool {
        fs::exists(Path::new(path))
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let paths = fs::read_dir(Path::new(folder)).unwrap_or_default();
        let names = paths.iter().filter_map(|path| path.file_name());
        names.map(|name| name.to_string_lossy().into_owned()).collect()
    }

    fn real(&self, path: &str) -> Option<String> {
        let path = fs::canonicalize(Path::new(path)).ok()?;
        Some(path.to_string_lossy().into_owned())
    }

    fn space(&self, path: &str) -> Option<Space> {
        fs::space(Path::new(path)).ok()
    }

    fn num_cpus(&self) -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }
}

impl dyn Probe + '_ {
    /// A text file.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        let bytes = self.read(path)?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A variable that is set to something.
    pub(super) fn set(&self, name: &str) -> Option<String> {
        self.var(name).filter(|value| !value.is_empty())
    }

    /// Where the shell finds a command.
    pub(super) fn command(&self, name: &str) -> Option<String> {
        let path = self.set("PATH")?;
        let mut places = path.split(':').map(|folder| format!("{folder}/{name}"));
        places.find(|place| self.exists(place))
    }

    /// Where the dynamic loader finds a library: in `LD_LIBRARY_PATH`, its cache, or the folders it always looks in. The
    /// first of the names wins, as for a program that tries one after the other.
    ///
    /// Reference: `man ld.so`.
    pub(super) fn library(&self, names: &[&str]) -> Option<String> {
        let folders = self.set("LD_LIBRARY_PATH").unwrap_or_default();
        let cache = self.read("/etc/ld.so.cache").unwrap_or_default();
        names.iter().find_map(|name| {
            let in_folder = |folder: &str| Some(format!("{folder}/{name}")).filter(|path| self.exists(path));
            let folders = folders.split(':').filter(|folder| !folder.is_empty());
            folders
                .filter_map(in_folder)
                .next()
                .or_else(|| in_cache(&cache, name).filter(|path| self.exists(path)))
                .or_else(|| {
                    ["/lib64", "/usr/lib64", "/lib", "/usr/lib"]
                        .into_iter()
                        .find_map(in_folder)
                })
        })
    }

    /// Folders of Python environments in which wheels of NVIDIA put libraries, `<site-packages>/nvidia/<package>/lib`.
    pub(super) fn in_wheel(&self, packages: &[&str], names: &[&str]) -> Option<String> {
        let environments = ["VIRTUAL_ENV", "CONDA_PREFIX"]
            .into_iter()
            .filter_map(|name| self.set(name));
        let homes = self.set("HOME").map(|home| format!("{home}/.local"));
        environments.chain(homes).find_map(|environment| {
            let versions = self.names(&format!("{environment}/lib")).into_iter();
            let mut versions = versions.filter(|name| name.starts_with("python3"));
            versions.find_map(|python| {
                packages.iter().find_map(|package| {
                    let folder = format!("{environment}/lib/{python}/site-packages/nvidia/{package}/lib");
                    let mut paths = names.iter().map(|name| format!("{folder}/{name}"));
                    paths.find(|path| self.exists(path))
                })
            })
        })
    }
}

/// The path of a library in `/etc/ld.so.cache`, in which texts end with a zero byte.
fn in_cache(cache: &[u8], name: &str) -> Option<String> {
    let end = format!("/{name}");
    let mut texts = cache.split(|&byte| byte == 0);
    let path = texts.find_map(|text| {
        let path = text.ends_with(end.as_bytes()).then_some(text)?;
        // The first text follows a table of numbers.
        let start = path
            .iter()
            .rposition(|byte| !byte.is_ascii_graphic())
            .map_or(0, |at| at + 1);
        std::str::from_utf8(&path[start..]).ok()
    });
    path.filter(|path| path.starts_with('/')).map(str::to_owned)
}
