//! Contradictions, options without effect, and values that do not fit each other.

use super::*;
use crate::{
    checkpoint::Resume,
    device_choice::DeviceChoice,
    learner::options::{Every, Precision},
};

#[test]
fn a_line_and_its_hint() {
    check_line(
        "  steps: 1000",
        "  steps: 1000\n  schedule:\n    name: cosine\n    warmup_steps: 2000",
        "run.yaml:23: train.schedule.warmup_steps = 2000: larger than the run's 1000 steps\n  \
         hint: lower it, or raise train.steps or train.epochs",
    );
}

#[test]
fn contradictions() {
    check(
        &["train.epochs=1"],
        "run.yaml:20: train.steps = 1000: contradicts train.epochs = 1 (--set)\n  \
         hint: keep one of them; --set train.epochs=null takes that one out",
    );
    for (parent, first, second) in [
        ("train", "accumulation: 2", "global_batch_size: 2"),
        ("train.schedule", "warmup_steps: 1", "warmup_ratio: 0.1"),
        ("train.schedule", "min_lr: 0.0", "min_lr_ratio: 0.1"),
        ("train.schedule", "decay_steps: 1", "decay_ratio: 0.1"),
    ] {
        let dotted = |pair: &str| format!("{parent}.{}", pair.replace(": ", "="));
        let (key, _) = first.split_once(':').unwrap();
        let (first, second) = (dotted(first), dotted(second));
        let mut sets = vec![first.as_str(), second.as_str()];
        if parent == "train.schedule" {
            sets.push("train.schedule.name=wsd");
            if !first.contains("decay") {
                sets.push("train.schedule.decay_steps=1");
            }
        }
        let (first, second) = (first.replace('=', " = "), second.replace('=', " = "));
        check(
            &sets,
            &format!(
                "--set: {second}: contradicts {first} (--set)\n  \
                 hint: keep one of them; --set {parent}.{key}=null takes that one out"
            ),
        );
    }
}

#[test]
fn length_batch_and_schedule() {
    for (sets, expected) in [
        (
            &["train.steps="][..],
            "run.yaml:19: train: says no length of the run\n  hint: write train.epochs or train.steps",
        ),
        (
            &["train.micro_batch_size=4", "train.global_batch_size=10"],
            "--set: train.global_batch_size = 10: is no multiple of 4 = train.micro_batch_size 4 x 1 ranks\n  \
             hint: write 8 or 12, or change train.micro_batch_size",
        ),
        (
            &["train.micro_batch_size=4", "train.global_batch_size=2"],
            "--set: train.global_batch_size = 2: is no multiple of 4 = train.micro_batch_size 4 x 1 ranks\n  \
             hint: write 4, or change train.micro_batch_size",
        ),
        (
            &["parallel.tensor=2", "train.global_batch_size=3"],
            "--set: parallel.tensor = 2: 1 rank does not divide into groups of 2\n  \
             hint: start a multiple of 2 ranks (parallel.devices, or a launcher), or write another number",
        ),
        (
            &["parallel.tensor=8", "parallel.devices=8"],
            "--set: parallel.tensor = 8: num_attention_heads = 4: does not divide into 8 parts\n  \
             hint: lower it to a number that divides all of them",
        ),
        (
            &["train.schedule={name: linear, min_lr: 0.01}"],
            "--set: train.schedule.min_lr = 0.01: larger than the peak, train.optimizer.lr = 0.001\n  \
             hint: lower it, or raise train.optimizer.lr",
        ),
        (
            &["train.schedule={name: cosine_with_min_lr}"],
            "--set: train.schedule: cosine_with_min_lr without a minimum\n  \
             hint: write min_lr or min_lr_ratio, or name: cosine",
        ),
        (
            &["train.schedule={name: wsd}"],
            "--set: train.schedule: wsd without a decay\n  hint: write decay_steps or decay_ratio",
        ),
        (
            &["train.schedule={name: wsd, warmup_steps: 300, decay_steps: 800}"],
            "--set: train.schedule.decay_steps = 800: 800 steps of decay after 300 of warm-up are more than the run's \
             1000\n  hint: lower it, or raise train.steps or train.epochs",
        ),
    ] {
        check(sets, expected);
    }
}

