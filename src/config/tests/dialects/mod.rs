//! Configurations of other trainers: whole files, each key of each table, contradictions, and the mistakes of the
//! originals.

mod axolotl_rows;
mod bugs;
mod keys;
mod values;
mod whole;

use std::path::PathBuf;

use super::{dialect::Translated, *};

/// Relative, so that messages are the same everywhere.
const FIXTURES: &str = "tests/fixtures/dialects";

fn env(name: &str) -> Option<String> {
    let value = match name {
        "DATA" => "/data",
        "MODELS" => "/models",
        "RUNS" => "/runs",
        "USER" => "me",
        _ => return None,
    };
    Some(value.to_owned())
}

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A text in a foreign dialect, translated.
fn translate_as(dialect: Option<Dialect>, text: &str, leave_out: &[&str]) -> Translated {
    let file: Arc<str> = format!("{FIXTURES}/run.yaml").into();
    let translated = dialect::read(&file, text, dialect, &strings(leave_out), &env);
    translated.unwrap_or_else(|errors| panic!("{}", words(&errors)))
}

fn translate(text: &str) -> Translated {
    translate_as(None, text, &[])
}

/// The value at a native path.
fn native(translated: &Translated, path: &str) -> Option<String> {
    let node = tree::get(&translated.root, path)?;
    Some(match &node.value {
        tree::Value::List(items) => {
            let items: Vec<_> = items.iter().map(|item| item.value.to_string()).collect();
            format!("[{}]", items.join(", "))
        }
        value => value.to_string(),
    })
}

/// Why a key has no effect, if it has none.
fn reason(translated: &Translated, key: &str) -> Option<String> {
    let report = translated.report.as_ref().unwrap();
    let line = report.lines.iter().find(|line| line.key == key)?;
    match &line.outcome {
        dialect::Outcome::NoEffect { because } => Some(because.clone()),
        dialect::Outcome::Mapped { .. } => None,
    }
}

/// What is refused, without the place.
fn refused(translated: &Translated) -> String {
    words(&translated.errors).replace(&format!("{FIXTURES}/"), "")
}

/// Report, refusals and native YAML of a file.
fn settled(name: &str, leave_out: &[&str]) -> String {
    let path = format!("{FIXTURES}/{name}");
    let text = fs::read_to_string(Path::new(&path)).unwrap();
    let translated = dialect::read(&path.as_str().into(), &text, None, &strings(leave_out), &env);
    let Translated {
        root,
        report,
        origins,
        errors,
    } = translated.unwrap();
    let yaml = dialect::print(&root, &origins, report.as_ref());
    let refused = words(&error::in_file_order(errors));
    format!("{}\n\nrefused\n{refused}\n\n{yaml}", report.unwrap())
}

#[test]
fn whole_files_become_what_is_recorded() {
    for (name, leave_out) in [
        ("multimeditron.yaml", &[][..]),
        ("axolotl.yaml", &[]),
        ("sft.json", &[]),
        ("sft.sh", &[]),
        ("megatron_vlm.sh", &["wandb"]),
    ] {
        let settled = settled(name, leave_out);
        let path = PathBuf::from(format!("{FIXTURES}/{name}.settled"));
        if std::env::var_os("BRAZIER_WRITE_README").is_some() {
            fs::write_atomic(&path, settled.as_bytes()).unwrap();
        }
        assert_eq!(
            settled,
            fs::read_to_string(&path).unwrap(),
            "{name}: if this is what it should be, run this test with BRAZIER_WRITE_README=1"
        );
    }
}

