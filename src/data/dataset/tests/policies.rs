//! Rows that are wrong, and rows that are too long.

use super::*;
use crate::data::BadRows;

#[test]
fn wrong_rows_are_skipped_up_to_a_limit_and_listed() {
    let good = one_line(TWO_TURNS);
    let broken = one_line(&TWO_TURNS.replace("0.png", "broken.png"));
    let mut folder = Folder::new(&format!("{good}{{\n{broken}{good}"), 2);
    fs::write_durable(&folder.dir.path().join("broken.png"), b"no picture").unwrap();
    folder.options.bad_rows = BadRows::Skip { limit: 2 };
    let dataset = folder.open().unwrap();
    let report = dataset.report();
    assert_eq!((report.rows, report.kept, report.bad), (4, 2, 2));
    assert!(report.to_string().ends_with("; 2 wrong rows skipped"), "{report}");
    let listed: Vec<String> = dataset.bad_rows().iter().map(ToString::to_string).collect();
    assert!(listed[0].contains("rows.jsonl:2: column 1: EOF"), "{listed:?}");
    assert!(
        listed[1].contains("rows.jsonl:3: image ") && listed[1].contains("cannot decode it"),
        "{listed:?}"
    );

    folder.options.bad_rows = BadRows::Skip { limit: 1 };
    let message = open_error(&folder);
    assert!(
        message.contains("2 rows are wrong, more than data.max_bad_rows = 1; the first is ")
            && message.contains("rows.jsonl:2"),
        "{message}"
    );
    folder.options.bad_rows = BadRows::List;
    assert_eq!(folder.open().unwrap().bad_rows().len(), 2);
    // With nothing left, what is wrong is said, and not that nothing is there.
    fs::write_durable(folder.rows(), b"{\n{").unwrap();
    let message = open_error(&folder);
    assert!(
        message.contains("rows.jsonl:1: column") && message.ends_with("1 more row is wrong"),
        "{message}"
    );
}

#[test]
fn a_row_can_be_cut_after_its_last_whole_turn() {
    let mut folder = Folder::new(&one_line(TWO_TURNS), 2);
    let whole = folder.open().unwrap();
    let (ids, labels) = whole.ids_and_labels(0);
    let turn_end = folder.tokenizer.token_to_id("<|im_end|>").unwrap() as i32;
    let first_end = labels.iter().position(|&label| label == turn_end).unwrap() + 2;
    folder.options.too_long = TooLong::TruncateTurns;
    for length in [first_end, first_end + 1, ids.len() - 1] {
        folder.options.sequence_length = length;
        let dataset = folder.open().unwrap();
        assert_eq!(
            dataset.ids_and_labels(0),
            (ids[..first_end].to_vec(), labels[..first_end].to_vec())
        );
        assert_eq!(
            dataset.example(0).unwrap().images.len(),
            1,
            "the second turn's image goes with it"
        );
        assert_eq!(dataset.report().truncated, 1);
        assert_eq!(dataset.prompts(0).unwrap().len(), 1);
    }
    folder.options.sequence_length = first_end - 1;
    let message = open_error(&folder);
    assert!(
        message.starts_with("no row to use in ") && message.contains("1 dropped"),
        "{message}"
    );
}

#[test]
fn what_cannot_be_packed_is_refused() {
    let lines = r#"{"text": "<image><image>", "images": ["0.png", "0.png"]}
{"text": "a"}
"#;
    let mut folder = Folder::new(lines, 1);
    folder.options.grouping = Grouping::Packed { max_images: Some(1) };
    let message = open_error(&folder);
    assert!(
        message.contains("rows.jsonl:1: 2 images, more than data.max_images_per_row = 1"),
        "{message}"
    );
    folder.options.bad_rows = BadRows::Skip { limit: 1 };
    assert_eq!(folder.open().unwrap().len(), 1);
    folder.options.classes = Some(crate::data::ClassOptions {
        labels: vec!["a".into(), "b".into()],
        weights: None,
    });
    assert!(open_error(&folder).contains("rows to classify are never packed"));
}

#[test]
fn lengths_are_counted_by_powers_of_two() {
    let lines = |count: usize| format!("{{\"text\": \"{}\"}}\n", "a".repeat(count));
    let mut folder = Folder::new(&[1, 2, 3, 8, 30].map(lines).concat(), 0);
    folder.options.grouping = Grouping::Packed { max_images: None };
    folder.options.sequence_length = 32;
    let text = folder.open().unwrap().lengths().to_string();
    let expected = "       tokens       rows
     2-3               2 ########################################
     4-7               1 ####################
     8-15              1 ####################
    16-31              1 ####################
packing          5 samples in 2 rows of 32 tokens, 76.56 % full with 49 tokens";
    assert_eq!(text, expected);
}
