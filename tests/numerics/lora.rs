//! Adapters against PEFT, and what follows from themselves: which layers get one, how they start, what is refused.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use brazier::{
    data::{Batch, PaddingSide},
    fs,
    hub::{self, Adapter},
    learner::{
        Learner,
        options::{OptimizerConfig, StepConfig, TrainMode},
    },
};
use brazier_models::{
    HostDtype, HostTensor, LoraConfig, LoraParts, LoraTargets, MlpKind, Vlm, VlmConfig, VlmInputs,
    lora::{is_adapter, linears},
    params::{list_params, load_params},
};
use burn::tensor::{DType, Device};
use serde_json::Value;

use crate::{
    BACKWARD, FORWARD, check, check_gradients, export_options,
    fixture::{Fixture, Rows},
    loss_and_gradients,
    support::{devices, f32s, plain_step, sample, tiny_vlm, weights},
    values,
};

fn lora_config(settings: &Value) -> LoraConfig {
    let names = settings["target_modules"].as_array().map(|names| {
        let names = names.iter().map(|name| name.as_str().unwrap().to_owned());
        LoraTargets::Named(names.collect())
    });
    LoraConfig {
        r: settings["r"].as_u64().unwrap() as usize,
        lora_alpha: settings["lora_alpha"].as_f64().unwrap(),
        lora_dropout: 0.0,
        use_rslora: settings["use_rslora"].as_bool().unwrap(),
        target_modules: names.unwrap_or(LoraTargets::AllLinear),
        parts: LoraParts::Language,
    }
}

/// The adapters of each variant: its name, its settings, and the fixture's model with them.
fn variants(fixture: &Fixture, device: &Device) -> Vec<(String, Vlm)> {
    let config = VlmConfig {
        text: fixture.decoder_config(),
        vision: None,
        head: brazier_models::Head::Lm,
    };
    let variants = fixture.about["variants"].as_object().unwrap().iter();
    variants
        .map(|(variant, settings)| {
            let prefix = format!("{variant}.");
            let model = fixture.model_with_lora(&config, &lora_config(settings), &prefix, device);
            (prefix, model)
        })
        .collect()
}

#[test]
fn adapters_agree_with_peft() {
    let fixture = Fixture::open("lora.safetensors");
    for device in &devices() {
        for (prefix, model) in variants(&fixture, device) {
            let inputs =
                VlmInputs::new(&Rows::of(&fixture).batch(), model.config(), device, DType::F32).unwrap();
            let recorded = |name: &str| fixture.f32s(&format!("{prefix}{name}"));
            check(
                "logits",
                &values(model.logits(&inputs)),
                &recorded("logits"),
                FORWARD,
            );
            let (loss, gradients) = loss_and_gradients(&model, &inputs);
            check("loss", &[loss], &recorded("loss_sum"), FORWARD);
            // Of the adapters alone: the frozen weights have none.
            let scale = 1.0 / fixture.number("num_labelled") as f32;
            check_gradients(&fixture, &format!("{prefix}grad."), &gradients, scale);
        }
    }
}

/// Written as PEFT writes it, and folded into the base model: what is then one plain model gives the same logits, which
/// are those that PEFT gave.
#[test]
fn a_merged_model_is_base_and_adapters() {
    let fixture = Fixture::open("lora.safetensors");
    let device = &devices()[0];
    for (prefix, model) in variants(&fixture, device) {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        let (adapters, base): (Vec<_>, Vec<_>) = weights(&model)
            .into_iter()
            .partition(|tensor| is_adapter(&tensor.name));
        write_base(&at("base"), model.config(), base);
        let adapter = Adapter {
            config: model.lora().unwrap().clone(),
            base: None,
            tensors: adapters,
        };
        hub::write_adapter(&at("adapter"), model.config(), &adapter).unwrap();
        hub::merge_adapter(&at("base"), &at("adapter"), &at("merged")).unwrap();
        let config = hub::read_config(&at("merged")).unwrap();
        let merged = Vlm::init(&config, 0, device, DType::F32).unwrap();
        let expected: Vec<_> = list_params(&merged)
            .into_iter()
            .map(|info| (info.path, info.shape))
            .collect();
        let read = hub::read_weights(&at("merged"), &config, &expected, None).unwrap();
        let merged = load_params(merged, read).map_err(|(_, error)| error).unwrap();
        let inputs = VlmInputs::new(&Rows::of(&fixture).batch(), &config, device, DType::F32).unwrap();
        let logits = fixture.f32s(&format!("{prefix}logits"));
        check("merged logits", &values(merged.logits(&inputs)), &logits, FORWARD);
    }
}

