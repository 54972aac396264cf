//! Which columns of a table are read.

use std::sync::Arc;

use arrow::datatypes::{Fields, SchemaRef};

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

/// The table with these columns only.
pub(super) fn projected(schema: &SchemaRef, places: Option<&[usize]>) -> Result<SchemaRef, String> {
    match places {
        None => Ok(schema.clone()),
        Some(places) => Ok(Arc::new(
            schema.project(places).map_err(|error| error.to_string())?,
        )),
    }
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
