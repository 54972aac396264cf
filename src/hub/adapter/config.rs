//! `adapter_config.json`.

use std::collections::BTreeSet;

use brazier_models::{Head, LoraConfig, VlmConfig, lora::linears};
use serde_json::{Map, Value, json};

use super::{Adapter, SAVED_MODULES, transformers_path};
use crate::hub::section::{Problems, Section};

/// What the file says that the tensors do not.
pub(super) struct Numbers {
    pub(super) r: usize,
    pub(super) lora_alpha: f64,
    pub(super) lora_dropout: f64,
    pub(super) use_rslora: bool,
    pub(super) base: Option<String>,
}

/// Keys without influence on what an adapter computes: which layers have one is seen in the tensors.
const PASSED_OVER: [&str; 13] = [
    "auto_mapping",
    "base_model_name_or_path",
    "ensure_weight_tying",
    "exclude_modules",
    "inference_mode",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
    "eva_config",
];
/// Keys that are read, or refused with words of their own.
const READ: [&str; 8] = [
    "peft_type",
    "r",
    "lora_alpha",
    "lora_dropout",
    "use_rslora",
    "bias",
    "modules_to_save",
    "init_lora_weights",
];

/// Reads the numbers, and collects every key that asks for more than plain LoRA.
pub(super) fn parse_config(map: &Map<String, Value>, problems: &Problems) -> Numbers {
    let root = Section {
        prefix: "",
        map,
        problems,
    };
    root.only("peft_type", &json!("LORA"), "only LORA is read");
    root.only("bias", &json!("none"), "biases rest; only none is read");
    check_initialisation(root);
    check_saved_modules(root);
    // Every variant that PEFT has, or will have, is a key that is not at rest.
    for (key, value) in map {
        let is_known = READ.contains(&key.as_str()) || PASSED_OVER.contains(&key.as_str());
        if !is_known && !is_at_rest(value) {
            root.refuse(key, value, "this variant of LoRA is not built in");
        }
    }
    let numbers = Numbers {
        r: root.size("r").unwrap_or(8),
        lora_alpha: root.float("lora_alpha").unwrap_or(8.0),
        lora_dropout: root.float("lora_dropout").unwrap_or(0.0),
        use_rslora: root.flag("use_rslora").unwrap_or(false),
        base: root.text("base_model_name_or_path").map(str::to_owned),
    };
    if numbers.r == 0 {
        root.refuse("r", &json!(0), "must be at least 1");
    }
    numbers
}

fn is_at_rest(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        Value::Bool(true) | Value::Number(_) | Value::String(_) => false,
    }
}

/// Some ways to start an adapter change the base model too.
fn check_initialisation(root: Section) {
    let Some(value) = root.value("init_lora_weights") else {
        return;
    };
    if !(value.is_boolean() || value == "gaussian" || value == "orthogonal") {
        root.refuse(
            "init_lora_weights",
            value,
            "this initialisation changes the weights of the base model; let PEFT convert the adapter to plain LoRA",
        );
    }
}

fn check_saved_modules(root: Section) {
    let Some(value) = root.value("modules_to_save") else {
        return;
    };
    let known = SAVED_MODULES.map(|(_, module)| module);
    let names = value.as_array().map(Vec::as_slice).unwrap_or_default();
    let all_known = names
        .iter()
        .all(|name| name.as_str().is_some_and(|name| known.contains(&name)));
    if !all_known || !value.is_array() {
        let reason = format!("only {} can be trained in full beside adapters", known.join(", "));
        root.refuse("modules_to_save", value, &reason);
    }
}

/// The file of an adapter; `saved` are the modules that were trained in full.
pub(super) fn config_json(model: &VlmConfig, adapter: &Adapter, saved: &BTreeSet<&str>) -> Value {
    let LoraConfig {
        r,
        lora_alpha,
        lora_dropout,
        use_rslora,
        ..
    } = adapter.config;
    json!({
        "peft_type": "LORA",
        "task_type": match model.head {
            Head::Lm => "CAUSAL_LM",
            Head::Classification { .. } => "SEQ_CLS",
        },
        "base_model_name_or_path": adapter.base,
        "revision": null,
        "inference_mode": true,
        "r": r,
        "lora_alpha": whole_if_possible(lora_alpha),
        "lora_dropout": lora_dropout,
        "use_rslora": use_rslora,
        "use_dora": false,
        "fan_in_fan_out": false,
        "bias": "none",
        "init_lora_weights": true,
        "target_modules": target_modules(model, &adapter.config),
        "modules_to_save": (!saved.is_empty()).then_some(saved),
        "layers_to_transform": null,
        "layers_pattern": null,
        "rank_pattern": {},
        "alpha_pattern": {},
    })
}

/// PEFT's type for alpha is an integer, though it computes with any number.
fn whole_if_possible(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        json!(value as i64)
    } else {
        json!(value)
    }
}

/// As few words as tell PEFT the same layers: names where they are enough, else a pattern for one part of the model, else
/// every path.
fn target_modules(model: &VlmConfig, lora: &LoraConfig) -> Value {
    let layers: Vec<String> = linears(model).into_iter().map(|linear| linear.path).collect();
    let chosen: BTreeSet<&str> = layers
        .iter()
        .map(String::as_str)
        .filter(|path| lora.targets(path))
        .collect();
    let name = |path: &str| path.rsplit('.').next().unwrap_or(path).to_owned();
    let names: BTreeSet<String> = chosen.iter().map(|path| name(path)).collect();
    let means = |part: &str| {
        let of_these = layers
            .iter()
            .filter(|path| path.starts_with(part) && names.contains(&name(path)));
        of_these.map(String::as_str).collect::<BTreeSet<_>>() == chosen
    };
    if means("") {
        return json!(names);
    }
    for part in ["language_model", "vision_tower"] {
        if means(&format!("{part}.")) {
            let names: Vec<String> = names.into_iter().collect();
            return json!(format!(r".*\b{part}\..*\.({})", names.join("|")));
        }
    }
    let paths: Vec<String> = chosen
        .iter()
        .map(|path| transformers_path(path, model.vision.is_some()))
        .collect();
    json!(paths)
}
