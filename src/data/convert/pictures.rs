//! The images of rows on their way: their bytes are taken from wherever they are, and put where the target has them.

use std::path::{Component, Path, PathBuf};

use base64::{Engine, engine::general_purpose::STANDARD};

use super::{
    super::{
        error::RowProblem,
        image::MAX_FILE_BYTES,
        rows::{Fields, ImageRef, Site, for_each_image},
        value::Value,
    },
    error::Refusal,
};
use crate::fs;

/// Where images are in the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImagePlace {
    /// In the rows: bytes in tables and shards, base64 in JSON.
    Inline,
    /// In files beside the rows, which name them.
    Files,
    /// Where they were: rows stay as they are.
    Keep,
}

/// An image, its bytes untouched, and the name it had.
struct Picture {
    bytes: Vec<u8>,
    path: Option<String>,
}

/// Takes the images of a row into it: each becomes `{bytes, path}`, in the text that named it if `within` its object, and
/// else in the place of all that stood there.
pub(super) fn gather(
    row: &mut Value,
    fields: &Fields,
    folder: &Path,
    within: bool,
    places: &mut Vec<String>,
) -> Result<(), RowProblem> {
    for_each_image(row, fields, &mut |mut site| {
        let picture = load(&site, folder)?;
        places.push(site.place.to_owned());
        let target = if within {
            innermost(&mut site).1
        } else {
            site.value
        };
        *target = object(picture);
        Ok(())
    })?;
    // Those of before among them, which are as they should be.
    embedded("", "", row, &mut |site| {
        places.push(site.place.to_owned());
        if let Value::Bytes(bytes) = site.value {
            let bytes = std::mem::take(bytes);
            *site.value = object(Picture { bytes, path: None });
        }
        Ok(())
    })
}

/// As [`gather`] without reading a byte: that there is an image, and where. An empty one stands for it.
pub(super) fn foresee(
    row: &mut Value,
    fields: &Fields,
    folder: &Path,
    within: bool,
    places: &mut Vec<String>,
) -> Result<(), RowProblem> {
    let mut number = 0;
    walk(row, fields, &mut |mut site| {
        number += 1;
        if let ImageRef::Path(path) = site.read()? {
            fs::size_bytes(&folder.join(path))
                .map_err(|source| RowProblem::MissingImage { number, source })?;
        }
        places.push(site.place.to_owned());
        let target = if within {
            innermost(&mut site).1
        } else {
            site.value
        };
        *target = object(Picture {
            bytes: Vec::new(),
            path: None,
        });
        Ok(())
    })
}

/// The files that a row names.
pub(super) fn paths(
    row: &mut Value,
    fields: &Fields,
    folder: &Path,
    found: &mut dyn FnMut(&Path),
) -> Result<(), RowProblem> {
    for_each_image(row, fields, &mut |site| {
        if let ImageRef::Path(path) = site.read()? {
            found(&folder.join(path));
        }
        Ok(())
    })
}

/// Where a row holds images as bytes.
pub(super) fn held(row: &mut Value, fields: &Fields, places: &mut Vec<String>) -> Result<(), RowProblem> {
    walk(row, fields, &mut |mut site| {
        if is_held(&mut site) {
            places.push(site.place.to_owned());
        }
        Ok(())
    })
}

/// Whether the row holds this image as bytes.
pub(super) fn is_held(site: &mut Site<'_>) -> bool {
    matches!(innermost(site).1.get("bytes"), Some(Value::Bytes(_)))
}

/// Gives each gathered image to `place`, which says what stands for it in the row from now on.
pub(super) fn place(
    row: &mut Value,
    fields: &Fields,
    place: &mut dyn FnMut(Vec<u8>, Option<String>) -> Result<String, RowProblem>,
) -> Result<(), RowProblem> {
    walk(row, fields, &mut |mut site| {
        let (key, value) = innermost(&mut site);
        if let Some(Picture { bytes, path }) = taken(value) {
            let name = Value::Text(place(bytes, path)?);
            // Text under these keys would be the picture itself.
            *value = match key.as_str() {
                "base64" | "bytes" => Value::Object(vec![("path".to_owned(), name)]),
                _ => name,
            };
        }
        Ok(())
    })
}

