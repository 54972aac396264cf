//! Files of the two trainers from reading to a run, with nothing changed but paths.

use super::*;

/// A folder with what the files below look for.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "config.json",
        "tokenizer.json",
        "rows.jsonl",
        "conversations.jsonl",
        "pretrain.jsonl",
    ] {
        fs::write_atomic(&folder.path().join(name), b"{}").unwrap();
    }
    folder
}

fn resolved(name: &str, sets: &[String], leave_out: &[&str], folder: &Path) -> RunConfig {
    let path = PathBuf::from(format!("{FIXTURES}/{name}"));
    let env = |name: &str| match name {
        "DATA" => Some(folder.display().to_string()),
        other => env(other),
    };
    let leave_out = strings(leave_out);
    let request = Request {
        sets,
        leave_out: &leave_out,
        dialect: None,
    };
    let run = read(&path, request, &env)
        .result
        .and_then(|loaded| resolve(&loaded, World::ALONE));
    run.unwrap_or_else(|errors| panic!("{name}\n{}", words(&errors)))
}

#[test]
fn an_alignment_run_of_multimeditron_resolves() {
    let folder = folder();
    let dir = folder.path().display();
    let sets = [
        format!("model.language_from={dir}"),
        format!("model.vision_from={dir}"),
        format!("data.train[0].path={dir}/rows.jsonl"),
        "data.sequence_length=512".to_owned(),
    ];
    let run = resolved("multimeditron.yaml", &sets, &[], folder.path());
    assert_eq!(run.train.mode, crate::learner::options::TrainMode::Alignment);
    assert_eq!((run.train.micro_batch_size, run.train.accumulation), (4, 8));
    assert_eq!(run.data.prefetch, 8);
    let again = resolve_text(&run.to_yaml().unwrap()).unwrap();
    assert_eq!(again.to_yaml().unwrap(), run.to_yaml().unwrap());
}

#[test]
fn a_run_of_axolotl_on_two_data_sets_resolves() {
    let folder = folder();
    let sets = [format!("model.from={}", folder.path().display())];
    let leave_out = ["wandb_project", "wandb_name"];
    let run = resolved("axolotl.yaml", &sets, &leave_out, folder.path());
    assert_eq!(run.data.train.len(), 2);
    assert_eq!(
        run.data.grouping,
        crate::data::Grouping::Packed { max_images: None }
    );
    assert_eq!(run.data.pad_to_multiple_of, Some(2048));
    assert_eq!(run.checkpoint.every, crate::learner::options::Every::Ratio(0.5));
    let again = resolve_text(&run.to_yaml().unwrap()).unwrap();
    assert_eq!(again.to_yaml().unwrap(), run.to_yaml().unwrap());
}
