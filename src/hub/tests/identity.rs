//! Import, export, import again: nothing that nobody changed has changed.

use std::collections::BTreeMap;

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

use super::*;

/// Form and bytes of every tensor of a folder, by its name on disk.
pub(super) fn stored(dir: &Path) -> BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> {
    let mut all = BTreeMap::new();
    for path in fs::read_dir(dir).unwrap() {
        if path.extension().is_none_or(|ending| ending != "safetensors") {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
            let tensor = (view.dtype(), view.shape().to_vec(), view.data().to_vec());
            assert!(all.insert(name, tensor).is_none());
        }
    }
    all
}

/// A folder as somebody else may have written it: three element types, keys that mean nothing here.
fn foreign_folder(root: &Path) -> std::path::PathBuf {
    let dir = root.join("foreign");
    let config = lm(true, false);
    let source = folder(&config, &[], |_| None);
    fs::create_dir_all(&dir).unwrap();
    let tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = weights(&config)
        .into_iter()
        .enumerate()
        .map(|(index, tensor)| {
            let floats = tensor
                .bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes));
            let (dtype, bytes) = match index % 3 {
                0 => (
                    Dtype::F16,
                    floats.flat_map(|x| f16::from_f32(x).to_le_bytes()).collect(),
                ),
                1 => (
                    Dtype::BF16,
                    floats.flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect(),
                ),
                _ => (Dtype::F32, tensor.bytes.clone()),
            };
            (
                tensor.name.replace("language_model.", ""),
                dtype,
                tensor.shape,
                bytes,
            )
        })
        .collect();
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, &dir.join("model.safetensors")).unwrap();
    let mut json = read_json(&source.path().join("config.json"));
    let map = json.as_object_mut().unwrap();
    map.remove("dtype");
    for (key, value) in [
        ("torch_dtype", json!("float16")),
        ("transformers_version", json!("4.51.0")),
        ("max_window_layers", json!(70)),
        ("auto_map", json!({"AutoModel": "modeling_x.X"})),
        ("_name_or_path", json!("/home/somebody/x")),
    ] {
        map.insert(key.into(), value);
    }
    fs::write_durable(&dir.join("config.json"), json.to_string().as_bytes()).unwrap();
    let generation = br#"{"do_sample": true, "top_k": 20, "eos_token_id": [3, 4], "pad_token_id": 1}"#;
    fs::write_durable(&dir.join("generation_config.json"), generation).unwrap();
    dir
}

/// What `brazier model import` does.
pub(super) fn import(dir: &Path, out: &Path, tokenizer: &Path, options: ExportOptions) {
    let config = read_config(dir).unwrap();
    let weights = Weights::open(dir, Part::Whole, &config, &parameters(&config)).unwrap();
    let tensors = weights
        .names()
        .filter_map(|name| ExportTensor::stored(name, &weights));
    let TokenIds { bos, eos, pad } = token_ids(dir).unwrap();
    let options = ExportOptions {
        source: Some(dir.into()),
        chat_template: None,
        bos_token_id: bos,
        eos_token_ids: eos,
        pad_token_id: pad,
        ..options
    };
    export(out, &config, tensors.collect(), tokenizer, &options).unwrap();
}

#[test]
fn untouched_tensors_keep_their_bytes() {
    let root = tempfile::tempdir().unwrap();
    let (foreign, tokenizer) = (foreign_folder(root.path()), tokenizer(root.path()));
    let (once, twice) = (root.path().join("once"), root.path().join("twice"));
    let keep = |max_shard_bytes| ExportOptions {
        max_shard_bytes,
        dtype_policy: DtypePolicy::Keep,
        ..options(HostDtype::F32)
    };
    import(&foreign, &once, &tokenizer, keep(600));
    import(&once, &twice, &tokenizer, keep(1 << 30));
    let expected = stored(&foreign);
    assert_eq!(
        expected
            .values()
            .filter(|(dtype, ..)| *dtype == Dtype::F16)
            .count(),
        9
    );
    assert!(once.join("model.safetensors.index.json").is_file());
    assert!(twice.join("model.safetensors").is_file());
    for dir in [&once, &twice] {
        assert_eq!(stored(dir), expected);
        assert_eq!(read_config(dir).unwrap(), lm(true, false));
    }
    for name in [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        assert_eq!(
            fs::read(&once.join(name)).unwrap(),
            fs::read(&twice.join(name)).unwrap(),
            "{name} changes each time"
        );
    }
}

