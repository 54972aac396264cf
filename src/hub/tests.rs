//! Folders written and read back, and folders that must be refused.

mod identity;
mod multimeditron;
pub(super) mod pickled;
mod refused;

use std::path::Path;

use brazier_models::{
    AttentionBias, DecoderConfig, FeatureSelect, Head, HostDtype, HostTensor, LanguageModelType, MlpKind,
    ProjectorKind, RopeScaling, VisionActivation, VisionConfig, VisionLanguageConfig, VisionModelType,
    VlmConfig,
};
use serde_json::{Map, Value, json};

use super::{config_out::config_json, *};
use crate::{fs, image_processor::ImageProcessor};

fn decoder(qk_norm: bool, tied: bool) -> DecoderConfig {
    DecoderConfig {
        model_type: if qk_norm {
            LanguageModelType::Qwen3
        } else {
            LanguageModelType::Llama
        },
        vocab_size: 11,
        hidden_size: 8,
        intermediate_size: 12,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 2,
        head_dim: 6,
        rms_norm_eps: 1e-5,
        rope_theta: 500_000.5,
        rope_scaling: RopeScaling::Default,
        max_position_embeddings: 77,
        tie_word_embeddings: tied,
        attention_bias: AttentionBias::None,
        qk_norm,
        sliding_window: None,
        mlp: MlpKind::SwiGlu,
        mlp_bias: false,
        initializer_range: 0.03,
    }
}

pub(super) fn vlm(projector: ProjectorKind) -> VlmConfig {
    let vision = VisionConfig {
        model_type: VisionModelType::Clip,
        hidden_size: 6,
        intermediate_size: 10,
        num_hidden_layers: 2,
        num_attention_heads: 3,
        image_size: 8,
        patch_size: 2,
        layer_norm_eps: 1e-6,
        hidden_act: VisionActivation::Gelu,
        vision_use_head: false,
        initializer_range: 0.04,
    };
    let vision = VisionLanguageConfig {
        vision,
        projector,
        vision_feature_layer: -1,
        vision_feature_select: FeatureSelect::Default,
        vision_post_layernorm: false,
        image_token_id: 5,
    };
    VlmConfig {
        text: decoder(true, true),
        vision: Some(vision),
        head: Head::Lm,
    }
}

/// The same with a tower of SigLIP's, pooling head included. Its patches do not fill the image.
pub(super) fn siglip_vlm(projector: ProjectorKind, vision_post_layernorm: bool) -> VlmConfig {
    let mut config = vlm(projector);
    if let Some(vision) = &mut config.vision {
        vision.vision.model_type = VisionModelType::Siglip;
        vision.vision.hidden_act = VisionActivation::GeluTanh;
        vision.vision.vision_use_head = true;
        vision.vision.image_size = 9;
        vision.vision_feature_select = FeatureSelect::Full;
        vision.vision_post_layernorm = vision_post_layernorm;
    }
    config
}

pub(super) fn lm(qk_norm: bool, tied: bool) -> VlmConfig {
    VlmConfig {
        text: decoder(qk_norm, tied),
        vision: None,
        head: Head::Lm,
    }
}

fn options(dtype: HostDtype) -> ExportOptions {
    ExportOptions {
        layout: ExportLayout::Auto,
        max_shard_bytes: 1 << 30,
        dtype,
        dtype_policy: DtypePolicy::Cast,
        source: None,
        image_processor: ImageProcessor::clip(8),
        image_token: "<image>".into(),
        added_image_token: None,
        chat_template: Some("{{ messages }}".into()),
        bos_token_id: None,
        eos_token_ids: vec![3],
        pad_token_id: Some(0),
    }
}

