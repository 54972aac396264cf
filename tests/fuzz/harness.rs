//! What a target is, and what is a finding: a panic, a case that takes too long, one that takes too much memory.

use std::{
    collections::HashSet,
    env, fs,
    hash::{DefaultHasher, Hash, Hasher},
    io::Write,
    panic::{self, AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, Once, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::{memory::most_bytes, mutate::mutated};

/// A case may take so much of a processor's time.
const MAX_TIME: Duration = Duration::from_secs(10);
/// After this the process ends: nothing else stops a case that never returns.
const PATIENCE: Duration = Duration::from_secs(120);
/// The same by the clock, which goes on while other processes have the machine.
const CLOCK_PATIENCE: Duration = Duration::from_secs(3600);
/// Bytes of the largest case.
pub(crate) const MAX_CASE: usize = 256 << 10;
/// Cases that are kept for their outcomes.
const MAX_KEPT: usize = 2000;
/// Letters of an outcome that tell it from others.
const TOLD_BY: usize = 400;
/// Most findings of one run; more of them have one cause, as a rule.
const MAX_FINDINGS: usize = 20;

type Feed = dyn Fn(&[u8]) -> String + Send + Sync;

/// A parser, and what to feed it.
pub(crate) struct Target {
    /// Inputs that are right, or nearly.
    pub(crate) seeds: Vec<Vec<u8>>,
    /// First bytes of a case that say what the rest is; they stay as they are.
    pub(crate) head: usize,
    /// Words of the format; without any, it is a binary one.
    pub(crate) words: &'static [&'static str],
    /// Makes checksums and lengths right again, in half of the cases.
    pub(crate) repair: Option<fn(&mut [u8])>,
    /// Cases of a short run.
    pub(crate) rounds: u64,
    /// Bytes that a case may take.
    pub(crate) max_memory: usize,
    /// Feeds it; what comes back tells outcomes apart.
    pub(crate) run: Box<Feed>,
}

/// The files of one target as seeds: each with its number before it, by which the target knows which one a case replaces.
pub(crate) fn numbered(files: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let numbers = 0_u8..;
    (files.iter().zip(numbers))
        .map(|(bytes, number)| [&[number], &bytes[..]].concat())
        .collect()
}

impl Target {
    pub(crate) fn new(
        seeds: Vec<Vec<u8>>,
        words: &'static [&'static str],
        run: impl Fn(&[u8]) -> String + Send + Sync + 'static,
    ) -> Self {
        Self {
            seeds,
            head: 0,
            words,
            repair: None,
            rounds: 300,
            max_memory: 256 << 20,
            run: Box::new(run),
        }
    }
}

/// What one case did.
struct Seen {
    outcome: String,
    time: Duration,
    bytes: usize,
    /// What is wrong, if something is.
    finding: Option<String>,
}

/// When the running case began, in seconds of [`busy`] and of the clock; 0 is none.
static RUNNING: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];
/// Places and words of the panics since the case began.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// The folder of a target, with the running case, its files and the cases that were findings. In memory where that is
/// possible: each case is a file or two.
fn folder(name: &str) -> PathBuf {
    let memory = Path::new("/dev/shm");
    let usual = if memory.is_dir() {
        memory.to_owned()
    } else {
        env::temp_dir()
    };
    let usual = || usual.join(format!("brazier-fuzz-{}", std::process::id()));
    let folder = env::var_os("BRAZIER_FUZZ_DIR")
        .map_or_else(usual, PathBuf::from)
        .join(name);
    fs::create_dir_all(folder.join("files")).unwrap();
    folder
}

/// Runs a target for `BRAZIER_FUZZ_SECONDS` of a processor's time, or a fixed number of cases; or the one case in the file `BRAZIER_FUZZ_CASE`.
pub(crate) fn fuzz(name: &'static str, target: fn(&Path) -> Target) {
    // Time and memory are counted for the whole process.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = locked(&ALONE);
    listen();
    let number = |key: &str| env::var(key).ok().map(|value| value.parse::<u64>().expect(key));
    let folder = folder(name);
    let target = target(&folder.join("files"));
    // Rows are read by as many threads as there are; a case needs one.
    let pool = ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    if let Some(path) = env::var_os("BRAZIER_FUZZ_CASE") {
        let seen = try_case(&target, &pool, &fs::read(path).unwrap());
        assert!(seen.finding.is_none(), "{}", seen.finding.unwrap_or_default());
        return;
    }
    let mut run = Run {
        name,
        folder: &folder,
        target: &target,
        pool: &pool,
        random: ChaCha8Rng::seed_from_u64(number("BRAZIER_FUZZ_SEED").unwrap_or(7)),
        corpus: target.seeds.clone(),
        outcomes: HashSet::new(),
        findings: Vec::new(),
        slowest: Duration::ZERO,
        most_bytes: 0,
    };
    let started = busy();
    let seconds = number("BRAZIER_FUZZ_SECONDS").map(Duration::from_secs);
    let mut cases = 0;
    for seed in &target.seeds {
        run.take(seed.clone());
        cases += 1;
    }
    while run.findings.len() < MAX_FINDINGS
        && seconds.map_or(cases < target.rounds, |seconds| {
            busy().saturating_sub(started) < seconds
        })
    {
        let case = mutated(&run.corpus, &target, &mut run.random);
        run.take(case);
        cases += 1;
    }
    let line = format!(
        "{name}: {cases} cases in {:.0} s of CPU time, {} kinds of outcome, slowest {:.2} s, at most {:.1} MiB, {} findings",
        busy().saturating_sub(started).as_secs_f64(),
        run.outcomes.len(),
        run.slowest.as_secs_f64(),
        run.most_bytes as f64 / f64::from(1 << 20),
        run.findings.len()
    );
    if seconds.is_some() {
        // Past the capture of the tests' output: whoever waits for minutes wants to see it.
        std::io::stderr()
            .write_all(format!("{line}\n").as_bytes())
            .unwrap();
    }
    assert!(run.findings.is_empty(), "{line}\n{}", run.findings.join("\n"));
    drop(target);
    fs::remove_dir_all(&folder).unwrap();
    // The last one takes what was around them all.
    if let Some(parent) = folder.parent() {
        let _ = fs::remove_dir(parent);
    }
}

