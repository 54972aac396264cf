//! `brazier data`

mod convert;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};

use super::{BAD_INPUT, Failure, print, session};
use crate::{
    config::SynthChoice,
    data::{Cache, Format, PrepareOptions, Selection, SplitChoice, inspect, prepare, synth::SynthOptions},
};

#[derive(Subcommand)]
pub(super) enum DataCommand {
    /// Draw pictures of coloured shapes with questions and answers, and build their tokenizer
    Synth(SynthArgs),
    /// Look at a data set: files, rows, keys and their types, images, first rows
    Inspect(InspectArgs),
    /// Write rows in another format: JSON lines with images, Parquet, Arrow, tar shards
    Convert(Box<convert::ConvertArgs>),
    /// Prepare a folder of tar shards for megatron-energon, and for training here, without questions
    Prepare(PrepareArgs),
}

#[derive(Args)]
pub(super) struct PrepareArgs {
    /// Folder with tar shards; .nv-meta is made in it, and an index beside each shard
    path: PathBuf,
    /// Class of the samples: VQASample, CaptioningSample, OCRSample, TextSample, ImageClassificationSample or CrudeWebdataset
    #[arg(long, value_name = "CLASS")]
    sample_type: String,
    /// Where the fields of a sample are, as JSON: '{"image": "jpg", "context": "json[question]", "answers": "txt"}'
    #[arg(long, value_name = "JSON", value_parser = field_map)]
    field_map: Option<FieldMap>,
    /// Shares of train, val and test, by shards, as 8,1,1
    #[arg(long, value_delimiter = ',', required_unless_present = "split_parts")]
    split_ratio: Vec<u32>,
    /// Shards of one split by a pattern, as 'train:train/*.tar'; may be repeated
    #[arg(long, value_name = "SPLIT:PATTERN", value_parser = split_part, conflicts_with = "split_ratio")]
    split_parts: Vec<(String, String)>,
    /// Pattern of shards to leave out; may be repeated
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Prepare a folder again that is prepared already
    #[arg(long)]
    force_overwrite: bool,
}

/// Fields of a sample and their places.
#[derive(Debug, Clone)]
struct FieldMap(Vec<(String, String)>);

fn field_map(json: &str) -> Result<FieldMap, String> {
    let map: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(json).map_err(|error| error.to_string())?;
    let entries = map.into_iter().map(|(name, place)| match place {
        serde_json::Value::String(place) => Ok((name, place)),
        other => Err(format!("the place of {name} is {other}, not text")),
    });
    Ok(FieldMap(entries.collect::<Result<_, _>>()?))
}

fn split_part(text: &str) -> Result<(String, String), String> {
    let (split, pattern) = text.split_once(':').ok_or("write SPLIT:PATTERN")?;
    Ok((split.to_owned(), pattern.to_owned()))
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
        DataCommand::Convert(args) => convert::run(args),
        DataCommand::Prepare(args) => describe_shards(args),
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

fn describe_shards(args: &PrepareArgs) -> Result<ExitCode, Failure> {
    let split = match (
        <[u32; 3]>::try_from(args.split_ratio.as_slice()),
        args.split_parts.as_slice(),
    ) {
        (Ok(shares), _) => SplitChoice::Ratio(shares),
        (Err(_), []) => {
            return Err(Failure::Input(
                "--split-ratio: write three shares, of train, val and test, as 8,1,1".into(),
            ));
        }
        (Err(_), parts) => SplitChoice::Parts(parts.to_vec()),
    };
    let prepared = prepare(&PrepareOptions {
        path: args.path.clone(),
        sample_type: args.sample_type.clone(),
        field_map: args
            .field_map
            .as_ref()
            .map(|map| map.0.clone())
            .unwrap_or_default(),
        split,
        exclude: args.exclude.clone(),
        overwrite: args.force_overwrite,
    })?;
    print(prepared.to_string().trim_end());
    Ok(ExitCode::SUCCESS)
}
