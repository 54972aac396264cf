//! The program as its users meet it: each test runs the binary in a folder of its own and looks at exit code, output
//! and files.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test stops at the first surprise, and looks at files from outside the program"
)]

mod bad_input;
mod classification;
mod commands;
mod conversion;
mod dialects;
mod disk;
#[cfg(feature = "wgpu")]
mod gpu;
mod interruption;
mod lora;
mod models;
mod prediction;
mod processes;
mod project;
mod ranks;
#[cfg(feature = "flex")] // ndarray has no bfloat16
mod seeds;
mod slurm;
mod training;
