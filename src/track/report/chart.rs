//! Line charts as SVG, without a script and without a font: readable in a browser, in a README and in a mail.

use std::fmt::Write;

/// Colours, fonts and line widths of the charts, for light and dark. A page with charts needs it once.
pub(super) const CHART_CSS: &str = include_str!("chart.css");
/// Width of a chart in SVG units.
pub(super) const CHART_WIDTH: f64 = 560.0;
/// Height of a chart in SVG units.
pub(super) const CHART_HEIGHT: f64 = 280.0;

const LEFT: f64 = 56.0;
const RIGHT: f64 = 24.0;
const BOTTOM: f64 = 34.0;
const LEGEND_TOP: f64 = 46.0;
const LEGEND_ROW: f64 = 18.0;
/// Average width of a character of the 12-unit font; for laying out legends.
const CHARACTER: f64 = 6.6;
/// More points than this say nothing more at this width.
const MAX_POINTS: usize = 700;
const COLOURS: usize = 8;

/// How the vertical axis runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    /// From 0, or from the least value if that is negative.
    Linear,
    /// Logarithmic; values of 0 and less are left out.
    Log,
    /// From 0 to 1, labelled in per cent.
    Percent,
}

/// How a line is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Thin and pale, not in the legend: the raw values behind a smoothed line.
    Faint,
    /// A plain line.
    Solid,
    /// A line with a dot at each point; pointing at one tells its value.
    Dots,
    /// The same, thicker and first in the legend: the sum of the other lines.
    Strong,
}

/// One line of a chart.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    /// Word in the legend.
    pub(super) name: String,
    /// `(step, value)`, in the order of steps. Values that are not finite leave a gap.
    pub(super) points: Vec<(f64, f64)>,
    /// How it is drawn.
    pub(super) look: Look,
    /// Index into the palette of eight, which repeats.
    pub(super) colour: usize,
}

/// A chart over steps.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Chart {
    /// Headline.
    pub(super) title: String,
    /// Vertical axis.
    pub(super) scale: Scale,
    /// Lines, the later over the earlier.
    pub(super) lines: Vec<Line>,
}

/// Draws a chart as an `<svg>` element that takes its looks from [`CHART_CSS`].
pub(super) fn curve_svg(chart: &Chart) -> String {
    let (w, h) = (CHART_WIDTH, CHART_HEIGHT);
    let (title, inner) = (escape(&chart.title), curve(chart));
    format!("<svg viewBox=\"0 0 {w} {h}\" role=\"img\" aria-label=\"{title}\">{inner}</svg>")
}

/// The inside of [`curve_svg`], to be placed in a larger drawing.
pub(super) fn curve(chart: &Chart) -> String {
    let mut svg = format!(
        "<text class=\"title\" x=\"16\" y=\"24\">{}</text>",
        escape(&chart.title)
    );
    let (legend, rows) = legend(&chart.lines);
    svg.push_str(&legend);
    let frame = Frame::new(chart, rows);
    frame.draw_axes(&mut svg);
    for line in &chart.lines {
        frame.draw_line(&mut svg, line);
    }
    svg
}

/// Keys and names of the lines, wrapped into rows; nothing if a single line needs no name.
fn legend(lines: &[Line]) -> (String, usize) {
    let mut named: Vec<_> = lines.iter().filter(|line| line.look != Look::Faint).collect();
    named.sort_by_key(|line| line.look != Look::Strong);
    if named.len() < 2 {
        return (String::new(), 0);
    }
    let (mut svg, mut x, mut row) = (String::new(), 16.0, 0);
    for line in named {
        let width = 22.0 + CHARACTER * line.name.chars().count() as f64 + 8.0;
        if x + width > CHART_WIDTH - 8.0 && x > 16.0 {
            (x, row) = (16.0, row + 1);
        }
        let (y, name) = (LEGEND_TOP + LEGEND_ROW * row as f64, escape(&line.name));
        let (key_y, colour, text_x) = (y - 6.0, line.colour % COLOURS, x + 18.0);
        let _ = write!(
            svg,
            "<rect class=\"key k{colour}\" x=\"{x:.0}\" y=\"{key_y:.0}\" width=\"12\" height=\"4\" rx=\"2\"/>\
             <text x=\"{text_x:.0}\" y=\"{y:.0}\">{name}</text>"
        );
        x += width;
    }
    (svg, row + 1)
}