/// A target on its way.
struct Run<'a> {
    name: &'a str,
    folder: &'a Path,
    target: &'a Target,
    pool: &'a ThreadPool,
    random: ChaCha8Rng,
    corpus: Vec<Vec<u8>>,
    outcomes: HashSet<u64>,
    findings: Vec<String>,
    slowest: Duration,
    most_bytes: usize,
}

impl Run<'_> {
    fn take(&mut self, case: Vec<u8>) {
        // Should the process die of it, the case is there.
        let place = self.folder.join("running");
        fs::write(&place, &case).unwrap();
        let mut seen = try_case(self.target, self.pool, &case);
        if seen.time > MAX_TIME {
            // The machine may have been busy with something else.
            seen = try_case(self.target, self.pool, &case);
            if seen.time > MAX_TIME {
                seen.finding.get_or_insert(format!("{:?}", seen.time));
            }
        }
        if seen.bytes > self.target.max_memory {
            seen.finding
                .get_or_insert(format!("{} bytes of memory", seen.bytes));
        }
        if let Some(finding) = seen.finding {
            // One case of each is enough.
            if self.outcomes.insert(hash(&told_by(&finding))) {
                let place = self.folder.join(format!("{:016x}.case", hash(&case)));
                fs::write(&place, &case).unwrap();
                self.findings.push(format!(
                    "{}: {finding}\n  BRAZIER_FUZZ_CASE={}",
                    self.name,
                    place.display()
                ));
            }
            return;
        }
        self.slowest = self.slowest.max(seen.time);
        self.most_bytes = self.most_bytes.max(seen.bytes);
        if self.outcomes.insert(hash(&told_by(&seen.outcome))) && self.corpus.len() < MAX_KEPT {
            self.corpus.push(case);
        }
    }
}

fn try_case(target: &Target, pool: &ThreadPool, case: &[u8]) -> Seen {
    locked(&PANICS).clear();
    let started = busy();
    for (running, now) in RUNNING.iter().zip([started, since_start()]) {
        running.store(now.as_secs().max(1), Relaxed);
    }
    let run = || catch_unwind(AssertUnwindSafe(|| pool.install(|| (target.run)(case))));
    let (result, bytes) = most_bytes(run);
    let time = busy().saturating_sub(started);
    RUNNING[0].store(0, Relaxed);
    // Readers of others may panic where that is caught; our own code never.
    let panics = locked(&PANICS);
    let ours = panics
        .iter()
        .find(|panic| panic.starts_with("src/") || panic.starts_with("models/"));
    let finding = match (ours, &result) {
        (Some(ours), _) => Some(ours.clone()),
        (None, Err(_)) => Some(panics.first().cloned().unwrap_or_default()),
        (None, Ok(_)) => None,
    };
    Seen {
        outcome: result.unwrap_or_default(),
        time,
        bytes,
        finding,
    }
}

/// Notes every panic instead of printing it, and watches for a case that never ends.
fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        since_start();
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            if place.starts_with("tests/") {
                return usual(info);
            }
            let words = info.payload_as_str().unwrap_or_default();
            locked(&PANICS).push(format!("{place}: panic: {words}"));
        }));
        thread::spawn(|| {
            loop {
                thread::sleep(Duration::from_secs(1));
                let [began, by_clock] = RUNNING.each_ref().map(|running| running.load(Relaxed));
                let is_over = busy().as_secs() > began + PATIENCE.as_secs()
                    || since_start().as_secs() > by_clock + CLOCK_PATIENCE.as_secs();
                if began > 0 && is_over {
                    eprintln!("a case does not end; it is the file `running` of its target");
                    std::process::abort();
                }
            }
        });
    });
}

/// What the process has used of processors, in steps of 10 ms; where no one says, the clock.
fn busy() -> Duration {
    let used = fs::read_to_string("/proc/self/stat").ok().and_then(|stat| {
        // After the name in brackets: the state, ten other fields, ticks in the program and in the system.
        let (_, fields) = stat.rsplit_once(')')?;
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: Vec<u64> = ticks.flat_map(str::parse).collect();
        Some(Duration::from_millis(10 * ticks.iter().sum::<u64>()))
    });
    used.unwrap_or_else(since_start)
}

fn since_start() -> Duration {
    static START: Mutex<Option<Instant>> = Mutex::new(None);
    locked(&START).get_or_insert_with(Instant::now).elapsed()
}

/// What of an outcome counts: its letters, without those in quotes, which come from the case.
fn told_by(outcome: &str) -> String {
    let mut quote = None;
    let letters = outcome.chars().filter(|&c| match (quote, c) {
        (Some(open), c) => {
            if c == open {
                quote = None;
            }
            false
        }
        (None, '"' | '`') => {
            quote = Some(c);
            false
        }
        (None, c) => c.is_ascii_alphabetic(),
    });
    letters.take(TOLD_BY).collect()
}

fn hash(value: &(impl Hash + ?Sized)) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
