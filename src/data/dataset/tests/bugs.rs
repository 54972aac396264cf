//! Mistakes of other trainers, each by its number, that cannot happen here.

use super::*;
use crate::data::{
    BadRows, BatchPlan, Loader, NamedTemplate, TemplateChoice,
    tokenizer::fixtures::{SPECIAL, config, write},
};

fn chat(user: &str, assistant: &str, images: &[&str]) -> String {
    let images: Vec<String> = images.iter().map(|image| format!("\"{image}\"")).collect();
    format!(
        r#"{{"messages": [{{"role": "user", "content": "{user}"}}, {{"role": "assistant", "content": "{assistant}"}}], "images": [{}]}}"#,
        images.join(", ")
    ) + "\n"
}

/// The token before the first image was lost; an image at the very start doubled the sample.
#[test]
fn s1_b1_the_tokens_around_an_image_stay() {
    let lines = "{\"text\": \"ab<image>e\", \"images\": [\"0.png\"]}\n{\"text\": \"<image>e\", \"images\": [\"0.png\"]}\n";
    let folder = Folder::new(lines, 1);
    let dataset = folder.open().unwrap();
    let image = "<image>".repeat(COPIES);
    assert_eq!(text(&folder, &dataset, 0), format!("ab{image}e<|eos|>"));
    assert_eq!(text(&folder, &dataset, 1), format!("{image}e<|eos|>"));
}

/// In rows of text, placeholders of images were trained.
#[test]
fn s1_b2_placeholders_in_texts_are_not_trained() {
    let folder = Folder::new("{\"text\": \"a<image>b\", \"images\": [\"0.png\"]}\n", 1);
    let dataset = folder.open().unwrap();
    assert_eq!(trained(&folder, &dataset, 0), ["a", "b<|eos|>"]);
}

/// A batch of texts and conversations came back in another order than its images.
#[test]
fn s1_b3_images_stay_with_their_rows() {
    let lines = format!(
        "{}{}{}",
        "{\"text\": \"<image>\", \"images\": [\"2.png\"]}\n",
        chat("<image>", "a", &["0.png"]),
        "{\"text\": \"b<image>\", \"images\": [\"1.png\"]}\n"
    );
    let mut folder = Folder::new(&lines, 3);
    folder.options.shuffle = false;
    let plan = BatchPlan {
        micro_batch_size: 3,
        accumulation: 1,
        rank: 0,
        world_size: 1,
        total_rows: Some(3),
    };
    let dataset = Arc::new(folder.open().unwrap());
    let mut loader = Loader::start(dataset, plan, 0, 0, 0).unwrap();
    let batch = loader.next_step().unwrap().unwrap().remove(0);
    let lines: Vec<usize> = batch.samples.iter().map(|sample| sample.line).collect();
    assert_eq!(lines, [1, 2, 3]);
    let images = batch.images.unwrap();
    let values: Vec<f32> = images.pixels.chunks(12).map(|pixels| pixels[0] * 255.0).collect();
    assert_eq!(values, [2.0, 0.0, 1.0]);
}

/// Headers of answers and placeholders in them were trained, and a missing closing tag was an index error.
#[test]
fn s1_b4_only_answers_are_trained() {
    let mut folder = Folder::new(&chat("a<|im_end|>", "<image>b", &["0.png"]), 1);
    for template in [NamedTemplate::ChatMl, NamedTemplate::Qwen3] {
        folder.options.template.choice = Some(TemplateChoice::Named(template));
        let dataset = folder.open().unwrap();
        let pieces = trained(&folder, &dataset, 0);
        assert_eq!(pieces.last().unwrap(), "b<|im_end|>", "{template:?}");
        assert!(
            pieces
                .iter()
                .all(|piece| !piece.contains("assistant") && !piece.contains("<image>"))
        );
    }
}

/// With pad = eos, the end was never learnt, or padding was.
#[test]
fn s1_b5_padding_is_not_the_end_of_a_sequence() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config();
    config["pad_token"] = "<|eos|>".into();
    let special = SPECIAL.map(|token| tokenizers::AddedToken::from(token, true));
    write(dir.path(), &special, &config);
    let message = Tokenizer::load(dir.path()).err().unwrap().to_string();
    assert!(
        message.contains("pad_token and eos_token are both `<|eos|>`"),
        "{message}"
    );
}

/// Truncation cut images in the middle.
#[test]
fn s1_b6_no_image_is_cut() {
    let mut folder = Folder::new(&chat("<image>", "a", &["0.png"]), 1);
    folder.options.too_long = TooLong::Truncate;
    folder.options.sequence_length = 4;
    assert!(open_error(&folder).contains("would lose an image"));
    folder.options.too_long = TooLong::TruncateTurns;
    assert!(open_error(&folder).contains("1 dropped as too long"));
}

/// A bad line was a warning, and no row.
#[test]
fn s1_b10_a_bad_line_is_an_error() {
    let folder = Folder::new(&format!("{}not JSON\n", chat("a", "b", &[])), 0);
    assert!(open_error(&folder).contains("rows.jsonl:2: column 2"));
}

