//! From a conversation to tokens: which text surrounds the turns, and which of the tokens are trained.
//!
//! Labels follow from rendering: ChatML yields segments that know whether they are trained, and for Jinja see [`spans`].
//! Never does a label depend on finding a marker that a row could forge. Text of a row that looks like a special token is
//! encoded as plain text.

mod chatml;
mod date;
mod encode;
mod find;
mod jinja;
mod limits;
mod masks;
mod named;
mod python;
mod spans;

pub use chatml::{CHAT_TEMPLATE_JINJA, TURN_END, TURN_START};
pub use date::Date;
pub use encode::Encoded;
pub use masks::{Masks, TrainEos};
pub use named::NamedTemplate;

pub(super) use encode::Rendered;
pub(super) use find::Ends;

use std::{borrow::Cow, path::PathBuf, sync::Arc};

use super::{
    error::{DataError, RowProblem},
    rows::{Conversation, IMAGE_TOKEN, Message},
    tokenizer::Tokenizer,
    value::Value,
};
use crate::fs;
use jinja::JinjaTemplate;

/// Where a chat template comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TemplateChoice {
    /// The tokenizer's own.
    Tokenizer,
    /// One that Brazier brings.
    Named(NamedTemplate),
    /// A file with Jinja in it.
    File(PathBuf),
}

/// How conversations are rendered.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TemplateOptions {
    /// Which template; left out: the tokenizer's own if it has one, else ChatML.
    pub choice: Option<TemplateChoice>,
    /// Variables of the template, as `enable_thinking`.
    pub variables: Vec<(String, Value)>,
    /// What `strftime_now` says.
    pub date: Option<Date>,
}

/// What surrounds the turns of a conversation. Cheap to clone.
#[derive(Clone)]
pub struct ChatTemplate {
    name: Arc<str>,
    form: Form,
}

#[derive(Clone)]
enum Form {
    /// Segment by segment.
    ChatMl,
    Jinja(Arc<JinjaTemplate>),
}

impl ChatTemplate {
    /// `<|im_start|>role\ncontent<|im_end|>\n`, without a system turn of its own.
    pub fn chat_ml() -> Self {
        Self {
            name: NamedTemplate::ChatMl.name().into(),
            form: Form::ChatMl,
        }
    }

    /// The template that the options name. A tokenizer whose template is [`CHAT_TEMPLATE_JINJA`] means ChatML, with
    /// whichever token for images.
    ///
    /// # Errors
    /// If it is not there or is not a template.
    pub fn choose(options: &TemplateOptions, tokenizer: &Tokenizer) -> Result<Self, DataError> {
        let own = tokenizer.chat_template();
        let (name, source) = match (&options.choice, own) {
            (None, None) | (Some(TemplateChoice::Named(NamedTemplate::ChatMl)), _) => {
                return Self::without_variables(options);
            }
            (None | Some(TemplateChoice::Tokenizer), Some(own))
                if own == CHAT_TEMPLATE_JINJA || own == for_others(CHAT_TEMPLATE_JINJA, tokenizer) =>
            {
                return Self::without_variables(options);
            }
            (None | Some(TemplateChoice::Tokenizer), Some(own)) => {
                ("of the tokenizer".to_owned(), own.to_owned())
            }
            (Some(TemplateChoice::Tokenizer), None) => {
                return Err(DataError::Template {
                    name: "of the tokenizer".into(),
                    reason: format!(
                        "{} brings none\n  hint: name one under data.template: {}, or a file",
                        tokenizer.path().display(),
                        NamedTemplate::names()
                    ),
                });
            }
            (Some(TemplateChoice::Named(named)), _) => (named.name().to_owned(), named.source().to_owned()),
            (Some(TemplateChoice::File(path)), _) => (path.display().to_string(), fs::read_to_string(path)?),
        };
        match JinjaTemplate::new(&source, tokenizer, &options.variables, options.date) {
            Ok(template) => Ok(Self {
                name: name.into(),
                form: Form::Jinja(template.into()),
            }),
            Err(reason) => Err(DataError::Template { name, reason }),
        }
    }

    fn without_variables(options: &TemplateOptions) -> Result<Self, DataError> {
        match options.variables.first() {
            None => Ok(Self::chat_ml()),
            Some((variable, _)) => Err(DataError::Template {
                name: NamedTemplate::ChatMl.name().into(),
                reason: format!(
                    "it has no variables, and `{variable}` is given\n  hint: remove data.template_options"
                ),
            }),
        }
    }

    /// Whether it is ChatML as written here, each turn encoded by itself.
    pub(super) fn is_chat_ml(&self) -> bool {
        matches!(self.form, Form::ChatMl)
    }

