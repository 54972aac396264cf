//! Folders of models and checkpoints.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use brazier::{
    checkpoint::{CheckpointInfo, CheckpointStore, RunState, Snapshot, load},
    config::num_parameters,
    hub::{read_adapter, read_config, read_image_processor, read_weights, token_ids},
};
use brazier_models::{HostDtype, HostTensor, VlmConfig};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    harness::{Target, numbered},
    repair,
};

const WORDS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    "\"",
    ",",
    ":",
    "null",
    "true",
    "model_type",
    "llama",
    "qwen3",
    "apertus",
    "llava",
    "multimodal",
    "clip_vision_model",
    "siglip_vision_model",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "rope_type",
    "yarn",
    "llama3",
    "factor",
    "low_freq_factor",
    "original_max_position_embeddings",
    "sliding_window",
    "text_config",
    "vision_config",
    "image_size",
    "patch_size",
    "projection_dim",
    "quantization_config",
    "tie_word_embeddings",
    "dtype",
    "shape",
    "data_offsets",
    "F32",
    "BF16",
    "F16",
    "I64",
    "F8_E4M3",
    "__metadata__",
    "weight_map",
    "metadata",
    "size",
    "crop_size",
    "shortest_edge",
    "height",
    "resample",
    "image_mean",
    "do_resize",
    "peft_type",
    "LORA",
    "lora_alpha",
    "eos_token_id",
    "-1",
    "../model.safetensors",
    "sha256",
    "size_bytes",
    "num_tensors",
    "files",
    "state",
    "step",
    "version",
];

fn fixture(name: &str) -> Vec<u8> {
    fs::read(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures")
            .join(name),
    )
    .unwrap()
}

/// The model of `pickled.safetensors`.
fn language() -> Value {
    json!({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 11, "hidden_size": 8,
        "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true,
        "hidden_act": "silu", "eos_token_id": [1, 2], "torch_dtype": "float32"})
}

