//! Hugging Face's `config.json` to [`VlmConfig`]. Defaults are those of transformers 5.23; keys of 4.x are read as well.

use std::path::Path;

use brazier_models::{
    DecoderConfig, FeatureSelect, ProjectorKind, VisionActivation, VisionConfig, VisionLanguageConfig,
    VlmConfig,
};
use serde_json::{Map, Value, json};

use super::{
    HubError, Result,
    section::{Problems, Section},
};
use crate::fs;

/// Model type of folders that only this program reads.
pub(super) const BRAZIER_VLM: &str = "brazier_vlm";
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// Reads `config.json` of a model folder.
///
/// # Errors
/// If the file is missing or no JSON, and with every key whose value the models cannot express (RoPE scaling, biases,
/// other activations, sliding windows, quantized weights, …). Keys that transformers does not know for the model's type
/// have no effect there, and none here.
pub fn read_config(dir: &Path) -> Result<VlmConfig> {
    let path = dir.join("config.json");
    let bytes = fs::read_at_most(&path, MAX_CONFIG_BYTES)?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| HubError::Json {
        path: path.clone(),
        reason: error.to_string(),
    })?;
    let Value::Object(map) = value else {
        return Err(HubError::Json {
            path,
            reason: "expected an object".into(),
        });
    };
    parse_config(&map).map_err(|problems| HubError::Config { path, problems })
}

pub(super) fn parse_config(map: &Map<String, Value>) -> std::result::Result<VlmConfig, Vec<String>> {
    let problems = Problems::default();
    let root = Section {
        prefix: "",
        map,
        problems: &problems,
    };
    if let Some(value) = root.value("quantization_config") {
        root.refuse(
            "quantization_config",
            value,
            "quantized weights are not read; take the unquantized model",
        );
    }
    let model_type = root.text("model_type").unwrap_or_default();
    let config = match model_type {
        "llava" | BRAZIER_VLM => vlm(root, model_type),
        "llama" | "qwen3" => {
            let head = if model_type == "llama" {
                "LlamaForCausalLM"
            } else {
                "Qwen3ForCausalLM"
            };
            architecture(root, head);
            VlmConfig {
                text: decoder(root),
                vision: None,
            }
        }
        other => {
            let known = format!("expected llava, llama, qwen3 or {BRAZIER_VLM}");
            return Err(vec![format!("model_type = {other:?}: {known}")]);
        }
    };
    let mut problems = problems.into_inner();
    if problems.is_empty()
        && let Err(error) = config.validate()
    {
        problems.push(error.to_string());
    }
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(problems)
    }
}

/// Another head on the same body would be another model.
fn architecture(root: Section, expected: &str) {
    root.only(
        "architectures",
        &json!([expected]),
        &format!("only {expected} is read"),
    );
}

fn vlm(root: Section, model_type: &str) -> VlmConfig {
    let projector = if model_type == BRAZIER_VLM {
        architecture(root, "BrazierVlm");
        projector(root)
    } else {
        architecture(root, "LlavaForConditionalGeneration");
        ProjectorKind::Mlp2
    };
    root.only(
        "projector_hidden_act",
        &json!("gelu"),
        "the projector's activation is the exact gelu",
    );
    root.only(
        "multimodal_projector_bias",
        &json!(true),
        "the projector has biases",
    );

    let nothing = Map::new();
    let absent = Section {
        prefix: "text_config.",
        map: &nothing,
        problems: root.problems,
    };
    let mut text = decoder(root.child("text_config", "text_config.").unwrap_or(absent));
    // LlavaConfig ties the head if either says so.
    text.tie_word_embeddings |= root.flag("tie_word_embeddings").unwrap_or(false);

    // LlavaConfig's own defaults hold if there is no vision_config at all, else those of CLIPVisionConfig.
    let llava_default = json!({"intermediate_size": 4096, "hidden_size": 1024, "patch_size": 14, "image_size": 336,
        "num_hidden_layers": 24, "num_attention_heads": 16});
    let default = llava_default.as_object().unwrap_or(&nothing);
    let absent = Section {
        prefix: "vision_config.",
        map: default,
        problems: root.problems,
    };
    let vision = vision(root.child("vision_config", "vision_config.").unwrap_or(absent));

    let vision_feature_select = match root.text("vision_feature_select_strategy") {
        None | Some("default") => FeatureSelect::Default,
        Some("full") => FeatureSelect::Full,
        Some(other) => {
            root.refuse(
                "vision_feature_select_strategy",
                &other.into(),
                "expected default or full",
            );
            FeatureSelect::Default
        }
    };
    let vision = VisionLanguageConfig {
        vision,
        projector,
        vision_feature_layer: root.integer("vision_feature_layer").unwrap_or(-2),
        vision_feature_select,
        image_token_id: image_token(root),
    };
    VlmConfig {
        text,
        vision: Some(vision),
    }
}

