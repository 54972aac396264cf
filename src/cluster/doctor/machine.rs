//! CPUs, memory and limits.

use super::{Probe, Section, State, launch, readable};

/// Fewer CPUs than this for a rank under srun are a forgotten option.
const FEW_CPUS: usize = 4;
/// Less shared memory than this is a container's default.
const SMALL_SHM_BYTES: u64 = 1 << 30;
/// Version 1 of cgroups writes the largest number of pages where there is no limit.
const NO_LIMIT_BYTES: u64 = 1 << 60;
/// Every shard of data and weights is an open file.
const FEW_FILES: u64 = 4096;

pub(super) fn examine(probe: &dyn Probe, out: &mut Section<'_>) {
    cpus(probe, out);
    memory(probe, out);
    match probe.space("/dev/shm") {
        Some(space) if space.total_bytes < SMALL_SHM_BYTES => out.hinted(
            "/dev/shm",
            State::Note,
            format!(
                "{}: NCCL wants more for several GPUs",
                readable(space.total_bytes)
            ),
            "docker run --ipc=host, or --shm-size=8g".into(),
        ),
        Some(space) => out.add("/dev/shm", State::Found, readable(space.total_bytes)),
        None => out.add("/dev/shm", State::Absent, "not there".into()),
    }
    if let Some(limit) = launch::limit(probe, "Max locked memory") {
        let limit = limit.parse().map_or(limit, readable);
        out.add("locked memory", State::Found, limit);
    }
    if let Some(limit) = launch::limit(probe, "Max open files") {
        match limit.parse::<u64>() {
            Ok(number) if number < FEW_FILES => out.hinted(
                "open files",
                State::Note,
                limit,
                "ulimit -n 65536, if the data have many shards".into(),
            ),
            _ => out.add("open files", State::Found, limit),
        }
    }
}

fn cpus(probe: &dyn Probe, out: &mut Section<'_>) {
    let cpus = probe.num_cpus();
    let mut detail = cpus.to_string();
    if let Some(quota) = smallest(probe, "cpu", "cpu.max", cpu_quota) {
        detail = format!("{detail}; the cgroup allows {quota:.1}");
    }
    if let Some(threads) = probe.set("RAYON_NUM_THREADS") {
        detail = format!("{detail}; RAYON_NUM_THREADS={threads}");
    }
    match probe.set("SLURM_STEP_ID") {
        Some(_) if cpus < FEW_CPUS => out.hinted(
            "CPUs",
            State::Note,
            format!("{detail} for this task"),
            "srun --cpus-per-task, which srun does not take over from sbatch".into(),
        ),
        _ => out.add("CPUs", State::Found, detail),
    }
}

fn memory(probe: &dyn Probe, out: &mut Section<'_>) {
    let mut parts = Vec::new();
    parts.extend(meminfo(probe, "MemTotal:").map(readable));
    let available = meminfo(probe, "MemAvailable:");
    parts.extend(available.map(|bytes| format!("{} available", readable(bytes))));
    parts.extend(memory_limit(probe).map(|bytes| format!("the cgroup allows {}", readable(bytes))));
    match parts.is_empty() {
        true => out.add("memory", State::Absent, "/proc/meminfo is not there".into()),
        false => out.add("memory", State::Found, parts.join("; ")),
    }
}

/// Bytes of host memory that a program started now may take: what is free, and what its cgroup allows.
pub fn available_memory(probe: &dyn Probe) -> Option<u64> {
    let available = meminfo(probe, "MemAvailable:");
    available.into_iter().chain(memory_limit(probe)).min()
}

fn meminfo(probe: &dyn Probe, name: &str) -> Option<u64> {
    let text = probe.text("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

fn memory_limit(probe: &dyn Probe) -> Option<u64> {
    smallest(probe, "memory", "memory.max", |text| {
        let limit = text.trim().parse::<u64>().ok();
        limit.filter(|&bytes| bytes < NO_LIMIT_BYTES)
    })
}

/// `200000 100000` of `cpu.max` is two CPUs; `max 100000` no limit.
fn cpu_quota(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok()?)
}

/// The tightest limit of this process's cgroup and those around it. Of version 1 only memory is read.
///
/// Reference: <https://docs.kernel.org/admin-guide/cgroup-v2.html>.
fn smallest<T: PartialOrd>(
    probe: &dyn Probe,
    controller: &str,
    file: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Option<T> {
    let groups = probe.text("/proc/self/cgroup")?;
    let mut limits = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup".to_owned(), file),
            "memory" if controller == "memory" => {
                ("/sys/fs/cgroup/memory".to_owned(), "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let mut path = path.trim_end_matches('/');
        loop {
            let limit = probe.text(&format!("{root}{path}/{file}"));
            limits.extend(limit.as_deref().and_then(&parse));
            match path.rsplit_once('/') {
                Some((parent, _)) => path = parent,
                None => break,
            }
        }
    }
    limits.into_iter().reduce(|a, b| if b < a { b } else { a })
}
