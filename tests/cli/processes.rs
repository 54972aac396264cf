//! Ranks that are processes and meet by TCP, as torchrun and srun start them.

use std::{
    net::TcpListener,
    process::Child,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    project::{Done, Project},
    ranks::check_processes,
};

fn free_port() -> u16 {
    TcpListener::bind("[::]:0").unwrap().local_addr().unwrap().port()
}

/// What became of processes that ended by themselves.
fn all(children: Vec<Child>) -> Vec<Done> {
    children.into_iter().map(Done::of_child).collect()
}

#[test]
fn processes_train_what_one_trains() {
    let cases = [
        (2, "train.accumulation=2", "parallel.zero=0"),
        (4, "train.accumulation=1", "parallel.zero=1"),
        (3, "train.accumulation=2", "parallel.zero=3"),
    ];
    check_processes(&cases, |project, size, sets| {
        all(project.processes(free_port(), sets, &vec![&[][..]; size]))
    });
}

#[test]
fn what_ranks_disagree_on_ends_all() {
    let project = Project::new();
    let own = [&["train.optimizer.lr=0.01"][..], &["train.optimizer.lr=0.02"]];
    let done = all(project.processes(free_port(), &[], &own));
    let words = "the configuration differs between ranks: rank 0 has lr: 0.01, rank 1 has lr: 0.02";
    done[0].exits(2).says(&[&format!("error: {words}")]);
    done[1].exits(2).says(&[&format!("error: rank 1: {words}")]);
    assert!(!project.path("run").exists(), "nothing is written");
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("[::]:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let project = Project::new();
    let done = all(project.processes(port, &["parallel.timeout_seconds=1"], &[&[][..]; 2]));
    done[0].exits(1).says(&[
        &format!("the ranks did not meet: port {port} of this host is in use"),
        "hint: set MASTER_PORT to a free one",
    ]);
    done[1].exits(1).says(&[&format!(
        "error: rank 1: the ranks did not meet: no answer from localhost:{port}"
    )]);
}

#[test]
fn processes_that_cannot_meet_are_told_how() {
    let project = Project::new();
    let launched = [
        ("OMPI_COMM_WORLD_RANK", "1"),
        ("OMPI_COMM_WORLD_SIZE", "2"),
        ("OMPI_COMM_WORLD_LOCAL_RANK", "1"),
    ];
    let done = project.brazier_with(&["train", "--config", "run.yaml"], &launched);
    match cfg!(feature = "mpi") {
        true => assert_ne!(done.code, Some(0)),
        false => {
            done.exits(2).says(&[
                "mpirun started 2 processes, of which this is number 1",
                "-x MASTER_PORT=",
            ]);
        }
    }
}

/// A rank that stands still is missed within the time that the run allows, and one that dies at once.
#[test]
fn a_rank_that_stops_does_not_hold_the_others() {
    for (signal, words) in [
        (Signal::STOP, "of 3 waited 10 s in "),
        (
            Signal::KILL,
            "rank 2 failed: its process has ended, or the connection to it",
        ),
    ] {
        let project = Project::new();
        let sets = [
            "train.steps=100000",
            "train.micro_batch_size=1",
            "train.accumulation=2",
            "parallel.timeout_seconds=10",
            "checkpoint.every={steps: 5}",
        ];
        let mut children = project.processes(free_port(), &sets, &[&[][..]; 3]);
        project.await_checkpoint(&mut children[0]);
        let mut last = children.pop().unwrap();
        let process = Pid::from_child(&last);
        let started = Instant::now();
        kill_process(process, signal).unwrap();
        let done = all(children);
        assert!(
            started.elapsed() < Duration::from_secs(30),
            "{:?}",
            started.elapsed()
        );
        last.kill().unwrap();
        last.wait().unwrap();
        // One may hear of it from the other.
        assert!(
            done.iter().any(|done| done.stderr.contains(words)),
            "{signal:?}: {} {}",
            done[0],
            done[1]
        );
        // A rank that waits for the one that stands still may be missed with it.
        let named = ["rank 2", "rank 1, 2", "rank 0, 2"];
        for done in &done {
            done.exits(1);
            assert!(
                named.iter().any(|rank| done.stderr.contains(rank)),
                "{signal:?}: {done}"
            );
        }
        assert!(!project.steps().is_empty());
    }
}
