//! Hugging Face folders: models in ([`read_config`], [`read_weights`]) and out ([`export`]), strictly; adapters in PEFT's
//! format ([`read_adapter`], [`write_adapter`], [`merge_adapter`]).
//!
//! Four kinds of folder are read and written:
//!
//! | `model_type` | what it is | who loads it |
//! |---|---|---|
//! | `llava` | vision tower, two-layer projector, any of the decoders | transformers and whoever reads its folders |
//! | `llama`, `mistral`, `qwen2`, `qwen3`, `apertus` | a decoder alone | the same |
//! | `multimodal` | vision tower, projector of three layers or with pixel shuffle, decoder; the parts are named | MultiMeditron |
//! | `brazier_vlm` | as `llava`, with a `projector` of any kind and `vision_post_layernorm` | Brazier |
//!
//! The last kind exists because transformers' LLaVA knows one projector only; under its name the folder would load there
//! with random weights in place of what is missing.

mod adapter;
mod added_token;
mod cache;
mod carry;
mod config_in;
mod config_out;
mod elements;
mod error;
mod export;
mod image_processor;
mod layout;
mod merge;
mod names;
mod other_half;
mod resize;
mod section;
mod shards;
mod sidecar;
mod stored;
mod weights;

#[cfg(test)]
mod tests;

pub use adapter::{Adapter, read_adapter, write_adapter};
pub use cache::{Env, RepoId, cache_dir, is_offline, locate};
pub use carry::{TokenIds, token_ids};
pub use config_in::{JoinOptions, join_configs, read_config, read_decoder_config, read_vision_config};
pub use error::{HubError, Result};
pub use export::{DtypePolicy, ExportOptions, ExportSummary, check_target, export, usual_layout};
pub use image_processor::read_image_processor;
pub use layout::{ExportLayout, Layout, MultimeditronNames};
pub use merge::{MergeSummary, merge_adapter};
pub use names::Part;
pub use resize::{ResizeOptions, Table, is_vocabulary};
pub use shards::ExportTensor;
pub use weights::{Weights, read_weights};
