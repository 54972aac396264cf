//! Finding what a row says under the names that the user or the custom of the field give it.

use std::borrow::Cow;

use super::{
    super::{error::RowProblem, value::Value},
    IMAGE_TOKEN, RowKind, RowOptions,
};

pub(super) const MESSAGES: [&str; 2] = ["messages", "conversations"];
pub(super) const IMAGES: [&str; 3] = ["images", "image", "modalities"];
pub(super) const CONTENT: [&str; 2] = ["content", "value"];
/// Keys of a part under which its image may stand.
pub(super) const PART_IMAGES: [&str; 5] = ["image", "image_url", "path", "url", "base64"];

/// Names of a thing in rows.
#[derive(Clone, Copy)]
pub(crate) struct Names<'a> {
    /// The user's name for it.
    pub(super) given: Option<&'a str>,
    /// Where the user gives none.
    pub(super) usual: &'static [&'static str],
}

impl<'a> Names<'a> {
    pub(super) fn new(given: Option<&'a String>, usual: &'static [&'static str]) -> Self {
        let given = given.map(String::as_str);
        Self { given, usual }
    }

    /// The first name, for messages.
    pub(super) fn first(&self) -> &'a str {
        self.given.unwrap_or(self.usual[0])
    }
}

/// A row and how to read it.
pub(crate) struct Reader<'a> {
    pub(super) row: &'a Value,
    pub(super) options: &'a RowOptions,
}

macro_rules! names {
    ($($name:ident: $usual:expr;)*) => {
        $(pub(crate) fn $name(&self) -> Names<'a> { Names::new(self.options.fields.$name.as_ref(), &$usual) })*
    };
}

impl<'a> Reader<'a> {
    names! {
        messages: MESSAGES;
        system: ["system"];
        tools: ["tools"];
        images: IMAGES;
        text: ["text"];
        input_ids: ["input_ids"];
        prompt: ["prompt"];
        completion: ["completion"];
        instruction: ["instruction"];
        input: ["input", "context"];
        output: ["output", "response"];
        question: ["question"];
        answer: ["answer", "answers"];
        label: ["label"];
    }

    /// The value under one of the names.
    pub(crate) fn find(&self, names: Names<'a>) -> Result<Option<(&'a str, &'a Value)>, RowProblem> {
        find(self.row, names)
    }

    /// The value under one of the names, which must be there.
    pub(super) fn require(&self, names: Names<'a>) -> Result<(&'a str, &'a Value), RowProblem> {
        self.find(names)?.ok_or_else(|| self.missing(names.first()))
    }

    /// The text under one of the names, with placeholders as [`IMAGE_TOKEN`].
    pub(super) fn text_of(&self, names: Names<'a>) -> Result<String, RowProblem> {
        let (name, value) = self.require(names)?;
        self.to_text(name, value)
    }

    /// The same, or nothing.
    pub(super) fn optional_text(&self, names: Names<'a>) -> Result<Option<String>, RowProblem> {
        let found = self.find(names)?;
        found.map(|(name, value)| self.to_text(name, value)).transpose()
    }

    pub(super) fn to_text(&self, name: &str, value: &Value) -> Result<String, RowProblem> {
        match value {
            Value::Text(text) => self.placeholders(text).map(Cow::into_owned),
            other => Err(RowProblem::expected(name, "text", other)),
        }
    }

    /// Text of the row with its placeholders as [`IMAGE_TOKEN`].
    pub(super) fn placeholders<'t>(&self, text: &'t str) -> Result<Cow<'t, str>, RowProblem> {
        match self.options.image_token.as_deref() {
            None | Some(IMAGE_TOKEN) => Ok(Cow::Borrowed(text)),
            Some(token) if text.contains(IMAGE_TOKEN) => Err(RowProblem::ForeignPlaceholder {
                token: token.to_owned(),
            }),
            Some(token) => Ok(Cow::Owned(text.replace(token, IMAGE_TOKEN))),
        }
    }

    /// What the row is: as the user says, or as its keys do.
    pub(super) fn kind(&self) -> Result<RowKind, RowProblem> {
        if self.options.kind != RowKind::Auto {
            return Ok(self.options.kind);
        }
        let has = |names: Names<'a>| Ok::<_, RowProblem>(self.find(names)?.is_some());
        let mut kinds = Vec::new();
        if has(self.messages())? {
            kinds.push(RowKind::Chat);
        }
        if has(self.prompt())? && has(self.completion())? {
            kinds.push(RowKind::PromptCompletion);
        }
        if has(self.instruction())? && has(self.output())? {
            kinds.push(RowKind::Instruction);
        }
        if has(self.question())? && has(self.answer())? {
            kinds.push(RowKind::Vqa);
        }
        if has(self.text())? || has(self.input_ids())? {
            kinds.push(RowKind::Text);
        }
        match kinds[..] {
            [kind] => Ok(kind),
            _ => Err(RowProblem::Kind {
                seen: self.keys(),
                kinds: kinds.iter().map(|kind| kind.name()).collect(),
            }),
        }
    }

    fn missing(&self, name: &str) -> RowProblem {
        RowProblem::MissingField {
            name: name.to_owned(),
            seen: self.keys(),
        }
    }

    fn keys(&self) -> String {
        keys(self.row)
    }
}

/// Names of an object's values, for messages.
pub(super) fn keys(value: &Value) -> String {
    const MOST: usize = 20;
    let entries = value.as_object().unwrap_or_default();
    let mut names: Vec<&str> = entries.iter().take(MOST).map(|(name, _)| name.as_str()).collect();
    if entries.len() > MOST {
        names.push("…");
    }
    names.join(", ")
}

/// The value under the given name, or under exactly one of the usual ones.
pub(super) fn find<'a>(
    value: &'a Value,
    names: Names<'a>,
) -> Result<Option<(&'a str, &'a Value)>, RowProblem> {
    if let Some(path) = names.given {
        return Ok(reach(value, path).map(|found| (path, found)));
    }
    let mut found = names
        .usual
        .iter()
        .filter_map(|name| Some((*name, value.get(name)?)));
    match (found.next(), found.next()) {
        (Some((one, _)), Some((other, _))) => Err(RowProblem::Twice {
            names: format!("{one:?} and {other:?}"),
        }),
        (first, _) => Ok(first),
    }
}

/// The value at `a.b`, `a[b]` or `a[0]`; a key that is written just so comes first.
fn reach<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    if let Some(found) = value.get(path) {
        return Some(found);
    }
    let mut at = value;
    for step in path.split(['.', '[', ']']).filter(|step| !step.is_empty()) {
        at = match at {
            Value::List(values) => values.get(step.parse::<usize>().ok()?)?,
            object => object.get(step)?,
        };
    }
    (*at != Value::Null).then_some(at)
}
