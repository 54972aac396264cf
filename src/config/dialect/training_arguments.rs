//! transformers' `TrainingArguments`: the keys, and what becomes of them. Used by the dialects whose trainer is
//! that of transformers.

use super::{
    common::{Recurrence, ScheduleKeys},
    table::{Row, into, mapping, never, not_yet, not_yet_unless, nothing, path, read_as, to},
    translation::Translation,
};
use crate::config::tree::{self, Value, join};

const NO_DDP: &str =
    "gradients are reduced in one fixed order; a parameter that no batch reached counts as zero";
const ONE_PROCESS: &str = "this run is one process";
const LOADER: &str = "rows are read by threads of this process";
const HUB: &str = "nothing is pushed to the hub; the export is a folder";
const LOGS: &str = "the log has one line for each logged step in any case";
const METRICS: &str = "the evaluation computes its metrics batch by batch";
const FIXED: &str = "where no result depends on it, Brazier has no switch";

/// The keys of `TrainingArguments`, those of older releases included.
pub(super) static ROWS: &[Row] = &[
    path(&["output_dir"], "output"),
    // Length and batch.
    into(
        &["num_train_epochs"],
        "train.epochs",
        "unless max_steps is above 0",
    ),
    into(
        &["max_steps"],
        "train.steps",
        "above 0 it decides over num_train_epochs",
    ),
    to(
        &["per_device_train_batch_size", "per_gpu_train_batch_size"],
        "train.micro_batch_size",
    ),
    to(&["gradient_accumulation_steps"], "train.accumulation"),
    into(
        &["per_device_eval_batch_size", "per_gpu_eval_batch_size"],
        "eval.batch_size",
        "where there is evaluation data",
    ),
    // Optimizer and schedule.
    into(
        &["optim"],
        "train.optimizer.name",
        "the adamw of torch, fused or not",
    ),
    into(
        &["optim_args"],
        "–",
        "arguments about speed have no effect; others are refused",
    ),
    to(&["learning_rate"], "train.optimizer.lr"),
    to(&["weight_decay"], "train.optimizer.weight_decay"),
    into(&["adam_beta1"], "train.optimizer.betas", "the first of the two"),
    into(&["adam_beta2"], "train.optimizer.betas", "the second of the two"),
    to(&["adam_epsilon"], "train.optimizer.eps"),
    to(&["max_grad_norm"], "train.max_grad_norm"),
    into(
        &["lr_scheduler_type"],
        "train.schedule.name",
        "linear, cosine, cosine_with_min_lr, constant, constant_with_warmup, inverse_sqrt, warmup_stable_decay",
    ),
    mapping(&["lr_scheduler_kwargs"], SCHEDULE_ARGUMENTS),
    into(
        &["warmup_steps"],
        "train.schedule.warmup_steps",
        "below 1 it is a part of all steps",
    ),
    into(
        &["warmup_ratio"],
        "train.schedule.warmup_ratio",
        "unless warmup_steps is above 0",
    ),
    // Precision and memory.
    into(&["bf16"], "train.precision", "true is bf16, false is f32"),
    into(
        &["gradient_checkpointing", "activation_checkpointing"],
        "train.recompute",
        "true is blocks, false is none",
    ),
    nothing(
        &["gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"],
        "blocks are computed again as themselves, re-entrant or not",
    ),
    never(
        &[
            "fp16",
            "fp16_full_eval",
            "half_precision_backend",
            "fp16_opt_level",
            "fp16_backend",
        ],
        &["auto", "o1"],
        "Brazier has no fp16: bf16 has the range of f32 and needs no loss scale",
    ),
    nothing(&["bf16_full_eval"], "the evaluation computes in train.precision"),
    nothing(&["tf32"], "train.precision names the format of matrix products"),
    // Evaluation, checkpoints, log.
    into(
        &["eval_strategy", "evaluation_strategy"],
        "eval.every",
        "no, steps, epoch",
    ),
    into(&["eval_steps"], "eval.every", "below 1 it is a part of all steps"),
    into(
        &["save_strategy"],
        "checkpoint.every",
        "no, steps, epoch, best; epochs is read as epoch",
    ),
    into(
        &["save_steps"],
        "checkpoint.every",
        "below 1 it is a part of all steps",
    ),
    into(
        &["save_total_limit"],
        "checkpoint.keep.last",
        "left out, all stay: checkpoint.keep.every",
    ),
    into(
        &["metric_for_best_model"],
        "eval.best.metric",
        "loss is eval_loss",
    ),
    into(
        &["greater_is_better"],
        "eval.best.direction",
        "true is max, false is min",
    ),
    into(&["logging_steps"], "track.log_every", "a whole number of steps"),
    into(
        &["logging_strategy"],
        "track.log_every",
        "steps, in any other word refused",
    ),
    into(
        &["report_to"],
        "track.tensorboard",
        "tensorboard switches it on; trackers that Brazier has not are refused",
    ),
    into(
        &["resume_from_checkpoint"],
        "checkpoint.resume",
        "a folder; true and false are what a run does anyway",
    ),
    into(&["dataloader_num_workers"], "data.workers", "threads"),
    into(
        &["dataloader_prefetch_factor"],
        "data.prefetch",
        "batches of all workers, counted in steps",
    ),
    to(&["seed"], "seed"),
    into(
        &["deepspeed"],
        "–",
        "the JSON file is read, beside this file first, then in the working directory",
    ),
    // No effect.
    nothing(
        &[
            "ddp_find_unused_parameters",
            "ddp_bucket_cap_mb",
            "ddp_broadcast_buffers",
            "ddp_backend",
            "ddp_timeout",
            "ddp_static_graph",
            "average_tokens_across_devices",
        ],
        NO_DDP,
    ),
    nothing(
        &[
            "local_rank",
            "log_on_each_node",
            "save_on_each_node",
            "parallelism_config",
        ],
        ONE_PROCESS,
    ),
    nothing(
        &["remove_unused_columns", "label_names", "length_column_name"],
        "a row's kind says what is read of it",
    ),
    nothing(
        &[
            "dataloader_pin_memory",
            "dataloader_persistent_workers",
            "dataloader_multiprocessing_context",
            "dataloader_in_order",
        ],
        LOADER,
    ),
    mapping(&["accelerator_config"], ACCELERATOR),
    nothing(
        &["overwrite_output_dir"],
        "a run goes on from its own checkpoint; checkpoint.resume says otherwise",
    ),
    nothing(
        &[
            "save_only_model",
            "save_safetensors",
            "enable_jit_checkpoint",
            "restore_callback_states_from_checkpoint",
        ],
        "a checkpoint always holds the whole state, in safetensors, and is written when a run is stopped",
    ),
    nothing(&["run_name", "project"], "a run is named by its output folder"),
    nothing(
        &["logging_dir"],
        "TensorBoard's files are in <output>/tensorboard",
    ),
    nothing(
        &[
            "logging_first_step",
            "logging_nan_inf_filter",
            "log_level",
            "log_level_replica",
            "disable_tqdm",
            "include_num_input_tokens_seen",
            "include_tokens_per_second",
            "skip_memory_metrics",
        ],
        LOGS,
    ),
    nothing(
        &[
            "prediction_loss_only",
            "eval_do_concat_batches",
            "eval_use_gather_object",
            "eval_accumulation_steps",
            "batch_eval_metrics",
            "include_for_metrics",
            "include_inputs_for_metrics",
        ],
        METRICS,
    ),
    nothing(
        &["do_train", "do_eval", "do_predict"],
        "brazier train trains, and evaluates where there is data for it",
    ),
    nothing(
        &[
            "torch_compile",
            "torch_compile_backend",
            "torch_compile_mode",
            "jit_mode_eval",
            "use_ipex",
            "torch_empty_cache_steps",
            "use_liger_kernel",
            "liger_kernel_config",
        ],
        "kernels are fused in any case; no result depends on it",
    ),
    nothing(
        &[
            "hub_token",
            "hub_private_repo",
            "hub_model_id",
            "hub_strategy",
            "hub_always_push",
            "hub_revision",
        ],
        HUB,
    ),
    nothing(
        &[
            "use_cache",
            "debug",
            "full_determinism",
            "ignore_data_skip",
            "trackio_space_id",
            "trackio_bucket_id",
            "trackio_static_space_id",
        ],
        FIXED,
    ),
    read_as(&["no_cuda"], "use_cpu"),
    into(&["use_cpu"], "device", "true is flex"),
    // What is still to be built: each line goes when Brazier has it.
    not_yet(&["push_to_hub"], "upload to the hub"),
    not_yet(&["load_best_model_at_end"], "export of the best checkpoint"),
    not_yet_unless(&["label_smoothing_factor"], &["0", "0.0"], "label smoothing"),
    not_yet_unless(
        &["neftune_noise_alpha"],
        &["0", "0.0"],
        "noise on embeddings (NEFTune)",
    ),
    not_yet(&["auto_find_batch_size"], "search for a batch size"),
    not_yet(
        &["dataloader_drop_last"],
        "way to leave out the last samples of an epoch",
    ),
    not_yet(&["group_by_length"], "order by length"),
    not_yet_unless(
        &["train_sampling_strategy"],
        &["random"],
        "other order than a random one here",
    ),
    not_yet(&["data_seed"], "seed of the order besides the run's seed"),
    not_yet_unless(
        &[
            "fsdp",
            "fsdp_config",
            "fsdp_min_num_params",
            "fsdp_transformer_layer_cls_to_wrap",
        ],
        &["0"],
        "sharded data parallelism (FSDP)",
    ),
    not_yet(&["optim_target_modules"], "optimizer for single layers"),
    not_yet_unless(&["eval_delay"], &["0", "0.0"], "delay of the first evaluation"),
    not_yet(&["eval_on_start"], "evaluation before the first step"),
    not_yet(
        &["torchdynamo", "ray_scope", "mp_parameters", "sharded_ddp"],
        "such engine",
    ),
];

