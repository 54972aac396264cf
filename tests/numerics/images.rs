//! Image processors against Pillow and transformers; see `tests/scripts/fixtures_processor.py`.

use std::collections::BTreeMap;

use brazier::{
    hub::read_image_processor,
    image_processor::{ImageProcessor, Processed, Rescale, Size, TargetSize, decode_rgb},
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
        &self.tensors.get(name).unwrap_or_else(|| panic!("no tensor {name}")).1
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
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How far two lists of levels are apart: at most, and on average.
fn distance(got: impl IntoIterator<Item = u8>, expected: &[u8]) -> (u8, f64) {
    let got: Vec<u8> = got.into_iter().collect();
    assert_eq!(got.len(), expected.len(), "lengths differ");
    let differences = got.iter().zip(expected).map(|(got, expected)| got.abs_diff(*expected));
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
        let upper: Vec<u8> = samples.iter().flat_map(|&sample| [(sample >> 8) as u8; 3]).collect();
        assert_eq!(image.as_raw(), &upper);
    }
}

/// Decoders of JPEG round differently. What is seen here, per kind: colour subsampled 4:2:0 and 4:2:2, not subsampled.
#[test]
fn jpeg_decodes_to_nearly_the_levels_of_libjpeg() {
    let recorded = Recorded::open();
    for (name, file) in recorded.files().filter(|(name, _)| name.ends_with(".jpg")) {
        let (shape, expected) = &recorded.tensors[&format!("levels.{name}")];
        let image = decode_rgb(file).unwrap_or_else(|error| panic!("{name}: {error}"));
        let levels = &recorded.about["levels"][name];
        assert_eq!((image.width(), image.height()), (levels["width"].as_u64().unwrap() as u32, levels["height"].as_u64().unwrap() as u32), "{name}");
        let step = (image.height() as usize).div_ceil(shape[0]);
        let rows = image.as_raw().chunks_exact(3 * shape[1]).step_by(step);
        let (largest, mean) = distance(rows.flatten().copied(), expected);
        println!("{name}: at most {largest}, {mean:.4} on average");
    }
}

#[test]
fn jpeg_is_nearly_the_same_after_resizing() {
    let recorded = Recorded::open();
    for (name, (shape, expected)) in &recorded.tensors {
        let Some((processor, file)) = name
            .strip_prefix("resized.")
            .and_then(|rest| rest.split_once('.'))
        else {
            continue;
        };
        let processor = ImageProcessor {
            rescale: None,
            normalize: None,
            ..recorded.processor(processor)
        };
        let image = processor.process(recorded.file(file)).unwrap();
        let width = shape[2];
        let height = image.size.height as usize;
        let rows = image.pixels.chunks_exact(height * width).flat_map(|channel| channel.chunks_exact(width).skip(3).step_by(28));
        let (largest, mean) = distance(rows.flatten().map(|&level| level as u8), expected);
        println!("{name}: at most {largest}, {mean:.4} on average");
    }
}

#[test]
fn processors_agree_bit_for_bit_with_transformers() {
    let recorded = Recorded::open();
    let cases = recorded.about["cases"].as_array().unwrap();
    let mut wrong = Vec::new();
    for case in cases {
        let (processor, file) = (case["processor"].as_str().unwrap(), case["file"].as_str().unwrap());
        let Processed { pixels, size } = recorded
            .processor(processor)
            .process(recorded.file(file))
            .unwrap_or_else(|error| panic!("{processor} {file}: {error}"));
        assert_eq!(json!([3, size.height, size.width]), case["shape"], "{processor} {file}");
        let bytes: Vec<u8> = pixels.iter().flat_map(|value| value.to_le_bytes()).collect();
        if sha256(&bytes) != case["sha256"].as_str().unwrap() {
            let sample: Vec<f32> = pixels.iter().step_by((pixels.len() / 5).max(1)).copied().collect();
            wrong.push(format!("{processor} {file}: {sample:?}, expected {}", case["sample"]));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cases.len() > 40, "{} cases", cases.len());
}
