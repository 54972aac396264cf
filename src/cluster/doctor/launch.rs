//! Who started this process, and who could.

use super::{Build, Probe, Section, State};
use crate::parallel::{Launch, Launcher};

pub(super) fn examine(probe: &dyn Probe, build: &Build, out: &mut Section<'_>) {
    match started(probe) {
        Ok(launch) => {
            let detail = match launch.launcher {
                Launcher::Nobody => "by hand: one process".to_owned(),
                Launcher::Torchrun | Launcher::Slurm | Launcher::OpenMpi => format!(
                    "rank {} of {} by {}, number {} on this host{}",
                    launch.world.rank,
                    launch.world.size,
                    launch.launcher.name(),
                    launch.local_rank,
                    launch.meet.map_or(String::new(), |(host, port)| format!(
                        "; meeting at {host}:{port}"
                    ))
                ),
            };
            out.add("this process", State::Found, detail);
        }
        Err(error) => match error.split_once("\n  hint: ") {
            Some((detail, hint)) => {
                out.hinted("this process", State::Missing, detail.to_owned(), hint.to_owned());
            }
            None => out.add("this process", State::Missing, error),
        },
    }
    let mpirun = probe.command("mpirun");
    match (mpirun, build.has_mpi) {
        (Some(path), _) => out.add("mpirun", State::Found, path),
        (None, true) => out.hinted(
            "mpirun",
            State::Note,
            "not on PATH".into(),
            "install openmpi-bin, or start by srun --mpi=pmix".into(),
        ),
        (None, false) => out.add("mpirun", State::Absent, "not on PATH".into()),
    }
    slurm(probe, out);
}

fn slurm(probe: &dyn Probe, out: &mut Section<'_>) {
    let (there, missing): (Vec<_>, Vec<_>) = ["sbatch", "srun", "scontrol"]
        .into_iter()
        .partition(|name| probe.command(name).is_some());
    match (there.is_empty(), missing.is_empty()) {
        (true, _) => out.add(
            "SLURM",
            State::Absent,
            "no sbatch, srun or scontrol on PATH".into(),
        ),
        (false, true) => out.add("SLURM", State::Found, there.join(", ")),
        (false, false) => out.hinted(
            "SLURM",
            State::Note,
            format!("{}, without {}", there.join(", "), missing.join(", ")),
            "in a container this is usual; the script of `brazier slurm` calls them outside".into(),
        ),
    }
    let Some(job) = probe.set("SLURM_JOB_ID") else {
        return;
    };
    let variables = [
        ("nodes", "SLURM_JOB_NUM_NODES"),
        ("tasks", "SLURM_NTASKS"),
        ("GPUs here", "SLURM_GPUS_ON_NODE"),
        ("CPUs a task", "SLURM_CPUS_PER_TASK"),
        ("restarts", "SLURM_RESTART_COUNT"),
    ];
    let known = variables
        .iter()
        .filter_map(|(label, name)| Some(format!(", {label} {}", probe.set(name)?)));
    let known: String = known.collect();
    out.add("job", State::Found, format!("{job}{known}"));
    let tasks = probe
        .set("SLURM_NTASKS_PER_NODE")
        .and_then(|text| text.parse::<usize>().ok());
    let gpus = probe
        .set("SLURM_GPUS_ON_NODE")
        .and_then(|text| text.parse::<usize>().ok());
    if let (Some(tasks), Some(gpus)) = (tasks, gpus)
        && tasks != gpus
    {
        out.hinted(
            "tasks",
            if tasks > gpus { State::Missing } else { State::Note },
            format!("{tasks} on a node of {gpus} GPUs"),
            format!("--ntasks-per-node={gpus}: one task for each GPU"),
        );
    }
}

fn started(probe: &dyn Probe) -> Result<Launch, String> {
    Launch::from_env(&|name| probe.var(name)).map_err(|error| error.to_string())
}

/// Processes of the run that this one belongs to.
pub(super) fn world_size(probe: &dyn Probe) -> usize {
    started(probe).map_or(1, |launch| launch.world.size)
}

/// Nodes of the job; 1 outside of SLURM.
pub(super) fn num_nodes(probe: &dyn Probe) -> usize {
    let number = probe
        .set("SLURM_JOB_NUM_NODES")
        .and_then(|text| text.parse().ok());
    number.unwrap_or(1)
}

/// The soft limit of a line of `/proc/self/limits`: columns are apart by at least two blanks.
pub(super) fn limit(probe: &dyn Probe, name: &str) -> Option<String> {
    let text = probe.text("/proc/self/limits")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next().map(str::to_owned)
}
