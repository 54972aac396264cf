//! One picture of a run for a README: curves on top, a few answers below, as a single SVG file.

use std::{fmt::Write, path::Path};

use super::{
    chart::{CHART_CSS, CHART_HEIGHT, CHART_WIDTH, Chart, curve, escape},
    curves::{loss_chart, metric_charts},
    history::{History, Sample},
    image,
};
use crate::{fs, track::TrackError};

const GAP: f64 = 20.0;
const CARD_HEIGHT: f64 = 128.0;
const IMAGE: f64 = 96.0;
const CARDS_IN_A_ROW: usize = 3;
/// Average width of a character of the 12-unit font.
const CHARACTER: f64 = 6.4;

/// Draws the loss, the first other metric and the first `max_samples` answers of a run into `path`. The file needs no
/// other file and follows the reader's light or dark scheme.
///
/// # Errors
/// As [`super::write_report`]; here an unreadable image is an error too.
pub fn write_picture(run_dir: &Path, path: &Path, max_samples: usize) -> Result<(), TrackError> {
    let history = History::read(run_dir)?;
    let mut charts = vec![loss_chart(&history)];
    charts.extend(metric_charts(&history).into_iter().next());
    let samples = &history.samples[..history.samples.len().min(max_samples)];
    let svg = picture(run_dir, &charts, samples)?;
    Ok(fs::write_atomic(path, svg.as_bytes())?)
}

fn picture(run_dir: &Path, charts: &[Chart], samples: &[Sample]) -> Result<String, TrackError> {
    let width = GAP + charts.len() as f64 * (CHART_WIDTH + GAP);
    let columns = if charts.len() < 2 { 1 } else { CARDS_IN_A_ROW };
    let rows = samples.len().div_ceil(columns) as f64;
    let height = GAP + CHART_HEIGHT + GAP + rows * (CARD_HEIGHT + GAP);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\"><style>{CHART_CSS}{PICTURE_CSS}</style>\
         <rect class=\"page\" width=\"{width}\" height=\"{height}\" rx=\"16\"/>"
    );
    for (index, chart) in charts.iter().enumerate() {
        let x = GAP + index as f64 * (CHART_WIDTH + GAP);
        let inner = curve(chart);
        let _ = write!(
            svg,
            "<g transform=\"translate({x} {GAP})\">{}{inner}</g>",
            card(CHART_WIDTH, CHART_HEIGHT)
        );
    }
    let card_width = (width - GAP) / columns as f64 - GAP;
    for (index, sample) in samples.iter().enumerate() {
        let x = GAP + (index % columns) as f64 * (card_width + GAP);
        let y = GAP + CHART_HEIGHT + GAP + (index / columns) as f64 * (CARD_HEIGHT + GAP);
        let inner = answer(run_dir, sample, card_width)?;
        let _ = write!(
            svg,
            "<g transform=\"translate({x:.1} {y:.1})\">{}{inner}</g>",
            card(card_width, CARD_HEIGHT)
        );
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

const PICTURE_CSS: &str = "svg .page{fill:var(--page)} svg .card{fill:var(--card);stroke:var(--line)} \
    svg image{image-rendering:pixelated} svg .answer{font-size:14px;font-weight:600} \
    svg .right{fill:var(--c2)} svg .wrong{fill:var(--c4)}";

fn card(width: f64, height: f64) -> String {
    format!("<rect class=\"card\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"12\"/>")
}

/// The image at the left, question and answer at its right.
fn answer(run_dir: &Path, sample: &Sample, width: f64) -> Result<String, TrackError> {
    let (mut svg, mut x) = (String::new(), 16.0);
    if let Some(path) = &sample.image {
        let uri = image::data_uri(&run_dir.join(path))?;
        let _ = write!(
            svg,
            "<image x=\"16\" y=\"16\" width=\"{IMAGE}\" height=\"{IMAGE}\" href=\"{uri}\"/>"
        );
        x += IMAGE + 16.0;
    }
    let columns = ((width - x - 12.0) / CHARACTER) as usize;
    let mut y = 32.0;
    for line in wrap(&sample.question, columns, 3) {
        let _ = write!(
            svg,
            "<text class=\"ink\" x=\"{x}\" y=\"{y}\">{}</text>",
            escape(&line)
        );
        y += 17.0;
    }
    y += 8.0;
    let (class, mark) = if sample.is_exact() {
        ("right", '✓')
    } else {
        ("wrong", '✗')
    };
    for (index, line) in wrap(&sample.answer, columns.saturating_sub(4), 2)
        .iter()
        .enumerate()
    {
        let mark = if index == 0 {
            format!("{mark} ")
        } else {
            String::new()
        };
        let text = escape(line);
        let _ = write!(
            svg,
            "<text class=\"answer {class}\" x=\"{x}\" y=\"{y}\">{mark}{text}</text>"
        );
        y += 18.0;
    }
    if !sample.is_exact()
        && let Some(line) = wrap(&format!("right: {}", sample.reference), columns, 1).first()
    {
        let _ = write!(svg, "<text x=\"{x}\" y=\"{y}\">{}</text>", escape(line));
    }
    Ok(svg)
}

/// Lines of at most `columns` characters, broken at spaces; what does not fit in `max_lines` ends in an ellipsis.
fn wrap(text: &str, columns: usize, max_lines: usize) -> Vec<String> {
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut();
        match line {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= columns => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_string()),
        }
    }
    let is_cut = lines.len() > max_lines;
    lines.truncate(max_lines);
    let last = lines.len().saturating_sub(1);
    for (index, line) in lines.iter_mut().enumerate() {
        let is_long = line.chars().count() > columns;
        if is_long || (is_cut && index == last) {
            *line = line
                .chars()
                .take(columns.saturating_sub(1))
                .chain(['…'])
                .collect();
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_wraps_at_spaces_and_is_cut_with_an_ellipsis() {
        assert_eq!(
            wrap("how many red circles are there", 12, 3),
            ["how many red", "circles are", "there"]
        );
        assert_eq!(
            wrap("how many red circles are there", 12, 2),
            ["how many red", "circles are…"]
        );
        assert_eq!(wrap("extraordinarily", 6, 2), ["extra…"]);
        assert_eq!(wrap("", 6, 2), [""]);
    }
}
