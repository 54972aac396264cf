//! Where the turns of a conversation stand in its rendering.

use std::ops::Range;

use super::{
    super::{
        error::RowProblem,
        rows::{Conversation, IMAGE_TOKEN, Message, Part, Role},
        tokenizer::Tokenizer,
        value::Value,
    },
    jinja::{JinjaTemplate, Turns},
    spans::{CONTENT_END, CONTENT_START, take_blocks},
};

/// Whether someone asks where trained turns are complete. Of a template that marks what is trained, it takes one more
/// rendering for each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::data) enum Ends {
    Wanted,
    Unwanted,
}

/// Where a turn stands in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    /// What the turn says.
    pub(super) content: Range<usize>,
    /// The special token that ends it.
    pub(super) end: Option<Range<usize>>,
    /// What the template itself marks as trained.
    pub(super) marked: bool,
    /// Where the text of the next turn may begin, if that is wanted.
    pub(super) complete: usize,
}

/// Finds turns in the text.
pub(super) struct Finder<'a> {
    pub(super) template: &'a JinjaTemplate,
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) conversation: &'a Conversation,
    pub(super) turns: &'a Turns,
    pub(super) text: &'a str,
    pub(super) blocks: &'a [Range<usize>],
    pub(super) ends: Ends,
}

impl Finder<'_> {
    pub(super) fn span(&self, turn: usize) -> Result<Span, RowProblem> {
        let message = &self.conversation.messages[turn];
        if self.template.marks_generation && message.role == Role::Assistant {
            return self.marked_span(turn);
        }
        let (begin, complete) = (self.answer_start(turn), self.complete(turn));
        // Rendering once more is only needed where prompt and end do not say it all.
        let content = match (begin, complete) {
            (Some(_), Some(_)) => None,
            _ => self.content(turn),
        };
        let start = begin.or_else(|| content.as_ref().map(|range| range.start));
        let Some(start) = start else {
            let reason = "the template does not write its text as it is in the row";
            return Err(RowProblem::Mask { turn, reason });
        };
        match (complete, content) {
            (Some(complete), content) if complete >= start => {
                let stripped = start + self.text[start..complete].trim_end().len();
                let text_end = content.map_or(stripped, |range| range.end);
                Ok(self.with_end(message.role, start..complete, text_end))
            }
            _ if calls_tools(message) => match self.end_of_calls(turn) {
                Some(end) => Ok(Span {
                    content: start..end.start,
                    complete: end.end,
                    end: Some(end),
                    marked: false,
                }),
                None => Err(RowProblem::Mask {
                    turn,
                    reason: "the template does not write its calls of tools as they are in the row",
                }),
            },
            (_, Some(content)) => {
                let end = self.leading_special(content.end);
                let complete = end.as_ref().map_or(content.end, |end| end.end);
                Ok(Span {
                    content: start..end.as_ref().map_or(content.end, |end| end.start),
                    end,
                    marked: false,
                    complete,
                })
            }
            _ => {
                let reason = "turns that follow change how the template writes it";
                Err(RowProblem::Mask { turn, reason })
            }
        }
    }

    /// A turn from where it starts to where the conversation up to it ends. What a template writes behind an answer belongs
    /// to it, as calls of tools do; behind other turns it is the template's, as their headers are.
    fn with_end(&self, role: Role, turn: Range<usize>, text_end: usize) -> Span {
        let Range { start, end: complete } = turn;
        let end = self
            .tokenizer
            .trailing_special(&self.text[start..complete])
            .map(|range| start + range.start..start + range.end);
        let content_end = match &end {
            Some(end) if role == Role::Assistant => end.start,
            Some(end) => end.start.min(text_end),
            None => text_end,
        };
        Span {
            content: start..content_end,
            end,
            marked: false,
            complete,
        }
    }

    /// The block that belongs to an assistant's turn.
    fn marked_span(&self, turn: usize) -> Result<Span, RowProblem> {
        let is_assistant = |message: &&Message| message.role == Role::Assistant;
        let messages = &self.conversation.messages;
        if self.blocks.len() != messages.iter().filter(is_assistant).count() {
            let reason = "the template has more or fewer generation blocks than the row has answers";
            return Err(RowProblem::Mask { turn, reason });
        }
        let block = self.blocks[messages[..turn].iter().filter(is_assistant).count()].clone();
        let inside = self.tokenizer.trailing_special(&self.text[block.clone()]);
        let end = match inside {
            Some(range) => Some(block.start + range.start..block.start + range.end),
            None => self.leading_special(block.end),
        };
        let written = end.as_ref().map_or(block.end, |end| end.end.max(block.end));
        let complete = match self.ends {
            Ends::Wanted => self.complete(turn).unwrap_or(written),
            Ends::Unwanted => written,
        };
        Ok(Span {
            content: block,
            end,
            marked: true,
            complete,
        })
    }

    /// Where the template stops when it is asked for a prompt; where it puts nothing before an answer, where the turn before
    /// ends.
    fn answer_start(&self, turn: usize) -> Option<usize> {
        let is_answer = self.conversation.messages[turn].role == Role::Assistant;
        let has_start = self.template.writes_prompts || self.template.headless;
        (is_answer && has_start).then(|| self.prefix(turn, self.template.writes_prompts))?
    }

    /// Where the conversation up to and with a turn ends.
    fn complete(&self, turn: usize) -> Option<usize> {
        if turn + 1 == self.conversation.messages.len() {
            return Some(self.text.len());
        }
        self.prefix(turn + 1, false)
    }

    /// Length of the first turns' rendering, if the text begins with it.
    pub(super) fn prefix(&self, turns: usize, prompt: bool) -> Option<usize> {
        let messages = &self.turns.messages[..turns];
        let rendered = self.template.render(messages, &self.turns.tools, prompt).ok()?;
        let (prefix, _) = take_blocks(rendered);
        self.text.starts_with(&prefix).then_some(prefix.len())
    }

    /// Where the content of a turn stands: rendered once more with marks around it.
    pub(super) fn content(&self, turn: usize) -> Option<Range<usize>> {
        let message = &self.conversation.messages[turn];
        let cores = [Core::All, Core::Stripped, Core::Answer];
        cores
            .into_iter()
            .find_map(|core| self.locate(turn, &with_marks(message, core)?))
    }

    /// Where the marks of a turn stand in the text, if they change nothing else.
    fn locate(&self, turn: usize, marked: &Message) -> Option<Range<usize>> {
        let mut messages = self.turns.messages.clone();
        messages[turn] = self.template.turn(marked, self.tokenizer);
        let rendered = self.template.render(&messages, &self.turns.tools, false).ok()?;
        let (rendered, _) = take_blocks(rendered);
        let (before, rest) = rendered.split_once(CONTENT_START)?;
        let (content, after) = rest.split_once(CONTENT_END)?;
        let same = before.len() + content.len() + after.len() == self.text.len()
            && self.text.starts_with(before)
            && self.text[before.len()..].starts_with(content)
            && self.text.ends_with(after);
        same.then(|| before.len()..before.len() + content.len())
    }

    /// The special token that ends a turn after the name of its last call, whatever the template writes between.
    fn end_of_calls(&self, turn: usize) -> Option<Range<usize>> {
        let mut marked = self.conversation.messages[turn].clone();
        mark_last_call(&mut marked)?;
        let name = self.locate(turn, &marked)?;
        let mut places = self.text[name.end..].char_indices();
        places.find_map(|(place, _)| {
            let start = name.end + place;
            let length = self.tokenizer.special_at(&self.text[start..])?;
            Some(start..start + length)
        })
    }

    /// The special token that follows, after white space at most.
    fn leading_special(&self, at: usize) -> Option<Range<usize>> {
        let rest = &self.text[at..];
        let start = at + rest.len() - rest.trim_start().len();
        let length = self.tokenizer.special_at(&self.text[start..])?;
        Some(start..start + length)
    }
}

