//! `text_config` of a fixture: keys of `DecoderConfig` as the recording scripts write them.

use brazier_models::{
    AttentionBias, DecoderConfig, LanguageModelType, Llama3Scaling, MlpKind, RopeScaling, SlidingWindow,
    YarnScaling,
};
use serde_json::Value;

use crate::fixture::size;

fn float(config: &Value, key: &str) -> f64 {
    config[key].as_f64().unwrap_or_else(|| panic!("no number {key}"))
}

fn flag(config: &Value, key: &str) -> bool {
    config[key].as_bool().unwrap_or_else(|| panic!("no flag {key}"))
}

pub(crate) fn decoder_config(config: &Value) -> DecoderConfig {
    let qk_norm = flag(config, "qk_norm");
    let model_type = match config["model_type"].as_str() {
        // The first fixtures: QK-norm chooses.
        None if qk_norm => LanguageModelType::Qwen3,
        None => LanguageModelType::Llama,
        Some(name) => *LanguageModelType::ALL
            .iter()
            .find(|family| family.name() == name)
            .unwrap_or_else(|| panic!("unknown family {name}")),
    };
    DecoderConfig {
        model_type,
        vocab_size: size(config, "vocab_size"),
        hidden_size: size(config, "hidden_size"),
        intermediate_size: size(config, "intermediate_size"),
        num_hidden_layers: size(config, "num_hidden_layers"),
        num_attention_heads: size(config, "num_attention_heads"),
        num_key_value_heads: size(config, "num_key_value_heads"),
        head_dim: size(config, "head_dim"),
        rms_norm_eps: float(config, "rms_norm_eps"),
        rope_theta: float(config, "rope_theta"),
        rope_scaling: rope_scaling(&config["rope_scaling"]),
        max_position_embeddings: size(config, "max_position_embeddings"),
        tie_word_embeddings: flag(config, "tie_word_embeddings"),
        attention_bias: match config["attention_bias"].as_str() {
            None => AttentionBias::None,
            Some("qkv") => AttentionBias::Qkv,
            Some("all") => AttentionBias::All,
            Some(other) => panic!("attention_bias {other}"),
        },
        qk_norm,
        sliding_window: config["sliding_window"].as_u64().map(|window| SlidingWindow {
            window: window as usize,
            layers: {
                let layers = config["sliding_layers"].as_array().unwrap().iter();
                layers.map(|layer| layer.as_bool().unwrap()).collect()
            },
        }),
        mlp: match model_type {
            LanguageModelType::Apertus => MlpKind::Xielu,
            _ => MlpKind::SwiGlu,
        },
        mlp_bias: config["mlp_bias"].as_bool().unwrap_or(false),
        initializer_range: float(config, "initializer_range"),
    }
}

pub(crate) fn rope_scaling(config: &Value) -> RopeScaling {
    match config["rope_type"].as_str() {
        None => RopeScaling::Default,
        Some("linear") => RopeScaling::Linear {
            factor: float(config, "factor"),
        },
        Some("llama3") => RopeScaling::Llama3(Llama3Scaling {
            factor: float(config, "factor"),
            low_freq_factor: float(config, "low_freq_factor"),
            high_freq_factor: float(config, "high_freq_factor"),
            original_max_position_embeddings: size(config, "original_max_position_embeddings"),
        }),
        Some("yarn") => RopeScaling::Yarn(YarnScaling {
            factor: float(config, "factor"),
            original_max_position_embeddings: size(config, "original_max_position_embeddings"),
            attention_factor: config["attention_factor"].as_f64(),
            beta_fast: config["beta_fast"].as_f64().unwrap_or(32.0),
            beta_slow: config["beta_slow"].as_f64().unwrap_or(1.0),
            mscale: config["mscale"].as_f64(),
            mscale_all_dim: config["mscale_all_dim"].as_f64(),
            truncate: config["truncate"].as_bool().unwrap_or(true),
        }),
        Some(other) => panic!("rope_type {other}"),
    }
}
