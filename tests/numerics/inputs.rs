//! What a model refuses, and how many parameters it has.

use brazier::config::num_parameters;
use brazier_models::{
    FeatureSelect, HostFeatures, InputError, ProjectorKind, Segmented, VisionLanguageConfig, VisionModelType,
    Vlm, VlmConfig, VlmInputs, inputs::pixels, params::list_params,
};
use burn::tensor::DType;

use crate::{
    fixture::{Fixture, Rows},
    support::{IMAGE, Noise, devices, tiny_vlm},
    values,
};

/// One row with one image.
fn good() -> Rows {
    let image = IMAGE as i32;
    Rows {
        rows: 1,
        length: 7,
        input_ids: vec![1, image, image, image, image, 5, 2],
        labels: vec![-100, -100, -100, -100, -100, 5, 2],
        segments: vec![vec![7]],
        pixels: vec![0.0; 3 * 64],
        num_images: 1,
    }
}

fn refusal(config: &VlmConfig, rows: &Rows) -> Option<InputError> {
    let device = &devices()[0];
    VlmInputs::new(&rows.batch(), config, device, DType::F32).err()
}

fn check(config: &VlmConfig, change: impl Fn(&mut Rows), expected: &InputError, message: &str) {
    let mut rows = good();
    change(&mut rows);
    let error = refusal(config, &rows).expect(message);
    assert_eq!(&error, expected);
    assert!(error.to_string().contains(message), "{error}");
}

#[test]
fn image_tokens_and_images_must_agree() {
    let vlm = tiny_vlm();
    assert_eq!(refusal(&vlm, &good()), None);
    let tokens = |found, num_images| InputError::ImageTokens {
        found,
        expected: 4 * num_images,
        num_images,
        per_image: 4,
    };
    check(
        &vlm,
        |rows| rows.input_ids[5] = IMAGE as i32,
        &tokens(5, 1),
        "5 image tokens for 1 images",
    );
    check(&vlm, |rows| rows.input_ids[1] = 5, &tokens(3, 1), "expected 4");
    let forget = |rows: &mut Rows| (rows.num_images, rows.pixels) = (0, Vec::new());
    check(&vlm, forget, &tokens(4, 0), "each placeholder its image");
    let extra = |rows: &mut Rows| (rows.num_images, rows.pixels) = (2, vec![0.0; 6 * 64]);
    check(&vlm, extra, &tokens(4, 2), "4 image tokens for 2 images");
    let text = VlmConfig {
        vision: None,
        ..tiny_vlm()
    };
    check(
        &text,
        |_| (),
        &InputError::NoVision { num_images: 1 },
        "no vision part",
    );
}

#[test]
fn ids_and_labels_must_be_in_the_vocabulary() {
    let outside = |position, id| InputError::Vocabulary {
        row: 0,
        position,
        id,
        vocab_size: 24,
    };
    let vlm = tiny_vlm();
    check(
        &vlm,
        |rows| rows.input_ids[5] = 24,
        &outside(5, 24),
        "token id 24",
    );
    check(&vlm, |rows| rows.input_ids[6] = -1, &outside(6, -1), "position 6");
    check(
        &vlm,
        |rows| rows.labels[5] = 24,
        &outside(5, 24),
        "vocabulary of 24",
    );
    check(&vlm, |rows| rows.labels[0] = -7, &outside(0, -7), "token id -7");
    let mut rows = good();
    rows.input_ids[5] = 23;
    assert_eq!(refusal(&vlm, &rows), None);
}

