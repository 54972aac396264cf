//! Syntax, environment, `--set`, keys and types.

use super::*;

fn env(name: &str) -> Option<String> {
    match name {
        "LR" => Some("2e-5".to_owned()),
        "EMPTY" => Some(String::new()),
        "HOME" => Some("/home/me".to_owned()),
        _ => None,
    }
}

#[test]
fn the_base_is_fine() {
    resolve_base(&[]).unwrap();
}

#[test]
fn syntax_errors_have_a_line() {
    check_line(
        "  optimizer: {lr: 1e-3}",
        "  optimizer: {lr: 1e-3",
        "run.yaml:22: no valid YAML: while parsing a flow mapping, did not find expected ',' or '}' (column 1)",
    );
    assert_refused(
        resolve_text(&format!("{BASE}---\nseed: 1\n")),
        "run.yaml:23: a second document begins here\n  hint: a configuration is one document: remove the ---",
    );
    assert_refused(
        resolve_text("- a\n"),
        "run.yaml:1: expected a mapping, got a list",
    );
}

#[test]
fn every_duplicate_key_is_reported() {
    check_line(
        "  optimizer: {lr: 1e-3}",
        "  optimizer: {lr: 1e-3}\n  'steps': 5\noutput: elsewhere",
        "run.yaml:22: train.steps = 5: written twice, first at run.yaml:20\n  hint: keep one of them\n\
         run.yaml:23: output = elsewhere: written twice, first at run.yaml:1\n  hint: keep one of them",
    );
}

#[test]
fn variables_are_expanded() {
    let text = BASE
        .replace("runs/test", "${HOME}/runs/${RUN:-first}")
        .replace("1e-3", "\"${LR}\"")
        .replace("lr: \"${LR}\"", "lr: 0.1");
    let run = resolve(&parse("run.yaml", &text, &[], &env).unwrap(), World::ALONE).unwrap();
    assert_eq!(run.output.to_str(), Some("/home/me/runs/first"));
    for (written, expected) in [
        ("$${HOME}", "${HOME}"),
        ("'${EMPTY:-full}'", "full"),
        ("a${EMPTY}b", "ab"),
        ("$HOME", "$HOME"),
        ("'2024'", "2024"),
        ("2024", "2024"),
    ] {
        let text = BASE.replace("runs/test", written);
        let run = resolve(&parse("run.yaml", &text, &[], &env).unwrap(), World::ALONE).unwrap();
        assert_eq!(run.output.to_str(), Some(expected));
    }
}

#[test]
fn a_variable_without_quotes_is_read_as_if_it_stood_there() {
    let text = BASE.replace("{lr: 1e-3}", "\n    lr: ${LR}");
    let run = resolve(&parse("run.yaml", &text, &[], &env).unwrap(), World::ALONE).unwrap();
    assert_eq!(run.train.optimizer.lr, 2e-5);
    let quoted = text.replace("${LR}", "'${LR}'");
    assert_refused(
        parse("run.yaml", &quoted, &[], &env),
        "run.yaml:22: train.optimizer.lr = 2e-5: expected a number, got text",
    );
}

#[test]
fn a_variable_that_is_not_set_is_an_error() {
    const HINT: &str = "  hint: set it, or write ${NAME:-default}; $${ stands for a literal ${";
    check_line(
        "runs/test",
        "runs/${NOWHERE}",
        &format!(
            "run.yaml:1: output = runs/${{NOWHERE}}: the environment variable NOWHERE is not set\n{HINT}"
        ),
    );
    check_line(
        "runs/test",
        "runs/${A",
        &format!("run.yaml:1: output = runs/${{A: ${{ without its }}\n{HINT}"),
    );
    check_line(
        "runs/test",
        "${a b}",
        &format!("run.yaml:1: output = ${{a b}}: ${{a b}} names no environment variable\n{HINT}"),
    );
}

#[test]
fn anchors_and_merge_keys() {
    let text = BASE.replace("  optimizer: {lr: 1e-3}", "  optimizer: &o {lr: 1e-3, eps: 1e-7}");
    resolve_text(&text).unwrap();
    let text = "a: &a {lr: 1, eps: 2}\nb: {<<: *a, lr: 3}\nc: *a\n";
    let tree = yaml::parse(&"x".into(), text, &no_env).unwrap();
    let value = |key: &str, inner: &str| tree.find(key).unwrap().find(inner).unwrap().text().unwrap();
    assert_eq!(
        [value("b", "lr"), value("b", "eps"), value("c", "lr")],
        ["3", "2", "1"]
    );
}

