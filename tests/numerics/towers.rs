//! Models that see through SigLIP towers and other projectors than LLaVA's, against transformers and PyTorch.

use brazier::hub;
use brazier_models::{
    FeatureSelect, Head, HostDtype, ProjectorKind, Segment, Segmented, Vlm, VlmConfig, VlmInputs,
};
use burn::tensor::{DType, Device};
use serde_json::Value;

use crate::{
    FORWARD, check, check_unused, export_options,
    fixture::{Fixture, Rows, size, vision_config},
    models::check_model,
    support::{devices, weights},
    values,
};

const MODELS: [&str; 3] = ["siglip", "mlp3", "pixel_shuffle"];

pub(crate) fn model(name: &str) -> (Fixture, VlmConfig) {
    let fixture = Fixture::open(&format!("vlm_{name}.safetensors"));
    let about = &fixture.about;
    let mut config = fixture.vlm_config();
    let vision = config.vision.as_mut().unwrap();
    vision.vision = vision_config(&about["vision_config"]);
    vision.projector = projector(&about["projector"]);
    vision.vision_feature_select = FeatureSelect::Full;
    vision.vision_post_layernorm = about["vision_post_layernorm"].as_bool().unwrap();
    config.validate().unwrap();
    (fixture, config)
}

fn projector(about: &Value) -> ProjectorKind {
    match about["kind"].as_str().unwrap() {
        "mlp" => ProjectorKind::Mlp2,
        "mlp3" => ProjectorKind::Mlp3,
        "pixel_shuffle" => ProjectorKind::PixelShuffle {
            factor: size(about, "factor"),
        },
        other => panic!("unknown projector {other}"),
    }
}

/// Hidden states of the tower.
fn check_tower(fixture: &Fixture, config: &VlmConfig, device: &Device) {
    let model = fixture.model(config, "", device);
    check_unused(&model, &fixture.about["without_gradient"]);
    let inputs = VlmInputs::new(&Rows::of(fixture).batch(), config, device, DType::F32).unwrap();
    let mut x = None;
    let tower = model.segments(&inputs).into_iter();
    for (index, segment) in tower.take_while(|&at| at != Segment::Projector).enumerate() {
        let state = model.forward_segment(segment, x, &inputs);
        let name = format!("vision.hidden.{index}");
        check(&name, &values(state.clone()), &fixture.f32s(&name), FORWARD);
        x = Some(state);
    }
}

/// Hidden states of every block, logits, loss and the gradient of every parameter.
#[test]
fn every_tower_and_projector_agrees_with_pytorch() {
    for device in &devices() {
        for name in MODELS {
            let (fixture, config) = model(name);
            check_tower(&fixture, &config, device);
            check_model(&fixture, &config, Some(fixture.i32s("attention_mask")), device);
        }
    }
}

/// As for the families of language models, with the pixels rounded too.
#[cfg(feature = "flex")]
#[test]
fn bf16_loses_no_more_than_in_pytorch() {
    use brazier_models::params::load_params;

    for name in MODELS {
        let (fixture, config) = model(name);
        let device = Device::flex();
        let model = load_params(
            Vlm::init(&config, 0, &device, DType::BF16).unwrap(),
            weights(&fixture.model(&config, "", &device)),
        );
        let model = model.map_err(|(_, error)| error).unwrap();
        let inputs = VlmInputs::new(&Rows::of(&fixture).batch(), &config, &device, DType::BF16).unwrap();
        let mask = fixture.i32s("attention_mask");
        let logits = values(model.logits(&inputs));
        let expected = fixture.f64s("logits.f64");
        let width = logits.len() / mask.len();
        let is_real = |at: usize| mask[at / width] == 1;
        let square = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>();
        let pairs = logits.iter().zip(&expected).enumerate();
        let mut differences = pairs
            .filter(|(at, _)| is_real(*at))
            .map(|(_, (&x, y))| f64::from(x) - y);
        let error = (square(&mut differences) / square(&mut expected.iter().copied())).sqrt();
        let theirs = fixture.number("bf16_error");
        assert!(error < 1.25 * theirs, "{name}: {error:.2e}, PyTorch {theirs:.2e}");
    }
}

/// A folder of each model, read back: the same configuration, the same bytes, the pooling head's among them.
#[test]
fn every_tower_and_projector_is_exported_and_read_back() {
    let device = &devices()[0];
    for name in MODELS {
        let (fixture, config) = model(name);
        let tensors = weights(&fixture.model(&config, "", device));
        let expected: Vec<(String, Vec<usize>)> = tensors
            .iter()
            .map(|tensor| (tensor.name.clone(), tensor.shape.clone()))
            .collect();
        let root = tempfile::tempdir().unwrap();
        let tokenizer = root.path().join("tokenizer.json");
        brazier::fs::write_atomic(&tokenizer, b"{}").unwrap();
        let dir = root.path().join(name);
        let options = export_options(HostDtype::F32, 10_000);
        let summary = hub::export(&dir, &config, tensors.clone(), &tokenizer, &options).unwrap();
        assert_eq!(summary.layout.loads_in_transformers(), name == "siglip");
        let read = hub::read_config(&dir).unwrap();
        assert_eq!(read, config);
        assert_eq!(read.head, Head::Lm);
        assert!(hub::read_weights(&dir, &config, &expected, None).unwrap() == tensors);
    }
}
