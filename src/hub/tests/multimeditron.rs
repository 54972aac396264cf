//! MultiMeditron's folders: three spellings of the tensors' names, parts that are named and not described.

use super::{identity::*, *};

const SPELLINGS: [&str; 3] = [
    "modalities.0.modality.",
    "modalities.0.",
    "modalities_with_projection.0.",
];

/// The folders that a MultiMeditron folder names, and itself, below `root`.
struct Folders {
    root: tempfile::TempDir,
    config: VlmConfig,
}

impl Folders {
    /// A language model with a smaller vocabulary than the whole, and a two-tower model.
    fn new(config: VlmConfig) -> Self {
        let root = tempfile::tempdir().unwrap();
        let folders = Self { root, config };
        let mut language = lm(true, true);
        language.text.vocab_size = 9;
        let json = config_json(&language, Layout::Decoder, None, &options(HostDtype::F32)).unwrap();
        folders.write("llm/config.json", &json);
        let vision = config_json(
            &vlm_as_llava(&folders.config),
            Layout::Llava,
            None,
            &options(HostDtype::F32),
        );
        let two_towers = match folders.tower().model_type {
            VisionModelType::Clip => "clip",
            VisionModelType::Siglip => "siglip",
        };
        let vision = &vision.unwrap()["vision_config"];
        folders.write(
            "clip/config.json",
            &json!({"model_type": two_towers, "vision_config": vision}),
        );
        folders
    }

    fn tower(&self) -> &VisionConfig {
        &self.config.vision.as_ref().unwrap().vision
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, json: &Value) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write_durable(&path, json.to_string().as_bytes()).unwrap();
    }

    /// `config.json` as the program writes it.
    fn json(&self) -> Value {
        let vision = self.config.vision.as_ref().unwrap();
        let mut modality = json!({"model_type": "meditron_clip", "modality_type": "image", "hidden_size": 8,
            "clip_name": self.path("clip"), "projection_type": "mlp", "use_2d_position_ids": false,
            "max_batch_size": 32, "kwargs": {"x": 1}});
        if let ProjectorKind::PixelShuffle { factor } = vision.projector {
            modality["projection_type"] = "pixel_shuffle".into();
            modality["pixel_shuffle_factor"] = factor.into();
        }
        json!({"model_type": "multimodal", "architectures": ["MultiModalModelForCausalLM"], "vocab_size": 11,
            "hidden_size": 8, "attachment_token_idx": 5, "pad_token_idx": 1, "eos_token_idx": 3,
            "padding_side": "left", "initializer_range": 0.02, "llm_path": self.path("llm"), "truncation": false,
            "max_sequence_length": null, "dtype": "float32", "transformers_version": "4.55.0",
            "modalities": [modality]})
    }

    /// The model's tensors and the two-tower model's other half, under the names of a generation.
    fn tensors(&self, spelling: &str) -> Vec<HostTensor> {
        let other = |name: &str, shape: &[usize], value: f32| HostTensor {
            name: format!("{spelling}feature_extractor.{name}"),
            shape: shape.to_vec(),
            dtype: HostDtype::F32,
            bytes: vec![value; shape.iter().product()]
                .into_iter()
                .flat_map(f32::to_le_bytes)
                .collect(),
        };
        let mut all = vec![
            other("text_model.final_layer_norm.weight", &[4], 0.5),
            other("visual_projection.weight", &[3, 6], 0.25),
            other("logit_scale", &[], 2.5),
        ];
        for tensor in weights(&self.config) {
            let name = tensor.name.clone();
            let name = if let Some(rest) = name.strip_prefix("language_model.") {
                format!("model.{rest}")
            } else if let Some(rest) = name.strip_prefix("vision_tower.") {
                format!("{spelling}feature_extractor.{rest}")
            } else {
                let rest = name.strip_prefix("multi_modal_projector.").unwrap();
                self.projector_name(spelling, rest)
            };
            all.push(HostTensor { name, ..tensor });
        }
        all
    }

    fn projector_name(&self, spelling: &str, ours: &str) -> String {
        let (layer, part) = ours.split_once('.').unwrap();
        let layer = match layer {
            "linear_1" => "0",
            "linear_2" => "2",
            _ => "4",
        };
        let vision = self.config.vision.as_ref().unwrap();
        match (vision.projector, spelling) {
            (ProjectorKind::PixelShuffle { .. }, _) => format!("{spelling}projector.proj.{part}"),
            (_, "modalities.0.modality.") => format!("modalities.0.projection.{layer}.{part}"),
            _ => format!("{spelling}projector.projection.{layer}.{part}"),
        }
    }

    /// Writes the folder; its tokenizer lies in it.
    fn write_model(&self, spelling: &str, json: &Value) -> std::path::PathBuf {
        let dir = self.path("model");
        self.write("model/config.json", json);
        self.write("model/tokenizer.json", &json!({}));
        let tensors = self.tensors(spelling);
        let views = tensors.iter().map(|tensor| {
            let view = safetensors::tensor::TensorView::new(
                safetensors::Dtype::F32,
                tensor.shape.clone(),
                &tensor.bytes,
            );
            (tensor.name.clone(), view.unwrap())
        });
        safetensors::serialize_to_file(views, None, &dir.join("model.safetensors")).unwrap();
        dir
    }
}