/// Where values lie on the drawing.
struct Frame {
    scale: Scale,
    top: f64,
    x_range: (f64, f64),
    /// In logarithms of ten where the scale is logarithmic.
    y_range: (f64, f64),
}

impl Frame {
    fn new(chart: &Chart, legend_rows: usize) -> Self {
        let points = || chart.lines.iter().flat_map(|line| &line.points).copied();
        let xs = bounds(points().map(|(x, _)| x)).unwrap_or((0.0, 1.0));
        let ys = bounds(points().filter_map(|(_, y)| place(chart.scale, y)));
        let y_range = match (chart.scale, ys) {
            (Scale::Percent, _) => (0.0, 1.0),
            (_, None) => (0.0, 1.0),
            (Scale::Linear, Some((low, high))) => {
                let low = low.min(0.0);
                // A little air above, and a range where all values are the same.
                (
                    low,
                    if high > low {
                        high + (high - low) * 0.04
                    } else {
                        low + 1.0
                    },
                )
            }
            (Scale::Log, Some((low, high))) => (low - 0.05, high.max(low + 0.3) + 0.05),
        };
        let x_range = (
            xs.0.min(0.0),
            if xs.1 > xs.0.min(0.0) { xs.1 } else { xs.0 + 1.0 },
        );
        let top = if legend_rows == 0 {
            44.0
        } else {
            LEGEND_TOP + LEGEND_ROW * legend_rows as f64 - 4.0
        };
        Self {
            scale: chart.scale,
            top,
            x_range,
            y_range,
        }
    }

    fn x(&self, step: f64) -> f64 {
        let (low, high) = self.x_range;
        LEFT + (step - low) / (high - low) * (CHART_WIDTH - LEFT - RIGHT)
    }

    /// `placed` as [`place`] gives it.
    fn y(&self, placed: f64) -> f64 {
        let (low, high) = self.y_range;
        let bottom = CHART_HEIGHT - BOTTOM;
        bottom - (placed - low) / (high - low) * (bottom - self.top)
    }

    fn draw_axes(&self, svg: &mut String) {
        let (right, bottom) = (CHART_WIDTH - RIGHT, CHART_HEIGHT - BOTTOM);
        for (placed, label) in self.y_ticks() {
            let y = self.y(placed);
            let (text_x, text_y) = (LEFT - 8.0, y + 4.0);
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"end\" x=\"{text_x}\" y=\"{text_y:.1}\">{label}</text>"
            );
        }
        let (ticks, spacing) = ticks(self.x_range.0, self.x_range.1, 6);
        for (&tick, label) in ticks.iter().zip(tick_labels(&ticks, spacing)) {
            if tick.fract() != 0.0 {
                continue;
            }
            let (x, y) = (self.x(tick), bottom + 18.0);
            // The word "step" stands where the first tick is.
            let label = if tick == 0.0 { "step 0".to_string() } else { label };
            let _ = write!(svg, "<text class=\"mid\" x=\"{x:.1}\" y=\"{y}\">{label}</text>");
        }
    }

    /// Where lines go across, with their labels.
    fn y_ticks(&self) -> Vec<(f64, String)> {
        let (low, high) = self.y_range;
        match self.scale {
            Scale::Percent => [0.0, 0.25, 0.5, 0.75, 1.0]
                .map(|y| (y, format!("{:.0}%", y * 100.0)))
                .into(),
            Scale::Linear => {
                let (ticks, spacing) = ticks(low, high, 5);
                let labels = tick_labels(&ticks, spacing);
                ticks.into_iter().zip(labels).collect()
            }
            Scale::Log => {
                let factors: &[f64] = match high - low {
                    span if span < 1.2 => &[1.0, 2.0, 3.0, 5.0],
                    span if span < 2.5 => &[1.0, 3.0],
                    _ => &[1.0],
                };
                let decades = low.floor() as i32..=high.ceil() as i32;
                let all = decades.flat_map(|d| factors.iter().map(move |factor| factor * 10_f64.powi(d)));
                let inside = all.filter(|value| (low..=high).contains(&value.log10()));
                inside.map(|value| (value.log10(), plain(value))).collect()
            }
        }
    }

    fn draw_line(&self, svg: &mut String, line: &Line) {
        let colour = line.colour % COLOURS;
        let class = match line.look {
            Look::Faint => format!("k{colour} faint"),
            Look::Strong => format!("k{colour} strong"),
            Look::Solid | Look::Dots => format!("k{colour}"),
        };
        for run in line
            .points
            .split(|&(_, y)| place(self.scale, y).is_none())
            .filter(|run| !run.is_empty())
        {
            let points: Vec<String> = thin(run, line.points.len().div_ceil(MAX_POINTS / 2))
                .into_iter()
                .filter_map(|(x, y)| Some(format!("{:.1},{:.1}", self.x(x), self.y(place(self.scale, y)?))))
                .collect();
            let _ = write!(
                svg,
                "<polyline class=\"{class}\" points=\"{}\"/>",
                points.join(" ")
            );
        }
        let is_dotted = matches!(line.look, Look::Dots | Look::Strong) && line.points.len() <= MAX_POINTS / 4;
        for &(x, value) in line.points.iter().filter(|_| is_dotted || line.points.len() == 1) {
            let Some(placed) = place(self.scale, value) else {
                continue;
            };
            let (cx, cy, name) = (self.x(x), self.y(placed), escape(&line.name));
            let value = if self.scale == Scale::Percent {
                percent(value)
            } else {
                short(value)
            };
            let _ = write!(
                svg,
                "<circle class=\"k{colour}\" cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"2.6\">\
                 <title>{name} {value} at step {x}</title></circle>"
            );
        }
    }
}

