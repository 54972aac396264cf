//! Brings the ranks of a run together: threads of this process, or processes that a launcher has started.

use std::{fmt, process::ExitCode, sync::Arc, thread::Builder, time::Duration};

use super::{Failure, speak_as};
use crate::{
    checkpoint::{CheckpointInfo, Start},
    config::Transport,
    device,
    device_choice::DeviceChoice,
    parallel::{CollectiveError, Group, Launch, Nccl, NcclLibrary, Tcp, Threads, nccl_version},
};

/// How tensors travel between ranks.
#[derive(Clone)]
pub(super) enum Way {
    /// Through host memory.
    Host,
    /// From GPU to GPU.
    Nccl(Arc<NcclLibrary>),
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("through host memory"),
            Self::Nccl(library) => match library.version() {
                Ok(version) => write!(f, "NCCL {}", nccl_version(version)),
                Err(_) => f.write_str("NCCL"),
            },
        }
    }
}

impl Way {
    /// What `transport` comes to for so many ranks. A library that is not there is told before anything else is done.
    pub(super) fn choose(transport: Transport, device: DeviceChoice, ranks: usize) -> Result<Self, Failure> {
        let is_cuda = matches!(device, DeviceChoice::Cuda { .. });
        match transport {
            Transport::Nccl if !is_cuda => Err(Failure::Input(format!(
                "parallel.transport: nccl is for CUDA devices, and the ranks compute on {device}\n  hint: leave it out"
            ))),
            Transport::Nccl | Transport::Auto if is_cuda && ranks > 1 => {
                let found = NcclLibrary::open();
                found.map(Self::Nccl).map_err(|reason| {
                    Failure::Input(format!(
                        "{reason}\n  hint: install libnccl2, or add the folder of libnccl.so.2 to LD_LIBRARY_PATH (brazier doctor \
                         looks for it); parallel.transport: host does without, slower"
                    ))
                })
            }
            Transport::Nccl | Transport::Auto => Ok(Self::Host),
            Transport::Host => {
                if ranks > 1 && matches!(device, DeviceChoice::Cuda { .. } | DeviceChoice::Wgpu) {
                    super::say("note: gradients travel through host memory");
                }
                Ok(Self::Host)
            }
        }
    }

    /// Lets the GPUs of the ranks reach each other; `own` is this rank's.
    fn join(&self, group: &mut Group, own: DeviceChoice) -> Result<(), Failure> {
        let Self::Nccl(library) = self else {
            return Ok(());
        };
        let (library, way) = (library.clone(), self.to_string());
        let (rank, size) = (group.world().rank, group.world().size);
        group.join_devices(move |host| {
            let stream = device::stream(own).map_err(|error| CollectiveError::Engine {
                rank,
                reason: error.to_string(),
            })?;
            Nccl::join(host, library, stream)
        })?;
        if rank == 0 {
            super::say(format_args!("{size} GPUs reach each other by {way}"));
        }
        Ok(())
    }
}

/// What the ranks of a run have to agree on.
pub(super) struct Terms {
    /// How long one waits for the others.
    pub(super) timeout: Duration,
    pub(super) way: Way,
    /// Lines that have to be the same on all.
    pub(super) settings: String,
}

/// The processes of a run; one by itself if no launcher has started several. `device` is that of the first rank of a host.
pub(super) fn join(launch: &Launch, terms: &Terms, device: DeviceChoice) -> Result<Group, Failure> {
    if launch.world.size == 1 {
        return Ok(Group::alone());
    }
    let mut group = engine(launch, terms.timeout)?;
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
    let mut settings = vec![("the version of brazier", env!("CARGO_PKG_VERSION").to_owned())];
    settings.extend(
        terms
            .settings
            .lines()
            .map(|line| ("the configuration", line.trim().to_owned())),
    );
    group.check_same(&settings)?;
    terms.way.join(&mut group, device.of_rank(launch.local_rank))?;
    Ok(group)
}

/// MPI where it is compiled in and may be there, TCP elsewhere.
fn engine(launch: &Launch, timeout: Duration) -> Result<Group, Failure> {
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
    terms: &Terms,
    device: DeviceChoice,
    run: impl Fn(Arc<Group>) -> Result<ExitCode, Failure> + Sync,
) -> Result<ExitCode, Failure> {
    let (run, timeout) = (&run, terms.timeout);
    let rank = |engine: Threads| {
        let mut group = Group::start(move || Ok(engine), timeout)?;
        let rank = group.world().rank;
        speak_as(rank);
        let joined = terms.way.join(&mut group, device.of_rank(rank));
        as_one_of(Arc::new(group), |group| joined.and_then(|()| run(group)))
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
