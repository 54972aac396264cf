//! What the numeric tests and the learner's tests share.

use std::{path::Path, sync::Arc};

use brazier::{
    data::SampleId,
    device::{compiled, open},
    device_choice::DeviceChoice,
    learner::options::{
        OptimizerConfig, Precision, Recompute, ScheduleConfig, ScheduleKind, StepConfig, TrainMode,
    },
};
use brazier_models::{
    AttentionBias, DecoderConfig, FeatureSelect, Head, HostTensor, LanguageModelType, MlpKind, ProjectorKind,
    RopeScaling, VisionActivation, VisionConfig, VisionLanguageConfig, VisionModelType, Vlm, VlmConfig,
    params::read_params,
};
use burn::tensor::{DType, Device};

/// Every CPU backend of this build, in f32.
pub(crate) fn devices() -> Vec<Device> {
    let opened = cpu_backends().map(|choice| open(choice, DType::F32));
    opened
        .map(|device| device.expect("a compiled-in CPU backend opens"))
        .collect()
}

/// The CPU backends of this build. Others have their own tests.
pub(crate) fn cpu_backends() -> impl Iterator<Item = DeviceChoice> {
    let is_cpu = |choice: &DeviceChoice| matches!(choice, DeviceChoice::Flex | DeviceChoice::Ndarray);
    compiled().into_iter().filter(is_cpu)
}

/// A step without clipping, decay or schedule, for a test to change where it must.
pub(crate) fn plain_step(mode: TrainMode) -> StepConfig {
    StepConfig {
        mode,
        precision: Precision::F32,
        recompute: Recompute::None,
        optimizer: OptimizerConfig {
            lr: 1e-3,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.0,
            projector_lr: None,
            vision_lr: None,
            language_lr: None,
        },
        schedule: ScheduleConfig {
            kind: ScheduleKind::Constant,
            warmup_steps: 0,
            total_steps: 100,
        },
        max_grad_norm: None,
        seed: 0,
    }
}

/// All parameters, in module order.
pub(crate) fn weights(model: &Vlm) -> Vec<HostTensor> {
    read_params(model, |_| true)
}

/// Row `line` of a file that does not exist.
pub(crate) fn sample(line: usize) -> SampleId {
    SampleId {
        file: Arc::from(Path::new("rows.jsonl")),
        line,
    }
}

/// The little-endian f32 values of a tensor.
pub(crate) fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes
        .chunks_exact(4)
        .map(|chunk| f32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]))
        .collect()
}

/// A VLM of which every detail differs from what the fixtures have: QK-norm, tied embeddings, pixel shuffle, exact GELU.
pub(crate) fn tiny_vlm() -> VlmConfig {
    VlmConfig {
        text: DecoderConfig {
            model_type: LanguageModelType::Qwen3,
            vocab_size: 24,
            hidden_size: 16,
            intermediate_size: 24,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            head_dim: 6,
            rms_norm_eps: 1e-5,
            rope_theta: 10000.0,
            rope_scaling: RopeScaling::Default,
            max_position_embeddings: 32,
            tie_word_embeddings: true,
            attention_bias: AttentionBias::None,
            qk_norm: true,
            sliding_window: None,
            mlp: MlpKind::SwiGlu,
            mlp_bias: false,
            initializer_range: 0.2,
        },
        vision: Some(VisionLanguageConfig {
            vision: VisionConfig {
                model_type: VisionModelType::Clip,
                hidden_size: 12,
                intermediate_size: 20,
                num_hidden_layers: 3,
                num_attention_heads: 2,
                image_size: 8,
                patch_size: 2,
                layer_norm_eps: 1e-5,
                hidden_act: VisionActivation::Gelu,
                vision_use_head: false,
                initializer_range: 0.2,
            },
            projector: ProjectorKind::PixelShuffle { factor: 2 },
            vision_feature_layer: -2,
            vision_feature_select: FeatureSelect::Default,
            vision_post_layernorm: false,
            image_token_id: IMAGE,
        }),
        head: Head::Lm,
    }
}

/// Id of the image token of [`tiny_vlm`].
pub(crate) const IMAGE: u32 = 3;

/// Numbers between -1 and 1 that look random and are the same everywhere.
pub(crate) struct Noise(pub(crate) u64);

impl Noise {
    pub(crate) fn draw(&mut self) -> f32 {
        // SplitMix64, <https://prng.di.unimi.it/splitmix64.c>
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub(crate) fn take(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.draw()).collect()
    }
}
