use std::collections::BTreeMap;

use super::*;
use crate::fs::Space;

/// A machine of texts. A file's folders are there with it.
#[derive(Clone, Default)]
struct Fake {
    files: BTreeMap<String, String>,
    variables: BTreeMap<String, String>,
    free_bytes: u64,
    cpus: usize,
}

impl Fake {
    fn new() -> Self {
        let fake = Self {
            free_bytes: 1 << 40,
            cpus: 16,
            ..Self::default()
        };
        fake.with(&[
            (
                "/proc/self/mounts",
                "overlay / overlay rw 0 0\nfs01 /scratch lustre rw 0 0\ntmpfs /dev/shm tmpfs rw 0 0\n",
            ),
            (
                "/proc/self/limits",
                "Limit                     Soft Limit           Hard Limit           Units\n\
              Max locked memory         65536                65536                bytes\n\
              Max open files            1024                 524288               files\n",
            ),
            (
                "/proc/meminfo",
                "MemTotal:       8388608 kB\nMemFree: 1 kB\nMemAvailable:   4194304 kB\n",
            ),
            (
                "/proc/self/cgroup",
                "5:memory:/job\n4:cpu,cpuacct:/job\n0::/job/step\n",
            ),
            (
                "/sys/fs/cgroup/memory/job/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "3221225472\n"),
            ("/sys/fs/cgroup/job/memory.max", "2147483648\n"),
            ("/sys/fs/cgroup/job/step/memory.max", "max\n"),
            ("/sys/fs/cgroup/job/step/cpu.max", "250000 100000\n"),
            ("/scratch/user/x", ""),
            ("/home/user/x", ""),
        ])
    }

    fn with(mut self, files: &[(&str, &str)]) -> Self {
        let files = files
            .iter()
            .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()));
        self.files.extend(files);
        self
    }

    fn without(mut self, start: &str) -> Self {
        self.files.retain(|path, _| !path.starts_with(start));
        self
    }

    fn set(mut self, variables: &[(&str, &str)]) -> Self {
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        self.variables.extend(variables);
        self
    }

    /// A node of a cluster of GPUs where nothing is missing.
    fn gpu_node() -> Self {
        Self::new()
            .with(&[
                ("/proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  580.65.06  Release Build\nGCC version:  gcc 13.3.0\n"),
                ("/proc/driver/nvidia/gpus/0009:01:00.0/information", "Model: \t\t NVIDIA GH200 120GB\nIRQ: 4\n"),
                ("/dev/nvidia0", ""),
                ("/dev/nvidia1", ""),
                ("/dev/nvidiactl", ""),
                ("/dev/shm/x", ""),
                ("/usr/lib64/libcuda.so.1", ""),
                ("/usr/local/cuda/include/cuda.h", "#define X 1\n#define CUDA_VERSION 13000\n"),
                ("/usr/local/cuda/include/cuda_fp16.h", ""),
                ("/usr/local/cuda/include/cuda_bf16.h", ""),
                ("/usr/local/cuda/include/mma.h", ""),
                ("/usr/local/cuda/include/cooperative_groups.h", ""),
                ("/usr/local/cuda/include/cccl/cuda/barrier", ""),
                ("/opt/nv/libnvrtc.so.13", ""),
                ("/opt/nv/libnvrtc-builtins.so.13.0", ""),
                ("/etc/ld.so.cache", "ld.so-1.7.0\0\u{1}\u{2}libnccl.so.2\0/opt/nccl/lib/libnccl.so.2\0libz.so\0/lib/libz.so\0"),
                ("/opt/nccl/lib/libnccl.so.2", ""),
            ])
            .set(&[("LD_LIBRARY_PATH", "/nowhere:/opt/nv")])
    }

    fn report(&self, asked: &Asked) -> Report {
        let build = Build {
            backends: vec!["cuda:0".into(), "flex".into()],
            has_mpi: false,
        };
        examine(self, &build, asked)
    }
}

impl Probe for Fake {
    fn var(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned()
    }

    fn read(&self, path: &str) -> Option<Vec<u8>> {
        Some(self.files.get(path)?.clone().into_bytes())
    }

    fn exists(&self, path: &str) -> bool {
        self.files.contains_key(path) || !self.names(path).is_empty()
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let below = format!("{folder}/");
        let names = self
            .files
            .keys()
            .filter_map(|path| path.strip_prefix(&below)?.split('/').next());
        let mut names: Vec<String> = names.map(str::to_owned).collect();
        names.dedup();
        names
    }

    fn real(&self, path: &str) -> Option<String> {
        match path {
            "." => Some("/home/user".into()),
            "/" => Some("/".into()),
            _ => self.exists(path).then(|| path.to_owned()),
        }
    }

    fn space(&self, path: &str) -> Option<Space> {
        let total_bytes = if path == "/dev/shm" && !self.exists(path) {
            return None;
        } else {
            1 << 42
        };
        Some(Space {
            total_bytes,
            free_bytes: self.free_bytes,
        })
    }

    fn num_cpus(&self) -> usize {
        self.cpus
    }
}

