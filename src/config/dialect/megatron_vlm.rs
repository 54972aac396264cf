//! The flags of Megatron-VLM's `scripts/train/run.py` (mil-tokyo/Megatron-VLM).

use super::{
    settle::number,
    table::{Row, into, not_yet, not_yet_unless, nothing, path, read_as, to},
    training_arguments::logging_steps,
    translation::{Given, Translation},
};
use crate::config::tree::{self, Value};

const PROCESSES: &str =
    "this run is one process; train.global_batch_size says the samples of a step whatever their number";
const ENGINE: &str = "kernels and their memory are Brazier's own; no result depends on it";

/// Image tokens of SigLIP-so400m-384, and the three positions that the original adds to the text.
const IMAGE_POSITIONS: i64 = 729 + 3;

/// The flags, without their dashes.
pub(super) static ROWS: &[Row] = &[
    path(&["megatron-load-dir"], "model.from"),
    path(&["tokenizer-load-dir"], "model.tokenizer"),
    into(&["save-dir"], "output", "with the name below it"),
    into(&["name"], "output", "below save-dir"),
    path(&["data-path"], "data.train[0].path"),
    into(&["stage"], "train.mode", "1 is alignment, 2 is end_to_end"),
    into(&["freeze-lm"], "train.mode", "alignment"),
    to(&["micro-batch-size"], "train.micro_batch_size"),
    to(&["global-batch-size"], "train.global_batch_size"),
    to(&["lr"], "train.optimizer.lr"),
    into(&["adam-beta2"], "train.optimizer.betas", "the second of the two"),
    to(&["train-iters"], "train.steps"),
    into(
        &["seq-length"],
        "data.sequence_length",
        "text; 732 positions for an image come on top, as in the original",
    ),
    to(&["num-workers"], "data.workers"),
    into(&["log-interval"], "track.log_every", "as it is"),
    into(&["save-interval"], "checkpoint.every.steps", "as it is"),
    into(&["lang"], "data.template", "jp is llava_jp"),
    to(&["tp"], "parallel.tensor"),
    read_as(&["tensor-model-parallel-size"], "tp"),
    read_as(&["g"], "gpus"),
    read_as(&["r"], "rank"),
    read_as(&["m"], "master-addr"),
    read_as(&["p"], "master-port"),
    nothing(
        &[
            "gpus",
            "gpu-ids",
            "node",
            "rank",
            "master-addr",
            "master-port",
            "backend",
            "interface",
            "rdzv-port",
            "dist-optim",
            "is-on-aws",
        ],
        PROCESSES,
    ),
    nothing(&["sif-path", "bind"], "there is no container to start"),
    nothing(
        &["save", "save-optim", "dist-ckpt"],
        "checkpoints always hold the optimizer's state",
    ),
    nothing(&["slurm-job-id", "slurm-output-name"], "the environment says it"),
    nothing(
        &["image-token-id", "pad-token-id"],
        "the tokenizer's folder says it",
    ),
    nothing(
        &["no-add-class-token"],
        "the model's config.json says which tokens of the tower are used (vision_feature_select_strategy)",
    ),
    nothing(&["loss-scale"], "bf16 needs no loss scale"),
    nothing(&["fused-attn", "flash-attn", "use-fixed-attn-mask"], ENGINE),
    // What is still to be built: each line goes when Brazier has it.
    not_yet(
        &["wandb"],
        "such tracker: metrics.jsonl and TensorBoard's files are in the output folder",
    ),
    not_yet(&["load-optim"], "way to read Megatron's optimizer state"),
    not_yet(
        &["init"],
        "random weights by this flag: --set 'model={language: {…}}' describes a new model",
    ),
    not_yet(
        &["skip-train-iteration-range"],
        "way to leave out ranges of steps",
    ),
    not_yet(&["fp8"], "8-bit floating point"),
    not_yet(
        &["alert-spike", "spike-thr", "slack-uid"],
        "alert of jumps of the loss",
    ),
    not_yet(&["non-persistent-save-interval"], "checkpoint that does not stay"),
    not_yet(
        &["deterministic"],
        "switch for it: runs on the CPU are deterministic",
    ),
    not_yet_unless(
        &["pp", "pipeline-model-parallel-size"],
        &["1"],
        "pipeline of devices: --tp and parallel.zero split a model",
    ),
    not_yet_unless(&["debug"], &["false"], "debug mode: batch sizes and --lr say it"),
];