    /// The same template for other programs, which know no [`IMAGE_TOKEN`] but the tokenizer's own.
    pub fn jinja(&self, tokenizer: &Tokenizer) -> Cow<'_, str> {
        for_others(
            match &self.form {
                Form::ChatMl => CHAT_TEMPLATE_JINJA,
                Form::Jinja(template) => template.source(),
            },
            tokenizer,
        )
    }

    /// Ids after which an answer is complete: the end of the turn, and the end of the sequence where there is one.
    ///
    /// # Errors
    /// If the tokenizer lacks a token that the template needs, or nothing ends an answer.
    pub fn stop_ids(&self, tokenizer: &Tokenizer) -> Result<Vec<u32>, DataError> {
        let mut ids = match &self.form {
            Form::ChatMl => {
                tokenizer.require(TURN_START, "the chat template opens a turn with it")?;
                vec![tokenizer.require(TURN_END, "the chat template closes a turn with it")?]
            }
            Form::Jinja(template) => {
                let (end, _) = self.turn_end(template, tokenizer)?;
                let end = end.map(|end| tokenizer.require(&end, "the chat template closes a turn with it"));
                end.transpose()?.into_iter().collect()
            }
        };
        ids.extend(tokenizer.eos_id().filter(|eos| !ids.contains(eos)));
        match ids.is_empty() {
            true => Err(self.problem("nothing ends an answer: no special token follows it".into())),
            false => Ok(ids),
        }
    }

    /// Checks that a model trained with these masks learns to stop.
    ///
    /// # Errors
    /// If the template closes an answer with no special token, or marks it as not trained, unless the user wants that.
    pub fn check(&self, tokenizer: &Tokenizer, masks: &Masks) -> Result<(), DataError> {
        let Form::Jinja(template) = &self.form else {
            return self.stop_ids(tokenizer).map(|_| ());
        };
        let (end, trained) = self.turn_end(template, tokenizer)?;
        match (end, masks.eos) {
            (_, Some(TrainEos::None)) => Ok(()),
            (None, _) => Err(self.problem(
                "no special token follows an answer, so the model would not learn to stop\n  \
                 hint: use another template, or write data.masks.eos: none"
                    .into(),
            )),
            (Some(end), None) if !trained => Err(self.problem(format!(
                "its generation block ends before `{end}`, so the model would not learn to stop\n  \
                 hint: write data.masks.eos: turn to train it all the same, or none not to"
            ))),
            (Some(_), _) => Ok(()),
        }
    }

    fn turn_end(
        &self,
        template: &JinjaTemplate,
        tokenizer: &Tokenizer,
    ) -> Result<(Option<String>, bool), DataError> {
        spans::turn_end(template, tokenizer).map_err(|problem| match problem {
            RowProblem::Template { reason } => self.problem(reason),
            other => self.problem(other.to_string()),
        })
    }

    fn problem(&self, reason: String) -> DataError {
        DataError::Template {
            name: self.name.to_string(),
            reason,
        }
    }

    /// Renders and encodes a conversation, each image as one image token.
    ///
    /// # Errors
    /// If the template refuses it, the tokenizer fails, or it cannot be told what is trained.
    pub(super) fn encode(
        &self,
        tokenizer: &Tokenizer,
        conversation: &Conversation,
        masks: &Masks,
        image_id: Option<u32>,
        ends: Ends,
    ) -> Result<Encoded, RowProblem> {
        let encoded = match &self.form {
            Form::ChatMl => {
                chatml::check(conversation)?;
                chatml::encode_segments(tokenizer, &chatml::segments(&conversation.messages, masks))?
            }
            Form::Jinja(template) => {
                spans::render(template, tokenizer, conversation, masks, ends)?.encode(tokenizer, image_id)?
            }
        };
        match (&encoded.tokens[..], tokenizer.bos_id()) {
            ([first, second, ..], Some(bos)) if *first == bos && *second == bos => {
                let token = tokenizer.id_to_token(bos).unwrap_or_default();
                Err(RowProblem::DoubleBos { token })
            }
            _ => Ok(encoded),
        }
    }

    /// Tokens of a conversation that the assistant is about to continue, each image as one image token.
    pub(super) fn encode_start(
        &self,
        tokenizer: &Tokenizer,
        conversation: &Conversation,
    ) -> Result<Vec<u32>, RowProblem> {
        match &self.form {
            Form::ChatMl => {
                chatml::check(conversation)?;
                let mut segments = chatml::segments(&conversation.messages, &Masks::default());
                segments.push(chatml::generation_prompt());
                Ok(chatml::encode_segments(tokenizer, &segments)?.tokens)
            }
            Form::Jinja(template) => {
                let rendered = Rendered {
                    text: spans::prompt(template, tokenizer, conversation)?,
                    ..Rendered::default()
                };
                Ok(rendered.encode(tokenizer, None)?.tokens)
            }
        }
    }
}

/// A template's text with the tokenizer's token in the place of [`IMAGE_TOKEN`].
fn for_others<'a>(source: &'a str, tokenizer: &Tokenizer) -> Cow<'a, str> {
    match tokenizer.image_token() {
        IMAGE_TOKEN => source.into(),
        token => source.replace(IMAGE_TOKEN, token).into(),
    }
}

/// Input ids of a conversation that the assistant is about to continue, each image as `num_image_tokens` image tokens.
///
/// # Errors
/// If the template refuses it, the tokenizer fails or lacks the image token, or content would become a control token.
pub fn encode_prompt(
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    conversation: &Conversation,
    num_image_tokens: usize,
) -> Result<Vec<i32>, DataError> {
    let tokens = template
        .encode_start(tokenizer, conversation)
        .map_err(|problem| match problem {
            RowProblem::Encode(error) => DataError::Encode(error),
            RowProblem::Template { reason } => template.problem(reason),
            other => template.problem(other.to_string()),
        })?;
    let has_images = conversation
        .messages
        .iter()
        .any(|message| message.num_images() > 0);
    let image_id = match has_images {
        true => Some(tokenizer.image_token_id()?),
        false => None,
    };
    Ok(expand_images(&tokens, image_id, num_image_tokens))
}

/// A conversation of turns as they are.
impl From<Vec<Message>> for Conversation {
    fn from(messages: Vec<Message>) -> Self {
        Conversation::new(messages)
    }
}

/// Repeats each image token.
pub(super) fn expand_images(tokens: &[u32], image_id: Option<u32>, num_image_tokens: usize) -> Vec<i32> {
    let copies = |token: u32| {
        if Some(token) == image_id {
            num_image_tokens
        } else {
            1
        }
    };
    tokens
        .iter()
        .flat_map(|&token| std::iter::repeat_n(token as i32, copies(token)))
        .collect()
}

#[cfg(test)]
mod tests;
