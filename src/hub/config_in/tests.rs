//! Configurations as others write them.

use brazier_models::{DecoderConfig, FeatureSelect, VisionActivation};

use super::*;

fn parse(value: Value) -> std::result::Result<VlmConfig, Vec<String>> {
    parse_config(value.as_object().unwrap())
}

/// What lies in the `config.json` of llava-hf/llava-1.5-7b-hf, as transformers 4.36 wrote it.
#[test]
fn the_config_of_llava_1_5_is_read() {
    let config = parse(json!({
    "architectures": ["LlavaForConditionalGeneration"],
    "ignore_index": -100,
    "image_token_index": 32000,
    "model_type": "llava",
    "pad_token_id": 32001,
    "projector_hidden_act": "gelu",
    "text_config": {
        "_name_or_path": "lmsys/vicuna-7b-v1.5", "architectures": ["LlamaForCausalLM"],
        "max_position_embeddings": 4096, "model_type": "llama", "rms_norm_eps": 1e-05,
        "torch_dtype": "float16", "vocab_size": 32064
    },
    "tie_word_embeddings": false,
    "torch_dtype": "float16",
    "vision_config": {
        "hidden_size": 1024, "image_size": 336, "intermediate_size": 4096, "model_type": "clip_vision_model",
        "num_attention_heads": 16, "num_hidden_layers": 24, "patch_size": 14, "projection_dim": 768,
        "vocab_size": 32000
    },
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "vocab_size": 32064
}))
.unwrap();
    let vision = config.vision.as_ref().unwrap();
    assert_eq!(vision.num_image_tokens(), 576);
    assert_eq!(vision.num_vision_blocks().unwrap(), 23);
    assert_eq!(vision.vision.hidden_act, VisionActivation::QuickGelu);
    assert_eq!(vision.vision.layer_norm_eps, 1e-5);
    assert_eq!(
        (config.text.vocab_size, config.text.intermediate_size),
        (32064, 11008)
    );
    assert_eq!((config.text.num_key_value_heads, config.text.head_dim), (32, 128));
    assert_eq!(
        (config.text.rope_theta, config.text.rms_norm_eps),
        (10_000.0, 1e-5)
    );
    assert_eq!(config.text.max_position_embeddings, 4096);
}

/// Recorded from `LlamaConfig()`, `Qwen3Config()` and `LlavaConfig()` of transformers 5.23.
#[test]
fn absent_keys_have_the_values_of_transformers() {
    let llama = parse(json!({"model_type": "llama"})).unwrap().text;
    let sizes = |text: &DecoderConfig| {
        [
            text.vocab_size,
            text.hidden_size,
            text.intermediate_size,
            text.num_hidden_layers,
            text.num_attention_heads,
        ]
    };
    assert_eq!(sizes(&llama), [32_000, 4096, 11_008, 32, 32]);
    assert_eq!(
        (
            llama.num_key_value_heads,
            llama.head_dim,
            llama.max_position_embeddings
        ),
        (32, 128, 2048)
    );
    assert_eq!(
        (llama.rms_norm_eps, llama.rope_theta, llama.initializer_range),
        (1e-6, 10_000.0, 0.02)
    );
    let qwen3 = parse(json!({"model_type": "qwen3", "num_attention_heads": 64}))
        .unwrap()
        .text;
    assert_eq!(sizes(&qwen3), [151_936, 4096, 22_016, 32, 64]);
    assert_eq!(
        (
            qwen3.num_key_value_heads,
            qwen3.head_dim,
            qwen3.max_position_embeddings
        ),
        (32, 128, 32_768)
    );
    let llava = parse(json!({"model_type": "llava", "vocab_size": 7, "text_config": {"vocab_size": 32_001}}))
        .unwrap();
    let vision = llava.vision.unwrap();
    assert_eq!(
        (
            vision.vision.hidden_size,
            vision.vision.image_size,
            vision.image_token_id
        ),
        (1024, 336, 32_000)
    );
    assert_eq!(
        (vision.vision_feature_layer, vision.vision_feature_select),
        (-2, FeatureSelect::Default)
    );
    let clip = json!({"model_type": "llava", "text_config": {"vocab_size": 32_001}, "vision_config": {"hidden_size": 96}});
    let vision = parse(clip).unwrap().vision.unwrap().vision;
    assert_eq!(
        (
            vision.num_hidden_layers,
            vision.num_attention_heads,
            vision.patch_size
        ),
        (12, 12, 32)
    );
}

