//! Several ranks train what one trains: as threads, and, where the feature is on, as processes of `mpirun`. Processes that meet by
//! themselves are in `processes.rs`.

use std::{fs, process::Command};

use serde_json::Value;

use crate::project::{Done, Project};

fn ranks<'a>(devices: &'a str, accumulation: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut sets = vec!["train.micro_batch_size=1", devices, accumulation];
    sets.extend(more);
    sets
}

/// Key heads that two ranks can share, and an optimizer that makes no whole steps of differences by rounding: terms of hidden
/// states are rounded before they are added up.
const TOGETHER: [&str; 2] = ["model.language.num_key_value_heads=2", "train.optimizer.eps=1e-4"];

/// Numbers of the log that must not depend on the ranks.
fn numbers(project: &Project) -> Vec<Vec<(String, f64)>> {
    const NAMES: [&str; 8] = [
        "step",
        "epoch",
        "loss",
        "grad_norm",
        "tokens",
        "labelled_tokens",
        "samples",
        "eval_loss",
    ];
    let of = |line: &Value| {
        let value = |name: &str| Some((name.to_owned(), line.get(name)?.as_f64()?));
        NAMES.iter().filter_map(|name| value(name)).collect()
    };
    project.metrics().iter().map(of).collect()
}

#[track_caller]
fn assert_same_numbers(what: &str, ranks: &Project, one: &[Vec<(String, f64)>]) {
    let found = numbers(ranks);
    assert_eq!(found.len(), one.len(), "{what}");
    for (found, expected) in found.iter().flatten().zip(one.iter().flatten()) {
        assert_eq!(found.0, expected.0, "{what}");
        let error = (found.1 - expected.1).abs();
        assert!(
            error <= 1e-6 * expected.1.abs(),
            "{what}: {found:?}, alone {expected:?}"
        );
    }
}

/// The run of one rank, which accumulates all the rows of a step.
fn alone(accumulation: &str, more: &[&str]) -> Vec<Vec<(String, f64)>> {
    let project = Project::new();
    project
        .train(&ranks("parallel.devices=1", accumulation, more))
        .exits(0);
    numbers(&project)
}

#[test]
fn threads_train_what_one_trains() {
    let one = alone("train.accumulation=4", &[]);
    for (devices, accumulation, more) in [
        (
            "parallel.devices=2",
            "train.accumulation=2",
            &["parallel.zero=0"][..],
        ),
        ("parallel.devices=4", "train.accumulation=1", &["parallel.zero=1"]),
        ("parallel.devices=2", "train.accumulation=2", &["parallel.zero=2"]),
        (
            "parallel.devices=4",
            "train.accumulation=1",
            &["parallel.zero=3", "train.recompute=blocks"],
        ),
    ] {
        let project = Project::new();
        let done = project.train(&ranks(devices, accumulation, more));
        done.exits(0);
        assert_eq!(done.stderr.matches("finished after").count(), 1, "{done}");
        assert_same_numbers(&format!("{devices} {more:?}"), &project, &one);
        let answer = project.brazier(&[
            "generate",
            "--model",
            "run/export",
            "--prompt",
            "circle",
            "--max-new-tokens",
            "2",
        ]);
        answer.exits(0);
    }
}

/// Two ranks hold one model together; four are two models, or two copies of which each rank has its part of the state.
#[test]
fn ranks_that_hold_a_model_together_train_what_one_trains() {
    let one = alone("train.accumulation=4", &TOGETHER);
    for (devices, accumulation, more) in [
        (
            "parallel.devices=2",
            "train.accumulation=4",
            &["parallel.zero=0"][..],
        ),
        ("parallel.devices=4", "train.accumulation=2", &["parallel.zero=2"]),
        (
            "parallel.devices=4",
            "train.accumulation=2",
            &["parallel.zero=3", "train.recompute=blocks"],
        ),
        (
            "parallel.devices=4",
            "train.accumulation=2",
            &["parallel.zero=1", "parallel.offload=true"],
        ),
    ] {
        let project = Project::new();
        let mut sets = ranks(devices, accumulation, &["parallel.tensor=2"]);
        sets.extend(TOGETHER.iter().chain(more));
        let done = project.train(&sets);
        done.exits(0);
        assert_eq!(done.stderr.matches("finished after").count(), 1, "{done}");
        assert_same_numbers(&format!("{devices} {more:?}"), &project, &one);
        let args = ["generate", "--model", "run/export", "--prompt", "circle"];
        project.brazier(&args).exits(0);
    }
}