/// A tower described as LLaVA does, to read its section off.
fn vlm_as_llava(config: &VlmConfig) -> VlmConfig {
    let mut config = config.clone();
    if let Some(vision) = &mut config.vision {
        vision.projector = ProjectorKind::Mlp2;
        vision.vision_post_layernorm = false;
    }
    config
}

fn models() -> [VlmConfig; 3] {
    [
        vlm(ProjectorKind::Mlp3),
        siglip_vlm(ProjectorKind::Mlp3, true),
        siglip_vlm(ProjectorKind::PixelShuffle { factor: 2 }, true),
    ]
}

/// Import, export, import: every tensor keeps its bytes under the last spelling of its name, the other half included.
#[test]
fn every_generation_of_names_is_read_and_the_last_is_written() {
    for config in models() {
        let folders = Folders::new(config.clone());
        let expected = stored(&folders.write_model(SPELLINGS[2], &folders.json()));
        for spelling in SPELLINGS {
            let dir = folders.write_model(spelling, &folders.json());
            assert_eq!(read_config(&dir).unwrap(), config);
            let read = read_weights(&dir, &config, &parameters(&config), None).unwrap();
            assert_eq!(read, weights(&config));
            let keep = || ExportOptions {
                dtype_policy: DtypePolicy::Keep,
                ..options(HostDtype::F32)
            };
            let (once, twice) = (folders.path("once"), folders.path("twice"));
            import(&dir, &once, &dir, keep());
            import(&once, &twice, &dir, keep());
            for out in [&once, &twice] {
                assert_eq!(stored(out), expected, "{spelling}");
                assert_eq!(read_config(out).unwrap(), config);
            }
            assert_eq!(read_json(&once.join("config.json")), folders.json());
            assert_eq!(
                fs::read(&once.join("config.json")).unwrap(),
                fs::read(&twice.join("config.json")).unwrap()
            );
            assert_eq!(usual_layout(&config, &once).unwrap(), Layout::Multimeditron);
        }
    }
}

#[test]
fn older_ways_to_write_the_modality_are_read_and_kept() {
    let folders = Folders::new(vlm(ProjectorKind::Mlp3));
    let mut nested = folders.json();
    let modality = nested["modalities"][0].clone();
    nested["modalities"] = json!([{"model_type": "meditron_clip", "config": modality}]);
    let mut renamed = folders.json();
    renamed["modalities_with_projection"] = renamed.as_object_mut().unwrap().remove("modalities").unwrap();
    for json in [nested, renamed] {
        let dir = folders.write_model(SPELLINGS[1], &json);
        assert_eq!(read_config(&dir).unwrap(), folders.config);
        let out = folders.path("out");
        import(&dir, &out, &dir, options(HostDtype::F32));
        assert_eq!(read_json(&out.join("config.json")), json);
    }
}