#[test]
fn what_the_folder_said_besides_is_carried_over() {
    let root = tempfile::tempdir().unwrap();
    let (foreign, tokenizer) = (foreign_folder(root.path()), tokenizer(root.path()));
    let out = root.path().join("out");
    let keep = ExportOptions {
        dtype_policy: DtypePolicy::Keep,
        ..options(HostDtype::F32)
    };
    import(&foreign, &out, &tokenizer, keep);
    let config = read_json(&out.join("config.json"));
    assert_eq!(config["transformers_version"], "4.51.0");
    assert_eq!(config["max_window_layers"], 70);
    assert_eq!(config["torch_dtype"], "float16");
    assert_eq!(config["eos_token_id"], json!([3, 4]));
    for left_behind in ["auto_map", "_name_or_path"] {
        assert_eq!(config.get(left_behind), None);
    }
    assert_eq!(
        read_json(&out.join("generation_config.json")),
        json!({"do_sample": true, "top_k": 20, "eos_token_id": [3, 4], "pad_token_id": 1, "bos_token_id": null})
    );

    // Cast, the old element type is no longer true.
    import(&foreign, &out, &tokenizer, options(HostDtype::Bf16));
    let config = read_json(&out.join("config.json"));
    assert_eq!(
        (&config["dtype"], &config["torch_dtype"]),
        (&json!("bfloat16"), &json!("bfloat16"))
    );
    let halves = stored(&out);
    assert!(halves.values().all(|(dtype, ..)| *dtype == Dtype::BF16));
    // f16 and f32 are rounded once, bf16 not at all.
    let name = "model.norm.weight";
    let (_, _, bytes) = &stored(&foreign)[name];
    assert_eq!(&halves[name].2, bytes);

    // A folder of another kind says nothing about this one.
    let other = root.path().join("other");
    let config = lm(false, false);
    let options = ExportOptions {
        source: Some(foreign),
        ..options(HostDtype::F32)
    };
    export(&other, &config, weights(&config), &tokenizer, &options).unwrap();
    assert_eq!(
        read_json(&other.join("config.json")).get("max_window_layers"),
        None
    );
}

#[test]
fn the_image_processor_is_carried_over() {
    let root = tempfile::tempdir().unwrap();
    let tokenizer = tokenizer(root.path());
    let (first, second) = (root.path().join("first"), root.path().join("second"));
    let config = vlm(ProjectorKind::Mlp2);
    export(
        &first,
        &config,
        weights(&config),
        &tokenizer,
        &options(HostDtype::F32),
    )
    .unwrap();
    let file = first.join("preprocessor_config.json");
    let mut json = read_json(&file);
    json["image_mean"] = json!([0.5, 0.5, 0.5]);
    fs::write_durable(&file, json.to_string().as_bytes()).unwrap();
    let options = ExportOptions {
        source: Some(first.clone()),
        ..options(HostDtype::F32)
    };
    export(&second, &config, weights(&config), &tokenizer, &options).unwrap();
    assert_eq!(read_json(&second.join("preprocessor_config.json")), json);
}

#[test]
fn a_vision_tower_is_taken_out_of_a_two_tower_model() {
    let config = vlm(ProjectorKind::Linear);
    let tensors = weights(&config);
    let mut halves: Vec<HostTensor> = tensors
        .iter()
        .filter(|tensor| tensor.name.starts_with("vision_tower."))
        .cloned()
        .collect();
    let expected = halves.clone();
    for name in [
        "text_model.final_layer_norm.weight",
        "visual_projection.weight",
        "logit_scale",
    ] {
        halves.push(HostTensor {
            name: format!("vision_tower.{name}"),
            ..expected[0].clone()
        });
    }
    let strip = |name: &str| name.strip_prefix("vision_tower.").map(String::from);
    let dir = folder(&config, &halves, strip);
    let vision = read_json(&dir.path().join("config.json"))["vision_config"].clone();
    let write = |json: &Value| {
        fs::write_durable(&dir.path().join("config.json"), json.to_string().as_bytes()).unwrap();
    };
    let language = folder(&lm(true, true), &[], |_| None);
    let join = JoinOptions {
        projector: ProjectorKind::Linear,
        vision_feature_layer: -1,
        vision_feature_select: None,
        vision_post_layernorm: false,
        image_token_id: 5,
        vocab_size: None,
    };
    for json in [
        json!({"model_type": "clip", "vision_config": vision}),
        vision.clone(),
    ] {
        write(&json);
        let joined = join_configs(language.path(), dir.path(), &join).unwrap();
        assert_eq!(joined, config);
        let weights = Weights::open(dir.path(), Part::Vision, &config, &parameters(&config)).unwrap();
        for tensor in &expected {
            assert_eq!(weights.read(&tensor.name, None).unwrap(), *tensor);
        }
        assert_eq!(weights.names().count(), expected.len());
    }
    let refused = |json: &Value, part: &str| {
        write(json);
        let error = join_configs(language.path(), dir.path(), &join)
            .unwrap_err()
            .to_string();
        assert!(error.contains(part), "{error}");
    };
    refused(
        &json!({"model_type": "clip"}),
        "vision_config = null: expected an object",
    );
    refused(
        &json!({"model_type": "llama"}),
        "model_type = \"llama\": expected a vision tower",
    );
    write(&vision);
    let both = folder(&config, &[], |_| None);
    let error = join_configs(both.path(), dir.path(), &join)
        .unwrap_err()
        .to_string();
    assert!(error.contains("a language model is expected"), "{error}");
    let lonely = join_configs(
        language.path(),
        dir.path(),
        &JoinOptions {
            image_token_id: 11,
            ..join
        },
    );
    assert!(
        lonely
            .unwrap_err()
            .to_string()
            .contains("outside the vocabulary of 11")
    );
}