fn cuda() -> Asked {
    Asked {
        device: Some("cuda:0".into()),
        ..Asked::default()
    }
}

#[track_caller]
fn check(report: &Report, name: &str, state: State, part: &str) {
    let found = report.findings.iter().find(|finding| finding.name == name);
    let finding = found.unwrap_or_else(|| panic!("no {name} in\n{report}"));
    let words = format!(
        "{} {}",
        finding.detail,
        finding.hint.as_deref().unwrap_or_default()
    );
    assert!(
        finding.state == state && words.contains(part),
        "{name}: {finding:?}"
    );
}

#[test]
fn a_node_with_all_that_cuda_needs_is_fine() {
    let report = Fake::gpu_node().report(&Asked {
        devices: Some(2),
        ..cuda()
    });
    assert!(report.is_fine(), "{report}");
    for (name, part) in [
        ("driver", "580.65.06"),
        ("GPUs", "2 NVIDIA GH200 120GB"),
        ("libcuda", "/usr/lib64/libcuda.so.1"),
        ("CUDA toolkit", "/usr/local/cuda"),
        ("CUDA version", "13.0"),
        ("NVRTC", "/opt/nv/libnvrtc.so.13"),
        ("NCCL", "/opt/nccl/lib/libnccl.so.2"),
        ("CPUs", "16; the cgroup allows 2.5"),
        ("memory", "8.0 GiB; 4.0 GiB available; the cgroup allows 2.0 GiB"),
        ("locked memory", "64.0 KiB"),
        ("this process", "by hand: one process"),
    ] {
        check(&report, name, State::Found, part);
    }
    assert!(
        report
            .to_string()
            .ends_with("\nnothing that was asked for is missing")
    );
}

/// Each thing taken away is missing when it is asked for, with what to do, and only absent when it is not.
#[test]
fn what_is_asked_for_and_not_there_is_missing() {
    for (gone, name, part) in [
        ("/proc/driver", "driver", "install NVIDIA's driver"),
        ("/dev/nvidia", "GPUs", "--gpus-per-node"),
        ("/usr/lib64/libcuda", "libcuda", "NVIDIA runtime"),
        ("/usr/local/cuda", "CUDA toolkit", "CUDA_PATH"),
        ("/usr/local/cuda/include/mma.h", "headers", "lacks mma.h"),
        ("/usr/local/cuda/include/cccl", "headers", "lacks cuda/barrier"),
        ("/opt/nv/libnvrtc", "NVRTC", "cuda-nvrtc"),
        ("/opt/nv/libnvrtc-builtins", "NVRTC", "without libnvrtc-builtins"),
        ("/opt/nccl", "NCCL", "install libnccl2"),
    ] {
        let machine = Fake::gpu_node().without(gone);
        let asked = Asked {
            devices: Some(2),
            ..cuda()
        };
        let report = machine.report(&asked);
        check(&report, name, State::Missing, part);
        assert!(!report.is_fine());
        let report = machine.report(&Asked::default());
        check(&report, name, State::Absent, "");
        assert!(report.is_fine(), "{report}");
    }
    // One GPU needs no NCCL.
    check(
        &Fake::gpu_node().without("/opt/nccl").report(&cuda()),
        "NCCL",
        State::Absent,
        "one GPU",
    );
    let three = Asked {
        devices: Some(3),
        ..cuda()
    };
    check(
        &Fake::gpu_node().report(&three),
        "GPUs",
        State::Missing,
        "3 were asked for",
    );
    let wgpu = Asked {
        device: Some("wgpu".into()),
        ..Asked::default()
    };
    check(
        &Fake::new().report(&wgpu),
        "backends",
        State::Missing,
        "--features wgpu",
    );
}

#[test]
fn a_toolkit_newer_than_the_driver_is_told() {
    let old = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5\n";
    let machine = Fake::gpu_node().with(&[("/proc/driver/nvidia/version", old)]);
    check(
        &machine.report(&cuda()),
        "CUDA version",
        State::Missing,
        "13.0 is newer than the driver's 12.4",
    );
    let newer = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  610.1  x\n";
    let machine = Fake::gpu_node().with(&[("/proc/driver/nvidia/version", newer)]);
    check(&machine.report(&cuda()), "CUDA version", State::Found, "13.0");
}

#[test]
fn a_library_in_a_wheel_is_found_and_how_to_use_it() {
    let machine = Fake::gpu_node()
        .without("/opt/nccl")
        .with(&[(
            "/venv/lib/python3.12/site-packages/nvidia/nccl/lib/libnccl.so.2",
            "",
        )])
        .set(&[("VIRTUAL_ENV", "/venv")]);
    let asked = Asked {
        devices: Some(2),
        ..cuda()
    };
    check(
        &machine.report(&asked),
        "NCCL",
        State::Missing,
        "LD_LIBRARY_PATH=/venv/lib/python3.12/site-packages/nvidia/nccl/lib:",
    );
}

