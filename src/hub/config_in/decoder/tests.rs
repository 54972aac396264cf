//! Each family's configuration as its makers publish it, as transformers completes it, and as we write it again.

use brazier_models::{
    AttentionBias, DecoderConfig, Head, HostDtype, LanguageModelType, Llama3Scaling, MlpKind, RopeScaling,
    SlidingWindow, VlmConfig, YarnScaling,
};
use serde_json::{Map, Value, json};

use crate::{
    hub::{
        DtypePolicy, ExportLayout, ExportOptions, config_in::parse_config, config_out::config_json,
        layout::Layout,
    },
    image_processor::ImageProcessor,
};

fn parse(value: &Value) -> DecoderConfig {
    parse_config(value.as_object().unwrap()).unwrap().text
}

/// Our own `config.json` of a model says the same again.
fn check_round_trip(text: &DecoderConfig) {
    let options = ExportOptions {
        layout: ExportLayout::Auto,
        max_shard_bytes: 1,
        dtype: HostDtype::F32,
        dtype_policy: DtypePolicy::Cast,
        source: None,
        image_processor: ImageProcessor::siglip(8),
        image_token: "<image>".into(),
        added_image_token: None,
        chat_template: None,
        bos_token_id: Some(1),
        eos_token_ids: vec![2, 3],
        pad_token_id: None,
    };
    let config = VlmConfig {
        text: text.clone(),
        vision: None,
        head: Head::Lm,
    };
    let written = config_json(&config, Layout::Decoder, None, &options).unwrap();
    assert_eq!(parse(&written), *text, "{written}");
    // Versions of transformers before 5 do not know `rope_parameters`.
    let mut old: Map<String, Value> = written.as_object().unwrap().clone();
    old.remove("rope_parameters");
    assert_eq!(parse(&Value::Object(old)), *text, "{written}");
}

fn check(published: Value, expected: DecoderConfig) {
    let text = parse(&published);
    assert_eq!(text, expected);
    check_round_trip(&text);
}

/// `meta-llama/Llama-3.1-8B`
fn llama_3_1() -> DecoderConfig {
    DecoderConfig {
        model_type: LanguageModelType::Llama,
        vocab_size: 128_256,
        hidden_size: 4096,
        intermediate_size: 14_336,
        num_hidden_layers: 32,
        num_attention_heads: 32,
        num_key_value_heads: 8,
        head_dim: 128,
        rms_norm_eps: 1e-5,
        rope_theta: 500_000.0,
        rope_scaling: RopeScaling::Llama3(Llama3Scaling {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: 8192,
        }),
        max_position_embeddings: 131_072,
        tie_word_embeddings: false,
        attention_bias: AttentionBias::None,
        qk_norm: false,
        sliding_window: None,
        mlp: MlpKind::SwiGlu,
        mlp_bias: false,
        initializer_range: 0.02,
    }
}

