//! `preprocessor_config.json` to [`ImageProcessor`].

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::{PREPROCESSOR, PROCESSOR};
use crate::{
    hub::{
        HubError, Result,
        section::{Problems, Section},
        sidecar::read_object,
    },
    image_processor::{
        CLIP_MEAN, CLIP_STD, Filter, ImageProcessor, Normalize, Rescale, Resize, Size, TargetSize,
        mean_colour,
    },
};

/// Where `processor_config.json` has what is else a file of its own.
const NESTED: &str = "image_processor";

/// Keys that change nothing: who wrote the file, for which processor, and in what container results are returned. An image
/// is RGB before it gets here, so `do_convert_rgb` has nothing left to do.
const WITHOUT_EFFECT: [&str; 12] = [
    "_processor_class",
    "_valid_processor_keys",
    "device",
    "disable_grouping",
    "do_convert_rgb",
    "feature_extractor_type",
    "image_processor_type",
    "image_seq_length",
    "input_data_format",
    "processor_class",
    "return_tensors",
    "transformers_version",
];
/// Keys that are read.
const READ: [&str; 15] = [
    "crop_size",
    "data_format",
    "default_to_square",
    "do_center_crop",
    "do_normalize",
    "do_pad",
    "do_rescale",
    "do_resize",
    "image_mean",
    "image_std",
    "pad_size",
    "resample",
    "rescale_factor",
    "size",
    "use_square_size",
];

/// Classes of transformers whose steps are built in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Clip,
    Llava,
    Siglip,
}

impl Kind {
    /// By the name of the class, with or without the word for an implementation.
    fn named(name: &str) -> Option<Self> {
        let name = ["Fast", "Pil"]
            .iter()
            .find_map(|suffix| name.strip_suffix(suffix))
            .unwrap_or(name);
        match name {
            // BitImageProcessor, for instance of DINOv2, takes the same steps by the same defaults.
            "CLIPImageProcessor" | "CLIPFeatureExtractor" | "BitImageProcessor" => Some(Self::Clip),
            "LlavaImageProcessor" => Some(Self::Llava),
            "SiglipImageProcessor" => Some(Self::Siglip),
            _ => None,
        }
    }

    /// What the class does without a word.
    fn defaults(self) -> ImageProcessor {
        match self {
            Self::Clip | Self::Llava => ImageProcessor::clip(224),
            Self::Siglip => ImageProcessor::siglip(224),
        }
    }
}

/// Reads how a folder's images are prepared, for a tower that takes squares of `image_size` pixels: `image_processor` in
/// `processor_config.json` if that is there, else `preprocessor_config.json`; `None` without either.
///
/// # Errors
/// If a file is no JSON; with every key that asks for something that is not built in; if images do not come out as squares
/// of `image_size`.
pub fn read_image_processor(dir: &Path, image_size: usize) -> Result<Option<ImageProcessor>> {
    let Some(Found { path, prefix, map }) = find(dir)? else {
        return Ok(None);
    };
    let problems = Problems::default();
    let section = Section {
        prefix,
        map: &map,
        problems: &problems,
    };
    let processor = image_processor(section);
    let is_sound = problems.borrow().is_empty();
    if let (Some(processor), true) = (&processor, is_sound) {
        check_size(section, processor, image_size);
    }
    match (processor, problems.into_inner()) {
        (Some(processor), problems) if problems.is_empty() => Ok(Some(processor)),
        (_, problems) => Err(HubError::ImageProcessor { path, problems }),
    }
}

/// The object, the prefix of its keys, and the file that has it.
struct Found {
    path: PathBuf,
    prefix: &'static str,
    map: Map<String, Value>,
}

