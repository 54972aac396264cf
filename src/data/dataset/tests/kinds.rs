//! Every kind of row, from its file to tokens and labels.

use super::*;
use crate::data::{Fields, NamedTemplate, RowKind, RowOptions, TemplateChoice};

#[test]
fn texts_are_trained_to_their_end() {
    let lines = "{\"text\": \"ab<|im_end|>\"}\n{\"text\": \"a<image>b\", \"image\": \"0.png\"}\n{\"input_ids\": [258, 5, 6, 258, 7, 258]}\n";
    let folder = Folder::new(lines, 1);
    let dataset = folder.open().unwrap();
    // What looks like a special token is text.
    assert_eq!(trained(&folder, &dataset, 0), ["ab<|im_end|><|eos|>"]);
    let (ids, _) = dataset.ids_and_labels(0);
    let turn_end = folder.tokenizer.token_to_id("<|im_end|>").unwrap() as i32;
    assert!(!ids.contains(&turn_end), "{ids:?}");
    assert_eq!(trained(&folder, &dataset, 1), ["a", "b<|eos|>"]);
    assert_eq!(
        text(&folder, &dataset, 1),
        format!("a{}b<|eos|>", "<image>".repeat(COPIES))
    );
    // Tokens are what they are, but for padding.
    let (ids, labels) = dataset.ids_and_labels(2);
    assert_eq!(ids, [5, 6, 258, 7]);
    assert_eq!(labels, [5, 6, IGNORE_LABEL, 7]);
    assert!(!dataset.has_conversations());
    assert_eq!(dataset.prompts(0).unwrap(), []);
}

#[test]
fn of_a_prompt_with_completion_the_completion_is_trained() {
    let lines = "{\"prompt\": \"c\", \"completion\": \"dab\"}\n{\"prompt\": \"<image>a \", \"completion\": \"b\", \"images\": [\"0.png\"]}\n";
    let folder = Folder::new(lines, 1);
    let dataset = folder.open().unwrap();
    // `cd` is one token, and a part of it is trained.
    assert_eq!(trained(&folder, &dataset, 0), ["cdab<|eos|>"]);
    assert_eq!(trained(&folder, &dataset, 1), ["b<|eos|>"]);
}

#[test]
fn questions_and_instructions_are_rendered_by_the_template() {
    let lines = "{\"question\": \"q?\", \"answer\": \" a \", \"image\": \"0.png\"}\n{\"instruction\": \"i\", \"input\": \"x\", \"output\": \"o\"}\n";
    let mut folder = Folder::new(lines, 1);
    let dataset = folder.open().unwrap();
    let image = "<image>".repeat(COPIES);
    assert_eq!(
        text(&folder, &dataset, 0),
        format!("<|im_start|>user\n{image}\nq?<|im_end|>\n<|im_start|>assistant\n a <|im_end|>\n")
    );
    folder.options.template.choice = Some(TemplateChoice::Named(NamedTemplate::LlavaJp));
    let dataset = folder.open().unwrap();
    assert_eq!(
        text(&folder, &dataset, 0),
        format!(
            "以下は、タスクを説明する指示です。要求を適切に満たす応答を書きなさい。\n\n### 指示:\n{image}\nq?\n\n### 応答:\na<|eos|>"
        )
    );
    assert_eq!(trained(&folder, &dataset, 0), ["a<|eos|>"]);
    folder.options.template.choice = Some(TemplateChoice::Named(NamedTemplate::Alpaca));
    let dataset = folder.open().unwrap();
    assert_eq!(
        text(&folder, &dataset, 1),
        "Below is an instruction that describes a task, paired with an input that provides further context. \
         Write a response that appropriately completes the request.\n\n### Instruction:\ni\n\n### Input:\nx\n\n\
         ### Response:\no<|eos|>"
    );
    let prompts = dataset.prompts(1).unwrap();
    assert_eq!(
        (prompts[0].question.as_str(), prompts[0].reference.as_str()),
        ("i\n\nx", "o")
    );
    assert_eq!(dataset.template().stop_ids(&folder.tokenizer).unwrap(), [259]);
}