/// `lr_scheduler_kwargs`.
pub(super) static SCHEDULE_ARGUMENTS: &[Row] = &[
    into(&["min_lr"], "train.schedule.min_lr", "of cosine_with_min_lr"),
    into(
        &["min_lr_rate"],
        "train.schedule.min_lr_ratio",
        "of cosine_with_min_lr",
    ),
    into(
        &["min_lr_ratio"],
        "train.schedule.min_lr_ratio",
        "of warmup_stable_decay",
    ),
    into(
        &["num_decay_steps"],
        "train.schedule.decay_steps",
        "of warmup_stable_decay",
    ),
    into(&["timescale"], "train.schedule.timescale", "of inverse_sqrt"),
    into(&["num_cycles"], "–", "0.5, half a cosine"),
    into(&["warmup_type", "decay_type"], "–", "linear"),
    not_yet(
        &[
            "power",
            "lr_end",
            "factor",
            "patience",
            "threshold",
            "cooldown",
            "eps",
            "mode",
        ],
        "schedule with this argument",
    ),
];

/// `accelerator_config`.
static ACCELERATOR: &[Row] = &[
    nothing(
        &[
            "dispatch_batches",
            "even_batches",
            "use_seedable_sampler",
            "non_blocking",
            "use_configured_state",
        ],
        "the order of the data is a function of seed, epoch and index on every rank",
    ),
    never(
        &["split_batches"],
        &[],
        "a micro-batch is one device's, not that of all devices",
    ),
    nothing(
        &["gradient_accumulation_kwargs"],
        "accumulation is that of train.accumulation",
    ),
];