/// Looks in transformers' order.
fn find(dir: &Path) -> Result<Option<Found>> {
    let path = dir.join(PROCESSOR);
    match read_object(&path)?.remove(NESTED) {
        Some(Value::Object(map)) => {
            let prefix = "image_processor.";
            return Ok(Some(Found { path, prefix, map }));
        }
        None | Some(Value::Null) => {}
        Some(other) => {
            let problems = vec![format!("{NESTED} = {other}: expected an object")];
            return Err(HubError::ImageProcessor { path, problems });
        }
    }
    let path = dir.join(PREPROCESSOR);
    if !path.is_file() {
        return Ok(None);
    }
    let map = read_object(&path)?;
    let prefix = "";
    Ok(Some(Found { path, prefix, map }))
}

fn image_processor(section: Section) -> Option<ImageProcessor> {
    let kind = kind(section)?;
    let defaults = kind.defaults();
    refuse_unknown(section);
    section.only(
        "data_format",
        &json!("channels_first"),
        "channels come first here",
    );
    section.only("pad_size", &Value::Null, "images are padded to squares only");
    section.only(
        "use_square_size",
        &json!(false),
        "say size = {height, width} instead",
    );
    // Read even where unused: a mistake in it is one.
    let (mean, std) = (channels(section, "image_mean"), channels(section, "image_std"));
    let (mean, std) = match defaults.normalize {
        Some(normalize) => (mean.unwrap_or(normalize.mean), std.unwrap_or(normalize.std)),
        None => (mean.unwrap_or(CLIP_MEAN), std.unwrap_or(CLIP_STD)),
    };
    if std.iter().any(|&std| std == 0.0 || std as f32 == 0.0) {
        section.refuse("image_std", &json!(std), "a standard deviation is not 0");
    }
    let does = |key, default| section.flag(key).unwrap_or(default);
    let size = size(section).or(defaults.resize.map(|resize| resize.size));
    let filter = filter(section).unwrap_or(Filter::Bicubic);
    let crop = crop_size(section).or(Kind::Clip.defaults().center_crop);
    let factor = section.float("rescale_factor").unwrap_or(1.0 / 255.0);
    Some(ImageProcessor {
        pad_to_square: pads(section, kind).then(|| mean_colour(mean)),
        resize: size
            .filter(|_| does("do_resize", true))
            .map(|size| Resize { size, filter }),
        center_crop: crop.filter(|_| does("do_center_crop", defaults.center_crop.is_some())),
        rescale: does("do_rescale", true).then_some(Rescale::Factor(factor)),
        normalize: does("do_normalize", true).then_some(Normalize { mean, std }),
    })
}

fn kind(section: Section) -> Option<Kind> {
    // Old files have the second key alone, newer ones may have both.
    let key = ["image_processor_type", "feature_extractor_type"]
        .into_iter()
        .find(|key| section.value(key).is_some())
        .unwrap_or("image_processor_type");
    let name = section.text(key);
    let kind = name.and_then(Kind::named);
    if kind.is_none() {
        let value = section.value(key).unwrap_or(&Value::Null);
        let known = "CLIPImageProcessor, SiglipImageProcessor, LlavaImageProcessor or BitImageProcessor";
        section.refuse(key, value, &format!("expected {known}"));
    }
    kind
}

fn refuse_unknown(section: Section) {
    for (key, value) in section.map {
        let is_known = WITHOUT_EFFECT.contains(&key.as_str()) || READ.contains(&key.as_str());
        if !is_known && !matches!(value, Value::Null | Value::Bool(false)) {
            let reason = "what it asks for is not built in; if it has no effect, remove it from the file";
            section.refuse(key, value, reason);
        }
    }
}

fn pads(section: Section, kind: Kind) -> bool {
    if kind == Kind::Llava {
        return section.flag("do_pad").unwrap_or(false);
    }
    section.only(
        "do_pad",
        &json!(false),
        "only LlavaImageProcessor pads, to a square; the others' batches would depend on their largest image",
    );
    false
}

/// One number for all channels, or one for each.
fn channels(section: Section, key: &str) -> Option<[f64; 3]> {
    let value = section.value(key)?;
    let numbers = match value {
        Value::Array(values) => values.iter().map(Value::as_f64).collect::<Option<Vec<_>>>(),
        one => one.as_f64().map(|value| vec![value; 3]),
    };
    let channels = numbers.and_then(|numbers| numbers.try_into().ok());
    if channels.is_none() {
        section.refuse(
            key,
            value,
            "expected one number, or three: for red, green and blue",
        );
    }
    channels
}