fn write_base(dir: &Path, config: &VlmConfig, tensors: Vec<HostTensor>) {
    let tokenizer = dir.with_file_name("tokenizer.json");
    fs::write_durable(&tokenizer, b"{}").unwrap();
    let options = export_options(HostDtype::F32, 1 << 30);
    hub::export(dir, config, tensors, &tokenizer, &options).unwrap();
}

fn recorded_step(fixture: &Fixture) -> StepConfig {
    let number = |key: &str| fixture.about["adamw"][key].as_f64().unwrap();
    StepConfig {
        optimizer: OptimizerConfig {
            lr: number("lr"),
            beta1: number("beta1"),
            beta2: number("beta2"),
            eps: number("eps"),
            weight_decay: number("weight_decay"),
            ..plain_step(TrainMode::LmOnly).optimizer
        },
        ..plain_step(TrainMode::LmOnly)
    }
}

fn recorded_batch(fixture: &Fixture) -> Batch {
    let rows = Rows::of(fixture);
    Batch {
        rows: rows.rows,
        length: rows.length,
        num_tokens: rows.input_ids.len(),
        num_labelled: fixture.number("num_labelled") as usize,
        input_ids: rows.input_ids,
        labels: rows.labels,
        padding_side: PaddingSide::Right,
        segments: vec![vec![rows.length]; rows.rows],
        images: None,
        classes: None,
        samples: (1..=rows.rows).map(sample).collect(),
    }
}

/// Three steps with weight decay: losses and adapters are PyTorch's, and no bit of the base moves.
#[test]
fn training_adapters_agrees_with_peft() {
    let fixture = Fixture::open("lora.safetensors");
    for device in &devices() {
        for (prefix, model) in variants(&fixture, device) {
            let before = weights(&model);
            let mut learner = Learner::new(model, recorded_step(&fixture), device.clone()).unwrap();
            let batch = [recorded_batch(&fixture)];
            for loss in fixture.f32s(&format!("{prefix}loss")) {
                check("loss", &[learner.step(&batch).unwrap().loss], &[loss], FORWARD);
            }
            for (before, after) in before.iter().zip(weights(&learner.whole_model().unwrap())) {
                let path = &after.name;
                if is_adapter(path) {
                    let expected = fixture.f32s(&format!("{prefix}final.{path}"));
                    check(path, &f32s(&after.bytes), &expected, BACKWARD);
                } else {
                    assert!(before.bytes == after.bytes, "{path} moved");
                }
            }
        }
    }
}

fn tiny_lora(target_modules: LoraTargets, parts: LoraParts) -> LoraConfig {
    LoraConfig {
        r: 2,
        lora_alpha: 4.0,
        lora_dropout: 0.0,
        use_rslora: false,
        target_modules,
        parts,
    }
}

/// What is listed without a model is what models have, shape by shape.
#[test]
fn the_list_of_linear_layers_is_the_models() {
    let device = &devices()[0];
    let fixture = Fixture::open("vlm.safetensors");
    let mut apertus = fixture.vlm_config();
    apertus.text.mlp = MlpKind::Xielu;
    let (_, siglip) = crate::towers::model("siglip");
    for config in [tiny_vlm(), fixture.vlm_config(), apertus, siglip] {
        let lora = tiny_lora(LoraTargets::AllLinear, LoraParts::Both);
        let model = Vlm::init_with_lora(&config, Some(&lora), 0, device, DType::F32).unwrap();
        let params = list_params(&model);
        let shapes: BTreeMap<&str, &[usize]> = params
            .iter()
            .map(|param| (param.path.as_str(), param.shape.as_slice()))
            .collect();
        let mut adapted = BTreeSet::new();
        for linear in linears(&config) {
            let shape = |name: &str| shapes[format!("{}.{name}.weight", linear.path).as_str()];
            assert_eq!(
                shapes[format!("{}.weight", linear.path).as_str()],
                [linear.d_out, linear.d_in]
            );
            assert_eq!(shape("lora_A"), [2, linear.d_in]);
            assert_eq!(shape("lora_B"), [linear.d_out, 2]);
            adapted.insert(linear.path.clone());
        }
        let with_adapter = params
            .iter()
            .filter_map(|param| param.path.strip_suffix(".lora_A.weight"));
        assert_eq!(adapted, with_adapter.map(str::to_owned).collect());
        let (language, vision) = lora.num_parameters(&config);
        let counted = params.iter().filter(|param| is_adapter(&param.path));
        assert_eq!(
            (language + vision) as usize,
            counted.map(|param| param.num_elements()).sum::<usize>()
        );
    }
}

