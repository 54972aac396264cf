mod bugs;
mod kept;
mod kinds;
mod policies;

use std::sync::Arc;

use super::{
    super::{DataSource, ImageOptions, Split, Tokenizer, TooLong, tokenizer},
    fixtures::{COPIES, Folder},
    *,
};
use crate::fs;

const TWO_TURNS: &str = r#"{"messages": [{"role": "user", "content": "<image>ab"},
    {"role": "assistant", "content": "cd"}, {"role": "user", "content": [{"type": "image"},
    {"type": "text", "text": "e"}]}, {"role": "assistant", "content": "f"}],
    "images": ["1.png", "0.png"], "tags": ["colour", null]}"#;

fn one_line(row: &str) -> String {
    row.split_whitespace().collect::<Vec<_>>().join(" ") + "\n"
}

fn open_error(folder: &Folder) -> String {
    folder
        .open()
        .err()
        .map(|error| error.to_string())
        .unwrap_or_default()
}

#[test]
fn a_row_becomes_tokens_labels_and_images() {
    let folder = Folder::new(&format!("\n{}\r\n", one_line(TWO_TURNS)), 2);
    let dataset = folder.open().unwrap();
    let example = dataset.example(0).unwrap();
    assert_eq!(
        example.sample.to_string(),
        format!("{}:2", folder.rows().display())
    );
    assert_eq!(example.input_ids.len(), dataset.num_tokens(0));
    assert_eq!(example.labels.len(), example.input_ids.len());
    let ids: Vec<u32> = example.input_ids.iter().map(|&id| id as u32).collect();
    let image = "<image>".repeat(COPIES);
    assert_eq!(
        folder.tokenizer.decode_with_special(&ids).unwrap(),
        format!(
            "<|im_start|>user\n{image}ab<|im_end|>\n<|im_start|>assistant\ncd<|im_end|>\n\
             <|im_start|>user\n{image}e<|im_end|>\n<|im_start|>assistant\nf<|im_end|>\n"
        )
    );
    let trained: Vec<u32> = example
        .labels
        .iter()
        .filter(|&&label| label >= 0)
        .map(|&id| id as u32)
        .collect();
    assert_eq!(
        folder.tokenizer.decode_with_special(&trained).unwrap(),
        "cd<|im_end|>f<|im_end|>"
    );
    for (id, label) in example.input_ids.iter().zip(&example.labels) {
        assert!(*label == IGNORE_LABEL || label == id);
    }
    // `1.png` comes first.
    let first: Vec<f32> = example
        .images
        .iter()
        .map(|image| image.pixels[0] * 255.0)
        .collect();
    assert_eq!(first, [1.0, 0.0]);
    let report = dataset.report();
    assert_eq!(
        (report.rows, report.kept, report.images, report.labelled_tokens),
        (1, 1, 2, 4)
    );
    assert_eq!((report.tokens, report.longest), (ids.len(), ids.len()));
}

#[test]
fn every_assistant_turn_has_a_prompt() {
    let folder = Folder::new(&one_line(TWO_TURNS), 2);
    let dataset = folder.open().unwrap();
    let [first, second] = &dataset.prompts(0).unwrap()[..] else {
        panic!("two prompts")
    };
    let whole = dataset.example(0).unwrap();
    for (prompt, num_images) in [(first, 1), (second, 2)] {
        let length = prompt.input_ids.len();
        assert_eq!(prompt.input_ids, whole.input_ids[..length]);
        assert_ne!(whole.labels[length], IGNORE_LABEL, "the answer comes next");
        assert_eq!(whole.labels[length - 1], IGNORE_LABEL);
        assert_eq!(prompt.images, whole.images[..num_images]);
    }
    assert_eq!(
        (first.turn, first.question.as_str(), first.reference.as_str()),
        (0, "ab", "cd")
    );
    assert_eq!(
        (second.turn, second.question.as_str(), second.reference.as_str()),
        (1, "e", "f")
    );
    assert_eq!(
        (first.tag.as_deref(), second.tag.as_deref()),
        (Some("colour"), None)
    );
}