#[test]
fn lengths_must_agree() {
    let vlm = tiny_vlm();
    let length = |field, found, expected| InputError::Length {
        field,
        found,
        expected,
    };
    check(
        &vlm,
        |rows| rows.rows = 2,
        &length("input_ids", 7, 14),
        "input_ids has 7 values",
    );
    check(
        &vlm,
        |rows| rows.labels.truncate(6),
        &length("labels", 6, 7),
        "expected 7",
    );
    check(
        &vlm,
        |rows| rows.pixels.truncate(100),
        &length("pixels", 100, 192),
        "pixels has 100",
    );
    let grow = |length: usize| {
        move |rows: &mut Rows| {
            rows.length = length;
            rows.input_ids.resize(length, 0);
            rows.labels.resize(length, -100);
            rows.segments = vec![vec![length]];
        }
    };
    let too_long = InputError::TooLong {
        length: 33,
        limit: 32,
    };
    check(&vlm, grow(33), &too_long, "max_position_embeddings = 32");
    let mut rows = good();
    grow(32)(&mut rows);
    assert_eq!(refusal(&vlm, &rows), None);
}

#[test]
fn segments_must_fit_their_rows() {
    let vlm = tiny_vlm();
    let segments = |lengths: &[usize]| InputError::Segments {
        row: 0,
        lengths: lengths.to_vec(),
        length: 7,
    };
    for lengths in [&[][..], &[8], &[5, 3], &[6, 0]] {
        let set = |rows: &mut Rows| rows.segments = vec![lengths.to_vec()];
        check(&vlm, set, &segments(lengths), "in a row of 7");
    }
    let missing = InputError::Length {
        field: "segments",
        found: 0,
        expected: 1,
    };
    check(
        &vlm,
        |rows| rows.segments.clear(),
        &missing,
        "segments has 0 values",
    );
    // An image's tokens in the padding are none.
    let short = InputError::ImageTokens {
        found: 3,
        expected: 4,
        num_images: 1,
        per_image: 4,
    };
    check(
        &vlm,
        |rows| rows.segments = vec![vec![4]],
        &short,
        "3 image tokens",
    );
    // The model's positions limit a segment, not the row.
    let mut rows = good();
    rows.length = 40;
    rows.input_ids.resize(40, 5);
    rows.labels.resize(40, -100);
    rows.segments = vec![vec![7, 32]];
    assert_eq!(refusal(&vlm, &rows), None);
    rows.segments = vec![vec![7, 33]];
    let too_long = InputError::TooLong {
        length: 33,
        limit: 32,
    };
    assert_eq!(refusal(&vlm, &rows), Some(too_long));
}

#[test]
fn parameters_are_counted_as_the_model_has_them() {
    let device = &devices()[0];
    let tiny = tiny_vlm();
    let with = |change: &dyn Fn(&mut VlmConfig)| {
        let mut config = tiny.clone();
        change(&mut config);
        config
    };
    let configs = [
        tiny.clone(),
        Fixture::open("vlm.safetensors").vlm_config(),
        with(&|config| config.vision = None),
        with(&|config| config.text.tie_word_embeddings = false),
        with(&|config| config.text.qk_norm = false),
        with(&|config| config.vision.as_mut().unwrap().projector = ProjectorKind::Linear),
        with(&|config| {
            let vision = config.vision.as_mut().unwrap();
            vision.projector = ProjectorKind::Mlp2;
            vision.vision_feature_select = FeatureSelect::Full;
        }),
        with(&|config| config.vision.as_mut().unwrap().projector = ProjectorKind::Mlp3),
        with(&|config| config.vision.as_mut().unwrap().projector = ProjectorKind::AveragePool { kernel: 2 }),
        with(&|config| {
            let vision = config.vision.as_mut().unwrap();
            vision.vision.model_type = VisionModelType::Siglip;
            vision.vision.vision_use_head = true;
            vision.vision_feature_select = FeatureSelect::Full;
        }),
    ];
    for config in configs {
        let infos = list_params(&Vlm::init(&config, 0, device, DType::F32).unwrap());
        let count = |part: &str| -> u64 {
            let infos = infos.iter().filter(|info| info.path.starts_with(part));
            infos.map(|info| info.num_elements() as u64).sum()
        };
        let counts = num_parameters(&config);
        assert_eq!(counts.language, count("language_model."), "{config:?}");
        assert_eq!(counts.projector, count("multi_modal_projector."), "{config:?}");
        assert_eq!(counts.vision, count("vision_tower."), "{config:?}");
        assert_eq!(counts.total(), count(""), "{config:?}");
    }
}

