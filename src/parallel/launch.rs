//! Which process this is, read from what launchers leave in the environment: torchrun, SLURM's srun, mpirun.
//!
//! A pure function of the variables. Whatever contradicts itself is refused with the numbers seen: a rank that believes it
//! is alone overwrites the files of the others.

use thiserror::Error;

use super::{NodeListError, World, node_list};

/// Ports that jobs of SLURM get, by their number: several jobs may share a node.
const PORTS: std::ops::Range<u64> = 30_000..50_000;

/// Who started the processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Launcher {
    /// A person: one process.
    Nobody,
    /// `torchrun`, or whoever sets its variables.
    Torchrun,
    /// `srun`.
    Slurm,
    /// `mpirun` of Open MPI.
    OpenMpi,
}

impl Launcher {
    /// Its command.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Torchrun => "torchrun",
            Self::Slurm => "srun",
            Self::OpenMpi => "mpirun",
        }
    }
}

/// How this process was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// By whom.
    pub launcher: Launcher,
    /// Its place among all.
    pub world: World,
    /// Its place on its host, from 0: the device it takes.
    pub local_rank: usize,
    /// Host and port at which the processes meet; `None` if there is only one, or only the launcher knows.
    pub meet: Option<(String, u16)>,
}

/// Variables that contradict each other.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LaunchError {
    /// One is not set.
    #[error(
        "{set} is set and {missing} is not\n  hint: {launcher} sets both; unset {set} to run one process by itself"
    )]
    Missing {
        /// What is there.
        set: &'static str,
        /// What is not.
        missing: &'static str,
        /// Who should have set it.
        launcher: &'static str,
    },
    /// One is not a number, or not one that can be.
    #[error("{name} = {value:?}: expected {expected}")]
    Value {
        /// The variable.
        name: &'static str,
        /// What it says.
        value: String,
        /// What it should say.
        expected: String,
    },
    /// The job has several tasks, and this process is none of them.
    #[error(
        "the job has {tasks} tasks (SLURM_NTASKS), and this process was not started by srun: it would train alone\n  hint: \
         start it with srun, or ask for --ntasks=1"
    )]
    OutsideStep {
        /// Tasks of the job.
        tasks: usize,
    },
    /// More processes than devices on a host.
    #[error(
        "SLURM_LOCALID = {local_rank} on a host with SLURM_GPUS_ON_NODE = {gpus}: two processes would share a GPU\n  hint: \
         ask for as many --ntasks-per-node as GPUs"
    )]
    SharedGpu {
        /// This process on its host.
        local_rank: usize,
        /// GPUs there.
        gpus: usize,
    },
    /// The list of nodes.
    #[error(transparent)]
    Nodes(#[from] NodeListError),
}

impl Launch {
    /// Reads the environment through `var`, which gives `None` for what is not set.
    ///
    /// torchrun's variables come first, since torchrun may itself run under srun; then srun's, then mpirun's.
    ///
    /// # Errors
    /// If variables are missing, are no numbers, or contradict each other.
    pub fn from_env(var: &dyn Fn(&str) -> Option<String>) -> Result<Self, LaunchError> {
        let env = Env { var };
        let found = match env.torchrun()? {
            Some(launch) => Some(launch),
            None => env.slurm()?,
        };
        match found {
            Some(launch) => Ok(launch),
            None => Ok(env.open_mpi()?.unwrap_or(Self {
                launcher: Launcher::Nobody,
                world: World::ALONE,
                local_rank: 0,
                meet: None,
            })),
        }
    }
}

/// The environment.
struct Env<'a> {
    var: &'a dyn Fn(&str) -> Option<String>,
}

