//! A folder with a small run in it, and the program to run there.

use std::{
    fmt::Write as _,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

/// Training rows of the shared data set; four make a step.
pub(crate) const NUM_ROWS: u64 = 24;

/// The shapes that all tests share: drawn by the program, deleted with the last test that holds them.
pub(crate) struct Shapes(TempDir);

impl Shapes {
    pub(crate) fn get() -> Arc<Self> {
        static SHARED: Mutex<Weak<Shapes>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shapes) = shared.upgrade() {
            return shapes;
        }
        let shapes = Arc::new(Shapes(tempfile::tempdir().unwrap()));
        let rows = NUM_ROWS.to_string();
        let done = Done::of(brazier(shapes.0.path()).args([
            "data",
            "synth",
            "--out",
            "shapes",
            "--train",
            &rows,
            "--eval",
            "4",
            "--image-size",
            "32",
        ]));
        done.exits(0);
        *shared = Arc::downgrade(&shapes);
        shapes
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.0.path().join("shapes")
    }
}

/// A run's folder: `run.yaml`, and `run/` once it is trained.
pub(crate) struct Project {
    dir: TempDir,
    shapes: Arc<Shapes>,
}

impl Project {
    /// 12 steps over two epochs, a checkpoint and a held-out loss every third.
    pub(crate) fn new() -> Self {
        let project = Self {
            dir: tempfile::tempdir().unwrap(),
            shapes: Shapes::get(),
        };
        let yaml = RUN_YAML.replace("SHAPES", &project.shapes.dir().display().to_string());
        project.write("run.yaml", yaml.as_bytes());
        project
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn shapes(&self) -> PathBuf {
        self.shapes.dir()
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        let path = self.path(name);
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// The program, with this folder as the current one.
    pub(crate) fn brazier(&self, args: &[&str]) -> Done {
        Done::of(brazier(self.dir.path()).args(args))
    }

    /// As [`Project::brazier`], with variables of the environment.
    pub(crate) fn brazier_with(&self, args: &[&str], variables: &[(&str, &str)]) -> Done {
        Done::of(
            brazier(self.dir.path())
                .args(args)
                .envs(variables.iter().copied()),
        )
    }

    pub(crate) fn train(&self, sets: &[&str]) -> Done {
        Done::of(&mut self.training(sets))
    }

    /// Starts training and does not wait for it.
    pub(crate) fn spawn(&self, sets: &[&str]) -> Child {
        let mut command = self.training(sets);
        let piped = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        piped.spawn().unwrap()
    }

    fn training(&self, sets: &[&str]) -> Command {
        let mut command = brazier(self.dir.path());
        command.args(training_args(sets));
        command
    }

    /// Starts the processes of a run as torchrun does; each has settings of its own besides those of all.
    pub(crate) fn processes(&self, port: u16, sets: &[&str], own: &[&[&str]]) -> Vec<Child> {
        let size = own.len().to_string();
        let start = |(rank, own): (usize, &&[&str])| {
            let rank = rank.to_string();
            let mut command = self.training(&[sets, own].concat());
            command
                .env("RANK", &rank)
                .env("LOCAL_RANK", &rank)
                .env("WORLD_SIZE", &size)
                .env("MASTER_ADDR", "localhost")
                .env("MASTER_PORT", port.to_string())
                .env("RAYON_NUM_THREADS", "1")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped());
            command.spawn().unwrap()
        };
        own.iter().enumerate().map(start).collect()
    }

    /// Trains in processes that `mpirun` starts.
    #[cfg(feature = "mpi")]
    pub(crate) fn mpirun(&self, size: usize, sets: &[&str]) -> Command {
        let mut command = Command::new("mpirun");
        command
            .current_dir(self.dir.path())
            .args(["--allow-run-as-root", "--oversubscribe", "-n", &size.to_string()])
            .arg(env!("CARGO_BIN_EXE_brazier"))
            .args(training_args(sets))
            // Several processes on few cores: waiting must not take the time of those that work.
            .env("OMPI_MCA_mpi_yield_when_idle", "1")
            .env("RAYON_NUM_THREADS", "1");
        command
    }

    /// Waits until a run that goes on has a checkpoint.
    pub(crate) fn await_checkpoint(&self, child: &mut Child) {
        let deadline = Instant::now() + Duration::from_secs(300);
        // The newest, since older ones are removed faster than a busy machine may look.
        while !self.path("run/checkpoints").exists() || self.steps().is_empty() {
            if let Some(status) = child.try_wait().unwrap() {
                let mut said = String::new();
                let stderr = child.stderr.take();
                stderr.map(|mut stderr| stderr.read_to_string(&mut said).unwrap());
                panic!("ended with {status}: {said}");
            }
            assert!(Instant::now() < deadline, "no checkpoint");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Steps with a checkpoint.
    pub(crate) fn steps(&self) -> Vec<u64> {
        let names = fs::read_dir(self.path("run/checkpoints")).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut steps: Vec<u64> = names
            .filter_map(|name| name.strip_prefix("step-")?.parse().ok())
            .collect();
        steps.sort_unstable();
        steps
    }

    /// Lines of metrics.jsonl.
    pub(crate) fn metrics(&self) -> Vec<Value> {
        let text = String::from_utf8(self.read("run/metrics.jsonl")).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }
}

fn training_args<'a>(sets: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["train", "--config", "run.yaml"];
    args.extend(sets.iter().flat_map(|set| ["--set", set]));
    args
}

fn brazier(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_brazier"));
    command.current_dir(dir);
    command
}

/// What became of a command.
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Done {
    pub(crate) fn of(command: &mut Command) -> Self {
        Self::with(command.stdin(Stdio::null()).output().unwrap())
    }

    /// What a process ended with.
    pub(crate) fn of_child(child: Child) -> Self {
        Self::with(child.wait_with_output().unwrap())
    }

    fn with(output: Output) -> Self {
        let Output {
            status,
            stdout,
            stderr,
        } = output;
        Self {
            code: status.code(),
            stdout: String::from_utf8(stdout).unwrap(),
            stderr: String::from_utf8(stderr).unwrap(),
        }
    }

    #[track_caller]
    pub(crate) fn exits(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "{self}");
        self
    }

    /// Standard error contains each of them.
    #[track_caller]
    pub(crate) fn says(&self, parts: &[&str]) -> &Self {
        for part in parts {
            assert!(self.stderr.contains(part), "no `{part}` in {self}");
        }
        self
    }
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { code, stdout, stderr } = self;
        f.write_str(&format!("exit code {code:?}"))?;
        f.write_char('\n')?;
        write!(f, "--- stdout\n{stdout}--- stderr\n{stderr}")
    }
}

const RUN_YAML: &str = "\
output: run
seed: 7
model:
  tokenizer: SHAPES/tokenizer
  language:
    hidden_size: 16
    intermediate_size: 32
    num_hidden_layers: 2
    num_attention_heads: 2
    num_key_value_heads: 1
    max_position_embeddings: 256
    tie_word_embeddings: true
  vision:
    hidden_size: 16
    intermediate_size: 32
    num_hidden_layers: 1
    num_attention_heads: 2
    image_size: 32
    patch_size: 16
  projector:
    kind: mlp
data:
  train: [{path: SHAPES/train.jsonl}]
  eval: [{path: SHAPES/eval.jsonl}]
  sequence_length: 256
train:
  steps: 12
  micro_batch_size: 2
  accumulation: 2
  optimizer:
    lr: 0.01
eval:
  every: {steps: 3}
  batch_size: 4
checkpoint:
  every: {steps: 3}
track:
  log_every: 1
";
