//! What a template may ask for. It comes with a model, from whoever made that: it must not take the process with it.
//!
//! minijinja bounds how deeply expressions and blocks are nested in the source, but not chains (`a + a + …`, `elif`), nor
//! targets of assignments; each of their links is a call of the compiler. Nor does it bound what a template computes, unless
//! it is told to.

use std::io::{self, Write};

use minijinja::{Environment, Error, ErrorKind, State, Value, filters, value::Kwargs};

/// Instructions of one rendering: a fifth of a second. Turns take some hundreds each.
const MAX_STEPS: u64 = 1_000_000;
/// Instructions of a rendering on the stack it is asked for on. Values can be nested in values by some eight of them, and are
/// freed and printed by a call for each level.
const FEW_STEPS: u64 = 16_000;
/// A stack for what [`MAX_STEPS`] can nest. Only what is used of it takes memory.
const LARGE_STACK: usize = 1 << 30;
/// Bytes of one rendering.
const MAX_BYTES: usize = 16 << 20;
/// Spaces of one level of an indentation.
const MAX_INDENT: usize = 64;
/// Lists, or places of one, that a filter makes.
const MAX_COUNT: usize = 1000;
/// Brackets inside brackets, in one tag; values inside values, where they are printed.
const MAX_DEPTH: usize = 100;
/// Operators of one tag.
const MAX_OPERATORS: usize = 1000;
/// Characters of a line: the compiler counts columns in 16 bits.
const MAX_LINE: usize = 60_000;
/// Branches of a template.
const MAX_ELIFS: usize = 500;

/// Bounds what a template of this environment may compute.
pub(super) fn bound(environment: &mut Environment) {
    environment.set_fuel(Some(FEW_STEPS));
    environment.add_filter("indent", indent);
    environment.add_filter("slice", slice);
    environment.add_filter("batch", batch);
}

/// The same environment for what takes more steps: for [`with_large_stack`].
pub(super) fn patient<'a>(environment: &Environment<'a>) -> Environment<'a> {
    let mut patient = environment.clone();
    patient.set_fuel(Some(MAX_STEPS));
    patient
}

/// Runs on a thread of its own.
pub(super) fn with_large_stack<T: Send>(run: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    let failed = |reason: String| Error::new(ErrorKind::InvalidOperation, reason);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("template".to_owned())
            .stack_size(LARGE_STACK)
            .spawn_scoped(scope, run)
            .map_err(|error| {
                failed(format!(
                    "it renders for long, and there is no room for a stack of {} GiB: {error}\n  \
                     hint: does `ulimit -v` limit the address space?",
                    LARGE_STACK >> 30
                ))
            })?;
        thread
            .join()
            .unwrap_or_else(|_| Err(failed("it panics where it is rendered".to_owned())))
    })
}

/// As minijinja's, which makes any number of lists.
fn slice(state: &State, value: Value, count: usize, fill_with: Option<Value>) -> Result<Value, Error> {
    check_count("slice", count)?;
    filters::slice(state, value, count, fill_with)
}

/// As minijinja's, which fills a list with any number of values.
fn batch(state: &State, value: Value, count: usize, fill_with: Option<Value>) -> Result<Value, Error> {
    check_count("batch", count)?;
    filters::batch(state, value, count, fill_with)
}

fn check_count(filter: &str, count: usize) -> Result<(), Error> {
    match count > MAX_COUNT {
        true => {
            let reason = format!("{filter}({count}) is more than {filter}({MAX_COUNT})");
            Err(Error::new(ErrorKind::InvalidOperation, reason))
        }
        false => Ok(()),
    }
}

