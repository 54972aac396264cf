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
    batch::{Batch, Example, collate_rows},
    dataset::Dataset,
    error::DataError,
    options::BatchPlan,
};

/// Delivers the micro-batches of one rank. Dropping it stops and joins its threads.
pub struct Loader {
    dataset: Arc<Dataset>,
    plan: BatchPlan,
    next_step: u64,
    pool: Option<Pool>,
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
        plan.validate()?;
        let pool = match workers {
            0 => None,
            _ => {
                let mut pool = Pool::start(&dataset, plan, first_step, workers, prefetch)?;
                pool.queue(&plan, first_step);
                Some(pool)
            }
        };
        Ok(Self {
            dataset,
            plan,
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
        let step = self.next_step;
        if self.plan.total_steps().is_some_and(|total| step >= total) {
            return Ok(None);
        }
        self.next_step += 1;
        let jobs = jobs(&self.plan, step);
        let batches = match &mut self.pool {
            None => jobs
                .map(|job| micro_batch(&self.dataset, &self.plan, job))
                .collect(),
            Some(pool) => {
                pool.queue(&self.plan, step);
                // All of them, even after an error: the step's other results must not stay behind.
                let results: Vec<_> = jobs.map(|job| pool.take(job)).collect();
                results.into_iter().collect()
            }
        };
        Result::map(batches, Some)
    }
}

impl Pool {
    fn start(
        dataset: &Arc<Dataset>,
        plan: BatchPlan,
        first_step: u64,
        workers: usize,
        prefetch: usize,
    ) -> Result<Self, DataError> {
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
            let (dataset, queue, done, stop) =
                (dataset.clone(), queue.clone(), done.clone(), pool.stop.clone());
            let thread = Builder::new()
                .name(format!("data-{worker}"))
                .spawn(move || work(&dataset, &plan, &queue, &done, &stop))
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
    dataset: &Dataset,
    plan: &BatchPlan,
    queue: &Mutex<Receiver<Job>>,
    done: &Sender<(Job, Result<Batch, DataError>)>,
    stop: &AtomicBool,
) {
    loop {
        // The lock is held while waiting: the others wait for the lock instead, and one of them goes next.
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        if stop.load(Ordering::Relaxed) || done.send((job, micro_batch(dataset, plan, job))).is_err() {
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

fn micro_batch(dataset: &Dataset, plan: &BatchPlan, (step, micro): Job) -> Result<Batch, DataError> {
    let rows: Vec<Vec<usize>> = plan
        .positions(step, micro)
        .map(|position| dataset.stream().at(position).1)
        .collect();
    let decode = |row: &Vec<usize>| row.iter().map(|&sample| dataset.example(sample)).collect();
    let decoded = caught(|| rows.iter().map(decode).collect::<Result<Vec<Vec<Example>>, _>>());
    match decoded {
        Ok(rows) => Ok(collate_rows(&rows?, dataset.padding())),
        Err(message) => Err(DataError::Panicked {
            step,
            sample: dataset.sample(rows[0][0]),
            message,
        }),
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
mod tests {
    use super::*;
    use crate::data::dataset::fixtures::Folder;

    const NUM_ROWS: usize = 11;

    fn folder() -> Folder {
        let row = |number: usize| {
            let (text, image) = ("cdit".repeat(number), number % 3);
            format!(
                r#"{{"messages": [{{"role": "user", "content": "<image>{text}"}},
                {{"role": "assistant", "content": "{number}"}}], "images": ["{image}.png"]}}"#
            )
            .replace('\n', " ")
        };
        Folder::new(&(0..NUM_ROWS).map(row).collect::<Vec<_>>().join("\n"), 3)
    }

    fn dataset() -> (Folder, Arc<Dataset>) {
        let folder = folder();
        let dataset = folder.open().unwrap();
        (folder, Arc::new(dataset))
    }

    fn plan(rank: usize, world_size: usize, accumulation: usize, epochs: u64) -> BatchPlan {
        let total_rows = Some(epochs * NUM_ROWS as u64);
        BatchPlan {
            micro_batch_size: 2,
            accumulation,
            rank,
            world_size,
            total_rows,
        }
    }

    fn run(dataset: &Arc<Dataset>, plan: BatchPlan, first_step: u64, workers: usize) -> Vec<Vec<Batch>> {
        let mut loader = Loader::start(dataset.clone(), plan, first_step, workers, 2).unwrap();
        std::iter::from_fn(|| loader.next_step().unwrap()).collect()
    }

    fn lines<'a>(batches: impl IntoIterator<Item = &'a Batch>) -> Vec<usize> {
        batches
            .into_iter()
            .flat_map(|batch| &batch.samples)
            .map(|sample| sample.line)
            .collect()
    }

    #[test]
    fn workers_do_not_change_what_is_delivered() {
        let (_folder, dataset) = dataset();
        let plan = plan(0, 1, 3, 4);
        let expected = run(&dataset, plan, 0, 0);
        assert_eq!(expected.len(), 8);
        for workers in [1, 4] {
            assert!(run(&dataset, plan, 0, workers) == expected, "{workers} workers");
        }
    }

    #[test]
    fn starting_at_a_step_equals_running_to_it() {
        let (_folder, dataset) = dataset();
        let plan = plan(0, 1, 2, 3);
        let whole = run(&dataset, plan, 0, 0);
        for first in 0..=whole.len() {
            for workers in [0, 2] {
                assert!(
                    run(&dataset, plan, first as u64, workers) == whole[first..],
                    "step {first}"
                );
            }
        }
    }

    #[test]
    fn ranks_share_the_steps_of_one() {
        let (_folder, dataset) = dataset();
        let alone = run(&dataset, plan(0, 1, 4, 2), 0, 0);
        let [even, odd] = [0, 1].map(|rank| run(&dataset, plan(rank, 2, 2, 2), 0, 1));
        assert_eq!((even.len(), odd.len()), (alone.len(), alone.len()));
        for ((alone, even), odd) in alone.iter().zip(&even).zip(&odd) {
            let mut shared: Vec<&Batch> = Vec::new();
            for micro in 0..2 {
                shared.extend(even.get(micro));
                shared.extend(odd.get(micro));
            }
            assert!(shared.iter().copied().eq(alone));
        }
    }

    #[test]
    fn each_epoch_delivers_every_row_once_and_the_last_step_is_short() {
        let (_folder, dataset) = dataset();
        let steps = run(&dataset, plan(0, 1, 2, 2), 0, 2);
        let seen = lines(steps.iter().flatten());
        assert_eq!(seen.len(), 2 * NUM_ROWS);
        assert_ne!(seen[..NUM_ROWS], seen[NUM_ROWS..], "epochs differ");
        for epoch in seen.chunks(NUM_ROWS) {
            let mut epoch = epoch.to_vec();
            epoch.sort_unstable();
            assert_eq!(epoch, (1..=NUM_ROWS).collect::<Vec<_>>());
        }
        // 22 samples in steps of 2 micro-batches of 2.
        let rows: Vec<Vec<usize>> = steps
            .iter()
            .map(|step| step.iter().map(|batch| batch.rows).collect())
            .collect();
        assert_eq!(rows[4..], [vec![2, 2], vec![2]]);
    }

    #[test]
    fn a_rank_without_samples_still_makes_the_last_step() {
        let (_folder, dataset) = dataset();
        // 11 samples in steps of 8: three are left, two of them for rank 0.
        let counts = [0, 1, 2, 3].map(|rank| {
            run(&dataset, plan(rank, 4, 1, 1), 0, 1)[1]
                .iter()
                .map(|batch| batch.rows)
                .collect::<Vec<_>>()
        });
        assert_eq!(counts, [vec![2], vec![1], vec![], vec![]]);
    }

    #[test]
    fn an_endless_loader_stops_when_dropped() {
        let (_folder, dataset) = dataset();
        let plan = BatchPlan {
            total_rows: None,
            ..plan(0, 1, 2, 1)
        };
        let mut loader = Loader::start(dataset.clone(), plan, 1_000_000_007, 3, 5).unwrap();
        let step = loader.next_step().unwrap().unwrap();
        let mut alone = Loader::start(dataset.clone(), plan, 1_000_000_007, 0, 0).unwrap();
        assert!(step == alone.next_step().unwrap().unwrap());
        drop(alone);
        drop(loader);
        assert_eq!(Arc::strong_count(&dataset), 1, "a thread is left");
    }

    #[test]
    fn no_more_than_the_prefetch_is_prepared() {
        let (_folder, dataset) = dataset();
        let plan = BatchPlan {
            total_rows: None,
            ..plan(0, 1, 2, 1)
        };
        let mut loader = Loader::start(dataset, plan, 10, 1, 3).unwrap();
        let queued = |loader: &Loader| loader.pool.as_ref().unwrap().next_queued;
        assert_eq!(queued(&loader), 14);
        loader.next_step().unwrap();
        assert_eq!(queued(&loader), 14);
        loader.next_step().unwrap();
        assert_eq!(queued(&loader), 15);
    }

    #[test]
    fn a_panic_is_a_value() {
        assert_eq!(caught(|| 3), Ok(3));
        assert_eq!(caught(|| panic!("lost")), Err::<(), _>("lost".into()));
        assert_eq!(caught(|| panic!("lost {}", 2)), Err::<(), _>("lost 2".into()));
    }

    #[test]
    fn an_error_comes_in_its_turn_and_costs_one_step() {
        let mut folder = folder();
        folder.options.shuffle = false;
        crate::fs::write_durable(&folder.dir.path().join("2.png"), b"broken").unwrap();
        let dataset = Arc::new(folder.open().unwrap());
        // Row 3 (step 0) has the first broken image; rows 6, 9 and 11 follow in steps 1 and 2.
        let outcomes = |workers| {
            let mut loader = Loader::start(dataset.clone(), plan(0, 1, 2, 1), 0, workers, 3).unwrap();
            let mut outcomes = Vec::new();
            loop {
                match loader.next_step() {
                    Ok(None) => return outcomes,
                    Ok(Some(batches)) => outcomes.push(format!("{:?}", lines(&batches))),
                    Err(error) => outcomes.push(error.to_string()),
                }
            }
        };
        let alone = outcomes(0);
        for (outcome, line) in alone.iter().zip([3, 6, 9]) {
            assert!(
                outcome.contains(&format!("rows.jsonl:{line}: image ")),
                "{outcome}"
            );
        }
        assert_eq!(outcomes(1), alone);
        assert_eq!(outcomes(4), alone);
    }
}
