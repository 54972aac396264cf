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

/// Training and answering prepared images in different ways.
#[test]
fn s2_b7_images_are_prepared_alike_for_training_and_for_answers() {
    let folder = Folder::new(&chat("<image>", "a", &["3.png"]), 4);
    let dataset = folder.open().unwrap();
    let prompts = dataset.prompts(0).unwrap();
    assert_eq!(prompts[0].images, dataset.example(0).unwrap().images);
}

/// Examples of the documentation were no JSON.
#[test]
fn s3_b1_examples_of_the_documentation_are_rows() {
    for (source, classes) in [
        (include_str!("../../rows/chat.rs"), None),
        (include_str!("../../classified.rs"), Some(["dead", "alive"])),
    ] {
        let lines = source.lines().map_while(|line| line.strip_prefix("//!"));
        let block = lines.skip_while(|line| line.trim() != "```json").skip(1);
        let block: Vec<&str> = block.take_while(|line| line.trim() != "```").collect();
        let mut folder = Folder::new("", 0);
        folder.options.classes = classes.map(|labels| crate::data::ClassOptions {
            labels: labels.map(String::from).into(),
            weights: None,
        });
        // A row that is written in several lines is one all the same.
        let whole = block.concat();
        let rows = serde_json::Deserializer::from_str(&whole).into_iter::<serde_json::Value>();
        let rows: Vec<String> = rows.map(|row| row.unwrap().to_string()).collect();
        assert!(!rows.is_empty(), "{source}");
        for row in &rows {
            let value = crate::data::Value::from_json(row.as_bytes()).unwrap();
            let parsed = rows::parse_row(
                &value,
                &rows::RowOptions::default(),
                folder.options.classes.as_ref(),
            );
            assert!(parsed.is_ok(), "{row}: {:?}", parsed.err());
        }
    }
}

/// What was prepared once stayed, whatever became of the file.
#[test]
fn s3_b5_a_changed_file_is_read_anew() {
    let mut folder = Folder::new(&chat("a", "one", &[]), 0);
    folder.options.cache = crate::data::Cache::new(Some(folder.dir.path().join("cache")));
    assert_eq!(folder.open().unwrap().len(), 1);
    let path = folder.rows().to_owned();
    fs::write_durable(&path, (chat("a", "two", &[]) + &chat("a", "b", &[])).as_bytes()).unwrap();
    let dataset = folder.open().unwrap();
    assert_eq!(dataset.len(), 2);
    assert!(text(&folder, &dataset, 0).contains("two"));
}

/// The last token of a packed sample was trained to predict the first of the next one.
#[test]
fn s3_b10_nothing_predicts_the_first_token_of_a_packed_sample() {
    let lines: String = (1..6)
        .map(|count| format!("{{\"text\": \"{}\"}}\n", "ab".repeat(count)))
        .collect();
    let mut folder = Folder::new(&lines, 0);
    let labelled = |folder: &Folder| {
        let dataset = Arc::new(folder.open().unwrap());
        let plan = BatchPlan {
            micro_batch_size: 1,
            accumulation: 10,
            rank: 0,
            world_size: 1,
            total_rows: Some(dataset.stream().rows_in(1.0)),
        };
        let mut loader = Loader::start(dataset, plan, 0, 0, 0).unwrap();
        let batches = loader.next_step().unwrap().unwrap();
        let labelled: usize = batches.iter().map(|batch| batch.num_labelled).sum();
        (batches.len(), labelled)
    };
    let (alone, expected) = labelled(&folder);
    folder.options.grouping = Grouping::Packed { max_images: None };
    let (packed, found) = labelled(&folder);
    assert_eq!((alone, packed, found), (5, 1, expected));
}

/// A row without padding was taken for one that begins with it, and lost; a row of one token was an error.
#[test]
fn s4_b1_rows_without_padding_are_whole() {
    let lines = "{\"input_ids\": [5, 6, 7]}\n{\"input_ids\": [5]}\n{\"input_ids\": [5, 258, 258]}\n";
    let mut folder = Folder::new(&lines.replace('}', ", \"label\": 0}"), 0);
    let ids = |folder: &Folder| -> Vec<Vec<i32>> {
        let dataset = folder.open().unwrap();
        (0..dataset.len())
            .map(|row| dataset.example(row).unwrap().input_ids)
            .collect()
    };
    assert_eq!(ids(&folder), [vec![5, 6, 7], vec![5], vec![5]]);
    folder.options.classes = Some(crate::data::ClassOptions {
        labels: vec!["a".into(), "b".into()],
        weights: None,
    });
    assert_eq!(ids(&folder), [vec![5, 6, 7], vec![5], vec![5]]);
}

/// Padding on the left was attended, and shifted the positions.
#[test]
fn s4_b2_padding_on_the_left_changes_nothing() {
    let lines =
        "{\"input_ids\": [258, 258, 5, 6], \"label\": 1}\n{\"input_ids\": [5, 6, 258, 258], \"label\": 1}\n";
    let mut folder = Folder::new(lines, 0);
    folder.options.classes = Some(crate::data::ClassOptions {
        labels: vec!["a".into(), "b".into()],
        weights: None,
    });
    let dataset = folder.open().unwrap();
    let rows = [dataset.example(0).unwrap(), dataset.example(1).unwrap()];
    let batch = crate::data::collate(&rows, 258);
    assert_eq!(
        (batch.length, batch.segments.as_slice()),
        (2, [vec![2], vec![2]].as_slice())
    );
    assert_eq!(batch.input_ids, [5, 6, 5, 6]);
    assert!(
        batch.classes.is_some(),
        "the head sees the last token of its segment, not padding"
    );
}

/// A vocabulary was a pickle, which can run any code.
#[test]
fn s4_b8_a_pickled_vocabulary_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vocab.gzip");
    fs::write_durable(&path, b"\x1f\x8b\x08cos\nsystem\n").unwrap();
    let message = Tokenizer::load(&path).err().unwrap().to_string();
    assert!(message.contains("vocab.gzip"), "{message}");
}

/// Rows were shuffled within a buffer of 256, over epochs that ran into each other.
#[test]
fn s4_b10_an_epoch_is_shuffled_as_a_whole() {
    let num_rows = 10_000;
    let order = crate::data::Order {
        seed: 42,
        len: num_rows,
        shuffle: true,
        mixture: None,
    };
    let epoch: Vec<usize> = (0..num_rows as u64)
        .map(|position| order.position_to_sample(position).1)
        .collect();
    let first = &epoch[..256];
    assert!(first.iter().any(|&row| row > 9_000) && first.iter().any(|&row| row < 1_000));
    let mut rows = epoch.clone();
    rows.sort_unstable();
    assert!(
        rows.into_iter().eq(0..num_rows),
        "each once before any comes again"
    );
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