#[test]
fn images_in_rows_are_decoded_when_they_are_needed() {
    let mut folder = Folder::new("", 2);
    let png = |number: usize| fs::read(&folder.dir.path().join(format!("{number}.png"))).unwrap();
    let base64 = |bytes: &[u8]| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
    let row = format!(
        r#"{{"messages": [{{"role": "user", "content": [{{"type": "image", "base64": "{}"}}, {{"type": "image"}},
        {{"type": "image_url", "image_url": {{"url": "data:image/png;base64,{}"}}}}]}},
        {{"role": "assistant", "content": "a"}}], "images": ["0.png"]}}"#,
        base64(&png(1)),
        base64(&png(0)),
    );
    fs::write_durable(folder.rows(), one_line(&row).as_bytes()).unwrap();
    let dataset = folder.open().unwrap();
    let values = |example: &Example| {
        let images = example.images.iter();
        images.map(|image| image.pixels[0] * 255.0).collect::<Vec<_>>()
    };
    assert_eq!(values(&dataset.example(0).unwrap()), [1.0, 0.0, 0.0]);
    assert_eq!(dataset.prompts(0).unwrap()[0].images.len(), 3);
    assert_eq!(dataset.first_image(0), None);

    let broken = row.replace(&base64(&png(1)), &base64(b"no picture"));
    fs::write_durable(folder.rows(), one_line(&broken).as_bytes()).unwrap();
    let message = folder.open().unwrap().example(0).unwrap_err().to_string();
    assert!(
        message.contains("rows.jsonl:1: image 1 of the row: cannot decode it"),
        "{message}"
    );

    // Paths start where the user says.
    let moved = tempfile::tempdir().unwrap();
    fs::write_durable(&moved.path().join("0.png"), &png(1)).unwrap();
    fs::write_durable(folder.rows(), one_line(&row).as_bytes()).unwrap();
    folder.options.train[0].image_dir = Some(moved.path().into());
    assert_eq!(
        values(&folder.open().unwrap().example(0).unwrap()),
        [1.0, 1.0, 0.0]
    );
}

#[test]
fn files_of_different_kinds_make_one_data_set() {
    let mut folder = Folder::new("{\"body\": \"ab\"}\n", 0);
    let chat = folder.dir.path().join("chat.ndjson");
    let row = r#"{"talk": [{"who": "doctor", "says": "cd"}]}"#;
    fs::write_durable(&chat, row.as_bytes()).unwrap();
    folder.options.train[0].rows = RowOptions {
        kind: RowKind::Text,
        fields: Fields {
            text: Some("body".into()),
            ..Fields::default()
        },
        ..RowOptions::default()
    };
    let mut source = DataSource::new(chat);
    source.rows.fields = Fields {
        messages: Some("talk".into()),
        role: Some("who".into()),
        content: Some("says".into()),
        ..Fields::default()
    };
    source.rows.roles = vec![("doctor".into(), crate::data::Role::Assistant)];
    folder.options.train.push(source);
    let dataset = folder.open().unwrap();
    assert_eq!(trained(&folder, &dataset, 0), ["ab<|eos|>"]);
    assert_eq!(trained(&folder, &dataset, 1), ["cd<|im_end|>"]);
    assert!(dataset.has_conversations());
    assert!(dataset.sample(1).to_string().ends_with("chat.ndjson:1"));
}

#[test]
fn a_row_can_be_read_token_by_token() {
    let folder = Folder::new(&one_line(TWO_TURNS), 2);
    let dataset = folder.open().unwrap();
    let tokens = dataset.shown_tokens(0).unwrap();
    let marked: String = tokens
        .iter()
        .map(|token| match (token.trained, token.copies) {
            (true, _) => format!("[{}]", token.text),
            (false, 1) => token.text.clone(),
            (false, copies) => format!("{}×{copies}", token.text),
        })
        .collect();
    assert_eq!(
        marked,
        "<|im_start|>user\n<image>×4ab<|im_end|>\n<|im_start|>assistant\n[cd][<|im_end|>]\n\
         <|im_start|>user\n<image>×4e<|im_end|>\n<|im_start|>assistant\n[f][<|im_end|>]\n"
    );
}