#[test]
fn aliases_cannot_explode() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..8 {
        let previous = format!("*a{}", level - 1);
        text.push_str(&format!(
            "a{level}: &a{level} [{}]\n",
            vec![previous; 10].join(", ")
        ));
    }
    let errors = yaml::parse(&"x".into(), &text, &no_env).unwrap_err();
    assert!(
        words(&errors).ends_with("aliases expand to more than 100000 values"),
        "{}",
        words(&errors)
    );

    // Few values, each with much text.
    let mut text = format!("a0: &a0 {}\n", "x".repeat(50_000));
    for level in 1..5 {
        let previous = format!("*a{}", level - 1);
        let list = vec![previous; 10].join(", ");
        text.push_str(&format!("a{level}: &a{level} [{list}]\n"));
    }
    let errors = yaml::parse(&"x".into(), &text, &no_env).unwrap_err();
    assert!(
        words(&errors).ends_with("aliases expand to more than 16 MiB"),
        "{}",
        words(&errors)
    );
}

#[test]
fn nesting_has_an_end() {
    let parse = |text: &str| yaml::parse(&"x".into(), text, &no_env);
    let nested = |depth: usize| format!("a:\n  {}1\n", "- ".repeat(depth - 1));
    assert!(parse(&nested(64)).is_ok());
    // Blocks, which the parser itself does not count, and aliases that add up.
    let mut chain = "a0: &a0 [x]\n".to_owned();
    for level in 1..1000 {
        chain.push_str(&format!("a{level}: &a{level} [*a{}]\n", level - 1));
    }
    for text in [nested(65), nested(50_000), chain] {
        let errors = parse(&text).unwrap_err();
        assert!(
            words(&errors).ends_with("lists and mappings are nested more than 64 levels deep"),
            "{}",
            words(&errors)
        );
    }
}

#[test]
fn set_changes_adds_and_removes() {
    let run = resolve_base(&[
        "train.steps=null",
        "train.epochs=2",
        "train.optimizer.groups.vision.lr=1e-4",
        "data.train=[{path: data/shapes/a.jsonl}]",
        "data.train[0].path=data/shapes/b.jsonl",
        "data.train.1.path=data/shapes/c.jsonl",
        "eval.every={steps: 5}",
    ])
    .unwrap();
    assert_eq!(run.train.length, Length::Epochs(2.0));
    assert_eq!(run.train.optimizer.vision_lr, Some(1e-4));
    assert_eq!(
        run.data.train,
        ["data/shapes/b.jsonl", "data/shapes/c.jsonl"].map(|path| crate::data::DataSource::new(path.into()))
    );
    assert_eq!(run.eval.every, crate::learner::options::Every::Steps(5));
}

#[test]
fn set_says_what_it_cannot() {
    check(
        &["train.steps"],
        "--set: train.steps has no =\n  hint: write --set train.steps=100",
    );
    check(
        &["train..steps=1"],
        "--set: train..steps is no path\n  hint: write data.train[0].path or train.steps",
    );
    check(
        &["train.steps.x=1"],
        "--set: train.steps: is an integer, so train.steps.x cannot be set\n  \
         hint: set the whole of it: --set 'train.steps=…'",
    );
    check(
        &["data.train=[]", "data.train[1].path=x"],
        "--set: data.train[1]: is beyond the end of the list, so data.train[1].path cannot be set\n  \
         hint: set the whole of it: --set 'data.train=…'",
    );
    check(
        &["train.step=5", "train.steps=x"],
        "--set: train.steps = x: expected a whole number, got text\n\
         --set: train.step = 5: unknown key\n  hint: did you mean train.steps?",
    );
    check(
        &["train.optimizer={lr: [}"],
        "--set: train.optimizer: no valid YAML: while parsing a node, did not find expected node content (column 7)",
    );
}

#[test]
fn unknown_keys() {
    check_line(
        "output:",
        "ouput:",
        "run.yaml:1: ouput = runs/test: unknown key\n  hint: did you mean output?\n\
         run.yaml:1: output: is missing\n  hint: for example output: runs/demo",
    );
    check_line(
        "  optimizer: {lr: 1e-3}",
        "  optimizer: {lr: 1e-3}\n  lr: 1e-3",
        "run.yaml:22: train.lr = 0.001: unknown key\n  hint: did you mean train.optimizer.lr?",
    );
    check_line(
        "  synth: {}",
        "  synth: {frobnicate: 1}",
        "run.yaml:17: data.synth.frobnicate = 1: unknown key\n  \
         hint: the keys here are dir, train_images, eval_images, image_size, seed",
    );
    check(
        &["train.schedule={name: cosine, min_lr: 1e-6}"],
        "--set: train.schedule.min_lr = 1e-6: unknown key\n  \
         hint: min_lr belongs to name: linear, cosine_with_min_lr or wsd",
    );
}

