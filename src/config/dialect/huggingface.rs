//! Arguments of scripts on transformers' and TRL's trainers: `TrainingArguments`, `SFTConfig`, `ModelConfig` and
//! `ScriptArguments`, as YAML, as JSON, or as the flags of a command.

use super::{
    axolotl::all_linear,
    table::{Row, all, include, into, not_yet, not_yet_unless, nothing, path, read_as, to},
    training_arguments::{self, Defaults, OF_TRANSFORMERS},
    translation::{Given, Translation},
};
use crate::config::tree::{Node, Value};

/// All keys.
pub(super) static ROWS: &[Row] = &[include(training_arguments::ROWS), include(OF_TRL)];

/// What TRL adds.
static OF_TRL: &[Row] = &[
    path(&["model_name_or_path"], "model.from"),
    path(&["tokenizer_name_or_path"], "model.tokenizer"),
    nothing(
        &["model_revision"],
        "write it behind the model's name: NAME@REVISION",
    ),
    nothing(&["trust_remote_code"], "no code of a model's folder is ever run"),
    nothing(
        &["attn_implementation"],
        "attention is one operation; no result depends on the choice",
    ),
    into(
        &["dtype", "torch_dtype"],
        "train.precision",
        "bfloat16 is bf16, float32 is f32",
    ),
    nothing(&["cache_dir"], "HF_HOME and HF_HUB_CACHE say where models are"),
    into(
        &["dataset_name", "dataset_path", "train_file"],
        "data.train[].path",
        "a file or a folder",
    ),
    into(
        &["dataset_train_split", "train_split"],
        "data.train[].split",
        "train, of a local file, is the file itself",
    ),
    nothing(&["dataset_test_split"], "data.eval names files of its own"),
    into(&["max_length"], "data.sequence_length", "left out, 1024"),
    read_as(&["max_seq_length"], "max_length"),
    into(&["truncation_mode"], "data.too_long", "keep_start is truncate"),
    into(
        &["dataset_text_field"],
        "data.train[].fields.text",
        "text, unless otherwise said",
    ),
    into(
        &["completion_only_loss"],
        "–",
        "true trains the completion alone, as prompt and completion rows do in any case",
    ),
    into(
        &["assistant_only_loss"],
        "data.masks.roles",
        "true is [assistant]",
    ),
    into(
        &["instruction_format"],
        "data.train[].kind",
        "names with alpaca are instruction",
    ),
    into(
        &["chat_template_path"],
        "data.template",
        "a file that ends in .jinja",
    ),
    into(
        &["shuffle_dataset"],
        "–",
        "each epoch is in random order in any case",
    ),
    nothing(
        &[
            "dataset_num_proc",
            "dataset_kwargs",
            "dataset_batch_size",
            "use_liger",
            "activation_offloading",
            "padding_free",
            "ignore_bias_buffers",
        ],
        "no result depends on it",
    ),
    into(&["use_peft"], "model.lora", "true trains adapters"),
    into(&["lora_r"], "model.lora.r", "beside use_peft; left out, 16"),
    into(
        &["lora_alpha"],
        "model.lora.alpha",
        "beside use_peft; left out, 32",
    ),
    into(
        &["lora_dropout"],
        "model.lora.dropout",
        "beside use_peft; left out, 0.05",
    ),
    into(
        &["lora_target_modules"],
        "model.lora.target_modules",
        "beside use_peft",
    ),
    into(&["use_rslora"], "model.lora.rslora", "beside use_peft"),
    nothing(&["lora_task_type"], "model.head says what the model is for"),
    into(
        &["packing"],
        "data.packing",
        "true is best_fit; per_device_train_batch_size counts rows of at most max_length tokens",
    ),
    into(
        &["packing_strategy"],
        "–",
        "bfd; others, which cut rows to fill gaps, are refused",
    ),
    nothing(
        &["eval_packing"],
        "held-out rows are packed if training rows are; no result depends on it",
    ),
    to(&["pad_to_multiple_of"], "data.pad_to_multiple_of"),
    read_as(&["beta1"], "adam_beta1"),
    read_as(&["beta2"], "adam_beta2"),
    read_as(&["epsilon"], "adam_epsilon"),
    // What is still to be built: each line goes when Brazier has it.
    not_yet(
        &[
            "dataset_config",
            "dataset_config_name",
            "dataset_streaming",
            "streaming",
        ],
        "way to read a data set by its name on the hub",
    ),
    not_yet(
        &["datasets", "dataset_mix", "dataset_mixer", "test_split_size"],
        "mixture of data sets by this key: data.train lists them",
    ),
    not_yet(
        &["model_init_kwargs"],
        "way to change an imported model's config.json",
    ),
    not_yet(
        &["eos_token", "pad_token"],
        "way to change tokens: the tokenizer's folder names them",
    ),
    not_yet_unless(&["loss_type"], &["nll"], "loss of this kind"),
    not_yet(&["router_aux_loss_coef"], "mixture of experts"),
    not_yet(
        &["lora_target_parameters", "lora_modules_to_save", "use_dora"],
        "adapter of this kind",
    ),
    not_yet(
        &["load_in_8bit", "load_in_4bit", "use_bnb_nested_quant"],
        "quantised weights",
    ),
    nothing(
        &["bnb_4bit_quant_type", "bnb_4bit_quant_storage"],
        "without quantised weights it says nothing",
    ),
];