/// A rank of a job of two nodes.
const STEP: [(&str, &str); 9] = [
    ("SLURM_JOB_ID", "77"),
    ("SLURM_STEP_ID", "0"),
    ("SLURM_PROCID", "1"),
    ("SLURM_NTASKS", "4"),
    ("SLURM_LOCALID", "1"),
    ("SLURM_NTASKS_PER_NODE", "2"),
    ("SLURM_GPUS_ON_NODE", "2"),
    ("SLURM_JOB_NUM_NODES", "2"),
    ("SLURM_STEP_NODELIST", "n[1-2]"),
];

#[test]
fn the_network_between_nodes() {
    let node = Fake::gpu_node().set(&STEP);
    let slingshot = node.clone().with(&[("/sys/class/cxi/cxi0/device", "")]);
    let report = slingshot.report(&cuda());
    check(&report, "between nodes", State::Missing, "NCCL would take TCP");
    // Inside one node, it is worth a word at most.
    let alone = slingshot.clone().set(&[("SLURM_JOB_NUM_NODES", "1")]);
    check(
        &alone.report(&cuda()),
        "between nodes",
        State::Note,
        "libnccl-net-ofi.so and libfabric",
    );
    let whole = slingshot.with(&[
        ("/opt/nv/libnccl-net-ofi.so", ""),
        ("/usr/lib64/libfabric.so.1", ""),
    ]);
    check(
        &whole.report(&cuda()),
        "between nodes",
        State::Found,
        "Slingshot cxi0",
    );

    let port = "/sys/class/infiniband/mlx5_0/ports/1";
    let infiniband = node.with(&[
        (&format!("{port}/state"), "4: ACTIVE\n"),
        (&format!("{port}/rate"), "200 Gb/sec (4X HDR)\n"),
        (&format!("{port}/link_layer"), "InfiniBand\n"),
    ]);
    let report = infiniband.report(&cuda());
    check(
        &report,
        "between nodes",
        State::Found,
        "mlx5_0 200 Gb/sec (4X HDR) (InfiniBand)",
    );
    check(&report, "locked memory", State::Missing, "ulimit -l unlimited");
    let down = infiniband.with(&[(&format!("{port}/state"), "1: DOWN\n")]);
    check(
        &down.report(&cuda()),
        "between nodes",
        State::Missing,
        "no port is active: mlx5_0",
    );

    let ethernet = Fake::new().with(&[
        ("/sys/class/net/lo/operstate", "unknown\n"),
        ("/sys/class/net/eth0/operstate", "up\n"),
        ("/sys/class/net/eth0/speed", "10000\n"),
        ("/sys/class/net/eth1/operstate", "down\n"),
    ]);
    check(
        &ethernet.report(&Asked::default()),
        "between nodes",
        State::Found,
        "over eth0 10000 Mb/s",
    );
}

#[test]
fn launchers_and_their_contradictions() {
    let report = Fake::gpu_node().set(&STEP).report(&cuda());
    check(
        &report,
        "this process",
        State::Found,
        "rank 1 of 4 by srun, number 1 on this host; meeting at n1:",
    );
    check(&report, "job", State::Found, "77, nodes 2, tasks 4, GPUs here 2");
    let shared = Fake::gpu_node().set(&STEP).set(&[("SLURM_GPUS_ON_NODE", "1")]);
    let report = shared.report(&Asked::default());
    check(
        &report,
        "this process",
        State::Missing,
        "two processes would share a GPU",
    );
    check(&report, "tasks", State::Missing, "--ntasks-per-node=1");
    let few = Fake {
        cpus: 1,
        ..Fake::gpu_node().set(&STEP)
    };
    check(&few.report(&cuda()), "CPUs", State::Note, "--cpus-per-task");
    let commands = Fake::new()
        .with(&[("/bin/srun", ""), ("/bin/mpirun", "")])
        .set(&[("PATH", "/usr/bin:/bin")]);
    let report = commands.report(&Asked::default());
    check(&report, "SLURM", State::Note, "srun, without sbatch, scontrol");
    check(&report, "mpirun", State::Found, "/bin/mpirun");
}

#[test]
fn places_of_files() {
    let asked = |output: &str| Asked {
        output: Some(output.into()),
        cache: Some("/dev/shm/cache".into()),
        ..Asked::default()
    };
    // Not made yet: it lies where its parents are.
    let node = Fake::gpu_node().set(&STEP);
    let report = node.report(&asked("/scratch/user/runs/new"));
    check(
        &report,
        "output",
        State::Found,
        "on lustre (network), 1.0 TiB of 4.0 TiB free",
    );
    check(&report, "cache", State::Note, "a tmpfs is memory");
    check(&report, "working folder", State::Found, "on overlay (local)");
    check(
        &node.report(&asked("runs/new")),
        "output",
        State::Missing,
        "all nodes see",
    );
    check(
        &Fake::gpu_node().report(&asked("runs/new")),
        "output",
        State::Found,
        "on overlay",
    );
    let full = Fake {
        free_bytes: 1 << 20,
        ..Fake::gpu_node()
    };
    check(
        &full.report(&asked("/home/user/run")),
        "output",
        State::Note,
        "make room",
    );
}
