//! `brazier train`

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Instant,
};

use brazier_models::{Head, Vlm};
use burn::tensor::Device;
use clap::Args;
use sha2::{Digest, Sha256};

use super::{
    ConfigArgs, Failure, STOPPED, check, model, say,
    session::{self, Session},
    show,
};
use crate::{
    checkpoint::{self, AsyncWriter, CheckpointInfo, CheckpointStore, Start, decide_start},
    config::{ModelChoice, RunConfig, RunPlan},
    data::{Loader, data_files},
    device, fs,
    learner::{
        Answer, Evaluation, Evaluator, Learner, Outcome, Run, RunEnd, compute_dtype, fresh_state,
        resume_state,
    },
    parallel::Launch,
    signal::StopRequest,
    track::{self, RunLog, Sample},
};

/// Rows that were skipped, in the run directory.
const BAD_ROWS: &str = "bad_rows.jsonl";
/// Answers that are shown at the end of a run.
const SHOWN_ANSWERS: usize = 6;
/// Answers that go into the report.
const REPORTED_ANSWERS: usize = 60;

#[derive(Args)]
pub(super) struct TrainArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// auto | none | a checkpoint or run directory; overrides checkpoint.resume
    #[arg(long, value_name = "auto|none|PATH")]
    resume: Option<String>,
    /// auto | cuda[:INDEX] | wgpu | flex | ndarray; overrides device
    #[arg(long)]
    device: Option<String>,
    /// The run directory; overrides output
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
}

impl TrainArgs {
    /// Flags are `--set` by another name, so that the run directory's config.yaml tells what was used.
    fn with_flags(&self) -> ConfigArgs {
        let mut sets = self.config.sets.clone();
        let mut set = |key: &str, value: &str| {
            sets.push(format!("{key}={}", serde_json::Value::from(value)));
        };
        if let Some(resume) = &self.resume {
            set("checkpoint.resume", resume);
        }
        if let Some(device) = &self.device {
            set("device", device);
        }
        if let Some(output) = &self.output {
            set("output", &output.to_string_lossy());
        }
        ConfigArgs {
            config: self.config.config.clone(),
            sets,
            leave_out: self.config.leave_out.clone(),
        }
    }
}

/// Several processes that know nothing of each other would write each other's files.
fn refuse_several(launch: &Launch) -> Result<(), Failure> {
    let Launch { launcher, world, .. } = launch;
    match world.size {
        1 => Ok(()),
        size => Err(Failure::Input(format!(
            "{} started {size} processes, of which this is number {}: training on several devices is not built yet\n  \
             hint: start one process, for instance with srun --ntasks=1",
            launcher.name(),
            world.rank
        ))),
    }
}

pub(super) fn train(args: &TrainArgs) -> Result<ExitCode, Failure> {
    let started = Instant::now();
    let stop = StopRequest::listen().map_err(anyhow::Error::from)?;
    refuse_several(&Launch::from_env(&|name| std::env::var(name).ok())?)?;
    let run = args.with_flags().resolve()?;
    // Before the data: reading it may take minutes, and a device that is not there takes none to notice.
    let device_choice = device::decide(run.device)?;
    run.check_device(device_choice)?;
    let device = device::open(device_choice, compute_dtype(run.train.precision))?;
    let session = Session::open(&run)?;
    let plan = run.plan(session.train.stream())?;
    let store = Arc::new(CheckpointStore::open(&run.output.join("checkpoints"))?);
    let import = match &run.model {
        ModelChoice::Import(dir) => Some(dir.as_path()),
        ModelChoice::Join(parts) => Some(parts.language.as_path()),
        ModelChoice::New(_) => None,
    };
    let start = decide_start(&run.checkpoint.resume, &store, import)?;
    let lora = session.adapters.as_ref().map(|adapters| &adapters.config);
    check::describe(&run, &session.model, lora, Some(&plan));
    say(format_args!("device           {device_choice}"));

    let training = prepare(&run, &session, &plan, device, start, store, stop)?;
    let Outcome {
        end,
        learner,
        evaluation,
        mut log,
    } = training.run()?;
    if let RunEnd::Requested { by } = end {
        let step = learner.finished_steps();
        log.message(&format!(
            "stopped by {by} after step {step}; the same command goes on from there"
        ));
        log.finish()?;
        return Ok(ExitCode::from(STOPPED));
    }
    if end == RunEnd::EarlyStopped {
        log.message("stopped early: no improvement within the patience");
    }
    log.finish()?;
    conclude(args, &run, &session, &learner, evaluation.as_ref(), started)?;
    Ok(ExitCode::SUCCESS)
}