#[test]
fn the_native_yaml_of_a_file_is_read_as_the_same_tree() {
    fn same(first: &tree::Node, second: &tree::Node, path: &str) {
        match (&first.value, &second.value) {
            (tree::Value::Map(entries), _) => {
                assert_eq!(entries.len(), second.entries().len(), "{path}");
                for entry in entries {
                    let other = second
                        .find(&entry.key)
                        .unwrap_or_else(|| panic!("{path}.{}", entry.key));
                    same(&entry.node, other, &tree::join(path, &entry.key));
                }
            }
            (tree::Value::List(items), tree::Value::List(others)) => {
                assert_eq!(items.len(), others.len(), "{path}");
                items.iter().zip(others).for_each(|(a, b)| same(a, b, path));
            }
            (value, other) => assert_eq!(value, other, "{path}"),
        }
    }
    for name in [
        "multimeditron.yaml",
        "axolotl.yaml",
        "sft.json",
        "sft.sh",
        "megatron_vlm.sh",
    ] {
        let path = format!("{FIXTURES}/{name}");
        let text = fs::read_to_string(Path::new(&path)).unwrap();
        let translated = dialect::read(&path.as_str().into(), &text, None, &[], &env).unwrap();
        let yaml = dialect::print(&translated.root, &translated.origins, translated.report.as_ref());
        let again = yaml::parse(&"again.yaml".into(), &yaml, &no_env).unwrap();
        same(&translated.root, &again, "");
        assert_eq!(translate_as(None, &yaml, &[]).report, None, "{name}: {yaml}");
    }
}

#[test]
fn the_page_on_dialects_is_up_to_date() {
    let path = Path::new("docs/dialects.md");
    let expected = dialect::documentation();
    if std::env::var_os("BRAZIER_WRITE_README").is_some() {
        fs::write_atomic(path, expected.as_bytes()).unwrap();
    }
    let written = fs::read_to_string(path).unwrap();
    assert!(
        written == expected,
        "docs/dialects.md is out of date: run this test with BRAZIER_WRITE_README=1"
    );
}

#[test]
fn keys_tell_the_dialect() {
    let dialect = |text: &str| {
        let report = translate(text).report;
        report.map_or(Dialect::Native, |report| report.dialect)
    };
    assert_eq!(dialect(BASE), Dialect::Native);
    assert_eq!(dialect("{}"), Dialect::Native);
    assert_eq!(dialect("frobnicate: 1"), Dialect::Native);
    assert_eq!(dialect("seed: 1\noutput: x"), Dialect::Native);
    assert_eq!(dialect("base_llm: x\ntraining_args: {}"), Dialect::MultiMeditron);
    assert_eq!(
        dialect("base_model: x\nmicro_batch_size: 1\nseed: 1"),
        Dialect::Axolotl
    );
    assert_eq!(
        dialect("output_dir: x\nper_device_train_batch_size: 1"),
        Dialect::HuggingFace
    );
    assert_eq!(
        dialect("python run.py --megatron-load-dir x --tp 1"),
        Dialect::MegatronVlm
    );
    assert_eq!(
        dialect("--output_dir x --learning_rate 1e-4"),
        Dialect::HuggingFace
    );
    for dialect in Dialect::ALL {
        assert_eq!(dialect.name().parse(), Ok(dialect));
    }
    let error = "axolotol".parse::<Dialect>().unwrap_err().to_string();
    assert!(
        error.contains("expected native, multimeditron, axolotl, huggingface or megatron-vlm"),
        "{error}"
    );
}

#[test]
fn an_unknown_key_is_an_error_with_the_one_that_was_meant() {
    for (text, expected) in [
        (
            "base_model: x\nmicro_batch_sise: 8\nsequence_len: 64",
            "run.yaml:2: micro_batch_sise = 8: no key of axolotl that Brazier knows\n  hint: did you mean micro_batch_size?",
        ),
        (
            "base_llm: x\nlearning_rate: 1\ntraining_args: {}",
            "run.yaml:2: learning_rate = 1: no key of MultiMeditron that Brazier knows\n  \
             hint: did you mean training_args.learning_rate?",
        ),
        (
            "base_llm: x\ndatasets: [{paked_path: y}]",
            "run.yaml:2: datasets[0].paked_path = y: no key of MultiMeditron that Brazier knows\n  \
             hint: did you mean datasets[0].packed_path?",
        ),
        (
            "base_model: x\nsequence_len: 64\nfrobnicate: 1",
            "run.yaml:3: frobnicate = 1: no key of axolotl that Brazier knows\n  \
             hint: go on without it: --leave-out frobnicate",
        ),
    ] {
        assert_eq!(refused(&translate(text)), expected);
    }
}