/// Names and shapes of the model's parameters, written down a second time.
pub(super) fn parameters(config: &VlmConfig) -> Vec<(String, Vec<usize>)> {
    let text = &config.text;
    let (width, inner, head) = (text.hidden_size, text.intermediate_size, text.head_dim);
    let (queries, keys) = (head * text.num_attention_heads, head * text.num_key_value_heads);
    let mut all = vec![
        (
            "language_model.model.embed_tokens.weight".to_string(),
            vec![text.vocab_size, width],
        ),
        ("language_model.model.norm.weight".to_string(), vec![width]),
    ];
    for layer in 0..text.num_hidden_layers {
        let mut add = |name: &str, shape: &[usize]| {
            all.push((
                format!("language_model.model.layers.{layer}.{name}.weight"),
                shape.to_vec(),
            ));
        };
        add("input_layernorm", &[width]);
        add("post_attention_layernorm", &[width]);
        add("self_attn.q_proj", &[queries, width]);
        add("self_attn.k_proj", &[keys, width]);
        add("self_attn.v_proj", &[keys, width]);
        add("self_attn.o_proj", &[width, queries]);
        add("mlp.gate_proj", &[inner, width]);
        add("mlp.up_proj", &[inner, width]);
        add("mlp.down_proj", &[width, inner]);
        if text.qk_norm {
            add("self_attn.q_norm", &[head]);
            add("self_attn.k_norm", &[head]);
        }
    }
    if !text.tie_word_embeddings {
        all.push((
            "language_model.lm_head.weight".into(),
            vec![text.vocab_size, width],
        ));
    }
    if let Some(vision) = &config.vision {
        all.extend(vision_parameters(vision, width));
    }
    all
}

fn vision_parameters(config: &VisionLanguageConfig, text_width: usize) -> Vec<(String, Vec<usize>)> {
    let vision = &config.vision;
    let (width, inner, patch) = (vision.hidden_size, vision.intermediate_size, vision.patch_size);
    let mut all = Vec::new();
    let mut linear = |name: &str, output: usize, input: usize| {
        all.push((format!("{name}.weight"), vec![output, input]));
        all.push((format!("{name}.bias"), vec![output]));
    };
    match config.projector {
        ProjectorKind::Mlp2 => {
            linear("multi_modal_projector.linear_1", text_width, width);
            linear("multi_modal_projector.linear_2", text_width, text_width);
        }
        ProjectorKind::Mlp3 => {
            linear("multi_modal_projector.linear_1", width, width);
            linear("multi_modal_projector.linear_2", text_width, width);
            linear("multi_modal_projector.linear_3", text_width, text_width);
        }
        ProjectorKind::Linear | ProjectorKind::AveragePool { .. } => {
            linear("multi_modal_projector.linear_1", text_width, width);
        }
        ProjectorKind::PixelShuffle { factor } => {
            linear(
                "multi_modal_projector.linear_1",
                text_width,
                width * factor * factor,
            );
        }
    }
    let layer_name =
        |layer: usize, name: &str| format!("vision_tower.vision_model.encoder.layers.{layer}.{name}");
    for layer in 0..vision.num_hidden_layers {
        for name in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            linear(&layer_name(layer, &format!("self_attn.{name}")), width, width);
        }
        linear(&layer_name(layer, "mlp.fc1"), inner, width);
        linear(&layer_name(layer, "mlp.fc2"), width, inner);
    }
    let tower = "vision_tower.vision_model";
    let mut norms = vec![format!("{tower}.post_layernorm")];
    let embeddings = format!("{tower}.embeddings");
    let mut others = vec![(
        format!("{embeddings}.patch_embedding.weight"),
        vec![width, 3, patch, patch],
    )];
    let num_patches = (vision.image_size / patch).pow(2);
    let positions = match vision.model_type {
        VisionModelType::Clip => {
            norms.push(format!("{tower}.pre_layrnorm"));
            others.push((format!("{embeddings}.class_embedding"), vec![width]));
            num_patches + 1
        }
        VisionModelType::Siglip => {
            others.push((format!("{embeddings}.patch_embedding.bias"), vec![width]));
            num_patches
        }
    };
    others.push((
        format!("{embeddings}.position_embedding.weight"),
        vec![positions, width],
    ));
    if vision.vision_use_head {
        linear(&format!("{tower}.head.attention.out_proj"), width, width);
        linear(&format!("{tower}.head.mlp.fc1"), inner, width);
        linear(&format!("{tower}.head.mlp.fc2"), width, inner);
        norms.push(format!("{tower}.head.layernorm"));
        for (name, shape) in [
            ("probe", vec![1, 1, width]),
            ("attention.in_proj_weight", vec![3 * width, width]),
            ("attention.in_proj_bias", vec![3 * width]),
        ] {
            others.push((format!("{tower}.head.{name}"), shape));
        }
    }
    for layer in 0..vision.num_hidden_layers {
        norms.extend(["layer_norm1", "layer_norm2"].map(|name| layer_name(layer, name)));
    }
    for norm in norms {
        all.extend(["weight", "bias"].map(|part| (format!("{norm}.{part}"), vec![width])));
    }
    all.extend(others);
    all
}

