//! The ranks of a run, as one of them sees the others.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread::{Builder, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    CollectiveError, World,
    device::{DeviceEngine, Devices},
    engine::Engine,
};

/// What an engine gets beyond the time that a rank waits: one that knows who is missing says so first.
const GRACE: Duration = Duration::from_secs(2);

/// How some ranks reach each other.
struct Reach {
    host: Box<dyn Engine>,
    /// Where their accelerators do so themselves.
    device: Option<Box<dyn DeviceEngine>>,
}

/// That of all ranks first, then what was split off, each after the one it is split off from.
type Engines = Vec<Reach>;
type Job = Box<dyn FnOnce(&mut Engines) + Send>;

/// The ranks of a run. Operations are carried out one after the other by a thread of their own, while the caller goes on;
/// every rank must ask for the same ones in the same order.
pub struct Group {
    world: World,
    /// Its place among all ranks of the run, by which it is called.
    name: World,
    /// `None` for a rank by itself, to which nothing ever happens.
    link: Option<Arc<Link>>,
    /// Which of the link's engines.
    engine: usize,
    has_devices: bool,
}

struct Link {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    abort: Box<dyn Fn(&str) + Send + Sync>,
    timeout: Duration,
    /// Nanoseconds that operations took.
    busy: Arc<AtomicU64>,
    /// Nanoseconds that somebody waited for them.
    waited: Arc<AtomicU64>,
    /// Whether someone stopped waiting: the thread may hang for ever.
    given_up: Arc<AtomicBool>,
}

/// A result that comes later.
#[must_use = "an operation has a result, or an error"]
pub struct Pending<T> {
    state: State<T>,
    operation: &'static str,
    world: World,
    timeout: Duration,
}

enum State<T> {
    Ready(T),
    Coming {
        results: Receiver<Result<T, CollectiveError>>,
        given_up: Arc<AtomicBool>,
        waited: Arc<AtomicU64>,
    },
}

impl<T> Pending<T> {
    /// Waits for it.
    ///
    /// # Errors
    /// If a rank is missing, has failed, or does something else. The group is of no use then.
    pub fn wait(self) -> Result<T, CollectiveError> {
        let (results, given_up, waited) = match self.state {
            State::Ready(value) => return Ok(value),
            State::Coming {
                results,
                given_up,
                waited,
            } => (results, given_up, waited),
        };
        let World { rank, size } = self.world;
        let started = Instant::now();
        let received = results.recv_timeout(self.timeout + GRACE);
        waited.fetch_add(started.elapsed().as_nanos() as u64, Ordering::Relaxed);
        match received {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => {
                given_up.store(true, Ordering::Relaxed);
                Err(CollectiveError::TimedOut {
                    rank,
                    size,
                    operation: self.operation,
                    seconds: self.timeout.as_secs(),
                    missing: " for another rank".to_owned(),
                })
            }
            Err(RecvTimeoutError::Disconnected) => Err(CollectiveError::Engine {
                rank,
                reason: format!("the thread for communication ended in {}", self.operation),
            }),
        }
    }
}

impl Group {
    /// One rank by itself.
    pub fn alone() -> Self {
        Self {
            world: World::ALONE,
            name: World::ALONE,
            link: None,
            engine: 0,
            has_devices: false,
        }
    }

