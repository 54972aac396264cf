//! The report of a run: one HTML file with curves, answers and settings, without a script and without the network.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

use self::{
    chart::{CHART_CSS, Chart, curve_svg, escape, percent, short},
    curves::{charts, memory_unit, readable},
    history::{EvalRow, History, smooth},
};
pub use self::{
    history::{SAMPLES_FILE, Sample, write_samples},
    picture::write_picture,
};
use super::TrackError;
use crate::fs;

mod chart;
mod curves;
mod history;
mod image;
mod picture;

/// Name of the report in the run directory.
pub const REPORT_FILE: &str = "report.html";

const REPORT_CSS: &str = include_str!("report/report.css");
/// A flame in the brazier's colours.
const LOGO: &str = "<svg viewBox=\"0 0 24 24\" aria-hidden=\"true\"><path fill=\"#e8590c\" d=\"M12.6 1.5c.9 4.3 6.4 6.6 \
    6.4 12.2a7 7 0 0 1-14 0c0-2.9 1.5-5 3-6.3.1 2 .8 3.2 1.9 3.6.3-3.7.8-6.7 2.7-9.5z\"/><path \
    fill=\"#ffc078\" d=\"M12.4 11.5c.6 1.9 2.8 2.7 2.8 5a3.2 3.2 0 0 1-6.4 0c0-1.4.7-2.3 \
    1.4-2.9.1.9.5 1.4 1 1.5.1-1.4.4-2.5 1.2-3.6z\"/></svg>";
/// A report with more answers than this would be slow to open.
const MAX_SAMPLES: usize = 60;

/// Writes `report.html` from the `metrics.jsonl` of a run and, where they are, its `samples.json`, `config.yaml` and
/// `env.json`. Works on a run that is still going. Returns the file's path.
///
/// # Errors
/// [`TrackError::Fs`] if a file cannot be read or written, [`TrackError::Line`] and [`TrackError::Samples`] if one does
/// not hold what it should. An image that cannot be read is named on its card instead.
pub fn write_report(run_dir: &Path) -> Result<PathBuf, TrackError> {
    let history = History::read(run_dir)?;
    let mut body = header(run_dir, &history);
    body.push_str(&tiles(&history));
    let charts: Vec<Chart> = charts(&history);
    if !charts.is_empty() {
        body.push_str("<h2>Curves</h2><div class=\"charts\">");
        for chart in &charts {
            let _ = write!(body, "<div class=\"card\">{}</div>", curve_svg(chart));
        }
        body.push_str("</div>");
    }
    body.push_str(&by_type(&history));
    body.push_str(&time_split(&history));
    body.push_str(&samples(run_dir, &history.samples));
    body.push_str(&details(run_dir, &history)?);
    let title = escape(&run_name(run_dir));
    let version = env!("CARGO_PKG_VERSION");
    let page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>{title} · Brazier</title>\
         <style>{CHART_CSS}{REPORT_CSS}</style></head>\n<body><main>{body}\
         <footer>Made by Brazier {version} from metrics.jsonl.</footer></main></body></html>\n"
    );
    let path = run_dir.join(REPORT_FILE);
    fs::write_atomic(&path, page.as_bytes())?;
    Ok(path)
}

fn header(run_dir: &Path, history: &History) -> String {
    let (step, epoch) = history
        .steps
        .last()
        .map_or((0.0, f64::NAN), |row| (row.step, row.get("epoch")));
    let epoch = if epoch.is_finite() {
        format!(", epoch {epoch:.2}")
    } else {
        String::new()
    };
    let name = escape(&run_name(run_dir));
    format!(
        "<header>{LOGO}<div><h1>{name}</h1><p class=\"soft\">Training run at step {step}{epoch}</p></div></header>"
    )
}

/// The folder's own name, also where the path ends in `.`.
fn run_name(run_dir: &Path) -> String {
    let full = fs::canonicalize(run_dir).unwrap_or_else(|_| run_dir.into());
    full.file_name()
        .map_or_else(|| "run".into(), |name| name.to_string_lossy().into_owned())
}

