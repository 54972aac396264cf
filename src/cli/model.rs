//! `brazier model`

mod folders;
mod info;
mod init;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use brazier_models::{
    Head, HostDtype, Vlm, VlmConfig,
    lora::is_adapter,
    params::{self, ParamInfo},
};
use clap::{Args, Subcommand, ValueEnum};

use super::{Failure, say, session, show};
use crate::{
    config::ModelChoice,
    data::{ChatTemplate, IMAGE_TOKEN, Tokenizer},
    fs,
    hub::{
        self, Adapter, DtypePolicy, ExportLayout, ExportOptions, ExportSummary, ExportTensor, HubError,
        MultimeditronNames, TokenIds,
    },
    image_processor::ImageProcessor,
    learner::Trainable,
    track::process_memory,
};

/// Size of safetensors files, as transformers chooses it.
const MAX_SHARD_BYTES: usize = 5_000_000_000;

#[derive(Subcommand)]
pub(super) enum ModelCommand {
    /// Show what a model folder holds: family, parameters by part, element types, files
    Info(info::InfoArgs),
    /// Join a language model, a vision tower and a fresh projector to a vision-language model
    Init(init::InitArgs),
    /// Read a model and write it as a folder of its own: checked, in shards of a chosen size, in a chosen element type
    Import(folders::ImportArgs),
    /// Write the model of a run's checkpoint as a Hugging Face folder
    Export(folders::ExportArgs),
    /// Fold adapters (LoRA) into the model they were trained on
    Merge(MergeArgs),
}

/// How a folder is written.
#[derive(Args)]
struct OutputArgs {
    /// Folder to write; an earlier export there is replaced, anything else is left alone
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    /// Element type of the tensors; keep leaves each as it is, byte for byte
    #[arg(long, value_enum, default_value_t = DtypeArg::Keep)]
    dtype: DtypeArg,
    /// Most bytes of tensors in one file, for instance 5GB or 500MB
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = parse_size)]
    max_shard_size: usize,
    /// Which kind of folder: auto stays with MultiMeditron's where the model comes from one, and else writes LLaVA's if that
    /// has room for the model; brazier is for what no other kind can say
    #[arg(long, value_enum, default_value_t = LayoutArg::Auto)]
    layout: LayoutArg,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DtypeArg {
    Keep,
    F32,
    Bf16,
}