#[test]
fn both_spellings_of_rope_are_read() {
    let check = |keys: Value, theta: f64| {
        let mut map = keys.as_object().unwrap().clone();
        map.insert("model_type".into(), "llama".into());
        assert_eq!(parse_config(&map).unwrap().text.rope_theta, theta, "{keys}");
    };
    check(json!({}), 10_000.0);
    check(json!({"rope_theta": 500_000}), 500_000.0);
    check(json!({"rope_theta": 5e5, "rope_scaling": null}), 5e5);
    check(
        json!({"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}, "rope_theta": 5e5}),
        1e6,
    );
    check(
        json!({"rope_parameters": {"rope_type": "default"}, "rope_theta": 5e5}),
        5e5,
    );
    check(
        json!({"rope_scaling": {"type": "default"}, "rope_theta": 5e5}),
        5e5,
    );
}

#[test]
fn what_the_models_are_not_is_refused_by_key_value_and_reason() {
    let check = |model_type: &str, keys: Value, expected: &str| {
        let mut map = keys.as_object().unwrap().clone();
        map.insert("model_type".into(), model_type.into());
        let problems = parse_config(&map).unwrap_err().join("\n");
        assert!(problems.contains(expected), "{keys}: {problems}");
    };
    check(
        "llama",
        json!({"hidden_act": "gelu"}),
        r#"hidden_act = "gelu": the decoder's MLP is SwiGLU"#,
    );
    check(
        "llama",
        json!({"attention_dropout": 0.1}),
        "attention_dropout = 0.1: ",
    );
    check(
        "llama",
        json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}),
        "rope_scaling.low_freq_factor = null: this kind of RoPE needs it",
    );
    check(
        "llama",
        json!({"rope_scaling": {"type": "linear"}}),
        "rope_scaling.factor = null: this kind of RoPE needs it",
    );
    check(
        "llama",
        json!({"rope_scaling": {"type": "linear", "factor": 0.5}}),
        "rope_scaling.factor = 0.5: must be at least 1",
    );
    check(
        "llama",
        json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
        r#"rope_scaling.type = "dynamic": expected default, linear, llama3 or yarn"#,
    );
    check(
        "qwen3",
        json!({"rope_parameters": {"rope_type": "longrope"}}),
        r#"rope_parameters.rope_type = "longrope": expected default, linear, llama3 or yarn"#,
    );
    check(
        "qwen3",
        json!({"rope_parameters": {"full_attention": {"rope_type": "default"}}}),
        "rope_parameters.full_attention = {\"rope_type\":\"default\"}: all layers have one RoPE",
    );
    check(
        "apertus",
        json!({"partial_rotary_factor": 0.5}),
        "partial_rotary_factor = 0.5: RoPE turns every dimension",
    );
    check(
        "apertus",
        json!({"hidden_act": "silu"}),
        r#"hidden_act = "silu": Apertus' MLP has xIELU"#,
    );
    check(
        "mistral",
        json!({"sliding_window": 0}),
        "sliding_window = 0: must be at least 1",
    );
    check(
        "mistral",
        json!({"num_hidden_layers": 4_000_000_000_u64}),
        "num_hidden_layers = 4000000000: must be at most 4096",
    );
    check(
        "mistral",
        json!({"num_hidden_layers": 1_u64 << 62}),
        "num_hidden_layers = 4611686018427387904: expected a number from 0 to 4294967295",
    );
    check(
        "llama",
        json!({"hidden_size": "big"}),
        r#"hidden_size = "big": expected a number"#,
    );
    check(
        "llama",
        json!({"num_key_value_heads": 5}),
        "num_key_value_heads = 5: must divide",
    );
    check(
        "llama",
        json!({"architectures": ["LlamaForTokenClassification"]}),
        "only LlamaForCausalLM is read",
    );
    check(
        "llama",
        json!({"quantization_config": {"bits": 4}}),
        "quantized weights are not read",
    );
    check(
        "qwen3",
        json!({"layer_types": ["full_attention", "sliding_attention"]}),
        "names sliding layers, but use_sliding_window is off or sliding_window null",
    );
    check(
        "qwen2",
        json!({"layer_types": ["full_attention", "chunked_attention"]}),
        "expected a list of full_attention and sliding_attention",
    );
    check(
        "qwen2",
        json!({"use_sliding_window": true, "layer_types": ["sliding_attention"]}),
        "layer_types = 1: one entry for each of the 32 blocks",
    );
    check(
        "gemma3",
        json!({}),
        r#"model_type = "gemma3": expected llava, llama, mistral, qwen2, qwen3, apertus, multimodal or brazier_vlm"#,
    );
    check(
        "llava",
        json!({"vision_feature_layer": [-2, -3]}),
        "vision_feature_layer = [-2,-3]: expected one integer",
    );
    check(
        "llava",
        json!({"projector_hidden_act": "relu"}),
        "projector_hidden_act = \"relu\": ",
    );
    check(
        "llava",
        json!({"multimodal_projector_bias": false}),
        "multimodal_projector_bias = false: ",
    );
    check(
        "llava",
        json!({"image_token_index": 5, "image_token_id": 6}),
        "contradicts image_token_index = 5",
    );
    let text = json!({"text_config": {"model_type": "phi3", "attention_dropout": 0.5}});
    check(
        "llava",
        text.clone(),
        r#"text_config.model_type = "phi3": the language model is one of llama, mistral,"#,
    );
    check("llava", text, "text_config.attention_dropout = 0.5: ");
    check_towers(&check);
    check(
        "llava",
        json!({"image_token_index": 99_999}),
        "image_token_id = 99999: outside the vocabulary",
    );
    check("brazier_vlm", json!({}), "projector = null: ");
    check(
        "brazier_vlm",
        json!({"projector": {"kind": "resampler"}}),
        r#"projector.kind = "resampler": expected mlp, mlp3, linear, pixel_shuffle or average_pool"#,
    );
    check(
        "brazier_vlm",
        json!({"image_token_id": 1, "projector": {"kind": "average_pool", "kernel": 5}}),
        "projector.kernel = 5: must divide the patch grid's side = 24",
    );
    check(
        "brazier_vlm",
        json!({"image_token_id": 1, "projector": {"kind": "pixel_shuffle"}}),
        "projector.factor = 0: must divide the patch grid's side = 24",
    );
    check(
        "brazier_vlm",
        json!({"image_token_id": 1, "projector": {"kind": "mlp3"}, "vision_post_layernorm": true}),
        "vision_post_layernorm = true: the tower's last norm belongs to its last hidden state",
    );
}

