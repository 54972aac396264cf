//! A disk that fills up while a checkpoint is saved: told as such, nothing lost, and room is all it takes to go on.

use std::process::Command;

use crate::project::{Done, Project};

/// Runs a shell script in the project's folder, with the program as `$BRAZIER`.
fn shell(project: &Project, prefix: &[&str], script: &str) -> Done {
    let words: Vec<&str> = prefix.iter().copied().chain(["sh", "-c", script]).collect();
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .env("BRAZIER", env!("CARGO_BIN_EXE_brazier"));
    Done::of(command.current_dir(project.path(".")))
}

/// A way to have mounts of one's own: as root, or in a user namespace where the system allows it.
fn own_mounts(project: &Project) -> Option<&'static [&'static str]> {
    const WAYS: [&[&str]; 2] = [
        &["unshare", "--mount"],
        &["unshare", "--map-root-user", "--mount"],
    ];
    let probe = "mkdir -p probe && mount -t tmpfs -o size=64k none probe";
    let is_possible = |way: &&&[&str]| {
        let found = Command::new(way[0]).arg("--version").output().is_ok();
        found && shell(project, way, probe).code == Some(0)
    };
    WAYS.iter().find(is_possible).copied()
}

#[test]
fn a_file_that_may_not_grow_is_a_full_disk() {
    let project = Project::new();
    // 64 KiB hold a log, not a checkpoint. Ignored, the signal becomes an error of `write`.
    let limited = "trap '' XFSZ; ulimit -f 128; exec \"$BRAZIER\" train --config run.yaml";
    shell(&project, &[], limited).exits(1).says(&[
        "checkpoint of step 3 not written",
        "tensors-00001.safetensors",
        "there is no complete checkpoint yet",
        "hint: free space",
    ]);
    assert_eq!(project.steps(), [0; 0]);
    project.train(&[]).exits(0);
    assert_eq!(project.steps(), [9, 12]);
}

#[test]
fn an_export_that_does_not_fit_leaves_the_one_before_it() {
    let project = Project::new();
    // Wide enough that the weights are larger than the report, which is written before them.
    let wide = "model.language.hidden_size=64";
    project.train(&[wide]).exits(0);
    let weights = project.read("run/export/model.safetensors");
    assert!(weights.len() > 128 * 1024);
    let limited = "trap '' XFSZ; ulimit -f 256; exec \"$BRAZIER\" train --config run.yaml --set";
    shell(&project, &[], &format!("{limited} {wide}"))
        .exits(1)
        .says(&["cannot write", "model.safetensors", "File too large"]);
    assert!(
        project.read("run/export/model.safetensors") == weights,
        "the export was touched"
    );
}

#[test]
fn a_full_disk_leaves_the_checkpoints_before_it_and_room_lets_the_run_go_on() {
    let project = Project::new();
    let Some(own_mounts) = own_mounts(&project) else {
        // Nobody may mount here: a bound on the size of files, as above, but after a checkpoint was made.
        project.train(&["train.steps=3"]).exits(0);
        let limited = "trap '' XFSZ; ulimit -f 128; exec \"$BRAZIER\" train --config run.yaml";
        let full = shell(&project, &[], limited);
        full.exits(1).says(&[
            "checkpoint of step 6 not written",
            "the last complete checkpoint is step 3",
        ]);
        project.train(&[]).exits(0).says(&["going on from step 3"]);
        return;
    };
    let script = "
        set -e
        train() { \"$BRAZIER\" train --config run.yaml --set 'checkpoint.keep={last: 100}'; }
        mkdir run && mount -t tmpfs -o size=SIZE none run
        if train; then exit 90; else code=$?; fi
        ls -A run/checkpoints >&2
        mount -o remount,size=64m none run
        train
        ls -A run/checkpoints >&2
        exit $code";
    // Room for two checkpoints and the log, not for four.
    let probe = Project::new();
    probe.train(&["train.steps=3"]).exits(0);
    let one = probe
        .read("run/checkpoints/step-00000003/tensors-00001.safetensors")
        .len();
    let script = script.replace("SIZE", &(one * 5 / 2 + 64 * 1024).to_string());
    shell(&project, own_mounts, &script).exits(1).says(&[
        "checkpoint of step 9 not written",
        "No space left on device",
        "the last complete checkpoint is step 6",
        "hint: free space",
        "\n.lock\nstep-00000003\nstep-00000006\n",
        "going on from step 6",
        "\n.lock\nstep-00000003\nstep-00000006\nstep-00000009\nstep-00000012\n",
    ]);
}
