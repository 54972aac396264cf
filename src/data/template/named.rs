//! Chat templates that Brazier brings. Each marks what is trained: the answer and its end.

/// A chat template by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamedTemplate {
    /// `<|im_start|>role`, segment by segment; see [`ChatTemplate::chat_ml`](super::ChatTemplate::chat_ml).
    ChatMl,
    /// Llama 3: `<|start_header_id|>role<|end_header_id|>`, without tools.
    Llama3,
    /// Qwen 3: ChatML with thinking and tools. Thoughts before the last question are dropped, as Qwen does.
    Qwen3,
    /// Apertus: `<|user_start|>`, `<|assistant_start|>`, …; without the date and the default turns of its own template.
    Apertus,
    /// The contents one after the other, and the end of the sequence after each answer: for captions.
    Plain,
    /// Stanford Alpaca's `### Instruction:`, `### Input:`, `### Response:`.
    Alpaca,
    /// LLaVA-JP's Japanese version of it: `### 指示:`, `### 応答:`.
    LlavaJp,
}

impl NamedTemplate {
    /// Every one.
    pub const ALL: [NamedTemplate; 7] = [
        NamedTemplate::ChatMl,
        NamedTemplate::Llama3,
        NamedTemplate::Qwen3,
        NamedTemplate::Apertus,
        NamedTemplate::Plain,
        NamedTemplate::Alpaca,
        NamedTemplate::LlavaJp,
    ];

    /// Name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            NamedTemplate::ChatMl => "chatml",
            NamedTemplate::Llama3 => "llama3",
            NamedTemplate::Qwen3 => "qwen3",
            NamedTemplate::Apertus => "apertus",
            NamedTemplate::Plain => "plain",
            NamedTemplate::Alpaca => "alpaca",
            NamedTemplate::LlavaJp => "llava_jp",
        }
    }

    /// The template of a name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|template| template.name() == name)
    }

    /// All names, for messages.
    pub fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }

    /// The template as Jinja.
    pub fn source(self) -> &'static str {
        match self {
            NamedTemplate::ChatMl => super::CHAT_TEMPLATE_JINJA,
            NamedTemplate::Llama3 => include_str!("named/llama3.jinja"),
            NamedTemplate::Qwen3 => include_str!("named/qwen3.jinja"),
            NamedTemplate::Apertus => include_str!("named/apertus.jinja"),
            NamedTemplate::Plain => include_str!("named/plain.jinja"),
            NamedTemplate::Alpaca => include_str!("named/alpaca.jinja"),
            NamedTemplate::LlavaJp => include_str!("named/llava_jp.jinja"),
        }
    }
}
