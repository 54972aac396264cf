//! Configurations in every dialect, and what launchers say in the environment.

use std::{fs, path::Path};

use brazier::{
    config::{Dialect, Request, convert, num_parameters, read_text, resolve},
    data::Stream,
    parallel::{Launch, World, node_list},
};

use crate::harness::Target;

const WORDS: &[&str] = &[
    ":",
    "- ",
    "\n",
    "\n  ",
    "#",
    "&a",
    "*a",
    "<<: *a",
    "!!str",
    "!!binary",
    "|",
    ">-",
    "'",
    "\"",
    "{",
    "}",
    "[",
    "]",
    "---",
    "...",
    "? ",
    "null",
    "~",
    "true",
    "no",
    "yes",
    "0x10",
    "0o17",
    "1_000",
    "1e-4",
    ".nan",
    ".inf",
    "-.inf",
    "1.0e400",
    "auto",
    "${HOME}",
    "$HOME",
    "${A",
    "\u{feff}",
    "\t",
    "null: null",
    "train:",
    "model:",
    "data:",
    "parallel:",
    "checkpoint:",
    "eval:",
    "steps",
    "epochs",
    "micro_batch_size",
    "accumulation",
    "sequence_length",
    "packing: best_fit",
    "pad_to_multiple_of",
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "devices",
    "zero: 3",
    "every",
    "keep",
    "warmup_ratio",
    "prefetch",
    "workers",
    "optimizer",
    "schedule",
];
/// Aliases of aliases: little text that stands for much.
const LAUGHS: &str = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d \
                      [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: \
                      [*f,*f,*f,*f,*f,*f,*f,*f,*f]\n";

fn repository(path: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Reads a configuration, and derives all that `brazier check` says without data.
fn check(name: &str, text: &str, dialect: Dialect, home: &str) -> String {
    let request = Request {
        dialect: Some(dialect),
        ..Request::default()
    };
    // Where the configurations look for data, models and runs.
    let env = |name: &str| (name != "HF_HUB_CACHE").then(|| home.to_owned());
    let reading = read_text(name, text, request, &env);
    let report = reading
        .report
        .map(|report| report.to_string())
        .unwrap_or_default();
    let listed = |errors: Vec<brazier::config::ConfigError>| {
        errors.iter().map(ToString::to_string).collect::<String>()
    };
    let loaded = match reading.result {
        Ok(loaded) => loaded,
        Err(errors) => return listed(errors) + &report,
    };
    let run = match resolve(&loaded, World::ALONE) {
        Ok(run) => run,
        Err(errors) => return listed(errors) + &report,
    };
    let planned = match run.plan(&Stream::of_samples(100)) {
        Ok(plan) => plan.numbers.to_string(),
        Err(errors) => listed(errors),
    };
    let memory = match run.model_config(300, Some(4)) {
        Ok(Some(model)) => {
            let _ = num_parameters(&model);
            run.memory(&model, None, 16).to_string()
        }
        Ok(None) => String::new(),
        Err(errors) => listed(errors),
    };
    planned + &memory + &report
}

pub(crate) fn native(_: &Path) -> Target {
    let names = [
        "demo",
        "debug",
        "alignment",
        "apertus",
        "classifier",
        "lora",
        "visual-instructions",
    ];
    let mut seeds: Vec<Vec<u8>> = names
        .map(|name| repository(&format!("configs/{name}.yaml")))
        .into();
    seeds.push(LAUGHS.into());
    Target::new(seeds, WORDS, |bytes| {
        check(
            "config.yaml",
            &String::from_utf8_lossy(bytes),
            Dialect::Native,
            "/nowhere",
        )
    })
}

/// Puts there what the configurations of other trainers name: data, and models in the hub's cache.
fn furnish(dir: &Path) {
    fs::create_dir_all(dir.join("images")).unwrap();
    for name in ["conversations.jsonl", "pretrain.jsonl", "images/a.jsonl"] {
        fs::write(dir.join(name), "{}\n").unwrap();
    }
    for name in [
        "Qwen--Qwen3-8B",
        "openai--clip-vit-large-patch14",
        "swiss-ai--Apertus-8B-Instruct-2509",
    ] {
        let model = dir.join(format!("hub/models--{name}"));
        for (name, text) in [
            ("refs/main", "abc"),
            ("snapshots/abc/config.json", "{}"),
            ("snapshots/abc/tokenizer.json", "{}"),
        ] {
            let path = model.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }
}

/// Files of other trainers, by their names and by what is in them.
pub(crate) fn foreign(dir: &Path) -> Target {
    const FILES: [(&str, Dialect); 5] = [
        ("multimeditron.yaml", Dialect::MultiMeditron),
        ("axolotl.yaml", Dialect::Axolotl),
        ("sft.json", Dialect::HuggingFace),
        ("sft.sh", Dialect::HuggingFace),
        ("megatron_vlm.sh", Dialect::MegatronVlm),
    ];
    let dir = dir.to_owned();
    furnish(&dir);
    fs::write(
        dir.join("deepspeed.json"),
        repository("tests/fixtures/dialects/deepspeed.json"),
    )
    .unwrap();
    let seeds = FILES.iter().zip(0_u8..).map(|((name, _), number)| {
        [
            &[number],
            &repository(&format!("tests/fixtures/dialects/{name}"))[..],
        ]
        .concat()
    });
    let mut seeds: Vec<Vec<u8>> = seeds.collect();
    seeds.extend([0, 1, 2].map(|number| [&[number], LAUGHS.as_bytes()].concat()));
    let target = Target::new(seeds, WORDS, move |case| {
        let (name, dialect) = FILES[usize::from(case[0])];
        let path = dir.join(name);
        fs::write(&path, &case[1..]).unwrap();
        let text = String::from_utf8_lossy(&case[1..]);
        let said = check(&path.to_string_lossy(), &text, dialect, &dir.to_string_lossy());
        let converted = convert(&path, Request::default(), &|_| None).result;
        said + &converted.unwrap_or_default()
    });
    Target {
        head: 1,
        rounds: 200,
        ..target
    }
}

/// DeepSpeed's file, beside a configuration of transformers'.
pub(crate) fn deepspeed(dir: &Path) -> Target {
    furnish(dir);
    let (home, beside, yaml) = (
        dir.to_owned(),
        dir.join("deepspeed.json"),
        dir.join("config.yaml"),
    );
    let seeds = vec![repository("tests/fixtures/dialects/deepspeed.json")];
    let multimeditron = String::from_utf8(repository("tests/fixtures/dialects/multimeditron.yaml")).unwrap();
    Target::new(seeds, WORDS, move |bytes| {
        fs::write(&beside, bytes).unwrap();
        check(
            &yaml.to_string_lossy(),
            &multimeditron,
            Dialect::MultiMeditron,
            &home.to_string_lossy(),
        )
    })
}

/// SLURM's list of nodes, and the variables of launchers.
pub(crate) fn environment(_: &Path) -> Target {
    const WORDS: &[&str] = &[
        "[",
        "]",
        "-",
        ",",
        "gpu[001-004,9],login1",
        "[0-99999999999999999999]",
        "[00000000000000000000-1]",
        "[3-1]",
        "node",
        "0",
        "SLURM_PROCID=",
        "SLURM_NTASKS=",
        "SLURM_LOCALID=",
        "SLURM_JOB_NODELIST=",
        "SLURM_JOB_ID=",
        "SLURM_NNODES=",
        "RANK=",
        "WORLD_SIZE=",
        "LOCAL_RANK=",
        "MASTER_ADDR=",
        "MASTER_PORT=",
        "OMPI_COMM_WORLD_RANK=",
        "OMPI_COMM_WORLD_SIZE=",
        "\n",
        "SLURM_STEP_NUM_TASKS=",
        "SLURM_STEP_NODELIST=",
        "SLURM_TASKS_PER_NODE=4(x2),3",
        "é",
    ];
    let seeds = vec![
        b"\0gpu[001-004,9],login1".to_vec(),
        b"\0a[1-2]b[3-4],c".to_vec(),
        b"\x01SLURM_PROCID=1\nSLURM_NTASKS=4\nSLURM_LOCALID=0\nSLURM_JOB_NODELIST=n[1-2]\nSLURM_JOB_ID=77\n"
            .to_vec(),
        b"\x01RANK=0\nWORLD_SIZE=2\nLOCAL_RANK=0\nMASTER_ADDR=a\nMASTER_PORT=6000\n".to_vec(),
        b"\x01OMPI_COMM_WORLD_RANK=0\nOMPI_COMM_WORLD_SIZE=2\nOMPI_COMM_WORLD_LOCAL_RANK=0\n".to_vec(),
    ];
    let target = Target::new(seeds, WORDS, |case| {
        let text = String::from_utf8_lossy(&case[1..]).into_owned();
        if case[0] == 0 {
            return match node_list(&text) {
                Ok(hosts) => format!("hosts {}", "i".repeat(hosts.len().ilog2() as usize)),
                Err(error) => error.to_string(),
            };
        }
        let var = |name: &str| {
            let mut pairs = text.lines().filter_map(|line| line.split_once('='));
            Some(pairs.find(|(key, _)| *key == name)?.1.to_owned())
        };
        match Launch::from_env(&var) {
            Ok(launch) => format!("{launch:?}"),
            Err(error) => error.to_string(),
        }
    });
    Target {
        head: 1,
        rounds: 3000,
        ..target
    }
}