#[test]
fn wrong_types_bounds_and_words() {
    for (set, expected) in [
        ("seed=x", "seed = x: expected a whole number, got text"),
        ("seed=1.5", "seed = 1.5: expected a whole number, got a number"),
        ("seed=-1", "seed = -1: must be at least 0"),
        ("output=[a]", "output: expected text, got a list"),
        ("output=true", "output = true: expected text, got a boolean"),
        (
            "train.optimizer.lr=0",
            "train.optimizer.lr = 0: must be more than 0",
        ),
        (
            "train.optimizer.lr=.inf",
            "train.optimizer.lr = .inf: expected a number, got text",
        ),
        (
            "train.optimizer.lr=1e999",
            "train.optimizer.lr = inf: is too large",
        ),
        (
            "train.optimizer.betas=[0.9]",
            "train.optimizer.betas: expected a list of 2, got 1",
        ),
        (
            "train.optimizer.betas=[0.9, 1]",
            "train.optimizer.betas[1] = 1: must be less than 1",
        ),
        (
            "train.optimizer=fast",
            "train.optimizer = fast: expected a mapping, got text",
        ),
        (
            "train.micro_batch_size=0",
            "train.micro_batch_size = 0: must be at least 1",
        ),
        (
            "data.shuffle=yes",
            "data.shuffle = yes: expected true or false, got text",
        ),
        (
            "data.train=a.jsonl",
            "data.train = a.jsonl: expected a list, got text",
        ),
        (
            "data.train=[a.jsonl]",
            "data.train[0] = a.jsonl: expected a mapping, got text",
        ),
        (
            "train.precision=fp16",
            "train.precision = fp16: expected f32 or bf16\n  hint: did you mean bf16?",
        ),
        (
            "train.mode=end2end",
            "train.mode = end2end: expected alignment, end_to_end, lm_only or full\n  hint: did you mean end_to_end?",
        ),
        (
            "train.schedule=cosine",
            "train.schedule = cosine: expected {name: constant, …}, {name: linear, …}, {name: cosine, …}, \
             {name: cosine_with_min_lr, …}, {name: wsd, …} or {name: inverse_sqrt, …}\n  hint: write {name: cosine}",
        ),
        (
            "train.schedule={name: cosin}",
            "train.schedule.name = cosin: expected constant, linear, cosine, cosine_with_min_lr, wsd or \
             inverse_sqrt\n  hint: did you mean cosine?",
        ),
        (
            "train.schedule={warmup_steps: 5}",
            "train.schedule.name: is missing; it is constant, linear, cosine, cosine_with_min_lr, wsd or inverse_sqrt",
        ),
        (
            "model.projector={kind: pixel_shuffle}",
            "model.projector.factor: is missing\n  hint: for example model.projector.factor: 2",
        ),
        (
            "eval.every=5",
            "eval.every = 5: expected never, {steps: …}, {epochs: …} or {ratio: …}\n  hint: write {steps: 5}",
        ),
        (
            "eval.every={steps: 5, epochs: 1}",
            "eval.every: expected one of steps, epochs or ratio, got 2",
        ),
        (
            "eval.every={step: 5}",
            "eval.every.step = 5: unknown key; expected steps, epochs or ratio\n  hint: did you mean steps?",
        ),
        (
            "eval.every={steps: 0}",
            "eval.every.steps = 0: must be at least 1",
        ),
    ] {
        check(&[set], &format!("--set: {expected}"));
    }
    // A whole number may be written as a float, and a number as an integer.
    let run = resolve_base(&["train.steps=1e3", "train.max_grad_norm=1"]).unwrap();
    assert_eq!(run.train.length, Length::Steps(1000));
}

#[test]
fn all_errors_come_at_once_in_the_order_of_the_file() {
    let text = BASE
        .replace("patch_size: 8", "patchsize: 8")
        .replace("steps: 1000", "steps: many");
    assert_refused(
        load_text(&text, &["seed=x"]).map(|_| ()),
        "run.yaml:9: model.vision.patch_size: is missing\n  hint: for example model.vision.patch_size: 8\n\
         run.yaml:15: model.vision.patchsize = 8: unknown key\n  hint: did you mean model.vision.patch_size?\n\
         run.yaml:20: train.steps = many: expected a whole number, got text\n\
         --set: seed = x: expected a whole number, got text",
    );
}

#[test]
fn a_missing_file_is_named() {
    let errors = load(Path::new("nowhere/run.yaml"), &[], &no_env).unwrap_err();
    assert!(words(&errors).starts_with("nowhere/run.yaml: cannot read nowhere/run.yaml: No such file"));
}