impl Env<'_> {
    fn text(&self, name: &'static str) -> Option<String> {
        (self.var)(name).filter(|value| !value.is_empty())
    }

    fn number(&self, name: &'static str) -> Result<Option<u64>, LaunchError> {
        let Some(value) = self.text(name) else {
            return Ok(None);
        };
        match value.parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(LaunchError::Value {
                name,
                value,
                expected: "a whole number".into(),
            }),
        }
    }

    fn size(&self, name: &'static str) -> Result<Option<usize>, LaunchError> {
        Ok(self.number(name)?.and_then(|number| usize::try_from(number).ok()))
    }

    /// Rank, size and local rank by their variables; `None` without a rank.
    fn places(
        &self,
        launcher: Launcher,
        [rank_name, size_name, local_name]: [&'static str; 3],
    ) -> Result<Option<Launch>, LaunchError> {
        let missing = |set, missing| LaunchError::Missing {
            set,
            missing,
            launcher: launcher.name(),
        };
        let (rank, size) = (self.size(rank_name)?, self.size(size_name)?);
        let (rank, size) = match (rank, size) {
            (None, None) => return Ok(None),
            (Some(rank), Some(size)) => (rank, size),
            (Some(_), None) => return Err(missing(rank_name, size_name)),
            (None, Some(_)) => return Err(missing(size_name, rank_name)),
        };
        let local_rank = match self.size(local_name)? {
            Some(local_rank) => local_rank,
            None if size == 1 => 0,
            None => return Err(missing(rank_name, local_name)),
        };
        for (name, value) in [(rank_name, rank), (local_name, local_rank)] {
            if value >= size {
                return Err(LaunchError::Value {
                    name,
                    value: value.to_string(),
                    expected: format!("a number below {size_name} = {size}"),
                });
            }
        }
        Ok(Some(Launch {
            launcher,
            world: World { rank, size },
            local_rank,
            meet: None,
        }))
    }

    fn master_port(&self) -> Result<Option<u16>, LaunchError> {
        let name = "MASTER_PORT";
        let Some(number) = self.number(name)? else {
            return Ok(None);
        };
        match u16::try_from(number) {
            Ok(port) if port > 0 => Ok(Some(port)),
            _ => Err(LaunchError::Value {
                name,
                value: number.to_string(),
                expected: "a port, from 1 to 65535".into(),
            }),
        }
    }

    fn torchrun(&self) -> Result<Option<Launch>, LaunchError> {
        let launcher = Launcher::Torchrun;
        let Some(mut launch) = self.places(launcher, ["RANK", "WORLD_SIZE", "LOCAL_RANK"])? else {
            return Ok(None);
        };
        // torchrun itself waits at the port that it tells its processes.
        let is_taken = self.text("TORCHELASTIC_USE_AGENT_STORE").as_deref() == Some("True");
        let free = |port: u16| match is_taken {
            true => port.checked_add(1).unwrap_or(port - 1),
            false => port,
        };
        launch.meet = match (self.text("MASTER_ADDR"), self.master_port()?.map(free)) {
            (Some(host), Some(port)) => Some((host, port)),
            _ if launch.world.size == 1 => None,
            (host, _) => {
                return Err(LaunchError::Missing {
                    set: "WORLD_SIZE",
                    missing: if host.is_none() {
                        "MASTER_ADDR"
                    } else {
                        "MASTER_PORT"
                    },
                    launcher: launcher.name(),
                });
            }
        };
        Ok(Some(launch))
    }

    fn slurm(&self) -> Result<Option<Launch>, LaunchError> {
        let names = ["SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"];
        let is_step = self.text("SLURM_STEP_ID").or_else(|| self.text("SLURM_STEPID"));
        if is_step.is_none() {
            // A batch script, or a shell of salloc: its variables are those of the job.
            let tasks = self.size("SLURM_NTASKS")?.unwrap_or(1);
            return match self.text("SLURM_PROCID") {
                Some(_) if tasks > 1 => Err(LaunchError::OutsideStep { tasks }),
                _ => Ok(None),
            };
        }
        let Some(mut launch) = self.places(Launcher::Slurm, names)? else {
            return Ok(None);
        };
        let local_rank = launch.local_rank;
        if let Some(gpus) = self.size("SLURM_GPUS_ON_NODE")?.filter(|&gpus| gpus > 0)
            && local_rank >= gpus
        {
            return Err(LaunchError::SharedGpu { local_rank, gpus });
        }
        if launch.world.size > 1 {
            launch.meet = Some((self.slurm_host()?, self.slurm_port()?));
        }
        Ok(Some(launch))
    }

    fn slurm_host(&self) -> Result<String, LaunchError> {
        if let Some(host) = self.text("MASTER_ADDR") {
            return Ok(host);
        }
        let list = self
            .text("SLURM_STEP_NODELIST")
            .or_else(|| self.text("SLURM_JOB_NODELIST"));
        let Some(list) = list else {
            return Err(LaunchError::Missing {
                set: "SLURM_PROCID",
                missing: "SLURM_STEP_NODELIST",
                launcher: Launcher::Slurm.name(),
            });
        };
        Ok(node_list(&list)?.swap_remove(0))
    }

    fn slurm_port(&self) -> Result<u16, LaunchError> {
        if let Some(port) = self.master_port()? {
            return Ok(port);
        }
        let job = self.number("SLURM_JOB_ID")?.unwrap_or(0);
        Ok((PORTS.start + job % (PORTS.end - PORTS.start)) as u16)
    }

    fn open_mpi(&self) -> Result<Option<Launch>, LaunchError> {
        let names = [
            "OMPI_COMM_WORLD_RANK",
            "OMPI_COMM_WORLD_SIZE",
            "OMPI_COMM_WORLD_LOCAL_RANK",
        ];
        let Some(mut launch) = self.places(Launcher::OpenMpi, names)? else {
            return Ok(None);
        };
        launch.meet = self.text("MASTER_ADDR").zip(self.master_port()?);
        Ok(Some(launch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(variables: &str) -> Result<Launch, String> {
        let find = |name: &str| {
            let mut pairs = variables
                .split_whitespace()
                .filter_map(|pair| pair.split_once('='));
            pairs
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.to_owned())
        };
        Launch::from_env(&find).map_err(|error| error.to_string())
    }

    fn expected(
        launcher: Launcher,
        [rank, size, local_rank]: [usize; 3],
        meet: Option<(&str, u16)>,
    ) -> Launch {
        Launch {
            launcher,
            world: World { rank, size },
            local_rank,
            meet: meet.map(|(host, port)| (host.to_owned(), port)),
        }
    }

    #[test]
    fn launchers_are_told_apart() {
        use Launcher::{Nobody, OpenMpi, Slurm, Torchrun};
        let slurm = "SLURM_PROCID=5 SLURM_NTASKS=16 SLURM_LOCALID=1 SLURM_STEP_ID=0 SLURM_JOB_ID=1234567";
        for (variables, launch) in [
            ("", expected(Nobody, [0, 1, 0], None)),
            ("RANK=0 WORLD_SIZE=1", expected(Torchrun, [0, 1, 0], None)),
            (
                "RANK=6 WORLD_SIZE=8 LOCAL_RANK=2 MASTER_ADDR=n1 MASTER_PORT=6200",
                expected(Torchrun, [6, 8, 2], Some(("n1", 6200))),
            ),
            (
                "RANK=1 WORLD_SIZE=2 LOCAL_RANK=1 MASTER_ADDR=n1 MASTER_PORT=6200 TORCHELASTIC_USE_AGENT_STORE=True",
                expected(Torchrun, [1, 2, 1], Some(("n1", 6201))),
            ),
            (
                // torchrun, one task a node, under srun.
                "RANK=6 WORLD_SIZE=8 LOCAL_RANK=2 MASTER_ADDR=n1 MASTER_PORT=6200 SLURM_PROCID=1 SLURM_NTASKS=2 SLURM_LOCALID=0 SLURM_STEP_ID=0",
                expected(Torchrun, [6, 8, 2], Some(("n1", 6200))),
            ),
            (
                &format!("{slurm} SLURM_STEP_NODELIST=nid[004-007] SLURM_GPUS_ON_NODE=4"),
                expected(Slurm, [5, 16, 1], Some(("nid004", 44_567))),
            ),
            (
                &format!("{slurm} MASTER_ADDR=n9 MASTER_PORT=6300"),
                expected(Slurm, [5, 16, 1], Some(("n9", 6300))),
            ),
            (
                // A shell of salloc, and a batch script with one task.
                "SLURM_JOB_ID=7 SLURM_NTASKS=4",
                expected(Nobody, [0, 1, 0], None),
            ),
            (
                "SLURM_JOB_ID=7 SLURM_NTASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0",
                expected(Nobody, [0, 1, 0], None),
            ),
            (
                "OMPI_COMM_WORLD_RANK=3 OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_LOCAL_RANK=3",
                expected(OpenMpi, [3, 4, 3], None),
            ),
        ] {
            assert_eq!(started(variables), Ok(launch), "{variables}");
        }
    }

    #[test]
    fn contradictions_are_refused_with_their_numbers() {
        for (variables, message) in [
            ("RANK=1", "RANK is set and WORLD_SIZE is not"),
            ("WORLD_SIZE=4", "WORLD_SIZE is set and RANK is not"),
            ("RANK=1 WORLD_SIZE=4", "RANK is set and LOCAL_RANK is not"),
            (
                "RANK=1 WORLD_SIZE=4 LOCAL_RANK=1",
                "WORLD_SIZE is set and MASTER_ADDR is not",
            ),
            (
                "RANK=1 WORLD_SIZE=4 LOCAL_RANK=1 MASTER_ADDR=a",
                "WORLD_SIZE is set and MASTER_PORT is not",
            ),
            (
                "RANK=1 WORLD_SIZE=4 LOCAL_RANK=1 MASTER_ADDR=a MASTER_PORT=70000",
                "MASTER_PORT = \"70000\": expected a port",
            ),
            (
                "RANK=4 WORLD_SIZE=4 LOCAL_RANK=0",
                "RANK = \"4\": expected a number below WORLD_SIZE = 4",
            ),
            ("RANK=-1 WORLD_SIZE=4", "RANK = \"-1\": expected a whole number"),
            (
                "SLURM_PROCID=0 SLURM_NTASKS=16 SLURM_LOCALID=0",
                "the job has 16 tasks (SLURM_NTASKS), and this process was not started by srun",
            ),
            (
                "SLURM_PROCID=5 SLURM_NTASKS=8 SLURM_LOCALID=5 SLURM_STEP_ID=0 SLURM_GPUS_ON_NODE=4",
                "SLURM_LOCALID = 5 on a host with SLURM_GPUS_ON_NODE = 4",
            ),
            (
                "SLURM_PROCID=5 SLURM_NTASKS=8 SLURM_LOCALID=1 SLURM_STEP_ID=0",
                "SLURM_PROCID is set and SLURM_STEP_NODELIST is not",
            ),
            (
                "SLURM_PROCID=5 SLURM_NTASKS=8 SLURM_LOCALID=1 SLURM_STEP_ID=0 SLURM_STEP_NODELIST=a[",
                "the list of nodes \"a[\" cannot be read",
            ),
        ] {
            let error = started(variables).unwrap_err();
            assert!(error.starts_with(message), "{variables}: {error}");
        }
    }
}
