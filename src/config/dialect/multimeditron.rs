//! MultiMeditron's YAML (EPFLiGHT/MultiMeditron).

use super::{
    common::Words,
    table::{Row, beside, include, into, list, mapping, not_yet, nothing, to},
    training_arguments::{self, OF_TRANSFORMERS},
    translation::Translation,
};
use crate::config::tree::Value;

const EXPERTS: &str = "mixture of vision experts";

/// The keys at the top of the file.
pub(super) static ROWS: &[Row] = &[
    into(
        &["base_llm"],
        "model.language_from",
        "with base_model: model.tokenizer; without modalities: model.from",
    ),
    into(
        &["base_model"],
        "model.from",
        "a whole model; null joins base_llm and the modalities",
    ),
    into(
        &["attachment_token"],
        "model.image_token",
        "and data.train[].image_token for every data set",
    ),
    into(
        &["tokenizer_type"],
        "–",
        "llama, apertus or qwen3; labels follow from the tokenizer's own template",
    ),
    into(
        &["token_size"],
        "–",
        "the width of base_llm; each modality must say the same",
    ),
    list(&["loaders"], LOADERS),
    list(&["modalities"], MODALITIES),
    into(
        &["training_mode"],
        "train.mode",
        "ALIGNMENT, END2END, LM_ONLY, FULL",
    ),
    list(&["datasets"], DATASETS),
    mapping(&["training_args"], training_arguments::ROWS),
    mapping(&["custom_lr"], CUSTOM_LR),
    into(
        &["max_sequence_length"],
        "data.sequence_length",
        "left out, it is the language model's context",
    ),
    into(
        &["truncation"],
        "data.too_long",
        "true is truncate, false is error",
    ),
    into(
        &["resume_from_checkpoint"],
        "checkpoint.resume",
        "a run goes on by itself; true beside base_model is refused",
    ),
    into(&["pack_sequences"], "data.packing", "true is best_fit"),
    to(&["seed"], "seed"),
    nothing(&["wandb_run_id"], "there is no tracker to go on with"),
    nothing(
        &["trust_remote_code", "verbose"],
        "no code of a model's folder is ever run",
    ),
    mapping(&["pytorch_profiler"], PROFILER),
    // What is still to be built: each line goes when Brazier has it.
    not_yet(&["use_2d_position_ids"], "positions by row and column"),
];

static LOADERS: &[Row] = &[
    into(
        &["loader_type"],
        "–",
        "raw-image and fs-image: a row says itself where its images are",
    ),
    into(&["modality_type"], "–", "image"),
    into(&["base_path"], "data.train[].image_dir", "for every data set"),
    nothing(&["loader_kwargs"], "images are decoded within fixed bounds"),
];

/// One of `modalities`; older files have its keys below `config`.
static MODALITIES: &[Row] = &[include(MODALITY), beside(&["config"], MODALITY)];

static MODALITY: &[Row] = &[
    into(&["model_type"], "–", "meditron_clip"),
    into(&["clip_name"], "model.vision_from", "the vision tower"),
    into(&["hidden_size"], "–", "the width of base_llm; must be token_size"),
    into(
        &["projection_type"],
        "model.projector.kind",
        "mlp has three layers, pixel_shuffle one behind the shuffle",
    ),
    into(
        &["pixel_shuffle_factor"],
        "model.projector.factor",
        "of pixel_shuffle",
    ),
    into(&["modality_type", "modality_name"], "–", "image"),
    nothing(
        &["max_batch_size"],
        "all images of a micro-batch go through the tower together",
    ),
    into(&["use_bias_proj"], "–", "true, as it always is"),
    // What is still to be built.
    not_yet(&["use_2d_position_ids"], "positions by row and column"),
    not_yet(
        &[
            "expert_clip_names",
            "image_processor",
            "gating_path",
            "top_k_experts",
            "fusion_method",
            "cross_attn_heads",
            "generalist_idx",
            "class_names",
        ],
        EXPERTS,
    ),
    not_yet(&["pe_name", "max_num_tiles"], "Perception Encoder"),
    not_yet(&["kwargs"], "meaning for further arguments"),
];

static DATASETS: &[Row] = &[
    into(
        &["packed_path", "path", "jsonl_path"],
        "data.train[].path",
        "as it is",
    ),
    into(
        &["type"],
        "–",
        "the path shows it: a folder of Arrow files, JSON lines, Parquet",
    ),
    into(&["weight"], "data.train[].weight", "as it is"),
];

