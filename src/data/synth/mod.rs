//! The demo's data set: drawings of coloured shapes, questions about them, and a tokenizer, out of nothing but a seed.
//!
//! A picture shows a few shapes in the cells of a 2 × 2 grid. A conversation asks about counts, colours, shapes, sizes
//! and places, in several phrasings, and ends with a list of all objects. No layout of the evaluation pictures occurs
//! in training, and some pairs of colour and shape occur in evaluation only.

mod draw;
mod questions;
mod scene;
#[cfg(test)]
mod tests;
mod tokenizer;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io::Write,
    path::{Path, PathBuf},
};

use rayon::prelude::*;
use serde_json::{Value, json};
use thiserror::Error;

use self::{
    questions::{Kind, Turn, conversation},
    scene::{Dice, HELD_OUT_PAIRS, Pairs, Scene},
};
use crate::fs::{self, FsError};

/// Raised when the same options give other bytes than before.
const FORMAT: u64 = 3;
const GENERATOR: &str = "brazier data synth";
const DESCRIPTION: &str = "dataset.json";
/// Pictures drawn between two calls of `progress`.
const CHUNK: usize = 256;
/// Image sides this generator can draw legibly and a program can hold.
const IMAGE_SIZES: std::ops::RangeInclusive<usize> = 24..=1024;
/// Pictures of one split: what the six digits of a file name can count.
const MAX_IMAGES: usize = 1_000_000;

/// A data set that cannot be made.
#[derive(Debug, Error)]
pub enum SynthError {
    /// A file or folder.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// An option outside what can be drawn.
    #[error("{option} = {value}: {reason}")]
    Option {
        /// Its name.
        option: &'static str,
        /// Its value.
        value: usize,
        /// What would work.
        reason: String,
    },
    /// The target holds something else, which stays as it is.
    #[error("{} is not a folder that `{GENERATOR}` made\n  hint: choose another folder, or remove this one", path.display())]
    NotOurs {
        /// The target.
        path: PathBuf,
    },
    /// A picture that cannot be encoded.
    #[error("cannot encode a picture: {0}")]
    Image(#[from] image::ImageError),
    /// A row that cannot be written as JSON.
    #[error("cannot write JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The tokenizer's library.
    #[error("cannot build the tokenizer: {0}")]
    Tokenizer(#[source] tokenizers::Error),
}

/// What to draw. Equal options give equal bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SynthOptions {
    /// Training pictures, each with one conversation.
    pub train_images: usize,
    /// Evaluation pictures; half of them show a pair of colour and shape that training never shows.
    pub eval_images: usize,
    /// Side of the square pictures, in pixels.
    pub image_size: usize,
    /// Seed of everything.
    pub seed: u64,
}

/// What was drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct SynthSummary {
    /// Questions in training.
    pub train_questions: usize,
    /// Questions in evaluation.
    pub eval_questions: usize,
    /// Tokens the tokenizer knows.
    pub vocab_size: usize,
    /// Part of the evaluation questions that is right without looking: always the answer that training gave most
    /// often to the same question, or, for a question training never asked, to questions of its type.
    pub blind_accuracy: f64,
    /// The same by tag.
    pub blind_accuracy_by_tag: BTreeMap<String, f64>,
}

/// One picture with its conversation.
struct Sample {
    scene: Scene,
    turns: Vec<Turn>,
}

#[derive(Debug, Clone, Copy)]
enum Split {
    Train,
    Eval,
}

impl Split {
    fn name(self) -> &'static str {
        match self {
            Split::Train => "train",
            Split::Eval => "eval",
        }
    }
}

/// Draws the data set into `dir`: `train.jsonl`, `eval.jsonl`, `images/`, `tokenizer/` and `dataset.json`.
///
/// It is made in a folder beside `dir` and renamed when complete, so `dir` is never half of a data set. A data set
/// that this function made before is replaced. `progress` hears the pictures drawn so far and their total.
///
/// # Errors
/// If an option is out of range, if `dir` holds anything else, or if a file cannot be written.
pub fn synthesize(
    dir: &Path,
    options: &SynthOptions,
    progress: &dyn Fn(usize, usize),
) -> Result<SynthSummary, SynthError> {
    check(options)?;
    let replaces = check_target(dir)?;
    let partial = beside(dir, "partial");
    fs::remove_dir_all(&partial)?;
    let made = write_dataset(&partial, options, progress).and_then(|summary| {
        if replaces {
            fs::remove_dir_all(dir)?;
        }
        fs::rename(&partial, dir)?;
        Ok(summary)
    });
    if made.is_err() {
        // The first error is the one to report; what is left over is removed by the next attempt.
        let _ = fs::remove_dir_all(&partial);
    }
    made
}