/// Writes the gathered images as base64.
pub(super) fn encode(row: &mut Value, fields: &Fields) -> Result<(), RowProblem> {
    walk(row, fields, &mut |site| {
        if let Some(Picture { bytes, path }) = taken(site.value) {
            let mut entries = vec![("bytes".to_owned(), Value::Text(STANDARD.encode(bytes)))];
            entries.extend(path.map(|path| ("path".to_owned(), Value::Text(path))));
            *site.value = Value::Object(entries);
        }
        Ok(())
    })
}

/// Images by their places, and whatever else holds the bytes of one.
fn walk(
    row: &mut Value,
    fields: &Fields,
    visit: &mut dyn FnMut(Site<'_>) -> Result<(), RowProblem>,
) -> Result<(), RowProblem> {
    for_each_image(row, fields, visit)?;
    embedded("", "", row, visit)
}

fn embedded(
    key: &str,
    place: &str,
    value: &mut Value,
    visit: &mut dyn FnMut(Site<'_>) -> Result<(), RowProblem>,
) -> Result<(), RowProblem> {
    // Two letters are all that tells a BMP file: too little to take any bytes for one.
    let is_picture = |bytes: &[u8]| ending_of(bytes).is_some_and(|ending| ending != "bmp");
    let is_picture = match &*value {
        Value::Bytes(bytes) => is_picture(bytes),
        Value::Object(entries) => {
            let mut names = entries.iter().map(|(name, _)| name.as_str());
            let bytes = value.get("bytes");
            names.all(|name| matches!(name, "bytes" | "path"))
                && matches!(bytes, Some(Value::Bytes(bytes)) if is_picture(bytes))
        }
        _ => false,
    };
    if is_picture {
        return visit(Site { key, place, value });
    }
    match value {
        Value::List(values) => {
            let place = format!("{place}[]");
            values
                .iter_mut()
                .try_for_each(|value| embedded("image", &place, value, visit))
        }
        Value::Object(entries) => entries.iter_mut().try_for_each(|(name, value)| {
            let place = if place.is_empty() {
                name.clone()
            } else {
                format!("{place}.{name}")
            };
            embedded(name, &place, value, visit)
        }),
        _ => Ok(()),
    }
}

fn load(site: &Site<'_>, folder: &Path) -> Result<Picture, RowProblem> {
    Ok(match site.read()? {
        ImageRef::Bytes(bytes) => Picture {
            bytes,
            path: site.value.get("path").and_then(Value::as_text).map(str::to_owned),
        },
        ImageRef::Path(path) => Picture {
            bytes: fs::read_at_most(&folder.join(&path), MAX_FILE_BYTES)
                .map_err(|error| RowProblem::field(site.place, error.to_string()))?,
            path: Some(path.to_string_lossy().into_owned()),
        },
    })
}

fn object(picture: Picture) -> Value {
    let mut entries = vec![("bytes".to_owned(), Value::Bytes(picture.bytes))];
    entries.extend(picture.path.map(|path| ("path".to_owned(), Value::Text(path))));
    Value::Object(entries)
}

fn taken(value: &mut Value) -> Option<Picture> {
    let Value::Object(entries) = value else {
        return None;
    };
    let mut picture = Picture {
        bytes: Vec::new(),
        path: None,
    };
    let mut is_held = false;
    for (name, value) in entries {
        match (name.as_str(), value) {
            ("bytes", Value::Bytes(bytes)) => {
                picture.bytes = std::mem::take(bytes);
                is_held = true;
            }
            ("path", Value::Text(path)) => picture.path = Some(std::mem::take(path)),
            _ => {}
        }
    }
    is_held.then_some(picture)
}

/// The key and the value that say which image it is: `{"url": "a.png"}` says it by `url`.
fn innermost<'a>(site: &'a mut Site<'_>) -> (String, &'a mut Value) {
    let is_held = |value: &Value| ["bytes", "base64"].iter().any(|key| value.get(key).is_some());
    let named = ["path", "url", "image"]
        .into_iter()
        .find(|name| site.value.get(name).is_some() && !is_held(site.value));
    match (named, &mut *site.value) {
        (Some(name), Value::Object(entries)) => {
            let at = entries.iter().position(|(known, _)| known == name);
            (name.to_owned(), &mut entries[at.unwrap_or_default()].1)
        }
        (_, value) => (site.key.to_owned(), value),
    }
}

/// How files of such an image end, by its first bytes.
pub(super) fn ending_of(bytes: &[u8]) -> Option<&'static str> {
    let format = image::guess_format(bytes).ok()?;
    // Shards know images by these.
    Some(match format {
        image::ImageFormat::Jpeg => "jpg",
        image::ImageFormat::Png => "png",
        image::ImageFormat::WebP => "webp",
        image::ImageFormat::Bmp => "bmp",
        image::ImageFormat::Gif => "gif",
        image::ImageFormat::Tiff => "tif",
        _ => return None,
    })
}

