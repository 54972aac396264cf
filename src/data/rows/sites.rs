//! Where the images of a row stand, for whoever changes rows rather than trains on them.

use super::{
    super::{error::RowProblem, value::Value},
    Fields,
    fields::{CONTENT, IMAGES, MESSAGES, PART_IMAGES},
    images::{ImageRef, image_ref},
};

/// A value that stands for an image.
pub(crate) struct Site<'a> {
    /// The key it is under, which decides what text means there.
    pub(crate) key: &'a str,
    /// Where in a row, without numbers: `messages[].content[].image`.
    pub(crate) place: &'a str,
    pub(crate) value: &'a mut Value,
}

impl Site<'_> {
    /// What it says.
    pub(crate) fn read(&self) -> Result<ImageRef, RowProblem> {
        image_ref(self.key, self.value, self.place)
    }
}

/// What is done with each.
pub(crate) type Visit<'a> = dyn FnMut(Site<'_>) -> Result<(), RowProblem> + 'a;

/// Finds the images that a row lists (or MultiMeditron's modalities) and those in the parts of its turns. Null is no image.
///
/// # Errors
/// Those of `visit`.
pub(crate) fn for_each_image(
    row: &mut Value,
    fields: &Fields,
    visit: &mut Visit<'_>,
) -> Result<(), RowProblem> {
    for_each(row, fields.images.as_deref(), &IMAGES, &mut |place, value| {
        listed(place, value, visit)
    })?;
    for_each(row, fields.messages.as_deref(), &MESSAGES, &mut |place, turns| {
        for turn in list_of(turns) {
            let place = format!("{place}[]");
            for_each(turn, fields.content.as_deref(), &CONTENT, &mut |name, parts| {
                list_of(parts)
                    .iter_mut()
                    .try_for_each(|value| part(&format!("{place}.{name}[]"), value, visit))
            })?;
        }
        Ok(())
    })
}

/// Writes the text of each turn as a list of one part, as turns with images have it.
pub(crate) fn text_as_parts(row: &mut Value, fields: &Fields) -> Result<(), RowProblem> {
    for_each(row, fields.messages.as_deref(), &MESSAGES, &mut |_, turns| {
        for turn in list_of(turns) {
            for_each(turn, fields.content.as_deref(), &CONTENT, &mut |_, content| {
                if let Value::Text(text) = content {
                    let text = Value::Text(std::mem::take(text));
                    let kind = Value::Text("text".to_owned());
                    let part = vec![("type".to_owned(), kind), ("text".to_owned(), text)];
                    *content = Value::List(vec![Value::Object(part)]);
                }
                Ok(())
            })?;
        }
        Ok(())
    })
}

/// Calls `found` with what is under the given name, or else under the usual ones.
fn for_each(
    value: &mut Value,
    given: Option<&str>,
    usual: &[&str],
    found: &mut dyn FnMut(&str, &mut Value) -> Result<(), RowProblem>,
) -> Result<(), RowProblem> {
    if let Some(path) = given {
        let mut place = String::new();
        return match reach(value, path, &mut place) {
            Some(inside) => found(&place, inside),
            None => Ok(()),
        };
    }
    let Value::Object(entries) = value else {
        return Ok(());
    };
    let mut known = entries
        .iter_mut()
        .filter(|(name, _)| usual.contains(&name.as_str()));
    known.try_for_each(|(name, value)| found(name, value))
}

/// As `fields::find` reaches inside a row.
fn reach<'a>(value: &'a mut Value, path: &str, place: &mut String) -> Option<&'a mut Value> {
    if value.get(path).is_some() {
        place.push_str(path);
        return entry(value, path);
    }
    let mut at = value;
    for step in path.split(['.', '[', ']']).filter(|step| !step.is_empty()) {
        at = match at {
            Value::List(values) => {
                place.push_str("[]");
                values.get_mut(step.parse::<usize>().ok()?)?
            }
            object => {
                if !place.is_empty() {
                    place.push('.');
                }
                place.push_str(step);
                entry(object, step)?
            }
        };
    }
    Some(at)
}

fn entry<'a>(value: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    let Value::Object(entries) = value else {
        return None;
    };
    let (_, value) = entries.iter_mut().find(|(name, _)| name == key)?;
    Some(value)
}

fn list_of(value: &mut Value) -> &mut [Value] {
    match value {
        Value::List(values) => values,
        _ => &mut [],
    }
}

fn listed(place: &str, value: &mut Value, visit: &mut Visit<'_>) -> Result<(), RowProblem> {
    let Value::List(values) = value else {
        return one("image", place, value, visit);
    };
    for value in values {
        // MultiMeditron: {"type": "image", "value": …}.
        match value.get("type").is_some().then(|| entry(value, "value")) {
            Some(Some(inside)) => one("value", &format!("{place}[].value"), inside, visit)?,
            Some(None) => {}
            None => one("image", &format!("{place}[]"), value, visit)?,
        }
    }
    Ok(())
}

fn part(place: &str, value: &mut Value, visit: &mut Visit<'_>) -> Result<(), RowProblem> {
    let kind = value.get("type").and_then(Value::as_text);
    if !matches!(kind, Some("image" | "image_url")) {
        return Ok(());
    }
    for name in PART_IMAGES {
        if let Some(inside) = entry(value, name) {
            one(name, &format!("{place}.{name}"), inside, visit)?;
        }
    }
    Ok(())
}

fn one(key: &str, place: &str, value: &mut Value, visit: &mut Visit<'_>) -> Result<(), RowProblem> {
    match value {
        Value::Null => Ok(()),
        value => visit(Site { key, place, value }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(json: &str, fields: &Fields) -> Vec<String> {
        let mut row = Value::from_json(json.as_bytes()).unwrap();
        let mut found = Vec::new();
        for_each_image(&mut row, fields, &mut |site| {
            found.push(format!("{} = {:?}", site.place, site.read()?));
            Ok(())
        })
        .unwrap();
        found
    }

    #[test]
    fn images_are_found_where_rows_are_read() {
        let row = r#"{"images": ["a", null, {"type": "image", "value": "b"}], "image": {"path": "c"}, "text": "d",
            "messages": [{"content": "x"}, {"content": [{"type": "text", "text": "e"}, {"type": "image", "image": "f",
            "url": null}, {"type": "image_url", "image_url": {"url": "g"}}, {"type": "image"}]}]}"#;
        assert_eq!(
            places(row, &Fields::default()),
            [
                "images[] = Path(a)",
                "images[].value = Path(b)",
                "image = Path(c)",
                "messages[].content[].image = Path(f)",
                "messages[].content[].image_url = Path(g)",
            ]
        );
        let fields = Fields {
            images: Some("meta.shots[0]".into()),
            messages: Some("talk".into()),
            content: Some("said".into()),
            ..Fields::default()
        };
        let row = r#"{"meta": {"shots": [["a"], "b"]}, "image": 7, "talk": [{"said": [{"type": "image", "path": "c"}]}]}"#;
        assert_eq!(
            places(row, &fields),
            ["meta.shots[][] = Path(a)", "talk[].said[].path = Path(c)"]
        );
        assert_eq!(places(r#"{"talk": 1}"#, &fields), [""; 0]);
    }
}
