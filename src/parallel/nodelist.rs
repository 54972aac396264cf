//! SLURM's short form of host names: `gpu[001-004,9],login1`.
//!
//! Reference: `scontrol show hostnames`, which a compute node need not have.

use thiserror::Error;

/// Most hosts that a list may stand for. A typing error such as `[1-1000000000]` must not ask for all memory.
const MAX_HOSTS: usize = 1 << 16;
/// Most characters of a host's name (RFC 1035).
const MAX_NAME: usize = 255;

/// A list that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the list of nodes {list:?} cannot be read: {reason}")]
pub struct NodeListError {
    /// The list.
    pub list: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// The hosts that a list stands for, in its order.
///
/// # Errors
/// If a bracket is not closed, a range is none, or there are more hosts than any cluster has.
pub fn node_list(list: &str) -> Result<Vec<String>, NodeListError> {
    let refuse = |reason| NodeListError {
        list: list.to_owned(),
        reason,
    };
    let mut hosts = Vec::new();
    for pattern in split(list).ok_or_else(|| refuse("its brackets do not match"))? {
        hosts.extend(expand(pattern).map_err(refuse)?);
        if hosts.len() > MAX_HOSTS {
            return Err(refuse("it stands for too many hosts"));
        }
    }
    match hosts.is_empty() {
        true => Err(refuse("it names no host")),
        false => Ok(hosts),
    }
}

/// The parts between commas that are in no bracket.
fn split(list: &str) -> Option<Vec<&str>> {
    let (mut parts, mut start, mut is_inside) = (Vec::new(), 0, false);
    for (at, character) in list.char_indices() {
        match character {
            '[' if is_inside => return None,
            '[' => is_inside = true,
            ']' if !is_inside => return None,
            ']' => is_inside = false,
            ',' if !is_inside => {
                parts.push(&list[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&list[start..]);
    (!is_inside).then_some(parts)
}

/// One pattern, which may have several brackets: every combination, the last bracket fastest.
fn expand(pattern: &str) -> Result<Vec<String>, &'static str> {
    if pattern.is_empty() {
        return Err("a name is missing between two commas");
    }
    let (mut hosts, mut rest) = (vec![String::new()], Some(pattern));
    while let Some(text) = rest {
        let (before, bracket) = match text.split_once('[') {
            Some((before, inside)) => (
                before,
                Some(inside.split_once(']').ok_or("its brackets do not match")?),
            ),
            None => (text, None),
        };
        let ends = match bracket {
            Some((ranges, _)) => all_numbers(ranges)?,
            None => vec![String::new()],
        };
        if hosts.len() * ends.len() > MAX_HOSTS {
            return Err("it stands for too many hosts");
        }
        let longest = |texts: &[String]| texts.iter().map(String::len).max().unwrap_or(0);
        if longest(&hosts) + before.len() + longest(&ends) > MAX_NAME {
            return Err("it has a name of more than 255 characters");
        }
        let with_ends = |host: &String| ends.iter().map(|end| format!("{host}{before}{end}")).collect();
        hosts = hosts.iter().flat_map::<Vec<String>, _>(with_ends).collect();
        rest = bracket.map(|(_, after)| after);
    }
    Ok(hosts)
}

/// What stands in a bracket.
fn all_numbers(ranges: &str) -> Result<Vec<String>, &'static str> {
    let mut all = Vec::new();
    for range in ranges.split(',') {
        all.extend(numbers(range)?.take(MAX_HOSTS + 1));
        if all.len() > MAX_HOSTS {
            return Err("it stands for too many hosts");
        }
    }
    Ok(all)
}

/// `7`, or `001-004` with as many digits as its start has.
fn numbers(range: &str) -> Result<impl Iterator<Item = String>, &'static str> {
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let width = first.len();
    if width > MAX_NAME {
        return Err("it has a name of more than 255 characters");
    }
    let parse = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text
            .parse::<u64>()
            .map_err(|_| "a number is missing in its brackets"),
        false => Err("its brackets hold something that is not a number"),
    };
    let (first, last) = (parse(first)?, parse(last)?);
    if first > last {
        return Err("a range ends before it begins");
    }
    Ok((first..=last).map(move |number| format!("{number:0width$}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_become_hosts_as_scontrol_shows_them() {
        for (list, expected) in [
            ("nid005", "nid005"),
            ("a,b2", "a b2"),
            ("nid[001-003]", "nid001 nid002 nid003"),
            ("nid[8-11]", "nid8 nid9 nid10 nid11"),
            ("nid[098-101]", "nid098 nid099 nid100 nid101"),
            ("gpu[1,3-4],login", "gpu1 gpu3 gpu4 login"),
            ("r[1-2]n[01-02]", "r1n01 r1n02 r2n01 r2n02"),
            ("lrdn[0012]-hs", "lrdn0012-hs"),
        ] {
            assert_eq!(node_list(list).unwrap().join(" "), expected, "{list}");
        }
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for (list, reason) in [
            ("", "a name is missing between two commas"),
            ("a,", "a name is missing between two commas"),
            ("a[1-2", "its brackets do not match"),
            ("a]1[", "its brackets do not match"),
            ("a[[1]]", "its brackets do not match"),
            ("a[2-1]", "a range ends before it begins"),
            ("a[x]", "its brackets hold something that is not a number"),
            ("a[1--2]", "its brackets hold something that is not a number"),
            ("a[]", "a number is missing in its brackets"),
            ("a[0-99999999999]", "it stands for too many hosts"),
            ("a[1-999]b[1-999]", "it stands for too many hosts"),
        ] {
            let error = node_list(list).unwrap_err();
            assert_eq!((error.list.as_str(), error.reason), (list, reason));
        }
        for list in [
            "[1]".repeat(100_000),
            format!("[{}1]", "0".repeat(70_000)),
            "a".repeat(300),
        ] {
            let error = node_list(&list).unwrap_err();
            assert_eq!(error.reason, "it has a name of more than 255 characters");
        }
    }
}