/// Values that differ everywhere and need every bit of their f32.
fn weights(config: &VlmConfig) -> Vec<HostTensor> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 8) as f32 / 8_388_608.0 - 1.0).to_le_bytes()
    };
    let tensor = |(name, shape): (String, Vec<usize>)| {
        let bytes = (0..shape.iter().product()).flat_map(|_: usize| next()).collect();
        HostTensor {
            name,
            shape,
            dtype: HostDtype::F32,
            bytes,
        }
    };
    parameters(config).into_iter().map(tensor).collect()
}

/// A model folder in shards of at most so many bytes; its tokenizer lies beside it.
pub(super) fn export_to(dir: &Path, config: &VlmConfig, dtype: HostDtype, max_shard_bytes: usize) {
    let options = ExportOptions {
        max_shard_bytes,
        ..options(dtype)
    };
    let tokenizer = tokenizer(dir.parent().unwrap());
    export(dir, config, weights(config), &tokenizer, &options).unwrap();
}

/// With both families, and read back with its classes.
#[test]
fn a_classification_head_has_transformers_layout() {
    for qk_norm in [false, true] {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("export");
        let config = VlmConfig {
            head: Head::Classification {
                labels: vec!["no".into(), "maybe".into(), "yes".into()],
            },
            ..lm(qk_norm, false)
        };
        let mut tensors = weights(&lm(qk_norm, true));
        tensors.push(HostTensor {
            name: "language_model.score.weight".into(),
            shape: vec![3, 8],
            dtype: HostDtype::F32,
            bytes: [0.5f32.to_le_bytes(); 24].concat(),
        });
        let options = options(HostDtype::F32);
        export(&dir, &config, tensors.clone(), &tokenizer(root.path()), &options).unwrap();
        assert_eq!(read_config(&dir).unwrap(), config);
        let json = read_json(&dir.join("config.json"));
        let family = if qk_norm { "Qwen3" } else { "Llama" };
        assert_eq!(
            json["architectures"],
            json!([format!("{family}ForSequenceClassification")])
        );
        assert_eq!(json["id2label"], json!({"0": "no", "1": "maybe", "2": "yes"}));
        assert_eq!(json["label2id"], json!({"no": 0, "maybe": 1, "yes": 2}));
        let expected: Vec<_> = tensors
            .iter()
            .map(|tensor| (tensor.name.clone(), tensor.shape.clone()))
            .collect();
        assert_eq!(read_weights(&dir, &config, &expected, None).unwrap(), tensors);
        let bytes = fs::read(&dir.join("model.safetensors")).unwrap();
        assert!(
            safetensors::SafeTensors::deserialize(&bytes)
                .unwrap()
                .names()
                .contains(&"score.weight")
        );
    }
}

#[test]
fn other_problems_than_one_class_a_row_are_refused() {
    let check = |change: Value, expected: &str| {
        let mut map = Map::from_iter([
            ("model_type".to_owned(), json!("llama")),
            (
                "architectures".to_owned(),
                json!(["LlamaForSequenceClassification"]),
            ),
        ]);
        map.extend(change.as_object().unwrap().clone());
        let problems = super::config_in::parse_config(&map).unwrap_err();
        assert!(problems.join("\n").contains(expected), "{problems:?}");
    };
    check(
        json!({"problem_type": "multi_label_classification"}),
        "problem_type = \"multi_label_classification\"",
    );
    check(
        json!({"problem_type": "regression", "num_labels": 1}),
        "problem_type = \"regression\"",
    );
    check(
        json!({"id2label": {"0": "x"}}),
        "head.num_labels = 1: a classification needs two classes",
    );
    check(
        json!({"id2label": {"0": "x", "2": "y"}}),
        "id2label.1 = null: expected a name for each class",
    );
    check(json!({"model_type": "qwen3"}), "only Qwen3ForCausalLM is read");
    let two = Map::from_iter([
        ("model_type".to_owned(), json!("llama")),
        (
            "architectures".to_owned(),
            json!(["LlamaForSequenceClassification"]),
        ),
    ]);
    let head = super::config_in::parse_config(&two).unwrap().head;
    assert_eq!(
        head,
        Head::Classification {
            labels: vec!["LABEL_0".into(), "LABEL_1".into()]
        }
    );
}

fn tokenizer(dir: &Path) -> std::path::PathBuf {
    let source = dir.join("tokenizer");
    fs::create_dir_all(&source).unwrap();
    fs::write_durable(&source.join("tokenizer.json"), b"{}").unwrap();
    fs::write_durable(
        &source.join("tokenizer_config.json"),
        br#"{"eos_token": "<|im_end|>"}"#,
    )
    .unwrap();
    source
}

