//! How rows are read, rendered and masked.

use super::*;
use crate::data::{
    BadRows, Date, Fields, Grouping, Masks, NamedTemplate, PaddingSide, Role, RowKind, RowOptions,
    TemplateChoice, TemplateOptions, TooLong, TrainEos, Value,
};

#[test]
fn rows_are_read_as_the_user_says() {
    let run = resolve_base(&[
        "data.train=[{path: data/shapes/a.jsonl, format: jsonl, kind: chat, fields: {messages: talk, role: who}, \
         roles: {doctor: assistant}, image_token: <|image|>, image_dir: configs}]",
        "data.too_long=truncate_turns",
        "data.bad_rows=skip",
        "data.max_bad_rows=3",
    ])
    .unwrap();
    let source = &run.data.train[0];
    assert_eq!(source.image_dir.as_deref(), Some(Path::new("configs")));
    let fields = Fields {
        messages: Some("talk".into()),
        role: Some("who".into()),
        ..Fields::default()
    };
    let expected = RowOptions {
        kind: RowKind::Chat,
        fields,
        roles: vec![("doctor".into(), Role::Assistant)],
        image_token: Some("<|image|>".into()),
    };
    assert_eq!(source.rows, expected);
    assert_eq!(run.data.too_long, TooLong::TruncateTurns);
    assert_eq!(run.data.bad_rows, BadRows::Skip { limit: 3 });
    let run = resolve_base(&[]).unwrap();
    assert_eq!(
        (run.data.bad_rows, run.data.masks),
        (BadRows::Error, Masks::default())
    );
    assert_eq!(run.data.template, TemplateOptions::default());
}

#[test]
fn templates_and_masks_are_chosen() {
    let run = resolve_base(&[
        "data.template=qwen3",
        "data.template_options={enable_thinking: false, depth: 2, tone: dry}",
        "data.template_date=2024-07-26",
        "data.masks={roles: [assistant, tool], eos: last}",
    ])
    .unwrap();
    let expected = TemplateOptions {
        choice: Some(TemplateChoice::Named(NamedTemplate::Qwen3)),
        variables: vec![
            ("depth".into(), Value::Int(2)),
            ("enable_thinking".into(), Value::Bool(false)),
            ("tone".into(), Value::Text("dry".into())),
        ],
        date: Date::parse("2024-07-26"),
    };
    assert_eq!(run.data.template, expected);
    let masks = Masks {
        roles: vec![Role::Assistant, Role::Tool],
        eos: Some(TrainEos::Last),
    };
    assert_eq!(run.data.masks, masks);
    let own = resolve_base(&["data.template=tokenizer"]).unwrap();
    assert_eq!(own.data.template.choice, Some(TemplateChoice::Tokenizer));
}

#[test]
fn what_makes_no_sense_is_refused() {
    check(
        &["data.template=lama3"],
        "--set: data.template = lama3: expected tokenizer, chatml, llama3, qwen3, apertus, plain, alpaca, llava_jp, or a file with \
         Jinja in it",
    );
    check(
        &["data.template=nowhere.jinja"],
        "--set: data.template = nowhere.jinja: there is no such file\n  hint: relative paths start at the working directory",
    );
    check(
        &["data.template_date=2024-02-30"],
        "--set: data.template_date = 2024-02-30: is no day of the calendar\n  hint: write it as 2024-07-26",
    );
    check(
        &["data.template_options={messages: 1}"],
        "--set: data.template_options.messages = 1: is not the user's to set: it comes from the row\n  hint: remove it",
    );
    check(
        &["data.template_options={a: [1]}"],
        "--set: data.template_options.a: expected true or false, a whole number, a number or text, got a list",
    );
    check(
        &["data.bad_rows=skip"],
        "run.yaml:16: data.max_bad_rows: is missing with data.bad_rows = skip\n  \
         hint: write how many rows may be skipped before the run stops, as max_bad_rows: 10",
    );
    check(
        &["data.max_bad_rows=3"],
        "--set: data.max_bad_rows = 3: has no effect: data.bad_rows = error skips none\n  hint: remove it",
    );
    check(
        &["data.train=[{path: data/shapes/a.jsonl, kind: text, fields: {text: body, role: who}}]"],
        "--set: data.train[0].fields.role = who: has no effect: rows of the kind text have no such key\n  hint: remove it",
    );
    check(
        &["data.train=[{path: data/shapes/a.jsonl, roles: {doctor: assistent}}]"],
        "--set: data.train[0].roles.doctor = assistent: expected system, developer, user, assistant or tool\n  \
         hint: did you mean assistant?",
    );
}

#[test]
fn how_samples_share_rows() {
    let resolved = |sets: &[&str]| resolve_base(sets).unwrap().data;
    assert_eq!(resolved(&[]).grouping, Grouping::Alone);
    let packed = resolved(&["data.packing=best_fit", "data.max_images_per_row=3"]);
    assert_eq!(packed.grouping, Grouping::Packed { max_images: Some(3) });
    let sorted = resolved(&["data.group_by_length=true", "train.micro_batch_size=4"]);
    assert_eq!(sorted.grouping, Grouping::ByLength { micro_batch_size: 4 });
    let padded = resolved(&["data.pad_to_multiple_of=48"]);
    assert_eq!((padded.sequence_length, padded.padded_length()), (64, 96));
    check(
        &["data.max_images_per_row=3"],
        "--set: data.max_images_per_row = 3: has no effect: data.packing = none has one sample in a row\n  hint: remove it",
    );
    check(
        &["data.packing=best_fit", "data.group_by_length=true"],
        "--set: data.group_by_length = true: contradicts data.packing = best_fit (--set)\n  \
         hint: keep one of them; --set data.packing=null takes that one out",
    );
    let cut = resolved(&["data.random_truncation=true", "data.padding_side=left"]);
    assert_eq!(
        (cut.random_truncation, cut.padding_side),
        (true, PaddingSide::Left)
    );
    check(
        &["data.packing=best_fit", "data.random_truncation=true"],
        "--set: data.random_truncation = true: contradicts data.packing = best_fit (--set)\n  \
         hint: keep one of them; --set data.packing=null takes that one out",
    );
    check(
        &["data.pad_to_multiple_of=100", "data.sequence_length=128"],
        "--set: data.pad_to_multiple_of = 100: pads rows of data.sequence_length = 128 to 200, more than the model's \
         max_position_embeddings = 128\n  hint: lower one of them",
    );
    let packed = resolve_base(&["data.packing=best_fit"]).unwrap();
    let mut model = packed.model_config(300, Some(3)).unwrap().unwrap();
    model.vision = None;
    model.head = brazier_models::Head::Classification {
        labels: vec!["a".into(), "b".into()],
    };
    let message = words(&packed.check_model(&model).unwrap_err());
    assert!(
        message.contains("data.packing = best_fit: rows to classify are never packed"),
        "{message}"
    );
}
