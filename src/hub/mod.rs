//! Hugging Face folders: models in ([`read_config`], [`read_weights`]) and out ([`export`]), strictly.
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

mod config_in;
mod config_out;
mod error;
mod export;
mod names;
mod resize;
mod section;
mod sidecar;
mod weights;

#[cfg(test)]
mod tests;

pub use config_in::read_config;
pub use error::{HubError, Result};
pub use export::{ExportOptions, ExportSummary, export};
pub use resize::{ResizeOptions, is_vocabulary};
pub use weights::read_weights;
