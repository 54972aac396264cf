//! `brazier slurm`: the scripts in `configs/slurm/`, what is refused, and a script that runs, with a SLURM of our own.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use crate::project::{Done, Project};

/// Rows of the data that the shipped scripts are written for.
const NUM_ROWS: usize = 100_000;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Each file says at its head which command prints it.
#[test]
fn shipped_scripts_are_what_the_command_prints() {
    let data = tempfile::tempdir().unwrap();
    for name in ["conversations", "instructions"] {
        fs::write(
            data.path().join(name).with_extension("jsonl"),
            "{}\n".repeat(NUM_ROWS),
        )
        .unwrap();
    }
    let folder = repository().join("configs/slurm");
    let mut names: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sbatch"))
        .collect();
    names.sort();
    assert_eq!(names.len(), 2);
    for path in names {
        let written = fs::read_to_string(&path).unwrap();
        let command = written
            .lines()
            .find_map(|line| line.strip_prefix("#     brazier "));
        let words = command.unwrap().split_whitespace();
        let done = Done::of(
            Command::new(env!("CARGO_BIN_EXE_brazier"))
                .args(words)
                .current_dir(repository())
                .env("BRAZIER_CACHE", data.path())
                .env("DATA", data.path()),
        );
        done.exits(0);
        if std::env::var_os("BRAZIER_WRITE_README").is_some() {
            fs::write(&path, &done.stdout).unwrap();
        }
        let written = fs::read_to_string(&path).unwrap();
        assert_eq!(
            written,
            done.stdout,
            "{}: run this test with BRAZIER_WRITE_README=1",
            path.display()
        );
        // Whatever site this is written at, its folders are not the reader's: no path is absolute but the shell's.
        let words = written.split(|c: char| c.is_whitespace() || "=\"'`(),".contains(c));
        let absolute: Vec<&str> = words.filter(|word| word.starts_with('/')).collect();
        assert!(absolute.is_empty(), "{absolute:?} in {}", path.display());
        assert!(
            Command::new("bash")
                .arg("-n")
                .arg(&path)
                .status()
                .unwrap()
                .success()
        );
    }
}

const JOB: [&str; 11] = [
    "slurm",
    "--config",
    "run.yaml",
    "--nodes",
    "2",
    "--gpus-per-node",
    "4",
    "--time",
    "1:00:00",
    "--cpus-per-task",
    "8",
];

#[test]
fn the_configuration_is_resolved_for_all_ranks() {
    let project = Project::new();
    let done = project.brazier(&JOB);
    done.exits(0).says(&["mkdir -p logs"]);
    for line in [
        "# samples per step  32 = 2 in a micro-batch x 2 accumulated x 8 ranks",
        "# steps             12 = 16 epochs of 24 samples, 1 steps each",
        "#SBATCH --ntasks-per-node=4",
        "#SBATCH --signal=USR1@300",
        "    brazier train --config run.yaml --device cuda --resume auto || code=$?",
    ] {
        assert!(done.stdout.contains(line), "no `{line}` in {done}");
    }
    // 8 ranks cannot share 20 samples: refused here, not in the queue.
    let sets = [
        "--set",
        "train.accumulation=null",
        "--set",
        "train.global_batch_size=20",
    ];
    project
        .brazier(&[&JOB[..], &sets].concat())
        .exits(2)
        .says(&["train.global_batch_size", "8"]);
}

#[test]
fn nonsense_is_refused() {
    let project = Project::new();
    for (more, words) in [
        (
            ["--set", "device=cuda:1"],
            "every rank takes the GPU of its number",
        ),
        (
            ["--set", "device=flex"],
            "the 4 GPUs of --gpus-per-node would do nothing",
        ),
        (["--set", "checkpoint.resume=none"], "--max-requeues 0"),
        (["--ntasks-per-node", "1"], "every GPU needs a task of its own"),
        (["--logs", "~/reports"], "~ and variables are not expanded"),
        (["--signal", "USR1@3600"], "nothing is left to train in"),
        (["--signal", "HUP@60"], "expected USR1@SECONDS"),
        (["--cluster", "mine"], "gh200-slingshot"),
        (["--container-mounts", "/a:/b"], "--container"),
    ] {
        let done = project.brazier(&[&JOB[..], &more].concat());
        done.exits(2).says(&[words]);
        assert_eq!(done.stdout, "", "{more:?}");
    }
    for (flag, value) in [("--nodes", "0"), ("--gpus-per-node", "0"), ("--time", "soon")] {
        let words: Vec<&str> = JOB
            .iter()
            .enumerate()
            .map(|(at, word)| {
                if at > 0 && JOB[at - 1] == flag {
                    value
                } else {
                    *word
                }
            })
            .collect();
        project.brazier(&words).exits(2).says(&[flag, value]);
    }
}

/// Runs a script with an `srun` that starts a brazier of our own and a `scontrol` that writes down what it is asked.
fn run_script(project: &Project, script: &str, code: u8, restarts: &str) -> (Done, String) {
    let bin = project.path("bin");
    let brazier = format!("echo \"brazier $*\"\nexit {code}");
    for (name, text) in [
        ("srun", "while [[ $1 == --* ]]; do shift; done\nexec \"$@\""),
        ("brazier", brazier.as_str()),
        ("scontrol", "echo \"$*\" >> scontrol.log"),
    ] {
        let path = project.write(
            &format!("bin/{name}"),
            format!("#!/bin/bash\n{text}\n").as_bytes(),
        );
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let _ = fs::remove_file(project.path("scontrol.log"));
    let path = project.write("job.sh", script.as_bytes());
    let done = Done::of(
        Command::new("bash")
            .arg(path)
            .current_dir(project.path(""))
            .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
            .env("SLURM_JOB_ID", "77")
            .env("SLURM_CPUS_PER_TASK", "8")
            .env("SLURM_RESTART_COUNT", restarts),
    );
    let asked = fs::read_to_string(project.path("scontrol.log")).unwrap_or_default();
    (done, asked)
}

#[test]
fn a_job_that_saved_goes_back_into_the_queue_and_no_other() {
    let project = Project::new();
    let set = [
        "--set",
        "seed=9",
        "--cluster",
        "gh200-slingshot",
        "--max-requeues",
        "3",
    ];
    let script = project.brazier(&[&JOB[..], &set].concat()).stdout;
    let (done, asked) = run_script(&project, &script, 75, "0");
    done.exits(75);
    assert_eq!(asked, "requeue 77\n");
    let command = "brazier train --config run.yaml --set seed=9 --device cuda --resume auto\n";
    assert!(done.stdout.starts_with(command), "{done}");
    assert!(done.stdout.contains("back into the queue (1 of 3)"), "{done}");
    for (code, restarts) in [(0, "0"), (1, "0"), (2, "1"), (143, "0"), (75, "3")] {
        let (done, asked) = run_script(&project, &script, code, restarts);
        done.exits(code.into());
        assert_eq!(asked, "", "{code} after {restarts}");
    }
    let once = project
        .brazier(&[&JOB[..], &["--max-requeues", "0"]].concat())
        .stdout;
    let (done, asked) = run_script(&project, &once, 75, "0");
    done.exits(75);
    assert_eq!(asked, "");
}