static CUSTOM_LR: &[Row] = &[
    to(&["projector"], "train.optimizer.groups.projector.lr"),
    to(&["vision"], "train.optimizer.groups.vision.lr"),
];

static PROFILER: &[Row] = &[nothing(
    &["wait_steps", "warmup_steps", "active_steps"],
    "metrics.jsonl has the time of each step; no result depends on a profiler",
)];

/// Translates what the table leaves to code.
pub(super) fn translate(t: &mut Translation) {
    model(t);
    modalities(t);
    loaders(t);
    data(t);
    t.packing("pack_sequences");
    const MODES: Words = &[
        ("alignment", "alignment"),
        ("end2end", "end_to_end"),
        ("lm_only", "lm_only"),
        ("full", "full"),
    ];
    if let Some(given) = t.take("training_mode")
        && let Some((mode, given)) = t.word(given, MODES, &[("end_to_end", "end2end")])
    {
        t.put("train.mode", Value::String(mode.into()), &given);
    }
    let defaults = training_arguments::Defaults {
        seed: 0,
        ..OF_TRANSFORMERS
    };
    training_arguments::translate(t, "training_args", &defaults);
}

/// A whole model, or one that is joined of two.
fn model(t: &mut Translation) {
    let whole = t.take("base_model");
    let has_modalities = t.length("modalities") > 0;
    if let Some(given) = &whole {
        t.put_path("model.from", given);
    }
    if let Some(given) = t.take("base_llm") {
        let native = match (&whole, has_modalities) {
            (Some(_), _) => "model.tokenizer",
            (None, true) => "model.language_from",
            (None, false) => "model.from",
        };
        t.put_path(native, &given);
    }
    if let Some((resumes, given)) = t.take_bool("resume_from_checkpoint") {
        match (resumes, &whole) {
            (true, Some(_)) => {
                let reason = "refused: base_model gives the weights of a checkpoint; the optimizer's state in it is another trainer's";
                t.refuse(
                    &given,
                    reason,
                    Some("write false to start from these weights; a run of Brazier goes on by itself"),
                );
            }
            _ => t.no_effect(
                &given,
                "a run goes on from its own newest checkpoint; checkpoint.resume=none starts afresh",
            ),
        }
    }
    if let Some((kind, given)) = t.take_text("tokenizer_type") {
        match ["llama", "apertus", "qwen3"].contains(&kind.as_str()) {
            true => t.no_effect(
                &given,
                "labels follow from the tokenizer's own template, not from delimiters",
            ),
            false => t.refuse(&given, "expected llama, apertus or qwen3", None),
        }
    }
}

fn modalities(t: &mut Translation) {
    let width = t.take_count("token_size");
    let is_whole = t.is_put("model.from");
    for index in 0..t.length("modalities") {
        let key = |name: &str| format!("modalities[{index}].{name}");
        if let Some((kind, given)) = t.take_text(&key("model_type")) {
            match kind.as_str() {
                "meditron_clip" => t.no_effect(&given, "clip_name says which tower"),
                kind => t.refuse_unless_left_out(
                    &given,
                    &format!("Brazier has no modality {kind} yet: it has meditron_clip"),
                ),
            }
        }
        for name in ["modality_type", "modality_name"] {
            if let Some((kind, given)) = t.take_text(&key(name)) {
                match kind.as_str() {
                    "image" => t.no_effect(&given, "images are what there is"),
                    kind => t.refuse_unless_left_out(
                        &given,
                        &format!("Brazier has no modality {kind} yet: it has image"),
                    ),
                }
            }
        }
        if let Some((hidden, given)) = t.take_count(&key("hidden_size")) {
            match &width {
                Some((width, other)) if *width != hidden => {
                    let reason = format!(
                        "refused: contradicts {}: both are the width of base_llm",
                        other.words()
                    );
                    t.refuse(&given, &reason, None);
                }
                _ => t.no_effect(&given, "the width is that of base_llm"),
            }
        }
        if index > 0 {
            if let Some(given) = t.take(&key("clip_name")) {
                t.refuse(
                    &given,
                    "refused: a second tower for images",
                    Some("keep one modality for images"),
                );
            }
            continue;
        }
        tower(t, index, is_whole);
    }
    if let Some((_, given)) = width {
        t.no_effect(&given, "the width is that of base_llm");
    }
}