/// A folder of images that rows name.
pub(super) struct ImageFolder {
    /// Where it is made.
    dir: PathBuf,
    /// How rows name it.
    name: String,
    pub(super) num_images: usize,
}

impl ImageFolder {
    pub(super) fn new(dir: PathBuf, name: String) -> Self {
        Self {
            dir,
            name,
            num_images: 0,
        }
    }

    /// Writes an image and gives its path from the rows. It keeps its own where that leads nowhere else and no other image
    /// has it; what several rows show is one file.
    pub(super) fn put(
        &mut self,
        (row, number): (usize, usize),
        bytes: &[u8],
        path: Option<&str>,
    ) -> Result<String, Refusal> {
        let own = path.and_then(|path| self.own_name(path));
        if let Some(own) = &own {
            let place = self.dir.join(own);
            if !fs::exists(&place) {
                return self.write(own, bytes);
            }
            let is_same = !fs::is_dir(&place)
                && fs::size_bytes(&place)? == bytes.len() as u64
                && fs::read(&place)? == bytes;
            if is_same {
                return Ok(format!("{}/{own}", self.name));
            }
        }
        let ending = path
            .and_then(|path| Path::new(path).extension()?.to_str())
            .filter(|ending| ending.len() <= 8)
            .or(ending_of(bytes))
            .unwrap_or("bin");
        let name = format!("{row:09}-{number}.{ending}");
        match fs::exists(&self.dir.join(&name)) {
            false => self.write(&name, bytes),
            true => Err(RowProblem::field(
                "an image",
                format!("another row names the file {name:?}, which this one would get"),
            )
            .into()),
        }
    }

    fn write(&mut self, name: &str, bytes: &[u8]) -> Result<String, Refusal> {
        let place = self.dir.join(name);
        if let Some(folder) = place.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = fs::Output::create(&place)?;
        file.write_all(bytes)?;
        self.num_images += 1;
        Ok(format!("{}/{name}", self.name))
    }

    /// A path that may be used below the folder as it is.
    fn own_name(&self, path: &str) -> Option<String> {
        const LONGEST_NAME: usize = 200;
        let mut names = Vec::new();
        for part in Path::new(path).components() {
            match part {
                Component::CurDir => {}
                Component::Normal(name) => names.push(name.to_str()?),
                _ => return None,
            }
        }
        if names.first() == Some(&self.name.as_str()) {
            names.remove(0);
        }
        let is_good = |name: &&str| name.len() <= LONGEST_NAME && !name.starts_with('.');
        let has_ending = Path::new(names.last()?).extension().is_some();
        (has_ending && names.iter().all(is_good)).then(|| names.join("/"))
    }
}