pub(super) fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn an_export_is_read_back_bit_for_bit() {
    let configs = [
        vlm(ProjectorKind::Mlp2),
        vlm(ProjectorKind::Linear),
        vlm(ProjectorKind::PixelShuffle { factor: 2 }),
        vlm(ProjectorKind::AveragePool { kernel: 4 }),
        siglip_vlm(ProjectorKind::Mlp2, false),
        siglip_vlm(ProjectorKind::Mlp2, true),
        siglip_vlm(ProjectorKind::Mlp3, true),
        lm(false, false),
        lm(true, true),
    ];
    for config in configs {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("export");
        let tensors = weights(&config);
        for max_shard_bytes in [1 << 30, 500] {
            let options = ExportOptions {
                max_shard_bytes,
                ..options(HostDtype::F32)
            };
            let summary = export(&dir, &config, tensors.clone(), &tokenizer(root.path()), &options).unwrap();
            assert_eq!(summary.num_tensors, tensors.len());
            assert_eq!(
                dir.join("model.safetensors.index.json").is_file(),
                max_shard_bytes == 500
            );
            let read = read_config(&dir).unwrap();
            assert_eq!(read, config);
            assert_eq!(
                read_weights(&dir, &read, &parameters(&read), None).unwrap(),
                tensors
            );
        }
        assert_eq!(
            fs::read_dir(root.path()).unwrap().len(),
            2,
            "something was left behind"
        );
    }
}

#[test]
fn casts_round_to_nearest_even_and_back_without_loss() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("export");
    let config = lm(false, true);
    let mut tensors = weights(&config);
    // A tie below an even bf16 mantissa, one below an odd, and just above a tie.
    let floats = [0x3f80_8000_u32, 0x3f81_8000, 0x3f80_8001];
    tensors[0].bytes[..12].copy_from_slice(floats.map(u32::to_le_bytes).as_flattened());
    export(
        &dir,
        &config,
        tensors,
        &tokenizer(root.path()),
        &options(HostDtype::Bf16),
    )
    .unwrap();
    let stored = read_weights(&dir, &config, &parameters(&config), None).unwrap();
    assert!(stored.iter().all(|tensor| tensor.dtype == HostDtype::Bf16));
    assert_eq!(stored[0].bytes[..6], [0x80, 0x3f, 0x82, 0x3f, 0x81, 0x3f]);
    let wide = read_weights(&dir, &config, &parameters(&config), Some(HostDtype::F32)).unwrap();
    assert_eq!(wide[0].bytes[..8], [0, 0, 0x80, 0x3f, 0, 0, 0x82, 0x3f]);
    assert_eq!(read_json(&dir.join("config.json"))["dtype"], "bfloat16");
}

/// A folder with a config and one file of tensors under the given names.
fn folder(
    config: &VlmConfig,
    tensors: &[HostTensor],
    rename: impl Fn(&str) -> Option<String>,
) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let views = tensors.iter().filter_map(|tensor| {
        let view = safetensors::tensor::TensorView::new(
            safetensors::Dtype::F32,
            tensor.shape.clone(),
            &tensor.bytes,
        );
        Some((rename(&tensor.name)?, view.unwrap()))
    });
    safetensors::serialize_to_file(views, None, &dir.path().join("model.safetensors")).unwrap();
    let json = config_json(config, Layout::auto(config, None), None, &options(HostDtype::F32)).unwrap();
    fs::write_durable(&dir.path().join("config.json"), json.to_string().as_bytes()).unwrap();
    dir
}

#[test]
fn the_layout_of_transformers_5_is_read() {
    let config = VlmConfig {
        text: decoder(true, false),
        ..vlm(ProjectorKind::Mlp2)
    };
    let tensors = weights(&config);
    let dir = folder(&config, &tensors, |name| {
        Some(match name.strip_prefix("language_model.") {
            Some("lm_head.weight") => "lm_head.weight".into(),
            Some(rest) => format!("model.language_model.{}", rest.strip_prefix("model.").unwrap()),
            None => format!(
                "model.{}",
                name.replace("vision_tower.vision_model.", "vision_tower.")
            ),
        })
    });
    let read = read_weights(dir.path(), &config, &parameters(&config), None).unwrap();
    assert_eq!(read, tensors);
}