fn filter(section: Section) -> Option<Filter> {
    let value = section.value("resample")?;
    let number = value.as_u64().and_then(|number| usize::try_from(number).ok());
    let filter = number.and_then(|number| Filter::ALL.get(number).copied());
    if filter.is_none() {
        let numbers = "0 nearest, 1 lanczos, 2 bilinear, 3 bicubic, 4 box or 5 hamming";
        section.refuse(
            "resample",
            value,
            &format!("expected Pillow's number of a filter: {numbers}"),
        );
    }
    filter
}

fn size(section: Section) -> Option<TargetSize> {
    let value = section.value("size")?;
    if value.is_number() {
        let edge = pixels(section, "size")?;
        return Some(match section.flag("default_to_square").unwrap_or(false) {
            true => TargetSize::Exact(Size::square(edge)),
            false => TargetSize::ShortestEdge(edge),
        });
    }
    let parts = size_parts(section, "size")?;
    match parts {
        [Some(height), Some(width), None, None] => Some(TargetSize::Exact(Size { height, width })),
        [None, None, Some(edge), None] => Some(TargetSize::ShortestEdge(edge)),
        [None, None, Some(shortest), Some(longest)] => Some(TargetSize::Edges { shortest, longest }),
        _ => {
            let reason = "expected height and width, or shortest_edge, or shortest_edge and longest_edge";
            section.refuse("size", value, reason);
            None
        }
    }
}

fn crop_size(section: Section) -> Option<Size> {
    let value = section.value("crop_size")?;
    if value.is_number() {
        return pixels(section, "crop_size").map(Size::square);
    }
    match size_parts(section, "crop_size")? {
        [Some(height), Some(width), None, None] => Some(Size { height, width }),
        _ => {
            section.refuse("crop_size", value, "expected height and width");
            None
        }
    }
}

/// Height, width, shortest and longest edge of one object.
fn size_parts(section: Section, key: &'static str) -> Option<[Option<u32>; 4]> {
    let prefix = format!("{}{key}.", section.prefix);
    let value = section.value(key)?;
    let Value::Object(map) = value else {
        section.refuse(key, value, "expected a number or an object");
        return None;
    };
    let parts = Section {
        prefix: &prefix,
        map,
        problems: section.problems,
    };
    const KEYS: [&str; 4] = ["height", "width", "shortest_edge", "longest_edge"];
    for (key, value) in map {
        if !KEYS.contains(&key.as_str()) && !value.is_null() {
            parts.refuse(key, value, &format!("expected {}", KEYS.join(", ")));
        }
    }
    Some(KEYS.map(|key| pixels(parts, key)))
}

/// A number of pixels that an image may have on one side.
fn pixels(section: Section, key: &str) -> Option<u32> {
    let size = section.size(key)?;
    let pixels = u32::try_from(size)
        .ok()
        .filter(|pixels| (1..=0xffff).contains(pixels));
    if pixels.is_none() {
        section.refuse(key, &size.into(), "expected 1 to 65535 pixels");
    }
    pixels
}

fn check_size(section: Section, processor: &ImageProcessor, image_size: usize) {
    let size = processor.output_size();
    let is_square = |size: Size| size.height as usize == image_size && size.width as usize == image_size;
    if size.is_some_and(is_square) {
        return;
    }
    let key = match processor.center_crop {
        Some(_) => "crop_size",
        None => "size",
    };
    let value = section.value(key).unwrap_or(&Value::Null);
    let what = match size {
        Some(size) => format!("images of {size} pixels"),
        None => "images whose shape is their own".into(),
    };
    let reason = format!("makes {what}, and the vision tower takes {image_size} x {image_size}");
    section.refuse(key, value, &reason);
}
