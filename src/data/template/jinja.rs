//! Chat templates in Jinja, rendered as transformers renders them.

use std::sync::Arc;

use minijinja::{Environment, Error, ErrorKind, syntax::SyntaxConfig, value::Value as Jinja};

use super::{
    super::{
        error::RowProblem,
        rows::{Conversation, IMAGE_TOKEN, Message, Part, Role},
        tokenizer::Tokenizer,
        value::Value,
    },
    date::Date,
    limits::{self, Bounded},
    python::{self, Record},
    spans::{self, GENERATED_END, GENERATED_START},
};

const NAME: &str = "chat_template";

/// A compiled template and what it is given besides the conversation.
pub(super) struct JinjaTemplate {
    environment: Environment<'static>,
    /// For what takes long.
    patient: Environment<'static>,
    source: String,
    globals: Vec<(Arc<str>, Jinja)>,
    /// The tokenizer's token for an image, which a template may write in the place of [`IMAGE_TOKEN`].
    image_token: String,
    /// It marks what is trained with `{% generation %}`.
    pub(super) marks_generation: bool,
    /// It writes the header of an answer when it is asked to.
    pub(super) writes_prompts: bool,
    /// It puts nothing before an answer, and so knows no prompts.
    pub(super) headless: bool,
    /// Content may be text.
    takes_text: bool,
    /// Content may be a list of parts.
    takes_parts: bool,
}

/// A conversation as the template sees it.
pub(super) struct Turns {
    pub(super) messages: Vec<Jinja>,
    pub(super) tools: Jinja,
}

impl JinjaTemplate {
    /// Compiles a template. `options` are variables of the user, `date` is what `strftime_now` says.
    ///
    /// # Errors
    /// What is wrong with the template.
    pub(super) fn new(
        source: &str,
        tokenizer: &Tokenizer,
        options: &[(String, Value)],
        date: Option<Date>,
    ) -> Result<Self, String> {
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(|error| error.to_string())?;
        let mut environment = Environment::new();
        environment.set_syntax(syntax);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_formatter(python::print);
        environment.add_test("iterable", |value: Jinja| python::is_iterable(&value));
        environment.add_filter("tojson", |value: Jinja, kwargs| python::tojson(&value, kwargs));
        environment.add_filter(GENERATION, |text: String| {
            format!("{GENERATED_START}{text}{GENERATED_END}")
        });
        environment.add_function("raise_exception", |message: String| -> Result<Jinja, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", move |format: String| match date {
            Some(date) => date.format(&format),
            None => Err(Error::new(ErrorKind::InvalidOperation, NO_DATE)),
        });
        // Jinja knows one kind of line break.
        let (marked, marks_generation) = mark_generation(&source.replace("\r\n", "\n").replace('\r', "\n"));
        limits::check_source(&marked)?;
        limits::bound(&mut environment);
        environment
            .add_template_owned(NAME, marked)
            .map_err(|error| error.to_string())?;
        // What the user says comes before what the tokenizer does: `Record` takes the first.
        let given = options
            .iter()
            .map(|(name, value)| (name.as_str().into(), to_jinja(value, &|text| text.to_owned())));
        let special = tokenizer.named_tokens().iter();
        let special = special.map(|(name, token)| (name.as_str().into(), Jinja::from(token.as_str())));
        let globals = given.chain(special).collect();
        let mut template = Self {
            patient: limits::patient(&environment),
            environment,
            source: source.to_owned(),
            globals,
            image_token: tokenizer.image_token().to_owned(),
            marks_generation,
            writes_prompts: false,
            headless: false,
            takes_text: true,
            takes_parts: false,
        };
        template.probe();
        template.headless = !template.writes_prompts && spans::is_headless(&template, tokenizer);
        Ok(template)
    }

    /// Finds out by trying which form of content the template understands, and whether it knows prompts.
    fn probe(&mut self) {
        const WORD: &str = "WORD";
        let text = Message::new(Role::User, WORD);
        let parts = Message {
            content: format!("{IMAGE_TOKEN}{WORD}"),
            parts: Some(vec![Part::Image, Part::Text(WORD.into())]),
            ..text.clone()
        };
        let render = |message: &Message, as_parts, prompt| {
            let turn = turn(message, as_parts, &|text| text.to_owned());
            self.render(&[turn], &Jinja::from(()), prompt)
        };
        let found = render(&text, false, false).ok();
        let takes_text = found.as_ref().is_some_and(|found| found.contains(WORD));
        let takes_parts = render(&parts, true, false).is_ok_and(|found| {
            let is_printed = found.contains("'type'") || found.contains("\"type\"");
            !is_printed && found.contains(WORD) && found.matches(IMAGE_TOKEN).count() == 1
        });
        let prompt = render(if takes_text { &text } else { &parts }, !takes_text, true).ok();
        let plain = render(if takes_text { &text } else { &parts }, !takes_text, false).ok();
        self.writes_prompts = prompt.is_some() && prompt != plain;
        self.takes_parts = takes_parts;
        // A template that understands neither says itself what it wants once it gets a row.
        self.takes_text = takes_text || !takes_parts;
    }

    /// The template's text.
    pub(super) fn source(&self) -> &str {
        &self.source
    }

    /// A conversation as the template sees it; `clean` is applied to every text of the row.
    pub(super) fn turns(&self, conversation: &Conversation, tokenizer: &Tokenizer) -> Turns {
        let clean = |text: &str| tokenizer.neutralise(text).into_owned();
        Turns {
            messages: conversation
                .messages
                .iter()
                .map(|message| self.turn(message, tokenizer))
                .collect(),
            tools: conversation
                .tools
                .as_ref()
                .map_or(Jinja::from(()), |tools| to_jinja(tools, &clean)),
        }
    }

    /// A turn as the template sees it.
    pub(super) fn turn(&self, message: &Message, tokenizer: &Tokenizer) -> Jinja {
        let as_parts = self.takes_parts && (message.parts.is_some() || !self.takes_text);
        let clean = |text: &str| tokenizer.neutralise(text).into_owned();
        turn(message, as_parts, &clean)
    }

    /// Renders turns. Images are [`IMAGE_TOKEN`], whichever of the two names the template has for them; a row cannot write
    /// the other one.
    pub(super) fn render(&self, messages: &[Jinja], tools: &Jinja, prompt: bool) -> Result<String, Error> {
        let given = [
            ("messages", Jinja::from(messages.to_vec())),
            ("tools", tools.clone()),
            ("documents", Jinja::from(())),
            ("add_generation_prompt", Jinja::from(prompt)),
        ];
        let given = given.map(|(name, value)| (name.into(), value));
        let context = Record(given.into_iter().chain(self.globals.iter().cloned()).collect());
        let context = Jinja::from_object(context);
        let text = match render_in(&self.environment, context.clone()) {
            Err(error) if error.kind() == ErrorKind::OutOfFuel => {
                limits::with_large_stack(|| render_in(&self.patient, context).map_err(limits::explain))?
            }
            result => result?,
        };
        Ok(match self.image_token.as_str() {
            IMAGE_TOKEN => text,
            token => text.replace(token, IMAGE_TOKEN),
        })
    }
}

