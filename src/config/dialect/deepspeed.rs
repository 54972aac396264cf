//! DeepSpeed's JSON, as users of transformers and axolotl write it: `"auto"` stands for what the YAML says, and a number
//! that the YAML contradicts is refused.

use std::path::{Path, PathBuf};

use super::{
    table::{Row, into, mapping, never, not_yet, nothing},
    translation::{Given, Translation},
};
use crate::{
    config::{
        tree::{Node, Value},
        yaml,
    },
    fs,
};

/// What the keys of this table are below in the paths of the translation.
const PREFIX: &str = "deepspeed.json";

const ONE_PROCESS: &str = "it shards over ranks, and this run is one process";
const BUCKETS: &str = "it tunes messages between ranks, and this run is one process";
const MEMORY: &str = "no result depends on it: parameters and optimizer state are on the device; `brazier check` estimates the memory";
const LOGS: &str = "throughput and step times are in metrics.jsonl in any case";

/// The keys of the file.
pub(super) static ROWS: &[Row] = &[
    into(
        &["gradient_accumulation_steps"],
        "train.accumulation",
        "auto is what the YAML says",
    ),
    into(
        &["train_micro_batch_size_per_gpu"],
        "train.micro_batch_size",
        "auto is what the YAML says",
    ),
    into(
        &["train_batch_size"],
        "train.global_batch_size",
        "checked where the YAML says the other numbers",
    ),
    into(
        &["gradient_clipping"],
        "train.max_grad_norm",
        "auto is what the YAML says",
    ),
    mapping(&["bf16", "bfloat16"], BF16),
    mapping(&["fp16", "amp"], FP16),
    mapping(&["optimizer"], OPTIMIZER),
    mapping(&["zero_optimization"], ZERO),
    mapping(&["activation_checkpointing"], ACTIVATIONS),
    nothing(
        &[
            "flops_profiler",
            "wall_clock_breakdown",
            "steps_per_print",
            "memory_breakdown",
            "dump_state",
            "comms_logger",
            "csv_monitor",
            "tensorboard",
        ],
        LOGS,
    ),
    nothing(
        &[
            "aio",
            "nebula",
            "checkpoint",
            "use_node_local_storage",
            "load_universal_checkpoint",
        ],
        "nothing is offloaded to files, and checkpoints are Brazier's own",
    ),
    nothing(
        &[
            "zero_allow_untested_optimizer",
            "zero_force_ds_cpu_optimizer",
            "communication_data_type",
            "prescale_gradients",
            "gradient_predivide_factor",
            "disable_allgather",
            "seq_parallel_communication_data_type",
        ],
        BUCKETS,
    ),
    mapping(&["data_types"], DATA_TYPES),
    never(
        &["scheduler"],
        &[],
        "the schedule is said by the YAML (lr_scheduler_type), not here",
    ),
    not_yet(&["wandb"], "Weights & Biases tracker"),
    never(&["sparse_gradients"], &[], "gradients of embeddings are dense"),
    not_yet(
        &[
            "curriculum_learning",
            "data_efficiency",
            "compression_training",
            "elasticity",
            "autotuning",
            "sparse_attention",
            "progressive_layer_drop",
            "eigenvalue",
            "quantize_training",
            "tensor_parallel",
            "pipeline",
            "hybrid_engine",
            "torch_autocast",
            "compile",
        ],
        "such engine of DeepSpeed's",
    ),
];

static BF16: &[Row] = &[
    into(
        &["enabled"],
        "train.precision",
        "true is bf16; auto is what the YAML says",
    ),
    nothing(
        &[
            "immediate_grad_update",
            "check_grad_overflow",
            "bf16_master_weights_and_grads",
            "bf16_optimizer_states",
        ],
        "masters, moments and gradient sums are f32, and numbers that are not finite stop the run",
    ),
];

static FP16: &[Row] = &[
    into(&["enabled"], "–", "true is refused: bf16 has the range of f32"),
    nothing(
        &[
            "loss_scale",
            "initial_scale_power",
            "loss_scale_window",
            "hysteresis",
            "consecutive_hysteresis",
            "min_loss_scale",
            "auto_cast",
            "opt_level",
            "fp16_master_weights_and_grads",
        ],
        "without fp16 there is no loss scale",
    ),
];

static OPTIMIZER: &[Row] = &[
    into(&["type"], "train.optimizer.name", "AdamW"),
    mapping(&["params"], PARAMS),
    nothing(&["legacy_fusion"], "AdamW is one fused operation in any case"),
];

