//! A run that is stopped or killed, and goes on, ends as the run that was left alone. The long version, with any number
//! of kills of any configuration, is `tests/scripts/kill_resume.py`.

use std::{
    ffi::OsString,
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, ChildStdout},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::project::Project;

/// Many more than pass before a signal arrives, even on a busy machine.
const STEPS: &str = "train.steps=60";

/// Everything that must not depend on interruptions.
#[derive(PartialEq)]
struct Result {
    weights: Vec<u8>,
    /// Parameters, masters, moments.
    tensors: Vec<u8>,
    /// Counters, best value, and the digest of the tensors.
    manifest: String,
    metrics: Vec<Value>,
}

impl Result {
    fn of(project: &Project) -> Self {
        let last = "run/checkpoints/step-00000060";
        Self {
            weights: project.read("run/export/model.safetensors"),
            tensors: project.read(&format!("{last}/tensors-00001.safetensors")),
            manifest: String::from_utf8(project.read(&format!("{last}/manifest.json"))).unwrap(),
            metrics: project.metrics().into_iter().map(without_clock).collect(),
        }
    }

    #[track_caller]
    fn assert_is(&self, expected: &Self) {
        assert_eq!(self.metrics, expected.metrics);
        assert_eq!(self.manifest, expected.manifest);
        assert!(self.weights == expected.weights, "the exported weights differ");
        assert!(self.tensors == expected.tensors, "the last checkpoints differ");
    }
}

/// A line of the metrics without times, speed, memory and what was in it.
fn without_clock(mut line: Value) -> Value {
    const CLOCK: [&str; 7] = [
        "_seconds",
        "_per_second",
        "_memory_bytes",
        "tflops",
        "mfu",
        "_cache_hits",
        "_cache_misses",
    ];
    let is_clock = |name: &str| CLOCK.iter().any(|end| name.ends_with(end));
    line.as_object_mut().unwrap().retain(|name, _| !is_clock(name));
    line
}

fn undisturbed() -> Result {
    let project = Project::new();
    project.train(&[STEPS]).exits(0);
    Result::of(&project)
}

/// Features of a tower that rests are in no checkpoint: those of later epochs have to be computed again, to the same bits.
/// Threads that decode ahead, and images for which there is no room, do not matter either.
#[test]
fn a_killed_run_computes_lost_features_again() {
    let sets = [STEPS, "train.mode=end_to_end"];
    let whole = Project::new();
    whole.train(&sets).exits(0).says(&[
        "vision cache     all 28 images, 320 B each: 8.8 KiB of at most ",
        "vision cache     28 images in 8.8 KiB",
    ]);
    let uses = |project: &Project, step: u64| {
        let is_meant = |line: &Value| line.get("loss").is_some() && line["step"] == step;
        let line = project.metrics().into_iter().rfind(is_meant).unwrap();
        ["vision_cache_hits", "vision_cache_misses"].map(|name| line[name].as_u64().unwrap())
    };
    // Four samples with a picture each; six steps are an epoch.
    assert_eq!(
        [uses(&whole, 1), uses(&whole, 6), uses(&whole, 7)],
        [[0, 4], [0, 4], [4, 0]]
    );
    let expected = Result::of(&whole);
    // Nine features of 320 bytes fit into these.
    let little = "train.vision_cache_gib=2.7e-6";
    for (sets, killed_at) in [
        (vec![STEPS, "train.mode=end_to_end", "data.workers=0"], 8),
        (vec![STEPS, "train.mode=end_to_end", little, "data.workers=3"], 20),
    ] {
        let project = Project::new();
        let mut child = project.spawn(&sets);
        drop(wait_for_step(&mut child, killed_at));
        child.kill().unwrap();
        child.wait().unwrap();
        let from = project.steps().pop().unwrap_or(0);
        project.train(&sets).exits(0);
        assert!(from < 60, "the run ended before it was killed");
        // What goes on knows no image.
        assert_eq!(uses(&project, from + 1), [0, 4]);
        let resumed = Result::of(&project);
        assert_eq!(resumed.metrics, expected.metrics);
        assert!(resumed.weights == expected.weights, "the exported weights differ");
        assert!(resumed.tensors == expected.tensors, "the last checkpoints differ");
    }
    // Computed in whole batches, all is the same to rounding.
    let without = Project::new();
    without
        .train(&[STEPS, "train.mode=end_to_end", "train.vision_cache_gib=0"])
        .exits(0);
    let losses = |project: &Project| -> Vec<f64> {
        let lines = project.metrics().into_iter();
        lines.filter_map(|line| line["loss"].as_f64()).collect()
    };
    let (with, without) = (losses(&whole), losses(&without));
    assert_eq!(with.len(), 60);
    for (with, without) in with.iter().zip(&without).take(12) {
        assert!((with - without).abs() < 1e-5 * without, "{with} and {without}");
    }
}