/// The value as the axis counts it; `None` where it has no place.
fn place(scale: Scale, value: f64) -> Option<f64> {
    let placed = if scale == Scale::Log { value.log10() } else { value };
    placed.is_finite().then_some(placed)
}

fn bounds(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |range, value| match range {
        None => Some((value, value)),
        Some((low, high)) => Some((value.min(low), value.max(high))),
    })
}

/// Of each bucket of points the least and the greatest, so that no spike is hidden.
fn thin(points: &[(f64, f64)], bucket: usize) -> Vec<(f64, f64)> {
    if bucket <= 2 {
        return points.to_vec();
    }
    let mut kept = Vec::new();
    for points in points.chunks(bucket) {
        let order = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let ends = points.iter().min_by(order).zip(points.iter().max_by(order));
        let Some((&least, &greatest)) = ends else { continue };
        let (first, second) = if least.0 <= greatest.0 {
            (least, greatest)
        } else {
            (greatest, least)
        };
        kept.push(first);
        if second != first {
            kept.push(second);
        }
    }
    kept
}

/// About `count` round values between two bounds, and their distance: 1, 2 or 5 times a power of ten.
fn ticks(low: f64, high: f64, count: usize) -> (Vec<f64>, f64) {
    let rough = (high - low) / count as f64;
    let power = 10_f64.powf(rough.log10().floor());
    let factor = match rough / power {
        ratio if ratio <= 1.0 => 1.0,
        ratio if ratio <= 2.0 => 2.0,
        ratio if ratio <= 5.0 => 5.0,
        _ => 10.0,
    };
    let spacing = factor * power;
    let (first, last) = (
        (low / spacing - 1e-9).ceil() as i64,
        (high / spacing + 1e-9).floor() as i64,
    );
    (
        (first..=last).map(|index| index as f64 * spacing).collect(),
        spacing,
    )
}

/// Ticks with as many digits as tell them apart, and one unit for all of them.
fn tick_labels(ticks: &[f64], spacing: f64) -> Vec<String> {
    let greatest = ticks
        .iter()
        .fold(0.0, |greatest: f64, tick| greatest.max(tick.abs()));
    let (unit, suffix) = match greatest {
        size if size >= 1e9 => (1e9, "G"),
        size if size >= 1e6 => (1e6, "M"),
        size if size >= 1e4 => (1e3, "k"),
        _ => (1.0, ""),
    };
    // Ticks are multiples of 1, 2 or 5 times a power of ten: that power tells the digits.
    let decimals = (-(spacing / unit).log10() - 1e-9).ceil().max(0.0) as usize;
    let label = |tick: &f64| match *tick {
        0.0 => "0".into(),
        tick if spacing < 1e-3 => format!("{tick:.1e}").replace(".0e", "e"),
        tick => format!("{:.decimals$}{suffix}", tick / unit),
    };
    ticks.iter().map(label).collect()
}

/// A power of ten or a small multiple of one, without needless zeros.
fn plain(value: f64) -> String {
    if (1e-3..1e5).contains(&value) {
        format!("{}", (value * 1e6).round() / 1e6)
    } else {
        format!("{value:.0e}")
    }
}

