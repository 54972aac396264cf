//! Which image of a sample stands where in its row.

use super::{
    super::super::{
        error::RowProblem,
        rows::{Fields, for_each_image},
        value::Value,
    },
    Sample, image, problem,
};

/// A member that is an image.
pub(super) struct Image<'a> {
    pub(super) part: &'a str,
    pub(super) bytes: &'a [u8],
}

/// Puts images where the row names them: in its own `images`, which must name all of them, or wherever else rows have
/// images. A row without `images` that does not name each of them gets all of them there.
pub(super) fn place_images(
    sample: &Sample,
    entries: &mut Vec<(String, Value)>,
    images: Vec<Image<'_>>,
) -> Result<(), RowProblem> {
    let own = entries
        .iter()
        .find(|(name, value)| name == "images" && *value != Value::Null);
    let has_own = match own {
        Some((_, Value::List(_))) => true,
        Some((_, other)) => return Err(problem(format!("images is {}, not a list", other.kind()))),
        None => false,
    };
    if images.is_empty() && !has_own {
        return Ok(());
    }
    let mut row = Value::Object(std::mem::take(entries));
    let mut used = Vec::new();
    for_each_image(&mut row, &Fields::default(), &mut |site| {
        let found = name_of(site.value).and_then(|name| find(sample, &images, name));
        match (found, &*site.value) {
            (Some(found), _) => used.push(found.part),
            (None, Value::Text(name)) if site.place == "images[]" => {
                return Err(problem(format!(
                    "images names {name:?}, which is not in the sample {:?}\n  hint: a name is that of a member, or its part: {}",
                    sample.key,
                    list(&images)
                )));
            }
            // What is no name may bring its bytes along.
            (None, _) => {}
        }
        Ok(())
    })?;
    let unused = images.iter().find(|found| !used.contains(&found.part));
    if let Some(unused) = unused.filter(|_| has_own) {
        return Err(problem(format!(
            "the sample {:?} has the image {:?}, which its images do not name",
            sample.key, unused.part
        )));
    }
    if unused.is_none() {
        for_each_image(&mut row, &Fields::default(), &mut |site| {
            let found = name_of(site.value).and_then(|name| find(sample, &images, name));
            if let Some(found) = found {
                *site.value = image(sample, found.part, found.bytes);
            }
            Ok(())
        })?;
    }
    if let Value::Object(placed) = row {
        *entries = placed;
    }
    if unused.is_some() {
        let all = images
            .iter()
            .map(|found| image(sample, found.part, found.bytes))
            .collect();
        entries.retain(|(name, _)| name != "images");
        entries.push(("images".to_owned(), Value::List(all)));
    }
    Ok(())
}

/// What an image is called by the text that stands for it: the text, or the one in `{"url": …}`.
fn name_of(value: &Value) -> Option<&str> {
    let inside = ["path", "url", "image"].iter().find_map(|key| value.get(key));
    match value.get("bytes").or(value.get("base64")) {
        Some(_) => None,
        None => inside.unwrap_or(value).as_text(),
    }
}

fn find<'a, 'b>(sample: &Sample, images: &'b [Image<'a>], name: &str) -> Option<&'b Image<'a>> {
    let file = sample.key.rsplit('/').next().unwrap_or_default();
    let rest = name
        .strip_prefix(&*sample.key)
        .or(name.strip_prefix(file))
        .and_then(|rest| rest.strip_prefix('.'));
    images
        .iter()
        .find(|found| found.part == name || rest.is_some_and(|rest| rest == found.part))
}

fn list(images: &[Image<'_>]) -> String {
    let parts: Vec<&str> = images.iter().map(|image| image.part).collect();
    match parts.is_empty() {
        true => "it has no image".to_owned(),
        false => parts.join(", "),
    }
}
