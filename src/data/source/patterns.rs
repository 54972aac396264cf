//! Names with `*`, `?`, `[a-z]`, `**` and `{a,b}`, as shells write them.

use std::{
    ops::Range,
    path::{Component, Path, PathBuf},
};

use crate::fs;

/// Most names one expression stands for.
const MAX_NAMES: usize = 1_000_000;
/// Together.
const MAX_NAME_BYTES: usize = 256 << 20;
/// Of all names on their way, each as often as it is looked at.
const MAX_BYTES_READ: usize = 1 << 30;
/// Three numbers of 64 bits.
const LONGEST_RANGE: usize = 64;
/// What a message shows of a pattern.
const SHOWN: usize = 200;
/// Deepest folder that `**` enters: links may lead in a circle.
const MAX_DEPTH: usize = 32;

/// Whether a path is a pattern rather than a name.
pub(super) fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '[', '{'])
}

/// The files that a pattern stands for, sorted by name. A leading dot has to be written.
pub(super) fn files(pattern: &Path) -> Result<Vec<PathBuf>, String> {
    let text = pattern.to_str().ok_or("a pattern has to be UTF-8")?;
    let mut found = Vec::new();
    for pattern in braces(text)? {
        let parts: Vec<Component<'_>> = Path::new(&pattern).components().collect();
        walk(PathBuf::new(), &parts, 0, &mut found)?;
    }
    found.sort();
    found.dedup();
    Ok(found)
}

fn walk(
    folder: PathBuf,
    parts: &[Component<'_>],
    depth: usize,
    found: &mut Vec<PathBuf>,
) -> Result<(), String> {
    let Some((part, rest)) = parts.split_first() else {
        if !fs::is_dir(&folder) {
            found.push(folder);
        }
        return match found.len() > MAX_NAMES {
            true => Err(format!("it stands for more than {MAX_NAMES} files")),
            false => Ok(()),
        };
    };
    let pattern = match part {
        Component::Normal(name) => name.to_str().unwrap_or_default(),
        other => return walk(folder.join(other), rest, depth, found),
    };
    if !is_pattern(pattern) {
        let path = folder.join(pattern);
        return if fs::exists(&path) {
            walk(path, rest, depth, found)
        } else {
            Ok(())
        };
    }
    let any_depth = pattern == "**";
    if any_depth {
        walk(folder.clone(), rest, depth, found)?;
    }
    let here = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        &folder
    };
    if !fs::is_dir(here) || depth > MAX_DEPTH {
        return Ok(());
    }
    for path in fs::read_dir(here).map_err(|error| error.to_string())? {
        let name = path.file_name().unwrap_or_default();
        let shown = name.to_string_lossy();
        if shown.starts_with('.') && !pattern.starts_with('.') {
            continue;
        }
        let path = folder.join(name);
        if any_depth {
            if fs::is_dir(&path) {
                walk(path, parts, depth + 1, found)?;
            }
        } else if matches(pattern, &shown) && (rest.is_empty() || fs::is_dir(&path)) {
            walk(path, rest, depth, found)?;
        }
    }
    Ok(())
}

/// Whether a name is one of those that a pattern without braces stands for.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    let (mut at, mut read) = (0, 0);
    // Where the last `*` is, and what it has taken so far.
    let mut star: Option<(usize, usize)> = None;
    while read < name.len() {
        if pattern.get(at) == Some(&'*') {
            star = Some((at, read));
            at += 1;
            continue;
        }
        match one(&pattern[at..], name[read]) {
            Some(length) => {
                at += length;
                read += 1;
            }
            None => {
                let Some((place, taken)) = star else { return false };
                star = Some((place, taken + 1));
                (at, read) = (place + 1, taken + 1);
            }
        }
    }
    pattern[at..].iter().all(|&c| c == '*')
}