/// Later versions do not write the id of the token that stands for an image.
#[test]
fn the_attachment_token_is_found_in_the_tokenizer() {
    let folders = Folders::new(vlm(ProjectorKind::Mlp3));
    let mut json = folders.json();
    json.as_object_mut().unwrap().remove("attachment_token_idx");
    let dir = folders.write_model(SPELLINGS[2], &json);
    let error = read_config(&dir).unwrap_err().to_string();
    assert!(
        error
            .contains("attachment_token_idx = null: is absent, and the folder's tokenizer.json has no token"),
        "{error}"
    );
    let token = json!({"added_tokens": [{"id": 5, "content": "<|reserved_special_token_0|>"}]});
    folders.write("model/tokenizer.json", &token);
    assert_eq!(read_config(&dir).unwrap(), folders.config);
}

#[test]
fn a_new_model_becomes_a_multimeditron_folder() {
    for config in models() {
        let folders = Folders::new(config.clone());
        // The two-tower model itself, from which the other half comes.
        let halves: Vec<HostTensor> = folders.tensors("").into_iter().collect();
        let inside = |name: &str| name.strip_prefix("feature_extractor.").map(str::to_owned);
        let views = halves.iter().filter_map(|tensor| {
            let view = safetensors::tensor::TensorView::new(
                safetensors::Dtype::F32,
                tensor.shape.clone(),
                &tensor.bytes,
            );
            Some((inside(&tensor.name)?, view.unwrap()))
        });
        safetensors::serialize_to_file(views, None, &folders.path("clip/model.safetensors")).unwrap();
        let expected = stored(&folders.write_model(SPELLINGS[2], &folders.json()));
        let out = folders.path("out");
        let names = MultimeditronNames {
            llm_path: folders.path("llm").display().to_string(),
            clip_name: folders.path("clip").display().to_string(),
        };
        let options = ExportOptions {
            layout: ExportLayout::Multimeditron(Some(names)),
            ..options(HostDtype::F32)
        };
        let tokenizer = tokenizer(folders.root.path());
        let summary = export(&out, &config, weights(&config), &tokenizer, &options).unwrap();
        assert_eq!(summary.architecture, "MultiModalModelForCausalLM");
        assert_eq!(stored(&out), expected);
        assert_eq!(read_config(&out).unwrap(), config);
    }
}

#[test]
fn what_multimeditron_cannot_say_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let check = |config: &VlmConfig, expected: &str| {
        let options = ExportOptions {
            layout: ExportLayout::Multimeditron(None),
            ..options(HostDtype::F32)
        };
        let (out, tokenizer) = (root.path().join("out"), tokenizer(root.path()));
        let error = export(&out, config, weights(config), &tokenizer, &options).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(
        &lm(true, true),
        "the model in MultiMeditron's layout: it is for models that see",
    );
    check(
        &vlm(ProjectorKind::Mlp2),
        "projector = Mlp2 in MultiMeditron's layout: its projectors are the MLP of three layers",
    );
    check(
        &siglip_vlm(ProjectorKind::Mlp3, false),
        "vision_post_layernorm = false in MultiMeditron's layout: it norms the last state of a SigLIP tower",
    );
    let mut before = vlm(ProjectorKind::Mlp3);
    before.vision.as_mut().unwrap().vision_feature_layer = -2;
    check(
        &before,
        "vision_feature_layer = -2 in MultiMeditron's layout: it takes the last hidden state",
    );
    let mut full = vlm(ProjectorKind::Mlp3);
    full.vision.as_mut().unwrap().vision_feature_select = FeatureSelect::Full;
    check(
        &full,
        "vision_feature_select = full in MultiMeditron's layout: it takes the patches alone",
    );
    check(
        &vlm(ProjectorKind::Mlp3),
        "this model in MultiMeditron's layout: it names the language model and the two-tower model",
    );
    let options = ExportOptions {
        layout: ExportLayout::Llava,
        ..options(HostDtype::F32)
    };
    let config = vlm(ProjectorKind::Mlp3);
    let (out, tokenizer) = (root.path().join("out"), tokenizer(root.path()));
    let error = export(&out, &config, weights(&config), &tokenizer, &options).unwrap_err();
    let expected = "projector = Mlp3 in LLaVA's layout: its projector has two layers";
    assert!(error.to_string().contains(expected), "{error}");
}

