//! Fixtures recorded from PyTorch; see tests/fixtures/README.md.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use brazier_models::{
    DecoderConfig, FeatureSelect, Head, HostBatch, HostDtype, HostTensor, LoraConfig, PaddingSide,
    ProjectorKind, VisionActivation, VisionConfig, VisionLanguageConfig, VisionModelType, Vlm, VlmConfig,
    params::load_params,
};
use burn::tensor::{DType, Device, Tensor, TensorData};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::{
    decoder_config::decoder_config,
    support::{f32s, weights},
};

/// One file: its tensors and the JSON that describes them.
pub(crate) struct Fixture {
    pub(crate) about: Value,
    tensors: BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>,
}

pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name)
}

impl Fixture {
    pub(crate) fn open(name: &str) -> Self {
        let bytes = brazier::fs::read(&path(name)).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        let about = &header.metadata().as_ref().unwrap()["fixture"];
        let tensors = SafeTensors::deserialize(&bytes).unwrap().tensors().into_iter();
        Self {
            about: serde_json::from_str(about).unwrap(),
            tensors: tensors
                .map(|(name, view)| (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec())))
                .collect(),
        }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn bytes(&self, name: &str, dtype: Dtype) -> &[u8] {
        let (found, _, bytes) = self
            .tensors
            .get(name)
            .unwrap_or_else(|| panic!("no tensor {name}"));
        assert_eq!(*found, dtype, "{name}");
        bytes
    }

    pub(crate) fn shape(&self, name: &str) -> &[usize] {
        &self.tensors[name].1
    }

    pub(crate) fn f32s(&self, name: &str) -> Vec<f32> {
        f32s(self.bytes(name, Dtype::F32))
    }

    pub(crate) fn i32s(&self, name: &str) -> Vec<i32> {
        let chunks = self.bytes(name, Dtype::I32).as_chunks::<4>().0;
        chunks.iter().map(|&chunk| i32::from_le_bytes(chunk)).collect()
    }

    pub(crate) fn f64s(&self, name: &str) -> Vec<f64> {
        let chunks = self.bytes(name, Dtype::F64).as_chunks::<8>().0;
        chunks.iter().map(|&chunk| f64::from_le_bytes(chunk)).collect()
    }

    pub(crate) fn number(&self, key: &str) -> f64 {
        self.about[key]
            .as_f64()
            .unwrap_or_else(|| panic!("no number {key}"))
    }

    pub(crate) fn tensor<const D: usize>(&self, name: &str, device: &Device) -> Tensor<D> {
        let data = TensorData::new(self.f32s(name), self.shape(name).to_vec());
        Tensor::from_data(data, (device, DType::F32))
    }

    /// The tensors whose names begin with `prefix` and a part of the model, without the prefix.
    fn weights(&self, prefix: &str) -> BTreeMap<String, HostTensor> {
        let parts = ["language_model.", "multi_modal_projector.", "vision_tower."];
        let named = self.tensors.iter().filter_map(|(name, (_, shape, bytes))| {
            let name = name.strip_prefix(prefix)?;
            parts
                .iter()
                .any(|part| name.starts_with(part))
                .then(|| HostTensor {
                    name: name.to_owned(),
                    shape: shape.clone(),
                    dtype: HostDtype::F32,
                    bytes: bytes.clone(),
                })
        });
        named.map(|tensor| (tensor.name.clone(), tensor)).collect()
    }

    /// Names of the tensors under `prefix`, without it.
    pub(crate) fn names(&self, prefix: &str) -> Vec<String> {
        self.weights(prefix).into_keys().collect()
    }

    /// A model with the fixture's weights and the adapters under `prefix`.
    pub(crate) fn model_with_lora(
        &self,
        config: &VlmConfig,
        lora: &LoraConfig,
        prefix: &str,
        device: &Device,
    ) -> Vlm {
        let drawn = Vlm::init_with_lora(config, Some(lora), 0, device, DType::F32).unwrap();
        let mut all = self.weights("");
        all.extend(self.weights(prefix));
        load_params(drawn, all.into_values().collect())
            .map_err(|(_, error)| error)
            .unwrap()
    }

