//! Which of a rendered conversation the model has to say.
//!
//! Nothing is looked for by the tags of a known template. What a template marks with `{% generation %}` is trained.
//! Otherwise a turn begins where the template, asked for a prompt, stops, or where its content begins; it ends where the
//! rendering of the conversation up to it ends. Where a content stands is found by rendering once more with two
//! characters around it that no text has; what that changes besides, and what does not fit the rendering of the whole, is
//! not trusted: then the row is refused.

use std::ops::Range;

use minijinja::value::Value as Jinja;

use super::{
    super::{
        error::{EncodeError, RowProblem},
        rows::{Conversation, IMAGE_TOKEN, Message, Part, Role},
        tokenizer::Tokenizer,
        value::Value,
    },
    encode::Rendered,
    jinja::{JinjaTemplate, Turns, problem},
    masks::{Masks, TrainEos},
};

/// Characters of the private plane 16, which rows may not contain; from U+100000 on see [`Tokenizer::neutralise`].
pub(super) const GENERATED_START: char = '\u{10fff0}';
pub(super) const GENERATED_END: char = '\u{10fff1}';
const CONTENT_START: char = '\u{10fff2}';
const CONTENT_END: char = '\u{10fff3}';

/// Where a turn stands in the text.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Span {
    /// What the turn says.
    content: Range<usize>,
    /// The special token that ends it.
    end: Option<Range<usize>>,
    /// What the template itself marks as trained.
    marked: bool,
    /// Where the text of the next turn may begin.
    complete: usize,
}

/// Renders a conversation and finds what of it is trained.
pub(super) fn render(
    template: &JinjaTemplate,
    tokenizer: &Tokenizer,
    conversation: &Conversation,
    masks: &Masks,
) -> Result<Rendered, RowProblem> {
    refuse_private(conversation)?;
    let turns = template.turns(conversation, tokenizer);
    let whole = template
        .render(&turns.messages, &turns.tools, false)
        .map_err(|error| problem(&error))?;
    let (text, blocks) = take_blocks(&whole);
    check_tools(template, tokenizer, conversation, &turns, &whole)?;
    let finder = Finder {
        template,
        tokenizer,
        conversation,
        turns: &turns,
        text: &text,
        blocks: &blocks,
    };
    let mut spans: Vec<(bool, Span)> = Vec::new();
    for (turn, message) in conversation.messages.iter().enumerate() {
        let trained = masks.train(message);
        if trained || masks.eos == Some(TrainEos::All) {
            spans.push((trained, finder.span(turn)?));
        }
    }
    let mut rendered = Rendered::default();
    let last = spans.iter().rposition(|(trained, _)| *trained);
    for (place, (trained, span)) in spans.iter().enumerate() {
        train(&mut rendered, *trained, span, masks.eos, last == Some(place));
    }
    rendered.text = text;
    Ok(rendered)
}

/// Renders what stands before an answer.
pub(super) fn prompt(
    template: &JinjaTemplate,
    tokenizer: &Tokenizer,
    conversation: &Conversation,
) -> Result<String, RowProblem> {
    refuse_private(conversation)?;
    let turns = template.turns(conversation, tokenizer);
    let text = template
        .render(&turns.messages, &turns.tools, true)
        .map_err(|error| problem(&error))?;
    Ok(take_blocks(&text).0)
}

/// The special token that ends an answer, as text, and whether it is trained where nobody says otherwise.
pub(super) fn turn_end(
    template: &JinjaTemplate,
    tokenizer: &Tokenizer,
) -> Result<(Option<String>, bool), RowProblem> {
    let turns = vec![
        Message::new(Role::User, "Hello."),
        Message::new(Role::Assistant, "Good day."),
    ];
    let masks = Masks::default();
    let all = Masks {
        eos: Some(TrainEos::Turn),
        ..masks.clone()
    };
    let conversation = Conversation::new(turns);
    let as_marked = render(template, tokenizer, &conversation, &masks)?;
    let with_end = render(template, tokenizer, &conversation, &all)?;
    let last = |rendered: &Rendered| rendered.trained.last().map_or(0..0, Clone::clone);
    let (trained, answer) = (last(&as_marked), last(&with_end));
    let text = &with_end.text[answer.clone()];
    let end = tokenizer
        .trailing_special(text)
        .map(|range| text[range].to_owned());
    Ok((end, trained.end >= answer.end))
}