fn llava() -> Value {
    let vision = json!({"model_type": "clip_vision_model", "hidden_size": 12, "intermediate_size": 20,
        "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 8, "patch_size": 2, "hidden_act": "quick_gelu"});
    json!({"model_type": "llava", "text_config": language(), "vision_config": vision, "image_token_index": 3,
        "projector_hidden_act": "gelu", "vision_feature_layer": -2, "vision_feature_select_strategy": "default"})
}

/// Every parameter of that model, as the header of the file says.
fn expected() -> Vec<(String, Vec<usize>)> {
    let bytes = fixture("pickled.safetensors");
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let tensors = header
        .as_object()
        .unwrap()
        .iter()
        .filter(|(name, _)| *name != "__metadata__");
    let shape = |form: &Value| {
        let extents = form["shape"].as_array().unwrap().iter();
        extents.map(|extent| extent.as_u64().unwrap() as usize).collect()
    };
    tensors
        .map(|(name, form)| (format!("language_model.{name}"), shape(form)))
        .collect()
}

fn language_config(dir: &Path) -> VlmConfig {
    fs::write(dir.join("config.json"), language().to_string()).unwrap();
    read_config(dir).unwrap()
}

/// The small JSON files of a model's folder, and its adapters.
pub(crate) fn model_folder(dir: &Path) -> Target {
    const FILES: [&str; 5] = [
        "config.json",
        "preprocessor_config.json",
        "generation_config.json",
        "adapter_config.json",
        "adapter_model.safetensors",
    ];
    let dir = dir.to_owned();
    let config = language_config(&dir);
    let processor = json!({"do_resize": true, "size": {"shortest_edge": 8}, "resample": 3, "do_center_crop": true,
        "crop_size": {"height": 8, "width": 8}, "do_rescale": true, "rescale_factor": 0.00392156862745098,
        "do_normalize": true, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
        "image_processor_type": "CLIPImageProcessor"});
    let square = json!({"do_resize": true, "size": {"height": 8, "width": 8}, "resample": 2, "do_center_crop": false,
        "image_processor_type": "SiglipImageProcessor", "do_normalize": true, "image_mean": 0.5, "image_std": 0.5});
    let generation = json!({"bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 0});
    let adapter = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "lora_dropout": 0.0, "bias": "none",
        "target_modules": ["q_proj"], "use_rslora": false, "base_model_name_or_path": "a/b"});
    let name = "base_model.model.model.layers.0.self_attn.q_proj.lora_";
    let header = json!({format!("{name}A.weight"): {"dtype": "F32", "shape": [2, 8], "data_offsets": [0, 64]},
        format!("{name}B.weight"): {"dtype": "F32", "shape": [24, 2], "data_offsets": [64, 256]}});
    let header = header.to_string();
    let tensors = [
        &(header.len() as u64).to_le_bytes()[..],
        header.as_bytes(),
        &[0; 256],
    ]
    .concat();
    let whole: [Vec<u8>; 5] = [
        language().to_string().into(),
        processor.to_string().into(),
        generation.to_string().into(),
        adapter.to_string().into(),
        tensors,
    ];
    for (name, bytes) in FILES.iter().zip(&whole) {
        fs::write(dir.join(name), bytes).unwrap();
    }
    assert!(read_adapter(&dir, &config).is_ok());
    let mut seeds = numbered(&whole);
    seeds.push([&[0], llava().to_string().as_bytes()].concat());
    seeds.push([&[1], square.to_string().as_bytes()].concat());
    let target = Target::new(seeds, WORDS, move |case| {
        let number = usize::from(case[0]);
        let path = dir.join(FILES[number]);
        fs::write(&path, &case[1..]).unwrap();
        let said = match number {
            0 => match read_config(&dir) {
                Ok(config) => format!("{:?}", num_parameters(&config)),
                Err(error) => error.to_string(),
            },
            1 => match read_image_processor(&dir, 8) {
                Ok(processor) => format!("{processor:?}"),
                Err(error) => error.to_string(),
            },
            2 => match token_ids(&dir) {
                Ok(ids) => format!("{ids:?}"),
                Err(error) => error.to_string(),
            },
            _ => match read_adapter(&dir, &config) {
                Ok(adapter) => format!("{:?}", adapter.config),
                Err(error) => error.to_string(),
            },
        };
        fs::write(&path, &whole[number]).unwrap();
        said
    });
    Target { head: 1, ..target }
}

/// A folder with the given weights, read as the model needs them.
fn weights_in(dir: &Path, names: &'static [&'static str], seeds: Vec<Vec<u8>>) -> Target {
    let dir = dir.to_owned();
    let config = language_config(&dir);
    let expected = expected();
    let whole: Vec<Vec<u8>> = seeds.iter().map(|seed| seed[1..].to_vec()).collect();
    let restore = move |dir: &Path| {
        for (name, bytes) in names.iter().zip(&whole) {
            fs::write(dir.join(name), bytes).unwrap();
        }
    };
    restore(&dir);
    assert!(read_weights(&dir, &config, &expected, None).is_ok());
    let target = Target::new(seeds, WORDS, move |case| {
        fs::write(dir.join(names[usize::from(case[0])]), &case[1..]).unwrap();
        let read = read_weights(&dir, &config, &expected, Some(HostDtype::F32));
        restore(&dir);
        match read {
            Ok(tensors) => format!("{} tensors", tensors.len()),
            Err(error) => error.to_string(),
        }
    });
    Target { head: 1, ..target }
}

/// A file of safetensors behind its index.
pub(crate) fn weights(dir: &Path) -> Target {
    let map: BTreeMap<String, &str> = expected()
        .into_iter()
        .map(|(name, _)| (name["language_model.".len()..].to_owned(), "a.safetensors"))
        .collect();
    let index = json!({"metadata": {"total_size": 7216}, "weight_map": map}).to_string();
    let seeds = vec![
        [&[0], &fixture("pickled.safetensors")[..]].concat(),
        [&[1], index.as_bytes()].concat(),
    ];
    Target {
        repair: Some(|case| {
            if case.first() == Some(&0) {
                repair::safetensors(&mut case[1..]);
            }
        }),
        ..weights_in(dir, &["a.safetensors", "model.safetensors.index.json"], seeds)
    }
}

/// What `torch.save` writes.
pub(crate) fn pickled_weights(dir: &Path) -> Target {
    let seeds = numbered(&["pickled_1.bin", "pickled_2.bin", "pickled_index.json"].map(fixture));
    let names = &[
        "pytorch_model-00001-of-00002.bin",
        "pytorch_model-00002-of-00002.bin",
        "pytorch_model.bin.index.json",
    ];
    Target {
        words: &[],
        ..weights_in(dir, names, seeds)
    }
}

/// Our own checkpoints; the manifest of damaged tensors has their new size and hash.
pub(crate) fn checkpoint(dir: &Path) -> Target {
    let root = dir.join("checkpoints");
    let _ = fs::remove_dir_all(&root);
    let tensor = |name: &str, dtype: HostDtype| HostTensor {
        name: name.into(),
        shape: vec![2, 3],
        dtype,
        bytes: vec![7; 6 * dtype.size_bytes()],
    };
    let state = RunState {
        step: 3,
        samples: 12,
        tokens: 100,
        labelled_tokens: 50,
        best: None,
        evaluations_without_improvement: 0,
        model_fingerprint: "f".into(),
        config_hash: "c".into(),
        data: BTreeMap::from([("seed".into(), "1".into())]),
    };
    let snapshot = Snapshot {
        tensors: vec![tensor("a", HostDtype::F32), tensor("b", HostDtype::Bf16)],
        state,
    };
    let written = CheckpointStore::open(&root)
        .unwrap()
        .commit(&snapshot, None)
        .unwrap();
    let places: [PathBuf; 2] = ["manifest.json", &written.files[0].name].map(|name| written.path.join(name));
    let whole = places.each_ref().map(|place| fs::read(place).unwrap());
    let manifest: Value = serde_json::from_slice(&whole[0]).unwrap();
    let target = Target::new(numbered(&whole), WORDS, move |case| {
        let (number, bytes) = (usize::from(case[0]), &case[1..]);
        fs::write(&places[number], bytes).unwrap();
        if number == 1 {
            let mut manifest = manifest.clone();
            manifest["files"][0]["size_bytes"] = bytes.len().into();
            manifest["files"][0]["sha256"] = format!("{:x}", Sha256::digest(bytes)).into();
            fs::write(&places[0], manifest.to_string()).unwrap();
        }
        let read = CheckpointInfo::read(&written.path).and_then(|info| load(&info));
        for (place, bytes) in places.iter().zip(&whole) {
            fs::write(place, bytes).unwrap();
        }
        match read {
            Ok(snapshot) => format!("{} tensors", snapshot.tensors.len()),
            Err(error) => error.to_string(),
        }
    });
    Target {
        head: 1,
        repair: Some(|case| {
            if case.first() == Some(&1) {
                repair::safetensors(&mut case[1..]);
            }
        }),
        ..target
    }
}
