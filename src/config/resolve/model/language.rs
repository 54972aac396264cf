//! `model.language:`.

use brazier_models::{
    AttentionBias, DecoderConfig, LanguageModelType, Llama3Scaling, MlpKind, RopeScaling, SlidingWindow,
    YarnScaling,
};

use crate::config::{
    defaults,
    raw::{RawLanguage, RawModelType, RawRopeScaling},
    written::Errors,
};

/// A vocabulary that every image token id is in.
const UNKNOWN_VOCABULARY: usize = usize::MAX;

pub(super) fn decoder(raw: RawLanguage, errors: &mut Errors) -> DecoderConfig {
    let RawLanguage {
        model_type,
        vocab_size,
        hidden_size,
        intermediate_size,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads,
        head_dim,
        rms_norm_eps,
        rope_theta,
        rope_scaling,
        max_position_embeddings,
        tie_word_embeddings,
        attention_bias,
        qk_norm,
        sliding_window,
        max_window_layers,
        mlp_bias,
        initializer_range,
    } = raw;
    if head_dim.is_none() && !hidden_size.is_multiple_of(num_attention_heads) {
        let reason = format!("must divide model.language.hidden_size = {hidden_size}, for want of head_dim");
        errors.refuse(
            "model.language.num_attention_heads",
            &reason,
            Some("change one of them, or add head_dim"),
        );
    }
    let family = match model_type {
        Some(RawModelType::Llama) => LanguageModelType::Llama,
        Some(RawModelType::Mistral) => LanguageModelType::Mistral,
        Some(RawModelType::Qwen2) => LanguageModelType::Qwen2,
        Some(RawModelType::Qwen3) => LanguageModelType::Qwen3,
        Some(RawModelType::Apertus) => LanguageModelType::Apertus,
        None if qk_norm == Some(true) => LanguageModelType::Qwen3,
        None => LanguageModelType::Llama,
    };
    DecoderConfig {
        model_type: family,
        vocab_size: vocab_size.unwrap_or(UNKNOWN_VOCABULARY),
        hidden_size,
        intermediate_size,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads: num_key_value_heads.unwrap_or(num_attention_heads),
        head_dim: head_dim.unwrap_or(hidden_size / num_attention_heads),
        rms_norm_eps,
        rope_theta,
        rope_scaling: rope(rope_scaling),
        max_position_embeddings,
        tie_word_embeddings,
        attention_bias: match (attention_bias, family) {
            (None | Some(true), LanguageModelType::Qwen2) => AttentionBias::Qkv,
            (Some(true), _) => AttentionBias::All,
            (None | Some(false), _) => AttentionBias::None,
        },
        qk_norm: qk_norm.unwrap_or(matches!(
            family,
            LanguageModelType::Qwen3 | LanguageModelType::Apertus
        )),
        sliding_window: window(sliding_window, max_window_layers, num_hidden_layers, errors),
        mlp: match family {
            LanguageModelType::Apertus => MlpKind::Xielu,
            LanguageModelType::Llama
            | LanguageModelType::Mistral
            | LanguageModelType::Qwen2
            | LanguageModelType::Qwen3 => MlpKind::SwiGlu,
        },
        mlp_bias: mlp_bias.unwrap_or(false),
        initializer_range,
    }
}

fn window(
    window: Option<usize>,
    first: Option<usize>,
    num_layers: usize,
    errors: &mut Errors,
) -> Option<SlidingWindow> {
    const FIRST: &str = "model.language.max_window_layers";
    let Some(window) = window else {
        errors.no_effect(FIRST, "there is no sliding_window");
        return None;
    };
    let first = first.unwrap_or(defaults::MAX_WINDOW_LAYERS);
    if first >= num_layers {
        let reason = format!("leaves none of the {num_layers} blocks with the sliding window");
        errors.refuse(FIRST, &reason, Some("lower it, or remove sliding_window"));
        return None;
    }
    Some(SlidingWindow {
        window,
        // More than that no model may have, which is said later.
        layers: (0..num_layers.min(DecoderConfig::MAX_LAYERS))
            .map(|layer| layer >= first)
            .collect(),
    })
}

fn rope(raw: Option<RawRopeScaling>) -> RopeScaling {
    match raw {
        None => RopeScaling::Default,
        Some(RawRopeScaling::Linear { factor }) => RopeScaling::Linear { factor },
        Some(RawRopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        }) => RopeScaling::Llama3(Llama3Scaling {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        }),
        Some(RawRopeScaling::Yarn {
            factor,
            original_max_position_embeddings,
            attention_factor,
            beta_fast,
            beta_slow,
            mscale,
            mscale_all_dim,
            truncate,
        }) => RopeScaling::Yarn(YarnScaling {
            factor,
            original_max_position_embeddings,
            attention_factor,
            beta_fast,
            beta_slow,
            mscale,
            mscale_all_dim,
            truncate,
        }),
    }
}
