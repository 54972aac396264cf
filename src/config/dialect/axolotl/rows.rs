//! axolotl's keys.

use super::super::table::{Row, include, into, list, mapping, never, not_yet, nothing, path, read_as, to};
use super::not_yet::{NOT_YET, PREFERENCE};

const ATTENTION: &str =
    "attention is one operation that never holds the matrix of all pairs; no result depends on the choice";
const FUSED: &str = "kernels are fused in any case; no result depends on it";
const PREPARED: &str = "no result depends on how and when rows are tokenised";
const RETIRED: &str = "axolotl itself has retired it";
const ONE_PROCESS: &str = "it spreads work over ranks, and this run is one process";
const CODE: &str = "no code of a model's folder is ever run";
const NAMES: &str = "the model's config.json says its family";

/// The keys at the top of the file.
pub(in super::super) static ROWS: &[Row] = &[
    // Model.
    path(&["base_model"], "model.from"),
    path(&["tokenizer_config"], "model.tokenizer"),
    nothing(
        &[
            "base_model_config",
            "model_type",
            "type_of_model",
            "cls_model_config",
            "tokenizer_type",
            "tokenizer_use_fast",
            "tokenizer_legacy",
            "processor_type",
            "tokenizer_save_jinja_files",
            "is_falcon_derived_model",
            "is_llama_derived_model",
            "is_mistral_derived_model",
            "is_qwen_derived_model",
        ],
        NAMES,
    ),
    read_as(&["type"], "type_of_model"),
    nothing(&["trust_remote_code", "hf_use_auth_token", "strict"], CODE),
    nothing(
        &["resize_token_embeddings_to_32x"],
        "a vocabulary grows by model.resize_vocabulary",
    ),
    nothing(
        &[
            "low_cpu_mem_usage",
            "experimental_skip_move_to_device",
            "embeddings_skip_upcast",
            "device_map",
            "max_memory",
            "gpu_memory_limit",
        ],
        "one tensor after the other is read to the device",
    ),
    nothing(
        &[
            "device",
            "world_size",
            "local_rank",
            "ddp",
            "axolotl_config_path",
            "is_preprocess",
            "total_num_tokens",
            "total_supervised_tokens",
            "sample_packing_eff_est",
            "capabilities",
            "env_capabilities",
        ],
        "axolotl fills it in by itself",
    ),
    into(
        &["plugins"],
        "–",
        "CutCrossEntropyPlugin and LigerPlugin have no effect; others are refused",
    ),
    // Adapters.
    into(&["adapter"], "model.lora", "lora; qlora is refused"),
    into(&["lora_model_dir"], "model.lora.from", "beside adapter"),
    into(&["lora_r"], "model.lora.r", "beside adapter"),
    into(&["lora_alpha"], "model.lora.alpha", "beside adapter"),
    into(&["lora_dropout"], "model.lora.dropout", "beside adapter"),
    into(
        &["lora_target_modules"],
        "model.lora.target_modules",
        "beside adapter",
    ),
    into(
        &["lora_target_linear"],
        "model.lora.target_modules",
        "true is [all-linear]",
    ),
    into(&["peft_use_rslora"], "model.lora.rslora", "beside adapter"),
    nothing(
        &[
            "lora_mlp_kernel",
            "lora_qkv_kernel",
            "lora_o_kernel",
            "lora_embedding_kernel",
            "lora_on_cpu",
            "lora_fan_in_fan_out",
            "peft_autocast_adapter_dtype",
        ],
        FUSED,
    ),
    nothing(&["merge_lora", "merge_method"], "`brazier model merge` does it"),
    // Data.
    list(&["datasets"], DATASETS),
    list(&["test_datasets"], DATASETS),
    to(&["sequence_len"], "data.sequence_length"),
    into(
        &["excess_length_strategy"],
        "data.too_long",
        "drop, truncate; raise is error",
    ),
    into(
        &["shuffle_merged_datasets"],
        "–",
        "each epoch is in random order in any case, as axolotl's sampler does it",
    ),
    nothing(
        &["shuffle_before_merging_datasets"],
        "each epoch is in random order",
    ),
    into(&["curriculum_sampling"], "data.shuffle", "true is false"),
    into(
        &["train_on_inputs"],
        "data.masks.roles",
        "true is all of them; refused beside the type alpaca",
    ),
    into(
        &["chat_template"],
        "data.template",
        "tokenizer_default is tokenizer; chatml, llama3, qwen3, apertus; jinja is the file of chat_template_jinja",
    ),
    nothing(
        &["eot_tokens"],
        "a turn ends with the special token that follows its text, whichever that is",
    ),
    into(
        &["chat_template_jinja"],
        "data.template",
        "a file that ends in .jinja",
    ),
    to(&["chat_template_kwargs"], "data.template_options"),
    path(&["dataset_prepared_path"], "data.cache"),
    nothing(
        &[
            "dataset_keep_in_memory",
            "skip_prepare_dataset",
            "num_dataset_shards_to_save",
            "preprocess_iterable",
            "sample_packing_mp_start_method",
            "dataset_num_proc",
        ],
        PREPARED,
    ),
    read_as(&["dataset_processes"], "dataset_num_proc"),
    into(
        &["val_set_size"],
        "–",
        "0 splits nothing off; else name a file in test_datasets",
    ),
    read_as(&["eval_set_size"], "val_set_size"),
    into(
        &["sample_packing"],
        "data.packing",
        "true is best_fit; micro_batch_size counts rows of at most sequence_len tokens",
    ),
    into(&["group_by_length"], "data.group_by_length", "as it is"),
    into(
        &["pad_to_sequence_len"],
        "data.pad_to_multiple_of",
        "true is sequence_len",
    ),
    into(
        &["pad_to_multiple_of"],
        "data.pad_to_multiple_of",
        "without pad_to_sequence_len",
    ),
    into(&["dataloader_num_workers"], "data.workers", "threads"),
    into(
        &["dataloader_prefetch_factor"],
        "data.prefetch",
        "batches of all workers, counted in steps",
    ),
    nothing(
        &[
            "dataloader_pin_memory",
            "remove_unused_columns",
            "accelerator_config",
        ],
        "rows are read by threads of this process",
    ),
    // Length, batch, optimizer, schedule.
    into(&["num_epochs"], "train.epochs", "unless max_steps is above 0"),
    into(
        &["max_steps"],
        "train.steps",
        "above 0 it decides over num_epochs",
    ),
    to(&["micro_batch_size"], "train.micro_batch_size"),
    to(&["gradient_accumulation_steps"], "train.accumulation"),
    to(&["batch_size"], "train.global_batch_size"),
    into(
        &["eval_batch_size"],
        "eval.batch_size",
        "where there is evaluation data",
    ),
    into(
        &["optimizer"],
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
        &["lr_scheduler"],
        "train.schedule.name",
        "cosine, linear, constant, constant_with_warmup, inverse_sqrt, warmup_stable_decay",
    ),
    mapping(
        &["lr_scheduler_kwargs"],
        super::super::training_arguments::SCHEDULE_ARGUMENTS,
    ),
    into(
        &["cosine_min_lr_ratio"],
        "train.schedule.min_lr_ratio",
        "makes cosine cosine_with_min_lr",
    ),
    into(&["warmup_steps"], "train.schedule.warmup_steps", "as it is"),
    into(
        &["warmup_ratio"],
        "train.schedule.warmup_ratio",
        "unless warmup_steps is there; left out both, 0.03",
    ),
    // Precision and memory.
    into(
        &["bf16", "bfloat16"],
        "train.precision",
        "true, full and auto are bf16, false is f32",
    ),
    nothing(
        &["tf32", "float32"],
        "train.precision names the format; products of f32 are TF32 wherever a GPU has it",
    ),
    never(
        &["fp16", "float16"],
        &[],
        "Brazier has no fp16: bf16 has the range of f32 and needs no loss scale",
    ),
    into(
        &["gradient_checkpointing"],
        "train.recompute",
        "true is blocks, false is none; offloading recomputes instead",
    ),
    nothing(
        &[
            "gradient_checkpointing_kwargs",
            "selective_checkpointing",
            "activation_offloading",
            "layer_offloading",
        ],
        "train.recompute says which activations are kept; no result depends on it",
    ),
    nothing(
        &[
            "flash_attention",
            "sdp_attention",
            "xformers_attention",
            "sage_attention",
            "flex_attention",
            "flex_attn_compile_kwargs",
            "eager_attention",
            "attn_implementation",
            "flash_attn_cross_entropy",
            "flash_optimum",
            "gemma4_hybrid_attn_impl",
            "large_head_attention",
            "flash_attn_d512",
            "sdpa_varlen",
            "fused_attn_kernel",
            "flash_attn_fuse_mlp",
        ],
        ATTENTION,
    ),
    nothing(
        &[
            "flash_attn_rms_norm",
            "flash_attn_fuse_qkv",
            "eval_table_size",
            "eval_max_new_tokens",
            "lora_modules_to_save_legacy",
        ],
        RETIRED,
    ),
    nothing(
        &[
            "cut_cross_entropy",
            "chunked_cross_entropy",
            "chunked_cross_entropy_num_chunks",
            "tiled_mlp",
            "tiled_mlp_num_shards",
            "tiled_mlp_use_original_mlp",
            "use_kernels",
            "liger_rope",
            "liger_rms_norm",
            "liger_layer_norm",
            "liger_glu_activation",
            "liger_swiglu",
            "liger_cross_entropy",
            "liger_fused_linear_cross_entropy",
            "torch_compile",
            "torch_compile_backend",
            "torch_compile_mode",
            "torch_compile_options",
            "deepcompile",
            "experts_implementation",
        ],
        FUSED,
    ),
    nothing(
        &["gc_steps", "gc_collect_steps", "torch_empty_cache_steps"],
        "memory is freed as it falls out of use",
    ),
    // Evaluation, checkpoints, log.
    into(
        &["evals_per_epoch"],
        "eval.every",
        "0 evaluates never; else a part of all steps",
    ),
    into(&["eval_steps"], "eval.every", "below 1 it is a part of all steps"),
    into(
        &["eval_strategy", "evaluation_strategy"],
        "eval.every",
        "no, steps, epoch",
    ),
    into(&["saves_per_epoch"], "checkpoint.every", "a part of all steps"),
    into(
        &["save_steps"],
        "checkpoint.every",
        "below 1 it is a part of all steps",
    ),
    into(&["save_strategy"], "checkpoint.every", "no, steps, epoch, best"),
    into(&["save_total_limit"], "checkpoint.keep.last", "left out, 4"),
    nothing(
        &["save_only_model", "save_safetensors", "save_first_step"],
        "a checkpoint always holds the whole state, in safetensors",
    ),
    into(
        &["early_stopping_patience"],
        "eval.early_stopping.patience",
        "where there is evaluation data",
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
    into(&["resume_from_checkpoint"], "checkpoint.resume", "a folder"),
    nothing(
        &["auto_resume_from_checkpoints"],
        "a run goes on from its own newest checkpoint in any case",
    ),
    into(&["logging_steps"], "track.log_every", "a whole number of steps"),
    to(&["use_tensorboard"], "track.tensorboard"),
    to(&["tensor_parallel_size"], "parallel.tensor"),
    nothing(
        &[
            "include_tokens_per_second",
            "include_tkps",
            "profiler_steps",
            "profiler_steps_start",
        ],
        "throughput and step times are in metrics.jsonl in any case",
    ),
    path(&["output_dir"], "output"),
    to(&["seed"], "seed"),
    into(
        &["deepspeed"],
        "–",
        "the JSON file is read, beside this file first, then in the working directory",
    ),
    nothing(
        &[
            "ddp_timeout",
            "ddp_bucket_cap_mb",
            "ddp_broadcast_buffers",
            "ddp_find_unused_parameters",
        ],
        "gradients are reduced in one fixed order; a parameter that no batch reached counts as zero",
    ),
    nothing(
        &[
            "heads_k_stride",
            "ring_attn_func",
            "fsdp_final_state_dict_type",
            "fsdp_version",
            "use_ray",
            "ray_run_name",
            "ray_num_workers",
            "resources_per_worker",
        ],
        ONE_PROCESS,
    ),
    nothing(
        &[
            "hub_model_id",
            "hub_strategy",
            "hub_revision",
            "push_dataset_to_hub",
        ],
        "nothing is pushed to the hub; the export is a folder",
    ),
    nothing(
        &[
            "gradio_title",
            "gradio_share",
            "gradio_server_name",
            "gradio_server_port",
            "gradio_max_new_tokens",
            "gradio_temperature",
        ],
        "they are not about training",
    ),
    nothing(
        &[
            "max_packed_sequence_len",
            "multipack_real_batches",
            "sample_packing_group_size",
            "sample_packing_bin_size",
            "sample_packing_sequentially",
            "pretrain_multipack_buffer_size",
            "pretrain_multipack_attn",
            "batch_flattening",
            "streaming_multipack_buffer_size",
        ],
        "it says how rows are packed, and sample_packing whether they are",
    ),
    nothing(
        &["eval_sample_packing"],
        "held-out rows are packed if training rows are; no result depends on it",
    ),
    nothing(
        &[
            "generation_max_new_tokens",
            "generation_temperature",
            "generation_top_p",
            "generation_top_k",
            "generation_prompt_ratio",
            "generation_do_sample",
            "num_generation_samples",
        ],
        "it says how answers are drawn, and generate_samples whether they are",
    ),
    include(NOT_YET),
];

/// One of `datasets`.
static DATASETS: &[Row] = &[
    into(&["path"], "data.train[].path", "a file or a folder"),
    into(&["data_files"], "data.train[].path", "in the place of path"),
    into(
        &["type"],
        "data.train[].kind",
        "chat_template is chat, completion is text, alpaca is instruction with the template alpaca",
    ),
    into(&["ds_type"], "data.train[].format", "json is jsonl"),
    into(
        &["split"],
        "data.train[].split",
        "train, of a local file, is the file itself",
    ),
    into(&["field_messages"], "data.train[].fields.messages", "as it is"),
    mapping(&["message_property_mappings"], PROPERTIES),
    into(&["message_field_role"], "data.train[].fields.role", "as it is"),
    into(
        &["message_field_content"],
        "data.train[].fields.content",
        "as it is",
    ),
    into(
        &["message_field_training"],
        "data.train[].fields.train",
        "as it is",
    ),
    into(&["field_system"], "data.train[].fields.system", "as it is"),
    into(&["field_tools"], "data.train[].fields.tools", "as it is"),
    into(&["field"], "data.train[].fields.text", "as it is"),
    into(
        &["roles"],
        "data.train[].roles",
        "turned round: each source names its target",
    ),
    into(
        &["roles_to_train"],
        "data.masks.roles",
        "the same for all data sets",
    ),
    into(&["train_on_eos"], "data.masks.eos", "the same for all data sets"),
    into(
        &["train_on_eot"],
        "data.masks.eos",
        "rather than train_on_eos, where both are there",
    ),
    into(&["chat_template"], "data.template", "the same for all data sets"),
    into(
        &["chat_template_jinja"],
        "data.template",
        "the same for all data sets",
    ),
    nothing(&["trust_remote_code"], CODE),
    nothing(&["preprocess_shards", "skip"], PREPARED),
    // What is still to be built.
    not_yet(
        &["name", "revision"],
        "way to read a data set by its name on the hub",
    ),
    not_yet(&["shards", "shards_idx"], "way to read a part of a data set"),
    not_yet(
        &["message_field_training_detail"],
        "training of parts of a message",
    ),
    not_yet(
        &[
            "field_thinking",
            "template_thinking_key",
            "split_thinking",
            "drop_system_message",
            "logprobs_field",
            "temperature",
            "input_format",
            "input_transform",
            "conversation",
            "field_human",
            "field_model",
            "text_column",
        ],
        "counterpart of this key",
    ),
    not_yet(
        &[
            "field_chosen",
            "field_rejected",
            "field_prompt",
            "step_separator",
            "max_completion_length",
            "train_on_last_step_only",
        ],
        PREFERENCE,
    ),
    not_yet(
        &[
            "length",
            "sequence_length",
            "min_input_id",
            "max_input_id",
            "seed",
        ],
        "synthetic rows of this kind",
    ),
];

static PROPERTIES: &[Row] = &[
    into(&["role"], "data.train[].fields.role", "as it is"),
    into(&["content"], "data.train[].fields.content", "as it is"),
    into(
        &["tool_calls", "tool_call_id", "name", "train"],
        "–",
        "only under their own names",
    ),
];
