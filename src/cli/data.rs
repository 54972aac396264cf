//! `brazier data`

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};

use super::{Failure, session};
use crate::{config::SynthChoice, data::synth::SynthOptions};

#[derive(Subcommand)]
pub(super) enum DataCommand {
    /// Draw pictures of coloured shapes with questions and answers, and build their tokenizer
    Synth(SynthArgs),
}

#[derive(Args)]
pub(super) struct SynthArgs {
    /// Folder to make; one that this command made before is replaced
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Training pictures
    #[arg(long, default_value_t = 8000)]
    train: usize,
    /// Held-out pictures; half of them show pairs of colour and shape that training never does
    #[arg(long, default_value_t = 200)]
    eval: usize,
    /// Side of the square pictures, in pixels
    #[arg(long, default_value_t = 48)]
    image_size: usize,
    /// Same seed, same bytes
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

pub(super) fn data(command: &DataCommand) -> Result<ExitCode, Failure> {
    let DataCommand::Synth(args) = command;
    session::draw(&SynthChoice {
        dir: args.out.clone(),
        options: SynthOptions {
            train_images: args.train,
            eval_images: args.eval,
            image_size: args.image_size,
            seed: args.seed,
        },
    })?;
    Ok(ExitCode::SUCCESS)
}
