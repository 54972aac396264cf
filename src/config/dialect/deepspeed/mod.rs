//! DeepSpeed's JSON, as users of transformers and axolotl write it: `"auto"` stands for what the YAML says, and a number
//! that the YAML contradicts is refused.

use std::path::{Path, PathBuf};

mod rows;

pub(super) use rows::ROWS;

use super::{
    settle::number,
    translation::{Given, Translation},
};
use crate::{
    config::{
        tree::{self, Node, Value},
        yaml,
    },
    fs,
};

/// What the keys of this table are below in the paths of the translation.
const PREFIX: &str = "deepspeed.json";

/// Reads the file that a key names, or the mapping that is there in its place, and translates it.
pub(super) fn translate(t: &mut Translation, key: &str) {
    let Some(given) = t.take(key) else { return };
    let (root, written) = match &given.node.value {
        Value::Map(_) => {
            t.no_effect(&given, "its own keys say what it means");
            (given.node.clone(), given.key.clone())
        }
        _ => match file(t, &given) {
            Some(root) => (root, String::new()),
            None => return,
        },
    };
    t.walk(ROWS, root.entries(), &written, PREFIX);
    numbers(t);
    sharding(t);
    formats(t);
    optimizer(t);
}

/// Beside the YAML, then in the working directory.
fn file(t: &mut Translation, given: &Given) -> Option<Node> {
    let name = t.path(given)?;
    let beside = t.folder().join(&name);
    let places: Vec<PathBuf> = match Path::new(&name).is_absolute() {
        true => vec![name.clone().into()],
        false => vec![beside, name.clone().into()],
    };
    let Some(path) = places.iter().find(|path| fs::exists(path)) else {
        let places: Vec<_> = places.iter().map(|path| path.display().to_string()).collect();
        let reason = format!("there is no such file: {}", places.join(", nor "));
        let hint = format!("correct the path, or go on without it: --leave-out {}", given.key);
        t.refuse(given, &reason, Some(&hint));
        return None;
    };
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            t.refuse(given, &error.to_string(), None);
            return None;
        }
    };
    // JSON is YAML, but for tabs in front of keys.
    match yaml::parse(
        &path.display().to_string().into(),
        &text.replace('\t', "  "),
        t.env,
    ) {
        Ok(root) => {
            t.no_effect(
                given,
                &format!("its own keys say what it means: {} is read", path.display()),
            );
            Some(root)
        }
        Err(errors) => {
            t.errors.extend(errors);
            None
        }
    }
}

fn take(t: &mut Translation, key: &str) -> Option<Given> {
    t.take(&format!("{PREFIX}.{key}"))
}

fn is_auto(given: &Given) -> bool {
    given.node.value == Value::String("auto".into())
}

/// A value that the YAML may say as well.
fn put_or_auto(t: &mut Translation, key: &str, native: &str) {
    let Some(given) = take(t, key) else { return };
    match is_auto(&given) {
        true => auto(t, &given, native),
        false => t.put(native, given.node.value.clone(), &given),
    }
}

/// Shows what `"auto"` stands for.
fn auto(t: &mut Translation, given: &Given, native: &str) {
    let because = match tree::get(&t.out, native) {
        Some(node) => format!("auto is {native} = {}, as the YAML says", node.value),
        None => format!("auto is {native}, and the YAML leaves it at its default"),
    };
    t.no_effect(given, &because);
}

