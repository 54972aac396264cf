//! What values become.

use super::*;

/// An axolotl file with these lines.
fn axolotl(lines: &str) -> Translated {
    translate_as(Some(Dialect::Axolotl), &format!("base_model: m\n{lines}\n"), &[])
}

fn arguments(lines: &str) -> Translated {
    translate_as(
        Some(Dialect::HuggingFace),
        &format!("output_dir: o\n{lines}\n"),
        &[],
    )
}

fn multimeditron(lines: &str) -> Translated {
    translate_as(
        Some(Dialect::MultiMeditron),
        &format!("base_llm: m\n{lines}\n"),
        &[],
    )
}

#[track_caller]
fn becomes(translated: &Translated, expected: &[(&str, &str)]) {
    assert_eq!(refused(translated), "");
    for (path, value) in expected {
        assert_eq!(native(translated, path).as_deref(), Some(*value), "{path}");
    }
}

#[test]
fn schedules_of_transformers() {
    for (lines, expected) in [
        (
            "lr_scheduler_type: linear\nwarmup_ratio: 0.03",
            &[("name", "linear"), ("warmup_ratio", "0.03")][..],
        ),
        (
            "warmup_steps: 10\nwarmup_ratio: 0.03",
            &[("name", "linear"), ("warmup_steps", "10")],
        ),
        ("warmup_steps: 0\nwarmup_ratio: 0.03", &[("warmup_ratio", "0.03")]),
        ("warmup_steps: 0.1", &[("warmup_ratio", "0.1")]),
        (
            "lr_scheduler_type: constant_with_warmup\nwarmup_steps: 5",
            &[("name", "constant"), ("warmup_steps", "5")],
        ),
        (
            "lr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: {min_lr_rate: 0.1, num_cycles: 0.5}",
            &[("name", "cosine_with_min_lr"), ("min_lr_ratio", "0.1")],
        ),
        (
            "lr_scheduler_type: warmup_stable_decay\nlr_scheduler_kwargs: {num_decay_steps: 9, min_lr_ratio: 0.2}",
            &[("name", "wsd"), ("decay_steps", "9"), ("min_lr_ratio", "0.2")],
        ),
        (
            "lr_scheduler_type: inverse_sqrt\nlr_scheduler_kwargs: {timescale: 7}",
            &[("name", "inverse_sqrt"), ("timescale", "7")],
        ),
    ] {
        let translated = arguments(lines);
        assert_eq!(refused(&translated), "", "{lines}");
        for (key, value) in expected {
            let path = format!("train.schedule.{key}");
            assert_eq!(
                native(&translated, &path).as_deref(),
                Some(*value),
                "{lines}: {key}"
            );
        }
    }
    let constant = arguments("lr_scheduler_type: constant\nwarmup_steps: 5");
    assert_eq!(native(&constant, "train.schedule.warmup_steps"), None);
    assert!(
        reason(&constant, "warmup_steps")
            .unwrap()
            .contains("constant_with_warmup")
    );
    assert_eq!(
        refused(&arguments("lr_scheduler_type: polynomial\nwarmup_steps: 5")),
        "run.yaml:2: lr_scheduler_type = polynomial: refused: Brazier has no schedule polynomial yet\n  \
         hint: to go on without it: --leave-out lr_scheduler_type"
    );
    assert_eq!(
        refused(&arguments(
            "lr_scheduler_type: cosine\nlr_scheduler_kwargs: {min_lr: 1, num_cycles: 2}"
        )),
        "run.yaml:3: lr_scheduler_kwargs.min_lr = 1: refused: the schedule has no such argument\n  hint: take it out\n\
         run.yaml:3: lr_scheduler_kwargs.num_cycles = 2: refused: Brazier's schedules have num_cycles = 0.5\n  \
         hint: to go on without it: --leave-out lr_scheduler_kwargs.num_cycles"
    );
}

