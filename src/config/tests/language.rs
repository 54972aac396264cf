//! `model.language` and `model.resize_vocabulary`: families, what they may say, and vocabularies that grow.

use brazier_models::{
    AttentionBias, DecoderConfig, LanguageModelType, MlpKind, RopeScaling, SlidingWindow, VlmConfig,
};

use super::*;

fn decoder(sets: &[&str]) -> DecoderConfig {
    let run = resolve_base(sets).unwrap_or_else(|errors| panic!("{}", words(&errors)));
    run.model_config(50, Some(3)).unwrap().unwrap().text
}

#[test]
fn families_have_their_features() {
    let plain = decoder(&[]);
    assert_eq!(plain.model_type, LanguageModelType::Llama);
    let features = |text: &DecoderConfig| (text.attention_bias, text.qk_norm, text.mlp, text.mlp_bias);
    assert_eq!(
        features(&plain),
        (AttentionBias::None, false, MlpKind::SwiGlu, false)
    );
    for (sets, family, expected) in [
        (
            &[
                "model.language.attention_bias=true",
                "model.language.mlp_bias=true",
            ][..],
            LanguageModelType::Llama,
            (AttentionBias::All, false, MlpKind::SwiGlu, true),
        ),
        (
            &["model.language.qk_norm=true"],
            LanguageModelType::Qwen3,
            (AttentionBias::None, true, MlpKind::SwiGlu, false),
        ),
        (
            &["model.language.model_type=qwen2"],
            LanguageModelType::Qwen2,
            (AttentionBias::Qkv, false, MlpKind::SwiGlu, false),
        ),
        (
            &["model.language.model_type=mistral"],
            LanguageModelType::Mistral,
            (AttentionBias::None, false, MlpKind::SwiGlu, false),
        ),
        (
            &["model.language.model_type=apertus", "model.language.qk_norm=true"],
            LanguageModelType::Apertus,
            (AttentionBias::None, true, MlpKind::Xielu, false),
        ),
    ] {
        let text = decoder(sets);
        assert_eq!((text.model_type, features(&text)), (family, expected));
    }
}

#[test]
fn windows_and_scaled_rope_are_resolved() {
    let text = decoder(&[
        "model.language.model_type=qwen3",
        "model.language.sliding_window=9",
        "model.language.max_window_layers=1",
        "model.language.rope_scaling={rope_type: linear, factor: 4}",
        "data.sequence_length=500",
    ]);
    let expected = SlidingWindow {
        window: 9,
        layers: vec![false, true],
    };
    assert_eq!(text.sliding_window, Some(expected));
    assert_eq!(text.rope_scaling, RopeScaling::Linear { factor: 4.0 });
    // 128 as they are, four times as many with the scaling.
    assert_eq!(text.max_positions(), 512);
    let all = decoder(&[
        "model.language.model_type=mistral",
        "model.language.sliding_window=9",
    ]);
    assert_eq!(all.sliding_window.unwrap().layers, [true, true]);
}

#[test]
fn what_a_family_lacks_is_refused() {
    for (sets, expected) in [
        (
            &["model.language.model_type=llama", "model.language.qk_norm=true"][..],
            "--set: model.language.qk_norm = true: a model of type llama has no norms of queries and keys",
        ),
        (
            &[
                "model.language.model_type=qwen2",
                "model.language.attention_bias=false",
            ],
            "--set: model.language.attention_bias = false: a model of type qwen2 has biases in its query, key and value \
             projections",
        ),
        (
            &[
                "model.language.model_type=mistral",
                "model.language.attention_bias=true",
            ],
            "--set: model.language.attention_bias = true: a model of type mistral has no biases in its attention",
        ),
        (
            &[
                "model.language.model_type=apertus",
                "model.language.mlp_bias=true",
            ],
            "--set: model.language.mlp_bias = true: a model of type apertus has no biases in its MLP",
        ),
        (
            &["model.language.sliding_window=8"],
            "--set: model.language.sliding_window = 8: a model of type llama has no sliding window",
        ),
        (
            &[
                "model.language.model_type=mistral",
                "model.language.sliding_window=8",
                "model.language.max_window_layers=1",
            ],
            "--set: model.language.sliding_window = 8: a model of type mistral has its sliding window in every block",
        ),
        (
            &[
                "model.language.model_type=qwen2",
                "model.language.max_window_layers=1",
            ],
            "--set: model.language.max_window_layers = 1: has no effect: there is no sliding_window\n  hint: remove it",
        ),
        (
            &[
                "model.language.model_type=qwen2",
                "model.language.sliding_window=8",
                "model.language.max_window_layers=2",
            ],
            "--set: model.language.max_window_layers = 2: leaves none of the 2 blocks with the sliding window\n  \
             hint: lower it, or remove sliding_window",
        ),
        (
            &[
                "model.language.rope_scaling={rope_type: llama3, factor: 8, low_freq_factor: 9, \
               original_max_position_embeddings: 64}",
            ],
            "--set: model.language.rope_scaling.low_freq_factor = 9: must be positive and smaller than high_freq_factor",
        ),
        (
            &["model.resize_vocabulary={}"],
            "--set: model.resize_vocabulary: has no effect: a new model has as many rows as model.language.vocab_size \
             says\n  hint: remove it",
        ),
    ] {
        check(sets, expected);
    }
}

