//! `brazier doctor`

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use serde_json::json;

use super::{ConfigArgs, Failure, print};
use crate::{
    cluster::doctor::{self, Asked, Build, Machine, Report},
    data::Cache,
    device,
    device_choice::{DeviceChoice, UnknownDevice},
};

#[derive(Args)]
#[command(after_help = "\
What is asked for by --config, --device or --devices and is not there is MISSING, and the exit code 1; the rest is only
told. On a cluster, look at a node as a task of the job sees it:
  srun --nodes=1 --ntasks=1 --gpus-per-node=4 brazier doctor --config run.yaml --devices 4")]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The device that training is to use: auto | cuda[:INDEX] | wgpu | flex | ndarray; overrides the configuration's
    #[arg(long)]
    device: Option<String>,
    /// Ranks that are to run on this host, each on a GPU of its own
    #[arg(long, value_name = "NUMBER")]
    devices: Option<usize>,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

pub(super) fn doctor(args: &DoctorArgs) -> Result<ExitCode, Failure> {
    let build = Build {
        backends: device::compiled().iter().map(ToString::to_string).collect(),
        has_mpi: HAS_MPI,
    };
    let report = doctor::examine(&Machine, &build, &asked(args)?);
    match args.json {
        true => print(to_json(&report)),
        false => print(&report),
    }
    Ok(match report.is_fine() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

const HAS_MPI: bool = cfg!(feature = "mpi");

/// Without a configuration nobody has asked for a folder: the demo's is of no interest.
fn asked(args: &DoctorArgs) -> Result<Asked, Failure> {
    let run = args
        .config
        .config
        .is_some()
        .then(|| args.config.resolve())
        .transpose()?;
    let named = args.device.as_deref().map(str::parse::<DeviceChoice>).transpose();
    let named: Option<DeviceChoice> =
        named.map_err(|error: UnknownDevice| Failure::Input(format!("--device: {error}")))?;
    let device = named.or(run.as_ref().map(|run| run.device));
    let cache = match &run {
        Some(run) => run.data.cache.clone(),
        None => Cache::of_environment(&|name| std::env::var(name).ok()),
    };
    Ok(Asked {
        device: device.map(|device| device.to_string()),
        devices: args.devices,
        output: run.map(|run| run.output),
        cache: cache.dir().map(PathBuf::from),
    })
}

fn to_json(report: &Report) -> String {
    let findings: Vec<_> = report
        .findings
        .iter()
        .map(|finding| {
            json!({
                "area": finding.area,
                "name": finding.name,
                "state": finding.state.name().to_lowercase(),
                "detail": finding.detail,
                "hint": finding.hint,
            })
        })
        .collect();
    json!({"fine": report.is_fine(), "findings": findings}).to_string()
}
