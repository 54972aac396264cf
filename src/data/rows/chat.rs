//! Chat rows: one conversation, with its images.
//!
//! ```json
//! {"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
//!               {"role": "assistant", "content": "A red circle."}],
//!  "images": ["images/000001.png"], "tags": ["shape"]}
//! ```
//! Content is a string or a list of parts. An image part and the literal [`IMAGE_TOKEN`](super::IMAGE_TOKEN) mean the
//! same, as they do once a Hugging Face template has rendered the row. `system` is optional: the text of a system turn before
//! the others, as some of ShareGPT's rows have it. So is `tags`: one name (or null) for each
//! assistant turn, by which evaluation groups its accuracy. Other keys of a row are ignored; other keys of a message are
//! refused.

use super::{
    super::{error::RowProblem, value::Value},
    ImageRef, Message, Role,
    fields::Reader,
    images, message,
};

/// One conversation.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Conversation {
    /// At least one turn.
    pub messages: Vec<Message>,
    /// Tools that the assistant may call, as the row has them.
    pub tools: Option<Value>,
    /// As many as there are placeholders.
    pub(in crate::data) images: Vec<ImageRef>,
    /// One for each assistant turn.
    pub(in crate::data) tags: Vec<Option<String>>,
}

impl Conversation {
    /// Turns without images that belong to no row.
    pub fn new(messages: Vec<Message>) -> Self {
        Self {
            messages,
            ..Self::default()
        }
    }
}

/// Reads a chat row.
pub(super) fn parse(reader: &Reader<'_>) -> Result<Conversation, RowProblem> {
    let (name, value) = reader.require(reader.messages())?;
    let parsed;
    let value = match value {
        // Tables that cannot nest hold the turns as JSON.
        Value::Text(json) => {
            parsed = Value::from_json(json.as_bytes())?;
            &parsed
        }
        value => value,
    };
    conversation(reader, name, value, |_| None)
}

/// Turns from a list; `train` says which are trained where they do not say it themselves.
pub(super) fn conversation(
    reader: &Reader<'_>,
    name: &str,
    value: &Value,
    train: impl Fn(usize) -> Option<bool>,
) -> Result<Conversation, RowProblem> {
    let Value::List(turns) = value else {
        return Err(RowProblem::expected(name, "a list of turns", value));
    };
    if turns.is_empty() {
        return Err(RowProblem::NoMessages {
            name: name.to_owned(),
        });
    }
    let mut placeholders = Vec::new();
    let mut messages: Vec<Message> = turns
        .iter()
        .enumerate()
        .map(|(number, turn)| {
            let place = format!("{name}[{number}]");
            let message = message::parse(reader, turn, &place, &mut placeholders)?;
            let train = message.train.or_else(|| train(number));
            Ok(Message { train, ..message })
        })
        .collect::<Result<_, RowProblem>>()?;
    system_turn(reader, &mut messages, &mut placeholders)?;
    let tools = match reader.find(reader.tools())? {
        None => None,
        Some((_, Value::List(tools))) if tools.is_empty() => None,
        Some((_, tools @ Value::List(_))) => Some(tools.clone()),
        Some((name, Value::Text(json))) => Some(tool_list(name, json)?),
        Some((name, other)) => return Err(RowProblem::expected(name, "a list of tools", other)),
    };
    let tags = tags(reader.row, &messages)?;
    Ok(Conversation {
        tools,
        images: images::fill(placeholders, images::listed(reader)?)?,
        tags,
        messages,
    })
}

/// Puts the system turn first that the row has beside its turns.
fn system_turn(
    reader: &Reader<'_>,
    messages: &mut Vec<Message>,
    placeholders: &mut Vec<Option<ImageRef>>,
) -> Result<(), RowProblem> {
    let Some((name, value)) = reader.find(reader.system())? else {
        return Ok(());
    };
    let turn = Message::new(Role::System, reader.to_text(name, value)?);
    match &messages[0] {
        first if first.role != Role::System => {
            placeholders.splice(..0, std::iter::repeat_n(None, turn.num_images()));
            messages.insert(0, turn);
            Ok(())
        }
        first if first.content == turn.content => Ok(()),
        _ => Err(RowProblem::Twice {
            names: format!("{name:?} and a system turn of another text"),
        }),
    }
}

fn tool_list(name: &str, json: &str) -> Result<Value, RowProblem> {
    match Value::from_json(json.as_bytes())? {
        tools @ Value::List(_) => Ok(tools),
        other => Err(RowProblem::expected(name, "a list of tools", &other)),
    }
}

fn tags(row: &Value, messages: &[Message]) -> Result<Vec<Option<String>>, RowProblem> {
    let turns = messages
        .iter()
        .filter(|message| message.role == Role::Assistant)
        .count();
    let tags: Vec<Option<String>> = match row.get("tags") {
        None => return Ok(vec![None; turns]),
        Some(Value::List(tags)) => tags
            .iter()
            .enumerate()
            .map(|(number, tag)| match tag {
                Value::Null => Ok(None),
                Value::Text(tag) => Ok(Some(tag.clone())),
                other => {
                    let place = format!("tags[{number}]");
                    Err(RowProblem::expected(&place, "text or null", other))
                }
            })
            .collect::<Result<_, _>>()?,
        Some(other) => return Err(RowProblem::expected("tags", "a list", other)),
    };
    if tags.len() != turns {
        return Err(RowProblem::Tags {
            tags: tags.len(),
            turns,
        });
    }
    Ok(tags)
}
