//! `brazier data`

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};

use super::{BAD_INPUT, Failure, print, session};
use crate::{
    config::SynthChoice,
    data::{Cache, Format, Selection, inspect, synth::SynthOptions},
};

#[derive(Subcommand)]
pub(super) enum DataCommand {
    /// Draw pictures of coloured shapes with questions and answers, and build their tokenizer
    Synth(SynthArgs),
    /// Look at a data set: files, rows, keys and their types, images, first rows
    Inspect(InspectArgs),
}

#[derive(Args)]
pub(super) struct InspectArgs {
    /// File, folder, or pattern in quotes, like 'data/*.jsonl'
    path: PathBuf,
    /// What holds the rows: jsonl, parquet, arrow, csv, tsv, text, text_lines, webdataset or energon
    #[arg(long, default_value_t = Format::Auto)]
    format: Format,
    /// Split to look at, where there are several
    #[arg(long)]
    split: Option<String>,
    /// Columns to read, separated by commas; all without
    #[arg(long, value_delimiter = ',')]
    columns: Option<Vec<String>>,
    /// Take cells of CSV that look like numbers for numbers
    #[arg(long)]
    numbers: bool,
    /// Rows to show
    #[arg(long, default_value_t = 3)]
    rows: usize,
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
    match command {
        DataCommand::Synth(args) => draw(args),
        DataCommand::Inspect(args) => show_rows(args),
    }
}

fn draw(args: &SynthArgs) -> Result<ExitCode, Failure> {
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

fn show_rows(args: &InspectArgs) -> Result<ExitCode, Failure> {
    let selection = Selection {
        path: args.path.clone(),
        format: args.format,
        split: args.split.clone(),
        columns: args.columns.clone(),
        numbers: args.numbers,
    };
    let cache = Cache::of_environment(&|name| std::env::var(name).ok());
    let found = inspect(&selection, &cache, args.rows)?;
    print(found.to_string().trim_end());
    Ok(match found.num_wrong() {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(BAD_INPUT),
    })
}
