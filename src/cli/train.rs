//! `brazier train`

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Instant};

use brazier_models::{Vlm, ops};
use burn::tensor::Device;
use clap::Args;
use sha2::{Digest, Sha256};

use super::{
    ConfigArgs, Failure, STOPPED, check,
    conclude::conclude,
    ranks::{self, Terms, Way},
    say,
    session::{self, Place, Session},
    show, speak_as,
};
use crate::{
    checkpoint::{self, AsyncWriter, CheckpointInfo, CheckpointStore, Start, decide_start},
    config::{ModelChoice, RunConfig, VisionCachePlan, readable},
    data::{Loader, data_files},
    device,
    device_choice::DeviceChoice,
    fs,
    learner::{
        CachedImages, Evaluator, Learner, Outcome, Run, RunEnd, Saver, VisionCache, Watch, compute_dtype,
        fresh_state, options::Recompute, resume_state, shard_of,
    },
    parallel::{Group, Launch},
    signal::StopRequest,
    track::RunLog,
};

/// Rows that were skipped, in the run directory.
pub(super) const BAD_ROWS: &str = "bad_rows.jsonl";

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
    /// Train on so many devices of this host, one rank each; overrides parallel.devices
    #[arg(long, value_name = "N")]
    devices: Option<usize>,
    /// So many ranks hold one model together; overrides parallel.tensor
    #[arg(long, value_name = "N")]
    tensor: Option<usize>,
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
        sets.extend(self.devices.map(|devices| format!("parallel.devices={devices}")));
        sets.extend(self.tensor.map(|tensor| format!("parallel.tensor={tensor}")));
        ConfigArgs {
            config: self.config.config.clone(),
            sets,
            leave_out: self.config.leave_out.clone(),
        }
    }

    /// How to name this configuration in a command line.
    pub(super) fn as_arguments(&self) -> String {
        self.config.as_arguments()
    }
}

pub(super) fn train(args: &TrainArgs) -> Result<ExitCode, Failure> {
    let started = Instant::now();
    let stop = StopRequest::listen().map_err(anyhow::Error::from)?;
    let launch = Launch::from_env(&|name| std::env::var(name).ok())?;
    speak_as(launch.world.rank);
    let mut run = args.with_flags().resolve_for(launch.world)?;
    // Before the data: reading it may take minutes, and a device that is not there takes none to notice.
    let device_choice = device::decide(run.device)?;
    ops::choose(run.train.ops);
    run.check_device(device_choice)?;
    let own = device_choice.of_rank(launch.local_rank);
    device::set_up(own, run.data.cache.dir(), run.parallel.devices);
    if run.parallel.devices == 1 {
        device::compute_here(own);
    }
    let dtype = compute_dtype(run.train.precision);
    let remark = device::remark(&device::open(own, dtype)?, dtype);
    let terms = Terms {
        timeout: run.parallel.timeout,
        way: Way::choose(run.parallel.transport, device_choice, run.world.size)?,
        settings: run.to_yaml().map_err(anyhow::Error::from)?,
    };
    let group = ranks::join(&launch, &terms, device_choice)?;
    ranks::first_then_all(&group, || run.synth.as_ref().map_or(Ok(()), session::draw))?;
    let session = group.agree(Session::open(&run))?;
    let lora = session.adapters.as_ref().map(|adapters| &adapters.config);
    let settled = check::settle_recompute(&mut run, &session.model, lora, device_choice);
    group.agree(settled)?;
    // Where one has no room, none keeps.
    if group.any(run.train.recompute == Recompute::Blocks)? {
        run.train.recompute = Recompute::Blocks;
    }
    let plan = run.plan(session.train.stream())?;
    let is_first = group.world().rank == 0;
    let store = match is_first {
        true => CheckpointStore::open(&run.output.join("checkpoints")).map(|store| Some(Arc::new(store))),
        false => Ok(None),
    };
    let store = group.agree(store.map_err(Failure::from))?;
    let start = ranks::same_start(&group, store.as_deref().map(|store| decide(&run, store)))?;
    check::describe(&run, &session.model, lora, Some(&plan));
    say(format_args!("device           {device_choice}{remark}"));
    let images = check::images_of_run(plan.numbers.epochs, &session.train, session.eval.as_deref());
    let vision_cache = check::vision_cache(&run, &session.model, lora, device_choice, images);
    if let Some(cache) = vision_cache {
        say(format_args!("vision cache     {cache}"));
    }

    let job = Job {
        args,
        run: &run,
        session: &session,
        start: &start,
        store,
        stop,
        device: device_choice,
        vision_cache: vision_cache.map(Cache::new),
        started,
    };
    match run.parallel.devices {
        1 => ranks::as_one_of(Arc::new(group), |group| job.run(group, launch.local_rank)),
        devices => ranks::on_threads(devices, &terms, device_choice, |group| {
            let rank = group.world().rank;
            job.run(group, rank)
        }),
    }
}

