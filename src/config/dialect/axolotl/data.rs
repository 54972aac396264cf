//! `datasets`, templates and masks. Masks and templates are said for each data set in axolotl, and once here.

use super::super::{
    common::Words,
    translation::{Given, Translation},
};
use crate::config::{
    error::Location,
    tree::{Entry, Node, Value},
};

pub(super) fn translate(t: &mut Translation) {
    for (key, native) in [("datasets", "data.train"), ("test_datasets", "data.eval")] {
        for index in 0..t.length(key) {
            data_set(t, &format!("{key}[{index}]"), &format!("{native}[{index}]"));
        }
    }
    template(t, "");
    if let Some((all, given)) = t.take_bool("train_on_inputs") {
        match all {
            true => {
                let roles = ["system", "user", "assistant", "tool"];
                t.put("data.masks.roles", words(&roles, &given.node.at), &given);
            }
            false => t.no_effect(&given, "data.masks.roles says who is trained"),
        }
    }
    const STRATEGIES: Words = &[("drop", "drop"), ("truncate", "truncate"), ("raise", "error")];
    match t.take("excess_length_strategy") {
        None => t.default("data.too_long", Value::String("drop".into())),
        Some(given) => {
            if let Some((native, given)) = t.word(given, STRATEGIES, &[("error", "raise")]) {
                t.put("data.too_long", Value::String(native.into()), &given);
            }
        }
    }
    if let Some((_, given)) = t.take_bool("shuffle_merged_datasets") {
        t.no_effect(
            &given,
            "each epoch is in a random order of its own over all data sets, as axolotl's sampler does it",
        );
    }
    if let Some((sorted, given)) = t.take_bool("curriculum_sampling") {
        t.put("data.shuffle", Value::Bool(!sorted), &given);
    }
    if let Some((size, given)) = t.take_number("val_set_size") {
        match size > 0.0 {
            true => t.refuse_unless_left_out(&given, "Brazier splits no rows off: hold them out in a file of their own, and name it in test_datasets"),
            false => t.no_effect(&given, "nothing is split off"),
        }
    }
}

/// One of `datasets`.
fn data_set(t: &mut Translation, key: &str, native: &str) {
    let path = t.take(&format!("{key}.path"));
    let files = t.take(&format!("{key}.data_files"));
    match (path, files) {
        (Some(path), Some(files)) if matches!(files.node.value, Value::String(_)) => {
            t.no_effect(&path, "data_files says which file");
            t.put_path(&format!("{native}.path"), &files);
        }
        (_, Some(files)) => t.refuse(
            &files,
            "refused: Brazier reads one file or folder for each entry",
            Some("write one entry for each file"),
        ),
        (Some(path), None) => t.put_path(&format!("{native}.path"), &path),
        (None, None) => {}
    }
    kind(t, key, native);
    for (name, field) in [
        ("field_messages", "messages"),
        ("message_property_mappings.role", "role"),
        ("message_property_mappings.content", "content"),
        ("message_field_role", "role"),
        ("message_field_content", "content"),
        ("message_field_training", "train"),
        ("field_tools", "tools"),
        ("field", "text"),
    ] {
        if let Some(given) = t.take(&format!("{key}.{name}")) {
            t.put(
                &format!("{native}.fields.{field}"),
                given.node.value.clone(),
                &given,
            );
        }
    }
    for name in ["tool_calls", "tool_call_id", "name", "train"] {
        if let Some((word, given)) = t.take_text(&format!("{key}.message_property_mappings.{name}")) {
            match word == name {
                true => t.no_effect(&given, "it is its own name"),
                false => t.refuse_unless_left_out(
                    &given,
                    &format!("Brazier reads {name} of a message under this name only"),
                ),
            }
        }
    }
    if let Some(given) = t.take(&format!("{key}.roles")) {
        roles(t, &given, &format!("{native}.roles"));
    }
    masks(t, key);
    template(t, key);
}

