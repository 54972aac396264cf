//! The numbers that depend on the data: steps of epochs and ratios.

use std::fmt;

use super::{
    error::ConfigError,
    run::{Length, Part, RunConfig, ScheduleChoice, Shape, TrainChoice},
    written::Errors,
};
use crate::{
    data::{BatchPlan, Packing, Stream},
    learner::options::{RunOptions, ScheduleConfig, ScheduleKind, StepConfig},
    parallel::World,
};

/// All that was left open, once the training samples are known.
#[derive(Debug, Clone, PartialEq)]
pub struct RunPlan {
    /// The run as the learner sees it.
    pub options: RunOptions,
    /// How the stream of rows is cut.
    pub batch: BatchPlan,
    /// What to print before the first step.
    pub numbers: DerivedNumbers,
}

/// Numbers that follow from the configuration and the data. Displayed as a few aligned lines.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DerivedNumbers {
    /// Rows of one forward pass on one rank: samples, or several of them each.
    pub micro_batch_size: usize,
    /// Micro-batches of one step on one rank.
    pub accumulation: usize,
    /// Ranks that see different rows, or groups of ranks that hold one model together.
    pub world_size: usize,
    /// Ranks of such a group.
    pub tensor: usize,
    /// Rows of one step over all ranks.
    pub rows_per_step: usize,
    /// Longest row, in tokens.
    pub sequence_length: usize,
    /// Most tokens of one step.
    pub max_tokens_per_step: usize,
    /// Training samples.
    pub num_samples: usize,
    /// How they share rows, if they do.
    pub packing: Option<Packing>,
    /// Steps of one epoch, the first, rounded up.
    pub steps_per_epoch: u64,
    /// Steps of the run.
    pub total_steps: u64,
    /// Passes over the training samples.
    pub epochs: f64,
    /// Steps of warm-up.
    pub warmup_steps: u64,
}

impl fmt::Display for DerivedNumbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            micro_batch_size,
            accumulation,
            world_size,
            tensor,
            rows_per_step,
            packing,
            ..
        } = self;
        let ranks = match tensor {
            1 => "ranks".to_owned(),
            _ => format!("groups of {tensor} ranks"),
        };
        let what = match packing {
            Some(_) => "rows per step    ",
            None => "samples per step ",
        };
        writeln!(
            f,
            "{what} {rows_per_step} = {micro_batch_size} in a micro-batch x {accumulation} accumulated \
             x {world_size} {ranks}"
        )?;
        if let Some(packing) = packing {
            writeln!(f, "packing           {packing}")?;
        }
        let Self {
            max_tokens_per_step,
            sequence_length,
            ..
        } = self;
        writeln!(
            f,
            "tokens per step   at most {max_tokens_per_step} = {rows_per_step} x {sequence_length}"
        )?;
        let Self {
            total_steps,
            epochs,
            num_samples,
            steps_per_epoch,
            warmup_steps,
            ..
        } = self;
        let epochs = (epochs * 100.0).round() / 100.0;
        writeln!(
            f,
            "steps             {total_steps} = {epochs} epochs of {num_samples} samples, {steps_per_epoch} steps each"
        )?;
        write!(f, "warm-up           {warmup_steps} steps")
    }
}

