//! `brazier model`

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use brazier_models::{Head, HostDtype, Vlm, lora::is_adapter, params};
use clap::{Args, Subcommand};

use super::{Failure, print, show};
use crate::{
    config::num_parameters,
    data::{CHAT_TEMPLATE_JINJA, CLIP_MEAN, CLIP_STD, ChatTemplate, IMAGE_TOKEN, Tokenizer},
    fs,
    hub::{self, Adapter, ExportOptions, ExportSummary, HubError},
    learner::Learner,
};

/// Size of safetensors files, as transformers chooses it.
const MAX_SHARD_BYTES: usize = 5_000_000_000;

#[derive(Subcommand)]
pub(super) enum ModelCommand {
    /// Show what a Hugging Face folder holds
    Info(InfoArgs),
    /// Fold adapters (LoRA) into the model they were trained on
    Merge(MergeArgs),
}

#[derive(Args)]
pub(super) struct InfoArgs {
    /// Folder with config.json
    dir: PathBuf,
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
        ModelCommand::Info(args) => info(args),
        ModelCommand::Merge(args) => merge(args),
    }
}

fn merge(args: &MergeArgs) -> Result<ExitCode, Failure> {
    let summary = hub::merge_adapter(&args.base, &args.adapter, &args.output)?;
    print(format_args!(
        "{}: {} tensors, {} of them with an adapter folded in, {} replaced",
        show(&summary.dir),
        summary.num_tensors,
        summary.num_layers,
        summary.num_replaced
    ));
    Ok(ExitCode::SUCCESS)
}

fn info(args: &InfoArgs) -> Result<ExitCode, Failure> {
    let config = hub::read_config(&args.dir)?;
    let counts = num_parameters(&config);
    print(format_args!("{}\n{config:#?}", show(&args.dir)));
    print(format_args!(
        "parameters {} (vision {}, projector {}, language {})",
        counts.total(),
        counts.vision,
        counts.projector,
        counts.language
    ));
    Ok(ExitCode::SUCCESS)
}

/// Writes the adapters of a learner, and what it trained in full beside them, as PEFT does.
pub(super) fn export_adapter(learner: &Learner, base: &Path, dir: &Path) -> Result<(), Failure> {
    let model = learner.model();
    let Some(config) = model.lora().cloned() else {
        return Err(anyhow::anyhow!("the model has no adapters").into());
    };
    let trained = &learner.trainable().params;
    let is_trained = |path: &str| trained.iter().any(|param| param.info.path == path);
    // A name on the hub stays what it is; a folder can be named from everywhere.
    let base = match fs::exists(base) {
        true => fs::canonicalize(base)?,
        false => base.to_owned(),
    };
    let adapter = Adapter {
        config,
        base: Some(base.to_string_lossy().into_owned()),
        tensors: params::read_params(model, |path| is_adapter(path) || is_trained(path)),
    };
    hub::write_adapter(dir, model.config(), &adapter).map_err(|error| match error {
        HubError::Fs(error) => error.into(),
        error => error.into(),
    })
}

/// Writes a model as a Hugging Face folder, in the dtype its parameters have.
pub(super) fn export_model(model: &Vlm, tokenizer: &Tokenizer, dir: &Path) -> Result<ExportSummary, Failure> {
    let tensors = params::read_params(model, |_| true);
    let dtype = tensors.first().map_or(HostDtype::F32, |tensor| tensor.dtype);
    let (chat_template, eos_token_ids) = match model.config().head {
        Head::Lm => (
            Some(CHAT_TEMPLATE_JINJA.to_owned()),
            ChatTemplate::ChatMl.stop_ids(tokenizer)?,
        ),
        Head::Classification { .. } => (None, tokenizer.eos_id().into_iter().collect()),
    };
    let options = ExportOptions {
        max_shard_bytes: MAX_SHARD_BYTES,
        dtype,
        image_mean: CLIP_MEAN,
        image_std: CLIP_STD,
        image_token: IMAGE_TOKEN.to_owned(),
        chat_template,
        bos_token_id: None,
        eos_token_ids,
        pad_token_id: Some(tokenizer.pad_id()),
    };
    hub::export(dir, model.config(), tensors, tokenizer.path(), &options).map_err(|error| match error {
        // A full disk; where folders are read, a file that is not there is the user's.
        HubError::Fs(error) => error.into(),
        error => error.into(),
    })
}