/// Names choose layers, in the parts that are meant; base weights are drawn as without adapters, and B starts at 0.
#[test]
fn adapters_are_where_they_should_be_and_change_nothing_at_first() {
    let device = &devices()[0];
    let names = LoraTargets::Named(vec!["q_proj".into(), "mlp.fc1".into()]);
    let cases = [
        (
            names.clone(),
            LoraParts::Both,
            vec!["q_proj", "fc1"],
            ["vision_tower.", "language_model."].as_slice(),
        ),
        (
            LoraTargets::Named(vec!["q_proj".into()]),
            LoraParts::Language,
            vec!["q_proj"],
            &["language_model."],
        ),
        (
            names,
            LoraParts::Vision,
            vec!["q_proj", "fc1"],
            &["vision_tower."],
        ),
    ];
    let plain = weights(&Vlm::init(&tiny_vlm(), 5, device, DType::F32).unwrap());
    for (targets, parts, layers, prefixes) in cases {
        let lora = tiny_lora(targets, parts);
        let model = Vlm::init_with_lora(&tiny_vlm(), Some(&lora), 5, device, DType::F32).unwrap();
        let (adapters, base): (Vec<_>, Vec<_>) = weights(&model)
            .into_iter()
            .partition(|tensor| is_adapter(&tensor.name));
        assert_eq!(base, plain);
        assert!(!adapters.is_empty());
        for prefix in prefixes {
            assert!(adapters.iter().any(|tensor| tensor.name.starts_with(prefix)));
        }
        for tensor in adapters {
            let layer = tensor.name.rsplit('.').nth(2).unwrap();
            assert!(layers.contains(&layer), "{}", tensor.name);
            assert!(
                prefixes.iter().any(|prefix| tensor.name.starts_with(prefix)),
                "{}",
                tensor.name
            );
            let largest = f32s(&tensor.bytes)
                .into_iter()
                .fold(0.0f32, |max, x| max.max(x.abs()));
            if tensor.name.contains("lora_B") {
                assert_eq!(largest, 0.0);
            } else {
                // Uniform up to 1 / sqrt(in).
                let bound = (tensor.shape[1] as f32).sqrt().recip();
                assert!(
                    largest <= bound && largest > 0.7 * bound,
                    "{}: {largest} of {bound}",
                    tensor.name
                );
            }
        }
    }
}

#[test]
fn adapters_that_fit_nothing_are_refused() {
    let text = VlmConfig {
        vision: None,
        ..tiny_vlm()
    };
    let named = |names: &[&str]| LoraTargets::Named(names.iter().map(|&name| name.to_owned()).collect());
    let check = |config: &VlmConfig, change: &dyn Fn(&mut LoraConfig), expected: &str| {
        let mut lora = tiny_lora(LoraTargets::AllLinear, LoraParts::Language);
        change(&mut lora);
        let error = Vlm::init_with_lora(config, Some(&lora), 0, &devices()[0], DType::F32).unwrap_err();
        assert_eq!(error.to_string(), expected);
    };
    check(&text, &|lora| lora.r = 0, "lora.r = 0: must be at least 1");
    check(
        &text,
        &|lora| lora.lora_alpha = 0.0,
        "lora.alpha = 0: must be above 0",
    );
    check(
        &text,
        &|lora| lora.lora_dropout = 1.0,
        "lora.dropout = 1: must be at least 0 and below 1",
    );
    check(
        &text,
        &|lora| lora.parts = LoraParts::Both,
        "lora.parts = both: the model has no vision part",
    );
    check(
        &text,
        &|lora| lora.target_modules = named(&["q_proj", "query_key_value"]),
        "lora.target_modules = query_key_value: no layer of this name; there are: down_proj, gate_proj, k_proj, \
         o_proj, q_proj, up_proj, v_proj",
    );
    check(
        &tiny_vlm(),
        &|lora| (lora.target_modules, lora.parts) = (named(&["gate_proj"]), LoraParts::Vision),
        "lora.target_modules = gate_proj: no layer of this name; there are: fc1, fc2, k_proj, out_proj, q_proj, v_proj",
    );
    check(
        &text,
        &|lora| lora.target_modules = named(&[]),
        "lora.target_modules = []: names no layer; write all-linear, or names",
    );
    // Part of a name is no name.
    check(
        &text,
        &|lora| lora.target_modules = named(&["proj"]),
        "lora.target_modules = proj: no layer of this name; there are: down_proj, gate_proj, k_proj, o_proj, q_proj, \
         up_proj, v_proj",
    );
}
