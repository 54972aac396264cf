//! The keys of DeepSpeed's file.

use super::super::table::{Row, into, mapping, never, not_yet, nothing};

const STAGE_3: &str = "parameters come with their block and go with it";
const BUCKETS: &str = "no result depends on it: parallel.bucket_elements says how gradients travel";
const MEMORY: &str = "no result depends on it: parameters are on the devices, whole or in parts; `brazier check` estimates the memory";
const LOGS: &str = "throughput and step times are in metrics.jsonl in any case";

/// The keys of the file.
pub(in super::super) static ROWS: &[Row] = &[
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
    mapping(&["tensor_parallel"], TENSOR),
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
            "hybrid_engine",
            "torch_autocast",
            "compile",
        ],
        "such engine of DeepSpeed's",
    ),
    not_yet(
        &["pipeline"],
        "pipeline of devices: tensor_parallel and zero_optimization.stage split a model",
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

static TENSOR: &[Row] = &[into(
    &["autotp_size"],
    "parallel.tensor",
    "ranks that hold one model together; 0 is 1",
)];

static ZERO: &[Row] = &[
    into(
        &["stage"],
        "parallel.zero",
        "what each rank holds only its part of",
    ),
    mapping(&["offload_optimizer"], OFFLOAD),
    into(
        &["cpu_offload"],
        "parallel.offload",
        "true is offload_optimizer to cpu",
    ),
    nothing(
        &[
            "offload_param",
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
        STAGE_3,
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

static OFFLOAD: &[Row] = &[
    into(&["device"], "parallel.offload", "cpu is true, none is false"),
    nothing(
        &[
            "pin_memory",
            "buffer_count",
            "fast_init",
            "pipeline_read",
            "pipeline_write",
            "ratio",
            "nvme_path",
        ],
        "masters and moments are in host memory as a whole",
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
