//! Files as they lie on the hub, files that are refused, and our own.

use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::{
    fs,
    image_processor::{Filter, ImageProcessor, Normalize, Rescale, Resize, Size, TargetSize, mean_colour},
};

fn write(dir: &Path, name: &str, json: &Value) {
    fs::write_durable(&dir.join(name), json.to_string().as_bytes()).unwrap();
}

fn read(json: &Value, image_size: usize) -> Result<Option<ImageProcessor>, String> {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), PREPROCESSOR, json);
    read_image_processor(dir.path(), image_size).map_err(|error| error.to_string())
}

const MEAN: [f64; 3] = [0.48145466, 0.4578275, 0.40821073];
const STD: [f64; 3] = [0.26862954, 0.26130258, 0.27577711];

#[test]
fn files_of_the_hub_are_read() {
    let check = |json: Value, image_size: usize, expected: ImageProcessor| {
        assert_eq!(read(&json, image_size), Ok(Some(expected)), "{json}");
    };
    // CLIP as OpenAI published it: sizes are numbers, and the factor goes without saying.
    let clip = json!({
        "crop_size": 336, "do_center_crop": true, "do_normalize": true, "do_resize": true,
        "feature_extractor_type": "CLIPFeatureExtractor", "image_mean": MEAN, "image_std": STD, "resample": 3, "size": 336
    });
    check(clip, 336, ImageProcessor::clip(336));
    // LLaVA 1.5.
    let llava = json!({
        "crop_size": {"height": 336, "width": 336}, "do_center_crop": true, "do_convert_rgb": true,
        "do_normalize": true, "do_rescale": true, "do_resize": true, "image_mean": MEAN,
        "image_processor_type": "CLIPImageProcessor", "image_std": STD, "processor_class": "LlavaProcessor",
        "resample": 3, "rescale_factor": 0.00392156862745098, "size": {"shortest_edge": 336}
    });
    check(llava, 336, ImageProcessor::clip(336));
    // SigLIP so400m, and SigLIP2 of a fixed resolution.
    let siglip = |side: u32, resample: u32| {
        json!({
            "do_convert_rgb": null, "do_normalize": true, "do_rescale": true, "do_resize": true,
            "image_mean": [0.5, 0.5, 0.5], "image_processor_type": "SiglipImageProcessor", "image_std": [0.5, 0.5, 0.5],
            "processor_class": "SiglipProcessor", "resample": resample, "rescale_factor": 0.00392156862745098,
            "size": {"height": side, "width": side}
        })
    };
    check(siglip(384, 3), 384, ImageProcessor::siglip(384));
    let bilinear = ImageProcessor {
        resize: Some(Resize {
            size: TargetSize::Exact(Size::square(512)),
            filter: Filter::Bilinear,
        }),
        ..ImageProcessor::siglip(512)
    };
    check(siglip(512, 2), 512, bilinear);
    // What is not said is the class's default; which implementation of the class, does not matter.
    for name in [
        "CLIPImageProcessor",
        "CLIPImageProcessorFast",
        "BitImageProcessor",
        "LlavaImageProcessor",
    ] {
        check(
            json!({"image_processor_type": name}),
            224,
            ImageProcessor::clip(224),
        );
    }
    check(
        json!({"image_processor_type": "SiglipImageProcessor"}),
        224,
        ImageProcessor::siglip(224),
    );
}

#[test]
fn switches_take_steps_out() {
    let json = json!({
        "image_processor_type": "LlavaImageProcessor", "do_pad": true, "do_center_crop": false, "do_rescale": false,
        "do_normalize": false, "size": {"height": 30, "width": 30}, "resample": 0, "image_mean": 0.5, "image_std": 2
    });
    let expected = ImageProcessor {
        pad_to_square: Some([127; 3]),
        resize: Some(Resize {
            size: TargetSize::Exact(Size::square(30)),
            filter: Filter::Nearest,
        }),
        center_crop: None,
        rescale: None,
        normalize: None,
    };
    assert_eq!(read(&json, 30), Ok(Some(expected)));
    let json = json!({"image_processor_type": "CLIPImageProcessor", "do_resize": false, "crop_size": 20});
    let expected = ImageProcessor {
        resize: None,
        ..ImageProcessor::clip(20)
    };
    assert_eq!(read(&json, 20), Ok(Some(expected)));
}

#[test]
fn the_nested_object_comes_first() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(read_image_processor(dir.path(), 224).unwrap(), None);
    write(
        dir.path(),
        PREPROCESSOR,
        &json!({"image_processor_type": "CLIPImageProcessor"}),
    );
    // LlavaProcessor's own file of old.
    write(
        dir.path(),
        PROCESSOR,
        &json!({"processor_class": "LlavaProcessor", "patch_size": 14}),
    );
    let read = || read_image_processor(dir.path(), 224).map_err(|error| error.to_string());
    assert_eq!(read(), Ok(Some(ImageProcessor::clip(224))));
    let nested = json!({"image_processor_type": "SiglipImageProcessor", "data_format": "channels_first"});
    write(dir.path(), PROCESSOR, &json!({"image_processor": nested}));
    assert_eq!(read(), Ok(Some(ImageProcessor::siglip(224))));
    write(
        dir.path(),
        PROCESSOR,
        &json!({"image_processor": {"image_processor_type": "X"}}),
    );
    let message = read().unwrap_err();
    let (file, key) = (
        "processor_config.json",
        "image_processor.image_processor_type = \"X\": expected CLIP",
    );
    assert!(message.contains(file) && message.contains(key), "{message}");
    write(dir.path(), PROCESSOR, &json!({"image_processor": 3}));
    assert!(
        read()
            .unwrap_err()
            .contains("image_processor = 3: expected an object")
    );
}