fn render_in(environment: &Environment, context: Jinja) -> Result<String, Error> {
    let mut rendered = Bounded::default();
    let result = environment
        .get_template(NAME)?
        .render_captured_to(context, &mut rendered);
    result.map(drop).map_err(|error| rendered.explain(error))?;
    rendered.into_text()
}

const NO_DATE: &str = "the template asks for today's date, and tokens must not change from day to day\n  \
                       hint: write data.template_date: 2024-07-26, or any other day";

/// What a template says when it refuses a row.
pub(super) fn problem(error: &Error) -> RowProblem {
    let mut reason = error.detail().map_or_else(|| error.to_string(), str::to_owned);
    if let Some(line) = error.line() {
        reason = match reason.split_once('\n') {
            Some((first, rest)) => format!("line {line}: {first}\n{rest}"),
            None => format!("line {line}: {reason}"),
        };
    }
    RowProblem::Template { reason }
}

/// A turn; content as parts or as text with placeholders.
fn turn(message: &Message, as_parts: bool, clean: &dyn Fn(&str) -> String) -> Jinja {
    let part = |kind: &str, text: Option<String>| {
        let mut entries = vec![("type".into(), Jinja::from(kind))];
        entries.extend(text.map(|text| ("text".into(), Jinja::from(text))));
        Jinja::from_object(Record(entries))
    };
    // Placeholders are the template's business, so they survive.
    let text = |text: &str| match text.contains(IMAGE_TOKEN) {
        true => {
            let pieces: Vec<String> = text.split(IMAGE_TOKEN).map(clean).collect();
            pieces.join(IMAGE_TOKEN)
        }
        false => clean(text),
    };
    let content = match (&message.parts, as_parts) {
        (_, false) => Jinja::from(text(&message.content)),
        (Some(parts), true) => parts
            .iter()
            .map(|piece| match piece {
                Part::Image => part("image", None),
                Part::Text(text) => part("text", Some(clean(text))),
            })
            .collect(),
        (None, true) => {
            let mut parts = Vec::new();
            for (number, piece) in message.content.split(IMAGE_TOKEN).enumerate() {
                if number > 0 {
                    parts.push(part("image", None));
                }
                if !piece.is_empty() {
                    parts.push(part("text", Some(clean(piece))));
                }
            }
            Jinja::from(parts)
        }
    };
    let mut entries: Vec<(Arc<str>, Jinja)> = vec![
        ("role".into(), Jinja::from(message.role.name())),
        ("content".into(), content),
    ];
    for (name, value) in &message.extra {
        entries.push((name.as_str().into(), to_jinja(value, clean)));
    }
    // As transformers does: templates differ in the name they read.
    let thinks = ["reasoning_content", "thinking"];
    let thought = message
        .extra
        .iter()
        .find(|(name, _)| thinks.contains(&name.as_str()));
    if let Some((written, value)) = thought {
        for name in thinks.iter().filter(|name| *name != written) {
            entries.push(((*name).into(), to_jinja(value, clean)));
        }
    }
    Jinja::from_object(Record(entries))
}