#[test]
fn schedules_of_axolotl() {
    becomes(
        &axolotl("lr_scheduler: cosine\ncosine_min_lr_ratio: 0.1\nwarmup_ratio: 0.0"),
        &[
            ("train.schedule.name", "cosine_with_min_lr"),
            ("train.schedule.min_lr_ratio", "0.1"),
            ("train.schedule.warmup_ratio", "0.0"),
        ],
    );
    // Its own warm-up where none is said.
    becomes(
        &axolotl(""),
        &[
            ("train.schedule.name", "cosine"),
            ("train.schedule.warmup_ratio", "0.03"),
        ],
    );
    let rex = refused(&axolotl("lr_scheduler: rex\ncosine_min_lr_ratio: 0.1"));
    assert!(rex.contains("Brazier has no schedule rex yet"), "{rex}");
}

#[test]
fn intervals() {
    for (lines, path, value) in [
        ("save_strategy: epoch", "checkpoint.every.epochs", "1"),
        ("save_strategy: epochs", "checkpoint.every.epochs", "1"),
        ("save_strategy: no", "checkpoint.every", "never"),
        // What YAML 1.1 and Python make of `no`.
        ("save_strategy: false", "checkpoint.every", "never"),
        (
            "save_strategy: steps\nsave_steps: 10",
            "checkpoint.every.steps",
            "10",
        ),
        ("save_steps: 0.25", "checkpoint.every.ratio", "0.25"),
        ("", "checkpoint.every.steps", "500"),
        ("save_total_limit: 3", "checkpoint.keep.last", "3"),
        ("", "checkpoint.keep.every", "1"),
    ] {
        becomes(&arguments(lines), &[(path, value)]);
    }
    for (lines, path, value) in [
        ("saves_per_epoch: 2", "checkpoint.every.ratio", "0.5"),
        (
            "saves_per_epoch: 2\nnum_epochs: 4",
            "checkpoint.every.ratio",
            "0.125",
        ),
        ("saves_per_epoch: 1", "checkpoint.every", "never"),
        ("", "checkpoint.every.epochs", "1"),
        ("", "checkpoint.keep.last", "4"),
    ] {
        becomes(&axolotl(lines), &[(path, value)]);
    }
    let never = arguments("save_strategy: no");
    assert_eq!(native(&never, "checkpoint.keep.every"), None);
    let error = refused(&arguments("save_strategy: epoche"));
    assert_eq!(
        error,
        "run.yaml:2: save_strategy = epoche: expected no, steps, epoch or best\n  hint: did you mean epoch?"
    );
    let both = refused(&axolotl("saves_per_epoch: 2\nsave_steps: 10"));
    assert!(
        both.contains("saves_per_epoch = 2: refused: contradicts save_steps"),
        "{both}"
    );
}

#[test]
fn lengths_and_formats() {
    becomes(&arguments("num_train_epochs: 2"), &[("train.epochs", "2")]);
    becomes(&arguments(""), &[("train.epochs", "3.0")]);
    let steps = arguments("num_train_epochs: 2\nmax_steps: 9");
    becomes(&steps, &[("train.steps", "9")]);
    assert_eq!(native(&steps, "train.epochs"), None);
    becomes(
        &arguments("num_train_epochs: 2\nmax_steps: -1"),
        &[("train.epochs", "2")],
    );
    becomes(&arguments("bf16: true"), &[("train.precision", "bf16")]);
    becomes(&arguments("bf16: false"), &[("train.precision", "f32")]);
    becomes(&arguments(""), &[("train.precision", "f32")]);
    becomes(&axolotl("bf16: auto"), &[("train.precision", "bf16")]);
    becomes(&axolotl(""), &[("train.precision", "bf16")]);
    becomes(
        &axolotl("gradient_checkpointing: offload"),
        &[("train.recompute", "blocks")],
    );
    becomes(
        &arguments("gradient_checkpointing: false"),
        &[("train.recompute", "none")],
    );
    let fp16 = refused(&arguments("fp16: true"));
    assert!(
        fp16.contains("fp16 = true: refused: Brazier has no fp16"),
        "{fp16}"
    );
    becomes(&arguments("fp16: false"), &[]);
}

