//! `benches/predict/predict.py` computes memory by itself, for many GPUs. For one, it must be what the program computes:
//! both are held against `benches/predict/memory.json`, which is written here; `predict.py --check` is the other side.

use std::{fs, path::Path};

use brazier::{
    config::{BatchShape, MemoryEstimate, estimate_memory},
    learner::options::{Precision, Recompute, TrainMode},
};
use brazier_models::{
    AttentionBias, DecoderConfig, Head, LanguageModelType, MlpKind, RopeScaling, VlmConfig, ops::logit_rows,
};
use serde_json::{Value, json};

/// `swiss-ai/Apertus-8B-2509` as far as sizes go.
fn apertus() -> DecoderConfig {
    DecoderConfig {
        model_type: LanguageModelType::Apertus,
        vocab_size: 131_072,
        hidden_size: 4096,
        intermediate_size: 21_504,
        num_hidden_layers: 32,
        num_attention_heads: 32,
        num_key_value_heads: 8,
        head_dim: 128,
        rms_norm_eps: 1e-5,
        rope_theta: 4_000_000.0,
        rope_scaling: RopeScaling::Default,
        max_position_embeddings: 65_536,
        tie_word_embeddings: false,
        attention_bias: AttentionBias::None,
        qk_norm: true,
        sliding_window: None,
        mlp: MlpKind::Xielu,
        mlp_bias: false,
        initializer_range: 0.02,
    }
}

/// `meta-llama/Llama-3.1-8B`.
fn llama() -> DecoderConfig {
    DecoderConfig {
        model_type: LanguageModelType::Llama,
        vocab_size: 128_256,
        intermediate_size: 14_336,
        qk_norm: false,
        mlp: MlpKind::SwiGlu,
        ..apertus()
    }
}

fn case(name: &str, text: DecoderConfig, rows: usize, length: usize, recompute: Recompute) -> Value {
    let shape = BatchShape {
        rows,
        length,
        images: 0,
        logit_rows: logit_rows(rows * length, text.vocab_size),
    };
    let model = VlmConfig {
        text,
        vision: None,
        head: Head::Lm,
    };
    let MemoryEstimate {
        counts,
        parameters_bytes,
        gradients_bytes,
        optimizer_bytes,
        activations_bytes,
        logits_bytes,
        batch_bytes,
        ..
    } = estimate_memory(&model, None, TrainMode::Full, Precision::Bf16, recompute, shape);
    json!({
        "model": name,
        "rows": rows,
        "length": length,
        "recompute": recompute == Recompute::Blocks,
        "parameters": counts.total(),
        "bytes": {
            "parameters": parameters_bytes,
            "gradients": gradients_bytes,
            "optimizer": optimizer_bytes,
            "activations": activations_bytes,
            "logits": logits_bytes,
            "batch": batch_bytes,
        },
    })
}

#[test]
fn predicted_memory_is_computed_from_the_same_numbers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/predict/memory.json");
    let cases = json!([
        case("Apertus-8B", apertus(), 8, 2048, Recompute::Blocks),
        case("Apertus-8B", apertus(), 1, 4096, Recompute::None),
        case("Llama-3.1-8B", llama(), 2, 2048, Recompute::Blocks),
        case("Llama-3.1-8B", llama(), 1, 16, Recompute::None),
    ]);
    let text = format!("{}\n", serde_json::to_string_pretty(&cases).unwrap());
    if std::env::var_os("BRAZIER_WRITE_README").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let hint = "run this test with BRAZIER_WRITE_README=1, then benches/predict/predict.py --check";
    assert_eq!(fs::read_to_string(&path).unwrap(), text, "{hint}");
}
