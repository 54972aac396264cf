use brazier_models::{
    AttentionBias, DecoderConfig, FeatureSelect, Head, LanguageModelType, LoraConfig, LoraParts, LoraTargets,
    MlpKind, ProjectorKind, RopeScaling, VisionActivation, VisionConfig, VisionLanguageConfig,
    VisionModelType, VlmConfig,
};

use crate::learner::options::{ParallelConfig, Precision, Recompute, TrainMode, Zero};

use super::{memory::readable, parameters::vision_parameters, *};

fn llama_7b(vocab_size: usize) -> DecoderConfig {
    DecoderConfig {
        model_type: LanguageModelType::Llama,
        vocab_size,
        hidden_size: 4096,
        intermediate_size: 11008,
        num_hidden_layers: 32,
        num_attention_heads: 32,
        num_key_value_heads: 32,
        head_dim: 128,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        rope_scaling: RopeScaling::Default,
        max_position_embeddings: 4096,
        tie_word_embeddings: false,
        attention_bias: AttentionBias::None,
        qk_norm: false,
        sliding_window: None,
        mlp: MlpKind::SwiGlu,
        mlp_bias: false,
        initializer_range: 0.02,
    }
}

fn llava_7b() -> VlmConfig {
    let vision = VisionConfig {
        model_type: VisionModelType::Clip,
        hidden_size: 1024,
        intermediate_size: 4096,
        num_hidden_layers: 24,
        num_attention_heads: 16,
        image_size: 336,
        patch_size: 14,
        layer_norm_eps: 1e-5,
        hidden_act: VisionActivation::QuickGelu,
        vision_use_head: false,
        initializer_range: 0.02,
    };
    let vision = VisionLanguageConfig {
        vision,
        projector: ProjectorKind::Mlp2,
        vision_feature_layer: -2,
        vision_feature_select: FeatureSelect::Default,
        vision_post_layernorm: false,
        image_token_id: 32000,
    };
    VlmConfig {
        text: llama_7b(32064),
        vision: Some(vision),
        head: Head::Lm,
    }
}

/// As Hugging Face counts `llava-hf/llava-1.5-7b-hf`.
#[test]
fn parameters_of_llava() {
    let counts = num_parameters(&llava_7b());
    assert_eq!(
        counts,
        ParameterCounts {
            vision: 303_507_456,
            projector: 20_979_712,
            language: 6_738_939_904
        }
    );
    assert_eq!(counts.total(), 7_063_427_072);
    assert_eq!(counts.trained(TrainMode::Alignment), 20_979_712);
    assert_eq!(counts.trained(TrainMode::EndToEnd), 6_759_919_616);
}

/// As Hugging Face counts the towers of `google/siglip-so400m-patch14-384` and `google/siglip2-base-patch16-512`, pooling
/// heads included.
#[test]
fn parameters_of_siglip_towers() {
    let base = VisionConfig {
        model_type: VisionModelType::Siglip,
        hidden_size: 768,
        intermediate_size: 3072,
        num_hidden_layers: 12,
        num_attention_heads: 12,
        image_size: 512,
        patch_size: 16,
        layer_norm_eps: 1e-6,
        hidden_act: VisionActivation::GeluTanh,
        vision_use_head: true,
        initializer_range: 0.02,
    };
    assert_eq!(vision_parameters(&base), 93_520_128);
    let so400m = VisionConfig {
        hidden_size: 1152,
        intermediate_size: 4304,
        num_hidden_layers: 27,
        num_attention_heads: 16,
        image_size: 384,
        patch_size: 14,
        ..base
    };
    assert_eq!(vision_parameters(&so400m), 428_225_600);
}

