//! Operations between ranks on the memory of accelerators, beside an [`Engine`] for words and for what is in host memory.

use std::time::{Duration, Instant};

use super::{CollectiveError, World, engine::Engine};

/// What is done to values in device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Collective {
    /// Sums over ranks; as many values come as go.
    AllReduce,
    /// Sums over ranks, of which each keeps its own part of `world.size` equal ones.
    ReduceScatter,
    /// The values of all ranks, one after the other.
    AllGather,
}

impl Collective {
    /// As in NCCL and MPI.
    pub fn name(self) -> &'static str {
        match self {
            Self::AllReduce => "all_reduce",
            Self::ReduceScatter => "reduce_scatter",
            Self::AllGather => "all_gather",
        }
    }

    /// How many values an operation gives that takes `count`.
    pub fn count_out(self, count: usize, size: usize) -> usize {
        match self {
            Self::AllReduce => count,
            Self::ReduceScatter => count / size,
            Self::AllGather => count * size,
        }
    }
}

/// Type of values in device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceDtype {
    /// IEEE single precision.
    F32,
    /// bfloat16.
    Bf16,
}

/// Where values are that an operation takes, and where those go that it gives. Nothing writes to either meanwhile; nobody
/// frees them.
#[derive(Debug, Clone, Copy)]
pub struct DeviceSpans {
    /// Address of the first value taken.
    pub from: u64,
    /// Address of the first value given.
    pub to: u64,
    /// How many values are taken.
    pub count: usize,
    /// Of both.
    pub dtype: DeviceDtype,
}

/// Moves values between devices. Belongs to the thread that made it.
pub trait DeviceEngine {
    /// Begins an operation; one at a time, in the same order on all ranks.
    ///
    /// # Errors
    /// What the library says.
    fn begin(&mut self, collective: Collective, spans: DeviceSpans) -> Result<(), String>;

    /// Whether it has ended.
    ///
    /// # Errors
    /// What the library says.
    fn is_done(&mut self) -> Result<bool, String>;

    /// Ends whatever is under way. There can be no other operation afterwards.
    fn give_up(&mut self);

    /// One for the ranks of `host`, which was split off from the engine that this one stands beside.
    ///
    /// # Errors
    /// If a rank is missing, or what the library says.
    fn split(&mut self, host: &mut dyn Engine) -> Result<Box<dyn DeviceEngine>, CollectiveError>;
}

/// How a group's thread reaches the devices of its ranks.
pub struct Devices<'a> {
    pub(super) host: &'a mut dyn Engine,
    pub(super) device: &'a mut dyn DeviceEngine,
    /// Place of this rank among all ranks of the run, by which it is called.
    pub(super) name: World,
    pub(super) timeout: Duration,
}

/// An operation of a few microseconds is waited for without sleeping.
const AWAKE: Duration = Duration::from_micros(200);
const NAP: Duration = Duration::from_micros(50);
/// For an operation to end after a rank was heard to be gone, and to hear of one when it has failed.
const LAST_CHANCE: Duration = Duration::from_secs(1);

impl Devices<'_> {
    /// Carries an operation out.
    ///
    /// # Errors
    /// If a rank is missing or has failed, or what the library says. The group is of no use then.
    pub fn run(&mut self, collective: Collective, spans: DeviceSpans) -> Result<(), CollectiveError> {
        let World { rank, size } = self.name;
        let failed = |reason: String| CollectiveError::Engine {
            rank,
            reason: format!("{}: {reason}", collective.name()),
        };
        self.device.begin(collective, spans).map_err(failed)?;
        let started = Instant::now();
        let mut heard: Option<(Instant, CollectiveError)> = None;
        loop {
            let done = self.device.is_done();
            if done == Ok(true) {
                return Ok(());
            }
            // A library that waits for a rank does not know that it is gone, and one that has noticed does not know why. A rank
            // that ended well behind this operation is gone, too, while the device still works.
            let now = Instant::now();
            match &heard {
                None => {
                    heard = self.host.check().err().map(|error| (now, error));
                    if let (None, Err(reason)) = (&heard, done) {
                        heard = Some((now, failed(reason)));
                    }
                }
                Some((since, error)) if since.elapsed() > LAST_CHANCE => {
                    return Err(self.host.check().err().unwrap_or_else(|| error.clone()));
                }
                Some(_) => {}
            }
            if started.elapsed() > self.timeout {
                return Err(CollectiveError::TimedOut {
                    rank,
                    size,
                    operation: collective.name(),
                    seconds: self.timeout.as_secs(),
                    missing: " for another rank's device".to_owned(),
                });
            }
            match started.elapsed() < AWAKE {
                true => std::thread::yield_now(),
                false => std::thread::sleep(NAP),
            }
        }
    }
}