    /// Starts the thread for communication; the engine is made in it, since some may only be used where they were made.
    ///
    /// # Errors
    /// What `make` says, or if there can be no thread.
    pub fn start<E: Engine + 'static>(
        make: impl FnOnce() -> Result<E, CollectiveError> + Send + 'static,
        timeout: Duration,
    ) -> Result<Self, CollectiveError> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (made, about) = mpsc::channel();
        let work = move || {
            let mut engines: Engines = match make() {
                Ok(engine) => vec![Reach {
                    host: Box::new(engine),
                    device: None,
                }],
                Err(error) => {
                    let _ = made.send(Err(error));
                    return;
                }
            };
            let host = &engines[0].host;
            let _ = made.send(Ok((host.world(), host.abort_handle())));
            for job in queue {
                job(&mut engines);
            }
            // What was split off goes first.
            while engines.pop().is_some() {}
        };
        let failed = |reason: String| CollectiveError::Engine { rank: 0, reason };
        let thread = Builder::new()
            .name("ranks".to_owned())
            .spawn(work)
            .map_err(|error| failed(format!("no thread for communication: {error}")))?;
        let started = about
            .recv()
            .unwrap_or_else(|_| Err(failed("the thread for communication ended".to_owned())));
        let (world, abort) = started?;
        Ok(Self {
            world,
            name: world,
            link: Some(Arc::new(Link {
                jobs: Some(jobs),
                thread: Some(thread),
                abort,
                timeout,
                busy: Arc::default(),
                waited: Arc::default(),
                given_up: Arc::default(),
            })),
            engine: 0,
            has_devices: false,
        })
    }

    /// Lets the accelerators of the ranks reach each other: `make` gets the engine of this group, through which all ranks make
    /// theirs. To be called by all ranks together, before there are other groups.
    ///
    /// # Errors
    /// What `make` says, and as [`Pending::wait`].
    pub fn join_devices<D: DeviceEngine + 'static>(
        &mut self,
        make: impl FnOnce(&mut dyn Engine) -> Result<D, CollectiveError> + Send + 'static,
    ) -> Result<(), CollectiveError> {
        let Some(link) = &self.link else {
            return Ok(());
        };
        let at = self.engine;
        let made = link.submit(self.name, "joining devices", move |engines| {
            let engine = make(engines[at].host.as_mut())?;
            engines[at].device = Some(Box::new(engine));
            Ok(())
        });
        made.wait()?;
        self.has_devices = true;
        Ok(())
    }

    /// Whether [`Group::on_devices`] works: the accelerators of the ranks reach each other.
    pub fn has_devices(&self) -> bool {
        self.has_devices
    }

    /// The ranks of this group that give the same `colour`, as a group. All ranks of this group have to ask together.
    ///
    /// Operations of both are carried out in the order in which this rank asks for them, so all ranks need one order of all
    /// operations that each of them can keep to.
    ///
    /// # Errors
    /// As [`Pending::wait`].
    pub fn split(&self, colour: usize) -> Result<Self, CollectiveError> {
        let Some(link) = &self.link else {
            return Ok(Self::alone());
        };
        let from = self.engine;
        let made = link.submit(self.name, "split", move |engines| {
            let mut host = engines[from].host.split(colour)?;
            let world = host.world();
            let device = match &mut engines[from].device {
                Some(device) if world.size > 1 => Some(device.split(host.as_mut())?),
                _ => None,
            };
            engines.push(Reach { host, device });
            Ok((world, engines.len() - 1))
        });
        let (world, engine) = made.wait()?;
        Ok(match world.size {
            1 => Self::alone(),
            _ => Self {
                world,
                name: self.name,
                link: Some(link.clone()),
                engine,
                has_devices: self.has_devices,
            },
        })
    }

    /// This rank among those of the group.
    pub fn world(&self) -> World {
        self.world
    }

    /// Sums over ranks.
    pub fn all_reduce(&self, values: Vec<f32>) -> Pending<Vec<f32>> {
        self.submit("all_reduce", values, |engine, mut values| {
            engine.all_reduce(&mut values)?;
            Ok(values)
        })
    }

    /// Sums over ranks, of which each keeps its own part of `world.size` equal ones.
    pub fn reduce_scatter(&self, values: Vec<f32>) -> Pending<Vec<f32>> {
        self.submit("reduce_scatter", values, |engine, values| {
            engine.reduce_scatter(values)
        })
    }

    /// The parts of all ranks, equally long, one after the other.
    pub fn all_gather(&self, part: Vec<u8>) -> Pending<Vec<u8>> {
        self.submit("all_gather", part, |engine, part| engine.all_gather(part))
    }

    /// What the accelerators of the ranks do with each other, on the thread for communication. Only where
    /// [`Group::has_devices`].
    pub fn on_devices<T: Send + 'static>(
        &self,
        operation: &'static str,
        run: impl FnOnce(&mut Devices) -> Result<T, CollectiveError> + Send + 'static,
    ) -> Pending<T> {
        let Some(link) = &self.link else {
            unreachable!("a rank by itself has no devices to reach");
        };
        let (at, name, timeout) = (self.engine, self.name, link.timeout);
        link.submit(name, operation, move |engines| {
            let Reach {
                host,
                device: Some(device),
            } = &mut engines[at]
            else {
                unreachable!("the devices of this group do not reach each other");
            };
            let done = run(&mut Devices {
                host: host.as_mut(),
                device: device.as_mut(),
                name,
                timeout,
            });
            // Others may be in an operation that this rank never begins.
            done.inspect_err(|_| device.give_up())
        })
    }

    /// What each rank gives, in the order of the ranks.
    ///
    /// # Errors
    /// As [`Pending::wait`].
    pub fn exchange(&self, part: Vec<u8>) -> Result<Vec<Vec<u8>>, CollectiveError> {
        match &self.link {
            None => Ok(vec![part]),
            Some(link) => {
                let at = self.engine;
                let exchanged = link.submit(self.name, "exchange", move |engines| {
                    engines[at].host.exchange(part)
                });
                exchanged.wait()
            }
        }
    }

    /// The numbers of all ranks, in the order of the ranks.
    ///
    /// # Errors
    /// As [`Pending::wait`].
    pub fn exchange_numbers(&self, numbers: &[f64]) -> Result<Vec<Vec<f64>>, CollectiveError> {
        let all = self.exchange(numbers.iter().flat_map(|number| number.to_le_bytes()).collect())?;
        let decode = |bytes: &Vec<u8>| {
            bytes
                .as_chunks::<8>()
                .0
                .iter()
                .map(|bytes| f64::from_le_bytes(*bytes))
                .collect()
        };
        Ok(all.iter().map(decode).collect())
    }

    /// Makes sure that ranks were started with the same settings; `settings` are names and values.
    ///
    /// # Errors
    /// [`CollectiveError::Settings`] names the first that differs.
    pub fn check_same(&self, settings: &[(&str, String)]) -> Result<(), CollectiveError> {
        let lines: Vec<String> = settings
            .iter()
            .map(|(name, value)| format!("{name}\t{value}"))
            .collect();
        let all = self.exchange(lines.join("\n").into_bytes())?;
        let of = |rank: usize| String::from_utf8_lossy(&all[rank]).into_owned();
        let first = of(0);
        for rank in 1..all.len() {
            let other = of(rank);
            if let Some((first, other)) = first
                .lines()
                .zip(other.lines())
                .find(|(first, other)| first != other)
            {
                let value = |line: &str| line.split_once('\t').map_or("", |(_, value)| value).to_owned();
                return Err(CollectiveError::Settings {
                    what: first.split('\t').next().unwrap_or_default().to_owned(),
                    first: value(first),
                    rank,
                    other: value(other),
                });
            }
        }
        Ok(())
    }

    /// Goes on only if every rank has succeeded: whoever failed gets its own error, the others learn of it.
    ///
    /// # Errors
    /// `result`'s, or [`CollectiveError::Peer`].
    pub fn agree<T, E: From<CollectiveError> + ToString>(&self, result: Result<T, E>) -> Result<T, E> {
        if self.link.is_none() {
            return result;
        }
        let word = result.as_ref().err().map_or(String::new(), ToString::to_string);
        let words = self.exchange(word.into_bytes());
        let value = result?;
        match words?.into_iter().enumerate().find(|(_, word)| !word.is_empty()) {
            None => Ok(value),
            Some((rank, word)) => {
                let message = String::from_utf8_lossy(&word).into_owned();
                Err(CollectiveError::Peer { rank, message }.into())
            }
        }
    }

    /// The texts of all ranks, in the order of the ranks.
    ///
    /// # Errors
    /// As [`Pending::wait`].
    pub fn exchange_texts(&self, texts: &[String]) -> Result<Vec<Vec<String>>, CollectiveError> {
        let encode = |text: &String| {
            let len = (text.len() as u64).to_le_bytes();
            len.into_iter().chain(text.bytes()).collect::<Vec<u8>>()
        };
        let all = self.exchange(texts.iter().flat_map(encode).collect())?;
        Ok(all.iter().map(|bytes| decode_texts(bytes)).collect())
    }

    /// Whether it is so on any rank.
    ///
    /// # Errors
    /// As [`Pending::wait`].
    pub fn any(&self, is_so: bool) -> Result<bool, CollectiveError> {
        let all = self.exchange(vec![u8::from(is_so)])?;
        Ok(all.iter().any(|is_so| *is_so == [1]))
    }

    /// Seconds that operations took so far, also of groups that are split off or that this one is split off from, whether
    /// anybody waited for them or not.
    pub fn busy_seconds(&self) -> f64 {
        let nanoseconds = |link: &Arc<Link>| link.busy.load(Ordering::Relaxed);
        self.link.as_ref().map_or(0, nanoseconds) as f64 * 1e-9
    }

    /// Seconds that this rank waited for results so far.
    pub fn waited_seconds(&self) -> f64 {
        let nanoseconds = |link: &Arc<Link>| link.waited.load(Ordering::Relaxed);
        self.link.as_ref().map_or(0, nanoseconds) as f64 * 1e-9
    }

    /// Tells the others that this rank has failed, so that they need not wait for it.
    pub fn abort(&self, message: &str) {
        if let Some(link) = &self.link {
            (link.abort)(message);
        }
    }

    fn submit<T: Send + 'static>(
        &self,
        operation: &'static str,
        value: T,
        run: impl FnOnce(&mut dyn Engine, T) -> Result<T, CollectiveError> + Send + 'static,
    ) -> Pending<T> {
        match &self.link {
            None => Pending {
                state: State::Ready(value),
                operation,
                world: self.name,
                timeout: Duration::ZERO,
            },
            Some(link) => {
                let at = self.engine;
                link.submit(self.name, operation, move |engines| {
                    run(engines[at].host.as_mut(), value)
                })
            }
        }
    }
}