#[test]
fn devices_and_precision() {
    check(
        &["device=ndaray"],
        "--set: device = ndaray: expected auto, cuda, cuda:<index>, wgpu, flex or ndarray\n  \
         hint: did you mean ndarray?",
    );
    for device in ["ndarray", "wgpu"] {
        check(
            &["train.precision=bf16", &format!("device={device}")],
            &format!(
                "--set: train.precision = bf16: {device} has no bfloat16\n  hint: write f32, or compute on cuda or flex"
            ),
        );
    }
    let run = resolve_base(&["train.precision=bf16", "device=cuda:2"]).unwrap();
    assert_eq!(
        (run.device, run.train.precision),
        (DeviceChoice::Cuda { index: 2 }, Precision::Bf16)
    );
    // What `auto` becomes is known later.
    let run = resolve_base(&["train.precision=bf16"]).unwrap();
    run.check_device(DeviceChoice::Flex).unwrap();
    run.check_device(DeviceChoice::Ndarray).unwrap_err();
}

#[test]
fn parts_that_do_not_fit() {
    for (sets, expected) in [
        (
            &["model.language.num_attention_heads=5"][..],
            "--set: model.language.num_attention_heads = 5: must divide model.language.hidden_size = 64, for want of \
             head_dim\n  hint: change one of them, or add head_dim",
        ),
        (
            &["model.language.num_key_value_heads=3"],
            "--set: model.language.num_key_value_heads = 3: must divide num_attention_heads = 4",
        ),
        (
            &["model.language.head_dim=15", "model.vision.patch_size=7"],
            "--set: model.vision.patch_size = 7: must divide image_size = 32\n\
             --set: model.language.head_dim = 15: must be even: RoPE rotates halves",
        ),
        (
            &["model.projector={kind: pixel_shuffle, factor: 3}"],
            "--set: model.projector.factor = 3: must divide the patch grid's side = 4",
        ),
        (
            &["model.vision_feature_layer=-5"],
            "--set: model.vision_feature_layer = -5: the tower has hidden states 0 to 2 (or -1 to -3)",
        ),
        (
            &["data.sequence_length=200"],
            "--set: data.sequence_length = 200: longer than the model's max_position_embeddings = 128\n  \
             hint: lower it, or take a model for longer sequences",
        ),
        (
            &["data.sequence_length=16"],
            "--set: data.sequence_length = 16: one image takes 16 tokens, which leaves no room for text\n  \
             hint: raise it, or use larger patches, smaller images or projector pixel_shuffle",
        ),
    ] {
        check(sets, expected);
    }
}

#[test]
fn options_without_effect() {
    const REMOVE: &str = "\n  hint: remove it";
    for (sets, expected) in [
        (
            &["data.workers=0", "data.prefetch=4"][..],
            "data.prefetch = 4: has no effect: data.workers = 0 makes each batch when it is needed",
        ),
        (
            &["eval.max_new_tokens=4"],
            "eval.max_new_tokens = 4: has no effect: without eval.exact_match nothing is generated",
        ),
        (
            &["eval.early_stopping.patience=2", "eval.every=never"],
            "eval.early_stopping: has no effect: eval.every = never evaluates only at the end",
        ),
        (
            &["eval={exact_match: true, max_generate_samples: 2, every: never}"],
            "eval.max_generate_samples = 2: has no effect: the evaluation at the end generates all answers",
        ),
        (
            &["checkpoint.keep.best=2", "eval.every=never"],
            "checkpoint.keep.best = 2: has no effect: eval.every = never evaluates only at the end",
        ),
        (
            &["data.eval=[]", "eval.exact_match=true"],
            "eval: has no effect: there is no data.eval",
        ),
        (
            &["data.eval=[]", "checkpoint.keep.best=2"],
            "checkpoint.keep.best = 2: has no effect: there is no data.eval to tell which is best",
        ),
        (
            &["checkpoint.every=never", "checkpoint.keep.every=2"],
            "checkpoint.keep.every = 2: has no effect: checkpoint.every = never",
        ),
        (
            &["train.mode=end_to_end", "train.optimizer.groups.vision.lr=1"],
            "train.optimizer.groups.vision: has no effect: train.mode leaves this part as it is",
        ),
        (
            &["train.mode=alignment", "train.optimizer.groups.language.lr=1"],
            "train.optimizer.groups.language: has no effect: train.mode leaves this part as it is",
        ),
    ] {
        check(sets, &format!("--set: {expected}{REMOVE}"));
    }
}