#[test]
fn published_llamas_are_read() {
    check(
        json!({"architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
            "bos_token_id": 128000, "eos_token_id": 128001, "hidden_act": "silu", "hidden_size": 4096,
            "initializer_range": 0.02, "intermediate_size": 14336, "max_position_embeddings": 131072,
            "mlp_bias": false, "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32,
            "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
            "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192, "rope_type": "llama3"},
            "rope_theta": 500000.0, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
            "transformers_version": "4.43.0.dev0", "use_cache": true, "vocab_size": 128256}),
        llama_3_1(),
    );
    // HuggingFaceTB/SmolLM2-135M
    check(
        json!({"architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
            "bos_token_id": 0, "eos_token_id": 0, "hidden_act": "silu", "hidden_size": 576,
            "initializer_range": 0.041666666666666664, "intermediate_size": 1536, "is_llama_config": true,
            "max_position_embeddings": 8192, "model_type": "llama", "num_attention_heads": 9,
            "num_hidden_layers": 30, "num_key_value_heads": 3, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
            "rope_interleaved": false, "rope_scaling": null, "rope_theta": 100000, "tie_word_embeddings": true,
            "torch_dtype": "bfloat16", "transformers_version": "4.40.1", "use_cache": true, "vocab_size": 49152}),
        DecoderConfig {
            vocab_size: 49_152,
            hidden_size: 576,
            intermediate_size: 1536,
            num_hidden_layers: 30,
            num_attention_heads: 9,
            num_key_value_heads: 3,
            head_dim: 64,
            rope_theta: 100_000.0,
            rope_scaling: RopeScaling::Default,
            max_position_embeddings: 8192,
            tie_word_embeddings: true,
            initializer_range: 0.041_666_666_666_666_664,
            ..llama_3_1()
        },
    );
    // llm-jp/llm-jp-3-1.8b
    check(
        json!({"architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
            "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 2048,
            "initializer_range": 0.02, "intermediate_size": 7168, "max_position_embeddings": 4096,
            "mlp_bias": false, "model_type": "llama", "num_attention_heads": 16, "num_hidden_layers": 24,
            "num_key_value_heads": 16, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": null,
            "rope_theta": 10000, "tie_word_embeddings": false, "torch_dtype": "bfloat16", "use_cache": true,
            "vocab_size": 99584}),
        DecoderConfig {
            vocab_size: 99_584,
            hidden_size: 2048,
            intermediate_size: 7168,
            num_hidden_layers: 24,
            num_attention_heads: 16,
            num_key_value_heads: 16,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::Default,
            max_position_embeddings: 4096,
            ..llama_3_1()
        },
    );
}

#[test]
fn published_mistrals_are_read() {
    // mistralai/Mistral-7B-v0.1
    let published = json!({"architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
        "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
        "max_position_embeddings": 32768, "model_type": "mistral", "num_attention_heads": 32,
        "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
        "sliding_window": 4096, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
        "transformers_version": "4.34.0.dev0", "use_cache": true, "vocab_size": 32000});
    let first = DecoderConfig {
        model_type: LanguageModelType::Mistral,
        vocab_size: 32_000,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::Default,
        max_position_embeddings: 32_768,
        sliding_window: Some(SlidingWindow {
            window: 4096,
            layers: vec![true; 32],
        }),
        ..llama_3_1()
    };
    check(published.clone(), first.clone());
    // mistralai/Mistral-7B-v0.3
    let mut published = published;
    published["rope_theta"] = json!(1000000.0);
    published["sliding_window"] = Value::Null;
    published["vocab_size"] = json!(32768);
    published["attention_dropout"] = json!(0.0);
    let third = DecoderConfig {
        vocab_size: 32_768,
        rope_theta: 1e6,
        sliding_window: None,
        ..first
    };
    check(published, third);
}

#[test]
fn published_qwens_are_read() {
    // Qwen/Qwen2.5-0.5B
    let published = json!({"architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
        "eos_token_id": 151643, "hidden_act": "silu", "hidden_size": 896, "initializer_range": 0.02,
        "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 24,
        "model_type": "qwen2", "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": true,
        "torch_dtype": "bfloat16", "transformers_version": "4.40.1", "use_cache": true, "use_mrope": false,
        "use_sliding_window": false, "vocab_size": 151936});
    let qwen2 = DecoderConfig {
        model_type: LanguageModelType::Qwen2,
        vocab_size: 151_936,
        hidden_size: 896,
        intermediate_size: 4864,
        num_hidden_layers: 24,
        num_attention_heads: 14,
        num_key_value_heads: 2,
        head_dim: 64,
        rms_norm_eps: 1e-6,
        rope_theta: 1e6,
        rope_scaling: RopeScaling::Default,
        max_position_embeddings: 32_768,
        tie_word_embeddings: true,
        attention_bias: AttentionBias::Qkv,
        ..llama_3_1()
    };
    check(published.clone(), qwen2.clone());
    // Its model card's words for longer texts.
    let mut long = published;
    long["rope_scaling"] = json!({"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"});
    let yarn = RopeScaling::Yarn(YarnScaling {
        factor: 4.0,
        original_max_position_embeddings: 32_768,
        attention_factor: None,
        beta_fast: 32.0,
        beta_slow: 1.0,
        mscale: None,
        mscale_all_dim: None,
        truncate: true,
    });
    check(
        long.clone(),
        DecoderConfig {
            rope_scaling: yarn,
            ..qwen2
        },
    );
    assert_eq!(parse(&long).max_positions(), 131_072);
    // Qwen/Qwen3-8B
    check(
        json!({"architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
            "bos_token_id": 151643, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu",
            "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 12288,
            "max_position_embeddings": 40960, "max_window_layers": 36, "model_type": "qwen3",
            "num_attention_heads": 32, "num_hidden_layers": 36, "num_key_value_heads": 8, "rms_norm_eps": 1e-06,
            "rope_scaling": null, "rope_theta": 1000000, "sliding_window": null, "tie_word_embeddings": false,
            "torch_dtype": "bfloat16", "transformers_version": "4.51.0", "use_cache": true,
            "use_sliding_window": false, "vocab_size": 151936}),
        DecoderConfig {
            model_type: LanguageModelType::Qwen3,
            vocab_size: 151_936,
            intermediate_size: 12_288,
            num_hidden_layers: 36,
            rms_norm_eps: 1e-6,
            rope_theta: 1e6,
            rope_scaling: RopeScaling::Default,
            max_position_embeddings: 40_960,
            qk_norm: true,
            ..llama_3_1()
        },
    );
}