/// `type`, `ds_type` and `split`.
fn kind(t: &mut Translation, key: &str, native: &str) {
    const KINDS: Words = &[
        ("chat_template", "chat"),
        ("completion", "text"),
        ("alpaca", "instruction"),
        ("sharegpt", "chat"),
    ];
    if let Some(given) = t.take(&format!("{key}.type")) {
        let word = given.node.text().unwrap_or_default();
        match KINDS.iter().find(|(name, _)| *name == word) {
            Some((_, kind)) => {
                let note = (*kind == "text").then_some(
                    "a document longer than sequence_len follows data.too_long; axolotl cuts it into pieces",
                );
                t.put_noted(
                    &format!("{native}.kind"),
                    Value::String((*kind).into()),
                    &given,
                    note,
                );
            }
            None => {
                let names: Vec<_> = KINDS.iter().map(|(name, _)| *name).collect();
                t.refuse_unless_left_out(
                    &given,
                    &format!(
                        "Brazier has no rows of type {word} yet: it has {}",
                        names.join(", ")
                    ),
                );
            }
        }
    }
    const FORMATS: Words = &[
        ("json", "jsonl"),
        ("parquet", "parquet"),
        ("arrow", "arrow"),
        ("csv", "csv"),
        ("text", "text"),
    ];
    if let Some(given) = t.take(&format!("{key}.ds_type"))
        && let Some((format, given)) = t.word(given, FORMATS, &[("jsonl", "json")])
    {
        t.put(&format!("{native}.format"), Value::String(format.into()), &given);
    }
    if let Some((split, given)) = t.take_text(&format!("{key}.split")) {
        match split.as_str() {
            "train" => t.no_effect(&given, "a file is one split, which is called train"),
            _ => t.put(&format!("{native}.split"), Value::String(split), &given),
        }
    }
}

/// axolotl's `{target: [sources]}` as `{source: target}`.
fn roles(t: &mut Translation, given: &Given, native: &str) {
    let mut entries = Vec::new();
    for target in given.node.entries() {
        let sources = match &target.node.value {
            Value::List(sources) => sources.clone(),
            _ => vec![target.node.clone()],
        };
        entries.extend(sources.iter().filter_map(|source| {
            let value = Value::String(target.key.clone());
            Some(Entry {
                key: source.text()?,
                at: source.at.clone(),
                node: Node {
                    value,
                    at: source.at.clone(),
                },
            })
        }));
    }
    match entries.is_empty() {
        true => t.expected(given, "a mapping of roles to lists of names"),
        false => t.put(native, Value::Map(entries), given),
    }
}

/// Who and which ends are trained: the same for all data sets.
fn masks(t: &mut Translation, key: &str) {
    if let Some(given) = t.take(&format!("{key}.roles_to_train")) {
        t.put("data.masks.roles", given.node.value.clone(), &given);
    }
    const ENDS: Words = &[
        ("all", "all"),
        ("turn", "turn"),
        ("last", "last"),
        ("none", "none"),
    ];
    for name in ["train_on_eos", "train_on_eot"] {
        if let Some(given) = t.take(&format!("{key}.{name}"))
            && let Some((word, given)) = t.word(given, ENDS, &[("true", "all"), ("false", "none")])
        {
            t.put("data.masks.eos", Value::String(word.into()), &given);
        }
    }
}

/// `chat_template`, at the top or in a data set.
fn template(t: &mut Translation, key: &str) {
    const NATIVE: &str = "data.template";
    let file = t.take(&crate::config::tree::join(key, "chat_template_jinja"));
    let Some(given) = t.take(&crate::config::tree::join(key, "chat_template")) else {
        if let Some(file) = file {
            jinja(t, &file);
        }
        return;
    };
    const NAMES: &[&str] = &["chatml", "llama3", "qwen3", "apertus", "alpaca"];
    let word = given.node.text().unwrap_or_default();
    match (word.as_str(), file) {
        ("jinja", Some(file)) => {
            t.no_effect(&given, "chat_template_jinja says which");
            jinja(t, &file);
        }
        ("tokenizer_default", None) => t.put(NATIVE, Value::String("tokenizer".into()), &given),
        (word, None) if NAMES.contains(&word) => t.put(NATIVE, Value::String(word.into()), &given),
        (word, _) => {
            let reason = format!(
                "Brazier has no template {word} yet: it has tokenizer_default, {}, and files",
                NAMES.join(", ")
            );
            t.refuse_unless_left_out(&given, &reason);
        }
    }
}

fn jinja(t: &mut Translation, file: &Given) {
    match file.node.text() {
        Some(path) if path.ends_with(".jinja") => t.put_path("data.template", file),
        _ => t.refuse(
            file,
            "refused: a template is a file",
            Some("write it into a file that ends in .jinja, and its path here"),
        ),
    }
}

fn words(words: &[&str], at: &Location) -> Value {
    let node = |word: &&str| Node {
        value: Value::String((*word).to_owned()),
        at: at.clone(),
    };
    Value::List(words.iter().map(node).collect())
}