#[test]
fn every_difference_is_listed() {
    let config = lm(false, false);
    let mut tensors = weights(&config);
    tensors[1].shape = vec![2, 4];
    let mut extra = tensors[1].clone();
    extra.name = "language_model.model.layers.9.input_layernorm.weight".into();
    let mut constant = tensors[1].clone();
    constant.name = "language_model.model.layers.0.self_attn.rotary_emb.inv_freq".into();
    tensors.extend([extra, constant]);
    let dir = folder(&config, &tensors, |name| {
        let is_missing = name.ends_with("q_proj.weight") || name.ends_with("lm_head.weight");
        (!is_missing).then(|| name.strip_prefix("language_model.").unwrap().to_string())
    });
    let error = read_weights(dir.path(), &config, &parameters(&config), None).unwrap_err();
    let HubError::Mismatch { problems, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(
        *problems,
        [
            "misshapen: language_model.model.norm.weight [2, 4], expected [8]",
            "missing: language_model.lm_head.weight [11, 8]",
            "missing: language_model.model.layers.0.self_attn.q_proj.weight [24, 8]",
            "missing: language_model.model.layers.1.self_attn.q_proj.weight [24, 8]",
            "unused: language_model.model.layers.9.input_layernorm.weight [2, 4]",
        ]
    );
}

#[test]
fn a_stored_tied_head_must_be_the_embedding_table() {
    let config = lm(false, true);
    let mut tensors = weights(&config);
    let mut head = tensors[0].clone();
    head.name = "language_model.lm_head.weight".into();
    tensors.push(head);
    let strip = |name: &str| name.strip_prefix("language_model.").map(String::from);
    let dir = folder(&config, &tensors, strip);
    assert_eq!(
        read_weights(dir.path(), &config, &parameters(&config), None)
            .unwrap()
            .len(),
        tensors.len() - 1
    );
    tensors.last_mut().unwrap().bytes[0] ^= 1;
    let dir = folder(&config, &tensors, strip);
    let error = read_weights(dir.path(), &config, &parameters(&config), None)
        .unwrap_err()
        .to_string();
    assert!(error.contains("differs from the embedding table"), "{error}");
}

#[test]
fn half_precision_becomes_single() {
    let config = lm(false, true);
    let tensors = weights(&config);
    let dir = tempfile::tempdir().unwrap();
    let halves: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|tensor| {
            let bytes = (0..tensor.num_elements())
                .flat_map(|_| half::f16::from_f32(0.1).to_le_bytes())
                .collect();
            (
                tensor.name.replace("language_model.", ""),
                tensor.shape.clone(),
                bytes,
            )
        })
        .collect();
    let views = halves.iter().map(|(name, shape, bytes)| {
        (
            name,
            safetensors::tensor::TensorView::new(safetensors::Dtype::F16, shape.clone(), bytes).unwrap(),
        )
    });
    safetensors::serialize_to_file(views, None, &dir.path().join("model.safetensors")).unwrap();
    let read = read_weights(dir.path(), &config, &parameters(&config), None).unwrap();
    assert_eq!(read[0].dtype, HostDtype::F32);
    assert_eq!(
        read[0].bytes[..4],
        half::f16::from_f32(0.1).to_f32().to_le_bytes()
    );
}

#[test]
fn what_lies_beside_the_weights_is_complete() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("export");
    let config = vlm(ProjectorKind::Mlp2);
    export(
        &dir,
        &config,
        weights(&config),
        &tokenizer(root.path()),
        &options(HostDtype::F32),
    )
    .unwrap();
    let tokenizer = read_json(&dir.join("tokenizer_config.json"));
    assert_eq!(tokenizer["eos_token"], "<|im_end|>");
    assert_eq!(tokenizer["chat_template"], "{{ messages }}");
    assert_eq!(
        fs::read(&dir.join("chat_template.jinja")).unwrap(),
        b"{{ messages }}"
    );
    assert_eq!(
        read_json(&dir.join("generation_config.json")),
        json!({"bos_token_id": null, "eos_token_id": 3, "pad_token_id": 0})
    );
    let image = read_json(&dir.join("preprocessor_config.json"));
    assert_eq!(image["size"], json!({"shortest_edge": 8}));
    let read = read_image_processor(&dir, 8).unwrap();
    assert_eq!(read, Some(options(HostDtype::F32).image_processor));
    let processor = read_json(&dir.join("processor_config.json"));
    assert_eq!(processor["patch_size"], 2);
    assert_eq!(read_json(&dir.join("config.json"))["image_seq_length"], 16);
}
