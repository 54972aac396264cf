//! The command line: arguments, exit codes, wiring. The only room that knows all others.

mod bench;
mod check;
mod conclude;
mod convert;
mod data;
mod doctor;
mod generate;
mod model;
mod ranks;
mod report;
mod rows;
mod session;
mod slurm;
mod train;

use std::{
    cell::Cell,
    fmt,
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};

use crate::config::{self, ConfigError, Reading, Request, RunConfig};
use crate::parallel::World;

/// A run was stopped on request and left a checkpoint: the exit code by which schedulers know to requeue.
const STOPPED: u8 = 75;
/// The configuration or the data is wrong.
const BAD_INPUT: u8 = 2;

/// The configuration that `train` takes when none is named.
const DEMO: &str = include_str!("../../configs/demo.yaml");
const DEMO_NAME: &str = "configs/demo.yaml";

/// Trains vision-language and language models.
#[derive(Parser)]
#[command(
    version,
    about,
    max_term_width = 110,
    after_help = "\
Exit codes: 0 finished, 1 failed, 2 wrong configuration or data, 75 stopped on request with a checkpoint saved.

Start here:
  brazier train                                 the demo: a small VLM learns from nothing in minutes
  brazier train --config run.yaml               your run; goes on by itself if it was stopped
  brazier check --config run.yaml               what it would do, and how much memory it needs"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train a model; goes on from the run's own checkpoint if there is one
    Train(train::TrainArgs),
    /// Resolve a configuration and print derived numbers and a memory estimate; opens no device
    Check(check::CheckArgs),
    /// Print the native YAML of another trainer's configuration, and what became of each of its keys
    ConvertConfig(convert::ConvertArgs),
    /// Make and look at data sets
    #[command(subcommand)]
    Data(data::DataCommand),
    /// Look at models and turn checkpoints into Hugging Face folders
    #[command(subcommand)]
    Model(model::ModelCommand),
    /// Answer a prompt, with images, by a trained model
    Generate(generate::GenerateArgs),
    /// Write report.html for a run directory: curves, throughput, answers
    Report(report::ReportArgs),
    /// Print an sbatch script that trains on a cluster's GPUs and goes on after each time limit
    Slurm(Box<slurm::SlurmArgs>),
    /// Say what this machine has of what training needs, and what to do about the rest
    Doctor(doctor::DoctorArgs),
    /// Compare every operation with its definition on a device, and time the layers of a model
    Bench(bench::BenchArgs),
}

#[derive(Args)]
struct ConfigArgs {
    /// YAML file of the run, native or of MultiMeditron, axolotl or Hugging Face; without it the demo's
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Override one key, for instance --set train.optimizer.lr=2e-5; may be repeated
    #[arg(long = "set", value_name = "PATH=VALUE")]
    sets: Vec<String>,
    /// Go on without this key of another trainer's file, for instance wandb_project; may be repeated
    #[arg(long, value_name = "KEY")]
    leave_out: Vec<String>,
}

impl ConfigArgs {
    fn resolve(&self) -> Result<RunConfig, Failure> {
        self.resolve_for(World::ALONE)
    }

    /// As one of the processes of a run sees it.
    fn resolve_for(&self, world: World) -> Result<RunConfig, Failure> {
        let env = |name: &str| std::env::var(name).ok();
        let request = Request {
            sets: &self.sets,
            leave_out: &self.leave_out,
            dialect: None,
        };
        let Reading { report, result } = match &self.config {
            Some(path) => config::read(path, request, &env),
            None => config::read_text(DEMO_NAME, DEMO, request, &env),
        };
        if let Some(report) = report {
            say(format_args!("{report}\n"));
        }
        Ok(config::resolve(&result?, world)?)
    }

    /// How to name this configuration in a command line.
    fn as_arguments(&self) -> String {
        self.config
            .as_ref()
            .map_or(String::new(), |path| format!(" --config {}", path.display()))
    }
}

/// Why a command did not succeed, and with which code it exits.
enum Failure {
    /// Exit code 2: the user can mend it.
    Input(String),
    /// Exit code 1.
    Failed(anyhow::Error),
    /// Exit code 1: another rank has failed.
    Elsewhere(anyhow::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input(message) => f.write_str(message),
            Self::Failed(error) | Self::Elsewhere(error) => write!(f, "{error}"),
        }
    }
}

impl From<crate::parallel::CollectiveError> for Failure {
    fn from(error: crate::parallel::CollectiveError) -> Self {
        use crate::parallel::CollectiveError as E;
        match error {
            E::Settings { .. } => Self::Input(error.to_string()),
            E::Peer { .. } => Self::Elsewhere(error.into()),
            E::TimedOut { .. } | E::Disagree { .. } | E::Meeting { .. } | E::Engine { .. } => {
                Self::Failed(error.into())
            }
        }
    }
}

