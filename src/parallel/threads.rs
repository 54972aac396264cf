//! Ranks that are threads of one process: several devices of one host, and tests.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{CollectiveError, World, engine::Engine};

/// What a rank brings.
#[derive(Debug, Clone)]
enum Part {
    Floats(Arc<Vec<f32>>),
    Bytes(Arc<Vec<u8>>),
}

impl Part {
    fn len(&self) -> usize {
        match self {
            Self::Floats(values) => values.len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    fn floats(&self) -> &[f32] {
        match self {
            Self::Floats(values) => values,
            Self::Bytes(_) => &[],
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Floats(_) => &[],
        }
    }
}

/// Which lengths of the ranks belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lengths {
    Equal,
    Any,
}

/// The operation that ranks are at.
#[derive(Debug, Default)]
struct Meeting {
    /// Name and length, by the first that came.
    operation: Option<(&'static str, Option<usize>)>,
    parts: Vec<Option<Part>>,
    /// Complete, until all have taken it.
    complete: Option<Arc<[Part]>>,
    /// Ranks that have not taken it yet.
    leaving: usize,
    /// Why nobody needs to wait any longer.
    failed: Option<CollectiveError>,
}

/// Where a group of ranks meets.
#[derive(Debug)]
struct Hub {
    meeting: Mutex<Meeting>,
    changed: Condvar,
}

impl Hub {
    fn new(size: usize, failed: Option<CollectiveError>) -> Self {
        Self {
            meeting: Mutex::new(Meeting {
                parts: vec![None; size],
                failed,
                ..Meeting::default()
            }),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Meeting> {
        // A panic inside leaves numbers that are all there: the lock guards no half-made thing.
        self.meeting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, error: CollectiveError) {
        self.lock().failed.get_or_insert(error);
        self.changed.notify_all();
    }
}

/// Which hub: the number of the one it is split off from, how many splits of that one came before, and the colour.
type HubKey = (usize, usize, usize);

/// All hubs of the ranks of a process.
#[derive(Debug, Default)]
struct Hubs {
    made: Vec<(HubKey, Arc<Hub>)>,
    failed: Option<CollectiveError>,
}

/// What all ranks of a process have in common.
#[derive(Debug)]
struct Process {
    hubs: Mutex<Hubs>,
    size: usize,
    timeout: Duration,
}

impl Process {
    fn lock(&self) -> MutexGuard<'_, Hubs> {
        self.hubs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The hub with this key, with its number; made by the first that comes.
    fn hub(&self, key: HubKey, size: usize) -> (usize, Arc<Hub>) {
        let mut hubs = self.lock();
        let found = hubs.made.iter().position(|(made, _)| *made == key);
        let at = found.unwrap_or_else(|| {
            let hub = Arc::new(Hub::new(size, hubs.failed.clone()));
            hubs.made.push((key, hub));
            hubs.made.len() - 1
        });
        (at, hubs.made[at].1.clone())
    }

    /// Nobody needs to wait any longer, wherever it is.
    fn fail(&self, error: CollectiveError) {
        let mut hubs = self.lock();
        let error = hubs.failed.get_or_insert(error).clone();
        hubs.made.iter().for_each(|(_, hub)| hub.fail(error.clone()));
    }
}

/// One rank of a process.
#[derive(Debug)]
pub struct Threads {
    world: World,
    /// The ranks of its group as all ranks of the process know them.
    members: Vec<usize>,
    hub: Arc<Hub>,
    hub_number: usize,
    /// Splits of its group so far.
    splits: usize,
    process: Arc<Process>,
}

impl Threads {
    /// Engines for `size` threads, in the order of their ranks. Whoever waits longer than `timeout` for the others fails.
    pub fn group(size: usize, timeout: Duration) -> Vec<Self> {
        let process = Arc::new(Process {
            hubs: Mutex::default(),
            size,
            timeout,
        });
        let (hub_number, hub) = process.hub((0, 0, 0), size);
        let engine = |rank| Self {
            world: World { rank, size },
            members: (0..size).collect(),
            hub: hub.clone(),
            hub_number,
            splits: 0,
            process: process.clone(),
        };
        (0..size).map(engine).collect()
    }

    /// This rank as all ranks of the process know it.
    fn name(&self) -> usize {
        self.members[self.world.rank]
    }

    /// Brings a part and gets those of all, in the order of the ranks.
    fn meet(
        &self,
        operation: &'static str,
        part: Part,
        lengths: Lengths,
    ) -> Result<Arc<[Part]>, CollectiveError> {
        let World { rank, size } = self.world;
        let deadline = Instant::now() + self.process.timeout;
        // Those of the operation before may still be leaving.
        let mut meeting = self.wait(self.hub.lock(), deadline, operation, |meeting| {
            meeting.leaving == 0
        })?;
        let mine = (operation, (lengths == Lengths::Equal).then(|| part.len()));
        let theirs = *meeting.operation.get_or_insert(mine);
        if theirs != mine {
            let error = CollectiveError::Disagree {
                rank: self.name(),
                found: in_words(mine),
                expected: in_words(theirs),
            };
            drop(meeting);
            self.process.fail(error.clone());
            return Err(error);
        }
        meeting.parts[rank] = Some(part);
        if meeting.parts.iter().all(Option::is_some) {
            meeting.complete = Some(meeting.parts.iter_mut().filter_map(Option::take).collect());
            meeting.operation = None;
            meeting.leaving = size;
            self.hub.changed.notify_all();
        }
        let mut meeting = self.wait(meeting, deadline, operation, |meeting| meeting.leaving > 0)?;
        meeting.leaving -= 1;
        let complete = match meeting.leaving {
            0 => meeting.complete.take(),
            _ => meeting.complete.clone(),
        };
        if meeting.leaving == 0 {
            self.hub.changed.notify_all();
        }
        Ok(complete.unwrap_or_default())
    }

    fn wait<'a>(
        &self,
        mut meeting: MutexGuard<'a, Meeting>,
        deadline: Instant,
        operation: &'static str,
        until: impl Fn(&Meeting) -> bool,
    ) -> Result<MutexGuard<'a, Meeting>, CollectiveError> {
        while !until(&meeting) {
            if let Some(error) = &meeting.failed {
                return Err(error.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let error = self.timed_out(&meeting, operation);
                drop(meeting);
                self.process.fail(error.clone());
                return Err(error);
            }
            let waited = self.hub.changed.wait_timeout(meeting, left);
            meeting = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(meeting)
    }

    fn timed_out(&self, meeting: &Meeting, operation: &'static str) -> CollectiveError {
        let World { rank, size } = self.world;
        let absent = (0..size).filter(|&other| other != rank && meeting.parts[other].is_none());
        let absent: Vec<String> = absent.map(|rank| self.members[rank].to_string()).collect();
        CollectiveError::TimedOut {
            rank: self.name(),
            size: self.process.size,
            operation,
            seconds: self.process.timeout.as_secs(),
            missing: format!(" for rank {}", absent.join(", ")),
        }
    }

    /// The sum of one of `size` equal parts of what all ranks brought, in the order of the ranks.
    fn sum_part(&self, parts: &[Part]) -> Vec<f32> {
        let World { rank, size } = self.world;
        let count = parts[0].len() / size;
        let mut sum = vec![0.0; count];
        for part in parts {
            let values = &part.floats()[rank * count..][..count];
            sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        }
        sum
    }
}

fn in_words((operation, length): (&str, Option<usize>)) -> String {
    match length {
        Some(length) => format!("{operation} of {length}"),
        None => operation.to_owned(),
    }
}

impl Engine for Threads {
    fn world(&self) -> World {
        self.world
    }

    fn all_reduce(&mut self, values: &mut Vec<f32>) -> Result<(), CollectiveError> {
        let (len, size) = (values.len(), self.world.size);
        let mut padded = std::mem::take(values);
        padded.resize(len.next_multiple_of(size), 0.0);
        let part = self.reduce_scatter(padded)?;
        let parts = self.meet("all_gather", Part::Floats(Arc::new(part)), Lengths::Equal)?;
        values.reserve_exact(len.next_multiple_of(size));
        parts
            .iter()
            .for_each(|part| values.extend_from_slice(part.floats()));
        values.truncate(len);
        Ok(())
    }

    fn reduce_scatter(&mut self, values: Vec<f32>) -> Result<Vec<f32>, CollectiveError> {
        debug_assert!(values.len().is_multiple_of(self.world.size));
        let parts = self.meet("reduce_scatter", Part::Floats(Arc::new(values)), Lengths::Equal)?;
        Ok(self.sum_part(&parts))
    }

    fn all_gather(&mut self, part: Vec<u8>) -> Result<Vec<u8>, CollectiveError> {
        let parts = self.meet("all_gather", Part::Bytes(Arc::new(part)), Lengths::Equal)?;
        let parts: Vec<&[u8]> = parts.iter().map(Part::bytes).collect();
        Ok(parts.concat())
    }

    fn exchange(&mut self, part: Vec<u8>) -> Result<Vec<Vec<u8>>, CollectiveError> {
        let parts = self.meet("exchange", Part::Bytes(Arc::new(part)), Lengths::Any)?;
        Ok(parts.iter().map(|part| part.bytes().to_vec()).collect())
    }

    fn split(&mut self, colour: usize) -> Result<Box<dyn Engine>, CollectiveError> {
        let own = Part::Bytes(Arc::new(colour.to_le_bytes().to_vec()));
        let colours = self.meet("split", own, Lengths::Any)?;
        let is_same = |&rank: &usize| colours[rank].bytes() == colours[self.world.rank].bytes();
        let same = (0..self.world.size).filter(is_same);
        let same: Vec<usize> = same.collect();
        let key = (self.hub_number + 1, self.splits, colour);
        self.splits += 1;
        let (hub_number, hub) = self.process.hub(key, same.len());
        Ok(Box::new(Self {
            world: World {
                rank: same.iter().take_while(|&&rank| rank != self.world.rank).count(),
                size: same.len(),
            },
            members: same.iter().map(|&rank| self.members[rank]).collect(),
            hub,
            hub_number,
            splits: 0,
            process: self.process.clone(),
        }))
    }

    fn check(&mut self) -> Result<(), CollectiveError> {
        self.hub.lock().failed.clone().map_or(Ok(()), Err)
    }

    fn abort_handle(&self) -> Box<dyn Fn(&str) + Send + Sync> {
        let (process, rank) = (self.process.clone(), self.name());
        Box::new(move |message| {
            let message = message.to_owned();
            process.fail(CollectiveError::Peer { rank, message });
        })
    }
}