/// Defaults in which transformers and its relatives differ.
pub(super) struct Defaults {
    pub(super) lr: f64,
    pub(super) logging_steps: i64,
    pub(super) recompute: bool,
    pub(super) bf16: Option<&'static str>,
    pub(super) seed: i64,
}

/// transformers' own.
pub(super) const OF_TRANSFORMERS: Defaults = Defaults {
    lr: 5e-5,
    logging_steps: 500,
    recompute: false,
    bf16: Some("f32"),
    seed: 42,
};

/// Translates what the table leaves to code. `prefix` is where the arguments are.
pub(super) fn translate(t: &mut Translation, prefix: &str, defaults: &Defaults) {
    let key = |name: &str| join(prefix, name);
    t.run_length(&key("num_train_epochs"), &key("max_steps"), 3.0);
    t.optimizer(&key("optim"));
    t.optimizer_arguments(&key("optim_args"));
    betas(t, &key("adam_beta1"), &key("adam_beta2"));
    t.schedule(&ScheduleKeys {
        name: &key("lr_scheduler_type"),
        default_name: "linear",
        warmup_steps: &key("warmup_steps"),
        warmup_ratio: &key("warmup_ratio"),
        kwargs: &key("lr_scheduler_kwargs"),
        min_ratio: None,
    });
    t.precision(&[&key("bf16")], defaults.bf16);
    for name in ["gradient_checkpointing", "activation_checkpointing"] {
        t.recompute(&key(name), false);
    }
    t.recurrence(
        "checkpoint.every",
        &key("save_strategy"),
        &key("save_steps"),
        Recurrence::Steps(500),
    );
    t.keep(&key("save_total_limit"), None);
    evaluation(t, prefix);
    log(t, prefix, defaults);
    loader(
        t,
        &key("dataloader_num_workers"),
        &key("dataloader_prefetch_factor"),
    );
    resume(t, &key("resume_from_checkpoint"));
    if let Some((on, given)) = t.take_bool(&key("use_cpu")) {
        match on {
            true => t.put("device", Value::String("flex".into()), &given),
            false => t.no_effect(&given, "device decides"),
        }
    }
    super::deepspeed::translate(t, &key("deepspeed"));
    if defaults.recompute {
        t.default("train.recompute", Value::String("blocks".into()));
    }
    t.default("train.micro_batch_size", Value::Integer(8));
    t.default("train.optimizer.lr", Value::Float(defaults.lr));
    t.default("seed", Value::Integer(defaults.seed));
}