/// Rows of several samples each, dealt out to ranks.
#[test]
fn packed_rows_train_what_one_trains() {
    let packed = [
        "data.packing=best_fit",
        "model.language.max_position_embeddings=512",
        "data.sequence_length=512",
        "train.mode=end_to_end",
        "checkpoint.export=false",
    ];
    let one = alone("train.accumulation=2", &packed);
    let samples = one.iter().flatten().find(|(name, _)| name == "samples");
    assert!(samples.unwrap().1 > 2.0, "nothing is packed: {samples:?}");
    let project = Project::new();
    let mut sets = ranks("parallel.devices=2", "train.accumulation=1", &["parallel.zero=2"]);
    sets.extend(packed);
    project.train(&sets).exits(0);
    assert_same_numbers("packed", &project, &one);
}

/// A way between GPUs is none between CPUs, and nobody is told so by a slow run.
#[test]
fn a_transport_that_the_devices_lack_is_refused() {
    let project = Project::new();
    project
        .train(&["parallel.devices=2", "parallel.transport=nccl"])
        .exits(2)
        .says(&[
            "parallel.transport: nccl is for CUDA devices",
            "hint: leave it out",
        ]);
    assert!(!project.path("run/checkpoints").exists());
}

/// What a rank cannot write ends all, and room is all it takes to go on.
#[test]
fn a_disk_that_is_full_for_one_rank_ends_all() {
    let project = Project::new();
    let mut command = Command::new("sh");
    let limited = "trap '' XFSZ; ulimit -f 128; exec \"$BRAZIER\" train --config run.yaml --devices 2";
    command
        .current_dir(project.path("."))
        .env("BRAZIER", env!("CARGO_BIN_EXE_brazier"))
        .args(["-c", limited]);
    let done = Done::of(&mut command);
    done.exits(1)
        .says(&["checkpoint of step 3 not written", "hint: free space"]);
    assert_eq!(project.steps(), [0; 0]);
    project.train(&["parallel.devices=2"]).exits(0);
    assert_eq!(project.steps(), [9, 12]);
}

/// A run of one rank goes on with two, which each hold a part of everything, and the other way round.
#[test]
fn another_number_of_ranks_goes_on() {
    let one = alone("train.accumulation=4", &[]);
    let first = &ranks("parallel.devices=1", "train.accumulation=4", &[])[..];
    let second = &ranks(
        "parallel.devices=2",
        "train.accumulation=2",
        &["parallel.zero=3", "train.recompute=blocks"],
    )[..];
    for (before, after) in [(first, second), (second, first)] {
        let project = Project::new();
        project.train(before).exits(0);
        fs::remove_dir_all(project.path("run/checkpoints/step-00000012")).unwrap();
        project.train(after).exits(0).says(&["going on from step 9"]);
        assert_same_numbers("resumed", &project, &one);
    }
}

/// From a model on two ranks to two models on one each, and back.
#[test]
fn another_way_to_hold_a_model_goes_on() {
    let one = alone("train.accumulation=4", &TOGETHER);
    let with = |devices, accumulation, more| {
        let mut sets = ranks(devices, accumulation, &[more]);
        sets.extend(TOGETHER);
        sets
    };
    let together = with("parallel.devices=2", "train.accumulation=4", "parallel.tensor=2");
    let copies = with("parallel.devices=2", "train.accumulation=2", "parallel.zero=2");
    for (before, after) in [(&together, &copies), (&copies, &together)] {
        let project = Project::new();
        project.train(before).exits(0);
        fs::remove_dir_all(project.path("run/checkpoints/step-00000012")).unwrap();
        project.train(after).exits(0).says(&["going on from step 9"]);
        assert_same_numbers("resumed", &project, &one);
    }
}

#[test]
fn what_cannot_be_shared_is_refused() {
    let project = Project::new();
    let done = project.train(&["parallel.devices=2", "parallel.zero=3"]);
    done.exits(2).says(&["parallel.zero", "train.recompute"]);
    let done = project.train(&["parallel.devices=0"]);
    done.exits(2).says(&["parallel.devices"]);
    let done = project.train(&["parallel.devices=3", "parallel.tensor=2"]);
    done.exits(2)
        .says(&["parallel.tensor", "3 ranks do not divide into groups of 2"]);
    let done = project.brazier(&[
        "train",
        "--config",
        "run.yaml",
        "--devices",
        "64",
        "--tensor",
        "64",
    ]);
    done.exits(2).says(&[
        "parallel.tensor",
        "num_attention_heads",
        "does not divide into 64 parts",
    ]);
    let launched = [
        ("RANK", "1"),
        ("WORLD_SIZE", "2"),
        ("LOCAL_RANK", "1"),
        ("MASTER_ADDR", "a"),
        ("MASTER_PORT", "1"),
    ];
    let args = ["train", "--config", "run.yaml", "--devices", "2"];
    let done = project.brazier_with(&args, &launched);
    done.exits(2)
        .says(&["error: rank 1: ", "parallel.devices", "each of the 2 processes"]);
}

