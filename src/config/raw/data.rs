//! `data:`.

use std::{borrow::Cow, collections::BTreeMap, path::PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::super::defaults;

/// What to train and to evaluate on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawData {
    /// Draws the data set of coloured shapes, with its tokenizer, before training, unless it is there
    /// already. Its files then stand for `data.train`, `data.eval` and `model.tokenizer` where these are left
    /// out.
    pub synth: Option<RawSynth>,
    /// Training rows, one file after the other. Left out: those of `data.synth`.
    pub train: Option<Vec<RawRows>>,
    /// Evaluation rows. Left out: those of `data.synth`, else none.
    pub eval: Option<Vec<RawRows>>,
    /// Most tokens of one sample, image tokens included.
    #[schemars(range(min = 2), example = 2048)]
    pub sequence_length: usize,
    /// What happens to a sample longer than `sequence_length`.
    #[serde(default = "defaults::too_long")]
    pub too_long: RawTooLong,
    /// Whether each sample for training is cut anew in each epoch, at a length drawn uniformly between 1 and its own; all of its
    /// images and one trained token stay. For models that have to judge what is not over yet. Not with `packing`. Held-out
    /// samples stay whole.
    #[serde(default = "defaults::random_truncation")]
    #[schemars(example = true)]
    pub random_truncation: bool,
    /// Whether several samples share a row of `sequence_length` tokens. Each stays a sequence of its own: no attention from one
    /// to another, positions from 0, the same loss. `train.micro_batch_size` then counts rows. Held-out samples are packed as
    /// well.
    #[serde(default = "defaults::packing")]
    pub packing: RawPacking,
    /// Most images of a packed row: a bound on memory. Left out: as many as fit by their tokens.
    #[schemars(range(min = 1), example = 16)]
    pub max_images_per_row: Option<usize>,
    /// Whether the samples of a micro-batch are of like length, which saves padding where nothing is packed. Micro-batches still
    /// come in random order.
    #[serde(default = "defaults::group_by_length")]
    #[schemars(example = true)]
    pub group_by_length: bool,
    /// Pads each batch to a multiple of so many tokens; `sequence_length` gives all batches one shape. Left out: as long as the
    /// longest row. Changes no result.
    #[schemars(range(min = 1), example = 64)]
    pub pad_to_multiple_of: Option<usize>,
    /// At which end batches are padded. Padding is never seen, and positions count from a sample's first token. Changes no
    /// result.
    #[serde(default = "defaults::padding_side")]
    pub padding_side: RawPaddingSide,
    /// What happens to a sample that something is wrong with.
    #[serde(default = "defaults::bad_rows")]
    pub bad_rows: RawBadRows,
    /// Most samples that may be skipped; more of them stop the run. Needed with `bad_rows: skip`.
    #[schemars(example = 10)]
    pub max_bad_rows: Option<usize>,
    /// How conversations are rendered: `tokenizer` (the tokenizer's own template), a file with Jinja in it, or one of
    /// `chatml`, `llama3`, `qwen3`, `apertus`, `plain`, `alpaca`, `llava_jp`. Left out: the tokenizer's own if it has one, else
    /// `chatml`.
    #[schemars(example = &"tokenizer")]
    pub template: Option<String>,
    /// Variables of the template, as `enable_thinking: false`.
    pub template_options: Option<BTreeMap<String, RawScalar>>,
    /// What a template gets that asks for today's date (`strftime_now`), as `2024-07-26`: tokens must not change from day to
    /// day. Without it such a template is refused.
    #[schemars(example = "2024-07-26")]
    pub template_date: Option<String>,
    /// Which of a conversation is trained. Images, padding and headers of turns never are.
    pub masks: Option<RawMasks>,
    /// Whether each epoch has its own random order; otherwise the order of the files.
    #[serde(default = "defaults::shuffle")]
    #[schemars(example = false)]
    pub shuffle: bool,
    /// Folder for what is made once of large files: where the rows of a JSONL file begin, what was compressed. Left out:
    /// `$BRAZIER_CACHE`, else `~/.cache/brazier`.
    #[schemars(example = "/scratch/brazier")]
    pub cache: Option<PathBuf>,
    /// Whether the encoded rows of files of 32 MiB and more are kept there too: opening one again then encodes nothing, and the
    /// ranks of a machine share its tokens. That takes 4 bytes a token; the folder may be emptied while no run uses it.
    #[serde(default = "defaults::cache_rows")]
    #[schemars(example = false)]
    pub cache_rows: bool,
    /// Threads that read, decode and tokenize; 0 does it in the training thread. The number changes no
    /// result.
    #[serde(default = "defaults::workers")]
    #[schemars(example = 8)]
    pub workers: usize,
    /// Optimizer steps whose batches are made ahead; needs `workers`.
    #[schemars(range(min = 1), extend("default" = defaults::PREFETCH), example = 4)]
    pub prefetch: Option<usize>,
}

