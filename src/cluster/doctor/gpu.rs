//! Driver, GPUs, and what compiles kernels at run time.

use super::{Asked, Build, Probe, Section, State};

/// The CUDA that a driver brings, by the first number of its version.
///
/// Reference: <https://docs.nvidia.com/cuda/cuda-toolkit-release-notes/>, table "CUDA Toolkit and Corresponding Driver
/// Versions".
const CUDA_OF_DRIVER: [(u32, (u32, u32)); 11] = [
    (580, (13, 0)),
    (575, (12, 9)),
    (570, (12, 8)),
    (565, (12, 7)),
    (560, (12, 6)),
    (555, (12, 5)),
    (550, (12, 4)),
    (545, (12, 3)),
    (535, (12, 2)),
    (530, (12, 1)),
    (525, (12, 0)),
];

/// Drivers from here on are newer than the table.
const NEWER_DRIVER: u32 = 590;

/// Headers that kernels include.
const HEADERS: [&str; 4] = ["cuda_fp16.h", "cuda_bf16.h", "mma.h", "cooperative_groups.h"];
/// What the CUDA bindings try to load, in this order.
const NVRTC: [&str; 3] = ["libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"];

pub(super) fn examine(probe: &dyn Probe, build: &Build, asked: &Asked, out: &mut Section<'_>) {
    let is_needed = asked.cuda();
    let has_driver = driver(probe, is_needed, out);
    devices(probe, asked, out);
    match probe.library(&["libcuda.so", "libcuda.so.1"]) {
        Some(path) => out.add("libcuda", State::Found, path),
        None => out.hinted(
            "libcuda",
            State::absent(is_needed),
            "libcuda.so.1 is not where the loader looks".into(),
            "it comes with the driver; in a container, start it with the NVIDIA runtime (docker run --gpus all)".into(),
        ),
    }
    if !is_needed && has_driver.is_none() && !build.has_cuda() {
        // Without a GPU and without the backend, the rest is nobody's concern.
        return;
    }
    let toolkit = toolkit(probe, is_needed, out);
    if let Some(toolkit) = &toolkit {
        headers(probe, toolkit, is_needed, out);
        versions(probe, toolkit, has_driver, is_needed, out);
    }
    nvrtc(probe, toolkit.as_deref(), is_needed, out);
}

/// The first number of the driver's version.
fn driver(probe: &dyn Probe, is_needed: bool, out: &mut Section<'_>) -> Option<u32> {
    let version = probe.text("/proc/driver/nvidia/version");
    let version = version.as_deref().and_then(driver_version);
    match version {
        Some(version) => out.add("driver", State::Found, version.to_owned()),
        None => out.hinted(
            "driver",
            State::absent(is_needed),
            "/proc/driver/nvidia/version is not there".into(),
            "install NVIDIA's driver, or ask the scheduler for a node with GPUs".into(),
        ),
    }
    version?.split('.').next()?.parse().ok()
}

/// `580.65.06` of `NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build …`.
fn driver_version(text: &str) -> Option<&str> {
    let line = text.lines().find(|line| line.contains("Kernel Module"))?;
    let mut words = line.split_whitespace();
    words.find(|word| {
        let parts: Vec<&str> = word.split('.').collect();
        let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        parts.len() > 1 && parts.iter().all(is_number)
    })
}

