//! Brings the ranks of a run together: threads of this process, or processes that a launcher has started.

use std::{process::ExitCode, sync::Arc, thread::Builder, time::Duration};

use super::{Failure, speak_as};
use crate::{
    checkpoint::{CheckpointInfo, Start},
    config::RunConfig,
    device_choice::DeviceChoice,
    parallel::{Group, Launch, Tcp, Threads},
};

/// The processes of a run; one by itself if no launcher has started several.
pub(super) fn join(launch: &Launch, run: &RunConfig, device: DeviceChoice) -> Result<Group, Failure> {
    if launch.world.size == 1 {
        return Ok(Group::alone());
    }
    let group = engine(launch, run, device)?;
    let found = group.world();
    if found != launch.world {
        return Err(Failure::Input(format!(
            "{} says that this is process {} of {}, MPI that it is {} of {}\n  hint: start with mpirun, or with srun --mpi=pmix",
            launch.launcher.name(),
            launch.world.rank,
            launch.world.size,
            found.rank,
            found.size
        )));
    }
    let yaml = run.to_yaml().map_err(anyhow::Error::from)?;
    let mut settings = vec![("the version of brazier", env!("CARGO_PKG_VERSION").to_owned())];
    settings.extend(
        yaml.lines()
            .map(|line| ("the configuration", line.trim().to_owned())),
    );
    group.check_same(&settings)?;
    Ok(group)
}

/// MPI where it is compiled in and may be there, TCP elsewhere.
fn engine(launch: &Launch, run: &RunConfig, device: DeviceChoice) -> Result<Group, Failure> {
    let timeout = run.parallel.timeout;
    if matches!(device, DeviceChoice::Cuda { .. } | DeviceChoice::Wgpu) {
        super::say("note: gradients travel through host memory");
    }
    #[cfg(feature = "mpi")]
    if launch.launcher != crate::parallel::Launcher::Torchrun {
        return Ok(Group::start(crate::parallel::Mpi::join, timeout)?);
    }
    let world = launch.world;
    let Some((host, port)) = launch.meet.clone() else {
        return Err(Failure::Input(format!(
            "{} started {} processes, of which this is number {}, and does not say where they meet\n  hint: set MASTER_ADDR to the \
             host of the first and MASTER_PORT to a free port there (mpirun -x MASTER_ADDR=... -x MASTER_PORT=...), or build \
             with --features mpi",
            launch.launcher.name(),
            world.size,
            world.rank,
        )));
    };
    super::say(format_args!("{} processes meet at {host}:{port}", world.size));
    let join = move || Tcp::join(world, (&host, port), timeout);
    Ok(Group::start(join, timeout)?)
}

/// Runs this rank's part of the work. If it fails, the others learn of it.
pub(super) fn as_one_of(
    group: Arc<Group>,
    run: impl FnOnce(Arc<Group>) -> Result<ExitCode, Failure>,
) -> Result<ExitCode, Failure> {
    let _leaving = Leaving(group.clone());
    let result = run(group.clone());
    match &result {
        // They know of it already.
        Ok(_) | Err(Failure::Elsewhere(_)) => {}
        Err(failure) => group.abort(&failure.to_string()),
    }
    result
}

/// Lets the first process do what must be done once, then goes on everywhere.
pub(super) fn first_then_all(
    group: &Group,
    once: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let done = match group.world().rank {
        0 => once(),
        _ => Ok(()),
    };
    group.agree(done)
}

/// Where all begin: the first process decides.
pub(super) fn same_start(group: &Group, decided: Option<Result<Start, Failure>>) -> Result<Start, Failure> {
    let decided = group.agree(decided.transpose())?;
    let words = match &decided {
        Some(Start::Resume(info)) => ["resume".to_owned(), info.path.display().to_string()],
        Some(Start::Other(info)) => ["other".to_owned(), info.path.display().to_string()],
        Some(Start::Import(path)) => ["import".to_owned(), path.display().to_string()],
        Some(Start::Scratch) | None => ["scratch".to_owned(), String::new()],
    };
    let all = group.exchange_texts(&words)?;
    let found = match (decided, all[0].as_slice()) {
        (Some(start), _) => Ok(start),
        (None, [kind, path]) => match kind.as_str() {
            "resume" => CheckpointInfo::read(path.as_ref()).map(Start::Resume),
            "other" => CheckpointInfo::read(path.as_ref()).map(Start::Other),
            "import" => Ok(Start::Import(path.into())),
            _ => Ok(Start::Scratch),
        },
        (None, _) => Ok(Start::Scratch),
    };
    group.agree(found.map_err(Failure::from))
}

/// Runs a rank on each of several threads. The first error that is a rank's own is the command's.
pub(super) fn on_threads(
    size: usize,
    timeout: Duration,
    run: impl Fn(Arc<Group>) -> Result<ExitCode, Failure> + Sync,
) -> Result<ExitCode, Failure> {
    let run = &run;
    let rank = |engine: Threads| {
        let group = Arc::new(Group::start(move || Ok(engine), timeout)?);
        speak_as(group.world().rank);
        as_one_of(group, run)
    };
    let results: Vec<Result<ExitCode, Failure>> = std::thread::scope(|scope| {
        let spawned: Vec<_> = Threads::group(size, timeout)
            .into_iter()
            .enumerate()
            .map(|(number, engine)| {
                let thread = Builder::new().name(format!("rank-{number}"));
                thread.spawn_scoped(scope, || rank(engine))
            })
            .collect();
        let joined = spawned
            .into_iter()
            .map(|thread| match thread.map(|thread| thread.join()) {
                Ok(Ok(result)) => result,
                Ok(Err(_)) => Err(anyhow::anyhow!("a rank panicked").into()),
                Err(error) => Err(anyhow::Error::from(error).into()),
            });
        joined.collect()
    });
    let mut outcome = Ok(ExitCode::SUCCESS);
    for result in results {
        outcome = match (outcome, result) {
            (Ok(_), result) => result,
            (Err(Failure::Elsewhere(_)), Err(failure)) => Err(failure),
            (Err(failure), _) => Err(failure),
        };
    }
    outcome
}

/// Tells the others of a panic, which would leave them waiting.
struct Leaving(Arc<Group>);

impl Drop for Leaving {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.abort("it panicked");
        }
    }
}
