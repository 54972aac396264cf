//! `data:` and the tokenizer.

use std::path::{Path, PathBuf};

use super::{
    super::{
        defaults,
        raw::{RawBadRows, RawData, RawModel, RawPacking, RawPaddingSide, RawRows, RawSynth, RawTooLong},
        run::SynthChoice,
        written::Errors,
    },
    rows,
};
use crate::{
    data::{
        BadRows, Cache, DataOptions, DataSource, Grouping, PaddingSide, Selection, TooLong,
        WORTH_KEEPING_BYTES, synth::SynthOptions,
    },
    fs,
};

pub(super) fn synth(raw: Option<&RawSynth>, model: &RawModel, errors: &mut Errors) -> Option<SynthChoice> {
    let RawSynth {
        dir,
        train_images,
        eval_images,
        image_size,
        seed,
    } = raw?.clone();
    let from_model = model.vision.as_ref().map(|vision| vision.image_size);
    if model.language.is_some() && model.vision.is_none() {
        errors.refuse(
            "data.synth",
            "draws images, and the model has no vision part",
            Some("add model.vision"),
        );
    } else if image_size.is_none() && from_model.is_none() {
        let reason = "is missing: an imported model's size is not known yet";
        errors.refuse(
            "data.synth.image_size",
            reason,
            Some("write the size of the images the model takes"),
        );
    }
    let image_size = image_size.or(from_model).unwrap_or_default();
    Some(SynthChoice {
        dir,
        options: SynthOptions {
            train_images,
            eval_images,
            image_size,
            seed,
        },
    })
}

pub(super) fn resolve(
    raw: RawData,
    synth: Option<&SynthChoice>,
    model: &RawModel,
    micro_batch_size: usize,
    seed: u64,
    errors: &mut Errors,
) -> DataOptions {
    let RawData {
        synth: _,
        train,
        eval,
        sequence_length,
        too_long,
        random_truncation,
        packing,
        max_images_per_row,
        group_by_length,
        pad_to_multiple_of,
        padding_side,
        bad_rows,
        max_bad_rows,
        template,
        template_options,
        template_date,
        masks,
        shuffle,
        cache,
        cache_rows,
        workers,
        prefetch,
    } = raw;
    if model.head.is_some() {
        let keys = [
            "data.template",
            "data.template_options",
            "data.template_date",
            "data.masks",
        ];
        for key in keys {
            errors.no_effect(key, "rows to classify are no conversations");
        }
    }
    if workers == 0 {
        errors.no_effect(
            "data.prefetch",
            "data.workers = 0 makes each batch when it is needed",
        );
    }
    let drawn = synth.map(|synth| synth.dir.as_path());
    let train = files("train", train, drawn, errors);
    if train.is_empty() && drawn.is_none() {
        let hint = "write train: [{path: data/train.jsonl}]";
        errors.refuse("data.train", "there is nothing to train on", Some(hint));
    }
    let eval = files("eval", eval, drawn, errors);
    let is_trained = |source: &&DataSource| {
        train
            .iter()
            .any(|trained| trained.selection() == source.selection())
    };
    if let Some(source) = eval.iter().find(is_trained) {
        let reason = format!(
            "{} is in data.train as well: the evaluation would measure memory",
            source.path.display()
        );
        errors.refuse(
            "data.eval",
            &reason,
            Some("hold samples out in a file of their own"),
        );
    }
    if random_truncation && packing == RawPacking::BestFit {
        errors.exclusive("data.packing", "data.random_truncation");
    }
    DataOptions {
        train,
        eval,
        cache: match cache {
            Some(dir) => Cache::new(Some(dir)),
            None => Cache::of_environment(&|name| std::env::var(name).ok()),
        },
        keep_encoded: cache_rows.then_some(WORTH_KEEPING_BYTES),
        tokenizer: tokenizer(model, drawn, errors),
        // Known once the model is; see RunConfig::class_options.
        classes: None,
        sequence_length,
        too_long: match too_long {
            RawTooLong::Drop => TooLong::Drop,
            RawTooLong::Truncate => TooLong::Truncate,
            RawTooLong::TruncateTurns => TooLong::TruncateTurns,
            RawTooLong::Error => TooLong::Error,
        },
        random_truncation,
        grouping: grouping(
            packing,
            max_images_per_row,
            group_by_length,
            micro_batch_size,
            errors,
        ),
        pad_to_multiple_of,
        padding_side: match padding_side {
            RawPaddingSide::Left => PaddingSide::Left,
            RawPaddingSide::Right => PaddingSide::Right,
        },
        bad_rows: bad_row_policy(bad_rows, max_bad_rows, errors),
        template: rows::template(template, template_options, template_date, errors),
        masks: masks.map(rows::masks).unwrap_or_default(),
        shuffle,
        seed,
        workers,
        prefetch: prefetch.unwrap_or(defaults::PREFETCH),
    }
}

