//! Brazier: a trainer for vision-language and language models.
//!
//! The rooms and who may know whom are described in ARCHITECTURE.md. The models themselves are the crate
//! `brazier-models`.

pub mod checkpoint;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod data;
pub mod device;
pub mod device_choice;
pub mod fs;
pub mod generate;
pub mod hub;
pub mod image_processor;
pub mod learner;
pub mod parallel;
pub mod signal;
pub mod track;