/// Adds a turn to what is trained.
fn train(rendered: &mut Rendered, trained: bool, span: &Span, eos: Option<TrainEos>, is_last: bool) {
    let mut push = |range: Range<usize>| match rendered.trained.last_mut() {
        Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
        _ if range.is_empty() => {}
        _ => rendered.trained.push(range),
    };
    let with_end = match eos {
        Some(TrainEos::All) => true,
        Some(TrainEos::Turn) => trained,
        None => trained && !span.marked,
        Some(TrainEos::Last) => is_last,
        Some(TrainEos::None) => false,
    };
    let before_end = |range: &Range<usize>| match &span.end {
        Some(end) if eos.is_some() && end.start < range.end => range.start..end.start.max(range.start),
        _ => range.clone(),
    };
    if trained {
        push(before_end(&span.content));
    }
    if let Some(end) = span.end.clone().filter(|_| with_end) {
        push(end);
    }
    if trained {
        rendered.ends.push(span.complete);
    }
}

/// Takes the marks of `{% generation %}` out.
fn take_blocks(marked: &str) -> (String, Vec<Range<usize>>) {
    let mut text = String::with_capacity(marked.len());
    let (mut blocks, mut open) = (Vec::new(), None);
    for piece in marked.split_inclusive([GENERATED_START, GENERATED_END]) {
        let mark = piece.chars().next_back();
        match mark {
            Some(mark @ (GENERATED_START | GENERATED_END)) => {
                text.push_str(&piece[..piece.len() - mark.len_utf8()]);
                if mark == GENERATED_START {
                    open = Some(text.len());
                } else if let Some(start) = open.take() {
                    blocks.push(start..text.len());
                }
            }
            _ => text.push_str(piece),
        }
    }
    (text, blocks)
}

/// Rows may not contain what stands for special tokens and marks.
fn refuse_private(conversation: &Conversation) -> Result<(), RowProblem> {
    let in_value = |value: &Value| value.any_text(&Tokenizer::has_private);
    let in_message = |message: &Message| {
        Tokenizer::has_private(&message.content) || message.extra.iter().any(|(_, value)| in_value(value))
    };
    let found = conversation.messages.iter().any(in_message) || conversation.tools.iter().any(in_value);
    match found {
        true => Err(EncodeError::Private.into()),
        false => Ok(()),
    }
}

/// Tools and calls that the template does not write would be lost in silence.
fn check_tools(
    template: &JinjaTemplate,
    tokenizer: &Tokenizer,
    conversation: &Conversation,
    turns: &Turns,
    whole: &str,
) -> Result<(), RowProblem> {
    let ignores = |messages: &[Jinja], tools: &Jinja| {
        template
            .render(messages, tools, false)
            .is_ok_and(|without| without == whole)
    };
    let mut lost = None;
    if conversation.tools.is_some() && ignores(&turns.messages, &Jinja::from(())) {
        lost = Some("tools");
    }
    let calls = |message: &Message| message.extra.iter().any(|(name, _)| name == "tool_calls");
    if conversation.messages.iter().any(calls) {
        let without: Vec<Jinja> = conversation
            .messages
            .iter()
            .map(|message| {
                let mut message = message.clone();
                message.extra.retain(|(name, _)| name != "tool_calls");
                template.turn(&message, tokenizer)
            })
            .collect();
        if ignores(&without, &turns.tools) {
            lost = Some("tool_calls");
        }
    }
    match lost {
        None => Ok(()),
        Some(what) => Err(RowProblem::Template {
            reason: format!("it does not write the row's {what}\n  hint: use a template that knows tools"),
        }),
    }
}

