//! The loop around the step: log, evaluate, save, stop.

use std::{collections::BTreeMap, time::Instant};

use super::{
    LearnerError,
    evaluate::{Depth, Evaluation, Evaluator},
    options::{Every, RunOptions},
    saving::Saver,
    step::{Learner, StepReport},
    watch::{OwnStep, Watch},
};
use crate::{
    checkpoint::{Best, CheckpointInfo, Metric, RunState},
    data::Loader,
    signal::StopRequest,
    track::{EvalRecord, RunLog, StepRecord, process_memory},
};

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunEnd {
    /// All steps were made.
    Finished,
    /// The metric had not improved for as many evaluations as the patience.
    EarlyStopped,
    /// Someone asked; a checkpoint of the last step is on the disk.
    Requested {
        /// Name of the signal.
        by: &'static str,
    },
}

/// What a run leaves.
pub struct Outcome {
    /// How it ended.
    pub end: RunEnd,
    /// The trained model and its optimizer.
    pub learner: Learner,
    /// The last evaluation, on all held-out rows; `None` without held-out data or on request.
    pub evaluation: Option<Evaluation>,
    /// The log, still open; the first rank's.
    pub log: Option<RunLog>,
}

/// Everything a run needs, put together by the command line.
pub struct Run {
    /// Model and optimizer, at the step where the run begins.
    pub learner: Learner,
    /// Delivers the batches from that step on.
    pub loader: Loader,
    /// Samples of one epoch.
    pub num_samples: u64,
    /// Held-out data.
    pub evaluator: Option<Evaluator>,
    /// When what recurs.
    pub options: RunOptions,
    /// Metrics and console, of the first rank.
    pub log: Option<RunLog>,
    /// Checkpoints.
    pub saver: Saver,
    /// Whether an evaluation that is the best so far saves a checkpoint.
    pub save_best: bool,
    /// Signals.
    pub stop: StopRequest,
    /// Counters, as the last checkpoint left them.
    pub state: RunState,
    /// Time, as of the last line of the log.
    pub watch: Watch,
}

impl Run {
    /// Trains to the end, or until someone stops it.
    ///
    /// # Errors
    /// Whatever stops training; the last committed checkpoint is intact.
    pub fn run(mut self) -> Result<Outcome, LearnerError> {
        match self.train() {
            Ok((end, evaluation)) => Ok(self.outcome(end, evaluation)),
            Err(error) => {
                // What all ranks know of leaves them able to complete the checkpoint that is under way.
                if error.is_shared() {
                    self.finish_writing()?;
                }
                Err(error)
            }
        }
    }

    fn train(&mut self) -> Result<(RunEnd, Option<Evaluation>), LearnerError> {
        let first_step = self.learner.finished_steps();
        while self.learner.finished_steps() < self.options.total_steps && !self.is_out_of_patience() {
            let before = self.state.samples;
            let Some(report) = self.step()? else { break };
            let step = self.learner.finished_steps();
            let last = step == self.options.total_steps;
            self.record(&report, last)?;
            // The final evaluation sees all held-out rows, so the last step needs no other.
            let evaluated = match !last && self.is_due(self.options.eval.every, before) {
                true => self.evaluate(Depth::During)?,
                false => None,
            };
            let improved = evaluated.as_ref().is_some_and(|(_, improved)| *improved);
            let requested = self.look_around()?;
            if !last
                && (requested.is_some()
                    || self.is_due(self.options.save_every, before)
                    || (improved && self.save_best))
            {
                self.save(evaluated.as_ref().map(|(evaluation, _)| evaluation))?;
            }
            if let Some(by) = requested.filter(|_| !last) {
                self.finish_writing()?;
                return Ok((RunEnd::Requested { by }, None));
            }
        }
        let end = match self.learner.finished_steps() < self.options.total_steps && self.is_out_of_patience()
        {
            true => RunEnd::EarlyStopped,
            false => RunEnd::Finished,
        };
        let evaluation = self.evaluate(Depth::Final)?.map(|(evaluation, _)| evaluation);
        // A finished run that is started again has nothing new to save.
        if self.learner.finished_steps() > first_step {
            self.save(evaluation.as_ref())?;
            self.finish_writing()?;
        }
        Ok((end, evaluation))
    }