/// As Jinja's `indent`, of which minijinja's takes any width.
fn indent(
    text: String,
    width: Option<usize>,
    first: Option<bool>,
    blank: Option<bool>,
    named: Kwargs,
) -> Result<String, Error> {
    let width = width.or(named.get("width")?);
    let first = first.or(named.get("first")?).unwrap_or(false);
    let blank = blank.or(named.get("blank")?).unwrap_or(false);
    named.assert_all_used()?;
    check_indent(width)?;
    let spaces = " ".repeat(width.unwrap_or(4));
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let lines = text.split('\n').enumerate().map(|(number, line)| {
        let is_blank = matches!(line, "" | "\r");
        match (number == 0 && !first) || (is_blank && !blank) {
            true => line.to_owned(),
            false => format!("{spaces}{line}"),
        }
    });
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

/// Refuses an indentation that only takes memory.
pub(super) fn check_indent(width: Option<usize>) -> Result<(), Error> {
    match width {
        Some(width) if width > MAX_INDENT => {
            let reason = format!("an indentation of {width} spaces is more than {MAX_INDENT}");
            Err(Error::new(ErrorKind::InvalidOperation, reason))
        }
        _ => Ok(()),
    }
}

/// Refuses values in values that would be too deep for what prints them.
pub(super) fn check_depth(depth: usize) -> Result<(), Error> {
    match depth > MAX_DEPTH {
        true => {
            let reason = format!("values are nested more than {MAX_DEPTH} deep");
            Err(Error::new(ErrorKind::InvalidOperation, reason))
        }
        false => Ok(()),
    }
}

/// Text that is made of a value, up to the length of a rendering.
#[derive(Default)]
pub(super) struct Text(String);

impl Text {
    /// Appends to it.
    pub(super) fn push(&mut self, text: &str) -> Result<(), Error> {
        if self.0.len() + text.len() > MAX_BYTES {
            return Err(Error::new(ErrorKind::InvalidOperation, too_long()));
        }
        self.0.push_str(text);
        Ok(())
    }

    /// Appends a character.
    pub(super) fn push_char(&mut self, c: char) -> Result<(), Error> {
        self.push(c.encode_utf8(&mut [0; 4]))
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }
}

fn too_long() -> String {
    format!("it renders to more than {} MiB", MAX_BYTES >> 20)
}

/// Refuses a source that would be too deep for the compiler. A broken one may pass: the compiler says more about it.
pub(super) fn check_source(source: &str) -> Result<(), String> {
    if source.lines().any(|line| line.chars().count() > MAX_LINE) {
        return Err(format!("it has a line of more than {MAX_LINE} characters"));
    }
    let mut rest = source;
    let mut elifs = 0;
    while let Some(open) = rest.find('{') {
        rest = &rest[open..];
        let tag = ["{{", "{%"].into_iter().find_map(|open| rest.strip_prefix(open));
        rest = match tag {
            Some(inside) => {
                let words = inside.trim_start_matches(['-', '+']).trim_start();
                elifs += usize::from(words.starts_with("elif"));
                check_tag(inside)?
            }
            None => match rest.strip_prefix("{#") {
                Some(comment) => comment.split_once("#}").map_or("", |(_, after)| after),
                None => &rest[1..],
            },
        };
    }
    match elifs > MAX_ELIFS {
        true => Err(format!("it has more than {MAX_ELIFS} elif")),
        false => Ok(()),
    }
}

/// What follows a tag.
fn check_tag(inside: &str) -> Result<&str, String> {
    let (mut depth, mut operators, mut quote) = (0_usize, 0_usize, None);
    let mut characters = inside.char_indices();
    while let Some((at, c)) = characters.next() {
        match (quote, c) {
            (Some(_), '\\') => drop(characters.next()),
            (Some(open), c) if open == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '%' | '}') if depth == 0 && inside[at + 1..].starts_with('}') => {
                return Ok(&inside[at + 2..]);
            }
            (None, '(' | '[' | '{') => {
                depth += 1;
                operators += 1;
            }
            (None, ')' | ']' | '}') => depth = depth.saturating_sub(1),
            (None, ' ' | '\t' | '\n' | ',' | ':' | '_') => {}
            // A word may be an operator: `not`, `or`, `is`. Its first letter counts.
            (None, c) if c.is_alphanumeric() => {
                let before = inside[..at].chars().next_back();
                let is_inside = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
                operators += usize::from(!is_inside && is_operator(&inside[at..]));
            }
            (None, _) => operators += 1,
        }
        if depth > MAX_DEPTH {
            return Err(format!("it has brackets nested more than {MAX_DEPTH} deep"));
        }
        if operators > MAX_OPERATORS {
            return Err(format!("it has a tag with more than {MAX_OPERATORS} operators"));
        }
    }
    Ok("")
}

