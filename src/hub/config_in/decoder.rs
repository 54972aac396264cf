//! The decoder's part of `config.json`.

use brazier_models::DecoderConfig;
use serde_json::json;

use crate::hub::section::Section;

pub(super) fn decoder(section: Section) -> DecoderConfig {
    let qk_norm = match section.text("model_type").unwrap_or("llama") {
        "llama" => false,
        "qwen3" => true,
        other => {
            section.refuse("model_type", &other.into(), "expected llama or qwen3");
            false
        }
    };
    section.only("hidden_act", &json!("silu"), "the decoder's MLP is SwiGLU");
    section.only(
        "attention_bias",
        &json!(false),
        "the attention projections have no biases",
    );
    section.only("mlp_bias", &json!(false), "the MLP has no biases");
    section.only(
        "attention_dropout",
        &json!(0.0),
        "there is no dropout; set it to 0.0 in config.json",
    );
    if qk_norm {
        refuse_sliding_window(section);
    }
    let (vocab_size, intermediate_size, max_position_embeddings) = if qk_norm {
        (151_936, 22_016, 32_768)
    } else {
        (32_000, 11_008, 2048)
    };
    let hidden_size = section.size("hidden_size").unwrap_or(4096);
    let num_attention_heads = section.size("num_attention_heads").unwrap_or(32);
    // Qwen3 has 32 where the key is absent, and as many as query heads where it is null.
    let key_value_heads = match section.map.get("num_key_value_heads") {
        None if qk_norm => 32,
        _ => num_attention_heads,
    };
    let head_dim = if qk_norm {
        128
    } else {
        hidden_size / num_attention_heads.max(1)
    };
    DecoderConfig {
        vocab_size: section.size("vocab_size").unwrap_or(vocab_size),
        hidden_size,
        intermediate_size: section.size("intermediate_size").unwrap_or(intermediate_size),
        num_hidden_layers: section.size("num_hidden_layers").unwrap_or(32),
        num_attention_heads,
        num_key_value_heads: section.size("num_key_value_heads").unwrap_or(key_value_heads),
        head_dim: section.size("head_dim").unwrap_or(head_dim),
        rms_norm_eps: section.float("rms_norm_eps").unwrap_or(1e-6),
        rope_theta: rope_theta(section),
        max_position_embeddings: section
            .size("max_position_embeddings")
            .unwrap_or(max_position_embeddings),
        tie_word_embeddings: section.flag("tie_word_embeddings").unwrap_or(false),
        qk_norm,
        initializer_range: section.float("initializer_range").unwrap_or(0.02),
    }
}

fn refuse_sliding_window(section: Section) {
    if section.flag("use_sliding_window") == Some(true)
        && let Some(window) = section.value("sliding_window")
    {
        section.refuse(
            "sliding_window",
            window,
            "attention sees the whole sequence; there is no sliding window",
        );
    }
    if let Some(types) = section.value("layer_types") {
        let all_full = types
            .as_array()
            .is_some_and(|types| types.iter().all(|kind| kind == "full_attention"));
        if !all_full {
            section.refuse("layer_types", types, "every layer is full_attention");
        }
    }
}

/// transformers 5 has `rope_parameters: {rope_theta, rope_type}`; 4.x `rope_theta` beside an optional `rope_scaling`.
fn rope_theta(section: Section) -> f64 {
    let mut theta = None;
    for (key, prefix) in [
        ("rope_parameters", "rope_parameters."),
        ("rope_scaling", "rope_scaling."),
    ] {
        let Some(rope) = section.child(key, prefix) else {
            continue;
        };
        for kind in ["rope_type", "type"] {
            rope.only(kind, &json!("default"), "RoPE is not scaled");
        }
        rope.only(
            "partial_rotary_factor",
            &json!(1.0),
            "RoPE turns every dimension of a head",
        );
        theta = theta.or(rope.float("rope_theta"));
    }
    section.only(
        "partial_rotary_factor",
        &json!(1.0),
        "RoPE turns every dimension of a head",
    );
    theta.or(section.float("rope_theta")).unwrap_or(10_000.0)
}