/// The data set of coloured shapes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawSynth {
    /// Folder it is drawn into.
    #[serde(default = "defaults::synth_dir")]
    #[schemars(example = "/tmp/shapes")]
    pub dir: PathBuf,
    /// Number of images to train on; each comes with several questions.
    #[serde(default = "defaults::train_images")]
    #[schemars(range(min = 1), example = 2000)]
    pub train_images: usize,
    /// Number of held-out images.
    #[serde(default = "defaults::eval_images")]
    #[schemars(range(min = 1), example = 100)]
    pub eval_images: usize,
    /// Side of the square images, in pixels. Left out: `model.vision.image_size`.
    #[schemars(range(min = 1), example = 48)]
    pub image_size: Option<usize>,
    /// Seed of the drawing; other than the run's, so that several runs share one data set.
    #[serde(default = "defaults::synth_seed")]
    #[schemars(example = 7)]
    pub seed: u64,
}

/// One file or folder of samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawRows {
    /// A file, a folder, or a pattern like `data/*.jsonl`. Files may end with `.gz` or `.zst`. Folders are those of
    /// `save_to_disk`, of megatron-energon, or of files of one format.
    #[schemars(example = "data/train.jsonl")]
    pub path: PathBuf,
    /// What it holds.
    #[serde(default = "defaults::format")]
    #[schemars(example = &"jsonl")]
    pub format: RawFormat,
    /// Which split, where the path holds several.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"train")]
    pub split: Option<String>,
    /// How often its rows come in an epoch: 1 each once, 0.5 half of them, the other half in the next epoch, 2 each twice.
    /// Left out: 1. For training rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = 0.5)]
    pub weight: Option<f64>,
    /// Columns to read, all if left out: other columns of Parquet and Arrow are not even decoded.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = [["padded", "same_admission_death"]]))]
    pub columns: Option<Vec<String>>,
    /// Whether cells of CSV that look like numbers are numbers. Left out, all are text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = true)]
    pub numbers: Option<bool>,
    /// What its rows are. With a classification head (`model.head`) they are to be classified.
    #[serde(default = "defaults::kind")]
    pub kind: RawRowKind,
    /// Names of keys in the rows, where they are not the usual ones. `a.b`, `a[b]` and `a[0]` reach inside a value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fields: Option<RawFields>,
    /// Names of roles in the rows besides the usual ones, each with the role it means: `{doctor: assistant}`. Usual are
    /// `human` for `user`; `gpt`, `chatgpt`, `bot` and `model` for `assistant`; `ipython` and `function` for `tool`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub roles: Option<BTreeMap<String, RawRole>>,
    /// What stands for an image in the text of these rows. Left out: `<image>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "<|reserved_special_token_0|>")]
    pub image_token: Option<String>,
    /// Folder that paths of images start at. Left out: the folder of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "data/images")]
    pub image_dir: Option<PathBuf>,
}

impl RawRows {
    /// Rows that say themselves what they are.
    pub(in crate::config) fn new(path: PathBuf) -> Self {
        Self {
            path,
            format: defaults::format(),
            split: None,
            weight: None,
            columns: None,
            numbers: None,
            kind: defaults::kind(),
            fields: None,
            roles: None,
            image_token: None,
            image_dir: None,
        }
    }
}

/// What a file of samples holds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum RawFormat {
    /// What its name says, or what is in the folder.
    Auto,
    /// One JSON object a line.
    Jsonl,
    /// Parquet.
    Parquet,
    /// Arrow: streams as `save_to_disk` writes them, and files like Feather.
    Arrow,
    /// Fields between commas, the first line names them.
    Csv,
    /// Fields between tabs, the first line names them.
    Tsv,
    /// Each file one document: rows with `text`.
    Text,
    /// Each line one document: rows with `text`.
    TextLines,
    /// Tar shards: members of one key are a row.
    Webdataset,
    /// A folder that megatron-energon prepared, or its Metadataset file.
    Energon,
}

/// What rows are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum RawRowKind {
    /// Whatever the keys of each row say.
    Auto,
    /// `messages` (or `conversations`) with `role` (`from`) and `content` (`value`); `images`, or `modalities` as
    /// MultiMeditron has them.
    Chat,
    /// `text` (or `input_ids`): all of it is trained, and the end of the sequence after it.
    Text,
    /// `prompt` and `completion`; the completion is trained.
    PromptCompletion,
    /// `instruction`, `input` (or `context`), `output` (or `response`), as Alpaca has them.
    Instruction,
    /// `question`, `answer` (or `answers`, of which the first counts), `image`.
    Vqa,
    /// `text` (or `input_ids`) and `label`, for a classification head.
    Classification,
}

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident;)*) => {
        /// Names of keys.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub(in crate::config) struct RawFields {
            $(
                $(#[$doc])*
                #[serde(skip_serializing_if = "Option::is_none")]
                pub $name: Option<String>,
            )*
        }
    };
}

