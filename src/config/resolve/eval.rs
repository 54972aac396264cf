//! `eval:` and `checkpoint:`, which meet in the best metric.

use super::super::{
    defaults,
    raw::{
        RawBest, RawCheckpoint, RawDirection, RawEarlyStopping, RawEval, RawEvery, RawKeep, RawMetric,
        RawTrain,
    },
    run::CheckpointChoice,
    written::Errors,
};
use crate::{
    checkpoint::{Better, KeepOptions, Ranking, Resume},
    fs,
    learner::options::{BestMetric, EvalConfig, Every},
};

pub(super) fn evaluation(
    raw: Option<RawEval>,
    train: &RawTrain,
    has_data: bool,
    errors: &mut Errors,
) -> EvalConfig {
    if !has_data {
        errors.no_effect("eval", "there is no data.eval");
    }
    let RawEval {
        every,
        batch_size,
        exact_match,
        max_generate_samples,
        max_new_tokens,
        best,
        early_stopping,
    } = raw.unwrap_or_default();
    if !exact_match {
        for key in ["eval.max_generate_samples", "eval.max_new_tokens"] {
            errors.no_effect(key, "without eval.exact_match nothing is generated");
        }
    }
    let best = best_metric(&best, exact_match, errors);
    if matches!(every, RawEvery::Never) {
        errors.no_effect(
            "eval.early_stopping",
            "eval.every = never evaluates only at the end",
        );
        errors.no_effect(
            "eval.max_generate_samples",
            "the evaluation at the end generates all answers",
        );
    }
    let (patience, min_delta) = match early_stopping {
        Some(RawEarlyStopping { patience, min_delta }) => (Some(patience), min_delta),
        None => (None, defaults::min_delta()),
    };
    EvalConfig {
        every: if has_data { recurrence(every) } else { Every::Never },
        batch_size: batch_size.unwrap_or(train.micro_batch_size),
        exact_match,
        max_generate_samples,
        max_new_tokens: max_new_tokens.unwrap_or(defaults::MAX_NEW_TOKENS),
        best,
        patience,
        min_delta,
    }
}

fn best_metric(raw: &RawBest, exact_match: bool, errors: &mut Errors) -> BestMetric {
    let RawBest { metric, direction } = raw;
    let (name, higher_is_better) = match metric {
        RawMetric::Loss => ("eval_loss", false),
        RawMetric::Perplexity => ("eval_perplexity", false),
        RawMetric::ExactMatch => ("eval_exact_match", true),
        RawMetric::Accuracy => ("eval_accuracy", true),
        RawMetric::MacroF1 => ("eval_macro_f1", true),
        RawMetric::F1 => ("eval_f1", true),
        RawMetric::Auroc => ("eval_auroc", true),
    };
    if matches!(metric, RawMetric::ExactMatch) && !exact_match {
        errors.refuse(
            "eval.best.metric",
            "is not computed",
            Some("write eval.exact_match: true, or another metric"),
        );
    }
    let own = if higher_is_better {
        RawDirection::Max
    } else {
        RawDirection::Min
    };
    if direction.is_some_and(|direction| direction != own) {
        let way = if higher_is_better { "larger" } else { "smaller" };
        let reason = format!("{name} is better when {way}");
        errors.refuse("eval.best.direction", &reason, Some("leave it out"));
    }
    BestMetric {
        name: name.to_owned(),
        higher_is_better,
    }
}

fn recurrence(raw: RawEvery) -> Every {
    match raw {
        RawEvery::Never => Every::Never,
        RawEvery::Steps(steps) => Every::Steps(steps),
        RawEvery::Epochs(epochs) => Every::Epochs(epochs),
        RawEvery::Ratio(ratio) => Every::Ratio(ratio),
    }
}

pub(super) fn checkpoint(
    raw: RawCheckpoint,
    eval: &EvalConfig,
    has_data: bool,
    errors: &mut Errors,
) -> CheckpointChoice {
    let RawCheckpoint {
        every,
        keep: RawKeep {
            last,
            best,
            every: keep_every,
        },
        resume,
        export,
    } = raw;
    if !has_data {
        errors.no_effect(
            "checkpoint.keep.best",
            "there is no data.eval to tell which is best",
        );
    } else if eval.every == Every::Never {
        errors.no_effect(
            "checkpoint.keep.best",
            "eval.every = never evaluates only at the end",
        );
    }
    match (keep_every, every) {
        (Some(_), RawEvery::Never) => {
            errors.no_effect("checkpoint.keep.every", "checkpoint.every = never");
        }
        (Some(multiple), RawEvery::Steps(steps))
            if !multiple.is_multiple_of(steps) && !steps.is_multiple_of(multiple) =>
        {
            let reason = format!("is no multiple of checkpoint.every.steps = {steps}");
            errors.refuse(
                "checkpoint.keep.every",
                &reason,
                Some("checkpoints are written only there"),
            );
        }
        _ => {}
    }
    CheckpointChoice {
        every: recurrence(every),
        keep: KeepOptions {
            last,
            best: best.unwrap_or(defaults::KEEP_BEST),
            every: keep_every,
        },
        ranking: Ranking {
            metric: eval.best.name.clone(),
            better: if eval.best.higher_is_better {
                Better::Higher
            } else {
                Better::Lower
            },
        },
        resume: resume_choice(&resume, errors),
        export,
    }
}

fn resume_choice(raw: &str, errors: &mut Errors) -> Resume {
    match raw {
        "auto" => Resume::Auto,
        "none" => Resume::None,
        path => {
            if !fs::exists(path.as_ref()) {
                let reason = "there is no such folder";
                errors.refuse(
                    "checkpoint.resume",
                    reason,
                    Some("write auto, none, or the folder of a checkpoint"),
                );
            }
            Resume::Path(path.into())
        }
    }
}