#[test]
fn optimizers() {
    for name in ["adamw_torch", "adamw_torch_fused"] {
        becomes(
            &arguments(&format!("optim: {name}")),
            &[("train.optimizer.name", "adamw")],
        );
    }
    let error = refused(&axolotl("optimizer: adamw_bnb_8bit"));
    assert!(
        error.contains("Brazier has no optimizer adamw_bnb_8bit yet"),
        "{error}"
    );
    becomes(
        &arguments("adam_beta2: 0.99"),
        &[("train.optimizer.betas", "[0.9, 0.99]")],
    );
    becomes(
        &arguments("adam_beta1: 0.8\nadam_beta2: 0.99"),
        &[("train.optimizer.betas", "[0.8, 0.99]")],
    );
    becomes(&axolotl("optim_args: fused=True"), &[]);
    let error = refused(&axolotl("optim_args: {rank: 8}"));
    assert!(error.contains("the argument rank of the optimizer"), "{error}");
}

#[test]
fn trackers_are_refused_unless_they_are_off() {
    becomes(
        &arguments("report_to: [tensorboard]"),
        &[("track.tensorboard", "true")],
    );
    for off in ["report_to: none", "report_to: []"] {
        becomes(&arguments(off), &[]);
    }
    let error = refused(&arguments("report_to: [tensorboard, wandb]"));
    assert!(error.contains("Brazier does not report to wandb yet"), "{error}");
    becomes(&axolotl("wandb_mode: disabled\nwandb_project:"), &[]);
}

#[test]
fn models_of_multimeditron() {
    let joined = multimeditron(
        "modalities: [{model_type: meditron_clip, config: {clip_name: c, projection_type: pixel_shuffle, \
         pixel_shuffle_factor: 2}}]",
    );
    becomes(
        &joined,
        &[
            ("model.language_from", "m"),
            ("model.vision_from", "c"),
            ("model.projector.kind", "pixel_shuffle"),
            ("model.projector.factor", "2"),
        ],
    );
    let whole = multimeditron("base_model: w\nmodalities: [{model_type: meditron_clip, clip_name: c}]");
    becomes(&whole, &[("model.from", "w"), ("model.tokenizer", "m")]);
    assert_eq!(native(&whole, "model.vision_from"), None);
    becomes(
        &multimeditron(
            "loaders: [{loader_type: fs-image, base_path: /images}]\ndatasets: [{packed_path: a}, {packed_path: b}]",
        ),
        &[
            ("data.train[0].image_dir", "/images"),
            ("data.train[1].image_dir", "/images"),
        ],
    );
    becomes(
        &multimeditron("training_mode: END2END"),
        &[("train.mode", "end_to_end"), ("model.from", "m")],
    );
    for (lines, expected) in [
        (
            "modalities: [{model_type: moe_meditron_clip}]",
            "Brazier has no modality moe_meditron_clip yet",
        ),
        (
            "modalities: [{clip_name: a}, {clip_name: b}]",
            "a second tower for images",
        ),
        (
            "token_size: 8\nmodalities: [{clip_name: a, hidden_size: 4}]",
            "hidden_size = 4: refused: contradicts token_size = 8",
        ),
        (
            "loaders: [{loader_type: raw-volume, modality_type: image}]",
            "Brazier has no loader raw-volume yet",
        ),
        (
            "training_mode: ALIGN",
            "expected alignment, end2end, lm_only or full\n  hint: did you mean alignment?",
        ),
        (
            "resume_from_checkpoint: true\nbase_model: x",
            "optimizer's state in it is another trainer's",
        ),
    ] {
        let error = refused(&multimeditron(lines));
        assert!(error.contains(expected), "{lines}: {error}");
    }
}