/// A value of a row.
fn to_jinja(value: &Value, clean: &dyn Fn(&str) -> String) -> Jinja {
    match value {
        Value::Null => Jinja::from(()),
        Value::Bool(value) => Jinja::from(*value),
        Value::Int(value) => Jinja::from(*value),
        Value::Float(value) => Jinja::from(*value),
        Value::Text(text) => Jinja::from(clean(text)),
        Value::Bytes(bytes) => Jinja::from_bytes(bytes.clone()),
        Value::List(values) => values.iter().map(|value| to_jinja(value, clean)).collect(),
        Value::Object(entries) => {
            let entries = entries
                .iter()
                .map(|(name, value)| (clean(name).into(), to_jinja(value, clean)));
            Jinja::from_object(Record(entries.collect()))
        }
    }
}

const GENERATION: &str = "generation_";

/// Replaces the `generation` blocks that transformers adds to Jinja by filter blocks, whose text, white space and scope are
/// the same. Comments stay as they are. Says whether there was one.
fn mark_generation(source: &str) -> (String, bool) {
    let mut marked = String::with_capacity(source.len());
    let mut found = false;
    let mut rest = source;
    while let Some(open) = rest.find("{%").into_iter().chain(rest.find("{#")).min() {
        let is_comment = rest[open..].starts_with("{#");
        // `{%}` opens a tag and does not close it.
        let inside = &rest[open + 2..];
        let Some((tag, after)) = inside.split_once(if is_comment { "#}" } else { "%}" }) else {
            break;
        };
        let before = &rest[..open];
        marked.push_str(before);
        let signs: &[char] = &['-', '+'];
        let word = tag.trim_start_matches(signs).trim_end_matches(signs).trim();
        let replacement = match word {
            "generation" if !is_comment => Some(format!("filter {GENERATION}")),
            "endgeneration" if !is_comment => Some("endfilter".to_owned()),
            _ => None,
        };
        match replacement {
            Some(replacement) => {
                found = true;
                let left = tag.chars().next().filter(|c| signs.contains(c));
                let right = tag.chars().next_back().filter(|c| signs.contains(c));
                let sign = |sign: Option<char>| sign.map(String::from).unwrap_or_default();
                marked.push_str(&format!("{{%{} {replacement} {}%}}", sign(left), sign(right)));
            }
            None => marked.push_str(&rest[open..rest.len() - after.len()]),
        }
        rest = after;
    }
    marked.push_str(rest);
    (marked, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_blocks_become_filters() {
        let (marked, found) = mark_generation(
            "{# {% generation %} #}{%- if x -%}{% generation %}a{%- endgeneration -%}{% endif %}{{ '%}' }}",
        );
        assert!(found);
        assert_eq!(
            marked,
            "{# {% generation %} #}{%- if x -%}{% filter generation_ %}a{%- endfilter -%}{% endif %}{{ '%}' }}"
        );
        for plain in [
            "{% for x in y %}{{ x }}{% endfor %} {% broken",
            "a {%} b %} {#}",
            "{%}",
        ] {
            assert_eq!(mark_generation(plain), (plain.to_owned(), false));
        }
    }
}
