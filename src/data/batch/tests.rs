//! Joined rows.

use super::*;

fn example(line: usize, input_ids: &[i32], labels: &[i32], images: &[f32]) -> Example {
    let image_sources = vec![ImageSource::Decoded(None); images.len()];
    let images = images
        .iter()
        .map(|&value| PixelImage {
            pixels: vec![value; 3].into(),
            size: 1,
        })
        .collect();
    let sample = SampleId {
        file: Path::new("rows.jsonl").into(),
        line,
    };
    Example {
        sample,
        input_ids: input_ids.into(),
        labels: labels.into(),
        images,
        image_sources,
        class: None,
    }
}

#[test]
fn rows_are_padded_on_the_right_and_counted() {
    let batch = collate(
        &[
            example(1, &[5, 6], &[5, 6], &[0.25]),
            example(2, &[9, 9, 7], &[-100, -100, 7], &[0.5, 0.75]),
        ],
        3,
    );
    assert_eq!((batch.rows, batch.length), (2, 3));
    assert_eq!(batch.input_ids, [5, 6, 3, 9, 9, 7]);
    assert_eq!(batch.labels, [5, 6, -100, -100, -100, 7]);
    assert_eq!((batch.num_tokens, batch.num_labelled), (5, 2));
    assert_eq!(batch.segments, [[2], [3]]);
    let images = batch.images.unwrap();
    assert_eq!(images.num_images(), 3);
    assert_eq!(images.pixels, [0.25, 0.25, 0.25, 0.5, 0.5, 0.5, 0.75, 0.75, 0.75]);
    assert_eq!(batch.samples[1].to_string(), "rows.jsonl:2");
}

#[test]
fn samples_share_rows_as_segments() {
    let rows = [
        vec![example(1, &[5, 6], &[5, 6], &[0.25]), example(2, &[7], &[7], &[])],
        vec![
            example(3, &[9, 9, 7, 8], &[-100, -100, 7, 8], &[0.5, 0.75]),
            example(4, &[6, 5], &[-100, 5], &[]),
        ],
    ];
    let padding = Padding {
        id: 3,
        multiple_of: 4,
        side: PaddingSide::Right,
    };
    let batch = collate_rows(&rows, padding);
    assert_eq!((batch.rows, batch.length), (2, 8));
    assert_eq!(batch.input_ids, [5, 6, 7, 3, 3, 3, 3, 3, 9, 9, 7, 8, 6, 5, 3, 3]);
    assert_eq!(batch.labels[..3], [5, 6, 7]);
    assert_eq!(batch.labels[8..], [-100, -100, 7, 8, -100, 5, -100, -100]);
    assert_eq!(batch.segments, [[2, 1], [4, 2]]);
    assert_eq!(batch.images.as_ref().unwrap().num_images(), 3);
    let lines: Vec<usize> = batch.samples.iter().map(|sample| sample.line).collect();
    assert_eq!(lines, [1, 2, 3, 4]);
    // Nothing predicts the first token of a segment: of 6 labels, 5 and 7 do not count.
    assert_eq!((batch.num_tokens, batch.num_labelled), (9, 4));
}

/// S4.8: padding goes to the left, and rows that have none stay as they are (S4.B1).
#[test]
fn rows_are_padded_on_the_side_that_is_asked_for() {
    let rows = [
        vec![
            example(1, &[5, 6], &[-100, 6], &[0.25]),
            example(2, &[7], &[7], &[]),
        ],
        vec![example(3, &[9, 9, 7, 8], &[-100, -100, 7, 8], &[0.5, 0.75])],
    ];
    let [left, right] = [PaddingSide::Left, PaddingSide::Right].map(|side| {
        let padding = Padding {
            id: 12,
            multiple_of: 1,
            side,
        };
        collate_rows(&rows, padding)
    });
    assert_eq!(left.input_ids, [12, 5, 6, 7, 9, 9, 7, 8]);
    assert_eq!(left.labels, [-100, -100, 6, 7, -100, -100, 7, 8]);
    assert_eq!(left.padding_side, PaddingSide::Left);
    let limits = BatchLimits {
        vocab_size: 12,
        max_length: 4,
        image_tokens: None,
    };
    let refused = left.check(&limits).unwrap_err().to_string();
    assert!(refused.starts_with("rows.jsonl:1: token 12"), "{refused}");
    let back = Batch {
        input_ids: right.input_ids.clone(),
        labels: right.labels.clone(),
        padding_side: right.padding_side,
        ..left
    };
    assert_eq!(back, right);
}

#[test]
fn what_is_wrong_with_a_segment_is_said_of_its_sample() {
    let rows = [
        vec![example(1, &[5], &[5], &[]), example(2, &[6, 9], &[6, 9], &[])],
        vec![example(3, &[7], &[7], &[])],
    ];
    let padding = |id| Padding {
        id,
        multiple_of: 1,
        side: PaddingSide::Right,
    };
    let batch = collate_rows(&rows, padding(0));
    let limits = BatchLimits {
        vocab_size: 10,
        max_length: 3,
        image_tokens: None,
    };
    assert!(batch.check(&limits).is_ok());
    let message = |limits| batch.check(&limits).unwrap_err().to_string();
    let small = BatchLimits {
        vocab_size: 9,
        ..limits
    };
    assert!(message(small).starts_with("rows.jsonl:2: token 9"));
    let short = BatchLimits {
        max_length: 2,
        ..limits
    };
    assert!(message(short).starts_with("rows.jsonl:1: 3 tokens"));
    let padded = collate_rows(&rows, padding(12))
        .check(&limits)
        .unwrap_err()
        .to_string();
    assert!(padded.starts_with("rows.jsonl:3: token 12"), "{padded}");
}

#[test]
fn text_only_rows_have_no_images() {
    assert_eq!(collate(&[example(1, &[5], &[5], &[])], 0).images, None);
}

#[test]
fn a_batch_the_model_cannot_take_is_refused() {
    let batch = collate(&[example(4, &[5, 9, 9], &[5, -100, -100], &[0.5])], 0);
    let limits = BatchLimits {
        vocab_size: 10,
        max_length: 3,
        image_tokens: Some((9, 2)),
    };
    let check = |limits: BatchLimits| batch.check(&limits).map_err(|error| error.to_string());
    assert_eq!(check(limits), Ok(()));
    for (limits, expected) in [
        (
            BatchLimits {
                vocab_size: 9,
                ..limits
            },
            "rows.jsonl:4: token 9 is outside the model's vocabulary of 9",
        ),
        (
            BatchLimits {
                max_length: 2,
                ..limits
            },
            "rows.jsonl:4: 3 tokens, more than the model's 2",
        ),
        (
            BatchLimits {
                image_tokens: Some((9, 3)),
                ..limits
            },
            "2 image tokens in the batch, expected 3",
        ),
        (
            BatchLimits {
                image_tokens: None,
                ..limits
            },
            "1 images for a model without vision tower",
        ),
    ] {
        let message = check(limits).unwrap_err();
        assert!(message.contains(expected), "{message}");
    }
}
