//! The configuration as it took effect, as YAML: what the user wrote, and every default. Loading it gives the
//! same run, also with a later version that has other defaults.

use brazier_models::{AttentionBias, LanguageModelType};
use serde_json::Value as Json;

use super::{
    defaults,
    raw::{RawConfig, RawEvery, RawFeatureSelect, RawModelType, RawProjector, RawRows, RawSchedule},
    run::{LoraChoice, ModelChoice, NewModel, RunConfig},
};
use crate::{data::DataSource, learner::options::EvalConfig};

impl RunConfig {
    /// The native configuration with every value that took effect, as YAML.
    ///
    /// # Errors
    /// Only if serde cannot express the raw types as JSON.
    pub fn to_yaml(&self) -> Result<String, serde_json::Error> {
        let mut yaml = String::new();
        block_yaml(&serde_json::to_value(effective(self))?, 0, &mut yaml);
        Ok(yaml)
    }
}

/// Puts in the defaults that are not serde's, where they had an effect.
fn effective(run: &RunConfig) -> RawConfig {
    let mut raw = run.raw.clone();
    let RawConfig {
        model,
        data,
        train,
        eval,
        checkpoint,
        ..
    } = &mut raw;

    model.tokenizer.get_or_insert_with(|| run.data.tokenizer.clone());
    if let (ModelChoice::New(new), Some(language)) = (&run.model, &mut model.language) {
        let NewModel { config, .. } = new.as_ref();
        language
            .num_key_value_heads
            .get_or_insert(config.text.num_key_value_heads);
        language.head_dim.get_or_insert(config.text.head_dim);
        language.model_type.get_or_insert(match config.text.model_type {
            LanguageModelType::Llama => RawModelType::Llama,
            LanguageModelType::Mistral => RawModelType::Mistral,
            LanguageModelType::Qwen2 => RawModelType::Qwen2,
            LanguageModelType::Qwen3 => RawModelType::Qwen3,
            LanguageModelType::Apertus => RawModelType::Apertus,
        });
        language
            .attention_bias
            .get_or_insert(config.text.attention_bias != AttentionBias::None);
        language.qk_norm.get_or_insert(config.text.qk_norm);
        language.mlp_bias.get_or_insert(config.text.mlp_bias);
        if config.text.sliding_window.is_some() {
            language
                .max_window_layers
                .get_or_insert(defaults::MAX_WINDOW_LAYERS);
        }
    }

    // How a tower is joined to a decoder, where the run says it and not an imported folder.
    let feature_layer = match &run.model {
        ModelChoice::New(new) => new
            .config
            .vision
            .as_ref()
            .map(|vision| vision.vision_feature_layer),
        ModelChoice::Join(joined) => Some(joined.vision_feature_layer),
        ModelChoice::Import(_) => None,
    };
    if let Some(feature_layer) = feature_layer {
        model.projector.get_or_insert(RawProjector::Mlp {});
        model.vision_feature_layer.get_or_insert(feature_layer);
        model
            .vision_feature_select
            .get_or_insert(RawFeatureSelect::Default);
    }
    if let (Some(LoraChoice::New { config, .. }), Some(lora)) = (&run.lora, &mut model.lora) {
        lora.r.get_or_insert(config.r);
        lora.alpha.get_or_insert(config.lora_alpha);
        lora.dropout.get_or_insert(config.lora_dropout);
        lora.rslora.get_or_insert(config.use_rslora);
        lora.target_modules
            .get_or_insert_with(|| vec![defaults::ALL_LINEAR.to_owned()]);
    }

    let rows = |sources: &[DataSource]| {
        let paths = sources.iter().map(|source| source.path.clone());
        paths.map(RawRows::new).collect()
    };
    data.train.get_or_insert_with(|| rows(&run.data.train));
    data.eval.get_or_insert_with(|| rows(&run.data.eval));
    if let (Some(synth), Some(drawn)) = (&mut data.synth, &run.synth) {
        synth.image_size.get_or_insert(drawn.options.image_size);
    }
    if data.workers > 0 {
        data.prefetch.get_or_insert(run.data.prefetch);
    }

    if train.global_batch_size.is_none() {
        train.accumulation.get_or_insert(run.train.accumulation);
    }
    let schedule = train.schedule.get_or_insert(RawSchedule::Cosine {
        warmup_steps: None,
        warmup_ratio: None,
    });
    effective_schedule(schedule);

    if !run.data.eval.is_empty() {
        let EvalConfig {
            batch_size,
            max_new_tokens,
            ..
        } = run.eval;
        let eval = eval.get_or_insert_default();
        eval.batch_size.get_or_insert(batch_size);
        if eval.exact_match {
            eval.max_new_tokens.get_or_insert(max_new_tokens);
        }
        if !matches!(eval.every, RawEvery::Never) {
            checkpoint.keep.best.get_or_insert(run.checkpoint.keep.best);
        }
    }
    raw
}

fn effective_schedule(schedule: &mut RawSchedule) {
    let (RawSchedule::Constant {
        warmup_steps,
        warmup_ratio,
    }
    | RawSchedule::Linear {
        warmup_steps,
        warmup_ratio,
        ..
    }
    | RawSchedule::Cosine {
        warmup_steps,
        warmup_ratio,
    }
    | RawSchedule::CosineWithMinLr {
        warmup_steps,
        warmup_ratio,
        ..
    }
    | RawSchedule::Wsd {
        warmup_steps,
        warmup_ratio,
        ..
    }
    | RawSchedule::InverseSqrt {
        warmup_steps,
        warmup_ratio,
        ..
    }) = schedule;
    if warmup_ratio.is_none() {
        warmup_steps.get_or_insert(defaults::WARMUP_STEPS);
    }
    if let RawSchedule::Linear {
        min_lr,
        min_lr_ratio: None,
        ..
    }
    | RawSchedule::Wsd {
        min_lr,
        min_lr_ratio: None,
        ..
    } = schedule
    {
        min_lr.get_or_insert(defaults::MIN_LR);
    }
}

/// Writes a mapping in block style; lists stay on one line, keys without a value are left out.
fn block_yaml(value: &Json, indent: usize, yaml: &mut String) {
    for (key, value) in value
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, value)| says_something(value))
    {
        yaml.extend(std::iter::repeat_n(' ', indent));
        yaml.push_str(key);
        if value.is_object() {
            yaml.push_str(":\n");
            block_yaml(value, indent + 2, yaml);
        } else {
            // JSON is YAML, but for our `${`.
            yaml.push_str(&format!(": {}\n", value.to_string().replace("${", "$${")));
        }
    }
}

fn says_something(value: &Json) -> bool {
    match value {
        Json::Null => false,
        Json::Object(entries) => entries.values().any(says_something),
        _ => true,
    }
}