/// TRL's own defaults.
const OF_SFT: Defaults = Defaults {
    lr: 2e-5,
    logging_steps: 10,
    recompute: true,
    bf16: Some("bf16"),
    ..OF_TRANSFORMERS
};

/// Translates what the table leaves to code.
pub(super) fn translate(t: &mut Translation) {
    let names = all(OF_TRL).into_iter().flat_map(|row| row.keys.iter());
    let mut names = names.copied();
    let is_trl = names.any(|name| t.is_written(name));
    data(t);
    adapters(t);
    dtype(t);
    if let Some(given) = t.take("max_length") {
        t.put("data.sequence_length", given.node.value.clone(), &given);
    }
    if is_trl {
        t.default("data.sequence_length", Value::Integer(1024));
        t.default("data.too_long", Value::String("truncate".into()));
    }
    let defaults = if is_trl { OF_SFT } else { OF_TRANSFORMERS };
    training_arguments::translate(t, "", &defaults);
}

fn data(t: &mut Translation) {
    let native = |name: &str| format!("data.train[0].{name}");
    for name in ["dataset_name", "dataset_path", "train_file"] {
        if let Some(given) = t.take(name) {
            t.put_path(&native("path"), &given);
        }
    }
    for name in ["dataset_train_split", "train_split"] {
        match t.take_text(name) {
            Some((split, given)) if split == "train" => {
                t.no_effect(&given, "a file is one split, which is called train")
            }
            Some((split, given)) => t.put(&native("split"), Value::String(split), &given),
            None => {}
        }
    }
    match t.take_text("dataset_text_field") {
        Some((field, given)) if field == "text" => t.no_effect(&given, "it is always so"),
        Some((field, given)) => t.put(&native("fields.text"), Value::String(field), &given),
        None => {}
    }
    if let Some((format, given)) = t.take_text("instruction_format") {
        let (kind, is_known) = match format.as_str() {
            name if name.contains("alpaca") => ("instruction", true),
            name if name.ends_with("_chat") => ("chat", false),
            _ => ("", false),
        };
        match is_known {
            true => t.put(&native("kind"), Value::String(kind.into()), &given),
            false => t.refuse_unless_left_out(
                &given,
                &format!(
                    "Brazier has no format {format} yet: kind and fields of data.train say how a row is read"
                ),
            ),
        }
    }
    truncation(t);
    packing(t);
    masks(t);
    if let Some((path, given)) = t.take_text("chat_template_path") {
        match path.ends_with(".jinja") {
            true => t.put_path("data.template", &given),
            false => t.refuse(&given, "refused: a template is a file that ends in .jinja", None),
        }
    }
    if let Some((_, given)) = t.take_bool("shuffle_dataset") {
        t.no_effect(
            &given,
            "each epoch is in a random order of its own, as transformers' sampler does it",
        );
    }
}