/// Whether `dir` holds the complete data set of these options, drawn by this version of the generator.
pub fn is_current(dir: &Path, options: &SynthOptions) -> bool {
    let Ok(text) = fs::read_to_string(&dir.join(DESCRIPTION)) else {
        return false;
    };
    let Ok(description) = serde_json::from_str::<Value>(&text) else {
        return false;
    };
    parameters(options).as_object().is_some_and(|expected| {
        expected
            .iter()
            .all(|(key, value)| description.get(key) == Some(value))
    })
}

fn check(options: &SynthOptions) -> Result<(), SynthError> {
    for (option, value) in [
        ("train_images", options.train_images),
        ("eval_images", options.eval_images),
    ] {
        if !(1..=MAX_IMAGES).contains(&value) {
            return Err(SynthError::Option {
                option,
                value,
                reason: format!("must be 1 to {MAX_IMAGES}"),
            });
        }
    }
    if !IMAGE_SIZES.contains(&options.image_size) {
        let reason = format!("must be {} to {}", IMAGE_SIZES.start(), IMAGE_SIZES.end());
        return Err(SynthError::Option {
            option: "image_size",
            value: options.image_size,
            reason,
        });
    }
    Ok(())
}

/// Whether there is a folder that may be replaced: an empty one, or a data set of this generator.
fn check_target(dir: &Path) -> Result<bool, SynthError> {
    if fs::size_bytes(dir).is_err() {
        return Ok(false);
    }
    let is_ours = || {
        let description = fs::read_to_string(&dir.join(DESCRIPTION)).ok()?;
        let description: Value = serde_json::from_str(&description).ok()?;
        Some(description.get("generator")? == GENERATOR)
    };
    if fs::read_dir(dir)?.is_empty() || is_ours() == Some(true) {
        Ok(true)
    } else {
        Err(SynthError::NotOurs { path: dir.into() })
    }
}

/// A hidden folder on the same file system, for a rename.
fn beside(dir: &Path, what: &str) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(dir.file_name().unwrap_or_default());
    name.push(format!(".{what}"));
    dir.with_file_name(name)
}

fn parameters(options: &SynthOptions) -> Value {
    let SynthOptions {
        train_images,
        eval_images,
        image_size,
        seed,
    } = options;
    json!({
        "generator": GENERATOR,
        "format": FORMAT,
        "train_images": train_images,
        "eval_images": eval_images,
        "image_size": image_size,
        "seed": seed,
    })
}

fn write_dataset(
    dir: &Path,
    options: &SynthOptions,
    progress: &dyn Fn(usize, usize),
) -> Result<SynthSummary, SynthError> {
    let train = train_samples(options);
    let eval = eval_samples(options, &train);
    let total = train.len() + eval.len();
    let train_progress = |done: usize| progress(done, total);
    write_split(dir, Split::Train, &train, options, &train_progress)?;
    let eval_progress = |done: usize| progress(train.len() + done, total);
    write_split(dir, Split::Eval, &eval, options, &eval_progress)?;

    let texts: Vec<&str> = train
        .iter()
        .flat_map(|sample| &sample.turns)
        .flat_map(|turn| [turn.question.as_str(), turn.answer.as_str()])
        .collect();
    let vocab_size = tokenizer::write_tokenizer(&dir.join("tokenizer"), &texts)?;
    let (blind_accuracy, blind_accuracy_by_tag) = blind_accuracy(&train, &eval);
    let summary = SynthSummary {
        train_questions: texts.len() / 2,
        eval_questions: eval.iter().map(|sample| sample.turns.len()).sum(),
        vocab_size,
        blind_accuracy,
        blind_accuracy_by_tag,
    };
    write_json(&dir.join(DESCRIPTION), &description(options, &summary))?;
    Ok(summary)
}

fn description(options: &SynthOptions, summary: &SynthSummary) -> Value {
    let mut description = parameters(options);
    let pairs: Vec<String> = HELD_OUT_PAIRS
        .iter()
        .map(|(colour, shape)| format!("{} {}", colour.word(), shape.word()))
        .collect();
    description["held_out_pairs"] = json!(pairs);
    description["question_types"] = json!(Kind::ALL.map(Kind::tag));
    description["train_questions"] = json!(summary.train_questions);
    description["eval_questions"] = json!(summary.eval_questions);
    description["vocab_size"] = json!(summary.vocab_size);
    description["blind_accuracy"] = json!(summary.blind_accuracy);
    description["blind_accuracy_by_tag"] = json!(summary.blind_accuracy_by_tag);
    description
}

/// Streams of one picture: what it shows and asks, and how it is painted.
fn dice(options: &SynthOptions, split: Split, index: usize, purpose: u64) -> Dice {
    Dice::new(options.seed, (index as u64) << 3 | (split as u64) << 2 | purpose)
}
const SCENE: u64 = 0;
const PAINT: u64 = 1;

fn train_samples(options: &SynthOptions) -> Vec<Sample> {
    let sample = |index| {
        let mut dice = dice(options, Split::Train, index, SCENE);
        let scene = Scene::draw(&mut dice, Pairs::Known);
        let turns = conversation(&scene, Pairs::Known, &mut dice);
        Sample { scene, turns }
    };
    (0..options.train_images).into_par_iter().map(sample).collect()
}

