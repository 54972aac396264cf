//! `field_map`: where the fields of a sample are. `jpg`, `json[question]`, `json[0][value]`; `jpg,png` takes the first
//! that is there.

use super::super::{
    super::{error::RowProblem, value::Value},
    tar::{Sample, Shard, decode, image, is_image},
};

/// A field, and where it may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: String,
    places: Vec<Place>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    part: String,
    inside: Vec<String>,
}

impl Field {
    /// Reads an expression; `None` for an empty one, which skips an optional field.
    pub(super) fn parse(name: &str, expression: &str) -> Result<Option<Self>, String> {
        if expression.trim().is_empty() {
            return Ok(None);
        }
        let places = expression.split(',').map(|place| Place::parse(place.trim()));
        let places: Option<Vec<Place>> = places.collect();
        let places = places.ok_or_else(|| {
            format!(
                "field_map.{name}: {expression:?} is no place\n  hint: write jpg, json[question] or jpg,png"
            )
        })?;
        Ok(Some(Self {
            name: name.to_owned(),
            places,
        }))
    }

    /// The field of a sample.
    pub(super) fn read(&self, shard: &Shard, sample: &Sample) -> Result<Value, RowProblem> {
        let failed = |reason: String| RowProblem::Source {
            reason: format!("field {:?}: {reason}", self.name),
        };
        let mut seen = Vec::new();
        for place in &self.places {
            let Some(bytes) = shard.content(sample, &place.part) else {
                seen.push(format!("no {}.{}", sample.key, place.part));
                continue;
            };
            if is_image(&place.part) && place.inside.is_empty() {
                return Ok(image(sample, &place.part, bytes));
            }
            let value = decode(&place.part, bytes)
                .map_err(|problem| failed(format!("{}.{}: {problem}", sample.key, place.part)))?;
            match place.reach(&value) {
                Some(value) => return Ok(value.clone()),
                None => seen.push(format!(
                    "no [{}] in {}.{}",
                    place.inside.join("]["),
                    sample.key,
                    place.part
                )),
            }
        }
        Err(failed(seen.join(", ")))
    }
}

impl Place {
    fn parse(text: &str) -> Option<Self> {
        let (part, rest) = text.split_at(text.find('[').unwrap_or(text.len()));
        let inside = match rest {
            "" => Vec::new(),
            rest => rest
                .strip_prefix('[')?
                .strip_suffix(']')?
                .split("][")
                .map(str::to_owned)
                .collect(),
        };
        let is_good = !part.is_empty() && inside.iter().all(|key: &String| !key.is_empty());
        is_good.then(|| Self {
            part: part.to_owned(),
            inside,
        })
    }

    fn reach<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        self.inside.iter().try_fold(value, |value, key| match value {
            Value::List(values) => values.get(key.parse::<usize>().ok()?),
            value => value.get(key),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_read() {
        let parse = |expression: &str| Field::parse("f", expression);
        let field = parse("jpg, json[0][value]").unwrap().unwrap();
        assert_eq!(
            field.places[0],
            Place {
                part: "jpg".into(),
                inside: vec![]
            }
        );
        let inside = vec!["0".to_owned(), "value".to_owned()];
        assert_eq!(
            field.places[1],
            Place {
                part: "json".into(),
                inside
            }
        );
        assert_eq!(parse(" ").unwrap(), None);
        for wrong in ["[a]", "json[", "json[]", "json]a[", "json[a", ",jpg"] {
            assert!(parse(wrong).unwrap_err().contains("is no place"), "{wrong}");
        }
    }
}