#[test]
fn foreign_modalities_are_refused_by_key_value_and_reason() {
    let folders = Folders::new(vlm(ProjectorKind::Mlp3));
    let refused = |json: Value, expected: &str| {
        folders.write("model/config.json", &json);
        let error = read_config(&folders.path("model")).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    let root = |key: &str, value: Value, expected: &str| {
        let mut json = folders.json();
        json[key] = value;
        refused(json, expected);
    };
    let modality = |key: &str, value: Value, expected: &str| {
        let mut json = folders.json();
        json["modalities"][0][key] = value;
        refused(json, expected);
    };
    root(
        "llm_path",
        Value::Null,
        "llm_path = null: expected a folder or a name of the hub",
    );
    root("llm_path", json!("No/Such"), "no model of this name in the cache");
    root(
        "hidden_size",
        json!(16),
        "hidden_size = 16: the language model's hidden_size is 8",
    );
    root(
        "attachment_token_idx",
        json!(11),
        "image_token_id = 11: outside the vocabulary of 11",
    );
    root(
        "architectures",
        json!(["X"]),
        "only MultiModalModelForCausalLM is read",
    );
    root(
        "modalities",
        json!([]),
        "modalities = []: expected a list of one modality",
    );
    root(
        "modalities",
        Value::Null,
        "modalities = null: expected a list of one modality; a language model",
    );
    modality(
        "model_type",
        json!("moe_meditron_clip"),
        r#"modalities[0].model_type = "moe_meditron_clip": only meditron_clip is built in"#,
    );
    modality(
        "modality_type",
        json!("image_3d"),
        r#"modalities[0].modality_type = "image_3d": "#,
    );
    modality(
        "projection_type",
        json!("qformer"),
        r#"projection_type = "qformer": expected mlp or pixel_shuffle"#,
    );
    modality(
        "projection_type",
        json!("pixel_shuffle"),
        "pixel_shuffle_factor = null: projection_type",
    );
    modality(
        "use_2d_position_ids",
        json!(true),
        "use_2d_position_ids = true: positions of tokens",
    );
    modality(
        "hidden_size",
        json!(9),
        "modalities[0].hidden_size = 9: the language model's",
    );
    modality(
        "clip_name",
        Value::Null,
        "modalities[0].clip_name = null: expected a folder",
    );
    let mut factor = folders.json();
    factor["modalities"][0]["projection_type"] = "pixel_shuffle".into();
    factor["modalities"][0]["pixel_shuffle_factor"] = 3.into();
    refused(
        factor,
        "projector.factor = 3: must divide the patch grid's side = 4",
    );
}

#[test]
fn every_missing_and_foreign_tensor_is_listed() {
    let folders = Folders::new(vlm(ProjectorKind::Mlp3));
    let dir = folders.write_model(SPELLINGS[2], &folders.json());
    let path = dir.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap().tensors();
    let views = tensors.iter().map(|(name, view)| {
        let name = match name.strip_suffix("projection.4.bias") {
            Some(before) => format!("{before}projection.6.bias"),
            None => name.replace(
                "0.feature_extractor.vision_model.post",
                "1.feature_extractor.vision_model.post",
            ),
        };
        (name, view)
    });
    safetensors::serialize_to_file(views, None, &dir.join("new")).unwrap();
    fs::rename(&dir.join("new"), &path).unwrap();
    let config = folders.config.clone();
    let error = read_weights(&dir, &config, &parameters(&config), None).unwrap_err();
    let HubError::Mismatch { problems, .. } = &error else {
        panic!("{error}")
    };
    assert_eq!(
        *problems,
        [
            "missing: multi_modal_projector.linear_3.bias [8]",
            "missing: vision_tower.vision_model.post_layernorm.bias [6]",
            "missing: vision_tower.vision_model.post_layernorm.weight [6]",
            "unused: modalities_with_projection.1.feature_extractor.vision_model.post_layernorm.bias [6]",
            "unused: modalities_with_projection.1.feature_extractor.vision_model.post_layernorm.weight [6]",
            "unused: multi_modal_projector.linear_4.bias [8]",
        ]
    );
}
