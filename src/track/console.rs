//! Progress for whoever watches: a bar on a terminal, JSON lines elsewhere. Never the cause of a failed run: once an
//! output is closed, it stays silent.

use std::{
    fmt,
    io::{self, Write},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};

use super::{ConsoleKind, EvalRecord, StepRecord};

/// Weight of the past in the loss that the bar shows.
const SMOOTHING: f64 = 0.9;
/// How often the bar's clock moves on its own.
const TICK: Duration = Duration::from_millis(500);
const TEMPLATE: &str =
    "{bar:24.cyan/black.bright} {pos}/{len} {percent:>3}% · {elapsed} < {eta} · {wide_msg}";

pub(super) struct Console {
    shape: Shape,
    err: Output,
}

enum Shape {
    Bar(Bar),
    Json(Output),
    None,
}

impl Console {
    pub(super) fn open(kind: ConsoleKind, total_steps: u64, resume_step: u64) -> Self {
        let has_terminal = !ProgressDrawTarget::stdout().is_hidden();
        let shape = match kind {
            ConsoleKind::None => Shape::None,
            ConsoleKind::Auto | ConsoleKind::Bar if has_terminal => {
                Shape::Bar(Bar::open(total_steps, resume_step))
            }
            // A bar that was asked for where none can be drawn: lines still tell how the run does.
            ConsoleKind::Auto | ConsoleKind::Bar | ConsoleKind::Json => {
                Shape::Json(Output::new(io::stdout()))
            }
        };
        Self {
            shape,
            err: Output::new(io::stderr()),
        }
    }

    pub(super) fn progress(&self, step: u64) {
        if let Shape::Bar(bar) = &self.shape {
            bar.bar.set_position(step);
        }
    }

    pub(super) fn step(&mut self, record: &StepRecord, line: &str) {
        match &mut self.shape {
            Shape::Bar(bar) => bar.step(record),
            Shape::Json(out) => out.line(line),
            Shape::None => {}
        }
    }

    pub(super) fn eval(&mut self, record: &EvalRecord, line: &str) {
        match &mut self.shape {
            Shape::Bar(bar) => bar.bar.println(describe_eval(record)),
            Shape::Json(out) => out.line(line),
            Shape::None => {}
        }
    }

    pub(super) fn message(&mut self, text: &str) {
        match &mut self.shape {
            Shape::Bar(bar) => bar.bar.println(text),
            Shape::Json(_) => self.err.line(text),
            Shape::None => {}
        }
    }

    /// Leaves the bar where it stands, so that what is printed next comes below it.
    pub(super) fn finish(&mut self) {
        if let Shape::Bar(bar) = &self.shape {
            bar.bar.abandon();
        }
    }
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shape = match self.shape {
            Shape::Bar(_) => "Bar",
            Shape::Json(_) => "Json",
            Shape::None => "None",
        };
        f.debug_tuple("Console").field(&shape).finish()
    }
}

struct Bar {
    bar: ProgressBar,
    smooth_loss: Option<f64>,
}

impl Bar {
    fn open(total_steps: u64, resume_step: u64) -> Self {
        let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(total_steps), ProgressDrawTarget::stdout())
            .with_style(style.progress_chars("━╸━"))
            .with_position(resume_step)
            .with_message("first step")
            .with_finish(ProgressFinish::Abandon);
        // Otherwise the steps of earlier sessions would count as done in no time.
        bar.reset_eta();
        bar.enable_steady_tick(TICK);
        Self {
            bar,
            smooth_loss: None,
        }
    }

    fn step(&mut self, record: &StepRecord) {
        let loss = smooth(self.smooth_loss, f64::from(record.loss));
        self.smooth_loss = Some(loss);
        self.bar.set_position(record.step);
        self.bar.set_message(describe_step(record, loss));
    }
}

fn smooth(past: Option<f64>, value: f64) -> f64 {
    past.map_or(value, |past| SMOOTHING * past + (1.0 - SMOOTHING) * value)
}

fn describe_step(record: &StepRecord, loss: f64) -> String {
    let rate = scaled(record.tokens_per_second);
    format!(
        "loss {loss:.4} · lr {:.2e} · {rate} tok/s · epoch {:.2}",
        record.lr, record.epoch
    )
}