/// The tower and its projector.
fn tower(t: &mut Translation, index: usize, is_whole: bool) {
    let key = |name: &str| format!("modalities[{index}].{name}");
    if let Some((bias, given)) = t.take_bool(&key("use_bias_proj")) {
        match bias {
            true => t.no_effect(&given, "a projector always has biases"),
            false => t.refuse_unless_left_out(&given, "a projector always has biases"),
        }
    }
    let (tower, kind, factor) = (
        t.take(&key("clip_name")),
        t.take(&key("projection_type")),
        t.take(&key("pixel_shuffle_factor")),
    );
    if is_whole {
        for given in [tower, kind, factor].into_iter().flatten() {
            t.no_effect(&given, "the config.json of base_model says it");
        }
        return;
    }
    if let Some(given) = tower {
        t.put_path("model.vision_from", &given);
    }
    let word = kind.as_ref().and_then(|given| given.node.text());
    match (word.as_deref(), kind) {
        (None | Some("mlp"), given) => {
            match given {
                Some(given) => t.put("model.projector.kind", Value::String(MLP.into()), &given),
                None => t.default("model.projector.kind", Value::String(MLP.into())),
            }
            if let Some(given) = factor {
                t.no_effect(&given, "only pixel_shuffle has a factor");
            }
        }
        (Some("pixel_shuffle"), Some(given)) => {
            t.put(
                "model.projector.kind",
                Value::String("pixel_shuffle".into()),
                &given,
            );
            match factor {
                Some(factor) => t.put("model.projector.factor", factor.node.value.clone(), &factor),
                None => t.default("model.projector.factor", Value::Integer(1)),
            }
        }
        (Some(_), Some(given)) => {
            t.refuse(&given, "expected mlp or pixel_shuffle", None);
            if let Some(factor) = factor {
                t.no_effect(&factor, "the projector is refused");
            }
        }
        (Some(_), None) => {}
    }
}

/// MultiMeditron's projector of three layers.
const MLP: &str = "mlp3";

fn loaders(t: &mut Translation) {
    for index in 0..t.length("loaders") {
        let key = |name: &str| format!("loaders[{index}].{name}");
        if let Some(given) = t.take(&key("base_path"))
            && let Some(path) = t.path(&given)
        {
            let sets = 0..t.length("datasets");
            let natives: Vec<_> = sets.map(|set| format!("data.train[{set}].image_dir")).collect();
            t.put_at_each(&natives, &given, &Value::String(path));
        }
        for (name, known) in [
            ("loader_type", &["raw-image", "fs-image"][..]),
            ("modality_type", &["image"]),
        ] {
            let Some((word, given)) = t.take_text(&key(name)) else {
                continue;
            };
            match known.contains(&word.as_str()) {
                true => t.no_effect(
                    &given,
                    "a row says itself where its images are: bytes, or a path beside its file",
                ),
                false => t.refuse_unless_left_out(
                    &given,
                    &format!("Brazier has no loader {word} yet: it has {}", known.join(" and ")),
                ),
            }
        }
    }
}

fn data(t: &mut Translation) {
    let token = t.take("attachment_token");
    let length = t.length("datasets");
    for index in 0..length {
        let key = |name: &str| format!("datasets[{index}].{name}");
        let native = |name: &str| format!("data.train[{index}].{name}");
        for name in ["packed_path", "path", "jsonl_path"] {
            if let Some(given) = t.take(&key(name)) {
                t.put_path(&native("path"), &given);
            }
        }
        if let Some((_, given)) = t.take_text(&key("type")) {
            t.no_effect(&given, "the path shows it");
        }
        if let Some(given) = t.take(&key("weight")) {
            t.put(&native("weight"), given.node.value.clone(), &given);
        }
    }
    if let Some(given) = &token {
        // Without a tower the rows have no images, and the tokenizer no need of a token for them.
        if t.length("modalities") > 0 {
            t.put("model.image_token", given.node.value.clone(), given);
        }
        let natives: Vec<_> = (0..length)
            .map(|index| format!("data.train[{index}].image_token"))
            .collect();
        t.put_at_each(&natives, given, &given.node.value);
    }
    if length > 0 {
        t.default("data.template_options.enable_thinking", Value::Bool(false));
    }
    if let Some(given) = t.take("max_sequence_length") {
        t.put("data.sequence_length", given.node.value.clone(), &given);
    }
    match t.take_bool("truncation") {
        Some((true, given)) => t.put("data.too_long", Value::String("truncate".into()), &given),
        Some((false, given)) => t.put("data.too_long", Value::String("error".into()), &given),
        None => {}
    }
}