/// The figures that one looks for first.
fn tiles(history: &History) -> String {
    let mut tiles: Vec<(String, String)> = Vec::new();
    let last_eval = history.evals.last();
    for (name, value) in last_eval
        .iter()
        .flat_map(|row| &row.metrics)
        .filter(|(name, _)| !name.contains('/'))
    {
        match name.as_str() {
            "loss" => tiles.push((short(*value), format!("evaluation loss{}", best_loss(history)))),
            "perplexity" => tiles.push((short(*value), "perplexity".into())),
            _ if (0.0..=1.0).contains(value) => tiles.push((percent(*value), readable(name))),
            _ => tiles.push((short(*value), readable(name))),
        }
    }
    if let Some(&(_, loss)) = smooth(&history.series("loss")).last() {
        tiles.push((short(loss), "training loss, smoothed".into()));
    }
    if let Some(row) = history.steps.last() {
        tiles.push((short(row.get("total_tokens")), "tokens seen".into()));
        tiles.push((
            duration(history.training_seconds()),
            "training without evaluation".into(),
        ));
    }
    let rates = history.series("tokens_per_second");
    if let Some(rate) = median(rates.iter().map(|(_, rate)| *rate)) {
        tiles.push((short(rate), "tokens per second, median".into()));
    }
    for (field, name) in [
        ("device_memory_bytes", "device"),
        ("process_memory_bytes", "process"),
    ] {
        let most = history
            .series(field)
            .iter()
            .map(|(_, bytes)| *bytes)
            .fold(f64::NAN, f64::max);
        if most.is_finite() {
            let (unit, word) = memory_unit(most);
            tiles.push((
                format!("{:.2} {word}", most / unit),
                format!("{name} memory, most seen"),
            ));
        }
    }
    let tile = |(value, name): &(String, String)| {
        format!(
            "<div class=\"card tile\"><b>{}</b><span>{}</span></div>",
            escape(value),
            escape(name)
        )
    };
    format!(
        "<div class=\"tiles\">{}</div>",
        tiles.iter().map(tile).collect::<String>()
    )
}

/// Where the evaluation loss was least, if that is not the end.
fn best_loss(history: &History) -> String {
    let losses = history.eval_series("loss");
    let best = losses.iter().min_by(|a, b| a.1.total_cmp(&b.1));
    match (best, losses.last()) {
        (Some(best), Some(last)) if best.1 < last.1 => format!("; best {} at step {}", short(best.1), best.0),
        _ => String::new(),
    }
}

/// The last evaluation's metrics by type of question, as bars.
fn by_type(history: &History) -> String {
    let Some(last) = history
        .evals
        .iter()
        .rev()
        .find(|row| row.metrics.iter().any(|(name, _)| name.contains('/')))
    else {
        return String::new();
    };
    let mut rows = String::new();
    for (name, value) in last
        .metrics
        .iter()
        .filter(|(_, value)| (0.0..=1.0).contains(value))
    {
        let Some((_, kind)) = name.split_once('/') else {
            continue;
        };
        let (kind, width) = (escape(&readable(kind)), value * 100.0);
        let shown = percent(*value);
        let bar = format!("<span class=\"bar\"><i style=\"width:{width:.1}%\"></i></span>");
        let _ = write!(rows, "<span>{kind}</span>{bar}<b>{shown}</b>");
    }
    let (step, samples) = (last.step, last.samples);
    format!(
        "<h2>By type of question</h2><div class=\"card panel\"><div class=\"rows\">{rows}</div>\
         <p class=\"soft\">Evaluation at step {step}, {samples} samples.</p></div>"
    )
}

/// Where the time of a step goes, over the whole run.
fn time_split(history: &History) -> String {
    let sum = |field: &str| {
        let seconds = history
            .steps
            .iter()
            .map(|row| row.get(field))
            .filter(|seconds| seconds.is_finite());
        seconds.sum::<f64>()
    };
    let whole = sum("step_seconds");
    let known = [
        ("data", 1, sum("data_seconds")),
        ("forward and backward", 0, sum("forward_backward_seconds")),
        ("optimizer", 2, sum("optimizer_seconds")),
    ];
    let rest = whole - known.iter().map(|(_, _, seconds)| seconds).sum::<f64>();
    if whole <= 0.0 {
        return String::new();
    }
    let mean = whole / history.steps.len() as f64;
    let (mut stack, mut keys) = (String::new(), String::new());
    for (name, colour, seconds) in known.into_iter().chain([("other", 7, rest.max(0.0))]) {
        let share = seconds / whole;
        let _ = write!(
            stack,
            "<i class=\"b{colour}\" style=\"width:{:.2}%\"></i>",
            share * 100.0
        );
        let share = percent(share);
        let _ = write!(
            keys,
            "<span><i class=\"b{colour}\"></i>{name} <b>{share}</b></span>"
        );
    }
    format!(
        "<h2>Where the time of a step goes</h2><div class=\"card panel\"><div class=\"stack\">{stack}</div>\
         <div class=\"keys\">{keys}<span class=\"soft\">mean step {}</span></div></div>",
        duration(mean)
    )
}

