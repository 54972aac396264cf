//! What `brazier train` leaves behind at its end: export, report, answers, and a word on what to do next.

use std::{path::Path, time::Instant};

use brazier_models::{Head, Vlm};

use super::{
    Failure,
    model::{export_adapter, export_model, trained_options},
    say,
    session::Session,
    show,
    train::{BAD_ROWS, TrainArgs},
};
use crate::{
    config::{ModelChoice, RunConfig},
    fs,
    learner::{Answer, Evaluation, Trainable},
    track::{self, Sample},
};

/// Answers that are shown at the end of a run.
const SHOWN_ANSWERS: usize = 6;
/// Answers that go into the report.
const REPORTED_ANSWERS: usize = 60;

/// Export, report, and a word on what there is now.
pub(super) fn conclude(
    args: &TrainArgs,
    run: &RunConfig,
    session: &Session,
    model: &Vlm,
    trainable: &Trainable,
    evaluation: Option<&Evaluation>,
    started: Instant,
) -> Result<(), Failure> {
    if let Some(evaluation) = evaluation {
        // Spread over the held-out rows, which are sorted by how they were drawn.
        let spread = |count: usize| -> Vec<&Answer> {
            let len = evaluation.answers.len();
            (0..count.min(len))
                .map(|at| &evaluation.answers[(2 * at + 1) * len / (2 * count.min(len))])
                .collect()
        };
        let samples: Vec<Sample> = spread(REPORTED_ANSWERS)
            .into_iter()
            .map(to_sample)
            .collect::<Result<_, _>>()?;
        track::write_samples(&run.output, &samples)?;
        write_predictions(run, session, evaluation)?;
        print_answers(&spread(SHOWN_ANSWERS));
        for (name, value) in &evaluation.metrics {
            say(format_args!("{name:<32} {value:.4}"));
        }
    }
    let report = track::write_report(&run.output)?;
    say(format_args!(
        "\nfinished after {}",
        in_words(started.elapsed().as_secs())
    ));
    say(format_args!("  run directory  {}", show(&run.output)));
    say(format_args!("  report         {}", show(&report)));
    match session.bad_rows().count() {
        0 => {}
        count => say(format_args!(
            "  skipped rows   {} ({count})",
            show(&run.output.join(BAD_ROWS))
        )),
    }
    if run.checkpoint.export {
        let dir = run.output.join("export");
        if let (Some(_), ModelChoice::Import(base)) = (model.lora(), &run.model) {
            export_adapter(model, trainable, base, &dir)?;
            print_adapter(base, &dir, &session.model.head);
            return Ok(());
        }
        let template = session
            .train
            .has_conversations()
            .then(|| session.train.template());
        let options = trained_options(&session.model, &session.tokenizer, &run.model, template)?;
        let summary = export_model(model, &session.tokenizer, options, &dir)?;
        say(format_args!(
            "  exported model {} ({}; {})",
            show(&dir),
            summary.architecture,
            summary.layout.readers()
        ));
        let image = evaluation.and_then(|evaluation| {
            evaluation.answers.iter().find_map(|answer| {
                answer
                    .image
                    .as_ref()
                    .map(|image| format!(" --image {} --prompt '{}'", show(image), answer.question))
            })
        });
        let example = image.unwrap_or_else(|| " --prompt '…'".to_owned());
        say("\nnext:");
        if session.model.head == Head::Lm {
            say(format_args!("  brazier generate --model {}{example}", show(&dir)));
        }
    }
    say(format_args!(
        "  brazier train{} --set train.…    the same run with other settings: choose another --output",
        args.as_arguments()
    ));
    Ok(())
}

/// What can be done with adapters.
fn print_adapter(base: &Path, dir: &Path, head: &Head) {
    let (base, dir) = (show(base), show(dir));
    say(format_args!("  exported adapters {dir} (PEFT loads them)"));
    // The base model has no head for classes into which that of the adapters could be put.
    if *head != Head::Lm {
        return;
    }
    say(format_args!(
        "\nnext:\n  brazier generate --model {base} --adapter {dir} --prompt '…'\n  \
         brazier model merge --base {base} --adapter {dir} --output merged"
    ));
}

/// `predictions.jsonl`: what a classification head says of each held-out row.
fn write_predictions(run: &RunConfig, session: &Session, evaluation: &Evaluation) -> Result<(), Failure> {
    let Head::Classification { labels } = &session.model.head else {
        return Ok(());
    };
    let lines = evaluation.predictions.iter().map(|row| {
        let line = serde_json::json!({
            "file": row.sample.file.display().to_string(),
            "line": row.sample.line,
            "label": labels[row.class],
            "predicted": labels[row.predicted()],
            "probabilities": row.probabilities,
        });
        format!("{line}\n")
    });
    let text: String = lines.collect();
    fs::write_atomic(&run.output.join("predictions.jsonl"), text.as_bytes())?;
    Ok(())
}

fn to_sample(answer: &Answer) -> Result<Sample, Failure> {
    let image = answer.image.as_deref().map(fs::canonicalize).transpose()?;
    Ok(Sample {
        image,
        question: answer.question.clone(),
        reference: answer.reference.clone(),
        answer: answer.answer.clone(),
        kind: answer.tag.clone().unwrap_or_default(),
    })
}

fn print_answers(answers: &[&Answer]) {
    if answers.is_empty() {
        return;
    }
    say("\nheld-out images:");
    for answer in answers {
        let image = answer.image.as_deref().map(show).unwrap_or_default();
        let verdict = if answer.is_exact() {
            "right".to_owned()
        } else {
            format!("expected: {}", answer.reference)
        };
        say(format_args!(
            "  {image}\n    {}\n    -> {}   ({verdict})",
            answer.question, answer.answer
        ));
    }
    say("");
}

fn in_words(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}