impl From<crate::parallel::LaunchError> for Failure {
    fn from(error: crate::parallel::LaunchError) -> Self {
        Failure::Input(error.to_string())
    }
}

impl From<Vec<ConfigError>> for Failure {
    fn from(errors: Vec<ConfigError>) -> Self {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        Failure::Input(lines.join("\n"))
    }
}

impl From<crate::data::DataError> for Failure {
    fn from(error: crate::data::DataError) -> Self {
        use crate::data::DataError as E;
        match error {
            E::Spawn { .. } | E::Panicked { .. } | E::WorkersGone { .. } => Failure::Failed(error.into()),
            _ => Failure::Input(error.to_string()),
        }
    }
}

impl From<crate::data::EncodeError> for Failure {
    fn from(error: crate::data::EncodeError) -> Self {
        Failure::Input(error.to_string())
    }
}

impl From<crate::device::DeviceError> for Failure {
    fn from(error: crate::device::DeviceError) -> Self {
        Failure::Input(error.to_string())
    }
}

impl From<crate::hub::HubError> for Failure {
    fn from(error: crate::hub::HubError) -> Self {
        Failure::Input(error.to_string())
    }
}

impl From<brazier_models::ModelConfigError> for Failure {
    fn from(error: brazier_models::ModelConfigError) -> Self {
        Failure::Input(error.to_string())
    }
}

impl From<brazier_models::InputError> for Failure {
    fn from(error: brazier_models::InputError) -> Self {
        Failure::Input(error.to_string())
    }
}

impl From<crate::learner::LearnerError> for Failure {
    fn from(error: crate::learner::LearnerError) -> Self {
        use crate::learner::LearnerError as E;
        match error {
            E::NothingToTrain { .. } | E::Input { .. } | E::NoLabelledToken { .. } | E::Shards(_) => {
                Failure::Input(error.to_string())
            }
            E::Data(error) => error.into(),
            E::Checkpoint(error) => error.into(),
            E::Ranks(error) => error.into(),
            E::Device(error) => error.into(),
            E::NotFinite { .. } | E::Track(_) => Failure::Failed(error.into()),
        }
    }
}

impl From<crate::checkpoint::CheckpointError> for Failure {
    fn from(error: crate::checkpoint::CheckpointError) -> Self {
        if error.is_users() {
            Failure::Input(error.to_string())
        } else {
            Failure::Failed(error.into())
        }
    }
}

impl From<crate::track::TrackError> for Failure {
    fn from(error: crate::track::TrackError) -> Self {
        Failure::Failed(error.into())
    }
}

impl From<crate::fs::FsError> for Failure {
    fn from(error: crate::fs::FsError) -> Self {
        Failure::Failed(error.into())
    }
}

impl From<crate::data::synth::SynthError> for Failure {
    fn from(error: crate::data::synth::SynthError) -> Self {
        use crate::data::synth::SynthError as E;
        match error {
            E::Option { .. } | E::NotOurs { .. } => Failure::Input(error.to_string()),
            E::Fs(_) | E::Image(_) | E::Json(_) | E::Tokenizer(_) => Failure::Failed(error.into()),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Failure::Failed(error)
    }
}

/// Parses the command line and runs it.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Train(args) => train::train(&args),
        Command::Check(args) => check::check(&args),
        Command::ConvertConfig(args) => convert::convert(&args),
        Command::Data(command) => data::data(&command),
        Command::Model(command) => model::model(&command),
        Command::Generate(args) => generate::generate(&args),
        Command::Report(args) => report::report(&args),
        Command::Slurm(args) => slurm::slurm(&args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Bench(args) => bench::bench(&args),
    };
    match result {
        Ok(code) => code,
        Err(failure) => {
            let rank = match RANK.get() {
                0 => String::new(),
                rank => format!("rank {rank}: "),
            };
            // In one piece, since the ranks of a job share where it goes.
            let message = format!("error: {rank}{failure}\n");
            let _ = std::io::stderr().write_all(message.as_bytes());
            match failure {
                Failure::Input(_) => ExitCode::from(BAD_INPUT),
                Failure::Failed(_) | Failure::Elsewhere(_) => ExitCode::FAILURE,
            }
        }
    }
}

thread_local! {
    /// The rank that this thread is.
    static RANK: Cell<usize> = const { Cell::new(0) };
}

/// From now on this thread speaks as one rank of several; only the first one is heard, but for errors.
fn speak_as(rank: usize) {
    RANK.set(rank);
}

/// A line for the person in front of it. A closed pipe is no reason to stop.
fn say(text: impl fmt::Display) {
    if RANK.get() == 0 {
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}

/// A line of the command's result.
fn print(text: impl fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// A path as one would type it here: relative where that is possible.
fn show(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    match path.strip_prefix(here) {
        Ok(relative) if relative.as_os_str().is_empty() => ".".to_owned(),
        relative => relative.unwrap_or(path).display().to_string(),
    }
}
