//! Families of language models against transformers.

use brazier::hub;
use brazier_models::{Head, HostDtype, VlmConfig};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::Value;

use crate::{
    cache::check_cache,
    decoder_config::rope_scaling,
    export_options,
    fixture::{Fixture, Rows, path, size},
    models::check_model,
    support::{devices, weights},
};

pub(crate) const FAMILIES: [&str; 6] = [
    "llama3",
    "llama_biases",
    "mistral",
    "qwen2",
    "qwen3_yarn",
    "apertus",
];

pub(crate) fn family(name: &str) -> (Fixture, VlmConfig) {
    let fixture = Fixture::open(&format!("language_{name}.safetensors"));
    let config = VlmConfig {
        text: fixture.decoder_config(),
        vision: None,
        head: Head::Lm,
    };
    config.validate().and(config.text.check_family()).unwrap();
    (fixture, config)
}

/// Hidden states of every block, logits, loss and the gradient of every parameter.
#[test]
fn every_family_agrees_with_transformers() {
    for device in &devices() {
        for name in FAMILIES {
            let (fixture, config) = family(name);
            check_model(&fixture, &config, None, device);
        }
    }
}

/// Also past the window, where the cache holds more than a query may see.
#[test]
fn every_family_decodes_with_a_cache() {
    for device in &devices() {
        for name in FAMILIES {
            let (fixture, config) = family(name);
            let model = fixture.model(&config, "", device);
            check_cache(&model, &Rows::of(&fixture), &[3, 17], device);
        }
    }
}

/// transformers computes the frequencies in f32.
#[test]
fn frequencies_agree_with_transformers() {
    let cases: Value = serde_json::from_slice(&brazier::fs::read(&path("rope.json")).unwrap()).unwrap();
    for case in cases["cases"].as_array().unwrap() {
        let parameters = &case["rope_parameters"];
        let theta = case["rope_theta"].as_f64().unwrap();
        let (frequencies, factor) = rope_scaling(parameters).frequencies(size(case, "head_dim"), theta);
        let expected = case["frequencies"].as_array().unwrap().iter();
        let expected: Vec<f64> = expected.map(|x| x.as_f64().unwrap()).collect();
        assert_eq!(frequencies.len(), expected.len());
        for (found, expected) in frequencies.iter().zip(&expected) {
            let error = (found / expected - 1.0).abs();
            assert!(error < 2e-6, "{parameters}: {found}, expected {expected}");
        }
        let expected = case["attention_factor"].as_f64().unwrap();
        assert!(
            (factor - expected).abs() < 1e-12,
            "{parameters}: {factor}, expected {expected}"
        );
    }
}

/// The root of the mean square difference of our bf16 logits from f64 against that of transformers' bf16. Both add up
/// roundings that look random, so one of two equal programs is often a tenth ahead: on average over the families ours must
/// not lose more, and in none much more.
#[cfg(feature = "flex")]
#[test]
fn bf16_loses_no_more_than_in_transformers() {
    use brazier_models::{Vlm, VlmInputs, params::load_params};
    use burn::tensor::{DType, Device};

    use crate::values;

    let mut ratios = Vec::new();
    for name in FAMILIES {
        let (fixture, config) = family(name);
        let device = Device::flex();
        let model = load_params(
            Vlm::init(&config, 0, &device, DType::BF16).unwrap(),
            weights(&fixture.model(&config, "", &device)),
        );
        let model = model.map_err(|(_, error)| error).unwrap();
        let inputs = VlmInputs::new(&Rows::of(&fixture).batch(), &config, &device, DType::BF16).unwrap();
        let logits = values(model.logits(&inputs));
        let expected = fixture.f64s("logits.f64");
        let square = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>();
        let difference = square(&mut logits.iter().zip(&expected).map(|(&x, y)| f64::from(x) - y));
        let error = (difference / square(&mut expected.iter().copied())).sqrt();
        let theirs = fixture.number("bf16_error");
        assert!(
            error < 1.25 * theirs,
            "{name}: {error:.2e}, transformers {theirs:.2e}"
        );
        ratios.push(error / theirs);
    }
    let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
    assert!(
        mean <= 1.0,
        "ours over theirs is {mean:.3} on average: {ratios:.3?}"
    );
}

/// A folder of the family in each element type, read back: the same configuration, the same bytes.
#[test]
fn every_family_is_exported_and_read_back() {
    let device = &devices()[0];
    for name in FAMILIES {
        let (fixture, config) = family(name);
        let tensors = weights(&fixture.model(&config, "", device));
        let expected: Vec<(String, Vec<usize>)> = tensors
            .iter()
            .map(|tensor| (tensor.name.clone(), tensor.shape.clone()))
            .collect();
        for dtype in [HostDtype::F32, HostDtype::Bf16] {
            let root = tempfile::tempdir().unwrap();
            let tokenizer = root.path().join("tokenizer.json");
            brazier::fs::write_atomic(&tokenizer, b"{}").unwrap();
            let dir = root.path().join(name);
            let options = export_options(dtype, 10_000);
            let summary = hub::export(&dir, &config, tensors.clone(), &tokenizer, &options).unwrap();
            // Each block of Apertus has two more scalars on disk.
            let constants = if name == "apertus" { 4 } else { 0 };
            assert_eq!(summary.num_tensors, tensors.len() + constants);
            assert_eq!(hub::read_config(&dir).unwrap(), config);
            let read = hub::read_weights(&dir, &config, &expected, None).unwrap();
            assert!(read.iter().all(|tensor| tensor.dtype == dtype));
            if dtype == HostDtype::F32 {
                assert!(read == tensors, "{name}");
            }
        }
    }
}

/// A file whose xIELU has another beta would compute something else under our constants.
#[test]
fn another_xielu_is_refused() {
    let device = &devices()[0];
    let (fixture, config) = family("apertus");
    let tensors = weights(&fixture.model(&config, "", device));
    let expected: Vec<(String, Vec<usize>)> = tensors
        .iter()
        .map(|tensor| (tensor.name.clone(), tensor.shape.clone()))
        .collect();
    let beta = "model.layers.1.mlp.act_fn.beta";
    for (value, is_fine) in [(0.5_f32, true), (0.75, false)] {
        let dir = tempfile::tempdir().unwrap();
        let scalar = value.to_le_bytes();
        let views = tensors.iter().map(|tensor| {
            let name = tensor.name.strip_prefix("language_model.").unwrap();
            let view = TensorView::new(Dtype::F32, tensor.shape.clone(), &tensor.bytes);
            (name, view.unwrap())
        });
        let views = views.chain([(beta, TensorView::new(Dtype::F32, Vec::new(), &scalar).unwrap())]);
        safetensors::serialize_to_file(views, None, &dir.path().join("model.safetensors")).unwrap();
        let read = hub::read_weights(dir.path(), &config, &expected, None);
        assert_eq!(read.is_ok(), is_fine);
        if let Err(error) = read {
            let error = error.to_string();
            assert!(error.contains(&format!("constant: {beta} is not 0.5")), "{error}");
        }
    }
}