/// Two spellings of one key.
fn image_token(root: Section) -> u32 {
    let (index, id) = (root.size("image_token_index"), root.size("image_token_id"));
    if let (Some(index), Some(id)) = (index, id)
        && index != id
    {
        root.refuse(
            "image_token_id",
            &id.into(),
            &format!("contradicts image_token_index = {index}"),
        );
    }
    let id = index.or(id).unwrap_or(32000);
    u32::try_from(id).unwrap_or_else(|_| {
        root.refuse("image_token_id", &id.into(), "no vocabulary is so large");
        0
    })
}

fn projector(root: Section) -> ProjectorKind {
    let Some(section) = root.child("projector", "projector.") else {
        root.refuse(
            "projector",
            &Value::Null,
            "expected an object with kind = mlp, linear or pixel_shuffle",
        );
        return ProjectorKind::Mlp2;
    };
    match section.text("kind") {
        Some("mlp") => ProjectorKind::Mlp2,
        Some("linear") => ProjectorKind::Linear,
        Some("pixel_shuffle") => ProjectorKind::PixelShuffle {
            factor: section.size("factor").unwrap_or(0),
        },
        other => {
            section.refuse("kind", &other.into(), "expected mlp, linear or pixel_shuffle");
            ProjectorKind::Mlp2
        }
    }
}

fn decoder(section: Section) -> DecoderConfig {
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

fn vision(section: Section) -> VisionConfig {
    section.only(
        "model_type",
        &json!("clip_vision_model"),
        "the vision tower is CLIP's",
    );
    section.only("num_channels", &json!(3), "images have three channels");
    section.only(
        "attention_dropout",
        &json!(0.0),
        "there is no dropout; set it to 0.0 in config.json",
    );
    let hidden_act = match section.text("hidden_act").unwrap_or("quick_gelu") {
        "quick_gelu" => VisionActivation::QuickGelu,
        "gelu" => VisionActivation::Gelu,
        other => {
            section.refuse("hidden_act", &other.into(), "expected quick_gelu or gelu");
            VisionActivation::QuickGelu
        }
    };
    VisionConfig {
        hidden_size: section.size("hidden_size").unwrap_or(768),
        intermediate_size: section.size("intermediate_size").unwrap_or(3072),
        num_hidden_layers: section.size("num_hidden_layers").unwrap_or(12),
        num_attention_heads: section.size("num_attention_heads").unwrap_or(12),
        image_size: section.size("image_size").unwrap_or(224),
        patch_size: section.size("patch_size").unwrap_or(32),
        layer_norm_eps: section.float("layer_norm_eps").unwrap_or(1e-5),
        hidden_act,
        initializer_range: section.float("initializer_range").unwrap_or(0.02),
    }
}

#[cfg(test)]
mod tests {
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
        let llava =
            parse(json!({"model_type": "llava", "vocab_size": 7, "text_config": {"vocab_size": 32_001}}))
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
            json!({"attention_bias": true}),
            "attention_bias = true: ",
        );
        check("llama", json!({"mlp_bias": true}), "mlp_bias = true: ");
        check(
            "llama",
            json!({"attention_dropout": 0.1}),
            "attention_dropout = 0.1: ",
        );
        check(
            "llama",
            json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}),
            r#"rope_type = "llama3": RoPE is not"#,
        );
        check(
            "llama",
            json!({"rope_scaling": {"type": "linear"}}),
            r#"rope_scaling.type = "linear": "#,
        );
        check(
            "llama",
            json!({"rope_parameters": {"rope_type": "yarn"}}),
            r#"rope_parameters.rope_type = "yarn": "#,
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
            json!({"architectures": ["LlamaForSequenceClassification"]}),
            "only LlamaForCausalLM is read",
        );
        check(
            "llama",
            json!({"quantization_config": {"bits": 4}}),
            "quantized weights are not read",
        );
        let sliding = json!({"use_sliding_window": true, "sliding_window": 4096});
        check("qwen3", sliding, "sliding_window = 4096: ");
        check(
            "qwen3",
            json!({"layer_types": ["full_attention", "sliding_attention"]}),
            "layer_types = ",
        );
        check(
            "mistral",
            json!({}),
            r#"model_type = "mistral": expected llava, llama, qwen3"#,
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
        let text = json!({"text_config": {"model_type": "mistral", "mlp_bias": true}});
        check("llava", text.clone(), r#"text_config.model_type = "mistral": "#);
        check("llava", text, "text_config.mlp_bias = true: ");
        let vision = json!({"vision_config": {"model_type": "siglip_vision_model"}});
        check(
            "llava",
            vision,
            r#"vision_config.model_type = "siglip_vision_model": the vision tower is CLIP's"#,
        );
        check(
            "llava",
            json!({"image_token_index": 99_999}),
            "image_token_id = 99999: outside the vocabulary",
        );
        check("brazier_vlm", json!({}), "projector = null: ");
        check(
            "brazier_vlm",
            json!({"projector": {"kind": "mlp3"}}),
            r#"projector.kind = "mlp3": "#,
        );
    }

    #[test]
    fn unread_switches_do_not_matter_when_they_are_off() {
        let keys = json!({"model_type": "qwen3", "use_sliding_window": false, "sliding_window": 4096, "max_window_layers": 28,
        "layer_types": ["full_attention"], "attention_bias": false, "attention_dropout": 0, "transformers_version": "4.51"});
        parse(keys).unwrap();
    }
}