/// Finds turns in the text.
struct Finder<'a> {
    template: &'a JinjaTemplate,
    tokenizer: &'a Tokenizer,
    conversation: &'a Conversation,
    turns: &'a Turns,
    text: &'a str,
    blocks: &'a [Range<usize>],
}

impl Finder<'_> {
    fn span(&self, turn: usize) -> Result<Span, RowProblem> {
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
        let start = start.or_else(|| self.silent_start(turn, complete));
        let Some(start) = start else {
            let reason = "the template does not write its text as it is in the row";
            return Err(RowProblem::Mask { turn, reason });
        };
        match (complete, content) {
            (Some(complete), content) if complete >= start => {
                let stripped = start + self.text[start..complete].trim_end().len();
                let text_end = content.map_or(stripped, |range| range.end);
                Ok(self.with_end(start, text_end, complete))
            }
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

    /// A turn from where it starts to where the conversation up to it ends.
    fn with_end(&self, start: usize, text_end: usize, complete: usize) -> Span {
        let end = self
            .tokenizer
            .trailing_special(&self.text[start..complete])
            .map(|range| start + range.start..start + range.end);
        Span {
            content: start..end.as_ref().map_or(text_end, |end| end.start),
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
        let complete = self.complete(turn).unwrap_or(written);
        Ok(Span {
            content: block,
            end,
            marked: true,
            complete,
        })
    }

    /// Where the template stops when it is asked for a prompt.
    fn answer_start(&self, turn: usize) -> Option<usize> {
        if !self.template.writes_prompts || self.conversation.messages[turn].role != Role::Assistant {
            return None;
        }
        self.prefix(turn, true)
    }

    /// Where the conversation up to and with a turn ends.
    fn complete(&self, turn: usize) -> Option<usize> {
        if turn + 1 == self.conversation.messages.len() {
            return Some(self.text.len());
        }
        self.prefix(turn + 1, false)
    }

    /// Length of the first turns' rendering, if the text begins with it.
    fn prefix(&self, turns: usize, prompt: bool) -> Option<usize> {
        let messages = &self.turns.messages[..turns];
        let rendered = self.template.render(messages, &self.turns.tools, prompt).ok()?;
        let (prefix, _) = take_blocks(&rendered);
        self.text.starts_with(&prefix).then_some(prefix.len())
    }

    /// Where a turn begins that says nothing itself (it calls tools), in a template without prompts.
    fn silent_start(&self, turn: usize, complete: Option<usize>) -> Option<usize> {
        let message = &self.conversation.messages[turn];
        let starts = !self.template.writes_prompts && message.role == Role::Assistant;
        complete?;
        let before = (turn > 0).then(|| self.prefix(turn, false)).flatten();
        before.filter(|_| starts)
    }

    /// Where the content of a turn stands: rendered once more with marks around it.
    fn content(&self, turn: usize) -> Option<Range<usize>> {
        let message = &self.conversation.messages[turn];
        // With its white space, unless the template strips it.
        [false, true].into_iter().find_map(|stripped| {
            let marked = with_marks(message, stripped)?;
            let mut messages = self.turns.messages.clone();
            messages[turn] = self.template.turn(&marked, self.tokenizer);
            let rendered = self.template.render(&messages, &self.turns.tools, false).ok()?;
            let (rendered, _) = take_blocks(&rendered);
            let (before, rest) = rendered.split_once(CONTENT_START)?;
            let (content, after) = rest.split_once(CONTENT_END)?;
            let same = before.len() + content.len() + after.len() == self.text.len()
                && self.text.starts_with(before)
                && self.text[before.len()..].starts_with(content)
                && self.text.ends_with(after);
            same.then(|| before.len()..before.len() + content.len())
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

/// The turn with marks around what it says.
fn with_marks(message: &Message, stripped: bool) -> Option<Message> {
    let around = |text: &str| {
        let (start, end) = match stripped {
            false => (0, text.len()),
            true => {
                let start = text.len() - text.trim_start().len();
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
