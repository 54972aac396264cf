//! From a run's history to its curves.

use super::{
    chart::{Chart, Line, Look, Scale},
    history::{History, smooth},
};

/// Above this ratio between the largest and the smallest value a linear axis hides the small ones.
const LOG_RATIO: f64 = 20.0;

/// The curves of a run that its report shows; those without a value are left out.
pub(super) fn charts(history: &History) -> Vec<Chart> {
    let mut charts = vec![loss_chart(history)];
    charts.extend(metric_charts(history));
    let smoothed = |title: &str, field: &str, colour: usize, scale: Option<Scale>| {
        let raw = history.series(field);
        let smooth = smooth(&raw);
        let scale = scale.unwrap_or_else(|| linear_or_log(&smooth));
        let line = |points, look| Line {
            name: title.to_string(),
            points,
            look,
            colour,
        };
        Chart {
            title: title.to_string(),
            scale,
            lines: vec![line(raw, Look::Faint), line(smooth, Look::Solid)],
        }
    };
    let rate = history.series("lr");
    let rate = Line {
        name: "learning rate".into(),
        points: rate,
        look: Look::Solid,
        colour: 6,
    };
    charts.push(Chart {
        title: "Learning rate".into(),
        scale: Scale::Linear,
        lines: vec![rate],
    });
    charts.push(smoothed("Gradient norm before clipping", "grad_norm", 3, None));
    charts.push(smoothed(
        "Tokens per second",
        "tokens_per_second",
        2,
        Some(Scale::Linear),
    ));
    charts.push(memory_chart(history));
    let has_values = |chart: &Chart| {
        chart
            .lines
            .iter()
            .any(|line| line.points.iter().any(|(_, y)| y.is_finite()))
    };
    charts.retain(has_values);
    charts
}

/// Training and evaluation loss.
pub(super) fn loss_chart(history: &History) -> Chart {
    let raw = history.series("loss");
    let train = smooth(&raw);
    let eval = history.eval_series("loss");
    let scale = linear_or_log(&[train.clone(), eval.clone()].concat());
    let line = |name: &str, points, look, colour| Line {
        name: name.into(),
        points,
        look,
        colour,
    };
    let mut lines = vec![
        line("raw", raw, Look::Faint, 0),
        line("training", train, Look::Solid, 0),
    ];
    if !eval.is_empty() {
        lines.push(line("evaluation", eval, Look::Dots, 1));
    }
    let unit = if scale == Scale::Log {
        "nats per token, logarithmic"
    } else {
        "nats per token"
    };
    Chart {
        title: format!("Loss ({unit})"),
        scale,
        lines,
    }
}

/// One chart per metric other than loss and perplexity, with a line for each type of question.
pub(super) fn metric_charts(history: &History) -> Vec<Chart> {
    let names = history.metric_names();
    let heads = names
        .iter()
        .filter(|name| !name.contains('/') && !["loss", "perplexity"].contains(name));
    let chart = |head: &&str| {
        let prefix = format!("{head}/");
        let kinds: Vec<&str> = names
            .iter()
            .filter_map(|name| name.strip_prefix(&prefix))
            .collect();
        let mut lines: Vec<Line> = kinds
            .iter()
            .enumerate()
            .map(|(index, kind)| Line {
                name: readable(kind),
                points: history.eval_series(&format!("{prefix}{kind}")),
                look: Look::Dots,
                colour: index + 1,
            })
            .collect();
        let name = if kinds.is_empty() {
            readable(head)
        } else {
            "all".into()
        };
        lines.push(Line {
            name,
            points: history.eval_series(head),
            look: Look::Strong,
            colour: 0,
        });
        let is_fraction = lines
            .iter()
            .flat_map(|line| &line.points)
            .all(|(_, y)| (0.0..=1.0).contains(y));
        let scale = if is_fraction {
            Scale::Percent
        } else {
            Scale::Linear
        };
        let title = if kinds.is_empty() {
            title(head)
        } else {
            format!("{} by type", title(head))
        };
        Chart { title, scale, lines }
    };
    heads.map(chart).collect()
}

fn memory_chart(history: &History) -> Chart {
    let fields = [
        ("device", "device_memory_bytes", 5),
        ("process", "process_memory_bytes", 7),
    ];
    let most = fields
        .iter()
        .flat_map(|(_, field, _)| history.series(field))
        .map(|(_, bytes)| bytes);
    let (unit, word) = memory_unit(most.fold(0.0, f64::max));
    let line = |(name, field, colour): (&str, &str, usize)| {
        let points: Vec<_> = history
            .series(field)
            .into_iter()
            .map(|(x, bytes)| (x, bytes / unit))
            .collect();
        let is_known = points.iter().any(|(_, y)| y.is_finite());
        is_known.then(|| Line {
            name: name.into(),
            points,
            look: Look::Solid,
            colour,
        })
    };
    let lines = fields.into_iter().filter_map(line).collect();
    Chart {
        title: format!("Memory ({word})"),
        scale: Scale::Linear,
        lines,
    }
}

pub(super) fn memory_unit(most_bytes: f64) -> (f64, &'static str) {
    let gibibyte = 1024.0_f64.powi(3);
    if most_bytes < gibibyte {
        (1024.0_f64.powi(2), "MiB")
    } else {
        (gibibyte, "GiB")
    }
}

fn linear_or_log(points: &[(f64, f64)]) -> Scale {
    let positive = || {
        points
            .iter()
            .map(|(_, y)| *y)
            .filter(|y| *y > 0.0 && y.is_finite())
    };
    let (least, greatest) = (
        positive().fold(f64::INFINITY, f64::min),
        positive().fold(0.0, f64::max),
    );
    if greatest / least > LOG_RATIO {
        Scale::Log
    } else {
        Scale::Linear
    }
}

pub(super) fn readable(name: &str) -> String {
    name.replace('_', " ").replace('/', ": ")
}

/// Readable, with a capital.
fn title(name: &str) -> String {
    let name = readable(name);
    let mut letters = name.chars();
    letters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