pub(super) fn calls_tools(message: &Message) -> bool {
    message.extra.iter().any(|(name, _)| name == "tool_calls")
}

/// Puts marks around the name of a turn's last call.
fn mark_last_call(message: &mut Message) -> Option<()> {
    let (_, calls) = message.extra.iter_mut().find(|(name, _)| name == "tool_calls")?;
    let Value::List(calls) = calls else { return None };
    let mut call = calls.last_mut()?;
    if call.get("function").is_some() {
        call = entry_mut(call, "function")?;
    }
    let Value::Text(name) = entry_mut(call, "name")? else {
        return None;
    };
    *name = format!("{CONTENT_START}{name}{CONTENT_END}");
    Some(())
}

fn entry_mut<'a>(value: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    let Value::Object(entries) = value else {
        return None;
    };
    let (_, value) = entries.iter_mut().find(|(name, _)| name == key)?;
    Some(value)
}

/// What of a content is looked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Core {
    /// All of it.
    All,
    /// Without the white space around it, which the template may strip.
    Stripped,
    /// What follows the thoughts, which the template may drop.
    Answer,
}

/// The turn with marks around what it says.
fn with_marks(message: &Message, core: Core) -> Option<Message> {
    const THOUGHT_END: &str = "</think>";
    let thoughts = message.content.rfind(THOUGHT_END);
    if core == Core::Answer && thoughts.is_none() {
        return None;
    }
    let around = |text: &str| {
        let from = match core {
            Core::Answer => thoughts.map_or(0, |place| place + THOUGHT_END.len()),
            Core::All | Core::Stripped => 0,
        };
        let (start, end) = match core {
            Core::All => (0, text.len()),
            Core::Stripped | Core::Answer => {
                let start = text.len() - text[from..].trim_start().len();
                (start, start.max(text.trim_end().len()))
            }
        };
        let (before, rest) = text.split_at(start);
        let (core, after) = rest.split_at(end - start);
        format!("{before}{CONTENT_START}{core}{CONTENT_END}{after}")
    };
    let mut marked = message.clone();
    marked.content = around(&message.content);
    if let Some(parts) = &mut marked.parts {
        if message.content.replace(IMAGE_TOKEN, "").is_empty() {
            return None;
        }
        let texts = |part: &Part| matches!(part, Part::Text(_));
        let (first, last) = (parts.iter().position(texts)?, parts.iter().rposition(texts)?);
        let mut mark = |place: usize, is_start: bool| {
            if let Part::Text(text) = &mut parts[place] {
                match is_start {
                    true => text.insert(0, CONTENT_START),
                    false => text.push(CONTENT_END),
                }
            }
        };
        mark(first, true);
        mark(last, false);
    }
    Some(marked)
}