fn is_operator(text: &str) -> bool {
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    ["and", "or", "not", "in", "is", "if", "else"].contains(&&text[..end])
}

/// Text that is rendered into it, up to a length.
#[derive(Default)]
pub(super) struct Bounded {
    bytes: Vec<u8>,
    is_full: bool,
}

impl Bounded {
    /// The text.
    pub(super) fn into_text(self) -> Result<String, Error> {
        let refuse = |_| Error::new(ErrorKind::InvalidOperation, "it renders to what is no text");
        String::from_utf8(self.bytes).map_err(refuse)
    }

    /// Why rendering stopped, in words of ours where the limit is ours.
    pub(super) fn explain(&self, error: Error) -> Error {
        match self.is_full {
            true => Error::new(ErrorKind::InvalidOperation, too_long()),
            false => error,
        }
    }
}

/// The same of a rendering that took [`MAX_STEPS`].
pub(super) fn explain(error: Error) -> Error {
    match error.kind() {
        ErrorKind::OutOfFuel => Error::new(
            ErrorKind::InvalidOperation,
            format!(
                "it takes more than {MAX_STEPS} steps: does it loop far more often than there are turns?"
            ),
        ),
        _ => error,
    }
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > MAX_BYTES {
            self.is_full = true;
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indentation_is_that_of_jinja() {
        let mut environment = Environment::new();
        bound(&mut environment);
        for (template, expected) in [
            ("{{ x | indent }}", "a\n\n    b"),
            ("{{ x | indent(2, true) }}", "  a\n\n  b"),
            ("{{ x | indent(width=1, blank=true) }}", "a\n \n b"),
            ("{{ x | indent(1, true, true) }}", " a\n \n b"),
        ] {
            let context = minijinja::context! { x => "a\n\nb\n" };
            assert_eq!(
                environment.render_str(template, context).unwrap(),
                expected,
                "{template}"
            );
        }
        let wrong = environment.render_str("{{ 'a' | indent(depth=2) }}", ());
        assert!(wrong.is_err());
    }

    #[test]
    fn sources_too_deep_for_the_compiler_are_refused() {
        for (source, expected) in [
            (format!("{{% for {}a in b %}}", "(".repeat(4000)), "nested"),
            (format!("{{{{ a{} }}}}", " + a".repeat(4000)), "operators"),
            (format!("{{{{ a{} }}}}", ".a".repeat(4000)), "operators"),
            (format!("{{{{ {}a }}}}", "not ".repeat(4000)), "operators"),
            (format!("{{{{ a{} }}}}", "|a".repeat(4000)), "operators"),
            (
                format!("{{% if a %}}{}{{% endif %}}", "{% elif a %}".repeat(4000)),
                "elif",
            ),
            ("a".repeat(70_000), "line"),
        ] {
            let message = check_source(&source).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
        for source in [
            &"(".repeat(4000),
            &format!("{{{{ '{}' }}}}", "(".repeat(4000)),
            &format!("{{# {} #}}", "{{ ((".repeat(4000)),
            &"{{ a + b }}{% if a %}x{% endif %}\n".repeat(4000),
            &format!("{{{{ [{}] }}}}", "not_a, andy, \"b\", ".repeat(2000)),
            "{{ {'a': {'b': 1}} }}{{",
        ] {
            assert_eq!(check_source(source), Ok(()));
        }
    }
}