impl RunConfig {
    /// Turns epochs and ratios into steps.
    ///
    /// # Errors
    /// If there is no sample, or the parts of the schedule are longer than the run.
    pub fn plan(&self, stream: &Stream) -> Result<RunPlan, Vec<ConfigError>> {
        let num_samples = stream.samples_per_epoch();
        let mut errors = Errors::new(&self.written);
        if num_samples == 0 {
            errors.refuse(
                "data.train",
                "holds no sample",
                Some("check the files, and data.too_long"),
            );
            return Err(errors.list);
        }
        let TrainChoice {
            mode,
            precision,
            recompute,
            ref optimizer,
            max_grad_norm,
            ..
        } = self.train;
        let TrainChoice {
            micro_batch_size,
            accumulation,
            length,
            schedule,
            ..
        } = self.train;
        let tensor = self.parallel.learner.tensor;
        let World {
            rank,
            size: world_size,
        } = self.world.of_data(tensor);
        let rows_per_step = [accumulation, world_size]
            .into_iter()
            .try_fold(micro_batch_size, usize::checked_mul)
            .filter(|rows| u32::try_from(*rows).is_ok());
        let Some(rows_per_step) = rows_per_step else {
            let reason = format!(
                "{micro_batch_size} rows in a micro-batch x {accumulation} x {world_size} ranks are more than a step can have"
            );
            errors.refuse("train.accumulation", &reason, Some("lower them"));
            return Err(errors.list);
        };
        let (total_steps, total_rows) = match length {
            Length::Steps(steps) => (steps, None),
            Length::Epochs(epochs) => {
                let rows = stream.rows_in(epochs);
                (rows.div_ceil(rows_per_step as u64), Some(rows))
            }
        };
        let schedule = schedule.over(total_steps, &mut errors);
        if !errors.list.is_empty() {
            return Err(errors.list);
        }
        let rows_per_epoch = stream.rows_of(0);
        let steps_per_epoch = rows_per_epoch.div_ceil(rows_per_step as u64);
        let sequence_length = self.data.sequence_length;
        let numbers = DerivedNumbers {
            micro_batch_size,
            accumulation,
            world_size,
            tensor,
            rows_per_step,
            sequence_length,
            max_tokens_per_step: rows_per_step * sequence_length,
            num_samples,
            packing: stream.packing(),
            steps_per_epoch,
            total_steps,
            epochs: match length {
                Length::Steps(steps) => steps as f64 * rows_per_step as f64 / rows_per_epoch as f64,
                Length::Epochs(epochs) => epochs,
            },
            warmup_steps: schedule.warmup_steps,
        };
        let step = StepConfig {
            mode,
            precision,
            recompute,
            optimizer: optimizer.clone(),
            schedule,
            max_grad_norm,
            seed: self.seed,
        };
        let options = RunOptions {
            step,
            total_steps,
            steps_per_epoch,
            log_every: self.log_every,
            save_every: self.checkpoint.every,
            eval: self.eval.clone(),
            seed: self.seed,
            peak_tflops: self.peak_tflops,
        };
        let batch = BatchPlan {
            micro_batch_size,
            accumulation,
            rank,
            world_size,
            total_rows,
        };
        Ok(RunPlan {
            options,
            batch,
            numbers,
        })
    }
}

impl ScheduleChoice {
    /// The schedule of a run of `total_steps`.
    pub(super) fn over(self, total_steps: u64, errors: &mut Errors) -> ScheduleConfig {
        const HINT: Option<&str> = Some("lower it, or raise train.steps or train.epochs");
        let warmup_steps = self.warmup.steps(total_steps);
        if warmup_steps > total_steps {
            let reason = format!("larger than the run's {total_steps} steps");
            errors.refuse("train.schedule.warmup_steps", &reason, HINT);
        }
        let kind = match self.shape {
            Shape::Constant => ScheduleKind::Constant,
            Shape::Linear { min_factor } => ScheduleKind::Linear { min_factor },
            Shape::Cosine { min_factor } => ScheduleKind::Cosine { min_factor },
            Shape::InverseSqrt { timescale } => ScheduleKind::InverseSqrt { timescale },
            Shape::Wsd { decay, min_factor } => {
                let decay_steps = decay.steps(total_steps);
                if warmup_steps <= total_steps && decay_steps > total_steps - warmup_steps {
                    let key = match decay {
                        Part::Steps(_) => "train.schedule.decay_steps",
                        Part::Ratio(_) => "train.schedule.decay_ratio",
                    };
                    let reason = format!(
                        "{decay_steps} steps of decay after {warmup_steps} of warm-up are more than the run's {total_steps}"
                    );
                    errors.refuse(key, &reason, HINT);
                }
                ScheduleKind::Wsd {
                    decay_steps,
                    min_factor,
                }
            }
        };
        ScheduleConfig {
            kind,
            warmup_steps,
            total_steps,
        }
    }
}

impl Part {
    fn steps(self, total_steps: u64) -> u64 {
        match self {
            Part::Steps(steps) => steps,
            Part::Ratio(ratio) => (ratio * total_steps as f64).ceil() as u64,
        }
    }
}