    fn outcome(self, end: RunEnd, evaluation: Option<Evaluation>) -> Outcome {
        Outcome {
            end,
            learner: self.learner,
            evaluation,
            log: self.log,
        }
    }

    /// Takes the next batches and learns from them. `None` at the end of the data.
    fn step(&mut self) -> Result<Option<TimedReport>, LearnerError> {
        let started = Instant::now();
        let batches = match self.loader.next_step() {
            // The plan says so to every rank.
            Ok(None) => return Ok(None),
            Ok(Some(batches)) => Ok(batches),
            Err(error) => Err(LearnerError::from(error)),
        };
        let data_seconds = started.elapsed().as_secs_f64();
        let report = self.learner.step_or_fail(batches)?;
        let state = &mut self.state;
        state.step = self.learner.finished_steps();
        state.samples += report.samples;
        state.tokens += report.tokens;
        state.labelled_tokens += report.labelled_tokens;
        Ok(Some(TimedReport {
            report,
            data_seconds,
            step_seconds: started.elapsed().as_secs_f64(),
        }))
    }

    fn record(&mut self, timed: &TimedReport, last: bool) -> Result<(), LearnerError> {
        let step = self.state.step;
        if !step.is_multiple_of(self.options.log_every.max(1)) && !last {
            if let Some(log) = &self.log {
                log.progress(step);
            }
            return Ok(());
        }
        let epoch = self.epoch();
        let device_memory_bytes = crate::device::memory_in_use(self.learner.device());
        let process_memory_bytes = process_memory().map(|memory| memory.resident_bytes);
        let own = OwnStep {
            step_seconds: timed.step_seconds,
            data_seconds: timed.data_seconds,
            memory_bytes: device_memory_bytes.or(process_memory_bytes).unwrap_or(0),
        };
        let ranks = self
            .watch
            .record(self.learner.group(), own, self.options.log_every)?;
        let Some(log) = &mut self.log else {
            return Ok(());
        };
        if let Some(warning) = self.watch.warning(own.data_seconds, own.step_seconds) {
            log.message(&warning);
        }
        let TimedReport {
            report,
            data_seconds,
            step_seconds,
        } = *timed;
        let ranks_seconds = self.learner.group().world().size as f64 * step_seconds;
        let tflops = report.flops / ranks_seconds / 1e12;
        log.log_step(&StepRecord {
            step,
            epoch,
            loss: report.loss,
            lr: report.lr,
            grad_norm: report.grad_norm,
            tokens: report.tokens,
            labelled_tokens: report.labelled_tokens,
            samples: report.samples,
            step_seconds,
            data_seconds,
            forward_backward_seconds: report.forward_backward_seconds,
            optimizer_seconds: report.optimizer_seconds,
            tokens_per_second: report.tokens as f64 / step_seconds,
            samples_per_second: report.samples as f64 / step_seconds,
            tflops,
            vision_cache_hits: report.vision_cache.map(|cache| cache.hits),
            vision_cache_misses: report.vision_cache.map(|cache| cache.misses),
            mfu: self.options.peak_tflops.map(|peak| tflops / peak),
            total_tokens: self.state.tokens,
            device_memory_bytes,
            process_memory_bytes,
            ranks,
        })?;
        Ok(())
    }

    fn epoch(&self) -> f64 {
        self.state.samples as f64 / self.num_samples as f64
    }

    /// Whether the step that consumed the samples since `before` is one of those meant.
    fn is_due(&self, every: Every, before: u64) -> bool {
        match every {
            Every::Never => false,
            Every::Steps(steps) => self.state.step.is_multiple_of(steps.max(1)),
            Every::Epochs(epochs) => {
                let samples = self.num_samples * epochs.max(1);
                self.state.samples / samples > before / samples
            }
            Every::Ratio(ratio) => {
                let steps = Every::steps_of(ratio, self.options.total_steps);
                self.state.step.is_multiple_of(steps)
            }
        }
    }

