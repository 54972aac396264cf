//! One turn of a conversation.

use super::{
    super::{error::RowProblem, value::Value},
    IMAGE_TOKEN, ImageRef, RowOptions,
    fields::{CONTENT, Names, PART_IMAGES, Reader, find, keys},
    images::image_ref,
};

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Instructions of whoever runs the model.
    System,
    /// Instructions of whoever builds on it.
    Developer,
    /// The one who asks.
    User,
    /// The model.
    Assistant,
    /// What a tool answers.
    Tool,
}

impl Role {
    /// Every role.
    pub const ALL: [Role; 5] = [
        Role::System,
        Role::Developer,
        Role::User,
        Role::Assistant,
        Role::Tool,
    ];

    /// Name in rows and templates.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::Developer => "developer",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }

    /// The role that rows call so.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "system" => Role::System,
            "developer" => Role::Developer,
            "user" | "human" => Role::User,
            "assistant" | "gpt" | "chatgpt" | "bot" | "model" => Role::Assistant,
            "tool" | "ipython" | "function" => Role::Tool,
            _ => return None,
        })
    }
}

/// A piece of a turn's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// An image.
    Image,
    /// Text without placeholders.
    Text(String),
}

/// One turn.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said; [`IMAGE_TOKEN`] where an image stands.
    pub content: String,
    /// The same in pieces, if the row has it so.
    pub parts: Option<Vec<Part>>,
    /// What else a template may read: `name`, `tool_calls`, `tool_call_id`, `reasoning_content`, …, as in the row.
    pub extra: Vec<(String, Value)>,
    /// Whether it is trained, if the row says so.
    pub train: Option<bool>,
}

impl Message {
    /// A turn that says a text.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
            parts: None,
            extra: Vec::new(),
            train: None,
        }
    }

    /// Number of images in the content.
    pub fn num_images(&self) -> usize {
        self.content.matches(IMAGE_TOKEN).count()
    }

    /// Content without placeholders.
    pub fn text(&self) -> String {
        self.content.replace(IMAGE_TOKEN, "").trim().to_owned()
    }
}

/// Keys of a turn that templates read.
const EXTRA: [&str; 5] = [
    "name",
    "tool_calls",
    "tool_call_id",
    "reasoning_content",
    "thinking",
];

/// Reads a turn. `images` gets one entry for each placeholder: the image itself where the part holds it.
pub(super) fn parse(
    reader: &Reader<'_>,
    turn: &Value,
    place: &str,
    images: &mut Vec<Option<ImageRef>>,
) -> Result<Message, RowProblem> {
    let fields = &reader.options.fields;
    let Value::Object(entries) = turn else {
        return Err(RowProblem::expected(
            place,
            "an object with role and content",
            turn,
        ));
    };
    let role_names = Names::new(fields.role.as_ref(), &["role", "from"]);
    let content_names = Names::new(fields.content.as_ref(), &CONTENT);
    let train_names = Names::new(fields.train.as_ref(), &["train", "weight"]);
    let extra: Vec<(String, Value)> = entries
        .iter()
        .filter(|(name, value)| EXTRA.contains(&name.as_str()) && *value != Value::Null)
        .cloned()
        .collect();
    let Some((role_name, role)) = find(turn, role_names)? else {
        return Err(missing(turn, place, role_names.first()));
    };
    let role_place = format!("{place}.{role_name}");
    let role = match role {
        Value::Text(name) => role_of(name, reader.options, &role_place)?,
        other => return Err(RowProblem::expected(&role_place, "text", other)),
    };
    let found = find(turn, content_names)?;
    let content_name = found.map_or(content_names.first(), |(name, _)| name);
    let content_place = format!("{place}.{content_name}");
    let calls_tools = extra.iter().any(|(name, _)| name == "tool_calls");
    let (content, parts) = match found {
        Some((_, value)) => content(reader, value, &content_place, images)?,
        // A turn that only calls tools says nothing.
        None if calls_tools => (String::new(), None),
        None if turn.as_object().is_some_and(|entries| has(entries, content_name)) => {
            return Err(RowProblem::expected(&content_place, TEXT_OR_PARTS, &Value::Null));
        }
        None => return Err(missing(turn, place, content_name)),
    };
    let train = train_flag(turn, train_names, place)?;
    let known = |name: &str| {
        [role_names, content_names, train_names]
            .iter()
            .any(|names| names.given == Some(name) || names.usual.contains(&name))
            || EXTRA.contains(&name)
    };
    let unknown = entries
        .iter()
        .find(|(name, value)| !known(name) && *value != Value::Null);
    if let Some((name, _)) = unknown {
        return Err(RowProblem::UnknownField {
            place: place.to_owned(),
            name: name.clone(),
        });
    }
    Ok(Message {
        role,
        content,
        parts,
        extra,
        train,
    })
}