#[test]
fn best_checkpoint() {
    check(
        &["eval.best.metric=eval_exact_match"],
        "--set: eval.best.metric = eval_exact_match: is not computed\n  \
         hint: write eval.exact_match: true, or another metric",
    );
    check(
        &["eval.best.direction=max"],
        "--set: eval.best.direction = max: eval_loss is better when smaller\n  hint: leave it out",
    );
    check(
        &["checkpoint={every: {steps: 10}, keep: {every: 25}}"],
        "--set: checkpoint.keep.every = 25: is no multiple of checkpoint.every.steps = 10\n  \
         hint: checkpoints are written only there",
    );
    let run = resolve_base(&["eval={exact_match: true, best: {metric: eval_exact_match, direction: max}}"])
        .unwrap();
    assert_eq!(run.eval.best.name, "eval_exact_match");
    assert!(run.eval.best.higher_is_better);
}

#[test]
fn a_model_without_eyes() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for name in ["train.jsonl", "tokenizer.json"] {
        fs::write_atomic(&folder.path().join(name), b"").unwrap();
    }
    let data = format!("data.train=[{{path: {}}}]", path("train.jsonl"));
    let tokenizer = format!("model.tokenizer={}", folder.path().display());
    let blind = ["model.vision=", "data.synth=", data.as_str(), tokenizer.as_str()];
    let with = |more: &[&'static str]| [&blind[..], more].concat();

    let run = resolve_base(&blind).unwrap();
    assert_eq!(run.data.eval, []);
    assert_eq!(run.eval.every, Every::Never);
    assert_eq!(run.data.tokenizer, folder.path());
    run.model_config(300, None).unwrap().unwrap();

    check(
        &with(&["train.mode=alignment"]),
        "--set: train.mode = alignment: trains the projector, and the model has no vision part\n  \
         hint: write full or lm_only, or add model.vision",
    );
    check(
        &with(&["train.optimizer.groups.projector.lr=1"]),
        "--set: train.optimizer.groups.projector: has no effect: the model has no vision part\n  hint: remove it",
    );
    check(
        &with(&["model.projector={kind: linear}", "model.vision_feature_layer=-2"]),
        "--set: model.projector: has no effect: there is no model.vision\n  hint: remove it\n\
         --set: model.vision_feature_layer = -2: has no effect: there is no model.vision\n  hint: remove it",
    );
    check(
        &["model.vision="],
        "run.yaml:17: data.synth: draws images, and the model has no vision part\n  hint: add model.vision",
    );
}