impl OutputArgs {
    /// Options without a word on the tokens; `kept` is the element type where each is kept.
    fn options(&self, kept: HostDtype, ids: TokenIds, image_processor: ImageProcessor) -> ExportOptions {
        let (dtype, dtype_policy) = match self.dtype {
            DtypeArg::Keep => (kept, DtypePolicy::Keep),
            DtypeArg::F32 => (HostDtype::F32, DtypePolicy::Cast),
            DtypeArg::Bf16 => (HostDtype::Bf16, DtypePolicy::Cast),
        };
        ExportOptions {
            layout: self.layout.layout(),
            max_shard_bytes: self.max_shard_size,
            dtype,
            dtype_policy,
            source: None,
            image_processor,
            image_token: IMAGE_TOKEN.to_owned(),
            added_image_token: None,
            chat_template: None,
            bos_token_id: ids.bos,
            eos_token_ids: ids.eos,
            pad_token_id: ids.pad,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LayoutArg {
    Auto,
    Llava,
    Multimeditron,
    Brazier,
}

impl LayoutArg {
    /// The layout, with the parts' names that the imported folder has.
    fn layout(self) -> ExportLayout {
        match self {
            LayoutArg::Auto => ExportLayout::Auto,
            LayoutArg::Llava => ExportLayout::Llava,
            LayoutArg::Multimeditron => ExportLayout::Multimeditron(None),
            LayoutArg::Brazier => ExportLayout::Brazier,
        }
    }

    /// The layout for a model that is joined of these two.
    fn layout_of(self, language: &Path, vision: &Path) -> Result<ExportLayout, Failure> {
        match self {
            LayoutArg::Multimeditron => Ok(ExportLayout::Multimeditron(Some(MultimeditronNames {
                llm_path: part_name(language)?,
                clip_name: part_name(vision)?,
            }))),
            other => Ok(other.layout()),
        }
    }
}

/// How a folder names a model that it refers to: a name on the hub stays what it is, a folder can be named from everywhere.
fn part_name(model: &Path) -> Result<String, Failure> {
    let path = match fs::exists(model) {
        true => fs::canonicalize(model)?,
        false => model.to_owned(),
    };
    Ok(path.to_string_lossy().into_owned())
}

/// Writes a copy of the base model whose weights are W + s·B·A where the adapter has a layer, computed in f32 and rounded
/// once. Every other tensor and file comes along byte for byte.
#[derive(Args)]
pub(super) struct MergeArgs {
    /// Folder of the model that the adapters were trained on
    #[arg(long, value_name = "DIR")]
    base: PathBuf,
    /// Folder of adapters in PEFT's format, for instance RUN/export
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// The new model's folder
    #[arg(long, short, value_name = "DIR")]
    output: PathBuf,
}

pub(super) fn model(command: &ModelCommand) -> Result<ExitCode, Failure> {
    match command {
        ModelCommand::Info(args) => info::info(args),
        ModelCommand::Init(args) => init::init(args),
        ModelCommand::Import(args) => folders::import(args),
        ModelCommand::Export(args) => folders::export(args),
        ModelCommand::Merge(args) => merge(args),
    }
}

fn merge(args: &MergeArgs) -> Result<ExitCode, Failure> {
    let summary = hub::merge_adapter(&args.base, &args.adapter, &args.output)?;
    say(format_args!(
        "{}: {} tensors, {} of them with an adapter folded in, {} replaced",
        show(&summary.dir),
        summary.num_tensors,
        summary.num_layers,
        summary.num_replaced
    ));
    Ok(ExitCode::SUCCESS)
}

/// Writes the adapters of a model, and what was trained in full beside them, as PEFT does.
pub(super) fn export_adapter(
    model: &Vlm,
    trainable: &Trainable,
    base: &Path,
    dir: &Path,
) -> Result<(), Failure> {
    let Some(config) = model.lora().cloned() else {
        return Err(anyhow::anyhow!("the model has no adapters").into());
    };
    let trained = &trainable.params;
    let is_trained = |path: &str| trained.iter().any(|param| param.info.path == path);
    let base = part_name(base)?;
    let adapter = Adapter {
        config,
        base: Some(base),
        tensors: params::read_params(model, |path| is_adapter(path) || is_trained(path)),
    };
    hub::write_adapter(dir, model.config(), &adapter).map_err(|error| match error {
        HubError::Fs(error) => error.into(),
        error => error.into(),
    })
}

/// Writes a trained model as a Hugging Face folder, in the dtype its parameters have.
pub(super) fn export_model(
    model: &Vlm,
    tokenizer: &Tokenizer,
    options: ExportOptions,
    dir: &Path,
) -> Result<ExportSummary, Failure> {
    let handles = params::param_handles(model, |_| true);
    let dtype = handles.first().map_or(HostDtype::F32, |handle| handle.dtype);
    let tensors: Vec<ExportTensor> = handles
        .iter()
        .map(|handle| {
            let ParamInfo { path, shape, .. } = handle.info.clone();
            ExportTensor::fetched(path, shape, handle.dtype, || handle.fetch())
        })
        .collect();
    let options = ExportOptions { dtype, ..options };
    hub::export(dir, model.config(), tensors, tokenizer.path(), &options).map_err(written)
}

/// Options for a model that was trained here: in f32, with the chat template of training (`None` if it saw texts only), and
/// with what the folder it was imported from says besides.
pub(super) fn trained_options(
    config: &VlmConfig,
    tokenizer: &Tokenizer,
    choice: &ModelChoice,
    template: Option<&ChatTemplate>,
) -> Result<ExportOptions, Failure> {
    let (source, language) = session::sources(choice)?;
    let TokenIds { bos, eos, .. } = language
        .as_deref()
        .map_or(Ok(TokenIds::default()), hub::token_ids)?;
    let (chat_template, mut stop_ids) = match (&config.head, template) {
        (Head::Lm, Some(template)) => (
            Some(template.jinja(tokenizer).into_owned()),
            template.stop_ids(tokenizer)?,
        ),
        (Head::Lm, None) | (Head::Classification { .. }, _) => {
            (None, tokenizer.eos_id().into_iter().collect())
        }
    };
    // Whoever stopped at a token before does so still.
    stop_ids.extend(eos);
    stop_ids.sort_unstable();
    stop_ids.dedup();
    Ok(ExportOptions {
        layout: hub::ExportLayout::Auto,
        max_shard_bytes: MAX_SHARD_BYTES,
        dtype: HostDtype::F32,
        dtype_policy: DtypePolicy::Cast,
        source,
        image_processor: session::image_processor(choice, config)?,
        image_token: tokenizer.image_token().to_owned(),
        added_image_token: None,
        chat_template,
        bos_token_id: bos,
        eos_token_ids: stop_ids,
        pad_token_id: Some(tokenizer.pad_id()),
    })
}

/// An error of writing: there a file that is not there is not the user's, but a full disk.
fn written(error: HubError) -> Failure {
    match error {
        HubError::Fs(error) => error.into(),
        error => error.into(),
    }
}

fn report(summary: &ExportSummary, elapsed: Duration) {
    let ExportSummary {
        dir,
        layout,
        architecture,
        num_tensors,
        num_files,
        size_bytes,
    } = summary;
    let readers = layout.readers();
    say(format_args!("wrote {} ({architecture}; {readers})", show(dir)));
    say(format_args!(
        "  {num_tensors} tensors in {num_files} files, {}",
        throughput(*size_bytes, elapsed)
    ));
}

/// Bytes, seconds, bytes per second, and the most memory this process ever held.
fn throughput(size_bytes: u64, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    let gigabytes = size_bytes as f64 / 1e9;
    let peak = process_memory().map_or(String::new(), |memory| {
        format!(
            "; peak memory of the process {:.3} GB",
            memory.peak_bytes as f64 / 1e9
        )
    });
    format!(
        "{gigabytes:.3} GB in {seconds:.2} s, {:.2} GB/s{peak}",
        gigabytes / seconds.max(1e-9)
    )
}

/// `5GB`, `1.5GiB`, `500MB`, `1000`.
pub(super) fn parse_size(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 1.0,
        "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "KIB" => 1024.0,
        "MIB" => 1024.0 * 1024.0,
        "GIB" => 1024.0 * 1024.0 * 1024.0,
        _ => return Err("expected a number with B, KB, MB, GB, KiB, MiB or GiB".into()),
    };
    match digits.trim().parse::<f64>() {
        Ok(number) if number * unit >= 1.0 && number.is_finite() => Ok((number * unit) as usize),
        _ => Err("expected a size above 0, for instance 5GB".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("5GB", 5_000_000_000),
            ("1.5KiB", 1536),
            ("7", 7),
            ("2mb", 2_000_000),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "GB", "0", "-1GB", "5TB", "5 G B"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