#[test]
fn data_of_axolotl() {
    let data = axolotl(
        "datasets:\n  - {path: a.jsonl, type: chat_template, roles: {user: [human, question], assistant: [gpt]}, \
         train_on_eos: all}\n  - {path: b.jsonl, type: completion}\ntest_datasets: [{path: c.jsonl, type: completion}]\n\
         eval_steps: 0.5\neval_batch_size: 2\nearly_stopping_patience: 3\nexcess_length_strategy: raise\n\
         chat_template: llama3\ntrain_on_inputs: true",
    );
    becomes(
        &data,
        &[
            ("data.train[0].kind", "chat"),
            ("data.train[0].roles.question", "user"),
            ("data.train[0].roles.gpt", "assistant"),
            ("data.train[1].kind", "text"),
            ("data.eval[0].kind", "text"),
            ("data.eval[0].path", "c.jsonl"),
            ("data.masks.eos", "all"),
            ("data.masks.roles", "[system, developer, user, assistant, tool]"),
            ("data.template", "llama3"),
            ("data.too_long", "error"),
            ("eval.every.ratio", "0.5"),
            ("eval.batch_size", "2"),
            ("eval.early_stopping.patience", "3"),
        ],
    );
    let two = refused(&axolotl(
        "datasets: [{path: a, train_on_eos: all, roles_to_train: [user]}, {path: b, train_on_eos: turn, roles_to_train: [user]}]",
    ));
    assert_eq!(
        two,
        "run.yaml:2: datasets[1].train_on_eos = turn: refused: contradicts datasets[0].train_on_eos = all \
         (tests/fixtures/dialects/run.yaml:2)\n  hint: write the same in both places, or in one of them"
            .replace("tests/fixtures/dialects/", "")
    );
    let split = refused(&axolotl("val_set_size: 0.1"));
    assert!(split.contains("name it in test_datasets"), "{split}");
    let adapter = axolotl("lora_r: 8");
    assert_eq!(
        native(&adapter, "model.lora.r"),
        None,
        "without `adapter` axolotl trains no adapter"
    );
    becomes(
        &axolotl("adapter: lora\nlora_r: 8\nlora_alpha: 16\nlora_target_linear: true"),
        &[
            ("model.lora.r", "8"),
            ("model.lora.target_modules", "[all-linear]"),
        ],
    );
}

/// How many ranks hold one model together, in the words of each; pipelines are refused with what there is instead.
#[test]
fn parallelism_of_tensors() {
    becomes(&axolotl("tensor_parallel_size: 4"), &[("parallel.tensor", "4")]);
    becomes(
        &deepspeed("{tensor_parallel: {autotp_size: 2}}"),
        &[("parallel.tensor", "2")],
    );
    becomes(
        &deepspeed("{tensor_parallel: {autotp_size: 0}}"),
        &[("parallel.tensor", "1")],
    );
    let megatron = |flags: &str| {
        let command = format!("python run.py --stage 2 {flags}");
        translate_as(Some(Dialect::MegatronVlm), &command, &[])
    };
    becomes(&megatron("--tp 4 --pp 1"), &[("parallel.tensor", "4")]);
    becomes(
        &megatron("--tensor-model-parallel-size 2"),
        &[("parallel.tensor", "2")],
    );
    let error = refused(&megatron("--pp 2"));
    assert!(error.contains("--tp and parallel.zero"), "{error}");
    let error = refused(&deepspeed("{pipeline: {stages: 2}}"));
    assert!(
        error.contains("tensor_parallel and zero_optimization.stage"),
        "{error}"
    );
}

/// A DeepSpeed mapping in an axolotl file that says `max_grad_norm: 1.0`, micro-batch 4 and accumulation 8.
fn deepspeed(json: &str) -> Translated {
    axolotl(&format!(
        "max_grad_norm: 1.0\nmicro_batch_size: 4\ngradient_accumulation_steps: 8\ndeepspeed: {json}"
    ))
}