fn decide(run: &RunConfig, store: &CheckpointStore) -> Result<Start, Failure> {
    let import = match &run.model {
        ModelChoice::Import(dir) => Some(dir.as_path()),
        ModelChoice::Join(parts) => Some(parts.language.as_path()),
        ModelChoice::New(_) => None,
    };
    Ok(decide_start(&run.checkpoint.resume, store, import)?)
}

/// The cache of vision features that the ranks of this process share.
struct Cache {
    held: Arc<VisionCache>,
    train: CachedImages,
    eval: CachedImages,
}

impl Cache {
    fn new(plan: VisionCachePlan) -> Self {
        let held = Arc::new(VisionCache::new(plan.capacity()));
        // Behind the last place there is no room for images that come only once.
        let places = |first, num_images| match num_images {
            0 => CachedImages::new(held.clone(), plan.capacity()),
            _ => CachedImages::new(held.clone(), first),
        };
        Self {
            train: places(0, plan.train_images),
            eval: places(plan.train_images, plan.eval_images),
            held,
        }
    }

    /// What it holds.
    fn describe(&self) -> String {
        let bytes = readable(self.held.bytes());
        format!("vision cache     {} images in {bytes}", self.held.num_held())
    }
}

/// What all ranks of this process need.
struct Job<'a> {
    args: &'a TrainArgs,
    run: &'a RunConfig,
    session: &'a Session,
    start: &'a Start,
    /// Checkpoints, where the first rank is.
    store: Option<Arc<CheckpointStore>>,
    stop: StopRequest,
    device: DeviceChoice,
    vision_cache: Option<Cache>,
    started: Instant,
}

impl Job<'_> {
    /// One rank, from its model to the end of the run.
    fn run(&self, group: Arc<Group>, local_rank: usize) -> Result<ExitCode, Failure> {
        let run = self.run.for_rank(group.world().rank);
        let session = self.session;
        let device = self.device.of_rank(local_rank);
        let training = prepare(self, &run, device, group.clone());
        let Outcome {
            end,
            learner,
            evaluation,
            log,
        } = group.agree(training)?.run()?;
        // Nobody looks at the model of a run that goes on later, and it may not fit as a whole.
        let model = match end {
            RunEnd::Requested { .. } => None,
            RunEnd::Finished | RunEnd::EarlyStopped => Some(learner.whole_model()?),
        };
        if let Some(mut log) = log {
            match end {
                RunEnd::Requested { by } => log.message(&format!(
                    "stopped by {by} after step {}; the same command goes on from there",
                    learner.finished_steps()
                )),
                RunEnd::EarlyStopped => log.message("stopped early: no improvement within the patience"),
                RunEnd::Finished => {}
            }
            if let Some(cache) = &self.vision_cache {
                log.message(&cache.describe());
            }
            log.finish()?;
            if let Some(model) = &model {
                conclude(
                    self.args,
                    &run,
                    session,
                    model,
                    learner.trainable(),
                    evaluation.as_ref(),
                    self.started,
                )?;
            }
        }
        Ok(match end {
            RunEnd::Requested { .. } => ExitCode::from(STOPPED),
            RunEnd::Finished | RunEnd::EarlyStopped => ExitCode::SUCCESS,
        })
    }
}

/// Makes a rank's model, or its part of one.
fn make_model(job: &Job, run: &RunConfig, device: &Device) -> Result<Vlm, Failure> {
    let Job { session, start, .. } = *job;
    let adapters = session.adapters.as_ref();
    let place = Place {
        device,
        dtype: compute_dtype(run.train.precision),
        shard: shard_of(run.world.of_tensor(run.parallel.learner.tensor)),
    };
    match (start, adapters) {
        // A checkpoint of adapters does not hold their base model.
        (Start::Import(_), _) | (_, Some(_)) => session::import_choice(
            &run.model,
            &session.model,
            adapters,
            run.resize_vocabulary,
            run.seed,
            &place,
        ),
        (Start::Scratch | Start::Resume(_) | Start::Other(_), None) => {
            session::draw_model(session, run.seed, &place)
        }
    }
}