#[test]
fn long_rows_are_refused_dropped_or_cut() {
    let short = one_line(r#"{"messages": [{"role": "assistant", "content": "it"}]}"#);
    let mut folder = Folder::new(&(short + &one_line(TWO_TURNS)), 2);
    let length = folder.open().unwrap().num_tokens(1);
    folder.options.sequence_length = length - 3;
    let message = open_error(&folder);
    assert!(
        message.contains(&format!("rows.jsonl:2: {length} tokens, more than")),
        "{message}"
    );

    folder.options.too_long = TooLong::Drop;
    let report = *folder.open().unwrap().report();
    assert_eq!(
        (report.rows, report.kept, report.dropped, report.truncated),
        (2, 1, 1, 0)
    );

    // Three tokens are missing at the end: `f`, the end of its turn, the line break.
    folder.options.too_long = TooLong::Truncate;
    let dataset = folder.open().unwrap();
    let report = dataset.report();
    assert_eq!((report.kept, report.dropped, report.truncated), (2, 0, 1));
    let example = dataset.example(1).unwrap();
    assert_eq!(
        (example.input_ids.len(), example.labels.len()),
        (length - 3, length - 3)
    );
    let trained: Vec<u32> = example
        .labels
        .iter()
        .filter(|&&label| label >= 0)
        .map(|&id| id as u32)
        .collect();
    assert_eq!(
        folder.tokenizer.decode_with_special(&trained).unwrap(),
        "cd<|im_end|>"
    );
    assert_eq!(
        dataset.prompts(1).unwrap().len(),
        1,
        "the second prompt fills the sequence"
    );
}

#[test]
fn a_cut_never_loses_an_image() {
    let mut folder = Folder::new(&one_line(TWO_TURNS), 2);
    let ids = folder.open().unwrap().example(0).unwrap().input_ids;
    let image_id = folder.tokenizer.image_token_id().unwrap() as i32;
    let image_end = ids.iter().rposition(|&id| id == image_id).unwrap() + 1;
    folder.options.too_long = TooLong::Truncate;
    for length in [1, image_end - COPIES, image_end - 1] {
        folder.options.sequence_length = length;
        let message = open_error(&folder);
        assert!(
            message.contains(&format!("would lose an image that ends at {image_end}")),
            "{message}"
        );
    }
    folder.options.sequence_length = image_end;
    let example = folder.open().unwrap().example(0).unwrap();
    assert_eq!(
        (example.input_ids.as_slice(), example.images.len()),
        (&ids[..image_end], 2)
    );
}

#[test]
fn rows_without_answer_are_counted_and_all_of_them_refused() {
    let asked = one_line(r#"{"messages": [{"role": "user", "content": "a"}]}"#);
    let answered = one_line(r#"{"messages": [{"role": "assistant", "content": "a"}]}"#);
    let report = *Folder::new(&(asked.clone() + &answered), 0)
        .open()
        .unwrap()
        .report();
    assert_eq!((report.rows, report.kept, report.unlabelled), (2, 1, 1));
    let message = open_error(&Folder::new(&asked, 0));
    assert!(
        message.starts_with("no labelled token in ") && message.contains("rows.jsonl"),
        "{message}"
    );
    let message = open_error(&Folder::new("\n\n", 0));
    assert!(message.starts_with("no row to use in "), "{message}");
    let message = open_error(&Folder::new("", 0));
    assert!(message.starts_with("no row to use in "), "{message}");
}

#[test]
fn wrong_rows_are_named_by_file_and_line() {
    let good = one_line(TWO_TURNS);
    let missing = one_line(&TWO_TURNS.replace("0.png", "9.png"));
    let message = open_error(&Folder::new(&format!("{good}\n{missing}{{\n[]\n{good}"), 2));
    assert!(
        message.contains("rows.jsonl:3: image 2: cannot stat ") && message.contains("9.png"),
        "{message}"
    );
    assert!(message.ends_with("and 2 more rows are wrong"), "{message}");

    let mut folder = Folder::new(&good, 2);
    folder
        .options
        .train
        .push(DataSource::new(folder.dir.path().join("other.jsonl")));
    assert!(
        open_error(&folder).starts_with("cannot open "),
        "{}",
        open_error(&folder)
    );
    folder.options.train.clear();
    assert!(open_error(&folder).starts_with("no file for data.train"));
}

#[test]
fn a_model_without_eyes_takes_no_image() {
    let folder = Folder::new(&one_line(TWO_TURNS), 2);
    let opened = Dataset::open(Split::Eval, &folder.options, None, folder.tokenizer.clone());
    let message = opened.err().unwrap().to_string();
    assert!(
        message.contains("rows.jsonl:1: the row has an image, but the model has no vision"),
        "{message}"
    );
}

#[test]
fn a_tokenizer_that_lacks_a_needed_token_is_refused() {
    let folder = Folder::new(&one_line(TWO_TURNS), 2);
    for (missing, expected) in [
        ("<image>", "`<image>` (it stands for an image)"),
        (
            "<|im_start|>",
            "`<|im_start|>` (the chat template opens a turn with it)",
        ),
        (
            "<|im_end|>",
            "`<|im_end|>` (the chat template closes a turn with it)",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        tokenizer::fixtures::write_without(dir.path(), missing);
        let tokenizer = Arc::new(Tokenizer::load(dir.path()).unwrap());
        let images = Some(ImageOptions::clip(2, COPIES));
        let opened = Dataset::open(Split::Train, &folder.options, images, tokenizer);
        let message = opened.err().unwrap().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn a_file_that_changes_under_a_run_is_an_error() {
    let folder = Folder::new(&one_line(TWO_TURNS), 2);
    let dataset = folder.open().unwrap();
    let other = "x".repeat(one_line(TWO_TURNS).len());
    fs::write_durable(folder.rows(), other.as_bytes()).unwrap();
    let message = dataset.prompts(0).unwrap_err().to_string();
    assert!(
        message.contains("rows.jsonl:1: column 1: expected value"),
        "{message}"
    );
}

#[test]
fn an_unreadable_image_is_named_when_it_is_needed() {
    let folder = Folder::new(&one_line(TWO_TURNS), 2);
    fs::write_durable(&folder.dir.path().join("0.png"), b"not an image").unwrap();
    let dataset = folder.open().unwrap();
    for message in [
        dataset.example(0).unwrap_err().to_string(),
        dataset.prompts(0).unwrap_err().to_string(),
    ] {
        assert!(
            message.contains("rows.jsonl:1: image ") && message.contains("0.png: cannot decode"),
            "{message}"
        );
    }
}

#[test]
fn only_training_rows_are_shuffled() {
    let folder = Folder::new(&one_line(TWO_TURNS).repeat(3), 2);
    assert!(folder.open().unwrap().stream().order().shuffle);
    let images = Some(ImageOptions::clip(2, COPIES));
    let held_out = Dataset::open(Split::Eval, &folder.options, images, folder.tokenizer.clone()).unwrap();
    assert_eq!((held_out.len(), held_out.stream().order().shuffle), (3, false));
}

/// The trained text of a row, piece by piece.
fn trained(folder: &Folder, dataset: &Dataset, index: usize) -> Vec<String> {
    let (ids, labels) = dataset.ids_and_labels(index);
    let mut pieces: Vec<Vec<u32>> = Vec::new();
    let mut open = false;
    for (id, label) in ids.iter().zip(&labels) {
        if *label == IGNORE_LABEL {
            open = false;
            continue;
        }
        assert_eq!(id, label);
        if !open {
            pieces.push(Vec::new());
        }
        open = true;
        pieces.last_mut().unwrap().push(*id as u32);
    }
    let texts = pieces.iter();
    texts
        .map(|ids| folder.tokenizer.decode_with_special(ids).unwrap())
        .collect()
}

/// All of a row as text.
fn text(folder: &Folder, dataset: &Dataset, index: usize) -> String {
    let (ids, _) = dataset.ids_and_labels(index);
    let ids: Vec<u32> = ids.iter().map(|&id| id as u32).collect();
    folder.tokenizer.decode_with_special(&ids).unwrap()
}
