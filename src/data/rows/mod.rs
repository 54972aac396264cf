//! What a row says, whichever keys it says it with: a conversation, a text, a prompt with its completion, something to
//! classify.

mod chat;
mod fields;
mod images;
mod message;
mod options;
mod pairs;
mod sites;

pub use chat::Conversation;
pub use message::{Message, Part, Role};
pub use options::{Fields, RowKind, RowOptions};

pub(super) use fields::Reader;
pub(super) use images::ImageRef;
pub(super) use pairs::tokens as token_ids;
pub(super) use sites::{Site, for_each_image, text_as_parts};

use super::{
    classified::{ClassOptions, ClassifiedRow, parse_classified},
    error::RowProblem,
    value::Value,
};

/// Stands for one image in text.
pub const IMAGE_TOKEN: &str = "<image>";

/// A row, read.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Row {
    /// Turns, to be rendered by a template.
    Chat(Conversation),
    /// A text that stands for itself; all of it is trained.
    Text(Document),
    /// A prompt and what follows it, which is trained.
    Pair(Pair),
    /// Tokens as they are; all of them are trained.
    Tokens(Vec<u32>),
    /// Something to classify.
    Classified(ClassifiedRow),
}

/// A text with its images.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Document {
    /// [`IMAGE_TOKEN`] where an image stands.
    pub(super) text: String,
    pub(super) images: Vec<ImageRef>,
}

/// A prompt and its completion.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pair {
    /// [`IMAGE_TOKEN`] where an image stands.
    pub(super) prompt: String,
    pub(super) completion: String,
    pub(super) images: Vec<ImageRef>,
}

impl Row {
    /// The row's images, in the order of their placeholders.
    pub(super) fn into_images(self) -> Vec<ImageRef> {
        match self {
            Row::Chat(conversation) => conversation.images,
            Row::Text(document) => document.images,
            Row::Pair(pair) => pair.images,
            Row::Tokens(_) | Row::Classified(_) => Vec::new(),
        }
    }
}

/// Reads a row.
///
/// # Errors
/// What is wrong with it; the caller knows file and line.
pub(super) fn parse_row(
    value: &Value,
    options: &RowOptions,
    classes: Option<&ClassOptions>,
) -> Result<Row, RowProblem> {
    let Value::Object(_) = value else {
        return Err(RowProblem::field(
            "the row",
            format!("expected an object, found {}", value.kind()),
        ));
    };
    let reader = Reader { row: value, options };
    if let Some(classes) = classes {
        return parse_classified(&reader, classes).map(Row::Classified);
    }
    match reader.kind()? {
        RowKind::Chat => chat::parse(&reader).map(Row::Chat),
        RowKind::Instruction => pairs::instruction(&reader).map(Row::Chat),
        RowKind::Vqa => pairs::vqa(&reader).map(Row::Chat),
        RowKind::PromptCompletion => pairs::prompt_completion(&reader),
        RowKind::Text => pairs::text(&reader),
        RowKind::Auto | RowKind::Classification => Err(RowProblem::field(
            "the row",
            "it is to be classified, but the model has no classification head".into(),
        )),
    }
}

#[cfg(test)]
mod tests;
