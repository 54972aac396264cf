//! `brazier slurm`

use std::{fmt, path::PathBuf, process::ExitCode};

use clap::Args;

use super::{ConfigArgs, Failure, check, print, say};
use crate::{
    checkpoint::Resume,
    cluster::slurm::{self, Cluster, Container, Job, SlurmError, TimeLimit, Warning},
    config::{DerivedNumbers, RunConfig},
    device_choice::DeviceChoice,
    parallel::World,
};

/// Nobody has as many GPUs.
const MAX_RANKS: usize = 1 << 20;
/// CPUs of a task besides those that open rows: for training, checkpoints and the log.
const OTHER_THREADS: usize = 2;

#[derive(Args)]
#[command(after_long_help = "\
The script asks for one task for each GPU and starts brazier in each by srun: no launcher, no port to choose. A while
before the time is over SLURM sends a signal; the ranks save, exit with code 75, the job goes back into the queue and
goes on from there. The configuration is resolved for all ranks first, so that what the cluster would refuse is refused
here. No device is opened.

Examples:
  brazier slurm --config run.yaml -N 4 --gpus-per-node 4 -t 12:00:00 --cluster \\
      gh200-slingshot > job.sh
  mkdir -p logs && sbatch job.sh

  brazier slurm --config run.yaml -N 1 --gpus-per-node 8 -t 1-0 --cpus-per-task 16 > job.sh

Clusters:
  plain             sets nothing
  gh200-slingshot   HPE Cray EX with GH200: NCCL over libfabric; 72 CPUs for each GPU
  a100-infiniband   A100 with InfiniBand between nodes")]
pub(super) struct SlurmArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Nodes of the job
    #[arg(long, short = 'N', value_name = "NUMBER")]
    nodes: usize,
    /// GPUs of each node; each gets a task
    #[arg(long, value_name = "NUMBER")]
    gpus_per_node: usize,
    /// Accepted if it equals --gpus-per-node, and not needed
    #[arg(long, value_name = "NUMBER")]
    ntasks_per_node: Option<usize>,
    /// CPUs of each task; by default what the cluster's nodes have for each GPU, or data.workers and two more
    #[arg(long, value_name = "NUMBER")]
    cpus_per_task: Option<usize>,
    /// Time limit as sbatch reads it: 12:00:00, 1-12 (days-hours), 90 (minutes)
    #[arg(long, short, value_name = "TIME")]
    time: TimeLimit,
    /// When to save and stop: USR1@SECONDS or TERM@SECONDS before the time limit
    #[arg(long, value_name = "SIGNAL@SECONDS", default_value = "USR1@300")]
    signal: Warning,
    /// How often the job may go back into the queue after it saved; 0 for never
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    max_requeues: u32,
    /// Queue
    #[arg(long, short, value_name = "NAME")]
    partition: Option<String>,
    /// Whose time is used
    #[arg(long, short = 'A', value_name = "NAME")]
    account: Option<String>,
    /// Reservation of nodes
    #[arg(long, value_name = "NAME")]
    reservation: Option<String>,
    /// Name of the job; by default the last part of the run directory
    #[arg(long, short = 'J', value_name = "NAME")]
    job_name: Option<String>,
    /// Memory of each node, for instance 480G; 0 for all of it
    #[arg(long, value_name = "SIZE")]
    mem: Option<String>,
    /// Folder of the logs. It must be there when the job starts, or SLURM ends the job without a word
    #[arg(long, value_name = "DIR", default_value = "logs")]
    logs: PathBuf,
    /// plain, gh200-slingshot or a100-infiniband: what NCCL is told about the network
    #[arg(long, value_name = "KIND", default_value = "plain")]
    cluster: Cluster,
    /// Run in this image, by the plugin pyxis (srun --container-image)
    #[arg(long, value_name = "IMAGE", conflicts_with = "environment")]
    container: Option<String>,
    /// Folders that the image sees, FROM:TO separated by commas
    #[arg(long, value_name = "LIST", requires = "container")]
    container_mounts: Option<String>,
    /// Run in the environment of this definition file (EDF, srun --environment)
    #[arg(long, value_name = "FILE")]
    environment: Option<String>,
    /// The ranks exchange by MPI: for a brazier with the feature mpi
    #[arg(long)]
    mpi: bool,
    /// The brazier that the tasks start: a name on their PATH, or a path that all nodes see
    #[arg(long, value_name = "FILE", default_value = "brazier")]
    program: String,
}

