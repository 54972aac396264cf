//! What can be wrong with data. Errors of a row name its file and line.

use std::{fmt, io, path::PathBuf};

use thiserror::Error;

use super::{batch::SampleId, image::ImageError, options::Split, value::Value};
use crate::fs::FsError;

/// An error of the `data` room.
#[derive(Debug, Error)]
pub enum DataError {
    /// A file could not be read.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The configuration names no file for a split.
    #[error("no file for data.{split}\n  hint: name at least one JSONL file of chat rows")]
    NoFiles {
        /// The split without files.
        split: Split,
    },
    /// Rows in a form that cannot be told.
    #[error(
        "{}: which kind of file is this?\n  hint: its name says so by .jsonl; for another name, write its format",
        path.display()
    )]
    Format {
        /// The file or folder.
        path: PathBuf,
    },
    /// A file or folder of rows that cannot be used as a whole.
    #[error("{}: {reason}", path.display())]
    Source {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// A chat template that cannot be used.
    #[error("chat template {name}: {reason}")]
    Template {
        /// Its name or path.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// More wrong rows than may be skipped.
    #[error("{count} rows are wrong, more than data.max_bad_rows = {limit}; the first is {first}")]
    TooManyBadRows {
        /// Wrong rows.
        count: usize,
        /// The limit.
        limit: usize,
        /// The first of them.
        first: Box<RowError>,
    },
    /// No row is left.
    #[error("no row to use in {files}: {report}")]
    NoRows {
        /// The files that were read.
        files: String,
        /// What became of the rows.
        report: String,
    },
    /// Rows there are, but none of their tokens is trained.
    #[error(
        "no labelled token in {files}: {report}\n  hint: only the turns of the role \"assistant\" are trained"
    )]
    NothingLabelled {
        /// The files that were read.
        files: String,
        /// What became of the rows.
        report: String,
    },
    /// Rows that cannot be used.
    #[error("{first}{}", others(*.more))]
    Rows {
        /// The first in the order of the files.
        first: Box<RowError>,
        /// How many more rows are wrong.
        more: usize,
    },
    /// A tokenizer file that cannot be understood.
    #[error("cannot use {}: {reason}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No token stands for an image.
    #[error(
        "{}: `{token}` (it stands for an image) is not a token of this vocabulary\n  \
         hint: name one that is there and stands for nothing else under model.image_token, such as a reserved one, or \
         write a model whose tokenizer has it: brazier model init --image-token '{token}' --add-image-token",
        path.display()
    )]
    NoImageToken {
        /// The token's text.
        token: String,
        /// The tokenizer's file.
        path: PathBuf,
    },
    /// A token that is needed is not a token of its own.
    #[error(
        "{}: `{token}` ({purpose}) is not a token of this vocabulary\n  \
         hint: add it to the tokenizer as a special token, and make room for it in the model",
        path.display()
    )]
    MissingToken {
        /// The token's text.
        token: String,
        /// What it is needed for.
        purpose: &'static str,
        /// The tokenizer's file.
        path: PathBuf,
    },
    /// Padding with the end-of-sequence token: tools that mask padding would mask the end of every answer.
    #[error(
        "{}: pad_token and eos_token are both `{token}`\n  \
         hint: give the tokenizer a pad_token of its own",
        path.display()
    )]
    PadIsEos {
        /// The token's text.
        token: String,
        /// The tokenizer's file.
        path: PathBuf,
    },
    /// Text could not be encoded or decoded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// An image that belongs to no row.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// An image of a row.
    #[error("{sample}: {source}")]
    SampleImage {
        /// The row.
        sample: SampleId,
        /// The image and what is wrong with it.
        source: ImageError,
    },
    /// A plan that cuts nothing.
    #[error("{key} = {value}: {reason}")]
    Plan {
        /// Field of [`crate::data::BatchPlan`].
        key: &'static str,
        /// Its value.
        value: usize,
        /// What it must be.
        reason: String,
    },
    /// Rows to classify that are to share rows of a batch.
    #[error(
        "data.packing: rows to classify are never packed, each of them is one answer of the model\n  \
         hint: take data.packing out; data.group_by_length avoids most padding"
    )]
    PackedClasses,
    /// A batch that the model would refuse on the device.
    #[error("{sample}: {reason}")]
    Batch {
        /// The first row it concerns.
        sample: SampleId,
        /// What is wrong.
        reason: String,
    },
    /// A thread could not be started.
    #[error("cannot start a data worker: {source}")]
    Spawn {
        /// The system's word.
        source: io::Error,
    },
    /// A decoder panicked; the rest of the micro-batch is lost.
    #[error("a data worker panicked at step {step}, in the micro-batch that starts with {sample}: {message}")]
    Panicked {
        /// The optimizer step.
        step: u64,
        /// First row of the micro-batch.
        sample: SampleId,
        /// What the panic said.
        message: String,
    },
    /// All threads are gone.
    #[error("the data workers ended before step {step} was ready")]
    WorkersGone {
        /// The optimizer step that was asked for.
        step: u64,
    },
}