/// Puts model, data, log and writer together at the step where the run begins.
fn prepare(
    run: &RunConfig,
    session: &Session,
    plan: &RunPlan,
    device: Device,
    start: Start,
    store: Arc<CheckpointStore>,
    stop: StopRequest,
) -> Result<Run, Failure> {
    let dtype = compute_dtype(run.train.precision);
    let yaml = run.to_yaml().map_err(anyhow::Error::from)?;
    let config_hash = format!("{:x}", Sha256::digest(&yaml));
    let adapters = session.adapters.as_ref();
    let model = match (&start, adapters) {
        // A checkpoint of adapters does not hold their base model.
        (Start::Import(_), _) | (_, Some(_)) => session::import_choice(
            &run.model,
            &session.model,
            adapters,
            run.resize_vocabulary,
            run.seed,
            &device,
            dtype,
        )?,
        (Start::Scratch | Start::Resume(_) | Start::Other(_), None) => {
            Vlm::init(&session.model, run.seed, &device, dtype)?
        }
    };
    let mut learner = Learner::new(model, plan.options.step.clone(), device)?;
    let mut order = session.data_order(run, plan.numbers.rows_per_step);
    order.extend(
        learner
            .base_digest()
            .map(|digest| ("model.from weights".to_owned(), digest)),
    );
    let fresh = fresh_state(&learner, config_hash, order);
    let state = match &start {
        Start::Resume(info) | Start::Other(info) => resume(&mut learner, info, fresh)?,
        Start::Import(dir) => {
            say(format_args!("starting from the weights in {}", show(dir)));
            fresh
        }
        Start::Scratch => fresh,
    };
    fs::write_atomic(&run.output.join("config.yaml"), yaml.as_bytes())?;
    fs::write_atomic(
        &run.output.join("env.json"),
        environment(session, run)?.as_bytes(),
    )?;
    session::write_bad_rows(session, &run.output.join(BAD_ROWS))?;
    let step = learner.finished_steps();
    let (workers, prefetch) = (run.data.workers, run.data.prefetch);
    let evaluator = session
        .eval
        .clone()
        .map(|dataset| Evaluator::new(dataset, plan.options.eval.clone(), workers))
        .transpose()?;
    let checkpoint = &run.checkpoint;
    Ok(Run {
        loader: Loader::start(session.train.clone(), plan.batch, step, workers, prefetch)?,
        num_samples: session.train.epoch_len() as u64,
        evaluator,
        options: plan.options.clone(),
        log: RunLog::open(&run.track, plan.options.total_steps, step)?,
        writer: AsyncWriter::new(store, checkpoint.keep.clone(), checkpoint.ranking.clone()),
        save_best: checkpoint.keep.best > 0,
        stop,
        state,
        learner,
    })
}

fn resume(
    learner: &mut Learner,
    info: &CheckpointInfo,
    fresh: checkpoint::RunState,
) -> Result<checkpoint::RunState, Failure> {
    let snapshot = checkpoint::load(info)?;
    if snapshot.state.config_hash != fresh.config_hash {
        say("note: the configuration has changed since the checkpoint was written");
    }
    let state = resume_state(learner, snapshot, fresh)?;
    say(format_args!(
        "going on from step {} ({})",
        state.step,
        show(&info.path)
    ));
    Ok(state)
}

/// What one wants to know of a run a year later.
fn environment(session: &Session, run: &RunConfig) -> Result<String, Failure> {
    let hash = |path: PathBuf| -> Result<(String, String), Failure> {
        let bytes = fs::mmap(&path)?;
        Ok((
            path.display().to_string(),
            format!("{:x}", Sha256::digest(&bytes[..])),
        ))
    };
    let files = [&run.data.train[..], &run.data.eval].concat();
    let files: std::collections::BTreeMap<_, _> = data_files(&files)?
        .into_iter()
        .map(hash)
        .collect::<Result<_, _>>()?;
    let environment = serde_json::json!({
        "brazier": env!("CARGO_PKG_VERSION"),
        "device": device::decide(run.device)?.to_string(),
        "world_size": run.world.size,
        "train": session.train.report().to_string(),
        "data_sha256": files,
    });
    Ok(serde_json::to_string_pretty(&environment).map_err(anyhow::Error::from)?)
}

