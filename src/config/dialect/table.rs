//! What a dialect's keys become: one [`Row`] for each, in one table for each dialect. Reading, reports and
//! `docs/dialects.md` all go by these tables.

/// Keys that share a fate.
pub(super) struct Row {
    pub(super) keys: &'static [&'static str],
    pub(super) fate: Fate,
}

/// What becomes of a key.
pub(super) enum Fate {
    /// The value as it is, under this native key.
    To(&'static str),
    /// The same for a path, in which `$NAME` stands for an environment variable as `${NAME}` does.
    Path(&'static str),
    /// The dialect's own code makes these native keys of it.
    Into { native: &'static str, how: &'static str },
    /// No result depends on it here, because.
    NoEffect(&'static str),
    /// Brazier has nothing of the kind so far. `off` lists the values that ask for nothing.
    NotYet {
        what: &'static str,
        off: &'static [&'static str],
    },
    /// Never: it contradicts what Brazier is, for this reason.
    Never {
        reason: &'static str,
        off: &'static [&'static str],
    },
    /// A mapping with keys of its own.
    Mapping(&'static [Row]),
    /// A list of such mappings.
    List(&'static [Row]),
    /// A mapping whose keys mean the same as if they stood beside it.
    Beside(&'static [Row]),
    /// A mistake that is often made, or an older name: read as this key.
    ReadAs(&'static str),
    /// No key: the rows of another table belong to this one.
    Table(&'static [Row]),
}

/// A list of keys, as tables write it.
type Keys = &'static [&'static str];

pub(super) const fn to(keys: Keys, native: &'static str) -> Row {
    let fate = Fate::To(native);
    Row { keys, fate }
}

pub(super) const fn path(keys: Keys, native: &'static str) -> Row {
    let fate = Fate::Path(native);
    Row { keys, fate }
}

pub(super) const fn into(keys: Keys, native: &'static str, how: &'static str) -> Row {
    let fate = Fate::Into { native, how };
    Row { keys, fate }
}

pub(super) const fn nothing(keys: Keys, because: &'static str) -> Row {
    let fate = Fate::NoEffect(because);
    Row { keys, fate }
}

/// One line of the list of what is still to be built.
pub(super) const fn not_yet(keys: Keys, what: &'static str) -> Row {
    not_yet_unless(keys, &[], what)
}

/// The same, for a key that asks for nothing with one of these values.
pub(super) const fn not_yet_unless(keys: Keys, off: &'static [&'static str], what: &'static str) -> Row {
    let fate = Fate::NotYet { what, off };
    Row { keys, fate }
}

pub(super) const fn never(keys: Keys, off: &'static [&'static str], reason: &'static str) -> Row {
    let fate = Fate::Never { reason, off };
    Row { keys, fate }
}

pub(super) const fn mapping(keys: Keys, rows: &'static [Row]) -> Row {
    let fate = Fate::Mapping(rows);
    Row { keys, fate }
}

pub(super) const fn list(keys: Keys, rows: &'static [Row]) -> Row {
    let fate = Fate::List(rows);
    Row { keys, fate }
}

pub(super) const fn beside(keys: Keys, rows: &'static [Row]) -> Row {
    let fate = Fate::Beside(rows);
    Row { keys, fate }
}

pub(super) const fn read_as(keys: Keys, other: &'static str) -> Row {
    let fate = Fate::ReadAs(other);
    Row { keys, fate }
}

pub(super) const fn include(rows: &'static [Row]) -> Row {
    Row {
        keys: &[],
        fate: Fate::Table(rows),
    }
}

/// All rows of a table and of those in it.
pub(super) fn all(rows: &'static [Row]) -> Vec<&'static Row> {
    let of_row = |row: &'static Row| match row.fate {
        Fate::Table(rows) => all(rows),
        _ => vec![row],
    };
    rows.iter().flat_map(of_row).collect()
}

/// The row of a key.
pub(super) fn find(rows: &'static [Row], key: &str) -> Option<&'static Row> {
    all(rows).into_iter().find(|row| row.keys.contains(&key))
}

/// The keys of a table itself, not those below them.
pub(super) fn names(rows: &'static [Row]) -> Vec<&'static str> {
    all(rows)
        .iter()
        .flat_map(|row| row.keys.iter().copied())
        .collect()
}

/// The rows below a row.
pub(super) fn below(row: &Row) -> &'static [Row] {
    match row.fate {
        Fate::Mapping(rows) | Fate::List(rows) | Fate::Beside(rows) => rows,
        _ => &[],
    }
}