/// Length of the part of the pattern that takes this character, if it does.
fn one(pattern: &[char], c: char) -> Option<usize> {
    match *pattern.first()? {
        '?' => Some(1),
        '[' => {
            let close = 2 + pattern.get(2..)?.iter().position(|&c| c == ']')?;
            let (set, negated) = match pattern[1] {
                '!' | '^' => (&pattern[2..close], true),
                _ => (&pattern[1..close], false),
            };
            let mut at = 0;
            let mut inside = false;
            while at < set.len() {
                if at + 2 < set.len() && set[at + 1] == '-' {
                    inside |= (set[at]..=set[at + 2]).contains(&c);
                    at += 3;
                } else {
                    inside |= set[at] == c;
                    at += 1;
                }
            }
            (inside != negated).then_some(close + 1)
        }
        literal => (literal == c).then_some(1),
    }
}

/// What braces stand for: `{a,b}` each of them, `{08..10}` numbers of one width, in the order of bash.
pub(super) fn braces(text: &str) -> Result<Vec<String>, String> {
    let mut done = Vec::new();
    let mut open = vec![text.to_owned()];
    let mut num_bytes = text.len();
    let mut num_bytes_read = 0;
    while let Some(name) = open.pop() {
        num_bytes_read += name.len();
        if num_bytes_read > MAX_BYTES_READ {
            return Err(format!("{:?} has too many braces", shown(text)));
        }
        match first_group(&name) {
            None => done.push(name),
            Some((group, choices)) => {
                let (before, after) = (&name[..group.start], &name[group.end..]);
                let around = before.len() + after.len();
                num_bytes -= name.len();
                num_bytes += choices.iter().map(|choice| choice.len() + around).sum::<usize>();
                if done.len() + open.len() + choices.len() > MAX_NAMES || num_bytes > MAX_NAME_BYTES {
                    return Err(format!(
                        "{:?} stands for more than {MAX_NAMES} names, or for more than {} MiB of them",
                        shown(text),
                        MAX_NAME_BYTES >> 20
                    ));
                }
                let names = choices
                    .iter()
                    .rev()
                    .map(|choice| format!("{before}{choice}{after}"));
                open.extend(names);
            }
        }
    }
    Ok(done)
}

/// The beginning of a pattern, for a message.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

/// The first braces that stand for something, and for what.
fn first_group(text: &str) -> Option<(Range<usize>, Vec<String>)> {
    // Braces that are not closed yet, with their own commas.
    let mut open: Vec<(usize, Vec<usize>)> = Vec::new();
    let mut first: Option<(Range<usize>, Vec<usize>)> = None;
    for (at, c) in text.char_indices() {
        match c {
            '{' => open.push((at, Vec::new())),
            ',' => open
                .last_mut()
                .into_iter()
                .for_each(|(_, commas)| commas.push(at)),
            '}' => {
                let Some((start, commas)) = open.pop() else {
                    continue;
                };
                let is_first = first.as_ref().is_none_or(|(group, _)| start < group.start);
                if is_first && (!commas.is_empty() || range(&text[start + 1..at]).is_some()) {
                    first = Some((start..at + 1, commas));
                }
            }
            _ => {}
        }
        // None that begins before it can still be closed.
        if open.is_empty() && first.is_some() {
            break;
        }
    }
    let (group, commas) = first?;
    if commas.is_empty() {
        let numbers = range(&text[group.start + 1..group.end - 1])?;
        return Some((group, numbers));
    }
    let starts = std::iter::once(group.start).chain(commas.iter().copied());
    let ends = commas.iter().copied().chain([group.end - 1]);
    let choices = starts
        .zip(ends)
        .map(|(start, end)| text[start + 1..end].to_owned());
    let choices = choices.collect();
    Some((group, choices))
}

