//! The learning rate as a pure function of the step: nothing to save, nothing to restore.
//!
//! Same factors as transformers' `get_scheduler`, where step 0 is the first update.

use super::options::{ScheduleConfig, ScheduleKind};

/// Fraction of the peak learning rate for the update that follows `step` finished steps.
///
/// Past `total_steps` the last value holds; it never rises again.
pub fn lr_factor(config: &ScheduleConfig, step: u64) -> f64 {
    let warmup = config.warmup_steps;
    if step < warmup {
        return step as f64 / warmup as f64;
    }
    let since = (step - warmup) as f64;
    let span = config.total_steps.saturating_sub(warmup).max(1) as f64;
    let progress = (since / span).min(1.0);
    match config.kind {
        ScheduleKind::Constant => 1.0,
        ScheduleKind::Linear { min_factor } => falling(min_factor, 1.0 - progress),
        ScheduleKind::Cosine { min_factor } => falling(min_factor, half_cosine(progress)),
        ScheduleKind::Wsd {
            decay_steps,
            min_factor,
        } => {
            let start = config.total_steps.saturating_sub(decay_steps);
            let done = step.saturating_sub(start) as f64 / decay_steps.max(1) as f64;
            falling(min_factor, 1.0 - done.min(1.0))
        }
        ScheduleKind::InverseSqrt { timescale } => {
            let timescale = timescale.max(1) as f64;
            (timescale / (timescale + since)).sqrt()
        }
    }
}

fn falling(min_factor: f64, rest: f64) -> f64 {
    min_factor + (1.0 - min_factor) * rest
}

fn half_cosine(progress: f64) -> f64 {
    0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: ScheduleKind, expected: &[(u64, f64)]) {
        let config = ScheduleConfig {
            kind,
            warmup_steps: 10,
            total_steps: 110,
        };
        for &(step, factor) in expected {
            let got = lr_factor(&config, step);
            assert!(
                (got - factor).abs() < 1e-12,
                "{kind:?} at step {step}: {got}, expected {factor}"
            );
        }
    }

    #[test]
    fn factors_at_the_boundaries() {
        check(
            ScheduleKind::Constant,
            &[(0, 0.0), (5, 0.5), (10, 1.0), (500, 1.0)],
        );
        let min_factor = 0.1;
        check(
            ScheduleKind::Linear { min_factor },
            &[(9, 0.9), (10, 1.0), (60, 0.55), (110, 0.1), (500, 0.1)],
        );
        check(
            ScheduleKind::Cosine { min_factor },
            &[(10, 1.0), (60, 0.55), (110, 0.1), (500, 0.1)],
        );
        check(
            ScheduleKind::Wsd {
                decay_steps: 20,
                min_factor,
            },
            &[(10, 1.0), (90, 1.0), (100, 0.55), (110, 0.1), (500, 0.1)],
        );
        check(
            ScheduleKind::InverseSqrt { timescale: 30 },
            &[(10, 1.0), (40, 0.5f64.sqrt())],
        );
    }

    #[test]
    fn no_warm_up_starts_at_the_peak() {
        let config = ScheduleConfig {
            kind: ScheduleKind::Constant,
            warmup_steps: 0,
            total_steps: 1,
        };
        assert_eq!(lr_factor(&config, 0), 1.0);
    }
}
