//! Who waits for whom.

use crate::{
    parallel::{CollectiveError, Group},
    track::RanksRecord,
};

/// Logged steps in a row of which a large part is waiting for data, before it is said.
const PATIENCE: u32 = 20;
/// What is a large part.
const LARGE: f64 = 0.3;

/// What a rank knows of its own time. All counted from the beginning of the run but those of the step.
#[derive(Debug, Clone, Copy, Default)]
pub struct Watch {
    /// When the last logged step was.
    busy: f64,
    waited: f64,
    slow_data: u32,
}

/// Seconds and memory of one rank's step.
#[derive(Debug, Clone, Copy)]
pub(super) struct OwnStep {
    pub(super) step_seconds: f64,
    pub(super) data_seconds: f64,
    pub(super) memory_bytes: u64,
}

impl Watch {
    /// Joins what the ranks know since the last call; `None` for a rank by itself. Every rank has to call it together.
    ///
    /// # Errors
    /// If a rank is missing or has failed.
    pub(super) fn record(
        &mut self,
        group: &Group,
        own: OwnStep,
        steps: u64,
    ) -> Result<Option<RanksRecord>, CollectiveError> {
        if group.world().size == 1 {
            return Ok(None);
        }
        let (busy, waited) = (group.busy_seconds(), group.waited_seconds());
        let steps = steps.max(1) as f64;
        let numbers = [
            own.data_seconds,
            (own.step_seconds - (waited - self.waited) / steps).max(0.0),
            (busy - self.busy) / steps,
            own.memory_bytes as f64,
        ];
        (self.busy, self.waited) = (busy, waited);
        let all = group.exchange_numbers(&numbers)?;
        let column = |index: usize| -> Vec<f64> { all.iter().map(|numbers| numbers[index]).collect() };
        let work = column(1);
        let slowest = (0..work.len()).max_by(|&left, &right| work[left].total_cmp(&work[right]));
        Ok(Some(RanksRecord {
            rank_data_seconds: column(0),
            rank_work_seconds: work,
            rank_communication_seconds: column(2),
            rank_memory_bytes: column(3).into_iter().map(|bytes| bytes as u64).collect(),
            slowest_rank: slowest.unwrap_or(0),
        }))
    }

    /// A word to the user, once, when the device keeps waiting for data.
    pub(super) fn warning(&mut self, data_seconds: f64, step_seconds: f64) -> Option<String> {
        if data_seconds < LARGE * step_seconds {
            self.slow_data = 0;
            return None;
        }
        self.slow_data = self.slow_data.saturating_add(1);
        (self.slow_data == PATIENCE).then(|| {
            let part = 100.0 * data_seconds / step_seconds;
            format!(
                "the device waits for data, {part:.0} % of the last step; raise data.workers or data.prefetch, or prepare \
                 smaller images"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_keeps_waiting_is_reported_once() {
        let mut watch = Watch::default();
        let mut said =
            |times: u32, data: f64| -> usize { (0..times).filter_map(|_| watch.warning(data, 1.0)).count() };
        assert_eq!(said(PATIENCE - 1, 0.5), 0);
        assert_eq!(said(1, 0.1), 0, "it was not in a row");
        assert_eq!(said(3 * PATIENCE, 0.5), 1);
    }
}
