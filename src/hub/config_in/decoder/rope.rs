//! RoPE: transformers 5 has `rope_parameters: {rope_theta, rope_type, …}`, 4.x `rope_theta` beside an optional
//! `rope_scaling: {rope_type, …}`, whose first form had `type`.

use brazier_models::{LanguageModelType, Llama3Scaling, RopeScaling, YarnScaling};
use serde_json::{Map, Value, json};

use crate::hub::section::Section;

/// Base of the frequencies, and what is done to them.
pub(super) fn rope(
    section: Section,
    family: LanguageModelType,
    max_position_embeddings: usize,
) -> (f64, RopeScaling) {
    section.only(
        "partial_rotary_factor",
        &json!(1.0),
        "RoPE turns every dimension of a head",
    );
    // The old key wins where a file has both, unless it is empty.
    let child = |key, prefix| section.child(key, prefix).filter(|rope| !rope.map.is_empty());
    let found =
        child("rope_scaling", "rope_scaling.").or_else(|| child("rope_parameters", "rope_parameters."));
    let apertus = apertus_default();
    let empty = Map::new();
    let rope = found.unwrap_or(Section {
        prefix: "rope_parameters.",
        map: match family {
            LanguageModelType::Apertus => apertus.as_object().unwrap_or(&empty),
            LanguageModelType::Llama
            | LanguageModelType::Mistral
            | LanguageModelType::Qwen2
            | LanguageModelType::Qwen3 => &empty,
        },
        problems: section.problems,
    });
    for nested in ["full_attention", "sliding_attention"] {
        if let Some(value) = rope.value(nested) {
            rope.refuse(nested, value, "all layers have one RoPE");
        }
    }
    rope.only(
        "partial_rotary_factor",
        &json!(1.0),
        "RoPE turns every dimension of a head",
    );
    let default_theta = match family {
        LanguageModelType::Apertus => 12_000_000.0,
        LanguageModelType::Llama
        | LanguageModelType::Mistral
        | LanguageModelType::Qwen2
        | LanguageModelType::Qwen3 => 10_000.0,
    };
    let theta = rope.float("rope_theta").or_else(|| section.float("rope_theta"));
    let original = section
        .size("original_max_position_embeddings")
        .or_else(|| rope.size("original_max_position_embeddings"))
        .unwrap_or(max_position_embeddings);
    (
        theta.unwrap_or(default_theta),
        scaling(rope, original, max_position_embeddings),
    )
}

/// What ApertusConfig has where the file says nothing.
fn apertus_default() -> Value {
    json!({"rope_type": "llama3", "rope_theta": 12_000_000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192})
}

fn scaling(rope: Section, original: usize, max_position_embeddings: usize) -> RopeScaling {
    let key = if rope.value("rope_type").is_some() {
        "rope_type"
    } else {
        "type"
    };
    let needed = |name: &str| {
        rope.float(name).unwrap_or_else(|| {
            if rope.value(name).is_none() {
                rope.refuse(name, &Value::Null, "this kind of RoPE needs it");
            }
            1.0
        })
    };
    match rope.text(key).unwrap_or("default") {
        "default" => RopeScaling::Default,
        "linear" => RopeScaling::Linear {
            factor: needed("factor"),
        },
        "llama3" => RopeScaling::Llama3(Llama3Scaling {
            factor: needed("factor"),
            low_freq_factor: needed("low_freq_factor"),
            high_freq_factor: needed("high_freq_factor"),
            original_max_position_embeddings: original,
        }),
        "yarn" => {
            // transformers takes 0 for absent here.
            let positive = |name: &str| rope.float(name).filter(|&value| value != 0.0);
            let reached = max_position_embeddings as f64 / original as f64;
            RopeScaling::Yarn(YarnScaling {
                factor: rope.float("factor").unwrap_or(reached),
                original_max_position_embeddings: original,
                attention_factor: rope.float("attention_factor"),
                beta_fast: positive("beta_fast").unwrap_or(32.0),
                beta_slow: positive("beta_slow").unwrap_or(1.0),
                mscale: positive("mscale"),
                mscale_all_dim: positive("mscale_all_dim"),
                truncate: rope.flag("truncate").unwrap_or(true),
            })
        }
        other => {
            let reason = "expected default, linear, llama3 or yarn; the others are not built in";
            rope.refuse(key, &other.into(), reason);
            RopeScaling::Default
        }
    }
}