#[test]
fn keys_are_left_out_on_request_and_only_if_they_are_there() {
    let text = "base_model: x\nsequence_len: 64\nuse_mlflow: true\nfrobnicate: 1\n";
    let left = translate_as(None, text, &["use_mlflow", "frobnicate"]);
    assert_eq!(refused(&left), "");
    assert_eq!(
        reason(&left, "use_mlflow").as_deref(),
        Some("--leave-out says to go on without it")
    );
    let wrong = translate_as(None, text, &["use_mlflow", "frobnicate", "use_mlfow"]);
    assert_eq!(
        refused(&wrong),
        "run.yaml: use_mlfow: is to be left out (--leave-out) and is not there"
    );
    // In a native file nothing is foreign.
    let native = translate_as(None, BASE, &["output"]);
    assert_eq!(
        refused(&native),
        "run.yaml: output: is to be left out (--leave-out) and is not there"
    );
}

#[test]
fn set_speaks_native_paths_and_comes_last() {
    let text =
        "output_dir: /path/to/run\nmodel_name_or_path: m\ndataset_name: /path/to/rows\nlearning_rate: 0\n";
    let request = |sets: &[&str]| {
        let sets = strings(sets);
        let request = Request {
            sets: &sets,
            ..Request::default()
        };
        read_text("run.yaml", text, request, &env).result.map(|_| ())
    };
    assert_refused(
        request(&[]),
        "run.yaml:1: output_dir (output) = /path/to/run: is a placeholder\n  \
         hint: write the path in the file, or --set 'output=…'\n\
         run.yaml:3: dataset_name (data.train[0].path) = /path/to/rows: is a placeholder\n  \
         hint: write the path in the file, or --set 'data.train[0].path=…'\n\
         run.yaml:4: learning_rate (train.optimizer.lr) = 0: must be more than 0",
    );
    request(&["output=x", "data.train[0].path=y", "train.optimizer.lr=1e-3"]).unwrap();
}

#[test]
fn an_error_of_a_translated_key_names_both_keys() {
    let text = "output_dir: runs\nmodel_name_or_path: nowhere\ndataset_name: nowhere.jsonl\n";
    let loaded = parse("run.yaml", text, &[], &env).unwrap();
    let errors = words(&resolve(&loaded, World::ALONE).unwrap_err());
    for expected in [
        "run.yaml:2: model_name_or_path (model.from) = nowhere: there is no such folder",
        "run.yaml:3: dataset_name (data.train[0].path) = nowhere.jsonl: there is no such file",
    ] {
        assert!(errors.contains(expected), "{errors}");
    }
}

#[test]
fn a_foreign_file_that_lacks_nothing_resolves() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer.json", "rows.jsonl"] {
        fs::write_atomic(&folder.path().join(name), b"{}").unwrap();
    }
    let dir = folder.path().display();
    let text = format!(
        "model_name_or_path: {dir}\ndataset_name: {dir}/rows.jsonl\noutput_dir: {dir}/run\nlearning_rate: 1e-4\n\
         save_steps: 0.25\nmax_steps: 30\nbf16: true\n"
    );
    let run = resolve(&parse("run.yaml", &text, &[], &env).unwrap(), World::ALONE);
    let run = run.unwrap_or_else(|errors| panic!("{}", words(&errors)));
    assert_eq!(run.data.sequence_length, 1024);
    assert_eq!(run.train.micro_batch_size, 8);
    assert_eq!(run.checkpoint.every, crate::learner::options::Every::Ratio(0.25));
    assert_eq!(run.checkpoint.keep.every, Some(1));
    assert_eq!(run.log_every, 10);
    assert_eq!(run.seed, 42);
    // The run directory's config.yaml is native and gives the same run.
    let again = resolve_text(&run.to_yaml().unwrap()).unwrap();
    assert_eq!(again.to_yaml().unwrap(), run.to_yaml().unwrap());
    assert_eq!(
        (again.train, again.checkpoint),
        (run.train.clone(), run.checkpoint.clone())
    );
}