fields! {
    /// The turns of a conversation. Left out: `messages` or `conversations`.
    #[schemars(example = &"dialogue")]
    messages;
    /// Who speaks, in a turn. Left out: `role` or `from`.
    #[schemars(example = &"speaker")]
    role;
    /// What is said, in a turn. Left out: `content` or `value`.
    #[schemars(example = &"said")]
    content;
    /// Whether a turn is trained: true, false, 0 or 1. Left out: `train` or `weight`.
    #[schemars(example = &"learn")]
    train;
    /// What stands before the turns, for a system turn. Left out: `system`.
    #[schemars(example = &"instructions")]
    system;
    /// Tools that the assistant may call. Left out: `tools`.
    #[schemars(example = &"functions")]
    tools;
    /// Images: paths, bytes, base64. Left out: `images`, `image` or `modalities`.
    #[schemars(example = &"jpg")]
    images;
    /// A text. Left out: `text`.
    #[schemars(example = &"txt")]
    text;
    /// Tokens. Left out: `input_ids`.
    #[schemars(example = &"padded")]
    input_ids;
    /// A prompt. Left out: `prompt`.
    #[schemars(example = &"problem")]
    prompt;
    /// What follows the prompt. Left out: `completion`.
    #[schemars(example = &"solution")]
    completion;
    /// An instruction. Left out: `instruction`.
    #[schemars(example = &"task")]
    instruction;
    /// What the instruction is about. Left out: `input` or `context`.
    #[schemars(example = &"passage")]
    input;
    /// The answer to an instruction. Left out: `output` or `response`.
    #[schemars(example = &"result")]
    output;
    /// A question. Left out: `question`.
    #[schemars(example = "json[question]")]
    question;
    /// Its answer. Left out: `answer` or `answers`.
    #[schemars(example = &"txt")]
    answer;
    /// A class. Left out: `label`.
    #[schemars(example = &"icu_admission")]
    label;
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum RawRole {
    /// Instructions of whoever runs the model.
    System,
    /// Instructions of whoever builds on it.
    Developer,
    /// The one who asks.
    User,
    /// The model.
    Assistant,
    /// What a tool answers.
    Tool,
}

/// Which of a conversation is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawMasks {
    /// Roles whose turns are trained, unless a turn says otherwise itself.
    #[serde(default = "defaults::trained_roles")]
    #[schemars(example = defaults::trained_roles())]
    pub roles: Vec<RawRole>,
    /// Which ends of turns are trained. Left out: those of trained turns; where the template marks what is trained by
    /// `{% generation %}`, what it marks.
    pub eos: Option<RawTrainEos>,
}

/// Which ends of turns are trained.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum RawTrainEos {
    /// Those of every turn.
    All,
    /// Those of trained turns.
    Turn,
    /// That of the last trained turn.
    Last,
    /// None of them: the model does not learn to stop.
    None,
}

/// What happens to a sample that something is wrong with.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum RawBadRows {
    /// The run stops and names it.
    Error,
    /// Left out, counted in the log, and listed with its reason in `bad_rows.jsonl` of the run directory. Images are decoded
    /// once before training, so that broken ones are found.
    Skip,
}

/// A value of a template's variable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(in crate::config) enum RawScalar {
    /// True or false.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// Any other number.
    Number(f64),
    /// Text.
    Text(String),
}

impl JsonSchema for RawScalar {
    fn schema_name() -> Cow<'static, str> {
        "Scalar".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["boolean", "integer", "number", "string"] })
    }
}

/// Whether several samples share a row.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum RawPacking {
    /// Each sample is a row.
    None,
    /// Best-fit-decreasing (<https://arxiv.org/abs/2404.10830>): rows are nearly full, no sample is cut, and each comes as often
    /// as without packing.
    BestFit,
}

/// At which end of a row its padding is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum RawPaddingSide {
    /// Before the tokens.
    Left,
    /// Behind them.
    Right,
}

/// What happens to a sample that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum RawTooLong {
    /// Left out, and counted in the log.
    Drop,
    /// Cut at the end, and counted in the log; an image is never cut.
    Truncate,
    /// Cut after the last trained turn that fits, and counted in the log; left out if none does.
    TruncateTurns,
    /// The run stops and names it.
    Error,
}
