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
        rows::{Conversation, Message, Role},
        tokenizer::Tokenizer,
        value::Value,
    },
    encode::Rendered,
    find::{Ends, Finder, Span, calls_tools},
    jinja::{JinjaTemplate, Turns, problem},
    masks::{Masks, TrainEos},
};

/// Characters of the private plane 16, which rows may not contain; from U+100000 on see [`Tokenizer::neutralise`].
pub(super) const GENERATED_START: char = '\u{10fff0}';
pub(super) const GENERATED_END: char = '\u{10fff1}';
pub(super) const CONTENT_START: char = '\u{10fff2}';
pub(super) const CONTENT_END: char = '\u{10fff3}';

/// Renders a conversation and finds what of it is trained.
pub(super) fn render(
    template: &JinjaTemplate,
    tokenizer: &Tokenizer,
    conversation: &Conversation,
    masks: &Masks,
    ends: Ends,
) -> Result<Rendered, RowProblem> {
    refuse_private(conversation)?;
    let turns = template.turns(conversation, tokenizer);
    let whole = template
        .render(&turns.messages, &turns.tools, false)
        .map_err(|error| problem(&error))?;
    check_tools(template, tokenizer, conversation, &turns, &whole)?;
    let (text, blocks) = take_blocks(whole);
    if takes_blocks_as_they_are(template, conversation, masks, &blocks) {
        return Ok(Rendered {
            text,
            trained: blocks,
            ends: Vec::new(),
        });
    }
    let finder = Finder {
        template,
        tokenizer,
        conversation,
        turns: &turns,
        text: &text,
        blocks: &blocks,
        ends,
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
    if ends == Ends::Unwanted {
        rendered.ends.clear();
    }
    Ok(rendered)
}

/// Whether a template marks several pieces of an answer, and nobody wants to know which piece belongs to which turn: all
/// answers are trained, and nothing but them.
fn takes_blocks_as_they_are(
    template: &JinjaTemplate,
    conversation: &Conversation,
    masks: &Masks,
    blocks: &[Range<usize>],
) -> bool {
    let messages = &conversation.messages;
    let is_answer = |message: &Message| message.role == Role::Assistant;
    template.marks_generation
        && masks.eos.is_none()
        && blocks.len() != messages.iter().filter(|message| is_answer(message)).count()
        && messages
            .iter()
            .all(|message| masks.train(message) == is_answer(message))
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
    Ok(take_blocks(text).0)
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
    let as_marked = render(template, tokenizer, &conversation, &masks, Ends::Unwanted)?;
    let with_end = match render(template, tokenizer, &conversation, &all, Ends::Unwanted) {
        // Several pieces of one answer are marked: the first special token at the end of one ends it.
        Err(RowProblem::Mask { .. }) if template.marks_generation => {
            let mut pieces = as_marked
                .trained
                .iter()
                .map(|range| &as_marked.text[range.clone()]);
            let end = pieces.find_map(|piece| Some(piece[tokenizer.trailing_special(piece)?].to_owned()));
            return Ok((end, true));
        }
        rendered => rendered?,
    };
    let last = |rendered: &Rendered| rendered.trained.last().map_or(0..0, Clone::clone);
    let (trained, answer) = (last(&as_marked), last(&with_end));
    let text = &with_end.text[answer.clone()];
    let end = tokenizer
        .trailing_special(text)
        .map(|range| text[range].to_owned());
    Ok((end, trained.end >= answer.end))
}

/// Whether a template without prompts puts nothing but white space before an answer.
pub(super) fn is_headless(template: &JinjaTemplate, tokenizer: &Tokenizer) -> bool {
    let conversation = Conversation::new(vec![
        Message::new(Role::User, "Hello."),
        Message::new(Role::Assistant, "Good day."),
    ]);
    let turns = template.turns(&conversation, tokenizer);
    let Ok(whole) = template.render(&turns.messages, &turns.tools, false) else {
        return false;
    };
    let (text, blocks) = take_blocks(whole);
    let finder = Finder {
        template,
        tokenizer,
        conversation: &conversation,
        turns: &turns,
        text: &text,
        blocks: &blocks,
        ends: Ends::Unwanted,
    };
    match (finder.prefix(1, false), finder.content(1)) {
        (Some(before), Some(content)) if before <= content.start => {
            text[before..content.start].trim().is_empty()
        }
        _ => false,
    }
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
pub(super) fn take_blocks(marked: String) -> (String, Vec<Range<usize>>) {
    if ![GENERATED_START, GENERATED_END]
        .iter()
        .any(|&mark| marked.contains(mark))
    {
        return (marked, Vec::new());
    }
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
    if conversation.messages.iter().any(calls_tools) {
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