/// Two keys, one list.
pub(super) fn betas(t: &mut Translation, first: &str, second: &str) {
    const KEY: &str = "train.optimizer.betas";
    let (first, second) = (t.take(first), t.take(second));
    let value = |given: &Option<super::translation::Given>, usual: f64| {
        given
            .as_ref()
            .map_or(Value::Float(usual), |given| given.node.value.clone())
    };
    let values = [value(&first, 0.9), value(&second, 0.999)];
    for given in first.iter().chain(&second) {
        let at = given.node.at.clone();
        let items = values.iter().map(|value| tree::Node {
            value: value.clone(),
            at: at.clone(),
        });
        let list = Value::List(items.collect());
        t.put(KEY, list, given);
    }
}

/// `eval_*`, which mean nothing without evaluation data.
fn evaluation(t: &mut Translation, prefix: &str) {
    let key = |name: &str| join(prefix, name);
    if t.is_put("data.eval") {
        for name in ["eval_strategy", "evaluation_strategy"] {
            if t.peek(&key(name)).is_some() {
                t.recurrence(
                    "eval.every",
                    &key(name),
                    &key("eval_steps"),
                    Recurrence::Steps(500),
                );
            }
        }
        for name in ["per_device_eval_batch_size", "per_gpu_eval_batch_size"] {
            if let Some(given) = t.take(&key(name)) {
                t.put("eval.batch_size", given.node.value.clone(), &given);
            }
        }
        best_metric(t, &key("metric_for_best_model"), &key("greater_is_better"));
    }
    let names = [
        "eval_strategy",
        "evaluation_strategy",
        "eval_steps",
        "per_device_eval_batch_size",
        "per_gpu_eval_batch_size",
        "metric_for_best_model",
        "greater_is_better",
    ];
    for name in names {
        let Some(given) = t.take(&key(name)) else { continue };
        let asks = name.ends_with("strategy")
            && given
                .node
                .text()
                .is_some_and(|word| word != "no" && word != "false");
        match asks {
            true => t.refuse(
                &given,
                "refused: there is no data to evaluate on",
                Some("write no, or --set 'data.eval=[{path: …}]'"),
            ),
            false => t.no_effect(&given, "there is no data to evaluate on, or no strategy"),
        }
    }
}