/// Answers had no end, and padding was part of the loss.
#[test]
fn s2_b3_answers_end_and_padding_is_not_trained() {
    let lines =
        "{\"question\": \"q\", \"answer\": \"a\"}\n{\"question\": \"q\", \"answer\": \"a long one\"}\n";
    let mut folder = Folder::new(lines, 0);
    folder.options.template.choice = Some(TemplateChoice::Named(NamedTemplate::LlavaJp));
    let dataset = folder.open().unwrap();
    assert_eq!(trained(&folder, &dataset, 0), ["a<|eos|>"]);
    let rows = [dataset.example(0).unwrap(), dataset.example(1).unwrap()];
    let pad = folder.tokenizer.pad_id();
    let batch = crate::data::collate(&rows, pad);
    assert!(batch.input_ids.contains(&(pad as i32)));
    assert!(!batch.labels.contains(&(pad as i32)));
}

/// A document was cut at a length nobody had asked for, without notice.
#[test]
fn s3_b6_a_long_text_is_cut_by_the_users_word_only() {
    let mut folder = Folder::new(&format!("{{\"text\": \"{}\"}}\n", "a".repeat(500)), 0);
    assert_eq!(folder.open().unwrap().num_tokens(0), 501);
    folder.options.sequence_length = 100;
    assert!(open_error(&folder).contains("501 tokens, more than data.sequence_length = 100"));
    folder.options.too_long = TooLong::Truncate;
    assert_eq!(folder.open().unwrap().report().truncated, 1);
}

/// Rows with images were neither dropped nor cut, however long.
#[test]
fn s3_b7_rows_with_images_obey_the_length() {
    let lines = chat("<image>", &"a".repeat(50), &["0.png"]) + &chat("<image>", "a", &["0.png"]);
    let mut folder = Folder::new(&lines, 1);
    folder.options.too_long = TooLong::Drop;
    folder.options.sequence_length = 40;
    let report = *folder.open().unwrap().report();
    assert_eq!((report.kept, report.dropped), (1, 1));
}

/// Spans were found by comparing with a stand-in, and what the answer shares with it was not trained.
#[test]
fn s3_b9_all_of_an_answer_is_trained() {
    let source = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\
                  {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
    for answer in ["[[a]]", "[dummy]", "a", "]", "assistant", "user"] {
        let mut folder = Folder::new(&chat("[dummy]", answer, &[]), 0);
        let path = folder.dir.path().join("own.jinja");
        fs::write_durable(&path, source.as_bytes()).unwrap();
        folder.options.template.choice = Some(TemplateChoice::File(path));
        let dataset = folder.open().unwrap();
        assert_eq!(trained(&folder, &dataset, 0), [format!("{answer}<|im_end|>")]);
    }
}

/// Padding in the rows was trained and outweighed short ones.
#[test]
fn s4_b12_padding_in_rows_is_not_trained() {
    let pads = [258; 30].map(|id: u32| id.to_string()).join(", ");
    let mut folder = Folder::new(&format!("{{\"padded\": [5, 6, {pads}]}}\n"), 0);
    folder.options.train[0].rows.fields.input_ids = Some("padded".into());
    let dataset = folder.open().unwrap();
    assert_eq!(dataset.ids_and_labels(0), (vec![5, 6], vec![5, 6]));
}

/// The template was part of the program.
#[test]
fn s5_b5_the_template_is_the_users_to_choose() {
    let mut folder = Folder::new(&chat("a", "b", &[]), 0);
    let texts: Vec<String> = [NamedTemplate::ChatMl, NamedTemplate::Alpaca, NamedTemplate::Plain]
        .into_iter()
        .map(|template| {
            folder.options.template.choice = Some(TemplateChoice::Named(template));
            text(&folder, &folder.open().unwrap(), 0)
        })
        .collect();
    assert_eq!(texts[2], "ab<|eos|>");
    assert_ne!(texts[0], texts[1]);
}

/// Without a pad token, the end of a sequence was taken for one.
#[test]
fn s5_b6_a_pad_token_is_never_made_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config();
    config["pad_token"] = serde_json::Value::Null;
    let special = SPECIAL.map(|token| tokenizers::AddedToken::from(token, true));
    write(dir.path(), &special, &config);
    let message = Tokenizer::load(dir.path()).err().unwrap().to_string();
    assert!(message.contains("no pad_token is named"), "{message}");
}

/// What a skipped row was, nobody could tell.
#[test]
fn c14_a_broken_row_is_listed_and_costs_no_run() {
    let lines = chat("a", "b", &[]) + &chat("<image>", "b", &["broken.png"]);
    let mut folder = Folder::new(&lines, 0);
    fs::write_durable(&folder.dir.path().join("broken.png"), b"").unwrap();
    folder.options.bad_rows = BadRows::Skip { limit: 1 };
    let dataset = folder.open().unwrap();
    assert_eq!((dataset.len(), dataset.bad_rows()[0].sample.line), (1, 2));
}
