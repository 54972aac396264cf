use std::process::{Command, Stdio};

use super::*;

fn job() -> Job {
    Job {
        name: "apertus".into(),
        nodes: 4,
        gpus_per_node: 4,
        tasks_per_node: None,
        cpus_per_task: 72,
        time: "12:00:00".parse().unwrap(),
        signal: "USR1@300".parse().unwrap(),
        max_requeues: 20,
        partition: None,
        account: None,
        reservation: None,
        mem: None,
        logs: "logs".into(),
        container: Container::None,
        cluster: Cluster::Gh200Slingshot,
        mpi: false,
        command: ["brazier", "train", "--config", "run.yaml"]
            .map(String::from)
            .into(),
        notes: vec!["a\nb".into(), "samples per step  256".into()],
    }
}

fn words(errors: &[SlurmError]) -> String {
    let words: Vec<_> = errors.iter().map(ToString::to_string).collect();
    words.join("\n")
}

/// Bash reads it, and every line that SLURM must see comes before the first command.
fn checked(job: &Job) -> String {
    let text = script(job).unwrap_or_else(|errors| panic!("{}", words(&errors)));
    let mut bash = Command::new("bash")
        .args(["-n", "/dev/stdin"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut bash.stdin.take().unwrap(), text.as_bytes()).unwrap();
    assert!(bash.wait().unwrap().success(), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    let first = lines
        .iter()
        .position(|line| !line.is_empty() && !line.starts_with('#'));
    let last = lines.iter().rposition(|line| line.starts_with("#SBATCH"));
    assert!(last.is_some() && first > last, "{text}");
    assert!(lines.iter().all(|line| line.trim_end() == *line), "{text}");
    text
}

#[test]
fn the_header_says_what_was_asked_for() {
    let text = checked(&Job {
        partition: Some("normal".into()),
        account: Some("a1".into()),
        mem: Some("450G".into()),
        ..job()
    });
    let header: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("#SBATCH "))
        .collect();
    assert_eq!(
        header,
        [
            "--job-name=apertus",
            "--output=logs/%x.%j.out",
            "--open-mode=append",
            "--nodes=4",
            "--ntasks-per-node=4",
            "--gpus-per-node=4",
            "--cpus-per-task=72",
            "--time=12:00:00",
            "--signal=USR1@300",
            "--requeue",
            "--partition=normal",
            "--account=a1",
            "--mem=450G",
        ]
    );
    assert!(
        text.starts_with("#!/bin/bash\n# a b\n# samples per step  256\n#\n#SBATCH"),
        "{text}"
    );
}

#[test]
fn words_reach_the_program_as_they_are() {
    let text = checked(&Job {
        command: ["brazier", "train", "--set", "data.train[0].path=it's $HOME", ""]
            .map(String::from)
            .into(),
        container: Container::Image {
            image: "my images/x.sqsh".into(),
            mounts: Some("/a:/b".into()),
        },
        ..job()
    });
    for part in [
        r"    brazier train --set 'data.train[0].path=it'\''s $HOME' '' || code=$?",
        "    '--container-image=my images/x.sqsh' \\\n    --container-mounts=/a:/b \\\n",
        "scontrol, which is outside",
    ] {
        assert!(text.contains(part), "no {part} in {text}");
    }
}

#[test]
fn mpi_is_asked_for_where_it_is_wanted() {
    let text = checked(&job());
    assert!(
        text.contains("\nsrun --cpus-per-task") && !text.contains("--mpi"),
        "{text}"
    );
    let text = checked(&Job { mpi: true, ..job() });
    assert!(text.contains("\nsrun --mpi=pmix --cpus-per-task"), "{text}");
}

#[test]
fn nonsense_is_refused_all_at_once() {
    let wrong = Job {
        nodes: 0,
        tasks_per_node: Some(1),
        time: "5".parse().unwrap(),
        name: "a b".into(),
        partition: Some("$QUEUE".into()),
        logs: "~/reports".into(),
        mem: Some(String::new()),
        account: Some("--x".into()),
        ..job()
    };
    let errors = words(&script(&wrong).unwrap_err());
    for part in [
        "--nodes 0: expected 1 to 65536",
        "--ntasks-per-node 1 with --gpus-per-node 4: every GPU needs a task of its own",
        "--signal 300 s before the end of --time 5, which is 300 s long",
        "--job-name \"a b\": blanks, quotes",
        "--partition \"$QUEUE\": ~ and variables are not expanded there",
        "--logs \"~/reports\": ~ and variables",
        "--mem \"\": nothing is written",
        "--account \"--x\": it would be taken for another option",
    ] {
        assert!(errors.contains(part), "no {part} in\n{errors}");
    }
    assert_eq!(script(&wrong).unwrap_err().len(), 8);
}

#[test]
fn every_variable_has_a_reason_and_a_page() {
    for (name, cluster) in Cluster::ALL {
        assert_eq!(name.parse(), Ok(cluster));
        let text = checked(&Job { cluster, ..job() });
        for variable in cluster.variables(4) {
            assert!(
                variable.reason.len() > 30 && variable.source.starts_with("https://"),
                "{variable:?}"
            );
            let lines = format!(
                "# {}\n# {}\nexport {}=\"{}\"\n",
                variable.reason, variable.source, variable.name, variable.value
            );
            assert!(text.contains(&lines), "{lines}");
        }
        // One node needs no network.
        let alone = cluster.variables(1);
        assert!(
            alone.iter().all(|variable| variable.name == "CUDA_CACHE_PATH"),
            "{alone:?}"
        );
    }
    let slingshot = Cluster::Gh200Slingshot.variables(4);
    assert!(
        slingshot
            .iter()
            .any(|variable| (variable.name, variable.value) == ("NCCL_NET", "AWS Libfabric"))
    );
    assert!("gh200".parse::<Cluster>().is_err());
}

#[test]
fn a_job_that_must_not_come_back_does_not() {
    let text = checked(&Job {
        max_requeues: 0,
        ..job()
    });
    assert!(text.contains("#SBATCH --no-requeue\n"), "{text}");
    assert!(!text.contains("scontrol"), "{text}");
}