#[test]
fn deepspeed_agrees_with_the_yaml_or_is_refused_with_both_numbers() {
    for json in [
        "{gradient_clipping: 1}",
        "{gradient_clipping: auto, train_batch_size: auto}",
        "{train_micro_batch_size_per_gpu: 4, gradient_accumulation_steps: 8, train_batch_size: 512}",
        "{fp16: {enabled: auto}, bf16: {enabled: auto}}",
        "{zero_optimization: {stage: 3, offload_optimizer: {device: cpu}, reduce_bucket_size: 5e8}}",
        "{optimizer: {type: AdamW, params: {lr: auto, betas: [0.9, 0.999]}}}",
    ] {
        assert_eq!(refused(&deepspeed(json)), "", "{json}");
    }
    for (json, expected) in [
        (
            "{gradient_clipping: 0.5}",
            "deepspeed.gradient_clipping = 0.5: refused: contradicts max_grad_norm = 1.0 (run.yaml:2)",
        ),
        (
            "{train_micro_batch_size_per_gpu: 2}",
            "deepspeed.train_micro_batch_size_per_gpu = 2: refused: contradicts micro_batch_size = 4 (run.yaml:3)",
        ),
        (
            "{train_batch_size: 100}",
            "deepspeed.train_batch_size = 100: refused: is no multiple of micro-batch 4 x accumulation 8",
        ),
        (
            "{fp16: {enabled: true}}",
            "deepspeed.fp16.enabled = true: refused: Brazier has no fp16",
        ),
        (
            "{optimizer: {type: Lamb}}",
            "deepspeed.optimizer.type = Lamb: refused: Brazier has no optimizer lamb yet",
        ),
        (
            "{zero_optimization: {zero_quantized_gradients: true}}",
            "deepspeed.zero_optimization.zero_quantized_gradients = true: refused: messages between ranks are never quantised",
        ),
        (
            "{zero_optimization: {stag: 3}}",
            "deepspeed.zero_optimization.stag = 3: no key of axolotl that Brazier knows\n  \
             hint: did you mean deepspeed.zero_optimization.stage?",
        ),
    ] {
        let error = refused(&deepspeed(json));
        assert!(
            error.starts_with(&format!("run.yaml:5: {expected}")),
            "{json}: {error}"
        );
    }
    let shown = deepspeed("{gradient_clipping: auto}");
    assert_eq!(
        reason(&shown, "deepspeed.gradient_clipping").as_deref(),
        Some("auto is train.max_grad_norm = 1.0, as the YAML says")
    );
}

#[test]
fn a_deepspeed_file_is_looked_for_beside_the_yaml() {
    let found = axolotl("deepspeed: deepspeed.json");
    assert_eq!(refused(&found), "");
    assert!(
        reason(&found, "deepspeed")
            .unwrap()
            .ends_with(&format!("{FIXTURES}/deepspeed.json is read"))
    );
    let lost = refused(&axolotl("deepspeed: $USER/nowhere.json"));
    assert_eq!(
        lost,
        "run.yaml:2: deepspeed = $USER/nowhere.json: there is no such file: me/nowhere.json, nor me/nowhere.json\n  \
         hint: correct the path, or go on without it: --leave-out deepspeed"
    );
}

#[test]
fn variables_are_expanded_in_paths_of_foreign_files() {
    becomes(
        &axolotl("output_dir: /x/$USER/${RUNS}/$"),
        &[("output", "/x/me//runs/$")],
    );
    assert_eq!(
        refused(&axolotl("output_dir: $NOWHERE/x")),
        "run.yaml:2: output_dir = $NOWHERE/x: the environment variable NOWHERE is not set\n  \
         hint: set it, or write the path in full"
    );
}

#[test]
fn commands() {
    let command = |text: &str| dialect::read(&"run.sh".into(), text, None, &[], &env);
    let refuses = |text: &str| words(&command(text).err().unwrap());
    let translated = command("# a script\npython3 x.py --output_dir 'a b' --report_to none --bf16 --learning_rate=1e-4 \\\n  --max_steps 5; echo --seed 3\n").unwrap();
    becomes(
        &translated,
        &[
            ("output", "a b"),
            ("train.precision", "bf16"),
            ("train.optimizer.lr", "0.0001"),
            ("train.steps", "5"),
            ("seed", "42"),
        ],
    );
    let at = &tree::get(&translated.root, "train.steps").unwrap().at;
    assert_eq!(at.to_string(), "run.sh:3");
    assert_eq!(
        refuses("python x.py --output_dir 'a"),
        "run.sh:1: a quote without its end"
    );
    assert_eq!(
        refuses("python x.py a --output_dir b"),
        "run.sh:1: a: a word without a flag before it"
    );
    assert_eq!(
        refuses("python x.py --output_dir b --output_dir c"),
        "run.sh:1: output_dir: written twice"
    );
    assert!(refuses("python x.py --output_dir ${NOWHERE}").contains("NOWHERE is not set"));
}