/// A run that imports a model of 100 rows, whose tokenizer has `num_tokens`.
fn fit(resize: &str, num_tokens: usize, image_token_id: Option<u32>) -> Result<VlmConfig, Vec<ConfigError>> {
    let imported = resolve_base(&["model.language.vocab_size=100"])?.model_config(90, Some(7))?;
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer.json"] {
        fs::write_atomic(&folder.path().join(name), b"{}").unwrap();
    }
    let model = format!(
        "model={{from: {0}, tokenizer: {0}{resize}}}",
        folder.path().display()
    );
    let run = resolve_base(&[&model, "data.synth.image_size=32"])?;
    run.fit_vocabulary(imported.unwrap(), num_tokens, image_token_id)
}

#[test]
fn a_larger_tokenizer_needs_more_rows() {
    let rows = |resize: &str, num_tokens: usize| {
        let config = fit(resize, num_tokens, Some(7)).unwrap();
        config.text.vocab_size
    };
    assert_eq!(rows("", 90), 100);
    assert_eq!(rows("", 100), 100);
    assert_eq!(rows(", resize_vocabulary: {}", 90), 100);
    assert_eq!(rows(", resize_vocabulary: {}", 103), 103);
    assert_eq!(rows(", resize_vocabulary: {pad_to_multiple_of: 64}", 103), 128);
    let error = words(&fit("", 101, Some(7)).unwrap_err());
    let expected = "has 101 tokens, and the model's vocabulary 100\n  \
         hint: write model.resize_vocabulary: {} for fresh rows, or take the model's own tokenizer";
    assert!(error.contains(expected), "{error}");
}

/// Tables with more rows than the tokenizer has tokens lost some of them.
#[test]
fn s1_b14_a_padded_vocabulary_never_shrinks() {
    let rows = fit(", resize_vocabulary: {}", 50, Some(7))
        .unwrap()
        .text
        .vocab_size;
    assert_eq!(rows, 100);
}

/// A vocabulary that was a multiple already grew by another one.
#[test]
fn s2_b2_a_multiple_is_left_as_it_is() {
    let resize = ", resize_vocabulary: {pad_to_multiple_of: 25}";
    assert_eq!(fit(resize, 100, Some(7)).unwrap().text.vocab_size, 100);
    assert_eq!(fit(resize, 101, Some(7)).unwrap().text.vocab_size, 125);
}

#[test]
fn the_tokenizers_image_token_is_the_models() {
    let image_token = |resize: &str, num_tokens: usize, id: u32| {
        let config = fit(resize, num_tokens, Some(id))?;
        Ok(config.vision.unwrap().image_token_id)
    };
    assert_eq!(image_token("", 90, 7).unwrap(), 7);
    assert_eq!(image_token(", resize_vocabulary: {}", 101, 100).unwrap(), 100);
    for resize in ["", ", resize_vocabulary: {}"] {
        let error: Result<u32, Vec<ConfigError>> = image_token(resize, 90, 8);
        let error = words(&error.unwrap_err());
        let expected = "has <image> as token 8, and the model's image_token_id is 7\n  \
             hint: take the model's own tokenizer, name its token under model.image_token, or correct image_token_id in its \
             config.json";
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn the_image_token_can_be_named() {
    let run = resolve_base(&["model.image_token=<|image_pad|>"]).unwrap();
    assert_eq!(run.image_token.as_deref(), Some("<|image_pad|>"));
    let error = words(&run.model_config(90, None).unwrap_err());
    let expected = "has no token <|image_pad|>, and the model sees images\n  hint: add it to the tokenizer as a special \
                    token, or name one that is there under model.image_token";
    assert!(error.contains(expected), "{error}");
    let named = ", image_token: <|image_pad|>";
    assert!(fit(named, 90, Some(7)).is_ok());
    let error = words(&fit(named, 90, Some(8)).unwrap_err());
    let expected = "has <|image_pad|> as token 8, and the model's image_token_id is 7";
    assert!(error.contains(expected), "{error}");

    // A model without eyes has no use for it.
    let blind = VlmConfig {
        vision: None,
        ..run.model_config(90, Some(7)).unwrap().unwrap()
    };
    let error = words(&run.fit_vocabulary(blind, 90, None).unwrap_err());
    let expected = "model.image_token = <|image_pad|>: has no effect: the model has no vision tower";
    assert!(error.contains(expected), "{error}");
    for name in ["", "  ", "a'b"] {
        let error = words(&resolve_base(&[&format!("model.image_token=\"{name}\"")]).unwrap_err());
        assert!(error.contains("no token is called so"), "{error}");
    }
}
