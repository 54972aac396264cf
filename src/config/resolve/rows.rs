//! How rows are read, rendered and masked.

use std::{collections::BTreeMap, path::PathBuf};

use super::{
    super::{
        raw::{RawFields, RawFormat, RawMasks, RawRole, RawRowKind, RawRows, RawScalar, RawTrainEos},
        written::Errors,
    },
    data::check_exists,
};
use crate::data::{
    DataSource, Date, Fields, Format, Masks, NamedTemplate, Role, RowKind, RowOptions, TemplateChoice,
    TemplateOptions, TrainEos, Value,
};

/// One entry of `data.train` or `data.eval`; `key` is its path.
pub(super) fn source(raw: RawRows, key: &str, errors: &mut Errors) -> DataSource {
    let RawRows {
        path,
        format,
        split,
        weight,
        columns,
        numbers,
        kind,
        fields,
        roles,
        image_token,
        image_dir,
    } = raw;
    if let Some(dir) = &image_dir {
        check_exists(dir, &format!("{key}.image_dir"), None, errors);
    }
    if image_token.as_deref() == Some("") {
        errors.refuse(
            &format!("{key}.image_token"),
            "is empty",
            Some("write what stands for an image"),
        );
    }
    let weight = weight.unwrap_or(1.0);
    if !(weight > 0.0 && weight.is_finite()) {
        let hint = "write 1 for each row once in an epoch, 0.5 for half of them, 2 for each twice";
        errors.refuse(&format!("{key}.weight"), "must be above 0", Some(hint));
    } else if weight != 1.0 && key.starts_with("data.eval") {
        errors.refuse(
            &format!("{key}.weight"),
            "held-out rows come once each",
            Some("remove it"),
        );
    }
    if columns.as_ref().is_some_and(Vec::is_empty) {
        errors.refuse(
            &format!("{key}.columns"),
            "names no column",
            Some("remove it to read all"),
        );
    }
    if numbers.is_some() && !matches!(format, RawFormat::Auto | RawFormat::Csv | RawFormat::Tsv) {
        errors.no_effect(&format!("{key}.numbers"), "only cells of CSV are without a type");
    }
    let kind = row_kind(kind);
    if let Some(fields) = &fields {
        check_fields(fields, kind, key, errors);
    }
    DataSource {
        path,
        format: match format {
            RawFormat::Auto => Format::Auto,
            RawFormat::Jsonl => Format::Jsonl,
            RawFormat::Parquet => Format::Parquet,
            RawFormat::Arrow => Format::Arrow,
            RawFormat::Csv => Format::Csv,
            RawFormat::Tsv => Format::Tsv,
            RawFormat::Text => Format::Text,
            RawFormat::TextLines => Format::TextLines,
            RawFormat::Webdataset => Format::WebDataset,
            RawFormat::Energon => Format::Energon,
        },
        split,
        columns,
        numbers: numbers.unwrap_or(false),
        weight,
        image_dir,
        rows: RowOptions {
            kind,
            fields: fields.map(names).unwrap_or_default(),
            roles: roles
                .unwrap_or_default()
                .into_iter()
                .map(|(name, meant)| (name, role(meant)))
                .collect(),
            image_token,
        },
    }
}

fn row_kind(kind: RawRowKind) -> RowKind {
    match kind {
        RawRowKind::Auto => RowKind::Auto,
        RawRowKind::Chat => RowKind::Chat,
        RawRowKind::Text => RowKind::Text,
        RawRowKind::PromptCompletion => RowKind::PromptCompletion,
        RawRowKind::Instruction => RowKind::Instruction,
        RawRowKind::Vqa => RowKind::Vqa,
        RawRowKind::Classification => RowKind::Classification,
    }
}

fn role(role: RawRole) -> Role {
    match role {
        RawRole::System => Role::System,
        RawRole::Developer => Role::Developer,
        RawRole::User => Role::User,
        RawRole::Assistant => Role::Assistant,
        RawRole::Tool => Role::Tool,
    }
}

fn names(fields: RawFields) -> Fields {
    let RawFields {
        messages,
        role,
        content,
        train,
        system,
        tools,
        images,
        text,
        input_ids,
        prompt,
        completion,
        instruction,
        input,
        output,
        question,
        answer,
        label,
    } = fields;
    Fields {
        messages,
        role,
        content,
        train,
        system,
        tools,
        images,
        text,
        input_ids,
        prompt,
        completion,
        instruction,
        input,
        output,
        question,
        answer,
        label,
    }
}

