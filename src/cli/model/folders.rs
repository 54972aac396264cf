//! `brazier model import` and `brazier model export`

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use brazier_models::{HostDtype, Vlm, VlmConfig};
use burn::tensor::DType;
use clap::Args;

use super::{
    super::{ConfigArgs, Failure, say, session},
    DtypeArg, OutputArgs, report, trained_options, written,
};
use crate::{
    checkpoint,
    config::{ModelChoice, RunConfig},
    data::{ChatTemplate, token_text},
    device,
    hub::{self, DtypePolicy, ExportOptions, ExportTensor, Part, Weights},
    learner::{SavedParameter, saved_parameters},
};

#[derive(Args)]
#[command(after_help = "\
Every tensor is compared with the model that config.json describes before anything is written. With --dtype keep the
bytes of all tensors stay as they are, f16 included.

Example:
  brazier model import Qwen/Qwen3-8B --out models/qwen3-8b-bf16 --dtype bf16 --max-shard-size 2GB")]
pub(in crate::cli) struct ImportArgs {
    /// A model folder (with config.json), or a model's name on the Hugging Face hub
    model: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args)]
#[command(after_help = "\
What was trained comes from the checkpoint: in f32 where the optimizer holds it so, whatever the run's precision.
What was frozen comes from the folder the run imported, unchanged. With --dtype keep each tensor has the element type it
had there; what was trained of an f16 model is written in f32, because f16 could not hold every value.

Examples:
  brazier model export runs/demo --out exported                      the newest checkpoint of a run
  brazier model export runs/demo/checkpoints/step-00000500 --out e   a certain one")]