#[test]
fn what_cannot_be_expressed_is_refused_by_name() {
    let refuse = |key: &str, value: Value, expected: &str| {
        let mut json = json!({"image_processor_type": "CLIPImageProcessor"});
        json[key] = value;
        let message = read(&json, 224).unwrap_err();
        assert!(
            message.contains("preprocessor_config.json: this image processor cannot be used:")
                && message.contains(expected),
            "{message}"
        );
    };
    refuse(
        "image_processor_type",
        json!(null),
        "image_processor_type = null: expected CLIPImageProcessor",
    );
    refuse(
        "image_processor_type",
        json!("Siglip2ImageProcessor"),
        "image_processor_type = \"Siglip2Im",
    );
    refuse(
        "do_thumbnail",
        json!(true),
        "do_thumbnail = true: what it asks for is not built in",
    );
    refuse("auto_map", json!({}), "auto_map = {}: ");
    refuse(
        "do_pad",
        json!(true),
        "do_pad = true: only LlavaImageProcessor pads",
    );
    refuse(
        "do_resize",
        json!("yes"),
        "do_resize = \"yes\": expected true or false",
    );
    refuse("pad_size", json!({"height": 3}), "pad_size = ");
    refuse(
        "data_format",
        json!("channels_last"),
        "data_format = \"channels_last\": channels come first",
    );
    refuse("use_square_size", json!(true), "use_square_size = true: say size");
    refuse("resample", json!(6), "resample = 6: expected Pillow's number");
    refuse("resample", json!("bicubic"), "resample = \"bicubic\": ");
    refuse(
        "image_mean",
        json!([0.5, 0.5]),
        "image_mean = [0.5,0.5]: expected one number, or three",
    );
    refuse(
        "image_std",
        json!([0.5, 0.0, 0.5]),
        "image_std = [0.5,0.0,0.5]: a standard deviation is not 0",
    );
    refuse(
        "rescale_factor",
        json!("1/255"),
        "rescale_factor = \"1/255\": expected a number",
    );
    refuse(
        "size",
        json!({"longest_edge": 224}),
        "size = {\"longest_edge\":224}: expected height and width, or",
    );
    refuse(
        "size",
        json!({"shortest_edge": 0}),
        "size.shortest_edge = 0: expected 1 to 65535 pixels",
    );
    refuse(
        "size",
        json!({"max_pixels": 9}),
        "size.max_pixels = 9: expected height, width",
    );
    refuse(
        "size",
        json!([224, 224]),
        "size = [224,224]: expected a number or an object",
    );
    refuse(
        "crop_size",
        json!({"height": 224}),
        "crop_size = {\"height\":224}: expected height and width",
    );
    // The tower's size.
    refuse(
        "crop_size",
        json!(336),
        "crop_size = 336: makes images of 336 x 336 pixels, and the vision tower takes 224",
    );
    refuse(
        "do_center_crop",
        json!(false),
        "size = null: makes images whose shape is their own",
    );
}

#[test]
fn what_is_written_is_read_back() {
    let clip = ImageProcessor::clip(224);
    let with = |size, filter| ImageProcessor {
        resize: Some(Resize { size, filter }),
        ..clip
    };
    let mut all = vec![clip, ImageProcessor::siglip(224)];
    all.extend(Filter::ALL.map(|filter| with(TargetSize::ShortestEdge(300), filter)));
    let edges = TargetSize::Edges {
        shortest: 200,
        longest: 900,
    };
    all.push(with(edges, Filter::Box));
    all.push(ImageProcessor {
        pad_to_square: Some(mean_colour(MEAN)),
        center_crop: None,
        ..clip
    });
    all.push(ImageProcessor { resize: None, ..clip });
    all.push(ImageProcessor {
        rescale: None,
        normalize: None,
        ..clip
    });
    all.push(ImageProcessor {
        rescale: Some(Rescale::Factor(1.0 / 127.5)),
        normalize: Some(Normalize {
            mean: [1.0, 0.1, -0.3],
            std: [0.7, 1e-3, 2.5],
        }),
        ..clip
    });
    for processor in all {
        let json = image_processor_json(&processor).unwrap();
        assert_eq!(read(&json, 224), Ok(Some(processor)), "{json}");
    }
    // Files know no arithmetic but transformers'.
    let single = ImageProcessor {
        rescale: Some(Rescale::SinglePrecision),
        ..clip
    };
    assert_eq!(read(&image_processor_json(&single).unwrap(), 224), Ok(Some(clip)));
    let red = ImageProcessor {
        pad_to_square: Some([255, 0, 0]),
        ..clip
    };
    let message = image_processor_json(&red).unwrap_err().to_string();
    assert!(
        message.contains("padded with another colour than the mean"),
        "{message}"
    );
}
