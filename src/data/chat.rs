//! Chat rows: one conversation a line, with the paths of its images.
//!
//! ```json
//! {"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
//!               {"role": "assistant", "content": "A red circle."}],
//!  "images": ["images/000001.png"], "tags": ["shape"]}
//! ```
//! Content is a string or a list of parts. An image part and the literal [`IMAGE_TOKEN`] mean the same, as they do
//! once a Hugging Face template has rendered the row. `tags` is optional: one name (or null) for each assistant turn,
//! by which evaluation groups its accuracy. Other keys of a row are ignored; other keys of a message are refused.

use std::{fmt, path::PathBuf};

use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};

use super::error::RowProblem;

/// Stands for one image in text.
pub const IMAGE_TOKEN: &str = "<image>";

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions.
    System,
    /// The one who asks.
    User,
    /// The model; the only role that is trained.
    Assistant,
}

impl Role {
    /// Name in rows and templates.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        }
    }
}

/// One turn.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said; [`IMAGE_TOKEN`] where an image stands.
    #[serde(deserialize_with = "content")]
    pub content: String,
}

impl Message {
    /// Number of images in the content.
    pub fn num_images(&self) -> usize {
        self.content.matches(IMAGE_TOKEN).count()
    }

    /// Content without placeholders.
    pub fn text(&self) -> String {
        self.content.replace(IMAGE_TOKEN, "").trim().to_owned()
    }
}

/// One conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatRow {
    /// At least one turn.
    pub messages: Vec<Message>,
    /// As many as there are placeholders, as written in the row.
    pub images: Vec<PathBuf>,
    /// One for each assistant turn.
    pub tags: Vec<Option<String>>,
}

/// Reads one line.
///
/// # Errors
/// What is wrong with it; the caller knows file and line.
pub fn parse_row(line: &[u8]) -> Result<ChatRow, RowProblem> {
    let RawRow {
        messages,
        images,
        tags,
    } = serde_json::from_slice(line).map_err(RowProblem::json)?;
    if messages.is_empty() {
        return Err(RowProblem::NoMessages);
    }
    let images = images.unwrap_or_default();
    let placeholders = messages.iter().map(Message::num_images).sum();
    if placeholders != images.len() {
        return Err(RowProblem::Placeholders {
            placeholders,
            images: images.len(),
        });
    }
    let turns = messages
        .iter()
        .filter(|message| message.role == Role::Assistant)
        .count();
    let tags = tags.unwrap_or_else(|| vec![None; turns]);
    if tags.len() != turns {
        return Err(RowProblem::Tags {
            tags: tags.len(),
            turns,
        });
    }
    Ok(ChatRow {
        messages,
        images,
        tags,
    })
}

#[derive(Deserialize)]
struct RawRow {
    messages: Vec<Message>,
    images: Option<Vec<PathBuf>>,
    tags: Option<Vec<Option<String>>>,
}

/// Tables write the keys of all kinds into each part, so `"text": null` beside an image is fine.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPart {
    r#type: PartType,
    text: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum PartType {
    Image,
    Text,
}

/// Not an untagged enum: its errors would not say which part is wrong, nor why.
fn content<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    struct Content;
    impl<'de> Visitor<'de> for Content {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string or a list of parts")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<String, E> {
            Ok(text.to_owned())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<String, A::Error> {
            let mut content = String::new();
            while let Some(RawPart { r#type, text }) = parts.next_element()? {
                match (r#type, text) {
                    (PartType::Image, None) => content.push_str(IMAGE_TOKEN),
                    (PartType::Text, Some(text)) => content.push_str(&text),
                    (PartType::Image, Some(_)) => {
                        return Err(serde::de::Error::custom("an image part with text"));
                    }
                    (PartType::Text, None) => return Err(serde::de::Error::missing_field("text")),
                }
            }
            Ok(content)
        }
    }
    deserializer.deserialize_any(Content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_the_literal_token_mean_the_same() {
        let parts = br#"{"id": 7, "messages": [
            {"role": "user", "content": [{"type": "image", "text": null}, {"type": "text", "text": "What?"}]},
            {"role": "assistant", "content": "It."}], "images": ["a.png"]}"#;
        let literal = br#"{"messages": [{"role": "user", "content": "<image>What?"},
            {"role": "assistant", "content": [{"type": "text", "text": "It."}]}], "images": ["a.png"]}"#;
        let row = parse_row(parts).unwrap();
        assert_eq!(row, parse_row(literal).unwrap());
        assert_eq!(row.messages[0].text(), "What?");
        assert_eq!(row.tags, [None]);
    }

    #[test]
    fn what_is_wrong_with_a_row_is_said() {
        for (line, expected) in [
            ("{", "column 1: EOF while parsing an object"),
            (r#"{"message": []}"#, "missing field `messages`"),
            (r#"{"messages": []}"#, "messages is empty"),
            (
                r#"{"messages": [{"role": "gpt", "content": ""}]}"#,
                "unknown variant `gpt`, expected one of",
            ),
            (
                r#"{"messages": [{"role": "user", "content": null}]}"#,
                "expected a string or a list of parts",
            ),
            (
                r#"{"messages": [{"role": "user", "content": "", "tool_calls": []}]}"#,
                "unknown field `tool_calls`",
            ),
            (
                r#"{"messages": [{"role": "user", "content": [{"type": "video"}]}]}"#,
                "unknown variant `video`",
            ),
            (
                r#"{"messages": [{"role": "user", "content": [{"type": "text"}]}]}"#,
                "missing field `text`",
            ),
            (
                r#"{"messages": [{"role": "user", "content": [{"type": "image", "url": "x"}]}]}"#,
                "unknown field `url`",
            ),
            (
                r#"{"messages": [{"role": "user", "content": "<image>"}]}"#,
                "1 image placeholders in the text, but 0",
            ),
            (
                r#"{"messages": [{"role": "user", "content": ""}], "images": ["a"]}"#,
                "0 image placeholders in the text",
            ),
            (
                r#"{"messages": [{"role": "assistant", "content": ""}], "tags": []}"#,
                "0 tags for 1 assistant turns",
            ),
        ] {
            let message = parse_row(line.as_bytes()).unwrap_err().to_string();
            assert!(message.contains(expected), "{line}: {message}");
            assert!(!message.contains("at line"), "{message}");
        }
    }
}
