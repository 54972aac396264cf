//! transformers' `TrainingArguments`: the keys, and what becomes of them. Used by the dialects whose trainer is
//! that of transformers.

mod rows;

pub(super) use rows::{ROWS, SCHEDULE_ARGUMENTS};

use super::{
    common::{Recurrence, ScheduleKeys},
    deepspeed,
    settle::number,
    translation::{Given, Translation},
};
use crate::config::tree::{self, Value, join};

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
    sampling(t, prefix);
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
    deepspeed::translate(t, &key("deepspeed"));
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
    let value = |given: &Option<Given>, usual: f64| {
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

/// In which order rows come.
fn sampling(t: &mut Translation, prefix: &str) {
    t.group_by_length(&join(prefix, "group_by_length"));
    let Some((strategy, given)) = t.take_text(&join(prefix, "train_sampling_strategy")) else {
        return;
    };
    match strategy.as_str() {
        "random" => t.no_effect(&given, "each epoch is in random order in any case"),
        "sequential" => t.put("data.shuffle", Value::Bool(false), &given),
        "group_by_length" => t.put("data.group_by_length", Value::Bool(true), &given),
        _ => t.refuse(&given, "expected random, sequential or group_by_length", None),
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
    let accumulation = tree::get(&t.out, "train.accumulation").and_then(number);
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