fn numbers(t: &mut Translation) {
    put_or_auto(t, "gradient_accumulation_steps", "train.accumulation");
    put_or_auto(t, "train_micro_batch_size_per_gpu", "train.micro_batch_size");
    put_or_auto(t, "gradient_clipping", "train.max_grad_norm");
    let Some(given) = take(t, "train_batch_size") else {
        return;
    };
    if is_auto(&given) {
        return t.no_effect(&given, "auto is what micro-batch, accumulation and ranks make");
    }
    if !t.is_put("train.accumulation") {
        return t.put("train.global_batch_size", given.node.value.clone(), &given);
    }
    let said = |native: &str| tree::get(&t.out, native).and_then(number).unwrap_or(1.0);
    let [micro, accumulated] = ["train.micro_batch_size", "train.accumulation"].map(said);
    let whole = number(&given.node);
    match whole.map(|whole| whole / (micro * accumulated)) {
        Some(ranks) if ranks >= 1.0 && ranks.fract() == 0.0 => {
            let because = format!(
                "it follows: micro-batch {micro} x accumulation {accumulated} x {ranks} ranks; on fewer ranks a step has fewer samples, unless train.global_batch_size says otherwise"
            );
            t.no_effect(&given, &because);
        }
        _ => {
            let reason =
                format!("refused: is no multiple of micro-batch {micro} x accumulation {accumulated}");
            t.refuse(&given, &reason, Some("write \"auto\", or correct one of them"));
        }
    }
}

fn sharding(t: &mut Translation) {
    if let Some(given) = take(t, "zero_optimization.stage") {
        match number(&given.node) {
            Some(stage @ (0.0 | 1.0 | 2.0 | 3.0)) => {
                t.put("parallel.zero", Value::Integer(stage as i64), &given)
            }
            _ => t.expected(&given, "0, 1, 2 or 3"),
        }
    }
    if let Some(given) = take(t, "tensor_parallel.autotp_size") {
        match number(&given.node) {
            Some(size) if size >= 0.0 && size.fract() == 0.0 => {
                t.put("parallel.tensor", Value::Integer((size as i64).max(1)), &given);
            }
            _ => t.expected(&given, "a whole number"),
        }
    }
    const KEY: &str = "parallel.offload";
    if let Some(given) = take(t, "zero_optimization.cpu_offload") {
        t.put(KEY, given.node.value.clone(), &given);
    }
    if let Some(given) = take(t, "zero_optimization.offload_optimizer.device") {
        match given.node.text().unwrap_or_default().as_str() {
            "cpu" => t.put(KEY, Value::Bool(true), &given),
            "none" => t.put(KEY, Value::Bool(false), &given),
            _ => t.refuse_unless_left_out(&given, "Brazier offloads to the memory of the CPU, not to files"),
        }
    }
}

fn formats(t: &mut Translation) {
    const KEY: &str = "train.precision";
    for name in ["bf16", "bfloat16"] {
        let Some(given) = take(t, &format!("{name}.enabled")) else {
            continue;
        };
        match given.node.value {
            Value::Bool(true) => t.put(KEY, Value::String("bf16".into()), &given),
            Value::Bool(false) => t.put(KEY, Value::String("f32".into()), &given),
            _ if is_auto(&given) => auto(t, &given, KEY),
            _ => t.expected(&given, "true, false or \"auto\""),
        }
    }
    for name in ["fp16", "amp"] {
        let Some(given) = take(t, &format!("{name}.enabled")) else {
            continue;
        };
        match given.node.value {
            Value::Bool(true) => t.refuse_unless_left_out(
                &given,
                "Brazier has no fp16: bf16 has the range of f32 and needs no loss scale",
            ),
            Value::Bool(false) => t.no_effect(&given, "there is no fp16 here"),
            _ if is_auto(&given) => t.no_effect(&given, "auto is off: the YAML says no fp16"),
            _ => t.expected(&given, "true, false or \"auto\""),
        }
    }
}

fn optimizer(t: &mut Translation) {
    if let Some(given) = take(t, "optimizer.type") {
        match given.node.text().unwrap_or_default().to_lowercase().as_str() {
            "adamw" | "adam" => t.put("train.optimizer.name", Value::String("adamw".into()), &given),
            other => t.refuse_unless_left_out(
                &given,
                &format!("Brazier has no optimizer {other} yet: it has AdamW"),
            ),
        }
    }
    for (name, native) in [
        ("lr", "train.optimizer.lr"),
        ("betas", "train.optimizer.betas"),
        ("eps", "train.optimizer.eps"),
        ("weight_decay", "train.optimizer.weight_decay"),
    ] {
        put_or_auto(t, &format!("optimizer.params.{name}"), native);
    }
}