static PARAMS: &[Row] = &[
    into(&["lr"], "train.optimizer.lr", "auto is what the YAML says"),
    into(&["betas"], "train.optimizer.betas", "auto is what the YAML says"),
    into(&["eps"], "train.optimizer.eps", "auto is what the YAML says"),
    into(
        &["weight_decay"],
        "train.optimizer.weight_decay",
        "auto is what the YAML says",
    ),
    nothing(
        &["torch_adam", "adam_w_mode", "fused", "bias_correction"],
        "the optimizer is AdamW with bias correction in any case",
    ),
];

static ZERO: &[Row] = &[
    nothing(
        &["stage"],
        "it shards state over ranks, and this run is one process: it holds all of it, with the same results",
    ),
    nothing(
        &[
            "offload_optimizer",
            "offload_param",
            "cpu_offload",
            "cpu_offload_param",
            "cpu_offload_use_pin_memory",
            "sub_group_size",
            "memory_efficient_linear",
            "offload_states",
        ],
        MEMORY,
    ),
    nothing(
        &[
            "overlap_comm",
            "contiguous_gradients",
            "reduce_scatter",
            "reduce_bucket_size",
            "allgather_partitions",
            "allgather_bucket_size",
            "use_multi_rank_bucket_allreduce",
            "round_robin_gradients",
            "stage3_prefetch_bucket_size",
            "prefetch_bucket_size",
            "stage3_allgather_sequential",
            "load_from_fp32_weights",
            "ignore_unused_parameters",
            "legacy_stage1",
            "use_all_reduce_for_fetch_params",
            "log_trace_cache_warnings",
        ],
        BUCKETS,
    ),
    nothing(
        &[
            "stage3_param_persistence_threshold",
            "param_persistence_threshold",
            "stage3_model_persistence_threshold",
            "stage3_max_live_parameters",
            "max_live_parameters",
            "stage3_max_reuse_distance",
            "max_reuse_distance",
            "stage3_module_granularity_threshold",
            "stage3_use_all_reduce_for_fetch_params",
            "zero_hpz_partition_size",
            "mics_shard_size",
            "mics_hierarchical_params_gather",
            "elastic_checkpoint",
        ],
        ONE_PROCESS,
    ),
    nothing(
        &[
            "stage3_gather_16bit_weights_on_model_save",
            "gather_16bit_weights_on_model_save",
            "stage3_gather_fp16_weights_on_model_save",
        ],
        "checkpoints and exports hold whole tensors",
    ),
    never(
        &[
            "zero_quantized_weights",
            "zero_quantized_gradients",
            "zero_quantized_nontrainable_weights",
            "zeropp_loco_param",
        ],
        &[],
        "messages between ranks are never quantised: it would change results",
    ),
];

static ACTIVATIONS: &[Row] = &[nothing(
    &[
        "partition_activations",
        "contiguous_memory_optimization",
        "cpu_checkpointing",
        "number_checkpoints",
        "synchronize_checkpoint_boundary",
        "profile",
    ],
    "train.recompute says which activations are kept; no result depends on it",
)];

static DATA_TYPES: &[Row] = &[nothing(
    &["grad_accum_dtype"],
    "gradients are summed in f32 in any case",
)];

/// Reads the file that a key names, or the mapping that is there in its place, and translates it.
pub(super) fn translate(t: &mut Translation, key: &str) {
    let Some(given) = t.take(key) else { return };
    let (root, written) = match &given.node.value {
        Value::Map(_) => {
            t.no_effect(&given, "its own keys say what it means");
            (given.node.clone(), given.key.clone())
        }
        _ => match file(t, &given) {
            Some(root) => (root, String::new()),
            None => return,
        },
    };
    t.walk(ROWS, root.entries(), &written, PREFIX);
    numbers(t);
    formats(t);
    optimizer(t);
}

/// Beside the YAML, then in the working directory.
fn file(t: &mut Translation, given: &Given) -> Option<Node> {
    let name = t.path(given)?;
    let beside = t.folder().join(&name);
    let places: Vec<PathBuf> = match Path::new(&name).is_absolute() {
        true => vec![name.clone().into()],
        false => vec![beside, name.clone().into()],
    };
    let Some(path) = places.iter().find(|path| fs::exists(path)) else {
        let places: Vec<_> = places.iter().map(|path| path.display().to_string()).collect();
        let reason = format!("there is no such file: {}", places.join(", nor "));
        let hint = format!("correct the path, or go on without it: --leave-out {}", given.key);
        t.refuse(given, &reason, Some(&hint));
        return None;
    };
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            t.refuse(given, &error.to_string(), None);
            return None;
        }
    };
    // JSON is YAML, but for tabs in front of keys.
    match yaml::parse(
        &path.display().to_string().into(),
        &text.replace('\t', "  "),
        t.env,
    ) {
        Ok(root) => {
            t.no_effect(
                given,
                &format!("its own keys say what it means: {} is read", path.display()),
            );
            Some(root)
        }
        Err(errors) => {
            t.errors.extend(errors);
            None
        }
    }
}

