//! Image processors against Pillow and transformers; see `tests/scripts/fixtures_processor.py`.

use std::collections::BTreeMap;

use brazier::{
    hub::read_image_processor,
    image_processor::{
        Filter, ImageProblem, ImageProcessor, Processed, Resize, Size, TargetSize, decode_rgb,
    },
};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::fixture::path;

/// Files and what became of them there.
struct Recorded {
    about: Value,
    tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)>,
}

impl Recorded {
    fn open() -> Self {
        let bytes = brazier::fs::read(&path("processor.safetensors")).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let about = serde_json::from_str(&header.metadata().as_ref().unwrap()["fixture"]).unwrap();
        let views = SafeTensors::deserialize(&bytes).unwrap().tensors();
        let tensors = views
            .into_iter()
            .map(|(name, view)| (name, (view.shape().to_vec(), view.data().to_vec())))
            .collect();
        Self { about, tensors }
    }

    fn bytes(&self, name: &str) -> &[u8] {
        &self
            .tensors
            .get(name)
            .unwrap_or_else(|| panic!("no tensor {name}"))
            .1
    }

    fn file(&self, name: &str) -> &[u8] {
        self.bytes(&format!("file.{name}"))
    }

    fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.tensors
            .iter()
            .filter_map(|(name, (_, bytes))| Some((name.strip_prefix("file.")?, bytes.as_slice())))
    }

    /// As a folder's `preprocessor_config.json` says it, in transformers' own words.
    fn processor(&self, name: &str) -> ImageProcessor {
        let json = &self.about["processors"][name];
        let side = json["crop_size"]["height"].as_u64();
        let side = side.or(json["size"]["height"].as_u64()).unwrap_or(224);
        read(json, side as usize).unwrap_or_else(|error| {
            // The size depends on the image, or is no square: no tower takes that, but the steps are to be right.
            let mut square = json.clone();
            square["do_center_crop"] = true.into();
            square["crop_size"] = json!({"height": side, "width": side});
            let mut processor = read(&square, side as usize).unwrap_or_else(|_| panic!("{error}"));
            let crop = &json["crop_size"];
            processor.center_crop = json["do_center_crop"].as_bool().unwrap_or(false).then(|| Size {
                height: crop["height"].as_u64().unwrap() as u32,
                width: crop["width"].as_u64().unwrap() as u32,
            });
            processor
        })
    }
}

fn read(json: &Value, image_size: usize) -> Result<ImageProcessor, String> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("preprocessor_config.json");
    brazier::fs::write_durable(&file, json.to_string().as_bytes()).unwrap();
    let read = read_image_processor(dir.path(), image_size).map_err(|error| error.to_string());
    read.map(Option::unwrap)
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// How far two lists of levels are apart: at most, and on average.
fn distance(got: impl IntoIterator<Item = u8>, expected: &[u8]) -> (u8, f64) {
    let got: Vec<u8> = got.into_iter().collect();
    assert_eq!(got.len(), expected.len(), "lengths differ");
    let differences = got
        .iter()
        .zip(expected)
        .map(|(got, expected)| got.abs_diff(*expected));
    let (largest, sum) = differences.fold((0, 0), |(largest, sum), difference| {
        (difference.max(largest), sum + usize::from(difference))
    });
    (largest, sum as f64 / expected.len() as f64)
}

