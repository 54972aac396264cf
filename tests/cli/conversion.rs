//! `data convert`: the data set of the tests in every format, trained on, and what is refused.

use std::fs;

use crate::project::Project;

/// A run sees the same rows and the same pixels whatever holds them.
#[test]
fn a_converted_set_trains_to_the_same_losses() {
    let project = Project::new();
    let shapes = project.shapes().join("train.jsonl");
    let shapes = shapes.to_str().unwrap();
    for args in [
        ["data", "convert", shapes, "t.parquet", "--content-parts"].as_slice(),
        &[
            "data",
            "convert",
            "t.parquet",
            "saved",
            "--format",
            "arrow",
            "--max-shard-rows",
            "9",
        ],
        &[
            "data",
            "convert",
            "saved",
            "shards",
            "--format",
            "tar",
            "--max-shard-size",
            "20KB",
        ],
        &["data", "convert", "shards", "back", "--format", "jsonl"],
    ] {
        project.brazier(args).exits(0);
    }
    let losses = |data: &str| {
        let _ = fs::remove_dir_all(project.path("run"));
        project
            .train(&["train.steps=2", &format!("data.train=[{{path: {data}}}]")])
            .exits(0);
        let log = String::from_utf8(project.read("run/metrics.jsonl")).unwrap();
        let losses: Vec<String> = log
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .filter_map(|line| Some(line.get("loss")?.to_string()))
            .collect();
        assert!(!losses.is_empty(), "{log}");
        losses
    };
    let expected = losses(shapes);
    for data in ["saved", "shards", "back"] {
        assert_eq!(
            losses(&project.path(data).display().to_string()),
            expected,
            "{data}"
        );
    }
}

#[test]
fn what_cannot_be_converted_is_refused() {
    let project = Project::new();
    project.write("rows.jsonl", b"{\"a\": 1}\n{\"a\": \"x\"}\n");
    project.write("mine/thesis.txt", b"years of work");
    for (args, said) in [
        (
            ["rows.jsonl", "out"].as_slice(),
            ["TO: its name does not say", "--format"],
        ),
        (
            &["rows.jsonl", "a.parquet"],
            ["rows.jsonl:2: a is text, but a number in rows.jsonl:1", "hint: "],
        ),
        (
            &["rows.jsonl", "rows.jsonl", "--force-overwrite"],
            ["rows.jsonl: it holds the rows that are read", "hint: "],
        ),
        (
            &["rows.jsonl", "mine", "--format", "tar"],
            ["mine: it is there already", "--force-overwrite"],
        ),
        (
            &["rows.jsonl", "mine", "--format", "tar", "--force-overwrite"],
            ["thesis.txt, which this command did not write", "hint: "],
        ),
        (
            &["rows.jsonl", "a.tar", "--compression", "zstd"],
            ["--compression: tar is not compressed by zstd", "none"],
        ),
        (
            &["rows.jsonl", "a.tar", "--fields", "label=x"],
            ["label=x", "images, messages and content"],
        ),
        (&["nowhere.jsonl", "a.tar"], ["nowhere.jsonl", "No such file"]),
    ] {
        let args: Vec<&str> = ["data", "convert"].iter().chain(args).copied().collect();
        project.brazier(&args).exits(2).says(&said);
    }
    assert_eq!(project.read("mine/thesis.txt"), b"years of work");
    let done = project.brazier(&["data", "convert", "rows.jsonl", "a.tar"]);
    done.exits(0);
    assert_eq!(done.stdout, "a.tar: 2 rows as tar\n");
    let names: Vec<String> = fs::read_dir(project.path("."))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with('.'))
        .collect();
    assert!(names.is_empty(), "left over: {names:?}");
}
