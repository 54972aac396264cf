//! What is refused, where and in which words; and that documents and defaults tell the truth.

mod dialects;
mod documents;
mod language;
mod loading;
mod planning;
mod resolving;
mod rows;
mod vision;

use super::*;
use crate::parallel::World;

/// A run that is fine. Its files need not exist: `data.synth` is going to make them.
const BASE: &str = "\
output: runs/test
model:
  language:
    hidden_size: 64
    intermediate_size: 128
    num_hidden_layers: 2
    num_attention_heads: 4
    max_position_embeddings: 128
  vision:
    hidden_size: 32
    intermediate_size: 64
    num_hidden_layers: 2
    num_attention_heads: 2
    image_size: 32
    patch_size: 8
data:
  synth: {}
  sequence_length: 64
train:
  steps: 1000
  optimizer: {lr: 1e-3}
";

fn no_env(_: &str) -> Option<String> {
    None
}

fn load_text(text: &str, sets: &[&str]) -> Result<Loaded, Vec<ConfigError>> {
    let sets: Vec<_> = sets.iter().map(|set| (*set).to_owned()).collect();
    parse("run.yaml", text, &sets, &no_env)
}

fn resolve_base(sets: &[&str]) -> Result<RunConfig, Vec<ConfigError>> {
    resolve(&load_text(BASE, sets)?, World::ALONE)
}

fn resolve_text(text: &str) -> Result<RunConfig, Vec<ConfigError>> {
    resolve(&load_text(text, &[])?, World::ALONE)
}

fn words(errors: &[ConfigError]) -> String {
    errors
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(result: Result<T, Vec<ConfigError>>, expected: &str) {
    assert_eq!(words(&result.unwrap_err()), expected);
}

/// The base with these `--set` is refused with exactly these words.
#[track_caller]
fn check(sets: &[&str], expected: &str) {
    assert_refused(resolve_base(sets), expected);
}

/// The base with one line replaced is refused with exactly these words.
#[track_caller]
fn check_line(old: &str, new: &str, expected: &str) {
    assert!(BASE.contains(old), "{old} is not in the base");
    assert_refused(resolve_text(&BASE.replace(old, new)), expected);
}