/// A name for a key that rows of the kind do not have would do nothing.
fn check_fields(fields: &RawFields, kind: RowKind, key: &str, errors: &mut Errors) {
    use RowKind::{Chat, Classification, Instruction, PromptCompletion, Text, Vqa};
    if kind == RowKind::Auto {
        return;
    }
    let turns = &[Chat, PromptCompletion][..];
    let images = &[Chat, Text, PromptCompletion, Instruction, Vqa][..];
    let texts = &[Text, Classification][..];
    for (name, field, kinds) in [
        ("messages", &fields.messages, &[Chat][..]),
        ("role", &fields.role, turns),
        ("content", &fields.content, turns),
        ("train", &fields.train, turns),
        ("system", &fields.system, turns),
        ("tools", &fields.tools, turns),
        ("images", &fields.images, images),
        ("text", &fields.text, texts),
        ("input_ids", &fields.input_ids, texts),
        ("prompt", &fields.prompt, &[PromptCompletion]),
        ("completion", &fields.completion, &[PromptCompletion]),
        ("instruction", &fields.instruction, &[Instruction]),
        ("input", &fields.input, &[Instruction]),
        ("output", &fields.output, &[Instruction]),
        ("question", &fields.question, &[Vqa]),
        ("answer", &fields.answer, &[Vqa]),
        ("label", &fields.label, &[Classification]),
    ] {
        if field.is_some() && !kinds.contains(&kind) {
            let why = format!("rows of the kind {kind} have no such key");
            errors.no_effect(&format!("{key}.fields.{name}"), &why);
        }
    }
}

/// How conversations are rendered.
pub(super) fn template(
    name: Option<String>,
    variables: Option<BTreeMap<String, RawScalar>>,
    date: Option<String>,
    errors: &mut Errors,
) -> TemplateOptions {
    let choice = name.map(|name| match (name.as_str(), NamedTemplate::from_name(&name)) {
        ("tokenizer", _) => TemplateChoice::Tokenizer,
        (_, Some(named)) => TemplateChoice::Named(named),
        (path, None) => {
            let path = PathBuf::from(path);
            let is_file = path.extension().is_some_and(|extension| extension == "jinja");
            if is_file || crate::fs::exists(&path) {
                check_exists(&path, "data.template", None, errors);
            } else {
                let reason = format!(
                    "expected tokenizer, {}, or a file with Jinja in it",
                    NamedTemplate::names()
                );
                errors.refuse("data.template", &reason, None);
            }
            TemplateChoice::File(path)
        }
    });
    let date = date.and_then(|text| {
        let date = Date::parse(&text);
        if date.is_none() {
            errors.refuse(
                "data.template_date",
                "is no day of the calendar",
                Some("write it as 2024-07-26"),
            );
        }
        date
    });
    let reserved = ["messages", "tools", "documents", "add_generation_prompt"];
    let variables = variables.unwrap_or_default();
    for name in variables.keys().filter(|name| reserved.contains(&name.as_str())) {
        let key = format!("data.template_options.{name}");
        errors.refuse(
            &key,
            "is not the user's to set: it comes from the row",
            Some("remove it"),
        );
    }
    TemplateOptions {
        choice,
        variables: variables
            .into_iter()
            .map(|(name, value)| (name, scalar(value)))
            .collect(),
        date,
    }
}

fn scalar(value: RawScalar) -> Value {
    match value {
        RawScalar::Bool(value) => Value::Bool(value),
        RawScalar::Integer(value) => Value::Int(value),
        RawScalar::Number(value) => Value::Float(value),
        RawScalar::Text(value) => Value::Text(value),
    }
}

/// Which of a conversation is trained.
pub(super) fn masks(raw: RawMasks) -> Masks {
    let RawMasks { roles, eos } = raw;
    Masks {
        roles: roles.into_iter().map(role).collect(),
        eos: eos.map(|eos| match eos {
            RawTrainEos::All => TrainEos::All,
            RawTrainEos::Turn => TrainEos::Turn,
            RawTrainEos::Last => TrainEos::Last,
            RawTrainEos::None => TrainEos::None,
        }),
    }
}
