//! Batches of a run, step by step, decoded ahead by threads.
//!
//! What is delivered is a pure function of dataset, plan and step. Threads only change when it is ready: each
//! micro-batch is one job, and results wait in a buffer until their turn.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread::{Builder, JoinHandle},
};

use super::{
    batch::{Batch, Example, ImageNumber, collate_rows},
    dataset::Dataset,
    error::DataError,
    options::BatchPlan,
};

/// Which images need not be decoded, by their numbers in the data set: see [`Loader::start_with_held`].
pub type Held = Arc<dyn Fn(ImageNumber) -> bool + Send + Sync>;

/// Delivers the micro-batches of one rank. Dropping it stops and joins its threads.
pub struct Loader {
    decoder: Decoder,
    next_step: u64,
    pool: Option<Pool>,
}

/// Makes micro-batches; each thread has one.
#[derive(Clone)]
struct Decoder {
    dataset: Arc<Dataset>,
    plan: BatchPlan,
    held: Held,
}

/// Step and micro-batch.
type Job = (u64, usize);

struct Pool {
    /// `None` once the pool is being closed.
    jobs: Option<Sender<Job>>,
    results: Receiver<(Job, Result<Batch, DataError>)>,
    /// Results that came before their turn.
    early: BTreeMap<Job, Result<Batch, DataError>>,
    /// First step whose jobs are not queued yet.
    next_queued: u64,
    prefetch: u64,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Loader {
    /// Starts at `first_step`, which costs the same wherever it is. `workers` = 0 decodes in [`Loader::next_step`];
    /// otherwise at most `prefetch` steps are prepared beyond the one being delivered. To keep all threads busy,
    /// `prefetch` times accumulation should be at least `workers`.
    ///
    /// # Errors
    /// If the plan is not valid or a thread cannot be started.
    pub fn start(
        dataset: Arc<Dataset>,
        plan: BatchPlan,
        first_step: u64,
        workers: usize,
        prefetch: usize,
    ) -> Result<Self, DataError> {
        Self::start_with_held(dataset, plan, first_step, workers, prefetch, Arc::new(|_| false))
    }

    /// As [`Loader::start`], and images for which `held` answers yes come as [`ImageSource::Held`], neither read nor decoded.
    /// It is asked by several threads, some time before the batch is delivered: after a yes it must not say no.
    ///
    /// # Errors
    /// As [`Loader::start`].
    pub fn start_with_held(
        dataset: Arc<Dataset>,
        plan: BatchPlan,
        first_step: u64,
        workers: usize,
        prefetch: usize,
        held: Held,
    ) -> Result<Self, DataError> {
        plan.validate()?;
        let decoder = Decoder { dataset, plan, held };
        let pool = match workers {
            0 => None,
            _ => {
                let mut pool = Pool::start(&decoder, first_step, workers, prefetch)?;
                pool.queue(&plan, first_step);
                Some(pool)
            }
        };
        Ok(Self {
            decoder,
            next_step: first_step,
            pool,
        })
    }

    /// The micro-batches of this rank for the next optimizer step, or `None` after the last step.
    ///
    /// At the end of the stream a rank may have fewer micro-batches than the plan says, or none at all: it still gets
    /// `Some`, since other ranks have a step to make.
    ///
    /// # Errors
    /// The first of the step, in the order of its samples; the step is lost, and the next call delivers the one after.
    pub fn next_step(&mut self) -> Result<Option<Vec<Batch>>, DataError> {
        let (step, plan) = (self.next_step, &self.decoder.plan);
        if plan.total_steps().is_some_and(|total| step >= total) {
            return Ok(None);
        }
        self.next_step += 1;
        let jobs = jobs(plan, step);
        let batches = match &mut self.pool {
            None => jobs.map(|job| self.decoder.micro_batch(job)).collect(),
            Some(pool) => {
                pool.queue(plan, step);
                // All of them, even after an error: the step's other results must not stay behind.
                let results: Vec<_> = jobs.map(|job| pool.take(job)).collect();
                results.into_iter().collect()
            }
        };
        Result::map(batches, Some)
    }
}

impl Pool {
    fn start(decoder: &Decoder, first_step: u64, workers: usize, prefetch: usize) -> Result<Self, DataError> {
        let (jobs, queue) = mpsc::channel();
        let (done, results) = mpsc::channel();
        let queue = Arc::new(Mutex::new(queue));
        let mut pool = Self {
            jobs: Some(jobs),
            results,
            early: BTreeMap::new(),
            next_queued: first_step,
            prefetch: prefetch as u64,
            stop: Arc::new(AtomicBool::new(false)),
            threads: Vec::with_capacity(workers),
        };
        for worker in 0..workers {
            let (decoder, queue, done, stop) =
                (decoder.clone(), queue.clone(), done.clone(), pool.stop.clone());
            let thread = Builder::new()
                .name(format!("data-{worker}"))
                .spawn(move || work(&decoder, &queue, &done, &stop))
                .map_err(|source| DataError::Spawn { source })?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// Hands out the jobs up to `prefetch` steps after `step`.
    fn queue(&mut self, plan: &BatchPlan, step: u64) {
        let end = step.saturating_add(self.prefetch).saturating_add(1);
        let end = plan.total_steps().map_or(end, |total| end.min(total));
        while self.next_queued < end {
            for job in jobs(plan, self.next_queued) {
                // Without a receiver there are no threads left, which `take` reports.
                let _ = self.jobs.as_ref().map(|queue| queue.send(job));
            }
            self.next_queued += 1;
        }
    }

    fn take(&mut self, job: Job) -> Result<Batch, DataError> {
        loop {
            if let Some(result) = self.early.remove(&job) {
                return result;
            }
            match self.results.recv() {
                Ok((ready, result)) => self.early.insert(ready, result),
                Err(_) => return Err(DataError::WorkersGone { step: job.0 }),
            };
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Closing the queue wakes the threads that wait for a job.
        self.jobs = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn work(
    decoder: &Decoder,
    queue: &Mutex<Receiver<Job>>,
    done: &Sender<(Job, Result<Batch, DataError>)>,
    stop: &AtomicBool,
) {
    loop {
        // The lock is held while waiting: the others wait for the lock instead, and one of them goes next.
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        if stop.load(Ordering::Relaxed) || done.send((job, decoder.micro_batch(job))).is_err() {
            return;
        }
    }
}

/// The micro-batches of a step that are not empty.
fn jobs(plan: &BatchPlan, step: u64) -> impl Iterator<Item = Job> + use<> {
    let plan = *plan;
    (0..plan.accumulation)
        .map(move |micro| (step, micro))
        .filter(move |&(step, micro)| !plan.positions(step, micro).is_empty())
}

impl Decoder {
    fn micro_batch(&self, (step, micro): Job) -> Result<Batch, DataError> {
        let Self { dataset, plan, held } = self;
        let rows: Vec<(u64, Vec<usize>)> = plan
            .positions(step, micro)
            .map(|position| dataset.stream().at(position))
            .collect();
        let decode = |(epoch, row): &(u64, Vec<usize>)| {
            let samples = row
                .iter()
                .map(|&sample| dataset.example_in(*epoch, sample, &**held));
            samples.collect()
        };
        let decoded = caught(|| rows.iter().map(decode).collect::<Result<Vec<Vec<Example>>, _>>());
        match decoded {
            Ok(rows) => Ok(collate_rows(&rows?, dataset.padding())),
            Err(message) => Err(DataError::Panicked {
                step,
                sample: dataset.sample(rows[0].1[0]),
                message,
            }),
        }
    }
}

/// The word of a panic as an error: a decoder that panics must not leave the caller waiting for its result.
fn caught<T>(decode: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(decode)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().copied();
        text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no message")
            .to_owned()
    })
}

#[cfg(test)]
mod tests;