#[test]
fn towers_and_projectors_that_do_not_fit_are_refused() {
    let refused = |change: &dyn Fn(&mut VisionLanguageConfig), expected: &str| {
        let mut config = tiny_vlm();
        change(config.vision.as_mut().unwrap());
        let error = Vlm::init(&config, 0, &devices()[0], DType::F32).unwrap_err();
        assert_eq!(error.to_string(), expected);
    };
    let siglip = |vision: &mut VisionLanguageConfig| {
        vision.vision.model_type = VisionModelType::Siglip;
        vision.vision_feature_select = FeatureSelect::Full;
    };
    refused(
        &|vision| vision.projector = ProjectorKind::PixelShuffle { factor: 3 },
        "projector.factor = 3: must divide the patch grid's side = 4",
    );
    refused(
        &|vision| vision.projector = ProjectorKind::AveragePool { kernel: 0 },
        "projector.kernel = 0: must divide the patch grid's side = 4",
    );
    refused(
        &|vision| {
            vision.projector = ProjectorKind::AveragePool { kernel: 2 };
            vision.vision_feature_select = FeatureSelect::Full;
        },
        "vision_feature_select = full: this projector needs a square grid; use default, which drops the class token",
    );
    refused(
        &|vision| {
            siglip(vision);
            vision.vision_feature_select = FeatureSelect::Default;
        },
        "vision_feature_select = default: it drops the class token, and a siglip_vision_model has none (transformers would \
         drop the first patch); write full",
    );
    refused(
        &|vision| {
            siglip(vision);
            vision.vision_post_layernorm = true;
        },
        "vision_post_layernorm = true: the tower's last norm belongs to its last hidden state; use layer -1, or leave it out",
    );
    refused(
        &|vision| vision.vision.vision_use_head = true,
        "vision_config.vision_use_head = true: a model of type clip_vision_model has no pooling head",
    );
    refused(
        &|vision| vision.vision.patch_size = 9,
        "vision_config.patch_size = 9: larger than image_size = 8",
    );
}

/// What the tower, or tower and projector, have made of images stands for their pixels: the rest of the chain gives the same.
#[test]
fn features_stand_for_pixels() {
    let config = tiny_vlm();
    let mut rows = good();
    rows.pixels = Noise(5).take(3 * 64);
    let without_pixels = Rows {
        pixels: Vec::new(),
        ..rows.clone()
    };
    for device in &devices() {
        let model = Vlm::init(&config, 1, device, DType::F32).unwrap();
        let from_pixels = VlmInputs::new(&rows.batch(), &config, device, DType::F32).unwrap();
        let expected = values(model.logits(&from_pixels));
        let mut x_mtd = model.embed_pixels(pixels(&rows.pixels, 8, device, DType::F32));
        let chain = model.chain(true);
        for (at, &after) in chain.iter().take_while(|segment| segment.is_vision()).enumerate() {
            if at > 0 {
                x_mtd = model.forward_vision(after, x_mtd);
            }
            let [m, t, d] = x_mtd.dims();
            assert_eq!(
                [m, t, d][1..],
                config.vision.as_ref().unwrap().features(after, &config.text)
            );
            let bytes = x_mtd.clone().into_data().as_bytes().to_vec();
            let with = |bytes| {
                let features = HostFeatures { after, bytes };
                VlmInputs::with_features(&without_pixels.batch(), features, &config, device, DType::F32)
            };
            let inputs = with(bytes.clone()).unwrap();
            assert_eq!(model.segments(&inputs), chain[at + 1..]);
            assert_eq!(values(model.logits(&inputs)), expected, "after {after:?}");
            let refused = with(bytes[4..].to_vec()).err();
            let (field, found, expected) = ("features", bytes.len() - 4, bytes.len());
            assert_eq!(
                refused,
                Some(InputError::Length {
                    field,
                    found,
                    expected
                })
            );
        }
    }
}