/// Translates what the table leaves to code.
pub(super) fn translate(t: &mut Translation) {
    output(t);
    let stage = stage(t);
    let (lr, global, micro) = match stage {
        1 => (1e-3, 256, 16),
        _ => (2e-5, 128, 1),
    };
    if let Some(given) = t.take("adam-beta2") {
        let first = tree::Node {
            value: Value::Float(0.9),
            at: given.node.at.clone(),
        };
        t.put(
            "train.optimizer.betas",
            Value::List(vec![first, given.node.clone()]),
            &given,
        );
    }
    match t.take("seq-length") {
        Some(given) => match number(&given.node) {
            Some(length) => {
                let note = "with 732 positions for the image and its surroundings";
                t.put_noted(
                    "data.sequence_length",
                    Value::Integer(length as i64 + IMAGE_POSITIONS),
                    &given,
                    Some(note),
                );
            }
            None => t.expected(&given, "a whole number"),
        },
        None => t.default("data.sequence_length", Value::Integer(1024 + IMAGE_POSITIONS)),
    }
    logging_steps(t, "log-interval", Some(1));
    match t.take("save-interval") {
        Some(given) => t.put("checkpoint.every.steps", given.node.value.clone(), &given),
        None => t.default("checkpoint.every.steps", Value::Integer(2000)),
    }
    t.default("checkpoint.keep.every", Value::Integer(1));
    match t.take_text("lang") {
        Some((lang, given)) if lang == "jp" => {
            t.put("data.template", Value::String("llava_jp".into()), &given)
        }
        Some((_, given)) => {
            t.refuse_unless_left_out(&given, "Brazier has no template for this language yet: it has jp")
        }
        None => t.default("data.template", Value::String("llava_jp".into())),
    }
    // The recipe, which the flags leave as it is.
    t.default("train.micro_batch_size", Value::Integer(micro));
    t.default("train.global_batch_size", Value::Integer(global));
    t.default("train.optimizer.lr", Value::Float(lr));
    t.default("train.optimizer.weight_decay", Value::Float(0.1));
    t.default("train.schedule.name", Value::String("cosine_with_min_lr".into()));
    t.default("train.schedule.min_lr", Value::Float(1e-8));
    t.default("train.schedule.warmup_ratio", Value::Float(0.03));
    t.default("train.precision", Value::String("bf16".into()));
    t.default("train.recompute", Value::String("blocks".into()));
    if !t.is_put("train.steps") {
        t.default("train.epochs", Value::Integer(1));
    }
}

fn output(t: &mut Translation) {
    let (dir, name) = (t.take("save-dir"), t.take("name"));
    let text = |given: &Given, t: &mut Translation| t.path(given).unwrap_or_default();
    match (dir, name) {
        (Some(dir), Some(name)) => {
            let path = format!("{}/{}", text(&dir, t).trim_end_matches('/'), text(&name, t));
            t.put("output", Value::String(path.clone()), &dir);
            t.put("output", Value::String(path), &name);
        }
        (Some(one), None) | (None, Some(one)) => t.put_path("output", &one),
        (None, None) => {}
    }
}

/// The stage of the recipe; the first one freezes the language model.
fn stage(t: &mut Translation) -> u64 {
    const KEY: &str = "train.mode";
    let mode = |mode: &str| Value::String(mode.to_owned());
    let stage = t.take_count("stage");
    let freezes = match t.take_bool("freeze-lm") {
        Some((true, given)) => {
            t.put(KEY, mode("alignment"), &given);
            true
        }
        Some((false, given)) => {
            t.no_effect(&given, "the stage says it");
            false
        }
        None => false,
    };
    match stage {
        Some((1, given)) => {
            t.put(KEY, mode("alignment"), &given);
            1
        }
        Some((2, given)) if freezes => {
            t.no_effect(
                &given,
                "freeze-lm leaves the language model as it is; sizes and learning rate are those of stage 2",
            );
            2
        }
        Some((2, given)) => {
            t.put(KEY, mode("end_to_end"), &given);
            2
        }
        Some((_, given)) => {
            t.refuse(&given, "expected 1 or 2", None);
            1
        }
        None => {
            t.default(KEY, mode("alignment"));
            1
        }
    }
}
