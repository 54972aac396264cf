//! Memory of this process as the system counts it.

use std::path::Path;

use crate::fs;

/// Memory of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessMemory {
    /// Physical memory held now.
    pub resident_bytes: u64,
    /// The most it ever held.
    pub peak_bytes: u64,
}

/// Reads /proc/self/status; `None` where there is no such file, that is outside Linux.
pub fn process_memory() -> Option<ProcessMemory> {
    parse(&fs::read_to_string(Path::new("/proc/self/status")).ok()?)
}

/// The two fields of <https://man7.org/linux/man-pages/man5/proc_pid_status.5.html>; their unit is always kB.
fn parse(status: &str) -> Option<ProcessMemory> {
    let bytes = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kilobytes * 1024)
    };
    Some(ProcessMemory {
        resident_bytes: bytes("VmRSS:")?,
        peak_bytes: bytes("VmHWM:")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_the_kernels_format() {
        let text =
            "Name:\tx\nVmPeak:\t  999999 kB\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\nRssAnon:\t 1 kB\n";
        assert_eq!(
            parse(text),
            Some(ProcessMemory {
                resident_bytes: 1 << 20,
                peak_bytes: 2 << 20
            })
        );
        assert_eq!(parse("Name:\tkthread\n"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn sees_an_allocation() {
        let before = process_memory().unwrap();
        let block = vec![1_u8; 64 << 20];
        let after = process_memory().unwrap();
        assert!(after.peak_bytes >= before.resident_bytes + block.len() as u64 / 2);
        assert!(after.peak_bytes >= after.resident_bytes);
    }
}