#[test]
fn files_decode_to_the_levels_of_pillow() {
    let recorded = Recorded::open();
    let mut wrong = Vec::new();
    for (name, levels) in recorded.about["levels"].as_object().unwrap() {
        let Some(expected) = levels["sha256"].as_str() else {
            continue;
        };
        let image = decode_rgb(recorded.file(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(image.width(), levels["width"], "{name}");
        assert_eq!(image.height(), levels["height"], "{name}");
        if sha256(image.as_raw()) != expected {
            wrong.push(name.as_str());
        }
    }
    // The one knowing difference, see below.
    assert_eq!(wrong, ["deep.png", "deep.tif"]);
}

/// Pillow clips 16-bit greyscale at 255; here the upper byte is kept.
#[test]
fn deep_greyscale_keeps_its_upper_byte() {
    let recorded = Recorded::open();
    for name in ["deep.png", "deep.tif"] {
        let samples = recorded.bytes(&format!("samples.{name}")).as_chunks::<4>().0;
        let samples: Vec<i32> = samples.iter().map(|&bytes| i32::from_le_bytes(bytes)).collect();
        let clipped: Vec<u8> = samples.iter().map(|&sample| sample.min(255) as u8).collect();
        assert_eq!(recorded.bytes(&format!("levels.{name}")), clipped);
        let image = decode_rgb(recorded.file(name)).unwrap();
        let upper: Vec<u8> = samples
            .iter()
            .flat_map(|&sample| [(sample >> 8) as u8; 3])
            .collect();
        assert_eq!(image.as_raw(), &upper);
    }
}

/// Most by which a level may differ from libjpeg-turbo's, and on average, by how colour is stored. Decoders of JPEG round
/// differently: without subsampling in the inverse cosine transform and in YCbCr to RGB; with it mostly where colour is
/// interpolated, and that is a bias, which resizing does not average away.
const JPEG: [(&str, u8, f64); 4] = [
    ("grey", 1, 0.02),
    ("cmyk", 2, 0.02),
    ("full", 3, 0.02),
    ("", 4, 0.45), // 4:2:0 and 4:2:2
];

#[track_caller]
fn check_jpeg(name: &str, levels: impl IntoIterator<Item = u8>, expected: &[u8]) {
    let kind = name.replace("ycck", "cmyk");
    let (_, bound, bound_of_mean) = JPEG.iter().find(|(part, ..)| kind.contains(part)).unwrap();
    let (largest, mean) = distance(levels, expected);
    assert!(
        largest <= *bound && mean <= *bound_of_mean,
        "{name}: differs by up to {largest}, by {mean} on average"
    );
}

#[test]
fn jpeg_decodes_to_nearly_the_levels_of_libjpeg() {
    let recorded = Recorded::open();
    let mut checked = 0;
    for (name, file) in recorded.files().filter(|(name, _)| name.ends_with(".jpg")) {
        let (shape, expected) = &recorded.tensors[&format!("levels.{name}")];
        let image = decode_rgb(file).unwrap_or_else(|error| panic!("{name}: {error}"));
        let size = &recorded.about["levels"][name];
        assert_eq!(
            json!([image.height(), image.width()]),
            json!([size["height"], size["width"]]),
            "{name}"
        );
        let step = match image.height() {
            ..25 => 1,
            25..100 => 4,
            _ => 10,
        };
        let rows = image.as_raw().chunks_exact(3 * shape[1]).step_by(step);
        check_jpeg(name, rows.flatten().copied(), expected);
        checked += 1;
    }
    assert_eq!(checked, 16);
}

#[test]
fn jpeg_is_nearly_the_same_after_resizing() {
    let recorded = Recorded::open();
    let resized = recorded.tensors.iter().filter_map(|(name, recorded)| {
        let (processor, file) = name.strip_prefix("resized.")?.split_once('.')?;
        Some((processor, file, recorded))
    });
    for (processor, file, (shape, expected)) in resized {
        let processor = ImageProcessor {
            rescale: None,
            normalize: None,
            ..recorded.processor(processor)
        };
        let Processed { pixels, size } = processor.process(recorded.file(file)).unwrap();
        let channels = pixels.chunks_exact(size.height as usize * shape[2]);
        let rows = channels.flat_map(|channel| channel.chunks_exact(shape[2]).skip(3).step_by(40));
        check_jpeg(file, rows.flatten().map(|&level| level as u8), expected);
    }
}

#[test]
fn processors_agree_bit_for_bit_with_transformers() {
    let recorded = Recorded::open();
    let cases = recorded.about["cases"].as_array().unwrap();
    let mut wrong = Vec::new();
    for case in cases {
        let (processor, file) = (
            case["processor"].as_str().unwrap(),
            case["file"].as_str().unwrap(),
        );
        let Processed { pixels, size } = recorded
            .processor(processor)
            .process(recorded.file(file))
            .unwrap_or_else(|error| panic!("{processor} {file}: {error}"));
        assert_eq!(
            json!([3, size.height, size.width]),
            case["shape"],
            "{processor} {file}"
        );
        let bytes: Vec<u8> = pixels.iter().flat_map(|value| value.to_le_bytes()).collect();
        if sha256(&bytes) != case["sha256"].as_str().unwrap() {
            let sample: Vec<f32> = pixels
                .iter()
                .step_by((pixels.len() / 5).max(1))
                .copied()
                .collect();
            wrong.push(format!(
                "{processor} {file}: {sample:?}, expected {}",
                case["sample"]
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cases.len() > 40, "{} cases", cases.len());
}

/// Transformers squeezes, and pads, and cuts; none of it may depend on how much of the image somebody looks at.
#[test]
fn a_crop_is_a_part_of_the_whole() {
    let recorded = Recorded::open();
    let whole = recorded.processor("shortest_only");
    for crop in [(31, 31), (1, 2), (30, 17)] {
        let cropped = ImageProcessor {
            center_crop: Some(Size {
                height: crop.0,
                width: crop.1,
            }),
            ..whole
        };
        let [whole, cropped] =
            [whole, cropped].map(|processor| processor.process(recorded.file("photo.png")).unwrap());
        let (top, left) = ((whole.size.height - crop.0) / 2, (whole.size.width - crop.1) / 2);
        let at = |image: &Processed, channel: u32, row: u32, column: u32| {
            image.pixels[((channel * image.size.height + row) * image.size.width + column) as usize]
        };
        for channel in 0..3 {
            for (row, column) in (0..crop.0).flat_map(|row| (0..crop.1).map(move |column| (row, column))) {
                assert_eq!(
                    at(&cropped, channel, row, column),
                    at(&whole, channel, top + row, left + column)
                );
            }
        }
    }
}

/// Cut off, a file is an error, unless all of the image is there; with a bit changed, it is an image or an error.
#[test]
fn damaged_files_are_errors_and_never_panics() {
    let recorded = Recorded::open();
    let processor = ImageProcessor::clip(8);
    let mut panics = Vec::new();
    for (name, file) in recorded.files().filter(|(_, file)| file.len() < 5000) {
        let whole = processor.process(file).unwrap();
        for cut in (0..file.len()).step_by(file.len().div_ceil(60)) {
            match processor.process(&file[..cut]) {
                Err(error) => panics.extend(panicked(name, &error)),
                // The end of a file may be of no use to the image: a second frame, a checksum, a directory's end.
                Ok(image) => assert!(image == whole, "{name} cut to {cut} bytes passes"),
            }
        }
        for at in (0..file.len()).step_by(file.len().div_ceil(97)) {
            let mut changed = file.to_vec();
            changed[at] ^= 1 << (at % 8);
            if let Err(error) = processor.process(&changed) {
                panics.extend(panicked(name, &error));
            }
        }
    }
    assert!(panics.is_empty(), "{panics:#?}");
}

fn panicked(name: &str, error: &ImageProblem) -> Option<String> {
    matches!(error, ImageProblem::Decoder(_)).then(|| format!("{name}: {error}"))
}

#[test]
fn what_would_become_huge_is_refused() {
    let recorded = Recorded::open();
    let refuse = |processor: ImageProcessor, file: &str, expected: &str| {
        let error = processor.process(recorded.file(file)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    refuse(
        ImageProcessor::clip(5000),
        "tall.png",
        "1 x 61 pixels: with its short side at 5000 it would have 5000 x 305000",
    );
    let edges = Resize {
        size: TargetSize::Edges {
            shortest: 40,
            longest: 20,
        },
        filter: Filter::Bicubic,
    };
    let vanishing = ImageProcessor {
        resize: Some(edges),
        ..ImageProcessor::clip(20)
    };
    refuse(
        vanishing,
        "tall.png",
        "with its short side at 40 and its long side within 20 it would have 0 x",
    );
}