pub(in crate::cli) struct ExportArgs {
    /// A run directory, or the directory of one of its checkpoints
    checkpoint: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

/// Every parameter of a model with its shape, in module order. Nothing is drawn.
pub(super) fn parameters(config: &VlmConfig) -> Result<Vec<(String, Vec<usize>)>, Failure> {
    let skeleton = Vlm::init_deferred(config, None, 0, &device::for_files()?, DType::F32)?;
    Ok(session::expected(&skeleton))
}

/// The element type of most numbers, as far as models have it.
pub(super) fn main_dtype(weights: &Weights) -> HostDtype {
    let dtypes = weights.dtypes();
    let most = dtypes.iter().max_by_key(|(_, (_, elements))| *elements);
    match most {
        Some((name, _)) if name == "BF16" => HostDtype::Bf16,
        _ => HostDtype::F32,
    }
}

pub(super) fn import(args: &ImportArgs) -> Result<ExitCode, Failure> {
    let started = Instant::now();
    let dir = session::locate(&args.model)?;
    hub::check_target(&args.output.out)?;
    let config = hub::read_config(&dir)?;
    let processor = session::image_processor(&ModelChoice::Import(dir.clone()), &config)?;
    let expected = parameters(&config)?;
    let weights = Weights::open(&dir, Part::Whole, &config, &expected)?;
    let names = expected.iter().map(|(name, _)| name);
    let tensors = names.filter_map(|name| ExportTensor::stored(name, &weights));
    let usual = args
        .output
        .options(main_dtype(&weights), hub::token_ids(&dir)?, processor);
    let image_token = match &config.vision {
        Some(vision) => token_text(&dir, vision.image_token_id)?,
        None => None,
    };
    let options = ExportOptions {
        source: Some(dir.clone()),
        image_token: image_token.unwrap_or_else(|| usual.image_token.clone()),
        ..usual
    };
    let summary =
        hub::export(&args.output.out, &config, tensors.collect(), &dir, &options).map_err(written)?;
    report(&summary, started.elapsed());
    Ok(ExitCode::SUCCESS)
}

/// The run that a checkpoint belongs to: the folder with `config.yaml`.
fn run_of(path: &Path) -> Result<(PathBuf, RunConfig), Failure> {
    let dir = path
        .ancestors()
        .take(3)
        .find(|dir| dir.join("config.yaml").is_file())
        .ok_or_else(|| {
            Failure::Input(format!(
                "no config.yaml in {} or above it\n  hint: name a run directory, or one of its checkpoints",
                path.display()
            ))
        })?;
    let config = ConfigArgs {
        config: Some(dir.join("config.yaml")),
        sets: Vec::new(),
        leave_out: Vec::new(),
    };
    Ok((dir.into(), config.resolve()?))
}

pub(super) fn export(args: &ExportArgs) -> Result<ExitCode, Failure> {
    let started = Instant::now();
    hub::check_target(&args.output.out)?;
    let (_, run) = run_of(&args.checkpoint)?;
    if run.lora.is_some() {
        let reason = "trains adapters, and its checkpoints do not hold their base model";
        let hint = "its export folder has the adapters; fold them in with brazier model merge";
        let run = args.checkpoint.display();
        return Err(Failure::Input(format!("{run}: the run {reason}\n  hint: {hint}")));
    }
    let info = checkpoint::find_checkpoint(&args.checkpoint)?;
    let tokenizer = session::tokenizer(&run)?;
    let config = session::model_config(&run, &tokenizer)?;
    let expected = parameters(&config)?;
    let imported =
        session::stored_weights(&run.model, &config, expected.clone(), run.resize_vocabulary)?.weights;
    let saved = saved_parameters(&info)?;
    let kept = imported.first().map_or(HostDtype::F32, main_dtype);
    let tensors = expected
        .iter()
        .map(|(name, shape)| outgoing(name, shape, &saved, &imported))
        .collect::<Result<Vec<_>, _>>()?;
    // A tokenizer without the template's tokens cannot have rendered anything: the run was of texts.
    let template = ChatTemplate::choose(&run.data.template, &tokenizer)?;
    let template = Some(template).filter(|template| template.stop_ids(&tokenizer).is_ok());
    let options = ExportOptions {
        layout: match &run.model {
            ModelChoice::Join(parts) => args.output.layout.layout_of(&parts.language, &parts.vision)?,
            ModelChoice::Import(_) | ModelChoice::New(_) => args.output.layout.layout(),
        },
        max_shard_bytes: args.output.max_shard_size,
        dtype: match args.output.dtype {
            DtypeArg::Keep => kept,
            DtypeArg::F32 => HostDtype::F32,
            DtypeArg::Bf16 => HostDtype::Bf16,
        },
        dtype_policy: match args.output.dtype {
            DtypeArg::Keep => DtypePolicy::Keep,
            DtypeArg::F32 | DtypeArg::Bf16 => DtypePolicy::Cast,
        },
        ..trained_options(&config, &tokenizer, &run.model, template.as_ref())?
    };
    let summary =
        hub::export(&args.output.out, &config, tensors, tokenizer.path(), &options).map_err(written)?;
    say(format_args!("the model after step {}", info.step()));
    report(&summary, started.elapsed());
    Ok(ExitCode::SUCCESS)
}

/// A parameter of a run: as it was imported if it was frozen, as the checkpoint has it otherwise. In its imported element
/// type, should that be kept.
fn outgoing<'a>(
    name: &str,
    shape: &[usize],
    saved: &'a HashMap<String, SavedParameter>,
    imported: &'a [Weights],
) -> Result<ExportTensor<'a>, Failure> {
    let missing = || {
        let reason = "is not in the checkpoint; was config.yaml of the run changed?";
        Failure::Input(format!("{name} {shape:?} {reason}"))
    };
    // A resized table has other rows than the files.
    let stored = imported
        .iter()
        .find_map(|weights| ExportTensor::stored(name, weights))
        .filter(|stored| stored.shape() == shape);
    let parameter = saved.get(name).ok_or_else(missing)?;
    if let (false, Some(stored)) = (parameter.is_trained, stored) {
        return Ok(stored);
    }
    if parameter.value.num_elements() != shape.iter().product::<usize>() {
        return Err(missing());
    }
    let kept = imported.iter().find_map(|weights| weights.dtype(name));
    Ok(
        ExportTensor::borrowed(name.into(), shape.to_vec(), &parameter.value)
            .kept_as(kept.unwrap_or(parameter.value.dtype)),
    )
}