/// Puts model, data, log and writer together at the step where the run begins.
fn prepare(job: &Job, run: &RunConfig, device: DeviceChoice, group: Arc<Group>) -> Result<Run, Failure> {
    let Job { session, start, .. } = *job;
    let plan = run.plan(session.train.stream())?;
    let yaml = run.to_yaml().map_err(anyhow::Error::from)?;
    let config_hash = format!("{:x}", Sha256::digest(&yaml));
    let device = device::open(device, compute_dtype(run.train.precision)).map_err(Failure::from);
    let made = device.and_then(|device| Ok((make_model(job, run, &device)?, device)));
    // Ranks that hold a model together need each other from here on.
    let (model, device) = group.agree(made)?;
    let is_first = group.world().rank == 0;
    let step = plan.options.step.clone();
    let mut learner = Learner::in_group(model, step, device, group, run.parallel.learner)?;
    let mut order = session.data_order(run, plan.numbers.rows_per_step);
    order.extend(
        learner
            .base_digest()
            .map(|digest| ("model.from weights".to_owned(), digest.to_owned())),
    );
    let fresh = fresh_state(&learner, config_hash, order);
    let state = match start {
        Start::Resume(info) | Start::Other(info) => resume(&mut learner, info, fresh)?,
        Start::Import(dir) => {
            say(format_args!("starting from the weights in {}", show(dir)));
            fresh
        }
        Start::Scratch => fresh,
    };
    if is_first {
        fs::write_atomic(&run.output.join("config.yaml"), yaml.as_bytes())?;
        let environment = environment(session, run)?;
        fs::write_atomic(&run.output.join("env.json"), environment.as_bytes())?;
        session::write_bad_rows(session, &run.output.join(BAD_ROWS))?;
    }
    let step = learner.finished_steps();
    let (workers, prefetch) = (run.data.workers, run.data.prefetch);
    let cache = job.vision_cache.as_ref();
    let vision = cache.and_then(|cache| learner.keep_vision_features(cache.train.clone()));
    let vision_of_eval = vision
        .as_ref()
        .zip(cache)
        .map(|(vision, cache)| vision.with_images(cache.eval.clone()));
    let evaluator = session
        .eval
        .clone()
        .map(|dataset| Evaluator::new(dataset, plan.options.eval.clone(), workers))
        .transpose()?
        .map(|evaluator| evaluator.with_vision(vision_of_eval));
    let train = session.train.clone();
    let loader = match &vision {
        Some(vision) => Loader::start_with_held(train, plan.batch, step, workers, prefetch, vision.held())?,
        None => Loader::start(train, plan.batch, step, workers, prefetch)?,
    };
    let checkpoint = &run.checkpoint;
    let store = job.store.clone().filter(|_| is_first);
    let writer =
        store.map(|store| AsyncWriter::new(store, checkpoint.keep.clone(), checkpoint.ranking.clone()));
    let saver = Saver::new(writer, learner.group())?;
    if is_first && learner.group().world().size > 1 && !saver.is_shared() {
        say("note: not all ranks see the folder of the checkpoints, so the first one writes them by itself");
    }
    Ok(Run {
        loader,
        num_samples: session.train.epoch_len() as u64,
        evaluator,
        options: plan.options.clone(),
        log: is_first
            .then(|| RunLog::open(&run.track, plan.options.total_steps, step))
            .transpose()?,
        saver,
        save_best: checkpoint.keep.best > 0,
        stop: job.stop.clone(),
        state,
        learner,
        watch: Watch::default(),
    })
}

fn resume(
    learner: &mut Learner,
    info: &CheckpointInfo,
    fresh: checkpoint::RunState,
) -> Result<checkpoint::RunState, Failure> {
    if info.state.config_hash != fresh.config_hash {
        say("note: the configuration has changed since the checkpoint was written");
    }
    let state = resume_state(learner, info, fresh)?;
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
