//! Images of a row: a path, or the picture itself.

use std::{fmt, path::PathBuf};

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

use super::{
    super::{error::RowProblem, value::Value},
    fields::Reader,
};

/// Base64 with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Where an image is.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum ImageRef {
    /// In a file; relative to the rows.
    Path(PathBuf),
    /// In the row: an encoded picture.
    Bytes(Vec<u8>),
}

impl fmt::Debug for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ImageRef::Path(path) => write!(f, "Path({})", path.display()),
            ImageRef::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
        }
    }
}

/// The images that a row lists: `images` or `image`, or MultiMeditron's `modalities`.
pub(super) fn listed(reader: &Reader<'_>) -> Result<Vec<ImageRef>, RowProblem> {
    let Some((name, value)) = reader.find(reader.images())? else {
        return Ok(Vec::new());
    };
    let Value::List(values) = value else {
        return Ok(vec![image_ref("image", value, name)?]);
    };
    let images = values.iter().enumerate().map(|(number, value)| {
        let place = format!("{name}[{number}]");
        match modality(value, &place)? {
            Some(inside) => image_ref("value", inside, &format!("{place}.value")),
            None => image_ref("image", value, &place),
        }
    });
    images.collect()
}

/// The value of `{"type": "image", "value": …}`, if it is written so.
fn modality<'a>(value: &'a Value, place: &str) -> Result<Option<&'a Value>, RowProblem> {
    let Some(kind) = value.get("type") else {
        return Ok(None);
    };
    if kind.as_text() != Some("image") {
        let reason = format!("a modality of the type {kind:?}; images are read");
        return Err(RowProblem::field(place, reason));
    }
    let Some(inside) = value.get("value") else {
        return Err(RowProblem::field(place, "it has no \"value\"".into()));
    };
    Ok(Some(inside))
}

/// Reads an image that stands under a key: a path, a data URL, base64, bytes, or an object with one of them.
pub(super) fn image_ref(key: &str, value: &Value, place: &str) -> Result<ImageRef, RowProblem> {
    match value {
        Value::Bytes(bytes) => Ok(ImageRef::Bytes(bytes.clone())),
        Value::Text(text) if matches!(key, "base64" | "bytes") => decode(text, place),
        Value::Text(text) => from_text(text, place),
        Value::Object(entries) => {
            // Hugging Face's `Image` feature: the bytes count, the path is where they come from.
            let held = ["bytes", "base64", "path", "url", "image"];
            let unknown = entries
                .iter()
                .find(|(name, value)| !held.contains(&name.as_str()) && *value != Value::Null);
            if let Some((name, _)) = unknown {
                return Err(RowProblem::UnknownField {
                    place: place.to_owned(),
                    name: name.clone(),
                });
            }
            let found = held
                .iter()
                .find_map(|name| Some((*name, value.get(name)?)))
                .filter(|(_, value)| !matches!(value, Value::Object(_)));
            match found {
                Some((name, inside)) => image_ref(name, inside, &format!("{place}.{name}")),
                None => Err(RowProblem::field(place, "it has neither bytes nor a path".into())),
            }
        }
        other => Err(RowProblem::expected(place, "a path, bytes or base64", other)),
    }
}

fn from_text(text: &str, place: &str) -> Result<ImageRef, RowProblem> {
    if let Some(data) = text.strip_prefix("data:") {
        return match data.split_once(";base64,") {
            Some((_, data)) => decode(data, place),
            None => Err(RowProblem::field(
                place,
                "a data URL that is not base64; write data:image/png;base64,…".into(),
            )),
        };
    }
    if text.starts_with("http://") || text.starts_with("https://") {
        let reason = "an address on the network; nothing is downloaded while training\n  \
                      hint: download the images and name their files";
        return Err(RowProblem::field(place, reason.into()));
    }
    if text.is_empty() {
        return Err(RowProblem::field(place, "an empty path".into()));
    }
    Ok(ImageRef::Path(
        text.strip_prefix("file://").unwrap_or(text).into(),
    ))
}

fn decode(text: &str, place: &str) -> Result<ImageRef, RowProblem> {
    let bytes = BASE64
        .decode(text.trim_ascii())
        .map_err(|error| RowProblem::field(place, format!("not base64: {error}")))?;
    Ok(ImageRef::Bytes(bytes))
}

/// Fills the placeholders that hold no image themselves with the listed images, in order.
pub(super) fn fill(
    placeholders: Vec<Option<ImageRef>>,
    listed: Vec<ImageRef>,
) -> Result<Vec<ImageRef>, RowProblem> {
    let open = placeholders.iter().filter(|held| held.is_none()).count();
    if open != listed.len() {
        return Err(RowProblem::Placeholders {
            placeholders: open,
            images: listed.len(),
        });
    }
    let mut listed = listed.into_iter();
    Ok(placeholders
        .into_iter()
        .filter_map(|held| held.or_else(|| listed.next()))
        .collect())
}
