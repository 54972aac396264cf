//! Rows with a class: text or tokens, and what they are.
//!
//! ```json
//! {"text": "The patient is well.", "label": "alive"}
//! {"input_ids": [5, 9, 31], "label": 0}
//! ```
//! A label is the class's name or its id. Other keys of a row are ignored.

use super::{
    error::RowProblem,
    rows::{Reader, token_ids},
    value::Value,
};

/// Classes of a data set.
#[derive(Debug, Clone, PartialEq)]
pub struct ClassOptions {
    /// Names of the classes, in the order of their ids.
    pub labels: Vec<String>,
    /// One factor for each class; `None` weighs all alike.
    pub weights: Option<Vec<f32>>,
}

impl ClassOptions {
    /// Factor of the losses of a class.
    pub fn weight(&self, class: usize) -> f32 {
        self.weights.as_ref().map_or(1.0, |weights| weights[class])
    }
}

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClassifiedRow {
    /// What is to be classified.
    pub(super) content: Content,
    /// Id of its class.
    pub(super) class: usize,
}

/// What is to be classified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// Text for the tokenizer.
    Text(String),
    /// Tokens as they are.
    Tokens(Vec<u32>),
}

/// Reads a row to classify.
///
/// # Errors
/// What is wrong with it; the caller knows file and line.
pub(super) fn parse_classified(
    reader: &Reader<'_>,
    options: &ClassOptions,
) -> Result<ClassifiedRow, RowProblem> {
    let content = match (reader.find(reader.text())?, reader.find(reader.input_ids())?) {
        (Some((_, Value::Text(text))), None) => Content::Text(text.clone()),
        (Some((name, other)), None) => return Err(RowProblem::expected(name, "text", other)),
        (None, Some((name, tokens))) => Content::Tokens(token_ids(name, tokens)?),
        (Some(_), Some(_)) => return Err(RowProblem::Content { found: "both" }),
        (None, None) => return Err(RowProblem::Content { found: "neither" }),
    };
    let known = &options.labels;
    let (label, class) = match reader.find(reader.label())? {
        None => return Err(RowProblem::NoLabel),
        // A column of truth values: no is class 0, yes class 1.
        Some((_, Value::Bool(yes))) => (yes.to_string(), Some(usize::from(*yes))),
        Some((_, Value::Int(id))) => (id.to_string(), usize::try_from(*id).ok()),
        Some((_, Value::Text(name))) => {
            let class = known.iter().position(|label| label == name);
            (name.clone(), class)
        }
        Some((name, other)) => return Err(RowProblem::expected(name, "a class's name or id", other)),
    };
    match class.filter(|id| *id < known.len()) {
        Some(class) => Ok(ClassifiedRow { content, class }),
        None => Err(RowProblem::Label {
            label,
            known: known.join(", "),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{
        Dataset, TooLong,
        dataset::fixtures::Folder,
        rows::{Fields, Row, RowOptions, parse_row},
    };

    #[test]
    fn rows_become_tokens_and_a_class() {
        let lines = "{\"text\": \"ab<|im_end|>\", \"label\": \"large\"}\n\n{\"input_ids\": [5, 6, 7, 8], \"label\": 0}\n";
        let mut folder = Folder::new(lines, 0);
        folder.options.classes = Some(ClassOptions {
            labels: vec!["small".into(), "large".into()],
            weights: Some(vec![0.5, 2.0]),
        });
        let dataset = folder.open().unwrap();
        let text = dataset.example(0).unwrap();
        // A document's special tokens are tokens.
        let ids: Vec<u32> = text.input_ids.iter().map(|&id| id as u32).collect();
        assert_eq!(
            folder.tokenizer.decode_with_special(&ids).unwrap(),
            "ab<|im_end|>"
        );
        assert!(
            text.labels
                .iter()
                .all(|&label| label == crate::data::IGNORE_LABEL)
        );
        let class = text.class.unwrap();
        assert_eq!((class.id, class.weight), (1, 2.0));
        let tokens = dataset.example(1).unwrap();
        assert_eq!(tokens.input_ids, [5, 6, 7, 8]);
        let batch = crate::data::collate(&[text, tokens], 0);
        let classes = batch.classes.as_ref().unwrap();
        assert_eq!(
            (classes.ids.as_slice(), classes.weights.as_slice()),
            ([1, 0].as_slice(), [2.0, 0.5].as_slice())
        );
        assert_eq!(batch.segments, [[dataset.num_tokens(0)], [4]]);
        assert_eq!((batch.num_labelled, batch.loss_weight()), (2, 2.5));
        assert_eq!(dataset.report().labelled_tokens, 2);

        let open = |too_long: TooLong, limit: usize| -> Result<Dataset, _> {
            let mut options = folder.options.clone();
            (options.too_long, options.sequence_length) = (too_long, limit);
            Dataset::open(
                crate::data::Split::Train,
                &options,
                None,
                folder.tokenizer.clone(),
            )
        };
        let cut = open(TooLong::Truncate, 2).unwrap();
        assert_eq!(cut.example(1).unwrap().input_ids, [5, 6]);
        assert_eq!(open(TooLong::Drop, 3).unwrap().report().dropped, 1);
        let refused = open(TooLong::Error, 3).err().unwrap().to_string();
        assert!(refused.contains("rows.jsonl:3: 4 tokens, more than"), "{refused}");
    }

    fn parse(line: &str) -> Result<ClassifiedRow, String> {
        let options = ClassOptions {
            labels: vec!["dead".into(), "alive".into()],
            weights: None,
        };
        let row = Value::from_json(line.as_bytes()).map_err(|error| error.to_string())?;
        match parse_row(&row, &RowOptions::default(), Some(&options)) {
            Ok(Row::Classified(row)) => Ok(row),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn keys_have_the_names_that_the_user_gives_them() {
        let value = Value::from_json(br#"{"padded": [4, 5], "died": true, "text": "x"}"#).unwrap();
        let fields = Fields {
            input_ids: Some("padded".into()),
            label: Some("died".into()),
            text: Some("no such column".into()),
            ..Fields::default()
        };
        let rows = RowOptions {
            fields,
            ..RowOptions::default()
        };
        let classes = ClassOptions {
            labels: vec!["alive".into(), "dead".into()],
            weights: None,
        };
        let Row::Classified(row) = parse_row(&value, &rows, Some(&classes)).unwrap() else {
            panic!("a row to classify")
        };
        assert_eq!((row.content, row.class), (Content::Tokens(vec![4, 5]), 1));
    }

    #[test]
    fn labels_are_names_or_ids() {
        let text = Content::Text("a".into());
        for label in ["\"alive\"", "1"] {
            let row = parse(&format!(r#"{{"text": "a", "label": {label}, "other": 3}}"#)).unwrap();
            assert_eq!((row.content, row.class), (text.clone(), 1));
        }
        let row = parse(r#"{"input_ids": [4, 5], "label": 0}"#).unwrap();
        assert_eq!((row.content, row.class), (Content::Tokens(vec![4, 5]), 0));
    }

    #[test]
    fn rows_without_sense_are_refused() {
        for (line, expected) in [
            (r#"{"text": "a"}"#, "the row has no \"label\""),
            (r#"{"text": "a", "label": null}"#, "the row has no \"label\""),
            (r#"{"label": 0}"#, "neither \"text\" nor \"input_ids\""),
            (
                r#"{"text": "a", "input_ids": [1], "label": 0}"#,
                "both \"text\" and \"input_ids\"",
            ),
            (
                r#"{"text": "a", "label": 2}"#,
                "label 2 is not one of the classes: dead, alive",
            ),
            (r#"{"text": "a", "label": -1}"#, "label -1 is not one of"),
            (r#"{"text": "a", "label": "well"}"#, "label well is not one of"),
            (
                r#"{"text": "a", "label": 0.5}"#,
                "label: expected a class's name or id, found a number",
            ),
            (r#"{"text": "a", "label": 0"#, "column"),
            (
                r#"{"input_ids": [-1], "label": 0}"#,
                "input_ids[0]: expected a token id",
            ),
        ] {
            let message = parse(line).unwrap_err();
            assert!(message.contains(expected), "{line}: {message}");
        }
    }
}
