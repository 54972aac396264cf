//! Which columns a table needs for rows: found by looking at all of them.

use std::collections::HashSet;

use super::{
    super::{batch::SampleId, value::Value},
    error::ConvertError,
    types::{Type, below},
};

/// Most columns, those inside others included.
const MAX_COLUMNS: usize = 4096;

/// What was seen at one place of the rows.
#[derive(Default)]
struct Shape {
    kind: Kind,
    /// The first row that had it.
    first: Option<SampleId>,
}

#[derive(Default)]
enum Kind {
    #[default]
    Nothing,
    Bool,
    Number(Number),
    Text,
    Bytes,
    List(Box<Shape>),
    Object(Vec<(String, Shape)>),
}

/// The first row with a whole number, one that a float does not hold, and a float.
#[derive(Default)]
struct Number {
    whole: Option<SampleId>,
    wide: Option<SampleId>,
    float: Option<SampleId>,
}

/// Collects what rows hold.
#[derive(Default)]
pub(super) struct Shapes {
    columns: Vec<(String, Shape)>,
    num_columns: usize,
    image_places: HashSet<String>,
    last: Option<SampleId>,
}

/// The columns for all rows, and where whole numbers became floats for them.
#[derive(Debug, PartialEq)]
pub(super) struct Columns {
    pub(super) columns: Vec<(String, Type)>,
    pub(super) widened: Vec<String>,
}

impl Shapes {
    /// Looks at a row, which is an object. `images` are places where it holds images.
    pub(super) fn add(
        &mut self,
        row: &Value,
        images: Vec<String>,
        sample: &SampleId,
    ) -> Result<(), ConvertError> {
        for place in images {
            if !self.image_places.contains(&place) {
                self.image_places.insert(place);
            }
        }
        let mut adding = Adding {
            sample,
            num_columns: &mut self.num_columns,
        };
        adding.entries(&mut self.columns, row.as_object().unwrap_or_default(), "")?;
        self.last = Some(sample.clone());
        Ok(())
    }

    /// The columns that hold all rows.
    pub(super) fn finish(self) -> Result<Columns, ConvertError> {
        let mut widened = Vec::new();
        let mut columns = Vec::new();
        for (name, shape) in self.columns {
            let inside = of(shape, &name, &self.image_places, &mut widened)?;
            columns.push((name, inside));
        }
        let has_values = columns.iter().any(|(_, inside)| *inside != Type::Null);
        match (has_values, self.last) {
            (false, Some(sample)) => Err(ConvertError::Table {
                sample,
                reason: "no key of any row up to this one has a value, so a table has no columns".to_owned(),
            }),
            _ => Ok(Columns { columns, widened }),
        }
    }
}

struct Adding<'a> {
    sample: &'a SampleId,
    num_columns: &'a mut usize,
}

