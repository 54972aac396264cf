//! `docs/dialects.md`, made of the tables.

use std::fmt::Write as _;

use super::{
    Dialect, deepspeed,
    table::{Fate, Row, all, below, names},
    training_arguments,
    translation::not_yet,
};

const INTRODUCTION: &str = "\
<!-- Generated from the tables in src/config/dialect; a test compares the two. -->

# Configurations of other trainers

`brazier train` and `brazier check` take the YAML of MultiMeditron (with its DeepSpeed file) and of axolotl, and arguments of
Hugging Face's trainers, as they are: which of them a file is follows from its keys. They print what became of each key:

* *mapped*: it is this key of Brazier's own configuration ([configs/README.md](../configs/README.md));
* *no effect here*: no result depends on it, for the reason given;
* *refused*: going on without it would train something else, so nothing is trained. `--leave-out KEY` goes on without it.

A key that is not in these tables is an error, with the one that was probably meant.

    brazier convert-config axolotl.yaml                      # the native YAML, with a comment on where each value is from
    brazier convert-config launch.sh --dialect megatron-vlm -o run.yaml
    brazier check --config axolotl.yaml --set model.from=models/tiny --leave-out wandb_project

`--set` speaks native paths in any dialect and comes after the translation. `${NAME}` stands for an environment variable
everywhere, in paths of foreign files also `$NAME`. Where a foreign file leaves something out, its own trainer's default
holds, and the report says so. A key with nothing after it counts as left out. Values that documents write for the reader to
replace (`/path/to/…`) are errors.
";

const AXOLOTL: &str = "\
Known by `base_model`, `datasets`, `micro_batch_size`.

Token ids and labels are those that axolotl's own code makes of the same file and rows (recorded by
`tests/scripts/record_axolotl.py`), with these differences:

* What a template writes between its prompt and an answer is trained, for the model has to say it: the empty thought of
  `qwen3`, the space of Mistral's templates. axolotl trains the text of the message.
* The end of an empty answer is trained as that of any other. axolotl does not find turns without text.
* The token that ends a turn is trained, whichever it is. axolotl trains `eos_token`, or those of `eot_tokens` that stand in the
  template as they are; where the template ends turns with another one, the model does not learn to stop.
* The first token of a row is no label. In rows of the type `completion` axolotl has one, which counts if rows are packed:
  then the row before it is trained to predict it.
* A text of the type `completion` that is longer than `sequence_len` follows `excess_length_strategy`. axolotl cuts it into
  pieces.
* What looks like a special token in a row is plain text, and so cannot end a turn.
* A turn of `chatml` is tokenised by itself: after a header, a text that begins with a line break has the tokens that the model
  would say.
* A `system` beside turns of which the first is another system turn is an error. axolotl ignores it.
* A row with images has the labels of any other row. axolotl trains all of its text, headers and questions included, where it
  has no strategy for the model's template.
* A turn that says itself whether it is trained, as `train` or `weight`, is believed without `message_field_training`, too.";

/// The text of `docs/dialects.md`.
pub fn dialects() -> String {
    let mut text = INTRODUCTION.to_owned();
    for (title, introduction, rows) in [
        (
            "MultiMeditron",
            "Known by `base_llm`, `modalities`, `training_args`. Rows are recognised by their keys; the labels follow from the \
             tokenizer's template.",
            Dialect::MultiMeditron.table(),
        ),
        (
            "DeepSpeed",
            "The file that `deepspeed` names. `\"auto\"` is what the YAML says. A number that contradicts the YAML is refused, \
             with both.",
            deepspeed::ROWS,
        ),
        ("axolotl", AXOLOTL, Dialect::Axolotl.table()),
        (
            "Hugging Face",
            "`TrainingArguments`, and what TRL's `SFTConfig`, `ModelConfig` and `ScriptArguments` add: YAML, JSON, or the flags of a \
             command that starts a Python script.",
            Dialect::HuggingFace.table(),
        ),
        (
            "Megatron-VLM",
            "The flags of `scripts/train/run.py`, in a script or alone. The recipe of each stage, which the original has in its \
             code, is written out.",
            Dialect::MegatronVlm.table(),
        ),
    ] {
        let _ = write!(
            text,
            "\n## {title}\n\n{introduction}\n\n| key | becomes |\n|---|---|\n"
        );
        table(rows, "", &mut text);
    }
    text
}

fn table(rows: &'static [Row], prefix: &str, text: &mut String) {
    for row in all(rows) {
        let names: Vec<_> = row.keys.iter().map(|key| format!("`{prefix}{key}`")).collect();
        let names = names.join(", ");
        let becomes = match row.fate {
            Fate::To(native) | Fate::Path(native) => format!("`{native}`"),
            Fate::Into { native: "–", how } => how.to_owned(),
            Fate::Into { native, how } => format!("`{native}`: {how}"),
            Fate::NoEffect(because) => format!("no effect here: {because}"),
            Fate::NotYet { what, off } => format!("refused{}: {}", unless(off), not_yet(what)),
            Fate::Never { reason, off } => format!("refused{}: {reason}", unless(off)),
            Fate::Mapping(rows) if is_arguments(rows) => {
                "the keys of `TrainingArguments`, as under Hugging Face below".to_owned()
            }
            Fate::Mapping(_) => "a mapping, see below".to_owned(),
            Fate::List(_) => "a list, see below".to_owned(),
            Fate::Beside(_) => "a mapping of the keys beside it".to_owned(),
            Fate::ReadAs(other) => format!("read as `{prefix}{other}`"),
            Fate::Table(_) => continue,
        };
        let _ = writeln!(text, "| {names} | {} |", becomes.replace('|', "\\|"));
        let Some(key) = row.keys.first() else { continue };
        match row.fate {
            Fate::Mapping(rows) if is_arguments(rows) => {}
            Fate::Mapping(_) => table(below(row), &format!("{prefix}{key}."), text),
            Fate::List(_) => table(below(row), &format!("{prefix}{key}[]."), text),
            _ => {}
        }
    }
}

/// Whether it is the table that two dialects share.
fn is_arguments(rows: &'static [Row]) -> bool {
    names(rows) == names(training_arguments::ROWS)
}

fn unless(off: &[&str]) -> String {
    match off {
        [] => ", unless off".to_owned(),
        words => format!(", unless off or {}", words.join(", ")),
    }
}