/// As Hugging Face counts `meta-llama/Llama-3.1-8B`, `Qwen/Qwen3-0.6B`, `swiss-ai/Apertus-8B-2509` and
/// `Qwen/Qwen2.5-0.5B`.
#[test]
fn parameters_of_language_models() {
    let llama = DecoderConfig {
        intermediate_size: 14336,
        num_key_value_heads: 8,
        ..llama_7b(128_256)
    };
    assert_eq!(
        num_parameters(&VlmConfig {
            text: llama,
            vision: None,
            head: Head::Lm
        })
        .total(),
        8_030_261_248
    );
    let qwen = DecoderConfig {
        model_type: LanguageModelType::Qwen3,
        hidden_size: 1024,
        intermediate_size: 3072,
        num_hidden_layers: 28,
        num_attention_heads: 16,
        num_key_value_heads: 8,
        tie_word_embeddings: true,
        qk_norm: true,
        ..llama_7b(151_936)
    };
    assert_eq!(
        num_parameters(&VlmConfig {
            text: qwen,
            vision: None,
            head: Head::Lm
        })
        .total(),
        596_049_920
    );
    let apertus = DecoderConfig {
        model_type: LanguageModelType::Apertus,
        intermediate_size: 21504,
        num_key_value_heads: 8,
        qk_norm: true,
        mlp: MlpKind::Xielu,
        ..llama_7b(131_072)
    };
    assert_eq!(
        num_parameters(&VlmConfig {
            text: apertus,
            vision: None,
            head: Head::Lm,
        })
        .total(),
        8_053_338_176
    );
    let qwen2 = DecoderConfig {
        model_type: LanguageModelType::Qwen2,
        hidden_size: 896,
        intermediate_size: 4864,
        num_hidden_layers: 24,
        num_attention_heads: 14,
        num_key_value_heads: 2,
        head_dim: 64,
        tie_word_embeddings: true,
        attention_bias: AttentionBias::Qkv,
        ..llama_7b(151_936)
    };
    assert_eq!(
        num_parameters(&VlmConfig {
            text: qwen2,
            vision: None,
            head: Head::Lm,
        })
        .total(),
        494_032_768
    );
}

fn estimate(mode: TrainMode, precision: Precision, recompute: Recompute) -> MemoryEstimate {
    let shape = BatchShape {
        rows: 2,
        length: 1024,
        images: 2,
        logit_rows: 256,
    };
    estimate_memory(&llava_7b(), None, mode, precision, recompute, shape)
}

/// ZeRO's table: <https://arxiv.org/abs/1910.02054>, figure 1.
#[test]
fn ranks_divide_what_is_in_parts() {
    let model = VlmConfig {
        text: llama_7b(32_000),
        vision: None,
        head: Head::Lm,
    };
    let shape = BatchShape {
        rows: 1,
        length: 16,
        images: 0,
        logit_rows: 16,
    };
    let whole = estimate_memory(
        &model,
        None,
        TrainMode::Full,
        Precision::Bf16,
        Recompute::Blocks,
        shape,
    );
    let one = whole.trained;
    let of = |zero, offload| {
        let parallel = ParallelConfig {
            zero,
            offload,
            ..ParallelConfig::default()
        };
        let rank = whole.of_one_rank(4, &parallel);
        [
            rank.parameters_bytes,
            rank.gradients_bytes,
            rank.optimizer_bytes,
            rank.offloaded_bytes,
        ]
    };
    assert_eq!(of(Zero::None, false), [2 * one, 4 * one, 12 * one, 0]);
    assert_eq!(of(Zero::Optimizer, false), [2 * one, 4 * one, 3 * one, 0]);
    assert_eq!(of(Zero::Gradients, true), [2 * one, one, 0, 3 * one]);
    assert_eq!(of(Zero::Parameters, false), [one / 2, one, 3 * one, 0]);
}