/// Export, report, and a word on what there is now.
fn conclude(
    args: &TrainArgs,
    run: &RunConfig,
    session: &Session,
    learner: &Learner,
    evaluation: Option<&Evaluation>,
    started: Instant,
) -> Result<(), Failure> {
    if let Some(evaluation) = evaluation {
        // Spread over the held-out rows, which are sorted by how they were drawn.
        let spread = |count: usize| -> Vec<&Answer> {
            let len = evaluation.answers.len();
            (0..count.min(len))
                .map(|at| &evaluation.answers[(2 * at + 1) * len / (2 * count.min(len))])
                .collect()
        };
        let samples: Vec<Sample> = spread(REPORTED_ANSWERS)
            .into_iter()
            .map(to_sample)
            .collect::<Result<_, _>>()?;
        track::write_samples(&run.output, &samples)?;
        write_predictions(run, session, evaluation)?;
        print_answers(&spread(SHOWN_ANSWERS));
        for (name, value) in &evaluation.metrics {
            say(format_args!("{name:<32} {value:.4}"));
        }
    }
    let report = track::write_report(&run.output)?;
    say(format_args!(
        "\nfinished after {}",
        in_words(started.elapsed().as_secs())
    ));
    say(format_args!("  run directory  {}", show(&run.output)));
    say(format_args!("  report         {}", show(&report)));
    match session.bad_rows().count() {
        0 => {}
        count => say(format_args!(
            "  skipped rows   {} ({count})",
            show(&run.output.join(BAD_ROWS))
        )),
    }
    if run.checkpoint.export {
        let dir = run.output.join("export");
        if let (Some(_), ModelChoice::Import(base)) = (learner.model().lora(), &run.model) {
            model::export_adapter(learner, base, &dir)?;
            print_adapter(base, &dir, &session.model.head);
            return Ok(());
        }
        let template = session
            .train
            .has_conversations()
            .then(|| session.train.template());
        let options = model::trained_options(&session.model, &session.tokenizer, &run.model, template)?;
        let summary = model::export_model(learner.model(), &session.tokenizer, options, &dir)?;
        say(format_args!(
            "  exported model {} ({}; {})",
            show(&dir),
            summary.architecture,
            summary.layout.readers()
        ));
        let image = evaluation.and_then(|evaluation| {
            evaluation.answers.iter().find_map(|answer| {
                answer
                    .image
                    .as_ref()
                    .map(|image| format!(" --image {} --prompt '{}'", show(image), answer.question))
            })
        });
        let example = image.unwrap_or_else(|| " --prompt '…'".to_owned());
        say("\nnext:");
        if session.model.head == Head::Lm {
            say(format_args!("  brazier generate --model {}{example}", show(&dir)));
        }
    }
    say(format_args!(
        "  brazier train{} --set train.…    the same run with other settings: choose another --output",
        args.config.as_arguments()
    ));
    Ok(())
}

/// What can be done with adapters.
fn print_adapter(base: &Path, dir: &Path, head: &Head) {
    let (base, dir) = (show(base), show(dir));
    say(format_args!("  exported adapters {dir} (PEFT loads them)"));
    // The base model has no head for classes into which that of the adapters could be put.
    if *head != Head::Lm {
        return;
    }
    say(format_args!(
        "\nnext:\n  brazier generate --model {base} --adapter {dir} --prompt '…'\n  \
         brazier model merge --base {base} --adapter {dir} --output merged"
    ));
}

/// `predictions.jsonl`: what a classification head says of each held-out row.
fn write_predictions(run: &RunConfig, session: &Session, evaluation: &Evaluation) -> Result<(), Failure> {
    let Head::Classification { labels } = &session.model.head else {
        return Ok(());
    };
    let lines = evaluation.predictions.iter().map(|row| {
        let line = serde_json::json!({
            "file": row.sample.file.display().to_string(),
            "line": row.sample.line,
            "label": labels[row.class],
            "predicted": labels[row.predicted()],
            "probabilities": row.probabilities,
        });
        format!("{line}\n")
    });
    let text: String = lines.collect();
    fs::write_atomic(&run.output.join("predictions.jsonl"), text.as_bytes())?;
    Ok(())
}

fn to_sample(answer: &Answer) -> Result<Sample, Failure> {
    let image = answer.image.as_deref().map(fs::canonicalize).transpose()?;
    Ok(Sample {
        image,
        question: answer.question.clone(),
        reference: answer.reference.clone(),
        answer: answer.answer.clone(),
        kind: answer.tag.clone().unwrap_or_default(),
    })
}

fn print_answers(answers: &[&Answer]) {
    if answers.is_empty() {
        return;
    }
    say("\nheld-out images:");
    for answer in answers {
        let image = answer.image.as_deref().map(show).unwrap_or_default();
        let verdict = if answer.is_exact() {
            "right".to_owned()
        } else {
            format!("expected: {}", answer.reference)
        };
        say(format_args!(
            "  {image}\n    {}\n    -> {}   ({verdict})",
            answer.question, answer.answer
        ));
    }
    say("");
}

fn in_words(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}