/// Processes, as many as each case says, that `start` starts and waits for, train what one trains. One of them tells the end.
pub(crate) fn check_processes(
    cases: &[(usize, &str, &str)],
    start: impl Fn(&Project, usize, &[&str]) -> Vec<Done>,
) {
    let (four, six) = (
        alone("train.accumulation=4", &[]),
        alone("train.accumulation=6", &[]),
    );
    for &(size, accumulation, zero) in cases {
        let project = Project::new();
        let sets = [
            "train.micro_batch_size=1",
            accumulation,
            zero,
            "train.recompute=blocks",
        ];
        let done = start(&project, size, &sets);
        for done in &done {
            done.exits(0);
        }
        let finished = done
            .iter()
            .map(|done| done.stderr.matches("finished after").count());
        assert_eq!(finished.sum::<usize>(), 1);
        let one = if size == 3 { &six } else { &four };
        assert_same_numbers(&format!("{size} processes, {zero}"), &project, one);
    }
}

#[cfg(feature = "mpi")]
mod processes {
    use std::{
        process::Stdio,
        time::{Duration, Instant},
    };

    use rustix::process::{Pid, Signal, kill_process};

    use super::*;

    #[test]
    fn processes_train_what_one_trains() {
        let cases = [
            (2, "train.accumulation=2", "parallel.zero=0"),
            (4, "train.accumulation=1", "parallel.zero=1"),
            (3, "train.accumulation=2", "parallel.zero=2"),
            (4, "train.accumulation=1", "parallel.zero=3"),
        ];
        check_processes(&cases, |project, size, sets| {
            vec![Done::of(&mut project.mpirun(size, sets))]
        });
    }

    #[test]
    fn processes_that_hold_a_model_together_train_what_one_trains() {
        let one = alone("train.accumulation=4", &TOGETHER);
        for (size, accumulation, zero) in [
            (2, "train.accumulation=4", "parallel.zero=0"),
            (4, "train.accumulation=2", "parallel.zero=2"),
            (4, "train.accumulation=2", "parallel.zero=3"),
        ] {
            let project = Project::new();
            let sets = [
                "train.micro_batch_size=1",
                accumulation,
                zero,
                "parallel.tensor=2",
                "train.recompute=blocks",
            ];
            let sets = [&sets[..], &TOGETHER].concat();
            Done::of(&mut project.mpirun(size, &sets)).exits(0);
            assert_same_numbers(&format!("{size} processes, {zero}"), &project, &one);
        }
    }

    #[test]
    fn other_settings_are_refused_everywhere() {
        let project = Project::new();
        let script = project.write(
            "rank.sh",
            b"exec \"$BRAZIER\" train --config run.yaml --set train.optimizer.lr=0.0$((OMPI_COMM_WORLD_RANK + 1))\n",
        );
        let mut command = Command::new("mpirun");
        command
            .current_dir(project.path(""))
            .args(["--allow-run-as-root", "--oversubscribe", "-n", "2", "sh"])
            .arg(script)
            .env("BRAZIER", env!("CARGO_BIN_EXE_brazier"));
        let done = Done::of(&mut command);
        let words = "the configuration differs between ranks: rank 0 has lr: 0.01, rank 1 has lr: 0.02";
        done.says(&[&format!("error: {words}"), &format!("error: rank 1: {words}")]);
        assert_ne!(done.code, Some(0));
    }

    /// A rank that stands still is missed within the time that the run allows, and one that dies ends the others.
    #[test]
    fn a_rank_that_stops_does_not_hold_the_others() {
        for (signal, words) in [
            (Signal::STOP, "waited 10 s in "),
            (Signal::KILL, "exited on signal 9"),
        ] {
            let project = Project::new();
            let sets = [
                "train.steps=100000",
                "parallel.timeout_seconds=10",
                "checkpoint.every={steps: 5}",
            ];
            let mut command = project.mpirun(2, &sets);
            let mut child = command
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            project.await_checkpoint(&mut child);
            let ranks = Command::new("pgrep")
                .args(["-P", &child.id().to_string()])
                .output()
                .unwrap();
            let ranks = String::from_utf8(ranks.stdout).unwrap();
            let last: i32 = ranks.split_whitespace().last().unwrap().parse().unwrap();
            let started = Instant::now();
            kill_process(Pid::from_raw(last).unwrap(), signal).unwrap();
            let done = child.wait_with_output().unwrap();
            let stderr = String::from_utf8(done.stderr).unwrap();
            assert!(
                started.elapsed() < Duration::from_secs(30),
                "{:?}",
                started.elapsed()
            );
            assert!(stderr.contains(words), "{signal:?}: {stderr}");
            assert_ne!(done.status.code(), Some(0));
            assert!(!project.steps().is_empty());
        }
    }
}