/// By what the best checkpoint is chosen.
pub(super) fn best_metric(t: &mut Translation, metric: &str, direction: &str) {
    if let Some((name, given)) = t.take_text(metric) {
        let name = if name.starts_with("eval_") {
            name
        } else {
            format!("eval_{name}")
        };
        t.put("eval.best.metric", Value::String(name), &given);
    }
    if let Some((greater, given)) = t.take_bool(direction) {
        let word = if greater { "max" } else { "min" };
        t.put("eval.best.direction", Value::String(word.into()), &given);
    }
}

/// `logging_*` and `report_to`.
fn log(t: &mut Translation, prefix: &str, defaults: &Defaults) {
    let key = |name: &str| join(prefix, name);
    if let Some((word, given)) = t.take_text(&key("logging_strategy")) {
        match word.as_str() {
            "steps" => t.no_effect(&given, "logging_steps says it"),
            _ => t.refuse(
                &given,
                "refused: the log has a line each so many steps",
                Some("write steps, and logging_steps"),
            ),
        }
    }
    logging_steps(t, &key("logging_steps"), Some(defaults.logging_steps));
    let Some(given) = t.take(&key("report_to")) else {
        return;
    };
    let words: Vec<String> = match &given.node.value {
        Value::List(items) => items.iter().filter_map(tree::Node::text).collect(),
        scalar => vec![scalar.to_string()],
    };
    let others = words
        .iter()
        .find(|word| !["none", "tensorboard", "all"].contains(&word.as_str()));
    match others {
        Some(tracker) => {
            let reason = format!(
                "Brazier does not report to {tracker} yet: metrics.jsonl and TensorBoard are in the output folder"
            );
            t.refuse_unless_left_out(&given, &reason);
        }
        None if words.contains(&"tensorboard".to_owned()) => {
            t.put("track.tensorboard", Value::Bool(true), &given);
        }
        None => t.no_effect(&given, "metrics.jsonl and TensorBoard are in the output folder"),
    }
}

/// Steps between two lines of the log.
pub(super) fn logging_steps(t: &mut Translation, key: &str, default: Option<i64>) {
    match (t.take_count(key), default) {
        (Some((0, given)), _) => t.no_effect(
            &given,
            "0 asks for no line; the log has one each track.log_every steps",
        ),
        (Some((_, given)), _) => t.put("track.log_every", given.node.value.clone(), &given),
        (None, Some(default)) => t.default("track.log_every", Value::Integer(default)),
        (None, None) => {}
    }
}

/// Threads, and what they make ahead. PyTorch counts micro-batches of each worker, Brazier steps.
pub(super) fn loader(t: &mut Translation, workers: &str, prefetch: &str) {
    let workers = t.take_count(workers);
    let prefetch = t.take_count(prefetch);
    let threads = workers.as_ref().map_or(0, |(count, _)| *count);
    if let Some((_, given)) = &workers {
        t.put_noted("data.workers", given.node.value.clone(), given, Some("threads"));
    }
    let Some((factor, given)) = prefetch else { return };
    if threads == 0 {
        return t.no_effect(&given, "there are no workers");
    }
    let accumulation = tree::get(&t.out, "train.accumulation").and_then(super::translation::number);
    let accumulation = accumulation.unwrap_or(1.0).max(1.0);
    let steps = ((factor * threads) as f64 / accumulation).ceil().max(1.0);
    let note = format!("steps: {factor} x {threads} micro-batches, {accumulation} in a step");
    t.put_noted("data.prefetch", Value::Integer(steps as i64), &given, Some(&note));
}

/// Where a run begins. Brazier's runs go on by themselves.
pub(super) fn resume(t: &mut Translation, key: &str) {
    let Some(given) = t.take(key) else { return };
    match &given.node.value {
        Value::Bool(_) => t.no_effect(
            &given,
            "a run goes on from its own newest checkpoint; checkpoint.resume=none starts afresh",
        ),
        _ => t.put_path("checkpoint.resume", &given),
    }
}