pub(super) fn slurm(args: &SlurmArgs) -> Result<ExitCode, Failure> {
    // A world of no ranks, or of more than there are, cannot be resolved: that is said below.
    let size = args.nodes.saturating_mul(args.gpus_per_node).clamp(1, MAX_RANKS);
    let run = args.config.resolve_for(World { rank: 0, size })?;
    let job = job(args, &run, check::plan(&run)?.numbers);
    let errors: Vec<String> = job
        .errors()
        .iter()
        .map(SlurmError::to_string)
        .chain(contradictions(&job, &run))
        .collect();
    if !errors.is_empty() {
        return Err(Failure::Input(errors.join("\n")));
    }
    let script = slurm::script(&job).map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
    print(script.trim_end());
    say(format_args!(
        "next: mkdir -p {} && sbatch the script, from the folder in which paths of the configuration begin",
        job.logs.display()
    ));
    Ok(ExitCode::SUCCESS)
}

fn job(args: &SlurmArgs, run: &RunConfig, numbers: DerivedNumbers) -> Job {
    let container = match (&args.container, &args.environment) {
        (Some(image), _) => Container::Image {
            image: image.clone(),
            mounts: args.container_mounts.clone(),
        },
        (None, Some(file)) => Container::Environment(file.clone()),
        (None, None) => Container::None,
    };
    let last = run
        .output
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    let cpus = args
        .cpus_per_task
        .or_else(|| args.cluster.cpus_per_gpu())
        .unwrap_or(run.data.workers + OTHER_THREADS);
    Job {
        name: args.job_name.clone().or(last).unwrap_or_else(|| "brazier".into()),
        nodes: args.nodes,
        gpus_per_node: args.gpus_per_node,
        tasks_per_node: args.ntasks_per_node,
        cpus_per_task: cpus,
        time: args.time.clone(),
        signal: args.signal,
        max_requeues: args.max_requeues,
        partition: args.partition.clone(),
        account: args.account.clone(),
        reservation: args.reservation.clone(),
        mem: args.mem.clone(),
        logs: args.logs.clone(),
        container,
        mpi: args.mpi,
        cluster: args.cluster,
        command: command(args, run),
        notes: notes(args, run, numbers),
    }
}

/// What each task starts.
fn command(args: &SlurmArgs, run: &RunConfig) -> Vec<String> {
    let mut words = vec![args.program.clone(), "train".to_owned()];
    let mut option = |name: &str, value: &dyn fmt::Display| {
        words.extend([name.to_owned(), value.to_string()]);
    };
    if let Some(config) = &args.config.config {
        option("--config", &config.display());
    }
    for set in &args.config.sets {
        option("--set", set);
    }
    for key in &args.config.leave_out {
        option("--leave-out", key);
    }
    // `auto` takes the CPU where it finds no GPU, and nobody looks at a job's first lines.
    if run.device == DeviceChoice::Auto {
        option("--device", &"cuda");
    }
    // A path counts only for the first start; after it the run has checkpoints of its own.
    if run.checkpoint.resume == Resume::Auto {
        option("--resume", &"auto");
    }
    words
}

/// Comments at the head of the script: how it was made, and what follows from the configuration.
fn notes(args: &SlurmArgs, run: &RunConfig, numbers: DerivedNumbers) -> Vec<String> {
    let (nodes, gpus) = (args.nodes, args.gpus_per_node);
    let words: Vec<String> = std::env::args()
        .skip(1)
        .map(|word| slurm::quoted(&word))
        .collect();
    let mut notes = vec![
        "Printed by".to_owned(),
        format!("    brazier {}", words.join(" ")),
        String::new(),
        format!("output            {}", run.output.display()),
        format!("ranks             {} = {nodes} nodes x {gpus} GPUs", nodes * gpus),
    ];
    notes.extend(numbers.to_string().lines().map(str::to_owned));
    notes.extend([
        format!(
            "signal            {} s before the end of {}",
            args.signal.seconds, args.time
        ),
        String::new(),
        "All nodes must see the same output, data and model; `brazier doctor` looks at a node.".into(),
        format!("Before the first sbatch: mkdir -p {}", args.logs.display()),
    ]);
    notes
}

/// What in the configuration does not go with a job of many GPUs.
fn contradictions(job: &Job, run: &RunConfig) -> Vec<String> {
    let mut found = Vec::new();
    match run.device {
        DeviceChoice::Auto | DeviceChoice::Cuda { index: 0 } => {}
        DeviceChoice::Cuda { index } => found.push(format!(
            "device = cuda:{index}: all {} tasks of a node would take the same GPU\n  hint: write device: cuda; every rank \
             takes the GPU of its number",
            job.gpus_per_node
        )),
        DeviceChoice::Wgpu | DeviceChoice::Flex | DeviceChoice::Ndarray => found.push(format!(
            "device = {}: the {} GPUs of --gpus-per-node would do nothing\n  hint: write device: cuda",
            run.device, job.gpus_per_node
        )),
    }
    if run.checkpoint.resume == Resume::None && job.max_requeues > 0 {
        found.push(
            "checkpoint.resume = none: a requeued job would be refused, since the run has checkpoints then\n  hint: write \
             auto, or --max-requeues 0"
                .into(),
        );
    }
    found
}