fn truncation(t: &mut Translation) {
    match t.take_text("truncation_mode") {
        Some((mode, given)) if mode == "keep_start" => {
            t.put("data.too_long", Value::String("truncate".into()), &given)
        }
        Some((_, given)) => {
            t.refuse_unless_left_out(&given, "Brazier cuts at the end of a row, never at its beginning")
        }
        None => {}
    }
}

fn packing(t: &mut Translation) {
    let is_on = t.packing("packing");
    match t.take_text("packing_strategy") {
        Some((strategy, given)) if strategy == "bfd" => {
            t.no_effect(&given, "best-fit-decreasing is how rows are packed in any case")
        }
        Some((_, given)) if !is_on => t.no_effect(&given, "packing says whether rows are packed: no"),
        Some((strategy, given)) => t.refuse_unless_left_out(
            &given,
            &format!("Brazier has no packing {strategy} yet: it has bfd, which cuts no row to fill a gap"),
        ),
        None => {}
    }
}

fn masks(t: &mut Translation) {
    match t.take_bool("completion_only_loss") {
        Some((true, given)) => t.no_effect(
            &given,
            "of a prompt and its completion only the completion is trained in any case",
        ),
        Some((false, given)) => t.refuse_unless_left_out(
            &given,
            "Brazier does not train prompts of prompt and completion rows",
        ),
        None => {}
    }
    match t.take_bool("assistant_only_loss") {
        Some((true, given)) => {
            let role = Node {
                value: Value::String("assistant".into()),
                at: given.node.at.clone(),
            };
            t.put("data.masks.roles", Value::List(vec![role]), &given);
        }
        Some((false, given)) => t.no_effect(&given, "data.masks.roles says who is trained: the assistant"),
        None => {}
    }
}

fn dtype(t: &mut Translation) {
    for name in ["dtype", "torch_dtype"] {
        let Some((word, given)) = t.take_text(name) else {
            continue;
        };
        match word.as_str() {
            // In transformers this is how weights are loaded; the trainer's bf16 says how they are used.
            "bfloat16" | "float32" | "auto" => t.no_effect(
                &given,
                "train.precision is the format of the parameters, with masters in f32",
            ),
            _ => t.refuse_unless_left_out(&given, &format!("Brazier has no format {word}")),
        }
    }
}

fn adapters(t: &mut Translation) {
    let switch = t.take_bool("use_peft");
    let is_on = switch.as_ref().is_some_and(|(on, _)| *on);
    match &switch {
        Some((true, given)) => t.put("model.lora", Value::Map(Vec::new()), given),
        Some((false, given)) => t.no_effect(given, "there are no adapters"),
        None => {}
    }
    for (name, native) in [
        ("lora_r", "r"),
        ("lora_alpha", "alpha"),
        ("lora_dropout", "dropout"),
        ("lora_target_modules", "target_modules"),
        ("use_rslora", "rslora"),
    ] {
        let Some(given) = t.take(name) else { continue };
        if is_on {
            put_adapter(t, native, &given);
        } else {
            t.no_effect(&given, "without use_peft there are no adapters");
        }
    }
    if is_on {
        t.default("model.lora.r", Value::Integer(16));
        t.default("model.lora.alpha", Value::Integer(32));
        t.default("model.lora.dropout", Value::Float(0.05));
    }
}

fn put_adapter(t: &mut Translation, native: &str, given: &Given) {
    let value = match (native, &given.node.value) {
        ("target_modules", Value::String(word)) if word == "all-linear" => all_linear(given),
        ("target_modules", Value::String(_)) => Value::List(vec![given.node.clone()]),
        (_, value) => value.clone(),
    };
    t.put(&format!("model.lora.{native}"), value, given);
}
