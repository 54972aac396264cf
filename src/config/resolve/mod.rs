//! From what the user wrote to what the program uses: defaults, derived values and every cross-check. An
//! option that would have no effect is an error.
//!
//! Where something is wrong, resolving goes on with a value that leads to no further complaint.

mod data;
mod eval;
mod model;
mod parallel;
mod rows;
mod train;

use super::{
    Loaded,
    error::{ConfigError, closest, in_file_order},
    fit::{check_device, check_model, check_shards},
    raw::{RawConfig, RawConsole, RawTrack},
    run::{ModelChoice, RunConfig},
    written::Errors,
};
use crate::{
    device_choice::DeviceChoice,
    learner::options::TrainMode,
    parallel::World,
    track::{ConsoleKind, TrackOptions},
};

/// Makes the configuration of a run. Looks whether the files exist, and opens none of them.
///
/// # Errors
/// Everything that is wrong and can be seen without the data, the tokenizer and an imported model's
/// `config.json`; for these there are [`RunConfig::plan`], [`RunConfig::model_config`] and
/// [`RunConfig::check_model`].
pub fn resolve(loaded: &Loaded, world: World) -> Result<RunConfig, Vec<ConfigError>> {
    let Loaded { raw, written } = loaded;
    let RawConfig {
        output,
        device,
        seed,
        model,
        data,
        train,
        parallel,
        eval,
        checkpoint,
        track,
    } = raw.clone();
    let RawTrack {
        console,
        log_every,
        tensorboard,
        peak_tflops,
    } = track;
    let mut errors = Errors::new(written);

    let (world, parallel) = parallel::resolve(&parallel, world, train.recompute, &mut errors);
    let synth = data::synth(data.synth.as_ref(), &model, &mut errors);
    let data = data::resolve(
        data,
        synth.as_ref(),
        &model,
        train.micro_batch_size,
        seed,
        &mut errors,
    );
    let eval = eval::evaluation(eval, &train, !data.eval.is_empty(), &mut errors);
    let checkpoint = eval::checkpoint(checkpoint, &eval, !data.eval.is_empty(), &mut errors);
    let run = RunConfig {
        device: device_choice(&device, &mut errors),
        seed,
        resize_vocabulary: model::resize_vocabulary(&model, &mut errors),
        image_token: model::image_token(&model, &mut errors),
        head: model::head(model.head.clone(), &mut errors),
        lora: model::lora(&model, train.mode, &mut errors),
        model: model::resolve(model, &mut errors),
        synth,
        data,
        train: train::resolve(train, world, parallel.learner.tensor, &mut errors),
        eval,
        checkpoint,
        track: TrackOptions {
            dir: output.clone(),
            console: console_kind(console),
            tensorboard,
        },
        output,
        log_every,
        peak_tflops,
        world,
        parallel,
        raw: raw.clone(),
        written: written.clone(),
    };
    check_device(run.device, run.train.precision, &mut errors);
    check_groups(run.train.mode, &mut errors);
    if let ModelChoice::New(new) = &run.model {
        check_model(&new.config, &run.train, &run.data, &mut errors);
        check_shards(&new.config, run.parallel.learner.tensor, &mut errors);
    }
    if errors.list.is_empty() {
        Ok(run)
    } else {
        Err(in_file_order(errors.list))
    }
}

fn device_choice(name: &str, errors: &mut Errors) -> DeviceChoice {
    name.parse().unwrap_or_else(|_| {
        let meant = closest(name, ["auto", "cuda", "wgpu", "flex", "ndarray"]);
        let hint = meant.map(|meant| format!("did you mean {meant}?"));
        errors.refuse(
            "device",
            "expected auto, cuda, cuda:<index>, wgpu, flex or ndarray",
            hint.as_deref(),
        );
        DeviceChoice::Auto
    })
}

fn console_kind(raw: RawConsole) -> ConsoleKind {
    match raw {
        RawConsole::Auto => ConsoleKind::Auto,
        RawConsole::Bar => ConsoleKind::Bar,
        RawConsole::Json => ConsoleKind::Json,
        RawConsole::None => ConsoleKind::None,
    }
}

/// A learning rate for a part that the mode leaves alone would never be used.
fn check_groups(mode: TrainMode, errors: &mut Errors) {
    let resting: &[&str] = match mode {
        TrainMode::Alignment => &["vision", "language"],
        TrainMode::EndToEnd => &["vision"],
        TrainMode::LmOnly => &["projector", "vision"],
        TrainMode::Full => &[],
    };
    for part in resting {
        let key = format!("train.optimizer.groups.{part}");
        errors.no_effect(&key, "train.mode leaves this part as it is");
    }
}