    /// Evaluates, logs, and keeps count of improvements. Also tells whether this is the best so far.
    fn evaluate(&mut self, depth: Depth) -> Result<Option<(Evaluation, bool)>, LearnerError> {
        let Some(evaluator) = &self.evaluator else {
            return Ok(None);
        };
        let learner = &self.learner;
        let (device, dtype) = (learner.device(), learner.dtype());
        let model = learner.whole_model()?;
        let evaluation = evaluator.evaluate(&model, device, dtype, depth, learner.group())?;
        let record = EvalRecord {
            step: self.state.step,
            epoch: self.epoch(),
            metrics: evaluation.metrics.clone(),
            seconds: evaluation.seconds,
            samples: evaluation.samples,
        };
        if let Some(log) = &mut self.log {
            log.log_eval(&record)?;
        }
        let metric = self.metric(&evaluation);
        let improved = metric.is_some_and(|metric| self.improve(metric.value));
        // The final evaluation answers more questions; were it to count, a run that stopped early might not stay so.
        if depth == Depth::During {
            let without = self.state.evaluations_without_improvement;
            self.state.evaluations_without_improvement = if improved { 0 } else { without + 1 };
        }
        Ok(Some((evaluation, improved)))
    }

    fn metric(&self, evaluation: &Evaluation) -> Option<Metric> {
        let name = &self.options.eval.best.name;
        let (_, value) = evaluation.metrics.iter().find(|(key, _)| key == name)?;
        Some(Metric {
            name: name.clone(),
            value: *value,
        })
    }

    /// Whether a value is better than the best by at least `min_delta`; NaN never is.
    fn improve(&mut self, value: f64) -> bool {
        let config = &self.options.eval;
        let improved = value.is_finite()
            && match (self.state.best, config.best.higher_is_better) {
                (None, _) => true,
                (Some(best), true) => value > best.value + config.min_delta,
                (Some(best), false) => value < best.value - config.min_delta,
            };
        if improved {
            self.state.best = Some(Best {
                step: self.state.step,
                value,
            });
        }
        improved
    }

    fn is_out_of_patience(&self) -> bool {
        let patience = self.options.eval.patience;
        patience.is_some_and(|patience| self.state.evaluations_without_improvement >= patience)
    }

    /// Who asked to stop: on any rank, so that all stop after the same step. Completes a checkpoint that all have written.
    fn look_around(&mut self) -> Result<Option<&'static str>, LearnerError> {
        let group = self.learner.group();
        let own = self.stop.requested();
        let all = group.exchange(vec![u8::from(own.is_some()), u8::from(self.saver.has_written())])?;
        if all.iter().all(|said| said.get(1) == Some(&1)) {
            self.saver.complete(group)?;
        }
        let any = all.iter().any(|said| said.first() == Some(&1));
        Ok(own.or(any.then_some("another rank")))
    }

    /// Begins to write a checkpoint. The metrics file is on the disk first, so that it never lacks a step that a checkpoint has.
    fn save(&mut self, evaluation: Option<&Evaluation>) -> Result<(), LearnerError> {
        let metric = evaluation.and_then(|evaluation| self.metric(evaluation));
        let synced = self.log.as_ref().map_or(Ok(()), RunLog::sync);
        self.learner.group().agree(synced.map_err(LearnerError::from))?;
        self.saver.save(&self.learner, &self.state, metric)
    }

    /// Returns when the last checkpoint is on the disk.
    fn finish_writing(&mut self) -> Result<(), LearnerError> {
        self.saver.finish(self.learner.group())
    }
}

#[derive(Clone, Copy)]
struct TimedReport {
    report: StepReport,
    data_seconds: f64,
    step_seconds: f64,
}

/// The state of a run that has not begun.
pub fn fresh_state(learner: &Learner, config_hash: String, data: BTreeMap<String, String>) -> RunState {
    RunState {
        step: 0,
        samples: 0,
        tokens: 0,
        labelled_tokens: 0,
        best: None,
        evaluations_without_improvement: 0,
        model_fingerprint: learner.fingerprint(),
        config_hash,
        data,
    }
}

/// Goes on from a checkpoint: learner and counters.
///
/// # Errors
/// If the checkpoint is damaged or of another model, or its data was in another order.
pub fn resume_state(
    learner: &mut Learner,
    info: &CheckpointInfo,
    fresh: RunState,
) -> Result<RunState, LearnerError> {
    info.state.check_data(&fresh.data)?;
    learner.restore_from(info)?;
    Ok(RunState {
        config_hash: fresh.config_hash,
        ..info.state.clone()
    })
}