#[test]
fn missing_files() {
    check(
        &[
            "data.synth=",
            "data.train=[{path: a.jsonl}]",
            "data.eval=[{path: b.jsonl}]",
            "model.tokenizer=nowhere",
        ],
        "--set: data.train[0].path = a.jsonl: there is no such file\n  \
         hint: relative paths start at the working directory\n\
         --set: data.eval[0].path = b.jsonl: there is no such file\n  \
         hint: relative paths start at the working directory\n\
         --set: model.tokenizer = nowhere: there is no such file\n  \
         hint: relative paths start at the working directory",
    );
    check(
        &["data.synth="],
        "run.yaml:2: model.tokenizer: is missing: a new model has no tokenizer of its own\n  \
         hint: write the folder that holds tokenizer.json\n\
         run.yaml:16: data.train: there is nothing to train on\n  \
         hint: write train: [{path: data/train.jsonl}]",
    );
    check(
        &["checkpoint.resume=nowhere"],
        "--set: checkpoint.resume = nowhere: there is no such folder\n  \
         hint: write auto, none, or the folder of a checkpoint",
    );
    let folder = tempfile::tempdir().unwrap();
    let resume = format!("checkpoint.resume={}", folder.path().display());
    assert_eq!(
        resolve_base(&[&resume]).unwrap().checkpoint.resume,
        Resume::Path(folder.path().into())
    );
    check(
        &[&format!("model.tokenizer={}", folder.path().display())],
        &format!(
            "--set: model.tokenizer = {}: there is no tokenizer.json in this folder\n  \
             hint: write model.tokenizer with a folder that holds it",
            folder.path().display()
        ),
    );
}

#[test]
fn evaluation_on_training_data() {
    check(
        &["data.eval=[{path: data/shapes/train.jsonl}]"],
        "--set: data.eval: data/shapes/train.jsonl is in data.train as well: the evaluation would measure memory\n  \
         hint: hold samples out in a file of their own",
    );
}

#[test]
fn imported_models() {
    check(
        &["model.from=nowhere", "data.synth.image_size=32"],
        "run.yaml:3: model.language: has no effect: model.from brings a whole model\n  hint: remove it\n\
         run.yaml:9: model.vision: has no effect: model.from brings a whole model\n  hint: remove it\n\
         --set: model.from = nowhere: there is no such folder\n  \
         hint: give the folder with config.json and the safetensors files",
    );
    check(
        &["model.language=", "model.vision=", "data.synth.image_size=32"],
        "run.yaml:2: model: says no model\n  \
         hint: write model.from with a Hugging Face folder, or model.language for a new model",
    );
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "tokenizer.json"] {
        fs::write_atomic(&folder.path().join(name), b"{}").unwrap();
    }
    let from = format!("model={{from: {}}}", folder.path().display());
    check(
        &[&from],
        "run.yaml:17: data.synth.image_size: is missing: an imported model's size is not known yet\n  \
         hint: write the size of the images the model takes",
    );
    let run = resolve_base(&[&from, "data.synth.image_size=32", "train.mode=alignment"]).unwrap();
    assert_eq!(run.model, ModelChoice::Import(folder.path().into()));
    assert_eq!(run.data.tokenizer, folder.path());
    assert_eq!(run.model_config(300, None), Ok(None));

    // What the folder holds turns out later.
    let blind = resolve_base(&[])
        .unwrap()
        .model_config(300, Some(3))
        .unwrap()
        .unwrap();
    let blind = brazier_models::VlmConfig {
        vision: None,
        ..blind
    };
    assert_refused(
        run.check_model(&blind),
        "--set: train.mode = alignment: trains the projector, and the model has no vision part\n  \
         hint: write full or lm_only, or add model.vision",
    );
}

#[test]
fn what_only_the_tokenizer_knows() {
    let run = resolve_base(&["model.language.vocab_size=320"]).unwrap();
    let config = run.model_config(300, Some(7)).unwrap().unwrap();
    assert_eq!(
        (
            config.text.vocab_size,
            config.vision.as_ref().unwrap().image_token_id
        ),
        (320, 7)
    );
    assert_refused(
        run.model_config(321, None),
        "--set: model.language.vocab_size = 320: smaller than the tokenizer, which has 321 tokens\n  \
         hint: raise it, or leave it out\n\
         run.yaml:2: model.tokenizer = data/shapes/tokenizer: has no token <image>, and the model sees images\n  \
         hint: add it to the tokenizer as a special token, or name one that is there under model.image_token",
    );
    let run = resolve_base(&[]).unwrap();
    assert_eq!(
        run.model_config(300, Some(7)).unwrap().unwrap().text.vocab_size,
        300
    );
}