#[test]
fn stages_of_megatron_vlm() {
    let stage =
        |flags: &str| translate_as(Some(Dialect::MegatronVlm), &format!("python run.py {flags}"), &[]);
    becomes(
        &stage("--stage 1 --freeze-lm"),
        &[
            ("train.mode", "alignment"),
            ("train.global_batch_size", "256"),
            ("train.optimizer.lr", "0.001"),
        ],
    );
    becomes(
        &stage("--stage 2 --lr 3e-5 --seq-length 2048"),
        &[
            ("train.mode", "end_to_end"),
            ("train.global_batch_size", "128"),
            ("train.optimizer.lr", "3e-5"),
            ("data.sequence_length", "2780"),
            ("data.template", "llava_jp"),
        ],
    );
    let error = refused(&stage("--skip-train-iteration-range 100-110 300-400"));
    assert!(
        error.contains("Brazier has no way to leave out ranges of steps yet"),
        "{error}"
    );
}

#[test]
fn multimeditron_takes_the_language_models_context() {
    let folder = tempfile::tempdir().unwrap();
    let config = r#"{
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 64,
        "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
        "max_position_embeddings": 384, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "vocab_size": 100,
        "tie_word_embeddings": false
    }"#;
    fs::write_atomic(&folder.path().join("config.json"), config.as_bytes()).unwrap();
    let text = format!("base_llm: {}\n", folder.path().display());
    let length = |text: &str, sets: &[&str]| {
        let sets = strings(sets);
        let request = Request {
            sets: &sets,
            ..Request::default()
        };
        let reading = read_text("run.yaml", text, request, &env);
        let defaults = reading.report.unwrap().defaults;
        let found = defaults
            .into_iter()
            .find(|(key, _)| key == "data.sequence_length");
        found.map(|(_, value)| value)
    };
    let expected = "384, the context of the language model";
    assert_eq!(length(&text, &[]).as_deref(), Some(expected));
    assert_eq!(length(&text, &["data.sequence_length=100"]), None);
    assert_eq!(length(&format!("{text}max_sequence_length: 9\n"), &[]), None);
    // The model is the one of `--set`.
    let set = format!("model.from={}", folder.path().display());
    assert_eq!(length("base_llm: nowhere\n", &[&set]).as_deref(), Some(expected));
    let lost = parse("run.yaml", "base_llm: nowhere\n", &[], &env).unwrap_err();
    assert!(
        words(&lost).contains("data.sequence_length: is missing: MultiMeditron takes"),
        "{}",
        words(&lost)
    );
}

#[test]
fn rows_are_packed_and_grouped() {
    for (translated, expected) in [
        (
            axolotl(
                "sample_packing: true\neval_sample_packing: false\npad_to_sequence_len: true\nsequence_len: 64",
            ),
            &[("packing", "best_fit"), ("pad_to_multiple_of", "64")][..],
        ),
        (
            axolotl("group_by_length: true\npad_to_sequence_len: false\npad_to_multiple_of: 8"),
            &[("group_by_length", "true"), ("pad_to_multiple_of", "8")],
        ),
        (
            axolotl("pad_to_sequence_len: true\npad_to_multiple_of: 8"),
            &[("pad_to_multiple_of", "512")],
        ),
        (
            arguments("packing: true\npacking_strategy: bfd\neval_packing: false\npad_to_multiple_of: 8"),
            &[("packing", "best_fit"), ("pad_to_multiple_of", "8")],
        ),
        (
            arguments("packing: false\npacking_strategy: wrapped"),
            &[("packing", "none")],
        ),
        (arguments("group_by_length: true"), &[("group_by_length", "true")]),
        (
            arguments("train_sampling_strategy: group_by_length"),
            &[("group_by_length", "true")],
        ),
        (
            arguments("train_sampling_strategy: sequential"),
            &[("shuffle", "false")],
        ),
        (multimeditron("pack_sequences: true"), &[("packing", "best_fit")]),
    ] {
        assert_eq!(refused(&translated), "");
        for (key, value) in expected {
            assert_eq!(
                native(&translated, &format!("data.{key}")).as_deref(),
                Some(*value),
                "{key}"
            );
        }
    }
    assert_eq!(
        refused(&arguments("packing: true\npacking_strategy: wrapped")),
        "run.yaml:3: packing_strategy = wrapped: refused: Brazier has no packing wrapped yet: it has bfd, which cuts no row \
         to fill a gap\n  hint: to go on without it: --leave-out packing_strategy"
    );
}