fn others(more: usize) -> String {
    match more {
        0 => String::new(),
        1 => "\n  and 1 more row is wrong".into(),
        _ => format!("\n  and {more} more rows are wrong"),
    }
}

/// A row that cannot be used.
#[derive(Debug, Error)]
#[error("{sample}: {problem}")]
pub struct RowError {
    /// File and line.
    pub sample: SampleId,
    /// What is wrong.
    pub problem: RowProblem,
}

/// What can be wrong with a row.
#[derive(Debug, Error)]
pub enum RowProblem {
    /// Not JSON.
    #[error("column {column}: {reason}")]
    Json {
        /// Column in the line, from 1.
        column: usize,
        /// What the parser says.
        reason: String,
    },
    /// Nothing to classify, or two things.
    #[error(
        "the row has {}\n  hint: a row to classify has one of them, and a \"label\"",
        match *found { "both" => "both \"text\" and \"input_ids\"", _ => "neither \"text\" nor \"input_ids\"" }
    )]
    Content {
        /// `both` or `neither`.
        found: &'static str,
    },
    /// No class.
    #[error("the row has no \"label\"\n  hint: give the class's name or its id")]
    NoLabel,
    /// A class that is not one.
    #[error("label {label} is not one of the classes: {known}\n  hint: see model.head.labels")]
    Label {
        /// As written.
        label: String,
        /// Names of the classes.
        known: String,
    },
    /// A row of no token.
    #[error("the row has no token")]
    NoToken,
    /// A value that is not what its place needs.
    #[error("{place}: {reason}")]
    Field {
        /// Where in the row: `messages[1].content`.
        place: String,
        /// What is wrong.
        reason: String,
    },
    /// A key that the row must have.
    #[error(
        "the row has no \"{name}\"; its keys are: {seen}\n  hint: name the key that holds it under `fields`"
    )]
    MissingField {
        /// The key.
        name: String,
        /// Keys of the row.
        seen: String,
    },
    /// A key of a turn that nobody reads.
    #[error(
        "{place}: unknown key \"{name}\"\n  hint: nothing of a turn is ignored; remove the key, or map it under `fields`"
    )]
    UnknownField {
        /// Which turn.
        place: String,
        /// The key.
        name: String,
    },
    /// One thing under two names.
    #[error("the row has both {names}, which mean the same\n  hint: say under `fields` which of them counts")]
    Twice {
        /// The names.
        names: String,
    },
    /// The keys do not tell what the row is.
    #[error(
        "{}; the keys of the row are: {seen}\n  hint: write `kind`, and `fields` where keys have other names; the kinds are \
         chat, text, prompt_completion, instruction, vqa",
        match kinds[..] { [] => "the row is of no known kind".into(), _ => format!("the row may be {}", kinds.join(" or ")) }
    )]
    Kind {
        /// Keys of the row.
        seen: String,
        /// The kinds it may be.
        kinds: Vec<&'static str>,
    },
    /// A role that is not one.
    #[error(
        "{place}: unknown role \"{role}\"\n  hint: the roles are system, developer, user (human), assistant (gpt), tool \
         (ipython); map others under `roles`"
    )]
    Role {
        /// Which turn.
        place: String,
        /// As written.
        role: String,
    },
    /// The model's placeholder in a row that has another one.
    #[error(
        "the text contains `<image>`, but the image_token of these rows is `{token}`\n  \
         hint: `<image>` stands for an image in every prompt; remove it"
    )]
    ForeignPlaceholder {
        /// The placeholder of the rows.
        token: String,
    },
    /// An empty conversation.
    #[error("{name} is empty")]
    NoMessages {
        /// The key.
        name: String,
    },
    /// The template cannot render the conversation.
    #[error("the chat template: {reason}")]
    Template {
        /// What it says.
        reason: String,
    },
    /// It cannot be told which of the rendered text the model has to say.
    #[error(
        "messages[{turn}]: cannot tell which of the rendered text is this turn's: {reason}\n  \
         hint: mark it in the template with {{% generation %}} … {{% endgeneration %}}, or train other turns"
    )]
    Mask {
        /// The turn, from 0.
        turn: usize,
        /// Why not.
        reason: &'static str,
    },
    /// A text without end.
    #[error("the tokenizer names no eos_token, which ends a text\n  hint: name one in tokenizer_config.json")]
    NoEos,
    /// The row is not what it was when the data was opened.
    #[error("the row has changed since it was first read")]
    Changed,
    /// A sequence begins twice.
    #[error(
        "the row begins with the start-of-sequence token `{token}` twice\n  \
         hint: the template writes it already; remove it from the row"
    )]
    DoubleBos {
        /// The token.
        token: String,
    },
    /// Images that did not become image tokens.
    #[error("{images} images, but {tokens} image tokens once the template has rendered the row")]
    ImageTokens {
        /// Images of the row.
        images: usize,
        /// Image tokens.
        tokens: usize,
    },
    /// What a source finds wrong with a row.
    #[error("{reason}")]
    Source {
        /// What is wrong.
        reason: String,
    },
    /// An image that cannot be decoded.
    #[error(transparent)]
    Image(ImageError),
    /// Placeholders and images differ in number.
    #[error(
        "{placeholders} image placeholders in the text, but {images} in \"images\"\n  \
         hint: each {{\"type\": \"image\"}} and each literal `<image>` takes one image, in order"
    )]
    Placeholders {
        /// Placeholders in the messages.
        placeholders: usize,
        /// Entries of `images`.
        images: usize,
    },
    /// The model has no eyes.
    #[error(
        "the row has an image, but the model has no vision tower\n  hint: remove the image, or give model.vision"
    )]
    NoVision,
    /// An image file is not there.
    #[error("image {number}: {source}\n  hint: paths in \"images\" are relative to the JSONL file")]
    MissingImage {
        /// Place in `images`, from 1.
        number: usize,
        /// The path and the system's word.
        source: FsError,
    },
    /// Text that cannot be encoded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// Longer than allowed, with `too_long: error`.
    #[error(
        "{length} tokens, more than data.sequence_length = {limit}\n  \
         hint: raise it, or set data.too_long to drop or truncate"
    )]
    TooLong {
        /// Tokens, image tokens included.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// More images than a row of several samples may have.
    #[error(
        "{images} images, more than data.max_images_per_row = {limit}\n  hint: raise it, or take images out of the row"
    )]
    TooManyImages {
        /// Images of the row.
        images: usize,
        /// The limit.
        limit: usize,
    },
    /// Cutting the row would lose an image or a part of one.
    #[error(
        "{length} tokens, and cutting at data.sequence_length = {limit} would lose an image that ends at {image_end}\n  \
         hint: raise it, or set data.too_long to drop"
    )]
    CutsImage {
        /// Tokens, image tokens included.
        length: usize,
        /// The limit.
        limit: usize,
        /// Where the last image ends, in tokens.
        image_end: usize,
    },
    /// Tags do not match the turns.
    #[error(
        "{tags} tags for {turns} assistant turns\n  hint: one tag (or null) for each turn of the assistant"
    )]
    Tags {
        /// Entries of `tags`.
        tags: usize,
        /// Turns of the assistant.
        turns: usize,
    },
}

