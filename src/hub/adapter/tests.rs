//! Adapters written and read back, merged, and refused.

use std::path::Path;

use brazier_models::{HostDtype, HostTensor, LoraConfig, LoraParts, LoraTargets, VlmConfig, lora::linears};
use half::bf16;
use safetensors::SafeTensors;
use serde_json::{Map, Value, json};

use super::*;
use crate::hub::{
    merge_adapter, read_weights,
    tests::{export_to, lm, parameters, pickled::fixture, read_json, vlm},
};

fn lora(names: &[&str], parts: LoraParts) -> LoraConfig {
    LoraConfig {
        r: 2,
        lora_alpha: 3.0,
        lora_dropout: 0.25,
        use_rslora: true,
        target_modules: LoraTargets::Named(names.iter().map(|&name| name.to_owned()).collect()),
        parts,
    }
}

fn tensor(name: String, shape: [usize; 2]) -> HostTensor {
    let mut seed = name.len() as f32;
    let values = (0..shape[0] * shape[1]).map(|i| {
        seed = (seed * 1.7 + i as f32 * 0.31).rem_euclid(1.0);
        seed - 0.5
    });
    HostTensor {
        bytes: values.flat_map(f32::to_le_bytes).collect(),
        name,
        shape: shape.to_vec(),
        dtype: HostDtype::F32,
    }
}

/// Sorted by name, as they are read.
fn adapter(model: &VlmConfig, config: LoraConfig, with_projector: bool) -> Adapter {
    let layers = linears(model)
        .into_iter()
        .filter(|layer| config.targets(&layer.path));
    let mut tensors: Vec<HostTensor> = layers
        .flat_map(|layer| {
            let name = |matrix: &str| format!("{}.{matrix}.weight", layer.path);
            [
                tensor(name("lora_A"), [config.r, layer.d_in]),
                tensor(name("lora_B"), [layer.d_out, config.r]),
            ]
        })
        .collect();
    if with_projector {
        // Width of the tower, width of the decoder.
        tensors.push(tensor("multi_modal_projector.linear_1.weight".into(), [8, 6]));
    }
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    Adapter {
        config,
        base: Some("some/base".into()),
        tensors,
    }
}

fn keys(dir: &Path) -> Vec<String> {
    let bytes = fs::read(&dir.join(WEIGHTS_FILE)).unwrap();
    let mut names: Vec<String> = SafeTensors::deserialize(&bytes)
        .unwrap()
        .names()
        .into_iter()
        .map(str::to_owned)
        .collect();
    names.sort();
    names
}

#[test]
fn adapters_are_written_as_peft_does_and_read_back() {
    let root = tempfile::tempdir().unwrap();
    let llava = vlm(brazier_models::ProjectorKind::Mlp2);
    let cases = [
        (
            lm(true, false),
            lora(&["q_proj", "mlp.up_proj"], LoraParts::Language),
            false,
            json!(["q_proj", "up_proj"]),
        ),
        (
            llava.clone(),
            lora(&["q_proj", "v_proj"], LoraParts::Language),
            true,
            json!(r".*\blanguage_model\..*\.(q_proj|v_proj)"),
        ),
        (
            llava.clone(),
            lora(&["q_proj", "fc1"], LoraParts::Both),
            false,
            json!(["fc1", "q_proj"]),
        ),
        (
            llava,
            lora(&["layers.1.self_attn.q_proj"], LoraParts::Both),
            false,
            json!([
                "model.language_model.layers.1.self_attn.q_proj",
                "model.vision_tower.encoder.layers.1.self_attn.q_proj"
            ]),
        ),
    ];
    for (index, (model, config, with_projector, targets)) in cases.into_iter().enumerate() {
        let dir = root.path().join(index.to_string());
        let written = adapter(&model, config, with_projector);
        write_adapter(&dir, &model, &written).unwrap();
        // A second time over the first.
        write_adapter(&dir, &model, &written).unwrap();
        let json = read_json(&dir.join(CONFIG_FILE));
        assert_eq!(json["target_modules"], targets);
        assert_eq!(
            json["modules_to_save"],
            if with_projector {
                json!(["multi_modal_projector"])
            } else {
                Value::Null
            }
        );
        assert_eq!((&json["r"], &json["lora_alpha"]), (&json!(2), &json!(3)));
        let read = read_adapter(&dir, &model).unwrap();
        assert_eq!((&read.tensors, &read.base), (&written.tensors, &written.base));
        assert_eq!(read.config.scaling(), written.config.scaling());
        assert_eq!(
            (read.config.lora_dropout, read.config.parts),
            (0.25, written.config.parts)
        );
        for linear in linears(&model) {
            assert_eq!(
                read.config.targets(&linear.path),
                written.config.targets(&linear.path)
            );
        }
    }
    assert_eq!(
        keys(&root.path().join("0"))[..2],
        [
            "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight",
            "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"
        ]
    );
    let of_llava = keys(&root.path().join("1"));
    assert_eq!(
        of_llava[0],
        "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight"
    );
    assert_eq!(
        of_llava[8],
        "base_model.model.model.multi_modal_projector.linear_1.weight"
    );
    assert_eq!(
        keys(&root.path().join("2"))[4],
        "base_model.model.model.vision_tower.encoder.layers.0.mlp.fc1.lora_A.weight"
    );
}

