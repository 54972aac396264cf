//! Faults of the originals' configurations and documents, by their numbers in the list of the project's requirements.

use super::*;

fn file(name: &str) -> Translated {
    let path = format!("{FIXTURES}/{name}");
    let text = fs::read_to_string(Path::new(&path)).unwrap();
    dialect::read(&path.as_str().into(), &text, None, &[], &env).unwrap()
}

/// The document's `save_strategy: epochs`, and an END2END that is said to train encoders.
#[test]
fn s1_b7_epochs_is_read_as_epoch_and_the_report_says_so() {
    let translated = file("multimeditron.yaml");
    assert_eq!(
        native(&translated, "checkpoint.every.epochs").as_deref(),
        Some("1")
    );
    let report = translated.report.unwrap().to_string();
    assert!(
        report
            .contains("training_args.save_strategy = epochs -> checkpoint.every.epochs = 1 (read as epoch)"),
        "{report}"
    );
    let end2end = translate("base_llm: m\ntraining_mode: END2END\n");
    assert_eq!(native(&end2end, "train.mode").as_deref(), Some("end_to_end"));
}

/// The DeepSpeed file and the tracker were opened whether they were named or not.
#[test]
fn s1_b8_nothing_is_read_that_is_not_named() {
    let text = "base_llm: m\ntraining_args: {output_dir: /nowhere/x, learning_rate: 1e-4}\n";
    let translated = translate(text);
    assert_eq!(refused(&translated), "");
    assert_eq!(native(&translated, "track.tensorboard"), None);
}

/// A format that was asked for and ignored trained in f32.
#[test]
fn s1_b9_a_format_of_weights_is_never_ignored_in_silence() {
    let translated = translate("model_name_or_path: m\ntorch_dtype: bfloat16\nbf16: true\n");
    assert_eq!(native(&translated, "train.precision").as_deref(), Some("bf16"));
    assert!(
        reason(&translated, "torch_dtype")
            .unwrap()
            .starts_with("train.precision")
    );
    let wrong = refused(&translate("model_name_or_path: m\ntorch_dtype: float16\n"));
    assert!(wrong.contains("Brazier has no format float16"), "{wrong}");
}

/// The order of the rows depends on the seed that the file says, or on the trainer's own.
#[test]
fn s1_b10_the_order_has_a_seed() {
    assert_eq!(
        native(&translate("base_llm: m\nseed: 7\n"), "seed").as_deref(),
        Some("7")
    );
    assert_eq!(native(&translate("base_llm: m\n"), "seed").as_deref(), Some("0"));
}

/// `--seq-length` was overridden in silence.
#[test]
fn s2_b4_the_length_is_the_one_that_is_written() {
    let translated = translate("python run.py --megatron-load-dir m --seq-length 100");
    assert_eq!(
        native(&translated, "data.sequence_length").as_deref(),
        Some("832")
    );
}

/// `--log-interval` was 2 whatever it said; `--loss-scale`, `--save` did nothing without a word.
#[test]
fn s2_b6_flags_do_what_they_say_or_the_report_says_that_they_do_not() {
    let translated =
        translate("python run.py --megatron-load-dir m --log-interval 7 --save --loss-scale 128 --gpus -1");
    assert_eq!(native(&translated, "track.log_every").as_deref(), Some("7"));
    for key in ["save", "loss-scale", "gpus"] {
        assert!(reason(&translated, key).is_some(), "{key}");
    }
}

/// Left out, `--log-interval` is the documented 1.
#[test]
fn s2_b6_the_default_of_the_document_holds() {
    let translated = translate("python run.py --megatron-load-dir m");
    assert_eq!(native(&translated, "track.log_every").as_deref(), Some("1"));
}

/// The optimizer's state was not saved by default.
#[test]
fn s2_b9_save_optim_needs_no_flag() {
    let translated = translate("python run.py --megatron-load-dir m --save-optim");
    assert_eq!(
        reason(&translated, "save-optim").as_deref(),
        Some("checkpoints always hold the optimizer's state")
    );
}

/// Micro-batches were skipped in the place of steps: refused until steps can be.
#[test]
fn s2_b13_ranges_of_steps_are_not_skipped_in_another_meaning() {
    let error = refused(&file("megatron_vlm.sh"));
    assert!(
        error.contains(
            "skip-train-iteration-range: refused: Brazier has no way to leave out ranges of steps yet"
        ),
        "{error}"
    );
}

/// Keys that the schema did not know were ignored.
#[test]
fn s3_b2_misspelt_and_retired_keys_are_named() {
    let translated = file("axolotl.yaml");
    for (key, expected) in [
        ("eval_set_size", "read as val_set_size; nothing is split off"),
        (
            "type",
            "read as type_of_model; the model's config.json says its family",
        ),
        ("flash_attn_fuse_qkv", "axolotl itself has retired it"),
        ("flash_attn_rms_norm", "axolotl itself has retired it"),
    ] {
        assert_eq!(reason(&translated, key).as_deref(), Some(expected), "{key}");
    }
    // A value that would have meant something is refused, not dropped.
    let held_out = refused(&translate("base_model: m\nsequence_len: 8\neval_set_size: 0.1\n"));
    assert!(held_out.contains("eval_set_size = 0.1: refused"), "{held_out}");
}

/// `ddp_find_unused_parameters: true` beside DeepSpeed.
#[test]
fn s3_b3_a_switch_without_meaning_is_noted() {
    assert!(reason(&file("axolotl.yaml"), "ddp_find_unused_parameters").is_some());
}

/// `$USER` in YAML made a folder of that name.
#[test]
fn s3_b4_user_is_expanded_in_paths() {
    let translated = file("axolotl.yaml");
    assert_eq!(
        native(&translated, "output").as_deref(),
        Some("/scratch/me/runs/apertus")
    );
}

/// Documents past a limit were cut without notice.
#[test]
fn s3_b6_what_becomes_of_long_documents_is_noted() {
    let report = file("axolotl.yaml").report.unwrap().to_string();
    assert!(
        report.contains("a document longer than sequence_len follows data.too_long"),
        "{report}"
    );
}

/// `save_strategy: best` kept nothing to go on from.
#[test]
fn s4_b9_best_keeps_the_newest_as_well() {
    let translated = translate(
        "output_dir: o\nper_device_train_batch_size: 1\nsave_strategy: best\nsave_total_limit: 1\n",
    );
    assert_eq!(native(&translated, "checkpoint.keep.best").as_deref(), Some("1"));
    assert_eq!(native(&translated, "checkpoint.keep.last").as_deref(), Some("1"));
}

/// W&B was on, in a mode and under a name from nowhere.
#[test]
fn s5_b5_no_tracker_is_on_unless_asked_for() {
    assert_eq!(refused(&file("sft.json")), "");
    let error = refused(&translate(
        "output_dir: o\nper_device_train_batch_size: 1\nreport_to: wandb\n",
    ));
    assert!(error.contains("Brazier does not report to wandb yet"), "{error}");
}