/// Four digits, with k, M, G behind large numbers.
pub(super) fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if !size.is_finite() => "–".into(),
        size if size >= 1e9 => format!("{:.2}G", value / 1e9),
        size if size >= 1e6 => format!("{:.2}M", value / 1e6),
        size if size >= 1e4 => format!("{:.1}k", value / 1e3),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1e-2 => format!("{value:.3}"),
        _ => format!("{value:.2e}"),
    }
}

pub(super) fn percent(fraction: f64) -> String {
    format!("{:.1}%", fraction * 100.0)
}

/// Text made safe for HTML and SVG, in content and in quoted attributes. Control characters, which XML forbids, go.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() && c != '\n' && c != '\t' => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(scale: Scale, points: Vec<(f64, f64)>) -> Chart {
        let line = |look, colour| Line {
            name: format!("{look:?}<"),
            points: points.clone(),
            look,
            colour,
        };
        Chart {
            title: "a & b".into(),
            scale,
            lines: vec![line(Look::Faint, 0), line(Look::Dots, 9)],
        }
    }

    /// Tags of a drawing with their nesting checked.
    fn assert_well_formed(svg: &str) {
        let mut open = Vec::new();
        for tag in svg.split('<').skip(1) {
            let tag = tag.split_once('>').expect("a tag ends").0;
            let name = tag.split(' ').next().unwrap();
            match name.strip_prefix('/') {
                Some(name) => assert_eq!(open.pop(), Some(name), "{svg}"),
                None if tag.ends_with('/') => {}
                None => open.push(name),
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }

    #[test]
    fn drawings_are_well_formed_whatever_the_values() {
        let sets = [
            vec![],
            vec![(0.0, 0.0)],
            vec![(5.0, 3.0)],
            vec![(1.0, f64::NAN), (2.0, f64::INFINITY), (3.0, -1.0)],
            vec![(1.0, 1e-7), (2.0, 2e-7), (3.0, 1.5e-7)],
            vec![(0.0, 7.0), (1e6, 7.0)],
            (0..5000)
                .map(|n| (f64::from(n), 2.0 + f64::from(n).sin()))
                .collect(),
        ];
        for points in sets {
            for scale in [Scale::Linear, Scale::Log, Scale::Percent] {
                let svg = curve_svg(&chart(scale, points.clone()));
                assert_well_formed(&svg);
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
                assert!(svg.len() < 60_000, "{}", svg.len());
            }
        }
    }

    #[test]
    fn a_gap_parts_a_line() {
        let svg = curve_svg(&chart(
            Scale::Linear,
            vec![(1.0, 1.0), (2.0, 2.0), (3.0, f64::NAN), (4.0, 1.0)],
        ));
        assert_eq!(svg.matches("<polyline").count(), 4, "two lines of two parts");
    }

    #[test]
    fn thinning_keeps_the_spike() {
        let points: Vec<_> = (0..100_000)
            .map(|n| (f64::from(n), if n == 54_321 { 9.0 } else { 1.0 }))
            .collect();
        let thinned = thin(&points, 250);
        assert!(thinned.len() <= 800 && thinned.contains(&(54_321.0, 9.0)));
        assert!(thinned.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn ticks_are_round_and_labels_short() {
        let labels = |low, high| {
            let (ticks, spacing) = ticks(low, high, 5);
            tick_labels(&ticks, spacing).join(" ")
        };
        assert_eq!(labels(0.0, 2500.0), "0 500 1000 1500 2000 2500");
        assert_eq!(labels(0.0, 25_000.0), "0 5k 10k 15k 20k 25k");
        assert_eq!(labels(0.0, 2_500_000.0), "0 0.5M 1.0M 1.5M 2.0M 2.5M");
        assert_eq!(labels(0.0, 1.0), "0 0.2 0.4 0.6 0.8 1.0");
        assert_eq!(labels(0.0, 0.002), "0 5e-4 1e-3 1.5e-3 2e-3");
        assert_eq!(labels(0.0, 15_000.0), "0 5k 10k 15k");
        assert_eq!(labels(0.0, 0.9), "0 0.2 0.4 0.6 0.8");
        assert_eq!(labels(-1.0, 1.5), "-1.0 -0.5 0 0.5 1.0 1.5");
    }

    #[test]
    fn a_logarithmic_axis_has_room_for_decades() {
        let svg = curve_svg(&chart(Scale::Log, vec![(1.0, 0.01), (2.0, 10.0)]));
        for label in [">0.01<", ">0.1<", ">1<", ">10<"] {
            assert!(svg.contains(label), "{label} in {svg}");
        }
    }
}
