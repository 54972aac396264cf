//! `brazier check`

use std::process::ExitCode;

use brazier_models::{LoraConfig, VlmConfig};

use super::{ConfigArgs, Failure, print, say, session};
use crate::{
    config::{RunConfig, RunPlan, num_parameters},
    data::Tokenizer,
    fs,
};

/// Rows of logits that the loss holds at once at most; see `ops::linear_cross_entropy`.
fn logit_rows(run: &RunConfig, model: &VlmConfig) -> usize {
    let most_labelled = run.train.micro_batch_size * run.data.sequence_length;
    brazier_models::ops::logit_rows(most_labelled, model.text.vocab_size)
}

pub(super) fn check(args: &ConfigArgs) -> Result<ExitCode, Failure> {
    let run = args.resolve()?;
    // The shapes that are still to be drawn have one row per picture.
    let num_samples = match &run.synth {
        Some(choice) => choice.options.train_images,
        None => count_rows(&run)?,
    };
    let plan = run.plan(num_samples)?;
    if run.synth.is_some() && !fs::exists(&run.data.tokenizer) {
        print(plan.numbers);
        say(
            "the tokenizer is drawn with the data set; run `brazier data synth` or `brazier train` to see the rest",
        );
        return Ok(ExitCode::SUCCESS);
    }
    let tokenizer = Tokenizer::load(&session::locate(&run.data.tokenizer)?)?;
    let model = session::model_config(&run, &tokenizer)?;
    let adapters = session::adapters(&run, &model)?;
    print(plan.numbers);
    print(run.memory(
        &model,
        adapters.as_ref().map(|adapters| &adapters.config),
        logit_rows(&run, &model),
    ));
    Ok(ExitCode::SUCCESS)
}

/// Lines of the training files. Whether each is a good row, training finds out before its first step.
fn count_rows(run: &RunConfig) -> Result<usize, Failure> {
    let mut rows = 0;
    for path in &run.data.train {
        let bytes = fs::mmap(path)?;
        rows += bytes
            .split(|&byte| byte == b'\n')
            .filter(|line| !line.trim_ascii().is_empty())
            .count();
    }
    Ok(rows)
}

/// Prints what a run is about to do.
pub(super) fn describe(
    run: &RunConfig,
    model: &VlmConfig,
    lora: Option<&LoraConfig>,
    plan: Option<&RunPlan>,
) {
    let counts = num_parameters(model);
    say(format_args!(
        "parameters       {} (vision {}, projector {}, language {})",
        counts.total(),
        counts.vision,
        counts.projector,
        counts.language
    ));
    if let Some(plan) = plan {
        say(plan.numbers);
    }
    say(run.memory(model, lora, logit_rows(run, model)));
}