/// Reads standard output up to the line of this step or a later one. `None` if the run ended before.
fn wait_for_step(child: &mut Child, step: u64) -> Option<BufReader<ChildStdout>> {
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while stdout.read_line(&mut line).unwrap() > 0 {
        let record: Value = serde_json::from_str(&line).unwrap();
        if record["step"].as_u64().unwrap() >= step {
            return Some(stdout);
        }
        line.clear();
    }
    None
}

#[test]
fn a_stopped_run_saves_its_last_step_and_ends_as_if_it_had_not_stopped() {
    let expected = undisturbed();
    let project = Project::new();
    let mut stopped_at = 0;
    for signal in [Signal::TERM, Signal::INT, Signal::USR1] {
        let asked_at = stopped_at + 2;
        let mut child = project.spawn(&[STEPS]);
        let mut stdout = wait_for_step(&mut child, asked_at).unwrap();
        kill_process(Pid::from_child(&child), signal).unwrap();
        stdout.read_to_string(&mut String::new()).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(75), "{signal:?}");

        stopped_at = project.metrics().pop().unwrap()["step"].as_u64().unwrap();
        assert!(stopped_at >= asked_at);
        let saved = project.steps().pop();
        assert_eq!(saved, Some(stopped_at), "no checkpoint of the last step");
    }
    let last = project.train(&[STEPS]);
    last.exits(0)
        .says(&[&format!("going on from step {stopped_at} ")]);
    Result::of(&project).assert_is(&expected);
}

/// When a run is killed.
enum Moment {
    /// As soon as this exists.
    Exists(&'static str),
    /// As soon as a checkpoint is being written.
    Saving,
    /// As soon as this step is made.
    Step(u64),
}

impl Moment {
    fn wait(&self, project: &Project, child: &mut Child) {
        match self {
            Moment::Exists(name) => poll(child, || project.path(name).exists()),
            Moment::Saving => poll(child, || is_saving(&project.path("run/checkpoints"))),
            Moment::Step(step) => drop(wait_for_step(child, *step)),
        }
    }
}

fn poll(child: &mut Child, is_there: impl Fn() -> bool) {
    while !is_there() && child.try_wait().unwrap().is_none() {
        thread::sleep(Duration::from_micros(200));
    }
}

fn is_saving(checkpoints: &Path) -> bool {
    let is_partial = |name: OsString| name.as_encoded_bytes().starts_with(b".partial-");
    fs::read_dir(checkpoints)
        .is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(|entry| is_partial(entry.file_name()))))
}

#[test]
fn a_killed_run_ends_as_if_it_had_not_been_killed() {
    let expected = undisturbed();
    let project = Project::new();
    let mut num_killed = 0;
    for moment in [
        Moment::Exists("run/checkpoints/.lock"),
        Moment::Exists("run/metrics.jsonl"),
        Moment::Step(5),
        Moment::Saving,
        Moment::Step(32),
        Moment::Step(60),
        Moment::Exists("run/export"),
    ] {
        let mut child = project.spawn(&[STEPS]);
        moment.wait(&project, &mut child);
        child.kill().unwrap();
        num_killed += usize::from(child.wait().unwrap().signal() == Some(9));
    }
    assert!(num_killed >= 4, "most runs ended before they were killed");
    project.train(&[STEPS]).exits(0);
    Result::of(&project).assert_is(&expected);
    let names = fs::read_dir(project.path("run/checkpoints")).unwrap();
    let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(
        names,
        [".lock", "step-00000057", "step-00000060"],
        "dead writers left something"
    );
}

#[test]
fn two_runs_do_not_share_a_folder() {
    let project = Project::new();
    let long = "train.steps=100000";
    let mut first = project.spawn(&[long]);
    let stdout = wait_for_step(&mut first, 1);
    // The second one waits for a dying owner before it gives up.
    project
        .train(&[long])
        .exits(2)
        .says(&["another process", "hint:"]);
    drop(stdout);
    first.kill().unwrap();
    first.wait().unwrap();
}
