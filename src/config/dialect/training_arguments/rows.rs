//! The keys of `TrainingArguments`.

use super::super::table::{Row, into, mapping, never, not_yet, not_yet_unless, nothing, path, read_as, to};

const NO_DDP: &str =
    "gradients are reduced in one fixed order; a parameter that no batch reached counts as zero";
const ONE_PROCESS: &str = "this run is one process";
const LOADER: &str = "rows are read by threads of this process";
const HUB: &str = "nothing is pushed to the hub; the export is a folder";
const LOGS: &str = "the log has one line for each logged step in any case";
const METRICS: &str = "the evaluation computes its metrics batch by batch";
const FIXED: &str = "where no result depends on it, Brazier has no switch";

/// The keys of `TrainingArguments`, those of older releases included.
pub(in super::super) static ROWS: &[Row] = &[
    path(&["output_dir"], "output"),
    // Length and batch.
    into(
        &["num_train_epochs"],
        "train.epochs",
        "unless max_steps is above 0",
    ),
    into(
        &["max_steps"],
        "train.steps",
        "above 0 it decides over num_train_epochs",
    ),
    to(
        &["per_device_train_batch_size", "per_gpu_train_batch_size"],
        "train.micro_batch_size",
    ),
    to(&["gradient_accumulation_steps"], "train.accumulation"),
    into(
        &["per_device_eval_batch_size", "per_gpu_eval_batch_size"],
        "eval.batch_size",
        "where there is evaluation data",
    ),
    // Optimizer and schedule.
    into(
        &["optim"],
        "train.optimizer.name",
        "the adamw of torch, fused or not",
    ),
    into(
        &["optim_args"],
        "–",
        "arguments about speed have no effect; others are refused",
    ),
    to(&["learning_rate"], "train.optimizer.lr"),
    to(&["weight_decay"], "train.optimizer.weight_decay"),
    into(&["adam_beta1"], "train.optimizer.betas", "the first of the two"),
    into(&["adam_beta2"], "train.optimizer.betas", "the second of the two"),
    to(&["adam_epsilon"], "train.optimizer.eps"),
    to(&["max_grad_norm"], "train.max_grad_norm"),
    into(
        &["lr_scheduler_type"],
        "train.schedule.name",
        "linear, cosine, cosine_with_min_lr, constant, constant_with_warmup, inverse_sqrt, warmup_stable_decay",
    ),
    mapping(&["lr_scheduler_kwargs"], SCHEDULE_ARGUMENTS),
    into(
        &["warmup_steps"],
        "train.schedule.warmup_steps",
        "below 1 it is a part of all steps",
    ),
    into(
        &["warmup_ratio"],
        "train.schedule.warmup_ratio",
        "unless warmup_steps is above 0",
    ),
    // Precision and memory.
    into(&["bf16"], "train.precision", "true is bf16, false is f32"),
    into(
        &["gradient_checkpointing", "activation_checkpointing"],
        "train.recompute",
        "true is blocks, false is none",
    ),
    nothing(
        &["gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"],
        "blocks are computed again as themselves, re-entrant or not",
    ),
    never(
        &[
            "fp16",
            "fp16_full_eval",
            "half_precision_backend",
            "fp16_opt_level",
            "fp16_backend",
        ],
        &["auto", "o1"],
        "Brazier has no fp16: bf16 has the range of f32 and needs no loss scale",
    ),
    nothing(&["bf16_full_eval"], "the evaluation computes in train.precision"),
    nothing(
        &["tf32"],
        "train.precision names the format; products of f32 are TF32 wherever a GPU has it",
    ),
    // Evaluation, checkpoints, log.
    into(
        &["eval_strategy", "evaluation_strategy"],
        "eval.every",
        "no, steps, epoch",
    ),
    into(&["eval_steps"], "eval.every", "below 1 it is a part of all steps"),
    into(
        &["save_strategy"],
        "checkpoint.every",
        "no, steps, epoch, best; epochs is read as epoch",
    ),
    into(
        &["save_steps"],
        "checkpoint.every",
        "below 1 it is a part of all steps",
    ),
    into(
        &["save_total_limit"],
        "checkpoint.keep.last",
        "left out, all stay: checkpoint.keep.every",
    ),
    into(
        &["metric_for_best_model"],
        "eval.best.metric",
        "loss is eval_loss",
    ),
    into(
        &["greater_is_better"],
        "eval.best.direction",
        "true is max, false is min",
    ),
    into(&["logging_steps"], "track.log_every", "a whole number of steps"),
    into(
        &["logging_strategy"],
        "track.log_every",
        "steps, in any other word refused",
    ),
    into(
        &["report_to"],
        "track.tensorboard",
        "tensorboard switches it on; trackers that Brazier has not are refused",
    ),
    into(
        &["resume_from_checkpoint"],
        "checkpoint.resume",
        "a folder; true and false are what a run does anyway",
    ),
    into(&["dataloader_num_workers"], "data.workers", "threads"),
    into(
        &["dataloader_prefetch_factor"],
        "data.prefetch",
        "batches of all workers, counted in steps",
    ),
    to(&["seed"], "seed"),
    into(
        &["deepspeed"],
        "–",
        "the JSON file is read, beside this file first, then in the working directory",
    ),
    // No effect.
    nothing(
        &[
            "ddp_find_unused_parameters",
            "ddp_bucket_cap_mb",
            "ddp_broadcast_buffers",
            "ddp_backend",
            "ddp_timeout",
            "ddp_static_graph",
            "average_tokens_across_devices",
        ],
        NO_DDP,
    ),
    nothing(
        &[
            "local_rank",
            "log_on_each_node",
            "save_on_each_node",
            "parallelism_config",
        ],
        ONE_PROCESS,
    ),
    nothing(
        &["remove_unused_columns", "label_names", "length_column_name"],
        "a row's kind says what is read of it",
    ),
    nothing(
        &[
            "dataloader_pin_memory",
            "dataloader_persistent_workers",
            "dataloader_multiprocessing_context",
            "dataloader_in_order",
        ],
        LOADER,
    ),
    mapping(&["accelerator_config"], ACCELERATOR),
    nothing(
        &["overwrite_output_dir"],
        "a run goes on from its own checkpoint; checkpoint.resume says otherwise",
    ),
    nothing(
        &[
            "save_only_model",
            "save_safetensors",
            "enable_jit_checkpoint",
            "restore_callback_states_from_checkpoint",
        ],
        "a checkpoint always holds the whole state, in safetensors, and is written when a run is stopped",
    ),
    nothing(&["run_name", "project"], "a run is named by its output folder"),
    nothing(
        &["logging_dir"],
        "TensorBoard's files are in <output>/tensorboard",
    ),
    nothing(
        &[
            "logging_first_step",
            "logging_nan_inf_filter",
            "log_level",
            "log_level_replica",
            "disable_tqdm",
            "include_num_input_tokens_seen",
            "include_tokens_per_second",
            "skip_memory_metrics",
        ],
        LOGS,
    ),
    nothing(
        &[
            "prediction_loss_only",
            "eval_do_concat_batches",
            "eval_use_gather_object",
            "eval_accumulation_steps",
            "batch_eval_metrics",
            "include_for_metrics",
            "include_inputs_for_metrics",
        ],
        METRICS,
    ),
    nothing(
        &["do_train", "do_eval", "do_predict"],
        "brazier train trains, and evaluates where there is data for it",
    ),
    nothing(
        &[
            "torch_compile",
            "torch_compile_backend",
            "torch_compile_mode",
            "jit_mode_eval",
            "use_ipex",
            "torch_empty_cache_steps",
            "use_liger_kernel",
            "liger_kernel_config",
        ],
        "kernels are fused in any case; no result depends on it",
    ),
    nothing(
        &[
            "hub_token",
            "hub_private_repo",
            "hub_model_id",
            "hub_strategy",
            "hub_always_push",
            "hub_revision",
        ],
        HUB,
    ),
    nothing(
        &[
            "use_cache",
            "debug",
            "full_determinism",
            "ignore_data_skip",
            "trackio_space_id",
            "trackio_bucket_id",
            "trackio_static_space_id",
        ],
        FIXED,
    ),
    into(&["group_by_length"], "data.group_by_length", "as it is"),
    into(
        &["train_sampling_strategy"],
        "data.group_by_length",
        "group_by_length; random has no effect, sequential is data.shuffle = false",
    ),
    read_as(&["no_cuda"], "use_cpu"),
    into(&["use_cpu"], "device", "true is flex"),
    // What is still to be built: each line goes when Brazier has it.
    not_yet(&["push_to_hub"], "upload to the hub"),
    not_yet(&["load_best_model_at_end"], "export of the best checkpoint"),
    not_yet_unless(&["label_smoothing_factor"], &["0", "0.0"], "label smoothing"),
    not_yet_unless(
        &["neftune_noise_alpha"],
        &["0", "0.0"],
        "noise on embeddings (NEFTune)",
    ),
    not_yet(&["auto_find_batch_size"], "search for a batch size"),
    not_yet(
        &["dataloader_drop_last"],
        "way to leave out the last samples of an epoch",
    ),
    not_yet(&["data_seed"], "seed of the order besides the run's seed"),
    not_yet_unless(
        &[
            "fsdp",
            "fsdp_config",
            "fsdp_min_num_params",
            "fsdp_transformer_layer_cls_to_wrap",
        ],
        &["0"],
        "sharded data parallelism (FSDP)",
    ),
    not_yet(&["optim_target_modules"], "optimizer for single layers"),
    not_yet_unless(&["eval_delay"], &["0", "0.0"], "delay of the first evaluation"),
    not_yet(&["eval_on_start"], "evaluation before the first step"),
    not_yet(
        &["torchdynamo", "ray_scope", "mp_parameters", "sharded_ddp"],
        "such engine",
    ),
];