fn take(t: &mut Translation, key: &str) -> Option<Given> {
    t.take(&format!("{PREFIX}.{key}"))
}

fn is_auto(given: &Given) -> bool {
    given.node.value == Value::String("auto".into())
}

/// A value that the YAML may say as well.
fn put_or_auto(t: &mut Translation, key: &str, native: &str) {
    let Some(given) = take(t, key) else { return };
    match is_auto(&given) {
        true => auto(t, &given, native),
        false => t.put(native, given.node.value.clone(), &given),
    }
}

/// Shows what `"auto"` stands for.
fn auto(t: &mut Translation, given: &Given, native: &str) {
    let because = match crate::config::tree::get(&t.out, native) {
        Some(node) => format!("auto is {native} = {}, as the YAML says", node.value),
        None => format!("auto is {native}, and the YAML leaves it at its default"),
    };
    t.no_effect(given, &because);
}

fn numbers(t: &mut Translation) {
    put_or_auto(t, "gradient_accumulation_steps", "train.accumulation");
    put_or_auto(t, "train_micro_batch_size_per_gpu", "train.micro_batch_size");
    put_or_auto(t, "gradient_clipping", "train.max_grad_norm");
    let Some(given) = take(t, "train_batch_size") else {
        return;
    };
    if is_auto(&given) {
        return t.no_effect(&given, "auto is what micro-batch, accumulation and ranks make");
    }
    if !t.is_put("train.accumulation") {
        return t.put("train.global_batch_size", given.node.value.clone(), &given);
    }
    let number = |native: &str| {
        let node = crate::config::tree::get(&t.out, native)?;
        super::translation::number(node)
    };
    let [micro, accumulated] =
        ["train.micro_batch_size", "train.accumulation"].map(|key| number(key).unwrap_or(1.0));
    let whole = super::translation::number(&given.node);
    match whole.map(|whole| whole / (micro * accumulated)) {
        Some(ranks) if ranks >= 1.0 && ranks.fract() == 0.0 => {
            let because = format!(
                "it follows: micro-batch {micro} x accumulation {accumulated} x {ranks} ranks; on fewer ranks a step has fewer samples, unless train.global_batch_size says otherwise"
            );
            t.no_effect(&given, &because);
        }
        _ => {
            let reason =
                format!("refused: is no multiple of micro-batch {micro} x accumulation {accumulated}");
            t.refuse(&given, &reason, Some("write \"auto\", or correct one of them"));
        }
    }
}

fn formats(t: &mut Translation) {
    const KEY: &str = "train.precision";
    for name in ["bf16", "bfloat16"] {
        let Some(given) = take(t, &format!("{name}.enabled")) else {
            continue;
        };
        match given.node.value {
            Value::Bool(true) => t.put(KEY, Value::String("bf16".into()), &given),
            Value::Bool(false) => t.put(KEY, Value::String("f32".into()), &given),
            _ if is_auto(&given) => auto(t, &given, KEY),
            _ => t.expected(&given, "true, false or \"auto\""),
        }
    }
    for name in ["fp16", "amp"] {
        let Some(given) = take(t, &format!("{name}.enabled")) else {
            continue;
        };
        match given.node.value {
            Value::Bool(true) => t.refuse_unless_left_out(
                &given,
                "Brazier has no fp16: bf16 has the range of f32 and needs no loss scale",
            ),
            Value::Bool(false) => t.no_effect(&given, "there is no fp16 here"),
            _ if is_auto(&given) => t.no_effect(&given, "auto is off: the YAML says no fp16"),
            _ => t.expected(&given, "true, false or \"auto\""),
        }
    }
}

fn optimizer(t: &mut Translation) {
    if let Some(given) = take(t, "optimizer.type") {
        match given.node.text().unwrap_or_default().to_lowercase().as_str() {
            "adamw" | "adam" => t.put("train.optimizer.name", Value::String("adamw".into()), &given),
            other => t.refuse_unless_left_out(
                &given,
                &format!("Brazier has no optimizer {other} yet: it has AdamW"),
            ),
        }
    }
    for (name, native) in [
        ("lr", "train.optimizer.lr"),
        ("betas", "train.optimizer.betas"),
        ("eps", "train.optimizer.eps"),
        ("weight_decay", "train.optimizer.weight_decay"),
    ] {
        put_or_auto(t, &format!("optimizer.params.{name}"), native);
    }
}