#[test]
fn a_published_apertus_is_read() {
    // swiss-ai/Apertus-8B-Instruct-2509
    check(
        json!({"architectures": ["ApertusForCausalLM"], "attention_bias": false, "attention_dropout": 0.0,
            "bos_token_id": 1, "eos_token_id": 68, "hidden_act": "xielu", "hidden_dropout": 0.0,
            "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 21504,
            "max_position_embeddings": 65536, "mlp_bias": false, "model_type": "apertus",
            "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 8, "pad_token_id": 3,
            "post_norm": false, "qk_norm": true, "rms_norm_eps": 1e-05,
            "rope_scaling": {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192, "rope_type": "llama3", "type": "llama3"},
            "rope_theta": 12000000, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
            "transformers_version": "4.56.0.dev0", "use_cache": true, "vocab_size": 131072}),
        DecoderConfig {
            model_type: LanguageModelType::Apertus,
            vocab_size: 131_072,
            intermediate_size: 21_504,
            rope_theta: 12e6,
            max_position_embeddings: 65_536,
            qk_norm: true,
            mlp: MlpKind::Xielu,
            ..llama_3_1()
        },
    );
}

/// Recorded from `MistralConfig()`, `Qwen2Config()` and `ApertusConfig()` of transformers 5.23; Llama's and Qwen3's are in
/// the tests above this module.
#[test]
fn absent_keys_have_the_values_of_transformers() {
    let default = |model_type: &str| {
        let text = parse(&json!({"model_type": model_type}));
        check_round_trip(&text);
        text
    };
    let mistral = default("mistral");
    let expected = DecoderConfig {
        model_type: LanguageModelType::Mistral,
        vocab_size: 32_000,
        rms_norm_eps: 1e-6,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::Default,
        sliding_window: Some(SlidingWindow {
            window: 4096,
            layers: vec![true; 32],
        }),
        ..llama_3_1()
    };
    assert_eq!(mistral, expected);
    let expected = DecoderConfig {
        model_type: LanguageModelType::Qwen2,
        vocab_size: 151_936,
        intermediate_size: 22_016,
        num_key_value_heads: 32,
        max_position_embeddings: 32_768,
        attention_bias: AttentionBias::Qkv,
        sliding_window: None,
        ..mistral
    };
    assert_eq!(default("qwen2"), expected);
    let expected = DecoderConfig {
        model_type: LanguageModelType::Apertus,
        vocab_size: 131_072,
        num_key_value_heads: 32,
        rope_theta: 12e6,
        max_position_embeddings: 65_536,
        qk_norm: true,
        mlp: MlpKind::Xielu,
        ..llama_3_1()
    };
    assert_eq!(default("apertus"), expected);
    // Without any key for RoPE, ApertusConfig ignores rope_theta too.
    let odd = parse(&json!({"model_type": "apertus", "rope_theta": 5e5}));
    assert_eq!(odd.rope_theta, 12e6);
    let plain = json!({"model_type": "apertus", "rope_theta": 5e5, "rope_scaling": {"rope_type": "default"}});
    let plain = parse(&plain);
    assert_eq!(
        (plain.rope_theta, plain.rope_scaling),
        (5e5, RopeScaling::Default)
    );
    let null = parse(&json!({"model_type": "mistral", "num_key_value_heads": null, "sliding_window": null}));
    assert_eq!((null.num_key_value_heads, null.sliding_window), (32, None));
}

