//! Hugging Face folders: models in ([`read_config`], [`read_weights`]) and out ([`export`]), strictly; adapters in PEFT's
//! format ([`read_adapter`], [`write_adapter`], [`merge_adapter`]).
//!
//! Three kinds of folder are read and written:
//!
//! | `model_type` | what it is | who loads it |
//! |---|---|---|
//! | `llava` | vision tower, two-layer projector, Llama or Qwen3 decoder | transformers and whoever reads its folders |
//! | `llama`, `qwen3` | a decoder alone | the same |
//! | `brazier_vlm` | as `llava`, with `"projector": {"kind": "linear"}` or `{"kind": "pixel_shuffle", "factor": n}` | Brazier |
//!
//! The third kind exists because transformers' LLaVA knows one projector only; under its name the folder would load there
//! with random weights in place of what is missing.

mod adapter;
mod config_in;
mod config_out;
mod elements;
mod error;
mod export;
mod merge;
mod names;
mod section;
mod sidecar;
mod weights;

#[cfg(test)]
mod tests;

pub use adapter::{Adapter, read_adapter, write_adapter};
pub use config_in::read_config;
pub use error::{HubError, Result};
pub use export::{ExportOptions, ExportSummary, export};
pub use merge::{MergeSummary, merge_adapter};
pub use weights::read_weights;