/// `8..10`, `08..10` or `0..10..5`.
fn range(text: &str) -> Option<Vec<String>> {
    if text.len() > LONGEST_RANGE {
        return None;
    }
    let mut parts = text.split("..");
    let (first, last) = (parts.next()?, parts.next()?);
    let step: u64 = parts.next().map_or(Some(1), |step| step.parse().ok())?;
    if parts.next().is_some() || step == 0 {
        return None;
    }
    let (from, to): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    let padded = [first, last]
        .iter()
        .any(|text| text.len() > 1 && text.starts_with('0'));
    let width = if padded { first.len().max(last.len()) } else { 0 };
    // One more than allowed is enough to be refused.
    let count =
        usize::try_from(from.abs_diff(to) / step).map_or(MAX_NAMES, |count| count.min(MAX_NAMES)) as u64;
    let number = |place: u64| {
        if from <= to {
            from + place * step
        } else {
            from - place * step
        }
    };
    Some(
        (0..=count)
            .map(|place| format!("{:0width$}", number(place)))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names() {
        for (pattern, name, expected) in [
            ("*.jsonl", "a.jsonl", true),
            ("*.jsonl", "a.json", false),
            ("*", "", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("?é", "xé", true),
            ("[a-c]1", "b1", true),
            ("[!a-c]1", "b1", false),
            ("[^a]", "b", true),
            ("[]]", "]", true),
            ("[a", "[", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
        // What takes exponential time where it is tried naively.
        assert!(!matches(&"*a".repeat(30), &"a".repeat(29)));
    }

    #[test]
    fn braces_are_expanded_as_bash_does() {
        for (text, expected) in [
            ("a", "a"),
            ("a{b,c}d", "abd acd"),
            ("{a,b}{1,2}", "a1 a2 b1 b2"),
            ("{a,{b,c}d}", "a bd cd"),
            ("{000008..000010}.tar", "000008.tar 000009.tar 000010.tar"),
            ("{3..1}", "3 2 1"),
            ("{0..10..5}", "0 5 10"),
            ("x{,y}", "x xy"),
            ("{a}{", "{a}{"),
            ("{{a,b}", "{a {b"),
            ("{1..2..0}", "{1..2..0}"),
        ] {
            assert_eq!(braces(text).unwrap().join(" "), expected, "{text}");
        }
        for bomb in [
            "{0..9999999}".to_owned(),
            "{0,1}".repeat(40),
            "{0..18446744073709551615}".into(),
        ] {
            assert!(braces(&bomb).unwrap_err().contains("more than 1000000 names"));
        }
        let long = format!("{{0..99999}}{}", "x".repeat(100_000));
        assert!(braces(&long).unwrap_err().contains("MiB"));
        for many in [
            "{1..1}".repeat(50_000),
            "{".repeat(150_000) + &"{1..1}".repeat(20_000),
        ] {
            assert!(braces(&many).unwrap_err().contains("too many braces"));
        }
        // What takes quadratic time where each brace is followed to the end, and where each pair is read.
        for half in ["{", "{}"] {
            let deep = half.repeat(500_000);
            assert_eq!(braces(&deep).unwrap(), [deep]);
        }
        let nested = "{".repeat(500_000) + &"}".repeat(500_000);
        assert_eq!(braces(&nested).unwrap(), [nested]);
    }

    #[test]
    fn patterns_find_files_by_name() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "a/1.jsonl",
            "a/2.jsonl",
            "a/2.txt",
            "a/.3.jsonl",
            "b/1.jsonl",
            "b/c/4.jsonl",
        ] {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write_durable(&path, b"").unwrap();
        }
        let find = |pattern: &str| {
            let found = files(&dir.path().join(pattern)).unwrap();
            let names = found
                .iter()
                .map(|path| path.strip_prefix(dir.path()).unwrap().display().to_string());
            names.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(find("a/*.jsonl"), "a/1.jsonl a/2.jsonl");
        assert_eq!(find("*/1.jsonl"), "a/1.jsonl b/1.jsonl");
        assert_eq!(find("**/*.jsonl"), "a/1.jsonl a/2.jsonl b/1.jsonl b/c/4.jsonl");
        assert_eq!(find("{b,a}/[!2].*"), "a/1.jsonl b/1.jsonl");
        assert_eq!(find("a/.*"), "a/.3.jsonl");
        assert_eq!(find("*"), "", "folders are no files");
        assert_eq!(find("z/*"), "");
    }
}