/// GPUs that this process may open, and what they are.
fn devices(probe: &dyn Probe, asked: &Asked, out: &mut Section<'_>) {
    let names = probe.names("/dev");
    let is_gpu = |name: &&String| {
        let index = name.strip_prefix("nvidia");
        index.is_some_and(|index| !index.is_empty() && index.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let count = names.iter().filter(is_gpu).count();
    let folder = "/proc/driver/nvidia/gpus";
    let model = probe.names(folder).iter().find_map(|bus| {
        let text = probe.text(&format!("{folder}/{bus}/information"))?;
        let model = text.lines().find_map(|line| line.strip_prefix("Model:"))?;
        Some(model.trim().to_owned())
    });
    let mut detail = format!(
        "{count} {}",
        model.unwrap_or_else(|| "devices /dev/nvidia*".into())
    );
    if let Some(visible) = probe.var("CUDA_VISIBLE_DEVICES") {
        detail = format!("{detail}; CUDA_VISIBLE_DEVICES={visible:?}");
    }
    let wanted = asked.devices.unwrap_or(1);
    match count {
        0 => out.hinted(
            "GPUs",
            State::absent(asked.cuda()),
            "no /dev/nvidia0".into(),
            "under SLURM, ask for them: --gpus-per-node; in a container, start it with the NVIDIA runtime"
                .into(),
        ),
        _ if asked.cuda() && count < wanted => out.hinted(
            "GPUs",
            State::Missing,
            format!("{detail}; {wanted} were asked for"),
            format!("--devices {count}: every rank needs a GPU of its own"),
        ),
        _ => out.add("GPUs", State::Found, detail),
    }
}

/// Where CubeCL looks for CUDA's headers: the first of these that is there, and `CUDA_PATH` unseen.
fn toolkit(probe: &dyn Probe, is_needed: bool, out: &mut Section<'_>) -> Option<String> {
    let found = probe.var("CUDA_PATH").or_else(|| {
        let usual = ["/usr/local/cuda", "/opt/cuda"].into_iter();
        let usual = usual.map(str::to_owned).find(|path| probe.exists(path));
        usual.or_else(|| probe.exists("/usr/bin/nvcc").then(|| "/usr".to_owned()))
    });
    let hint = "install the CUDA toolkit of the driver's version (headers and NVRTC are enough), and set CUDA_PATH to its folder";
    match found {
        Some(path) if probe.exists(&format!("{path}/include")) => {
            out.add("CUDA toolkit", State::Found, path.clone());
            Some(path)
        }
        Some(path) => {
            let detail = format!("{path} has no folder include");
            out.hinted("CUDA toolkit", State::absent(is_needed), detail, hint.into());
            None
        }
        None => {
            let detail = "no CUDA_PATH, /usr/local/cuda, /opt/cuda".into();
            out.hinted("CUDA toolkit", State::absent(is_needed), detail, hint.into());
            None
        }
    }
}

fn headers(probe: &dyn Probe, toolkit: &str, is_needed: bool, out: &mut Section<'_>) {
    let include = format!("{toolkit}/include");
    let mut missing: Vec<&str> = HEADERS.to_vec();
    missing.retain(|header| !probe.exists(&format!("{include}/{header}")));
    // Since CUDA 13 the C++ library has a folder of its own.
    let barriers = ["cuda/barrier", "cccl/cuda/barrier"];
    if !barriers
        .iter()
        .any(|header| probe.exists(&format!("{include}/{header}")))
    {
        missing.push("cuda/barrier");
    }
    match missing.is_empty() {
        true => out.add("headers", State::Found, include),
        false => out.hinted(
            "headers",
            State::absent(is_needed),
            format!("{include} lacks {}", missing.join(", ")),
            "install the toolkit's packages cuda-cudart-dev, cuda-crt and cuda-cccl".into(),
        ),
    }
}

/// A driver refuses what a newer NVRTC compiles.
fn versions(probe: &dyn Probe, toolkit: &str, driver: Option<u32>, is_needed: bool, out: &mut Section<'_>) {
    let Some((major, minor)) = probe
        .text(&format!("{toolkit}/include/cuda.h"))
        .and_then(|text| toolkit_version(&text))
    else {
        return;
    };
    let known = driver.filter(|&driver| driver < NEWER_DRIVER).and_then(|driver| {
        let mut table = CUDA_OF_DRIVER.into_iter();
        table
            .find(|(first, _)| driver >= *first)
            .map(|(_, version)| version)
    });
    match known {
        Some(newest) if (major, minor) > newest => out.hinted(
            "CUDA version",
            State::absent(is_needed),
            format!(
                "the toolkit's {major}.{minor} is newer than the driver's {}.{}",
                newest.0, newest.1
            ),
            format!(
                "use a toolkit up to {}.{}, or update the driver",
                newest.0, newest.1
            ),
        ),
        _ => out.add("CUDA version", State::Found, format!("{major}.{minor}")),
    }
}

/// `#define CUDA_VERSION 13000`.
fn toolkit_version(text: &str) -> Option<(u32, u32)> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("#define CUDA_VERSION "))?;
    let number: u32 = line.trim().parse().ok()?;
    Some((number / 1000, number % 1000 / 10))
}

fn nvrtc(probe: &dyn Probe, toolkit: Option<&str>, is_needed: bool, out: &mut Section<'_>) {
    if let Some(path) = probe.library(&NVRTC) {
        let real = probe.real(&path).unwrap_or_else(|| path.clone());
        let folder = real.rsplit_once('/').map_or("", |(folder, _)| folder);
        let is_builtins = |name: &String| name.starts_with("libnvrtc-builtins.so");
        return match probe.names(folder).iter().any(is_builtins) {
            true => out.add("NVRTC", State::Found, path),
            false => out.hinted(
                "NVRTC",
                State::absent(is_needed),
                format!("{path} without libnvrtc-builtins beside it"),
                "install the toolkit's package cuda-nvrtc in whole".into(),
            ),
        };
    }
    let of_toolkit = toolkit.and_then(|toolkit| {
        let mut places = ["lib64", "lib"]
            .iter()
            .flat_map(|lib| NVRTC.map(|name| format!("{toolkit}/{lib}/{name}")));
        places.find(|path| probe.exists(path))
    });
    let elsewhere = of_toolkit.or_else(|| probe.in_wheel(&["cuda_nvrtc", "cu13"], &NVRTC));
    let (detail, hint) = not_searched(
        "libnvrtc.so",
        elsewhere,
        "install the toolkit's package cuda-nvrtc",
    );
    out.hinted("NVRTC", State::absent(is_needed), detail, hint);
}

/// What to say of a library that the loader does not find: there, or nowhere.
pub(super) fn not_searched(name: &str, elsewhere: Option<String>, install: &str) -> (String, String) {
    match elsewhere {
        Some(path) => {
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            (
                format!("{path}, where the loader does not look"),
                format!("export LD_LIBRARY_PATH={folder}:$LD_LIBRARY_PATH"),
            )
        }
        None => (
            format!("{name} is not where the loader looks"),
            install.to_owned(),
        ),
    }
}