const TEXT_OR_PARTS: &str = "a string or a list of parts";

fn has(entries: &[(String, Value)], name: &str) -> bool {
    entries.iter().any(|(known, _)| known == name)
}

fn missing(turn: &Value, place: &str, name: &str) -> RowProblem {
    RowProblem::field(
        place,
        format!("it has no \"{name}\"; its keys are: {}", keys(turn)),
    )
}

fn role_of(name: &str, options: &RowOptions, place: &str) -> Result<Role, RowProblem> {
    let given = options.roles.iter().find(|(written, _)| written == name);
    given
        .map(|(_, role)| *role)
        .or_else(|| Role::from_name(name))
        .ok_or_else(|| RowProblem::Role {
            place: place.to_owned(),
            role: name.to_owned(),
        })
}

/// Whether a turn is trained: a truth value, or a weight of 0 or 1.
fn train_flag(turn: &Value, names: Names<'_>, place: &str) -> Result<Option<bool>, RowProblem> {
    let Some((name, value)) = find(turn, names)? else {
        return Ok(None);
    };
    match value {
        Value::Bool(train) => Ok(Some(*train)),
        Value::Int(0) => Ok(Some(false)),
        Value::Int(1) => Ok(Some(true)),
        Value::Float(weight) if *weight == 0.0 => Ok(Some(false)),
        Value::Float(weight) if *weight == 1.0 => Ok(Some(true)),
        other => {
            let place = format!("{place}.{name}");
            Err(RowProblem::expected(&place, "true, false, 0 or 1", other))
        }
    }
}

type Content = (String, Option<Vec<Part>>);

fn content(
    reader: &Reader<'_>,
    value: &Value,
    place: &str,
    images: &mut Vec<Option<ImageRef>>,
) -> Result<Content, RowProblem> {
    match value {
        Value::Text(text) => {
            let text = reader.placeholders(text)?.into_owned();
            let count = text.matches(IMAGE_TOKEN).count();
            images.extend(std::iter::repeat_with(|| None).take(count));
            Ok((text, None))
        }
        Value::List(values) => {
            let mut content = String::new();
            let mut parts = Vec::with_capacity(values.len());
            for (number, value) in values.iter().enumerate() {
                part(reader, value, &format!("{place}[{number}]"), &mut parts, images)?;
            }
            for part in &parts {
                match part {
                    Part::Image => content.push_str(IMAGE_TOKEN),
                    Part::Text(text) => content.push_str(text),
                }
            }
            Ok((content, Some(parts)))
        }
        other => Err(RowProblem::expected(place, TEXT_OR_PARTS, other)),
    }
}

/// Reads a part. Tables write the keys of all kinds into each, so null beside what counts is fine.
fn part(
    reader: &Reader<'_>,
    value: &Value,
    place: &str,
    parts: &mut Vec<Part>,
    images: &mut Vec<Option<ImageRef>>,
) -> Result<(), RowProblem> {
    let kind = value.get("type").and_then(Value::as_text);
    let known: &[&str] = match kind {
        Some("text") => &["text"],
        Some("image" | "image_url") => &PART_IMAGES,
        Some(other) => {
            let reason = format!("a part of the type {other:?}; a part is \"text\" or \"image\"");
            return Err(RowProblem::field(place, reason));
        }
        None => {
            let reason = "a part needs a \"type\": \"text\" or \"image\"".to_owned();
            return Err(RowProblem::field(place, reason));
        }
    };
    let entries = value.as_object().unwrap_or_default();
    let unknown = entries
        .iter()
        .find(|(name, value)| name != "type" && !known.contains(&name.as_str()) && *value != Value::Null);
    if let Some((name, _)) = unknown {
        return Err(RowProblem::UnknownField {
            place: place.to_owned(),
            name: name.clone(),
        });
    }
    if kind == Some("text") {
        let text = match value.get("text") {
            Some(Value::Text(text)) => reader.placeholders(text)?,
            Some(other) => return Err(RowProblem::expected(&format!("{place}.text"), "text", other)),
            None => return Err(missing(value, place, "text")),
        };
        for (number, text) in text.split(IMAGE_TOKEN).enumerate() {
            if number > 0 {
                parts.push(Part::Image);
                images.push(None);
            }
            if number == 0 || !text.is_empty() {
                parts.push(Part::Text(text.to_owned()));
            }
        }
        return Ok(());
    }
    let mut held = known.iter().filter_map(|name| Some((*name, value.get(name)?)));
    let image = match (held.next(), held.next()) {
        (Some((one, _)), Some((other, _))) => {
            return Err(RowProblem::Twice {
                names: format!("{one:?} and {other:?}"),
            });
        }
        (Some((name, value)), _) => Some(image_ref(name, value, &format!("{place}.{name}"))?),
        (None, _) => None,
    };
    parts.push(Part::Image);
    images.push(image);
    Ok(())
}
