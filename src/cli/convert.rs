//! `brazier convert-config`

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use super::{Failure, print, say, show};
use crate::{
    config::{self, Dialect, Reading, Request},
    fs,
};

#[derive(Args)]
pub(super) struct ConvertArgs {
    /// The configuration: YAML, JSON, or a script with the command that trains
    file: PathBuf,
    /// What it is written in: native, multimeditron, axolotl, huggingface or megatron-vlm; without it the keys tell
    #[arg(long)]
    dialect: Option<Dialect>,
    /// Write the native YAML into this file; without it to standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Override one native key, for instance --set data.train[0].path=rows.jsonl; may be repeated
    #[arg(long = "set", value_name = "PATH=VALUE")]
    sets: Vec<String>,
    /// Go on without this key of the file, for instance wandb_project; may be repeated
    #[arg(long, value_name = "KEY")]
    leave_out: Vec<String>,
}

pub(super) fn convert(args: &ConvertArgs) -> Result<ExitCode, Failure> {
    let request = Request {
        sets: &args.sets,
        leave_out: &args.leave_out,
        dialect: args.dialect,
    };
    let Reading { report, result } = config::convert(&args.file, request, &|name| std::env::var(name).ok());
    if let Some(report) = report {
        say(format_args!("{report}\n"));
    }
    let yaml = result?;
    match &args.output {
        None => print(yaml.trim_end()),
        Some(path) => {
            fs::write_atomic(path, yaml.as_bytes())?;
            say(format_args!("wrote {}", show(path)));
        }
    }
    Ok(ExitCode::SUCCESS)
}
