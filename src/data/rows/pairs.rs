//! Rows of one exchange, and rows of text.

use super::{
    super::{error::RowProblem, value::Value},
    Conversation, Document, IMAGE_TOKEN, ImageRef, Message, Pair, Role, Row,
    chat::conversation,
    fields::Reader,
    images,
};

/// Alpaca's rows, as a user turn and an answer. A template that knows `instruction` and `input` may write them apart.
pub(super) fn instruction(reader: &Reader<'_>) -> Result<Conversation, RowProblem> {
    let instruction = reader.text_of(reader.instruction())?;
    let input = reader
        .optional_text(reader.input())?
        .filter(|input| !input.is_empty());
    let output = reader.text_of(reader.output())?;
    let content = match &input {
        Some(input) => format!("{instruction}\n\n{input}"),
        None => instruction.clone(),
    };
    let mut user = Message::new(Role::User, content);
    if let Some(input) = input {
        user.extra = vec![
            ("instruction".into(), Value::Text(instruction)),
            ("input".into(), Value::Text(input)),
        ];
    }
    exchange(images::listed(reader)?, user, output)
}

/// A question, after its images, and its answer: the first one, where there are several.
pub(super) fn vqa(reader: &Reader<'_>) -> Result<Conversation, RowProblem> {
    let question = reader.text_of(reader.question())?.replace(IMAGE_TOKEN, "");
    let (name, value) = reader.require(reader.answer())?;
    let answer = match value {
        Value::List(answers) => match answers.first() {
            Some(answer) => reader.to_text(&format!("{name}[0]"), answer)?,
            None => return Err(RowProblem::field(name, "there is no answer".into())),
        },
        answer => reader.to_text(name, answer)?,
    };
    let images = images::listed(reader)?;
    let content = match images.len() {
        0 => question,
        count => format!("{}\n{}", IMAGE_TOKEN.repeat(count), question.trim_start()),
    };
    exchange(images, Message::new(Role::User, content), answer)
}

fn exchange(listed: Vec<ImageRef>, user: Message, answer: String) -> Result<Conversation, RowProblem> {
    let assistant = Message::new(Role::Assistant, answer);
    let placeholders = user.num_images() + assistant.num_images();
    Ok(Conversation {
        images: images::fill(vec![None; placeholders], listed)?,
        messages: vec![user, assistant],
        tools: None,
        tags: vec![None],
    })
}

/// Two texts, or two lists of turns of which the second is trained.
pub(super) fn prompt_completion(reader: &Reader<'_>) -> Result<Row, RowProblem> {
    let (prompt_name, prompt) = reader.require(reader.prompt())?;
    let (completion_name, completion) = reader.require(reader.completion())?;
    match (prompt, completion) {
        (Value::List(before), Value::List(after)) => {
            let turns = Value::List(before.iter().chain(after).cloned().collect());
            let name = format!("{prompt_name} + {completion_name}");
            let trained = |number| Some(number >= before.len());
            conversation(reader, &name, &turns, trained).map(Row::Chat)
        }
        _ => {
            let prompt = reader.to_text(prompt_name, prompt)?;
            let completion = reader.to_text(completion_name, completion)?;
            let count = prompt.matches(IMAGE_TOKEN).count() + completion.matches(IMAGE_TOKEN).count();
            let images = images::fill(vec![None; count], images::listed(reader)?)?;
            Ok(Row::Pair(Pair {
                prompt,
                completion,
                images,
            }))
        }
    }
}

/// A text with its images, or tokens.
pub(super) fn text(reader: &Reader<'_>) -> Result<Row, RowProblem> {
    match (reader.find(reader.text())?, reader.find(reader.input_ids())?) {
        (Some(_), Some(_)) => Err(RowProblem::Content { found: "both" }),
        (None, Some((name, value))) => tokens(name, value).map(Row::Tokens),
        (_, None) => {
            let text = reader.text_of(reader.text())?;
            let count = text.matches(IMAGE_TOKEN).count();
            let images = images::fill(vec![None; count], images::listed(reader)?)?;
            Ok(Row::Text(Document { text, images }))
        }
    }
}

/// Token ids from a list of numbers.
pub(crate) fn tokens(name: &str, value: &Value) -> Result<Vec<u32>, RowProblem> {
    let Value::List(values) = value else {
        return Err(RowProblem::expected(name, "a list of token ids", value));
    };
    let ids = values.iter().enumerate().map(|(number, value)| {
        let id = value.as_int().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| RowProblem::expected(&format!("{name}[{number}]"), "a token id", value))
    });
    ids.collect()
}