/// Draws again where a scene is one of training's or an earlier one of evaluation's.
fn eval_samples(options: &SynthOptions, train: &[Sample]) -> Vec<Sample> {
    let mut seen: HashSet<Scene> = train.iter().map(|sample| sample.scene.clone()).collect();
    let mut sample = |index| {
        let mut dice = dice(options, Split::Eval, index, SCENE);
        let pairs = if index % 2 == 0 {
            Pairs::Known
        } else {
            Pairs::WithHeldOut
        };
        let mut scene = Scene::draw(&mut dice, pairs);
        while !seen.insert(scene.clone()) {
            scene = Scene::draw(&mut dice, pairs);
        }
        let turns = conversation(&scene, pairs, &mut dice);
        Sample { scene, turns }
    };
    (0..options.eval_images).map(&mut sample).collect()
}

fn write_split(
    dir: &Path,
    split: Split,
    samples: &[Sample],
    options: &SynthOptions,
    progress: &dyn Fn(usize),
) -> Result<(), SynthError> {
    fs::create_dir_all(&dir.join("images").join(split.name()))?;
    let path = |index: usize| format!("images/{}/{index:06}.png", split.name());
    for start in (0..samples.len()).step_by(CHUNK) {
        let end = samples.len().min(start + CHUNK);
        (start..end).into_par_iter().try_for_each(|index| {
            let mut dice = dice(options, split, index, PAINT);
            let png = draw::draw_png(&samples[index].scene, options.image_size, &mut dice)?;
            write_file(&dir.join(path(index)), &png)
        })?;
        progress(end);
    }
    let mut rows = Vec::new();
    for (index, sample) in samples.iter().enumerate() {
        serde_json::to_writer(&mut rows, &row(&sample.turns, path(index)))?;
        rows.push(b'\n');
    }
    write_file(&dir.join(format!("{}.jsonl", split.name())), &rows)
}

fn row(turns: &[Turn], image: String) -> Value {
    let mut messages = Vec::new();
    for (index, turn) in turns.iter().enumerate() {
        let question = match index {
            0 => json!([{ "type": "image" }, { "type": "text", "text": turn.question }]),
            _ => json!(turn.question),
        };
        messages.push(json!({ "role": "user", "content": question }));
        messages.push(json!({ "role": "assistant", "content": turn.answer }));
    }
    let tags: Vec<&str> = turns.iter().map(Turn::tag).collect();
    json!({ "messages": messages, "images": [image], "tags": tags })
}

/// How often the best guess without the picture is right; see [`SynthSummary::blind_accuracy`].
fn blind_accuracy(train: &[Sample], eval: &[Sample]) -> (f64, BTreeMap<String, f64>) {
    let mut by_question: HashMap<&str, BTreeMap<&str, usize>> = HashMap::new();
    let mut by_kind: HashMap<Kind, BTreeMap<&str, usize>> = HashMap::new();
    for turn in train.iter().flat_map(|sample| &sample.turns) {
        *by_question
            .entry(&turn.question)
            .or_default()
            .entry(&turn.answer)
            .or_default() += 1;
        *by_kind
            .entry(turn.kind)
            .or_default()
            .entry(&turn.answer)
            .or_default() += 1;
    }
    let best = |answers: &BTreeMap<&str, usize>| {
        answers
            .iter()
            .max_by_key(|&(_, count)| count)
            .map(|(answer, _)| answer.to_string())
    };
    let mut tally: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for turn in eval.iter().flat_map(|sample| &sample.turns) {
        let answers = by_question
            .get(turn.question.as_str())
            .or_else(|| by_kind.get(&turn.kind));
        let is_right = answers.and_then(best).is_some_and(|guess| guess == turn.answer);
        let (right, asked) = tally.entry(turn.tag().to_string()).or_default();
        *right += usize::from(is_right);
        *asked += 1;
    }
    let ratio = |right: usize, asked: usize| right as f64 / asked.max(1) as f64;
    let overall = ratio(
        tally.values().map(|(right, _)| right).sum(),
        tally.values().map(|(_, asked)| asked).sum(),
    );
    (
        overall,
        tally
            .into_iter()
            .map(|(tag, (right, asked))| (tag, ratio(right, asked)))
            .collect(),
    )
}

fn write_json(path: &Path, value: &Value) -> Result<(), SynthError> {
    write_file(path, format!("{value:#}\n").as_bytes())
}

/// Without a sync for each of thousands of files: the rename at the end decides whether the folder counts, and a
/// data set that a power cut damages can be drawn again.
fn write_file(path: &Path, bytes: &[u8]) -> Result<(), SynthError> {
    let mut file = fs::create(path)?;
    file.write_all(bytes).map_err(|source| FsError {
        operation: "write",
        path: path.into(),
        source,
    })?;
    Ok(())
}