fn grouping(
    packing: RawPacking,
    max_images: Option<usize>,
    by_length: bool,
    micro_batch_size: usize,
    errors: &mut Errors,
) -> Grouping {
    match (packing, by_length) {
        (RawPacking::BestFit, true) => {
            errors.exclusive("data.packing", "data.group_by_length");
            Grouping::Alone
        }
        (RawPacking::BestFit, false) => Grouping::Packed { max_images },
        (RawPacking::None, by_length) => {
            errors.no_effect(
                "data.max_images_per_row",
                "data.packing = none has one sample in a row",
            );
            match by_length {
                true => Grouping::ByLength { micro_batch_size },
                false => Grouping::Alone,
            }
        }
    }
}

fn bad_row_policy(policy: RawBadRows, limit: Option<usize>, errors: &mut Errors) -> BadRows {
    match (policy, limit) {
        (RawBadRows::Error, _) => {
            errors.no_effect("data.max_bad_rows", "data.bad_rows = error skips none");
            BadRows::Error
        }
        (RawBadRows::Skip, Some(limit)) => BadRows::Skip { limit },
        (RawBadRows::Skip, None) => {
            let hint = "write how many rows may be skipped before the run stops, as max_bad_rows: 10";
            errors.refuse(
                "data.max_bad_rows",
                "is missing with data.bad_rows = skip",
                Some(hint),
            );
            BadRows::Error
        }
    }
}

/// The rows of one split; those of the drawn data set where none are given.
fn files(
    split: &str,
    raw: Option<Vec<RawRows>>,
    drawn: Option<&Path>,
    errors: &mut Errors,
) -> Vec<DataSource> {
    let Some(listed) = raw else {
        let file = drawn.map(|dir| dir.join(format!("{split}.jsonl")));
        return file.map(DataSource::new).into_iter().collect();
    };
    let mut sources = Vec::new();
    for (index, raw) in listed.into_iter().enumerate() {
        let key = format!("data.{split}[{index}]");
        if !Selection::of(&raw.path).is_pattern() {
            check_exists(&raw.path, &format!("{key}.path"), drawn, errors);
        }
        sources.push(rows::source(raw, &key, errors));
    }
    sources
}

fn tokenizer(model: &RawModel, drawn: Option<&Path>, errors: &mut Errors) -> PathBuf {
    const KEY: &str = "model.tokenizer";
    let (folder, key) = match (&model.tokenizer, imported(model), drawn) {
        (Some(folder), _, _) => (folder.clone(), KEY),
        (None, Some((folder, key)), _) => (folder.clone(), key),
        (None, None, Some(dir)) => return dir.join("tokenizer"),
        (None, None, None) => {
            let hint = "write the folder that holds tokenizer.json";
            errors.refuse(
                KEY,
                "is missing: a new model has no tokenizer of its own",
                Some(hint),
            );
            return PathBuf::new();
        }
    };
    if is_hub_name(&folder) || !check_exists(&folder, key, drawn, errors) {
        return folder;
    }
    let is_file = folder.extension().is_some_and(|extension| extension == "json");
    if !is_file && !fs::exists(&folder.join("tokenizer.json")) && !is_drawn(&folder, drawn) {
        let hint = "write model.tokenizer with a folder that holds it";
        errors.refuse(key, "there is no tokenizer.json in this folder", Some(hint));
    }
    folder
}

/// The folder of the imported language model, and the key that names it.
fn imported(model: &RawModel) -> Option<(&PathBuf, &'static str)> {
    let whole = model.from.as_ref().map(|folder| (folder, "model.from"));
    let part = model.language_from.as_ref();
    whole.or_else(|| part.map(|folder| (folder, "model.language_from")))
}

/// Whether it can be a model's name on the Hugging Face hub, as `Qwen/Qwen3-8B`. Its folder is looked for when the run
/// starts.
pub(super) fn is_hub_name(path: &Path) -> bool {
    let text = path.to_str().unwrap_or_default();
    let id = text.split('@').next().unwrap_or_default();
    let starts_well = id.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    let parts: Vec<&str> = id.split('/').collect();
    starts_well && parts.len() == 2 && !parts[1].is_empty() && !fs::exists(path)
}

/// Whether the drawn data set is going to make this file.
fn is_drawn(path: &Path, drawn: Option<&Path>) -> bool {
    drawn.is_some_and(|dir| path.starts_with(dir))
}

pub(super) fn check_exists(path: &Path, key: &str, drawn: Option<&Path>, errors: &mut Errors) -> bool {
    let exists = is_drawn(path, drawn) || fs::exists(path);
    // Folders of models have been looked for by themselves.
    if !exists && !["model.from", "model.language_from"].contains(&key) {
        errors.refuse(
            key,
            "there is no such file",
            Some("relative paths start at the working directory"),
        );
    }
    exists
}
