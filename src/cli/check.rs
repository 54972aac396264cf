//! `brazier check`

use std::{process::ExitCode, sync::Arc};

use brazier_models::{LoraConfig, VlmConfig};
use clap::Args;

use super::{ConfigArgs, Failure, print, rows, say, session};
use crate::{
    cluster::doctor::{Machine, available_memory},
    config::{
        AutoRecompute, ImagesOfRun, RunConfig, RunPlan, VisionCachePlan, VisionCacheRoom, num_parameters,
    },
    data::{BadRows, Dataset, Grouping, Split, Stream, count_rows},
    device,
    device_choice::DeviceChoice,
    fs,
    track::process_memory,
};

/// Rows of logits that the loss holds at once at most; see `ops::linear_cross_entropy`.
fn logit_rows(run: &RunConfig, model: &VlmConfig) -> usize {
    let most_labelled = run.train.micro_batch_size * run.data.sequence_length;
    let vocabulary = model.text.vocab_size.div_ceil(run.parallel.learner.tensor);
    brazier_models::ops::logit_rows(most_labelled, vocabulary)
}

#[derive(Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Open all rows and decode all images as training would, and report every one that is wrong
    #[arg(long)]
    data: bool,
    /// Show the first N training rows token by token, with what is trained of them
    #[arg(long, value_name = "N")]
    masks: Option<usize>,
}

/// Decides `train.recompute: auto`.
pub(super) fn settle_recompute(
    run: &mut RunConfig,
    model: &VlmConfig,
    lora: Option<&LoraConfig>,
    device: DeviceChoice,
) -> Result<(), Failure> {
    let Some(AutoRecompute { memory }) = run.train.auto_recompute else {
        return Ok(());
    };
    let is_cpu = matches!(device, DeviceChoice::Flex | DeviceChoice::Ndarray);
    let host = || {
        let free = available_memory(&Machine).filter(|_| is_cpu)?;
        // All ranks may be on this host.
        Some(free / run.world.size as u64)
    };
    let available = memory.or_else(host).ok_or_else(|| {
        Failure::Input(format!(
            "train.recompute: auto: how much memory {device} has is not known\n  hint: write train.memory_gib, for instance \
             80"
        ))
    })?;
    let rows = logit_rows(run, model);
    if let Some(decision) = run.settle_recompute(model, lora, rows, available) {
        say(format_args!("recompute        {decision}"));
    }
    Ok(())
}

/// The images of a run's data sets.
pub(super) fn images_of_run(epochs: f64, train: &Dataset, eval: Option<&Dataset>) -> ImagesOfRun {
    ImagesOfRun {
        train: train.num_images(),
        train_shares: train.report().images > train.num_images(),
        epochs,
        eval: eval.map_or(0, Dataset::num_images),
    }
}

/// The cache of vision features of a run over these data sets, if there is to be one.
pub(super) fn vision_cache(
    run: &RunConfig,
    model: &VlmConfig,
    lora: Option<&LoraConfig>,
    device: DeviceChoice,
    images: ImagesOfRun,
) -> Option<VisionCachePlan> {
    // All ranks may be on this host; those of this process share its cache.
    let own = process_memory().map_or(0, |memory| memory.resident_bytes);
    // What this process has already counts against the limit of a cgroup, and the rows of all ranks are alike.
    let free = available_memory(&Machine).unwrap_or(0).saturating_sub(own) / run.world.size as u64;
    let estimate = run.memory(model, lora, logit_rows(run, model));
    let step = match device {
        DeviceChoice::Flex | DeviceChoice::Ndarray => estimate.total_bytes(),
        DeviceChoice::Auto | DeviceChoice::Cuda { .. } | DeviceChoice::Wgpu => 0,
    };
    // Parameter, master and two moments of each: every rank holds the whole of a checkpoint while it is made.
    let checkpoint = 16 * estimate.counts.total();
    let needed = step + estimate.offloaded_bytes + checkpoint;
    let free = free.saturating_sub(needed) * run.parallel.devices as u64;
    run.vision_cache(model, lora, images, free)
}