fn check_towers(check: &dyn Fn(&str, Value, &str)) {
    let tower = |vision: Value, expected: &str| check("llava", json!({"vision_config": vision}), expected);
    tower(
        json!({"model_type": "dinov2"}),
        r#"vision_config.model_type = "dinov2": the vision tower is a clip_vision_model or siglip_vision_model"#,
    );
    tower(
        json!({"model_type": "siglip2_vision_model"}),
        r#"vision_config.model_type = "siglip2_vision_model": the tower of variable resolution (NaFlex) is not built in"#,
    );
    tower(
        json!({"model_type": "siglip_vision_model", "hidden_act": "gelu_new"}),
        r#"vision_config.hidden_act = "gelu_new": expected one of quick_gelu, gelu, gelu_pytorch_tanh"#,
    );
    tower(
        json!({"model_type": "siglip_vision_model", "num_channels": 1}),
        "vision_config.num_channels = 1: images have three channels",
    );
    tower(
        json!({"patch_size": 400}),
        "vision_config.patch_size = 400: larger than image_size = 224",
    );
    check(
        "llava",
        json!({"image_token_id": 1, "vision_config": {"model_type": "siglip_vision_model"}}),
        r#"vision_feature_select = default: it drops the class token, and a siglip_vision_model has none"#,
    );
}

/// What lies in the `config.json` of google/siglip-so400m-patch14-384 and google/siglip2-base-patch16-512 beside the names
/// of their makers, each as a LLaVA would have it.
#[test]
fn siglip_towers_are_read() {
    let read = |vision: Value| {
        let config = json!({"model_type": "llava", "image_token_index": 7, "vision_feature_select_strategy": "full",
            "vision_config": vision});
        parse(config).unwrap().vision.unwrap()
    };
    let so400m = read(
        json!({"hidden_size": 1152, "image_size": 384, "intermediate_size": 4304,
        "model_type": "siglip_vision_model", "num_attention_heads": 16, "num_hidden_layers": 27, "patch_size": 14}),
    );
    assert_eq!(so400m.num_image_tokens(), 729);
    assert_eq!(so400m.vision.num_positions(), 729);
    assert_eq!(so400m.vision.hidden_act, VisionActivation::GeluTanh);
    assert_eq!(so400m.vision.layer_norm_eps, 1e-6);
    assert!(so400m.vision.vision_use_head && !so400m.vision_post_layernorm);
    let base =
        read(json!({"image_size": 512, "model_type": "siglip_vision_model", "vision_use_head": false}));
    assert_eq!(base.num_image_tokens(), 1024);
    assert_eq!((base.vision.hidden_size, base.vision.patch_size), (768, 16));
    assert!(!base.vision.vision_use_head);
}

#[test]
fn unread_switches_do_not_matter_when_they_are_off() {
    let keys = json!({"model_type": "qwen3", "use_sliding_window": false, "sliding_window": 4096, "max_window_layers": 28,
    "layer_types": ["full_attention"], "attention_bias": false, "attention_dropout": 0, "transformers_version": "4.51"});
    parse(keys).unwrap();
}