#[test]
fn windows_are_read_from_every_spelling() {
    let check = |keys: Value, expected: Option<(usize, &[bool])>| {
        let mut map = keys.as_object().unwrap().clone();
        map.insert("num_hidden_layers".into(), 4.into());
        for model_type in ["qwen2", "qwen3"] {
            map.insert("model_type".into(), model_type.into());
            let text = parse(&Value::Object(map.clone()));
            let expected = expected.map(|(window, layers)| SlidingWindow {
                window,
                layers: layers.to_vec(),
            });
            assert_eq!(text.sliding_window, expected, "{keys}");
            check_round_trip(&text);
        }
    };
    check(json!({}), None);
    check(json!({"sliding_window": 7, "max_window_layers": 2}), None);
    check(
        json!({"use_sliding_window": true, "sliding_window": null, "max_window_layers": 0}),
        None,
    );
    check(json!({"use_sliding_window": true, "sliding_window": 7}), None);
    check(
        json!({"use_sliding_window": true, "max_window_layers": 3}),
        Some((4096, &[false, false, false, true])),
    );
    check(
        json!({"use_sliding_window": true, "sliding_window": 7, "max_window_layers": 0,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]}),
        Some((7, &[true, false, true, false])),
    );
}

#[test]
fn scaled_rope_is_read_from_every_spelling() {
    let check = |keys: Value, theta: f64, expected: RopeScaling| {
        let mut map = keys.as_object().unwrap().clone();
        map.insert("model_type".into(), "llama".into());
        let text = parse(&Value::Object(map));
        assert_eq!((text.rope_theta, text.rope_scaling), (theta, expected), "{keys}");
        check_round_trip(&text);
    };
    let linear = RopeScaling::Linear { factor: 2.0 };
    check(
        json!({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2}}),
        5e5,
        linear,
    );
    check(
        json!({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 7e4}}),
        7e4,
        linear,
    );
    // transformers takes the old key where there are both.
    check(
        json!({"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "rope_theta": 5e5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 3.0}}),
        5e5,
        linear,
    );
    let llama3 = |original_max_position_embeddings: usize| {
        RopeScaling::Llama3(Llama3Scaling {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings,
        })
    };
    let scaling =
        json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0});
    check(json!({"rope_scaling": scaling}), 10_000.0, llama3(2048));
    check(
        json!({"rope_scaling": scaling, "original_max_position_embeddings": 99}),
        10_000.0,
        llama3(99),
    );
    // No factor: what the model reaches over where it began. A zero is nothing.
    let yarn = json!({"rope_type": "yarn", "original_max_position_embeddings": 512, "mscale": 0, "mscale_all_dim": 1.0,
        "beta_fast": 16, "attention_factor": 1.5, "truncate": false});
    check(
        json!({"rope_scaling": yarn}),
        10_000.0,
        RopeScaling::Yarn(YarnScaling {
            factor: 4.0,
            original_max_position_embeddings: 512,
            attention_factor: Some(1.5),
            beta_fast: 16.0,
            beta_slow: 1.0,
            mscale: None,
            mscale_all_dim: Some(1.0),
            truncate: false,
        }),
    );
}

/// A text tower inside LLaVA may be any of the families.
#[test]
fn llava_holds_every_family() {
    for family in LanguageModelType::ALL {
        let config =
            json!({"model_type": "llava", "text_config": {"model_type": family.name(), "vocab_size": 32064}});
        let config = parse_config(config.as_object().unwrap()).unwrap();
        assert_eq!(config.text.model_type, family);
        assert!(config.vision.is_some());
    }
}