/// `eval at step 500: loss 0.1234, perplexity 1.131, exact match 91.2% (colour 95.0%, count 88.0%) · 64 samples in 3.2 s`
fn describe_eval(record: &EvalRecord) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut details: Vec<String> = Vec::new();
    for (name, value) in &record.metrics {
        let name = name.strip_prefix("eval_").unwrap_or(name).replace('_', " ");
        let is_fraction = name.starts_with("exact match") || name.starts_with("accuracy");
        let value = if is_fraction {
            format!("{:.1}%", value * 100.0)
        } else {
            format!("{value:.4}")
        };
        match name.split_once('/') {
            Some((_, detail)) => details.push(format!("{detail} {value}")),
            None => parts.push(format!("{name} {value}")),
        }
    }
    let details = if details.is_empty() {
        String::new()
    } else {
        format!(" ({})", details.join(", "))
    };
    let parts = parts.join(", ");
    format!(
        "eval at step {}: {parts}{details} · {} samples in {:.1} s",
        record.step, record.samples, record.seconds
    )
}

/// `950`, `12.3k`, `4.56M`: three digits.
fn scaled(value: f64) -> String {
    let (value, unit) = match value {
        value if value >= 999.5e6 => (value / 1e9, "G"),
        value if value >= 999.5e3 => (value / 1e6, "M"),
        value if value >= 999.5 => (value / 1e3, "k"),
        value => (value, ""),
    };
    let decimals = if value >= 99.95 || (unit.is_empty() && value >= 10.0) {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    format!("{value:.decimals$}{unit}")
}

/// A stream that falls silent at its first error, such as a closed pipe behind `| head`.
struct Output(Option<Box<dyn Write + Send>>);

impl Output {
    fn new(stream: impl Write + Send + 'static) -> Self {
        Self(Some(Box::new(stream)))
    }

    fn line(&mut self, text: &str) {
        let Some(stream) = &mut self.0 else { return };
        let written = stream
            .write_all(format!("{text}\n").as_bytes())
            .and_then(|()| stream.flush());
        if written.is_err() {
            self.0 = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Pipe(Arc<Mutex<(Vec<u8>, usize)>>);

    /// Takes one write, then behaves as a pipe without a reader.
    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut pipe = self.0.lock().unwrap();
            pipe.1 += 1;
            if pipe.1 > 1 {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            pipe.0.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_closed_pipe_silences_and_nothing_else() {
        let (out, err) = (Pipe::default(), Pipe::default());
        let shape = Shape::Json(Output::new(out.clone()));
        let mut console = Console {
            shape,
            err: Output::new(err.clone()),
        };
        for _ in 0..4 {
            console.step(&StepRecord::default(), "{}");
            console.message("hello");
        }
        assert_eq!(
            *out.0.lock().unwrap(),
            (b"{}\n".to_vec(), 2),
            "tried once more, then never again"
        );
        assert_eq!(*err.0.lock().unwrap(), (b"hello\n".to_vec(), 2));
    }

    #[test]
    fn numbers_are_short() {
        let shown: Vec<_> = [0.0, 9.5, 950.4, 999.6, 12_345.0, 999_499.0, 999_501.0, 4.5e9]
            .map(scaled)
            .into();
        assert_eq!(shown.join(" "), "0.00 9.50 950 1.00k 12.3k 999k 1.00M 4.50G");
    }

    #[test]
    fn the_template_is_valid_and_lines_read_well() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
        let record = StepRecord {
            lr: 3e-4,
            tokens_per_second: 12_345.0,
            epoch: 0.315,
            ..StepRecord::default()
        };
        assert_eq!(
            describe_step(&record, 0.53),
            "loss 0.5300 · lr 3.00e-4 · 12.3k tok/s · epoch 0.32"
        );
        let metrics = [
            ("eval_loss", 0.1234),
            ("eval_exact_match", 0.912),
            ("eval_exact_match/count", 0.88),
        ];
        let metrics = metrics.map(|(name, value)| (name.to_string(), value)).into();
        let record = EvalRecord {
            step: 500,
            metrics,
            seconds: 3.21,
            samples: 64,
            ..EvalRecord::default()
        };
        let expected = "eval at step 500: loss 0.1234, exact match 91.2% (count 88.0%) · 64 samples in 3.2 s";
        assert_eq!(describe_eval(&record), expected);
    }

    #[test]
    fn the_bars_loss_is_smoothed() {
        assert_eq!(smooth(None, 2.0), 2.0);
        assert!((smooth(Some(2.0), 1.0) - 1.9).abs() < 1e-12);
    }
}