impl RowProblem {
    pub(super) fn field(place: &str, reason: String) -> Self {
        RowProblem::Field {
            place: place.to_owned(),
            reason,
        }
    }

    /// Something else than what was expected.
    pub(super) fn expected(place: &str, expected: &str, found: &Value) -> Self {
        RowProblem::field(place, format!("expected {expected}, found {}", found.kind()))
    }

    /// What the parser says of a line.
    pub(super) fn json(error: serde_json::Error) -> Self {
        let place = format!(" at line {} column {}", error.line(), error.column());
        RowProblem::Json {
            column: error.column(),
            reason: error.to_string().replace(&place, ""),
        }
    }
}

/// Text that the tokenizer cannot take or give back.
#[derive(Debug, Error)]
pub enum EncodeError {
    /// The tokenizer refused.
    #[error("the tokenizer failed: {source}")]
    Tokenizer {
        /// The tokenizer's word.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Characters that mark pieces of rows.
    #[error(
        "the text contains characters from U+100000 on, which are reserved for marks\n  hint: remove them; they have no meaning of their own"
    )]
    Private,
    /// Content would become a token that only the template may place.
    #[error(
        "the text contains `{token}`, which would become a control token\n  \
         hint: mark the token as special in tokenizer.json, so that it can be told from text, or remove it"
    )]
    ControlToken {
        /// The token's text.
        token: String,
    },
}

impl fmt::Display for SampleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}
