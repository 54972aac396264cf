//! `brazier data convert`

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, ValueEnum};
use indicatif::ProgressBar;

use super::super::{Failure, model::parse_size, print, session::style};
use crate::data::{
    Cache, Compression, ConvertError, ConvertOptions, Fields, Format, ImagePlace, Selection, Stage,
    TargetFormat, convert,
};

#[derive(Args)]
#[command(after_help = "\
Examples:
  brazier data convert rows.jsonl rows.parquet                         images come into it, as struct {bytes, path}
  brazier data convert rows.parquet out --format jsonl                 out/train.jsonl and out/images/
  brazier data convert 'shards/*.tar' rows.jsonl.zst --images inline   images as base64
  brazier data convert rows.jsonl saved --format arrow                 for datasets.load_from_disk('saved')
  brazier data convert saved shards --format tar --max-shard-size 1GB  for WebDataset and energon

Images keep their bytes: from paths, base64, tables or shards they come into the rows, or into files beside them.
A table gets the types that Hugging Face's datasets gives, found by reading all rows first. Nothing is under the
final name before all of it is there.

What a format does not hold is said at the end, or refused: a table does not tell null from a key that is not
there, gives a column one kind of number, and cannot have text in a row where another has a list; members of a
shard are named by the key of their sample, which is __key__ when they are read again; JSON holds no bytes but
those of images.")]
pub(in crate::cli) struct ConvertArgs {
    /// File, folder, or pattern in quotes, like 'data/*.jsonl'; as data.train takes it
    from: PathBuf,
    /// File (.jsonl, .jsonl.gz, .jsonl.zst, .parquet, .arrow, .tar), or a folder
    to: PathBuf,
    /// What to write; of a file, its name says so
    #[arg(long, value_enum)]
    format: Option<FormatArg>,
    /// What holds the rows: jsonl, parquet, arrow, csv, tsv, text, text_lines, webdataset or energon
    #[arg(long, value_name = "FORMAT", default_value_t = Format::Auto)]
    from_format: Format,
    /// Split to convert, where there are several
    #[arg(long)]
    split: Option<String>,
    /// Name of the split that is written, for names of files; without: that of --split, or train
    #[arg(long, value_name = "SPLIT")]
    to_split: Option<String>,
    /// Columns to take, separated by commas; all without
    #[arg(long, value_delimiter = ',')]
    columns: Option<Vec<String>>,
    /// Take cells of CSV that look like numbers for numbers
    #[arg(long)]
    numbers: bool,
    /// Convert the first rows only
    #[arg(long, value_name = "ROWS")]
    limit: Option<usize>,
    /// Where images go; without: beside JSON lines in files, and into the rows of all else
    #[arg(long, value_enum)]
    images: Option<ImagesArg>,
    /// Where paths of images start; without: the folder of the file that names them
    #[arg(long, value_name = "DIR")]
    image_dir: Option<PathBuf>,
    /// Key that holds images, turns or their content where it has no usual name, as in data.train: images=photo; may be
    /// repeated
    #[arg(long, value_name = "NAME=KEY", value_parser = field)]
    fields: Vec<(Named, String)>,
    /// Write the text of every turn as a list of one part, so that turns with images and without fit into one column
    #[arg(long)]
    content_parts: bool,
    /// Most rows of one file in a folder
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u64).range(1..))]
    max_shard_rows: Option<u64>,
    /// About the most bytes of one file in a folder, for instance 1GB; without: 500MB, and JSON lines in one file
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_shard_size: Option<usize>,
    /// How files are compressed; without: as the name says, Parquet by Snappy, all else not
    #[arg(long, value_enum)]
    compression: Option<CompressionArg>,
    /// Number the samples of shards, even where rows have a __key__
    #[arg(long)]
    new_keys: bool,
    /// Leave out and list wrong rows, up to so many; without, the first one ends it
    #[arg(long, value_name = "ROWS", default_value_t = 0)]
    max_bad_rows: usize,
    /// Replace a file, or a folder that holds nothing but what this command writes; never images that are read
    #[arg(long)]
    force_overwrite: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FormatArg {
    Jsonl,
    Parquet,
    /// An Arrow stream; a folder is that of `save_to_disk`
    Arrow,
    /// WebDataset shards
    #[value(alias = "webdataset")]
    Tar,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ImagesArg {
    /// Bytes in the row or the shard; base64 in JSON
    Inline,
    /// Files in a folder beside the rows, which name them
    Files,
    /// Rows as they are
    Keep,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum CompressionArg {
    None,
    Gzip,
    Zstd,
    Snappy,
    Lz4,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    Images,
    Messages,
    Content,
}

fn field(text: &str) -> Result<(Named, String), String> {
    let (name, key) = text.split_once('=').ok_or("write NAME=KEY, as images=photo")?;
    let named = match name {
        "images" => Named::Images,
        "messages" => Named::Messages,
        "content" => Named::Content,
        _ => return Err("images can be under images, messages and content".into()),
    };
    match key.is_empty() {
        true => Err("write NAME=KEY, as images=photo".into()),
        false => Ok((named, key.to_owned())),
    }
}

impl ConvertArgs {
    fn options(&self) -> ConvertOptions {
        let key = |wanted: Named| {
            let mut given = self.fields.iter().rev();
            given
                .find(|(named, _)| *named == wanted)
                .map(|(_, key)| key.clone())
        };
        ConvertOptions {
            from: Selection {
                path: self.from.clone(),
                format: self.from_format,
                split: self.split.clone(),
                columns: self.columns.clone(),
                numbers: self.numbers,
            },
            to: self.to.clone(),
            format: self.format.map(|format| match format {
                FormatArg::Jsonl => TargetFormat::Jsonl,
                FormatArg::Parquet => TargetFormat::Parquet,
                FormatArg::Arrow => TargetFormat::Arrow,
                FormatArg::Tar => TargetFormat::Tar,
            }),
            compression: self.compression.map(|compression| match compression {
                CompressionArg::None => Compression::None,
                CompressionArg::Gzip => Compression::Gzip,
                CompressionArg::Zstd => Compression::Zstd,
                CompressionArg::Snappy => Compression::Snappy,
                CompressionArg::Lz4 => Compression::Lz4,
            }),
            images: self.images.map(|images| match images {
                ImagesArg::Inline => ImagePlace::Inline,
                ImagesArg::Files => ImagePlace::Files,
                ImagesArg::Keep => ImagePlace::Keep,
            }),
            image_dir: self.image_dir.clone(),
            fields: Fields {
                images: key(Named::Images),
                messages: key(Named::Messages),
                content: key(Named::Content),
                ..Fields::default()
            },
            content_parts: self.content_parts,
            to_split: self.to_split.clone(),
            limit: self.limit,
            max_shard_rows: self.max_shard_rows.and_then(|rows| usize::try_from(rows).ok()),
            max_shard_bytes: self.max_shard_size.map(|size| size as u64),
            new_keys: self.new_keys,
            max_bad_rows: self.max_bad_rows,
            overwrite: self.force_overwrite,
        }
    }
}

impl From<ConvertError> for Failure {
    fn from(error: ConvertError) -> Self {
        match error {
            ConvertError::Data(error) => error.into(),
            error if error.is_users() => Failure::Input(error.to_string()),
            error => Failure::Failed(error.into()),
        }
    }
}

pub(super) fn run(args: &ConvertArgs) -> Result<ExitCode, Failure> {
    let cache = Cache::of_environment(&|name| std::env::var(name).ok());
    let bar = ProgressBar::new(0).with_style(style("{bar:40} {pos}/{len} rows {msg}"));
    let converted = convert(&args.options(), &cache, &|stage, done, all| {
        bar.set_message(match stage {
            Stage::Columns => "looked at for their columns",
            Stage::Rows => "written",
        });
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    print(converted?.to_string().trim_end());
    Ok(ExitCode::SUCCESS)
}