fn decode_texts(mut bytes: &[u8]) -> Vec<String> {
    let mut texts = Vec::new();
    while let Some((len, rest)) = bytes.split_first_chunk::<8>() {
        let len = (u64::from_le_bytes(*len) as usize).min(rest.len());
        let (text, rest) = rest.split_at(len);
        texts.push(String::from_utf8_lossy(text).into_owned());
        bytes = rest;
    }
    texts
}

impl Link {
    fn submit<T: Send + 'static>(
        &self,
        world: World,
        operation: &'static str,
        run: impl FnOnce(&mut Engines) -> Result<T, CollectiveError> + Send + 'static,
    ) -> Pending<T> {
        let (done, results) = mpsc::channel();
        let busy = self.busy.clone();
        let job: Job = Box::new(move |engines| {
            let started = Instant::now();
            let result = run(engines);
            busy.fetch_add(started.elapsed().as_nanos() as u64, Ordering::Relaxed);
            // Nobody waits for the result of a rank that has given up.
            let _ = done.send(result);
        });
        // Without the thread there is nobody to answer either, which `wait` reports.
        let _ = self.jobs.as_ref().map(|jobs| jobs.send(job));
        Pending {
            state: State::Coming {
                results,
                given_up: self.given_up.clone(),
                waited: self.waited.clone(),
            },
            operation,
            world,
            timeout: self.timeout,
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.jobs = None;
        // One that hangs in an operation whose other ranks are gone never ends.
        if !self.given_up.load(Ordering::Relaxed)
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}