/// `lr_scheduler_kwargs`.
pub(in super::super) static SCHEDULE_ARGUMENTS: &[Row] = &[
    into(&["min_lr"], "train.schedule.min_lr", "of cosine_with_min_lr"),
    into(
        &["min_lr_rate"],
        "train.schedule.min_lr_ratio",
        "of cosine_with_min_lr",
    ),
    into(
        &["min_lr_ratio"],
        "train.schedule.min_lr_ratio",
        "of warmup_stable_decay",
    ),
    into(
        &["num_decay_steps"],
        "train.schedule.decay_steps",
        "of warmup_stable_decay",
    ),
    into(&["timescale"], "train.schedule.timescale", "of inverse_sqrt"),
    into(&["num_cycles"], "–", "0.5, half a cosine"),
    into(&["warmup_type", "decay_type"], "–", "linear"),
    not_yet(
        &[
            "power",
            "lr_end",
            "factor",
            "patience",
            "threshold",
            "cooldown",
            "eps",
            "mode",
        ],
        "schedule with this argument",
    ),
];

/// `accelerator_config`.
static ACCELERATOR: &[Row] = &[
    nothing(
        &[
            "dispatch_batches",
            "even_batches",
            "use_seedable_sampler",
            "non_blocking",
            "use_configured_state",
        ],
        "the order of the data is a function of seed, epoch and index on every rank",
    ),
    never(
        &["split_batches"],
        &[],
        "a micro-batch is one device's, not that of all devices",
    ),
    nothing(
        &["gradient_accumulation_kwargs"],
        "accumulation is that of train.accumulation",
    ),
];
