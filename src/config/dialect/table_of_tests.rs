//! The tables as lists, for tests that go through all of them.

use super::{
    Dialect, deepspeed,
    table::{Fate, Row, all, below, names},
};

fn tables() -> Vec<(&'static str, &'static [Row])> {
    let of = |dialect: Dialect| (dialect.title(), dialect.table());
    let mut tables: Vec<_> = Dialect::ALL.into_iter().map(of).collect();
    tables.push(("DeepSpeed", deepspeed::ROWS));
    tables
}

fn visit(rows: &'static [Row], prefix: &str, see: &mut dyn FnMut(&'static Row, String)) {
    for row in all(rows) {
        for key in row.keys {
            see(row, format!("{prefix}{key}"));
            let below_of = match row.fate {
                Fate::List(_) => format!("{prefix}{key}[]."),
                _ => format!("{prefix}{key}."),
            };
            visit(below(row), &below_of, see);
        }
    }
}

/// Every native key that a row names.
pub(in crate::config) fn natives() -> Vec<&'static str> {
    let mut found = Vec::new();
    for (_, rows) in tables() {
        visit(rows, "", &mut |row, _| match row.fate {
            Fate::To(native) | Fate::Path(native) => found.push(native),
            Fate::Into { native, .. } if native != "–" => found.push(native),
            _ => {}
        });
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// The paths of keys with a fate of their own.
fn leaves(rows: &'static [Row]) -> Vec<String> {
    let mut found = Vec::new();
    visit(rows, "", &mut |row, path| {
        if below(row).is_empty() {
            found.push(path);
        }
    });
    found
}

pub(in crate::config) fn paths(dialect: Dialect) -> Vec<String> {
    leaves(dialect.table())
}

pub(in crate::config) fn deepspeed_paths() -> Vec<String> {
    leaves(deepspeed::ROWS)
}

/// The keys of each table and of those below it.
pub(in crate::config) fn names_by_table() -> Vec<(String, Vec<&'static str>)> {
    let mut found = Vec::new();
    for (title, rows) in tables() {
        found.push((title.to_owned(), names(rows)));
        visit(rows, "", &mut |row, path| {
            if !below(row).is_empty() {
                found.push((format!("{title}: {path}"), names(below(row))));
            }
        });
    }
    found
}