/// Seven layers of each decoder block, and the projector in full: the rest has neither gradients nor moments.
#[test]
fn adapters_alone_have_optimizer_state() {
    let shape = BatchShape {
        rows: 2,
        length: 1024,
        images: 2,
        logit_rows: 256,
    };
    let estimate = |dropout: f64, parts: LoraParts, mode: TrainMode| {
        let lora = LoraConfig {
            r: 16,
            lora_alpha: 32.0,
            lora_dropout: dropout,
            use_rslora: false,
            target_modules: LoraTargets::AllLinear,
            parts,
        };
        estimate_memory(
            &llava_7b(),
            Some(&lora),
            mode,
            Precision::Bf16,
            Recompute::None,
            shape,
        )
    };
    let language = estimate(0.0, LoraParts::Language, TrainMode::EndToEnd);
    let adapters = 32 * 16 * (4 * (4096 + 4096) + 3 * (4096 + 11008));
    assert_eq!(language.adapters, adapters);
    assert_eq!(language.trained, adapters + 20_979_712);
    assert_eq!(language.parameters_bytes, 2 * (7_063_427_072 + adapters));
    assert_eq!(language.gradients_bytes, 4 * language.trained);
    assert_eq!(language.optimizer_bytes, 12 * language.trained);
    let whole = super::estimate_memory(
        &llava_7b(),
        None,
        TrainMode::EndToEnd,
        Precision::Bf16,
        Recompute::None,
        shape,
    );
    assert_eq!(
        language.activations_bytes - whole.activations_bytes,
        2048 * 32 * 2 * 7 * 16
    );
    let dropped = estimate(0.1, LoraParts::Language, TrainMode::EndToEnd);
    assert_eq!(
        dropped.activations_bytes - language.activations_bytes,
        2048 * 32 * 2 * 2 * (6 * 4096 + 11008)
    );
    // Beside a tower that rests, full is no more than end_to_end.
    assert_eq!(estimate(0.0, LoraParts::Language, TrainMode::Full), language);
    let both = estimate(0.0, LoraParts::Both, TrainMode::Full);
    assert_eq!(both.adapters - adapters, 24 * 16 * (4 * 2048 + 2 * (1024 + 4096)));
    assert!(both.activations_bytes > language.activations_bytes);
    assert!(
        language
            .to_string()
            .contains("parameters, adapters           39976960\n"),
        "{language}"
    );
}

#[test]
fn memory_by_part() {
    let full = estimate(TrainMode::Full, Precision::Bf16, Recompute::None);
    assert_eq!(full.parameters_bytes, 2 * 7_063_427_072);
    assert_eq!(full.gradients_bytes, 4 * 7_063_427_072);
    assert_eq!(full.optimizer_bytes, 12 * 7_063_427_072);
    assert_eq!(full.logits_bytes, 2 * 4 * 256 * 32064);
    assert_eq!(
        full.batch_bytes,
        8 * 2048 + 4 * 2 * 3 * 336 * 336 + 2 * 2048 * 4096
    );
    // By hand: 32 decoder blocks of 4D + 3q + 3k + 4I, 23 of 24 vision blocks of 8D + 2I, and the projector.
    let decoder = 32 * 2048 * (2 * (4 * 4096 + 6 * 4096 + 4 * 11008) + 4 * 32);
    let vision = 23 * 2 * 577 * (2 * (8 * 1024 + 2 * 4096) + 4 * 16);
    let projector = 2 * 2 * (576 * 1024 + 2 * 576 * 4096);
    assert_eq!(full.activations_bytes, decoder + vision + projector);
    let parts = [
        full.parameters_bytes,
        full.gradients_bytes,
        full.optimizer_bytes,
        full.activations_bytes,
    ];
    assert_eq!(
        full.total_bytes(),
        parts.iter().sum::<u64>() + full.logits_bytes + full.batch_bytes
    );
}

#[test]
fn what_saves_memory_does() {
    let full = estimate(TrainMode::Full, Precision::F32, Recompute::None);
    assert_eq!(full.optimizer_bytes, 8 * 7_063_427_072);
    let recompute = estimate(TrainMode::Full, Precision::F32, Recompute::Blocks);
    assert!(recompute.activations_bytes * 10 < full.activations_bytes);
    let alignment = estimate(TrainMode::Alignment, Precision::F32, Recompute::None);
    assert!(alignment.activations_bytes < full.activations_bytes);
    assert_eq!(alignment.gradients_bytes, 4 * 20_979_712);
}

#[test]
fn the_table() {
    let table = estimate(TrainMode::Alignment, Precision::Bf16, Recompute::Blocks).to_string();
    assert!(
        table.contains("parameters, trained            20979712\n"),
        "{table}"
    );
    assert!(
        table.contains("memory, parameters             13.2 GiB\n"),
        "{table}"
    );
    assert_eq!(
        [readable(0), readable(1023), readable(1536)],
        ["0 B", "1023 B", "1.5 KiB"]
    );
}
