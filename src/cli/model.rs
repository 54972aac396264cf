//! `brazier model`

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use brazier_models::{HostDtype, Vlm, params};
use clap::{Args, Subcommand};

use super::{Failure, print, show};
use crate::{
    config::num_parameters,
    data::{CHAT_TEMPLATE_JINJA, CLIP_MEAN, CLIP_STD, ChatTemplate, IMAGE_TOKEN, Tokenizer},
    hub::{self, ExportOptions, ExportSummary, HubError},
};

/// Size of safetensors files, as transformers chooses it.
const MAX_SHARD_BYTES: usize = 5_000_000_000;

#[derive(Subcommand)]
pub(super) enum ModelCommand {
    /// Show what a Hugging Face folder holds
    Info(InfoArgs),
}

#[derive(Args)]
pub(super) struct InfoArgs {
    /// Folder with config.json
    dir: PathBuf,
}

pub(super) fn model(command: &ModelCommand) -> Result<ExitCode, Failure> {
    let ModelCommand::Info(args) = command;
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

/// Writes a model as a Hugging Face folder, in the dtype its parameters have.
pub(super) fn export_model(model: &Vlm, tokenizer: &Tokenizer, dir: &Path) -> Result<ExportSummary, Failure> {
    let tensors = params::read_params(model, |_| true);
    let dtype = tensors.first().map_or(HostDtype::F32, |tensor| tensor.dtype);
    let options = ExportOptions {
        max_shard_bytes: MAX_SHARD_BYTES,
        dtype,
        image_mean: CLIP_MEAN,
        image_std: CLIP_STD,
        image_token: IMAGE_TOKEN.to_owned(),
        chat_template: Some(CHAT_TEMPLATE_JINJA.to_owned()),
        bos_token_id: None,
        eos_token_ids: ChatTemplate::ChatMl.stop_ids(tokenizer)?,
        pad_token_id: Some(tokenizer.pad_id()),
    };
    hub::export(dir, model.config(), tensors, tokenizer.path(), &options).map_err(|error| match error {
        // A full disk; where folders are read, a file that is not there is the user's.
        HubError::Fs(error) => error.into(),
        error => error.into(),
    })
}