    /// A model with the fixture's weights; parts that the fixture lacks keep the weights they were drawn with.
    pub(crate) fn model(&self, config: &VlmConfig, prefix: &str, device: &Device) -> Vlm {
        let drawn = Vlm::init(config, 0, device, DType::F32).unwrap();
        let mut recorded = self.weights(prefix);
        let mut all = weights(&drawn);
        for tensor in &mut all {
            if let Some(recorded) = recorded.remove(&tensor.name) {
                *tensor = recorded;
            }
        }
        assert!(
            recorded.is_empty(),
            "not in the model: {:?}",
            recorded.into_keys()
        );
        load_params(drawn, all).map_err(|(_, error)| error).unwrap()
    }

    pub(crate) fn decoder_config(&self) -> DecoderConfig {
        decoder_config(&self.about["text_config"])
    }

    /// The vision tower with a projector and the decoder of the fixture, or a placeholder for one it lacks.
    pub(crate) fn vlm_config(&self) -> VlmConfig {
        VlmConfig {
            text: self.decoder_config(),
            vision: Some(VisionLanguageConfig {
                vision: vision_config(&self.about["vision_config"]),
                projector: ProjectorKind::Mlp2,
                vision_feature_layer: self.about["vision_feature_layer"].as_i64().unwrap(),
                vision_feature_select: FeatureSelect::Default,
                vision_post_layernorm: false,
                image_token_id: self.about["image_token_id"].as_u64().unwrap() as u32,
            }),
            head: Head::Lm,
        }
    }
}

pub(crate) fn size(config: &Value, key: &str) -> usize {
    config[key].as_u64().unwrap_or_else(|| panic!("no size {key}")) as usize
}

pub(crate) fn vision_config(config: &Value) -> VisionConfig {
    VisionConfig {
        model_type: match config["model_type"].as_str() {
            None => VisionModelType::Clip,
            Some("siglip_vision_model") => VisionModelType::Siglip,
            Some(other) => panic!("unknown tower {other}"),
        },
        hidden_size: size(config, "hidden_size"),
        intermediate_size: size(config, "intermediate_size"),
        num_hidden_layers: size(config, "num_hidden_layers"),
        num_attention_heads: size(config, "num_attention_heads"),
        image_size: size(config, "image_size"),
        patch_size: size(config, "patch_size"),
        layer_norm_eps: config["layer_norm_eps"].as_f64().unwrap(),
        hidden_act: activation(&config["hidden_act"]),
        vision_use_head: config["vision_use_head"].as_bool().unwrap_or(false),
        initializer_range: config["initializer_range"].as_f64().unwrap_or(0.02),
    }
}

pub(crate) fn activation(name: &Value) -> VisionActivation {
    match name.as_str().unwrap() {
        "quick_gelu" => VisionActivation::QuickGelu,
        "gelu" => VisionActivation::Gelu,
        "gelu_pytorch_tanh" => VisionActivation::GeluTanh,
        other => panic!("unknown activation {other}"),
    }
}

/// Host memory that a [`HostBatch`] borrows.
#[derive(Clone)]
pub(crate) struct Rows {
    pub(crate) rows: usize,
    pub(crate) length: usize,
    pub(crate) input_ids: Vec<i32>,
    pub(crate) labels: Vec<i32>,
    pub(crate) segments: Vec<Vec<usize>>,
    pub(crate) pixels: Vec<f32>,
    pub(crate) num_images: usize,
}

impl Rows {
    /// `input_ids`, `labels` and, where there are some, `pixels` of a fixture; each row is one segment, as long as its
    /// `attention_mask` says.
    pub(crate) fn of(fixture: &Fixture) -> Self {
        let shape = fixture.shape("input_ids");
        let with_images = fixture.has("pixels");
        let tokens = |mask: &[i32]| vec![mask.iter().sum::<i32>() as usize];
        let segments = match fixture.has("attention_mask") {
            true => fixture
                .i32s("attention_mask")
                .chunks(shape[1])
                .map(tokens)
                .collect(),
            false => vec![vec![shape[1]]; shape[0]],
        };
        Self {
            segments,
            rows: shape[0],
            length: shape[1],
            input_ids: fixture.i32s("input_ids"),
            labels: fixture.i32s("labels"),
            pixels: if with_images {
                fixture.f32s("pixels")
            } else {
                Vec::new()
            },
            num_images: if with_images {
                fixture.shape("pixels")[0]
            } else {
                0
            },
        }
    }

    pub(crate) fn batch(&self) -> HostBatch<'_> {
        HostBatch {
            rows: self.rows,
            length: self.length,
            input_ids: &self.input_ids,
            labels: &self.labels,
            padding_side: PaddingSide::Right,
            segments: &self.segments,
            pixels: &self.pixels,
            num_images: self.num_images,
            classes: None,
        }
    }
}