/// Changes a key of a good folder and reads it.
fn refusal_of(key: &str, value: &Value) -> String {
    let root = tempfile::tempdir().unwrap();
    let model = lm(false, false);
    write_adapter(
        root.path(),
        &model,
        &adapter(&model, lora(&["q_proj"], LoraParts::Language), false),
    )
    .unwrap();
    let path = root.path().join(CONFIG_FILE);
    let mut json: Map<String, Value> = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    json.insert(key.into(), value.clone());
    write_json(&path, &Value::Object(json)).unwrap();
    match read_adapter(root.path(), &model) {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_is_not_plain_lora_is_refused_by_its_key() {
    for (key, value) in [
        ("peft_type", json!("IA3")),
        ("use_dora", json!(true)),
        ("bias", json!("all")),
        ("lora_bias", json!(true)),
        ("modules_to_save", json!(["embed_tokens"])),
        ("rank_pattern", json!({"q_proj": 4})),
        ("alpha_pattern", json!({"q_proj": 4})),
        ("layers_to_transform", json!([1])),
        ("layers_pattern", json!("layers")),
        ("fan_in_fan_out", json!(true)),
        ("init_lora_weights", json!("pissa")),
        ("trainable_token_indices", json!([1])),
        ("something_new", json!(1)),
        ("r", json!(0)),
        ("r", json!("two")),
    ] {
        let message = refusal_of(key, &value);
        assert!(
            message.contains(&format!("{key} = {value}: ")),
            "{key}: {message}"
        );
    }
    for (key, value) in [
        ("revision", json!("main")),
        ("modules_to_save", json!([])),
        ("init_lora_weights", json!("gaussian")),
        ("something_new", json!(null)),
        ("loftq_config", json!({})),
    ] {
        assert_eq!(refusal_of(key, &value), "", "{key}");
    }
}

#[test]
fn adapters_of_another_model_are_refused_tensor_by_tensor() {
    let root = tempfile::tempdir().unwrap();
    let model = lm(false, false);
    let check = |change: &dyn Fn(&mut Vec<HostTensor>, &mut VlmConfig), expected: &str| {
        let mut written = adapter(&model, lora(&["q_proj"], LoraParts::Language), false);
        let mut other = model.clone();
        change(&mut written.tensors, &mut other);
        write_adapter(root.path(), &model, &written).unwrap();
        let message = read_adapter(root.path(), &other).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    };
    check(
        &|_, other| other.text.hidden_size = 10,
        "misshapen: language_model.model.layers.0.self_attn.q_proj.lora_A.weight [2, 8], expected [2, 10]",
    );
    check(
        &|_, other| other.text.num_hidden_layers = 1,
        "unused: language_model.model.layers.1.self_attn.q_proj, a layer that the model does not have",
    );
    check(
        &|tensors, _| drop(tensors.pop()),
        "missing: language_model.model.layers.1.self_attn.q_proj.lora_B.weight [24, 2]",
    );
    check(
        &|tensors, _| tensors.push(tensor("language_model.model.norm.weight".into(), [1, 8])),
        "unused: base_model.model.model.norm.weight [1, 8]",
    );
    check(&|tensors, _| tensors.clear(), "there is no tensor of one");
    fs::remove_file(&root.path().join(WEIGHTS_FILE)).unwrap();
    let message = read_adapter(root.path(), &model).unwrap_err().to_string();
    assert!(message.contains("no adapter_model.safetensors"), "{message}");
}

/// Every tensor of a folder, by name.
fn stored(dir: &Path) -> HashMap<String, (Dtype, Vec<u8>)> {
    let mut all = HashMap::new();
    for path in fs::read_dir(dir).unwrap() {
        if path.extension().is_some_and(|ending| ending == "safetensors") {
            let bytes = fs::read(&path).unwrap();
            for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
                all.insert(name, (view.dtype(), view.data().to_vec()));
            }
        }
    }
    all
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|&x| f32::from_le_bytes(x))
        .collect()
}