pub(super) fn check(args: &CheckArgs) -> Result<ExitCode, Failure> {
    let mut run = args.config.resolve()?;
    let looks_at_rows = args.data || args.masks.is_some();
    let is_drawn = fs::exists(&run.data.tokenizer);
    let is_packed = is_packed(&run);
    if run.synth.is_some() && !is_drawn {
        if looks_at_rows {
            let hint = "hint: run `brazier data synth` first";
            return Err(Failure::Input(format!("the data set is not drawn yet\n  {hint}")));
        }
        // How many rows they are packed into, nobody knows yet.
        if let (Some(choice), false) = (&run.synth, is_packed) {
            // The shapes that are still to be drawn have one row per picture.
            print(
                run.plan(&Stream::of_samples(choice.options.train_images))?
                    .numbers,
            );
        }
        say(
            "the tokenizer is drawn with the data set; run `brazier data synth` or `brazier train` to see the rest",
        );
        return Ok(ExitCode::SUCCESS);
    }
    let tokenizer = Arc::new(session::tokenizer(&run)?);
    let model = session::model_config(&run, &tokenizer)?;
    let adapters = session::adapters(&run, &model)?;
    let lora = adapters.as_ref().map(|adapters| &adapters.config);
    let device = device::decide(run.device)?;
    settle_recompute(&mut run, &model, lora, device)?;
    let policy = if args.data {
        BadRows::List
    } else {
        run.data.bad_rows
    };
    let train = match is_packed || looks_at_rows {
        true => Some(session::open_data(
            &run,
            &model,
            &tokenizer,
            Split::Train,
            policy,
        )?),
        false => None,
    };
    let plan = match &train {
        Some(train) => run.plan(train.stream())?,
        None => run.plan(&Stream::of_samples(count_rows(&run.data.train, &run.data.cache)?))?,
    };
    print(plan.numbers);
    print(run.memory(&model, lora, logit_rows(&run, &model)));
    let epochs = plan.numbers.epochs;
    let images = match &train {
        Some(train) => images_of_run(epochs, train, None),
        // How many there are, nobody knows yet.
        None => ImagesOfRun {
            train: 1,
            train_shares: true,
            epochs,
            eval: 0,
        },
    };
    match (vision_cache(&run, &model, lora, device, images), &train) {
        (Some(cache), Some(_)) => print(format_args!("vision cache     {cache}")),
        (Some(cache), None) => print(format_args!("vision cache     {}", VisionCacheRoom(cache))),
        (None, _) => {}
    }
    if let (Some(count), Some(train)) = (args.masks, &train) {
        rows::show_masks(train, count)?;
    }
    match train.filter(|_| args.data) {
        Some(train) => rows::check_data(&run, &model, &tokenizer, train),
        None => Ok(ExitCode::SUCCESS),
    }
}

fn is_packed(run: &RunConfig) -> bool {
    matches!(run.data.grouping, Grouping::Packed { .. })
}

/// The numbers of a run, from its configuration and the number of its rows. Only where samples share rows are they opened.
pub(super) fn plan(run: &RunConfig) -> Result<RunPlan, Failure> {
    let num_samples = match (is_packed(run), &run.synth) {
        (true, _) => {
            let tokenizer = Arc::new(session::tokenizer(run)?);
            let model = session::model_config(run, &tokenizer)?;
            let train = session::open_data(run, &model, &tokenizer, Split::Train, run.data.bad_rows)?;
            return Ok(run.plan(train.stream())?);
        }
        // The shapes that are still to be drawn have one row per picture.
        (false, Some(choice)) => choice.options.train_images,
        (false, None) => count_rows(&run.data.train, &run.data.cache)?,
    };
    Ok(run.plan(&Stream::of_samples(num_samples))?)
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
