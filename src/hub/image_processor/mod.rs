//! How a folder's images are prepared: `preprocessor_config.json`, or `image_processor` in `processor_config.json`.
//!
//! Defaults are those of transformers 5.23; the spellings of 4.x (`feature_extractor_type`, sizes that are one number) are
//! read as well.

mod read;
#[cfg(test)]
mod tests;
mod write;

pub use read::read_image_processor;
pub(super) use write::image_processor_json;

pub(super) const PREPROCESSOR: &str = "preprocessor_config.json";
pub(super) const PROCESSOR: &str = "processor_config.json";
