//! Which columns of a table are read.

use arrow::datatypes::Fields;

use super::super::value::Value;

/// Places of the wanted columns, in the order of the table.
pub(super) fn places(wanted: &[String], fields: &Fields) -> Result<Vec<usize>, String> {
    for name in wanted {
        if !fields.iter().any(|field| field.name() == name) {
            let known: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
            return Err(format!(
                "there is no column {name:?}\n  hint: it has {}",
                known.join(", ")
            ));
        }
    }
    let is_wanted = |name: &String| wanted.contains(name);
    Ok((0..fields.len())
        .filter(|&place| is_wanted(fields[place].name()))
        .collect())
}

/// The row with the wanted entries only.
pub(super) fn only(row: Value, wanted: Option<&[String]>) -> Value {
    match (row, wanted) {
        (Value::Object(mut entries), Some(wanted)) => {
            entries.retain(|(name, _)| wanted.contains(name));
            Value::Object(entries)
        }
        (row, _) => row,
    }
}
