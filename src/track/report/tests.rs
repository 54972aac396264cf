use super::*;
use crate::track::{ConsoleKind, EvalRecord, RunLog, StepRecord, TrackOptions};

/// A 1x1 PNG.
const PIXEL: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0\x1f\x15\xc4\x89";

fn run_with_everything(dir: &Path) {
    let options = TrackOptions {
        dir: dir.into(),
        console: ConsoleKind::None,
        tensorboard: false,
    };
    let mut log = RunLog::open(&options, 200, 0).unwrap();
    for step in 1..=200 {
        let loss = 4.0 * 0.97_f32.powi(step as i32);
        let record = StepRecord {
            step,
            epoch: step as f64 / 50.0,
            loss,
            lr: 1e-3,
            grad_norm: loss,
            total_tokens: step * 100,
            tokens_per_second: 50.0,
            step_seconds: 2.0,
            data_seconds: 0.5,
            forward_backward_seconds: 1.0,
            process_memory_bytes: Some(3 << 29),
            ..StepRecord::default()
        };
        log.log_step(&record).unwrap();
        if step % 50 == 0 {
            let right = step as f64 / 400.0;
            let metrics = [
                ("eval_loss", 2.0 / step as f64),
                ("eval_exact_match", right),
                ("eval_exact_match/how_many", right),
            ];
            let metrics = metrics.map(|(name, value)| (name.to_string(), value)).into();
            log.log_eval(&EvalRecord {
                step,
                epoch: 1.0,
                metrics,
                seconds: 1.0,
                samples: 64,
            })
            .unwrap();
        }
    }
    fs::write_atomic(&dir.join("pixel.png"), PIXEL).unwrap();
    fs::write_atomic(&dir.join("config.yaml"), b"model: <image> & text\n").unwrap();
    let sample = |image: &str, answer: &str| Sample {
        image: Some(image.into()),
        question: "Is 2 < 3 & \"so\" on?".into(),
        reference: "yes".into(),
        answer: answer.into(),
        kind: "yes_no".into(),
    };
    write_samples(dir, &[sample("pixel.png", "yes"), sample("gone.png", "<script>")]).unwrap();
}

#[test]
fn the_report_shows_everything_and_needs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    run_with_everything(dir.path());
    let path = write_report(dir.path()).unwrap();
    let page = fs::read_to_string(&path).unwrap();
    for text in [
        "Training run at step 200, epoch 4.00",
        "Loss (nats per token, logarithmic)",
        "Exact match by type",
        "how many",
        "Learning rate",
        "Gradient norm",
        "Tokens per second",
        "Memory (GiB)",
        "6 min 40 s",
        "1.50 GiB",
        "forward and backward <b>50.0%</b>",
        "other <b>25.0%</b>",
        "1 of 2 exactly right",
        "✓ yes",
        "✗ &lt;script&gt;",
        "data:image/png;base64,iVBORw0KGgo",
        "gone.png",
        "model: &lt;image&gt; &amp; text",
    ] {
        assert!(page.contains(text), "{text}");
    }
    // Nothing is fetched and nothing runs.
    for text in ["http:", "https:", "<script", "<link", "url("] {
        assert!(!page.contains(text), "{text}");
    }
}

#[test]
fn a_run_with_no_line_yet_has_a_report() {
    let dir = tempfile::tempdir().unwrap();
    fs::write_atomic(&dir.path().join("metrics.jsonl"), b"").unwrap();
    let page = fs::read_to_string(&write_report(dir.path()).unwrap()).unwrap();
    assert!(
        page.contains("Training run at step 0") && !page.contains("NaN"),
        "{page}"
    );
}

#[test]
fn a_run_without_metrics_is_an_error_with_the_path() {
    let dir = tempfile::tempdir().unwrap();
    let error = write_report(dir.path()).unwrap_err().to_string();
    assert!(error.contains("metrics.jsonl"), "{error}");
}

#[test]
fn the_picture_holds_curves_and_answers_in_one_file() {
    let dir = tempfile::tempdir().unwrap();
    run_with_everything(dir.path());
    let path = dir.path().join("demo.svg");
    write_picture(dir.path(), &path, 1).unwrap();
    let svg = fs::read_to_string(&path).unwrap();
    assert_eq!(svg.matches("<image").count(), 1);
    assert!(
        svg.contains("Exact match by type") && svg.contains("✓ yes"),
        "{svg}"
    );
    let error = write_picture(dir.path(), &path, 2).unwrap_err().to_string();
    assert!(error.contains("gone.png"), "{error}");
}

#[test]
fn durations_read_well() {
    assert_eq!(
        [0.0123, 3.44, 306.0, 25_700.0].map(duration).join(", "),
        "12 ms, 3.4 s, 5 min 6 s, 7 h 8 min"
    );
}
