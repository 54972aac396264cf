//! The models of Brazier: language decoder, vision tower, projector, and the VLM that joins them.
//!
//! Tensors in, tensors out: this crate knows no file, no flag and no rank. Parameter paths and configuration fields have
//! Hugging Face's names. [`ops`] holds every custom operation.

pub mod cache;
pub mod config;
pub mod decoder;
mod dropout;
pub mod flops;
pub mod host;
pub mod init;
pub mod inputs;
pub mod layers;
pub mod lora;
pub mod ops;
pub mod params;
pub mod projector;
pub mod rope;
pub mod segmented;
pub mod selftest;
pub mod shard;
pub mod vision;
pub mod vlm;

pub use cache::KvCache;
pub use config::{
    AttentionBias, DecoderConfig, FeatureSelect, Head, LanguageModelType, MlpKind, ModelConfigError,
    ProjectorKind, SlidingWindow, VisionActivation, VisionConfig, VisionLanguageConfig, VisionModelType,
    VlmConfig,
};
pub use decoder::CausalLm;
pub use host::{HostDtype, HostTensor};
pub use inputs::{
    HostBatch, HostClasses, HostFeatures, IGNORE_INDEX, Images, InputError, Layout, PaddingSide, VlmInputs,
};
pub use lora::{LoraConfig, LoraParts, LoraTargets};
pub use rope::{Llama3Scaling, RopeScaling, YarnScaling};
pub use segmented::{Segment, Segmented};
pub use shard::{Cut, Shard};
pub use vision::VisionTower;
pub use vlm::Vlm;