#[test]
fn a_pickled_base_becomes_safetensors() {
    let root = tempfile::tempdir().unwrap();
    let model = lm(false, true);
    let [plain, base, dir, merged] =
        ["plain", "base", "adapter", "merged"].map(|name| root.path().join(name));
    export_to(&plain, &model, HostDtype::F32, 1 << 30);
    fs::create_dir_all(&base).unwrap();
    for (from, to) in [
        ("pickled_1.bin", "pytorch_model-00001-of-00002.bin"),
        ("pickled_2.bin", "pytorch_model-00002-of-00002.bin"),
        ("pickled_index.json", "pytorch_model.bin.index.json"),
    ] {
        fs::copy(&fixture(from), &base.join(to)).unwrap();
    }
    fs::copy(&plain.join("config.json"), &base.join("config.json")).unwrap();
    let written = adapter(&model, lora(&["q_proj"], LoraParts::Language), false);
    write_adapter(&dir, &model, &written).unwrap();
    let summary = merge_adapter(&base, &dir, &merged).unwrap();
    assert_eq!(summary.num_layers, 2);
    let expected = parameters(&model);
    let [before, after] = [&base, &merged].map(|dir| read_weights(dir, &model, &expected, None).unwrap());
    for (before, after) in before.iter().zip(&after) {
        assert_eq!((&before.name, before.dtype), (&after.name, after.dtype));
        assert_eq!(
            before.bytes != after.bytes,
            before.name.ends_with("q_proj.weight"),
            "{}",
            before.name
        );
    }
    let endings = fs::read_dir(&merged)
        .unwrap()
        .into_iter()
        .filter(|file| file.extension().is_some_and(|x| x == "bin"));
    assert_eq!(endings.count(), 0);
}

/// In shards and in bf16: the sum is rounded once, what has no adapter keeps its bytes, and files come along.
#[test]
fn merging_changes_what_it_should_and_no_byte_else() {
    let root = tempfile::tempdir().unwrap();
    let model = vlm(brazier_models::ProjectorKind::Mlp2);
    let (base, dir, merged) = (
        root.path().join("base"),
        root.path().join("adapter"),
        root.path().join("merged"),
    );
    export_to(&base, &model, HostDtype::Bf16, 2000);
    let written = adapter(&model, lora(&["q_proj", "fc2"], LoraParts::Both), true);
    write_adapter(&dir, &model, &written).unwrap();
    let summary = merge_adapter(&base, &dir, &merged).unwrap();
    let (before, after) = (stored(&base), stored(&merged));
    assert_eq!(
        (summary.num_layers, summary.num_replaced, summary.num_tensors),
        (6, 1, before.len())
    );
    assert_eq!(before.len(), after.len());
    let mut changed = 0;
    for (name, (dtype, bytes)) in &before {
        let (new_dtype, new_bytes) = &after[name];
        assert_eq!(dtype, new_dtype);
        let ours = from_disk(name, true).unwrap();
        let find = |suffix: &str| {
            let name = ours.replace(".weight", suffix);
            written
                .tensors
                .iter()
                .find(|tensor| tensor.name == name)
                .map(|tensor| floats(&tensor.bytes))
        };
        let expected: Vec<u8> = match (find(".lora_A.weight"), find(".lora_B.weight"), find(".weight")) {
            (Some(a), Some(b), _) => {
                let d_in = a.len() / 2;
                let old = bytes
                    .as_chunks()
                    .0
                    .iter()
                    .map(|&x| bf16::from_le_bytes(x).to_f32());
                let sums = old.enumerate().map(|(at, w)| {
                    let (row, column) = (at / d_in, at % d_in);
                    let update = b[2 * row] * a[column] + b[2 * row + 1] * a[d_in + column];
                    bf16::from_f32(w + (3.0 / 2f32.sqrt()) * update)
                });
                sums.flat_map(bf16::to_le_bytes).collect()
            }
            (_, _, Some(whole)) => whole
                .iter()
                .flat_map(|&x| bf16::from_f32(x).to_le_bytes())
                .collect(),
            _ => bytes.clone(),
        };
        assert_eq!(&expected, new_bytes, "{name}");
        changed += usize::from(bytes != new_bytes);
    }
    assert_eq!(changed, 7);
    for file in fs::read_dir(&base).unwrap() {
        let name = file.file_name().unwrap();
        assert!(merged.join(name).is_file(), "{}", file.display());
        if file.extension().is_some_and(|ending| ending == "json") && name != MARKER {
            assert_eq!(fs::read(&file).unwrap(), fs::read(&merged.join(name)).unwrap());
        }
    }
    let taken = merge_adapter(&base, &dir, &root.path().join("tokenizer"))
        .unwrap_err()
        .to_string();
    assert!(taken.contains("is not an export"), "{taken}");
}
