//! How the rows of a file are to be read.

use std::fmt;

use super::Role;

/// What the rows of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RowKind {
    /// Whatever the keys of each row say.
    #[default]
    Auto,
    /// Turns with a role and a content: `messages`, or `conversations`.
    Chat,
    /// A text (or tokens) for pre-training.
    Text,
    /// `prompt` and `completion`.
    PromptCompletion,
    /// `instruction`, `input`, `output`, as Alpaca has them.
    Instruction,
    /// `question` and `answer`, mostly about an `image`.
    Vqa,
    /// Text or tokens with a `label`.
    Classification,
}

impl RowKind {
    /// Name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            RowKind::Auto => "auto",
            RowKind::Chat => "chat",
            RowKind::Text => "text",
            RowKind::PromptCompletion => "prompt_completion",
            RowKind::Instruction => "instruction",
            RowKind::Vqa => "vqa",
            RowKind::Classification => "classification",
        }
    }
}

impl fmt::Display for RowKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Names of keys other than the usual ones. `a.b`, `a[b]` and `a[0]` reach inside a value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fields {
    /// The turns of a conversation; usually `messages` or `conversations`.
    pub messages: Option<String>,
    /// Who speaks, in a turn; usually `role` or `from`.
    pub role: Option<String>,
    /// What is said, in a turn; usually `content` or `value`.
    pub content: Option<String>,
    /// Whether a turn is trained; usually `train` or `weight`.
    pub train: Option<String>,
    /// What stands before the turns, for a system turn; usually `system`.
    pub system: Option<String>,
    /// Tools that the model may call; usually `tools`.
    pub tools: Option<String>,
    /// Images; usually `images`, `image` or `modalities`.
    pub images: Option<String>,
    /// A text; usually `text`.
    pub text: Option<String>,
    /// Tokens; usually `input_ids`.
    pub input_ids: Option<String>,
    /// A prompt; usually `prompt`.
    pub prompt: Option<String>,
    /// What follows it; usually `completion`.
    pub completion: Option<String>,
    /// An instruction; usually `instruction`.
    pub instruction: Option<String>,
    /// What the instruction is about; usually `input` or `context`.
    pub input: Option<String>,
    /// The answer to an instruction; usually `output` or `response`.
    pub output: Option<String>,
    /// A question; usually `question`.
    pub question: Option<String>,
    /// Its answer; usually `answer` or `answers`.
    pub answer: Option<String>,
    /// A class; usually `label`.
    pub label: Option<String>,
}

/// How the rows of a file are to be read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RowOptions {
    /// What they are.
    pub kind: RowKind,
    /// Names of keys.
    pub fields: Fields,
    /// Names of roles besides the usual ones, which they replace.
    pub roles: Vec<(String, Role)>,
    /// What stands for an image in these rows; left out: [`IMAGE_TOKEN`](super::IMAGE_TOKEN).
    pub image_token: Option<String>,
}
