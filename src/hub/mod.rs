//! Hugging Face folders: models in ([`read_config`], [`read_weights`]) and out ([`export`]), strictly; adapters in PEFT's
//! format ([`read_adapter`], [`write_adapter`], [`merge_adapter`]).
//!
//! Three kinds of folder are read and written:
//!
//! | `model_type` | what it is | who loads it |
//! |---|---|---|
//! | `llava` | vision tower, two-layer projector, any of the decoders | transformers and whoever reads its folders |
//! | `llama`, `mistral`, `qwen2`, `qwen3`, `apertus` | a decoder alone | the same |
//! | `brazier_vlm` | as `llava`, with `"projector": {"kind": "linear"}` or `{"kind": "pixel_shuffle", "factor": n}` | Brazier |
//!
//! The third kind exists because transformers' LLaVA knows one projector only; under its name the folder would load there
//! with random weights in place of what is missing.

mod adapter;
mod cache;
mod carry;
mod config_in;
mod config_out;
mod elements;
mod error;
mod export;
mod image_processor;
mod merge;
mod names;
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
pub use config_out::architecture;
pub use error::{HubError, Result};
pub use export::{DtypePolicy, ExportOptions, ExportSummary, check_target, export};
pub use image_processor::read_image_processor;
pub use merge::{MergeSummary, merge_adapter};
pub use names::Part;
pub use resize::{ResizeOptions, Table, is_vocabulary};
pub use shards::ExportTensor;
pub use weights::{Weights, read_weights};