impl Adding<'_> {
    fn entries(
        &mut self,
        columns: &mut Vec<(String, Shape)>,
        entries: &[(String, Value)],
        place: &str,
    ) -> Result<(), ConvertError> {
        for (number, (name, value)) in entries.iter().enumerate() {
            // Most rows have their keys in one order.
            let is_next = columns.get(number).is_some_and(|(known, _)| known == name);
            let at = match is_next {
                true => number,
                false => match columns.iter().position(|(known, _)| known == name) {
                    Some(at) => at,
                    None => {
                        self.count(&below(place, name))?;
                        columns.push((name.clone(), Shape::default()));
                        columns.len() - 1
                    }
                },
            };
            self.value(&mut columns[at].1, value, &|| below(place, name))?;
        }
        Ok(())
    }

    fn count(&mut self, place: &str) -> Result<(), ConvertError> {
        *self.num_columns += 1;
        match *self.num_columns > MAX_COLUMNS {
            false => Ok(()),
            true => Err(ConvertError::Table {
                sample: self.sample.clone(),
                reason: format!(
                    "{place:?} is the key after {MAX_COLUMNS} others; a table has a column for each"
                ),
            }),
        }
    }

    fn value(
        &mut self,
        shape: &mut Shape,
        value: &Value,
        place: &dyn Fn() -> String,
    ) -> Result<(), ConvertError> {
        if *value == Value::Null {
            return Ok(());
        }
        if matches!(shape.kind, Kind::Nothing) {
            shape.first = Some(self.sample.clone());
            shape.kind = match value {
                Value::Null => Kind::Nothing,
                Value::Bool(_) => Kind::Bool,
                Value::Int(_) | Value::Float(_) => Kind::Number(Number::default()),
                Value::Text(_) => Kind::Text,
                Value::Bytes(_) => Kind::Bytes,
                Value::List(_) => Kind::List(Box::default()),
                Value::Object(_) => Kind::Object(Vec::new()),
            };
        }
        match (&mut shape.kind, value) {
            (Kind::Bool, Value::Bool(_)) | (Kind::Text, Value::Text(_)) | (Kind::Bytes, Value::Bytes(_)) => {}
            (Kind::Number(seen), Value::Int(number)) => {
                if seen.whole.is_none() {
                    seen.whole = Some(self.sample.clone());
                }
                if seen.wide.is_none() && (*number as f64) as i128 != i128::from(*number) {
                    seen.wide = Some(self.sample.clone());
                }
            }
            (Kind::Number(seen), Value::Float(_)) => {
                if seen.float.is_none() {
                    seen.float = Some(self.sample.clone());
                }
            }
            (Kind::List(inside), Value::List(values)) => {
                let place = || format!("{}[]", place());
                values
                    .iter()
                    .try_for_each(|value| self.value(inside, value, &place))?;
            }
            (Kind::Object(columns), Value::Object(entries)) => self.entries(columns, entries, &place())?,
            (known, value) => {
                return Err(self.contradiction(place(), known.name(), &shape.first, value.kind()));
            }
        }
        Ok(())
    }

    fn contradiction(
        &self,
        place: String,
        first_kind: &'static str,
        first: &Option<SampleId>,
        second_kind: &'static str,
    ) -> ConvertError {
        ConvertError::Kinds {
            place,
            first: first.as_ref().unwrap_or(self.sample).clone(),
            first_kind,
            second: self.sample.clone(),
            second_kind,
        }
    }
}

impl Kind {
    /// As [`Value::kind`].
    fn name(&self) -> &'static str {
        match self {
            Kind::Nothing => "null",
            Kind::Bool => "a truth value",
            Kind::Number(_) => "a number",
            Kind::Text => "text",
            Kind::Bytes => "bytes",
            Kind::List(_) => "a list",
            Kind::Object(_) => "an object",
        }
    }
}

fn of(
    shape: Shape,
    place: &str,
    images: &HashSet<String>,
    widened: &mut Vec<String>,
) -> Result<Type, ConvertError> {
    Ok(match shape.kind {
        Kind::Nothing => Type::Null,
        Kind::Bool => Type::Bool,
        Kind::Text => Type::Text,
        Kind::Bytes => Type::Bytes,
        Kind::Number(Number { float: None, .. }) => Type::Int,
        Kind::Number(Number {
            wide: Some(first),
            float: Some(second),
            ..
        }) => {
            return Err(ConvertError::Kinds {
                place: place.to_owned(),
                first,
                first_kind: "a whole number of more than 53 bits",
                second,
                second_kind: "a number with a fraction or an exponent",
            });
        }
        Kind::Number(Number { whole, .. }) => {
            if whole.is_some() {
                widened.push(place.to_owned());
            }
            Type::Float
        }
        Kind::List(inside) => Type::List(Box::new(of(*inside, &format!("{place}[]"), images, widened)?)),
        Kind::Object(columns) => {
            let is_image = images.contains(place)
                && columns.iter().all(|(name, inside)| {
                    matches!(
                        (name.as_str(), &inside.kind),
                        ("bytes", Kind::Bytes | Kind::Nothing) | ("path", Kind::Text | Kind::Nothing)
                    )
                });
            if is_image {
                return Ok(Type::Image);
            }
            let mut fields = Vec::with_capacity(columns.len());
            for (name, shape) in columns {
                let inside = of(shape, &below(place, &name), images, widened)?;
                fields.push((name, inside));
            }
            Type::Struct(fields)
        }
    })
}
