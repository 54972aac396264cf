//! axolotl's YAML (axolotl-ai-cloud/axolotl).

mod data;
mod not_yet;
mod rows;

pub(super) use rows::ROWS;

use super::{
    common::{Recurrence, ScheduleKeys},
    settle::number,
    training_arguments::{best_metric, betas, loader, logging_steps},
    translation::{Given, Translation},
};
use crate::config::tree::{self, Value};

/// Longest row where nothing is said.
const SEQUENCE_LEN: i64 = 512;

/// Translates what the table leaves to code.
pub(super) fn translate(t: &mut Translation) {
    plugins(t);
    adapter(t);
    data::translate(t);
    t.packing("sample_packing");
    t.group_by_length("group_by_length");
    t.padding("pad_to_sequence_len", "pad_to_multiple_of", SEQUENCE_LEN);
    let epochs = t
        .peek("num_epochs")
        .and_then(|given| number(&given.node))
        .unwrap_or(1.0);
    t.run_length("num_epochs", "max_steps", 1.0);
    t.optimizer("optimizer");
    t.optimizer_arguments("optim_args");
    betas(t, "adam_beta1", "adam_beta2");
    t.schedule(&ScheduleKeys {
        name: "lr_scheduler",
        default_name: "cosine",
        warmup_steps: "warmup_steps",
        warmup_ratio: "warmup_ratio",
        kwargs: "lr_scheduler_kwargs",
        min_ratio: Some("cosine_min_lr_ratio"),
    });
    if !t.is_put("train.schedule.warmup_steps") && t.is_put("train.schedule.name") {
        t.default("train.schedule.warmup_ratio", Value::Float(0.03));
    }
    t.precision(&["bf16", "bfloat16"], None);
    t.recompute("gradient_checkpointing", false);
    checkpoints(t, epochs);
    evaluation(t, epochs);
    logging_steps(t, "logging_steps", None);
    loader(t, "dataloader_num_workers", "dataloader_prefetch_factor");
    super::training_arguments::resume(t, "resume_from_checkpoint");
    super::deepspeed::translate(t, "deepspeed");
    t.default("train.precision", Value::String("bf16".into()));
    t.default("data.sequence_length", Value::Integer(SEQUENCE_LEN));
    t.default("output", Value::String("./model-out".into()));
    t.default("seed", Value::Integer(42));
}

/// Plug-ins whose work is done here in any case.
fn plugins(t: &mut Translation) {
    let Some(given) = t.take("plugins") else { return };
    let Value::List(items) = &given.node.value else {
        return t.expected(&given, "a list");
    };
    for (index, item) in items.iter().enumerate() {
        let name = item.text().unwrap_or_default();
        let one = Given {
            key: format!("{}[{index}]", given.key),
            node: item.clone(),
            read: None,
        };
        if ["CutCrossEntropyPlugin", "LigerPlugin"]
            .iter()
            .any(|known| name.ends_with(known))
        {
            t.no_effect(&one, "projection to the vocabulary and cross-entropy are one operation, and kernels are fused, in any case");
        } else {
            t.refuse_unless_left_out(
                &Given {
                    key: given.key.clone(),
                    ..one
                },
                "Brazier has no plug-ins",
            );
        }
    }
}

/// `adapter`, without which axolotl looks at none of the others.
fn adapter(t: &mut Translation) {
    let is_lora = match t.take_text("adapter") {
        Some((kind, given)) if kind == "lora" => {
            t.put("model.lora", Value::Map(Vec::new()), &given);
            true
        }
        Some((kind, given)) => {
            t.refuse_unless_left_out(&given, &format!("Brazier has no adapter {kind} yet: it has lora"));
            false
        }
        None => false,
    };
    if let Some((all, given)) = t.take_bool("lora_target_linear") {
        match all && is_lora {
            true => t.put("model.lora.target_modules", all_linear(&given), &given),
            false => t.no_effect(
                &given,
                "lora_target_modules names the layers, or there is no adapter",
            ),
        }
    }
    for (name, native) in [
        ("lora_model_dir", "from"),
        ("lora_r", "r"),
        ("lora_alpha", "alpha"),
        ("lora_dropout", "dropout"),
        ("lora_target_modules", "target_modules"),
        ("peft_use_rslora", "rslora"),
    ] {
        let Some(given) = t.take(name) else { continue };
        match is_lora {
            true if native == "from" => t.put_path("model.lora.from", &given),
            true => t.put(&format!("model.lora.{native}"), given.node.value.clone(), &given),
            false => t.no_effect(&given, "there is no adapter"),
        }
    }
}

/// PEFT's word for every linear layer, in a list.
pub(super) fn all_linear(given: &Given) -> Value {
    Value::List(vec![tree::Node {
        value: Value::String("all-linear".into()),
        at: given.node.at.clone(),
    }])
}

/// `saves_per_epoch` is a part of all steps, as axolotl computes it.
fn checkpoints(t: &mut Translation, epochs: f64) {
    const EVERY: &str = "checkpoint.every";
    if let Some((count, given)) = t.take_number("saves_per_epoch") {
        let part = 1.0 / (count * epochs);
        match (
            t.peek("save_steps").is_some() || t.peek("save_strategy").is_some(),
            count > 0.0,
        ) {
            (true, _) => t.refuse(
                &given,
                "refused: contradicts save_steps or save_strategy",
                Some("keep one of them"),
            ),
            (false, true) if part < 1.0 => t.put_noted(
                &format!("{EVERY}.ratio"),
                Value::Float(part),
                &given,
                Some("of all steps"),
            ),
            (false, true) => t.put_noted(
                EVERY,
                Value::String("never".into()),
                &given,
                Some("one checkpoint, at the end"),
            ),
            (false, false) => t.no_effect(&given, "0 asks for nothing"),
        }
    }
    if !t.is_put(EVERY) {
        t.recurrence(EVERY, "save_strategy", "save_steps", Recurrence::Epoch);
    }
    t.keep("save_total_limit", Some(4));
}

fn evaluation(t: &mut Translation, epochs: f64) {
    if t.is_put("data.eval") {
        if let Some((count, given)) = t.take_number("evals_per_epoch") {
            let part = 1.0 / (count * epochs);
            match count > 0.0 && part < 1.0 {
                true => t.put_noted(
                    "eval.every.ratio",
                    Value::Float(part),
                    &given,
                    Some("of all steps"),
                ),
                false => t.put("eval.every", Value::String("never".into()), &given),
            }
        }
        for name in ["eval_strategy", "evaluation_strategy"] {
            if !t.is_put("eval.every") {
                t.recurrence("eval.every", name, "eval_steps", Recurrence::Epoch);
            }
        }
        if let Some(given) = t.take("eval_batch_size") {
            t.put("eval.batch_size", given.node.value.clone(), &given);
        }
        if let Some(given) = t.take("early_stopping_patience") {
            t.put("eval.early_stopping.patience", given.node.value.clone(), &given);
        }
        best_metric(t, "metric_for_best_model", "greater_is_better");
    }
    for name in [
        "evals_per_epoch",
        "eval_strategy",
        "evaluation_strategy",
        "eval_steps",
        "eval_batch_size",
        "early_stopping_patience",
        "metric_for_best_model",
        "greater_is_better",
    ] {
        if let Some(given) = t.take(name) {
            t.no_effect(
                &given,
                "there are no test_datasets, as in axolotl nothing is evaluated then",
            );
        }
    }
}
