//! The models of Brazier: language decoder, vision tower, projector, and the VLM that joins them.
//!
//! Tensors in, tensors out: this crate knows no file, no flag and no rank. Parameter paths and configuration fields have
//! Hugging Face's names. [`ops`] holds every custom operation.

pub mod config;
pub mod decoder;
mod dropout;
pub mod host;
pub mod init;
pub mod inputs;
pub mod layers;
pub mod lora;
pub mod ops;
pub mod params;
pub mod projector;
pub mod segmented;
pub mod vision;
pub mod vlm;

pub use config::{
    DecoderConfig, FeatureSelect, Head, ModelConfigError, ProjectorKind, VisionActivation, VisionConfig,
    VisionLanguageConfig, VlmConfig,
};
pub use decoder::CausalLm;
pub use host::{HostDtype, HostTensor};
pub use inputs::{HostBatch, HostClasses, IGNORE_INDEX, InputError, VlmInputs};
pub use lora::{LoraConfig, LoraParts, LoraTargets};
pub use segmented::{Segment, Segmented};
pub use vision::VisionTower;
pub use vlm::{KvCache, Vlm};
