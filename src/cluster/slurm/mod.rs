//! An sbatch script for a run: one task for each GPU, a signal before the time is over, and back into the queue after it.
//!
//! References: `man sbatch`, `man srun`, `man scontrol` (<https://slurm.schedmd.com/man_index.html>).

mod fabric;
mod script;
#[cfg(test)]
mod tests;
mod time;

use std::path::PathBuf;

use thiserror::Error;

pub use fabric::{Cluster, Variable};
pub use script::{quoted, script};
pub use time::{TimeLimit, Warning};

/// More than the largest clusters have: a typing error.
const MAX_NODES: usize = 1 << 16;
const MAX_GPUS: usize = 64;
const MAX_CPUS: usize = 4096;

/// A job: what to ask of SLURM, and what to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Name of the job and of its log.
    pub name: String,
    /// Nodes.
    pub nodes: usize,
    /// GPUs of a node.
    pub gpus_per_node: usize,
    /// Tasks of a node, if the user insists: as many as GPUs.
    pub tasks_per_node: Option<usize>,
    /// CPUs of a task.
    pub cpus_per_task: usize,
    /// Time limit.
    pub time: TimeLimit,
    /// Signal before its end.
    pub signal: Warning,
    /// How often the job goes back into the queue; 0 for never.
    pub max_requeues: u32,
    /// Queue.
    pub partition: Option<String>,
    /// Whose time is used.
    pub account: Option<String>,
    /// Reservation of nodes.
    pub reservation: Option<String>,
    /// Memory of a node.
    pub mem: Option<String>,
    /// Folder of the logs.
    pub logs: PathBuf,
    /// What the tasks run in.
    pub container: Container,
    /// What NCCL is told.
    pub cluster: Cluster,
    /// Whether the ranks exchange by MPI, rather than by TCP.
    pub mpi: bool,
    /// Program and arguments of each task.
    pub command: Vec<String>,
    /// Lines for the head of the script: where it is from, what it is going to do.
    pub notes: Vec<String>,
}

/// What the tasks of a job run in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Container {
    /// The node as it is.
    None,
    /// An image, by the plugin pyxis (<https://github.com/NVIDIA/pyxis>).
    Image {
        /// File or name of the image.
        image: String,
        /// `FROM:TO` pairs separated by commas.
        mounts: Option<String>,
    },
    /// An environment definition file (<https://docs.cscs.ch/software/container-engine/edf/>): a name or a path.
    Environment(String),
}

/// A job that SLURM or brazier would refuse, or that would not do what it says.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SlurmError {
    /// A number that is 0, or more than any cluster has.
    #[error("--{flag} {number}: expected 1 to {most}")]
    Number {
        /// The flag.
        flag: &'static str,
        /// Its value.
        number: usize,
        /// The largest that makes sense.
        most: usize,
    },
    /// Too many or too few tasks.
    #[error(
        "--ntasks-per-node {tasks} with --gpus-per-node {gpus}: every GPU needs a task of its own\n  hint: leave \
         --ntasks-per-node out; torchrun's scripts start one task a node, brazier starts no processes itself"
    )]
    Tasks {
        /// Tasks of a node.
        tasks: usize,
        /// GPUs of a node.
        gpus: usize,
    },
    /// No duration.
    #[error(
        "--time {text}: expected minutes, hours:minutes:seconds or days-hours:minutes:seconds, for instance 12:00:00"
    )]
    Time {
        /// What was written.
        text: String,
    },
    /// No signal that a run listens to.
    #[error(
        "--signal {text}: expected USR1@SECONDS or TERM@SECONDS, for instance USR1@300\n  hint: at these signals a run saves \
         and exits with code 75; SLURM sends them to its tasks"
    )]
    Signal {
        /// What was written.
        text: String,
    },
    /// The job would be stopped as soon as it begins.
    #[error(
        "--signal {seconds} s before the end of --time {time}, which is {limit} s long: nothing is left to train in\n  \
         hint: raise --time"
    )]
    NoTimeLeft {
        /// Seconds before the end.
        seconds: u64,
        /// The limit as written.
        time: String,
        /// The limit in seconds.
        limit: u64,
    },
    /// A preset that does not exist.
    #[error("--cluster {name}: expected plain, gh200-slingshot or a100-infiniband")]
    Cluster {
        /// The name.
        name: String,
    },
    /// sbatch takes its header literally.
    #[error(
        "--{flag} {value:?}: {reason}\n  hint: sbatch reads its header before any shell does; write the value out"
    )]
    Header {
        /// The flag.
        flag: &'static str,
        /// Its value.
        value: String,
        /// What is wrong.
        reason: &'static str,
    },
}

impl Job {
    /// Everything that is wrong with it.
    pub fn errors(&self) -> Vec<SlurmError> {
        let Self {
            nodes,
            gpus_per_node: gpus,
            cpus_per_task,
            ..
        } = *self;
        let numbers = [
            ("nodes", nodes, MAX_NODES),
            ("gpus-per-node", gpus, MAX_GPUS),
            ("cpus-per-task", cpus_per_task, MAX_CPUS),
        ];
        let mut errors: Vec<_> = numbers
            .into_iter()
            .filter(|(_, number, most)| !(1..=*most).contains(number))
            .map(|(flag, number, most)| SlurmError::Number { flag, number, most })
            .collect();
        if let Some(tasks) = self.tasks_per_node.filter(|&tasks| tasks != gpus) {
            errors.push(SlurmError::Tasks { tasks, gpus });
        }
        let (seconds, limit) = (self.signal.seconds, self.time.seconds);
        if seconds >= limit {
            errors.push(SlurmError::NoTimeLeft {
                seconds,
                time: self.time.to_string(),
                limit,
            });
        }
        errors.extend(
            self.header_values()
                .into_iter()
                .filter_map(|(flag, value)| header_error(flag, value)),
        );
        errors
    }

    /// Texts of the user that go into the header.
    fn header_values(&self) -> Vec<(&'static str, String)> {
        let logs = Some(self.logs.display().to_string());
        let values = [
            ("job-name", Some(self.name.clone())),
            ("partition", self.partition.clone()),
            ("account", self.account.clone()),
            ("reservation", self.reservation.clone()),
            ("mem", self.mem.clone()),
            ("logs", logs),
        ];
        values
            .into_iter()
            .filter_map(|(flag, value)| Some((flag, value?)))
            .collect()
    }
}

/// Neither the shell nor sbatch expands anything in a header, and a blank ends a value.
fn header_error(flag: &'static str, value: String) -> Option<SlurmError> {
    let reason = if value.is_empty() {
        "nothing is written"
    } else if value.starts_with('~') || value.contains('$') {
        "~ and variables are not expanded there"
    } else if value.contains(|character: char| character.is_whitespace() || "\"'\\#".contains(character)) {
        "blanks, quotes, # and \\ cannot be written there"
    } else if value.starts_with('-') {
        "it would be taken for another option"
    } else if flag == "job-name" && value.contains('/') {
        "the name is part of the log's, and / would be a folder"
    } else {
        return None;
    };
    Some(SlurmError::Header { flag, value, reason })
}