fn samples(run_dir: &Path, samples: &[Sample]) -> String {
    if samples.is_empty() {
        return String::new();
    }
    let right = samples.iter().filter(|sample| sample.is_exact()).count();
    let cards: String = samples
        .iter()
        .take(MAX_SAMPLES)
        .map(|sample| card(run_dir, sample))
        .collect();
    let all = samples.len();
    let shown = if all > MAX_SAMPLES {
        format!("; the first {MAX_SAMPLES} are shown")
    } else {
        String::new()
    };
    format!(
        "<h2>Answers to held-out questions</h2><p class=\"soft\">{right} of {all} exactly right{shown}.</p>\
         <div class=\"samples\">{cards}</div>"
    )
}

fn card(run_dir: &Path, sample: &Sample) -> String {
    let mut card = String::from("<div class=\"card sample\">");
    let question = escape(&sample.question);
    if let Some(path) = &sample.image {
        let _ = match image::data_uri(&run_dir.join(path)) {
            Ok(uri) => write!(
                card,
                "<img src=\"{uri}\" alt=\"picture of the question: {question}\">"
            ),
            Err(error) => write!(card, "<div class=\"soft\">{}</div>", escape(&error.to_string())),
        };
    }
    let (answer, kind) = (escape(&sample.answer), escape(&readable(&sample.kind)));
    let _ = write!(
        card,
        "<div><span class=\"tag\">{kind}</span><p class=\"soft\">{question}</p>"
    );
    if sample.is_exact() {
        let _ = write!(card, "<p class=\"answer right\">✓ {answer}</p>");
    } else {
        let reference = escape(&sample.reference);
        let _ = write!(
            card,
            "<p class=\"answer wrong\">✗ {answer}</p><p>right answer: {reference}</p>"
        );
    }
    card.push_str("</div></div>");
    card
}

/// All evaluations as a table, and the files that fix the run.
fn details(run_dir: &Path, history: &History) -> Result<String, TrackError> {
    let mut html = String::new();
    if !history.evals.is_empty() {
        let names = history.metric_names();
        let heads: String = names
            .iter()
            .map(|name| format!("<th>{}</th>", escape(&readable(name))))
            .collect();
        let row = |row: &EvalRow| {
            let cells: String = names
                .iter()
                .map(|name| format!("<td>{}</td>", short(row.get(name))))
                .collect();
            format!("<tr><td>{}</td>{cells}</tr>", row.step)
        };
        let rows: String = history.evals.iter().map(row).collect();
        let _ = write!(
            html,
            "<details class=\"card\"><summary>All evaluations</summary><div class=\"scroll\">\
             <table><tr><th>step</th>{heads}</tr>{rows}</table></div></details>"
        );
    }
    for (name, what) in [("config.yaml", "Configuration"), ("env.json", "Environment")] {
        let path = run_dir.join(name);
        if path.exists() {
            let text = escape(&fs::read_to_string(&path)?);
            let _ = write!(
                html,
                "<details class=\"card\"><summary>{what}</summary><pre>{text}</pre></details>"
            );
        }
    }
    Ok(if html.is_empty() {
        html
    } else {
        format!("<h2>Details</h2>{html}")
    })
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// `12 ms`, `3.4 s`, `5 min 6 s`, `7 h 8 min`.
fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match seconds {
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s if s < 60.0 => format!("{s:.1} s"),
        s if s < 3600.0 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole / 60 % 60),
    }
}

#[cfg(test)]
mod tests;
