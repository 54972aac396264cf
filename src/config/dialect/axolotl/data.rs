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
    let sets = data_sets(t);
    refuse_half_said(t, &sets);
    alpaca(t, &sets);
    for (key, native) in [("datasets", "data.train"), ("test_datasets", "data.eval")] {
        for index in 0..t.length(key) {
            data_set(t, &format!("{key}[{index}]"), &format!("{native}[{index}]"));
        }
    }
    template(t, "");
    if sets.iter().any(|(_, kind)| kind == CHAT) {
        t.default("data.masks.eos", Value::String("turn".into()));
    }
    if let Some((all, given)) = t.take_bool("train_on_inputs") {
        match all {
            true => {
                let roles = ["system", "developer", "user", "assistant", "tool"];
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

const CHAT: &str = "chat_template";
const TEMPLATE: &str = "data.template";

/// All data sets by their keys, with their types.
fn data_sets(t: &Translation) -> Vec<(String, String)> {
    let keys = ["datasets", "test_datasets"]
        .into_iter()
        .flat_map(|list| (0..t.length(list)).map(move |index| format!("{list}[{index}]")));
    let kind = |key: &str| t.peek(&format!("{key}.type"))?.node.text();
    keys.map(|key| (kind(&key).unwrap_or_default(), key))
        .map(|(kind, key)| (key, kind))
        .collect()
}

/// What one data set says of masks and templates, and another leaves to axolotl's default, differs between the two.
fn refuse_half_said(t: &mut Translation, sets: &[(String, String)]) {
    let chats: Vec<&String> = sets
        .iter()
        .filter(|(_, kind)| kind == CHAT)
        .map(|(key, _)| key)
        .collect();
    let top = t.peek("chat_template").is_some();
    let said: &[(&[&str], &str)] = &[
        (&["roles_to_train"], "[assistant]"),
        (&["train_on_eos", "train_on_eot"], "turn"),
        (&["chat_template"], "tokenizer_default"),
    ];
    for (names, default) in said
        .iter()
        .filter(|(names, _)| !(top && names[0] == "chat_template"))
    {
        let given = |key: &str| {
            names
                .iter()
                .find_map(|name| t.peek(&format!("{key}.{name}")).cloned())
        };
        let Some(silent) = chats.iter().find(|key| given(key).is_none()) else {
            continue;
        };
        let words = |given: &Given| match &given.node.value {
            Value::List(items) => {
                let items: Vec<_> = items.iter().filter_map(Node::text).collect();
                format!("[{}]", items.join(", "))
            }
            _ => given.node.text().unwrap_or_default(),
        };
        let others: Vec<Given> = chats.iter().filter_map(|key| given(key)).collect();
        for other in others.iter().filter(|other| words(other) != *default) {
            t.refuse(
                other,
                &format!("refused: it is the same for all data sets, and {silent} leaves it out, which means {default}"),
                Some("write it in every data set of conversations"),
            );
        }
    }
}

/// Rows of this type have a template of their own in axolotl, whatever `chat_template` says; of all that is trained,
/// `train_on_inputs` adds its words, too.
fn alpaca(t: &mut Translation, sets: &[(String, String)]) {
    let Some((key, _)) = sets.iter().find(|(_, kind)| kind == "alpaca") else {
        return;
    };
    let Some(given) = t.peek(&format!("{key}.type")).cloned() else {
        return;
    };
    if let Some((chat, _)) = sets.iter().find(|(_, kind)| kind == CHAT) {
        return t.refuse(
            &given,
            &format!("refused: it has Alpaca's template in axolotl, {chat} another, and Brazier renders all data sets with one"),
            Some("write its rows as messages, for the template of the others"),
        );
    }
    t.put(TEMPLATE, Value::String("alpaca".into()), &given);
    for name in ["chat_template", "chat_template_jinja"] {
        if let Some(given) = t.take(name) {
            t.no_effect(
                &given,
                "rows of type alpaca have a template of their own, and there are no others",
            );
        }
    }
    if t.peek("train_on_inputs")
        .is_some_and(|given| given.node.value == Value::Bool(true))
        && let Some(given) = t.take("train_on_inputs")
    {
        t.refuse_unless_left_out(
            &given,
            "Brazier has no training on the words of Alpaca's template yet",
        );
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
        ("field_system", "system"),
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
    masks(t, key);
    if let Some(given) = t.take(&format!("{key}.roles")) {
        roles(t, &given, &format!("{native}.roles"));
    }
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
    let entries: Vec<Entry> = sources(&given.node)
        .filter_map(|(source, target)| {
            let value = Value::String(target.to_owned());
            Some(Entry {
                key: source.text()?,
                at: source.at.clone(),
                node: Node {
                    value,
                    at: source.at.clone(),
                },
            })
        })
        .collect();
    match entries.is_empty() {
        true => t.expected(given, "a mapping of roles to lists of names"),
        false => t.put(native, Value::Map(entries), given),
    }
}

/// Each source with its target.
fn sources(roles: &Node) -> impl Iterator<Item = (&Node, &str)> {
    roles.entries().iter().flat_map(|target| {
        let sources = match &target.node.value {
            Value::List(sources) => sources.as_slice(),
            _ => std::slice::from_ref(&target.node),
        };
        sources.iter().map(|source| (source, target.key.as_str()))
    })
}

/// `roles_to_train` may be in the words of the rows, which the data set's own `roles` translate, or axolotl's.
fn trained_roles(t: &Translation, key: &str, given: &Given) -> Value {
    let Value::List(names) = &given.node.value else {
        return given.node.value.clone();
    };
    let roles = t.peek(&format!("{key}.roles"));
    let target = |name: &str| match (roles, name) {
        (Some(roles), name) => sources(&roles.node)
            .find(|(source, _)| source.text().as_deref() == Some(name))
            .map_or(name, |(_, target)| target)
            .to_owned(),
        (None, "human") => "user".to_owned(),
        (None, "gpt") => "assistant".to_owned(),
        (None, name) => name.to_owned(),
    };
    let names = names.iter().map(|name| match name.text() {
        Some(text) => Node {
            value: Value::String(target(&text)),
            at: name.at.clone(),
        },
        None => name.clone(),
    });
    Value::List(names.collect())
}

/// Who and which ends are trained: the same for all data sets.
fn masks(t: &mut Translation, key: &str) {
    if let Some(given) = t.take(&format!("{key}.roles_to_train")) {
        let roles = trained_roles(t, key, &given);
        t.put("data.masks.roles", roles, &given);
    }
    const ENDS: Words = &[
        ("all", "all"),
        ("turn", "turn"),
        ("last", "last"),
        ("none", "none"),
    ];
    let eos = t.take(&format!("{key}.train_on_eos"));
    let eot = t.take(&format!("{key}.train_on_eot"));
    if let (Some(eos), Some(eot)) = (&eos, &eot) {
        let because = format!("{} says which ends of turns are trained", eot.key);
        t.no_effect(eos, &because);
    }
    if let Some(given) = eot.or(eos)
        && let Some((word, given)) = t.word(given, ENDS, &[("true", "all"), ("false", "none")])
    {
        t.put("data.masks.eos", Value::String(word.into()), &given);
    }
}

/// `chat_template`, at the top or in a data set.
fn template(t: &mut Translation, key: &str) {
    let file = t.take(&crate::config::tree::join(key, "chat_template_jinja"));
    let Some(given) = t.take(&crate::config::tree::join(key, "chat_template")) else {
        if let Some(file) = file {
            jinja(t, &file);
        }
        return;
    };
    const NAMES: &[&str] = &["chatml", "llama3", "qwen3", "apertus"];
    let word = given.node.text().unwrap_or_default();
    match (word.as_str(), file) {
        ("jinja", Some(file)) => {
            t.no_effect(&given, "chat_template_jinja says which");
            jinja(t, &file);
        }
        ("tokenizer_default", None) => t.put(TEMPLATE, Value::String("tokenizer".into()), &given),
        (word, None) if NAMES.contains(&word) => t.put(TEMPLATE, Value::String(word.into()), &given),
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
        Some(path) if path.ends_with(".jinja") => t.put_path(TEMPLATE, file),
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
