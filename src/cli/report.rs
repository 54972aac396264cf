//! `brazier report`

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use super::{Failure, print, show};
use crate::{fs, track};

#[derive(Args)]
pub(super) struct ReportArgs {
    /// The run directory; it may still be running
    run: PathBuf,
    /// Also draw one SVG picture of curves and answers
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
}

pub(super) fn report(args: &ReportArgs) -> Result<ExitCode, Failure> {
    let metrics = args.run.join(track::METRICS_FILE);
    if !fs::exists(&metrics) {
        let hint = "hint: name the run directory, where train puts metrics.jsonl";
        return Err(Failure::Input(format!("no {}\n  {hint}", show(&metrics))));
    }
    print(show(&track::write_report(&args.run)?));
    if let Some(picture) = &args.picture {
        track::write_picture(&args.run, picture, 6)?;
        print(show(picture));
    }
    Ok(ExitCode::SUCCESS)
}
