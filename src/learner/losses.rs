//! Losses of held-out batches, on their way between ranks.

use crate::parallel::{CollectiveError, Group};

/// What a rank found out about one batch.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct BatchLoss {
    /// The batch, counted over all ranks.
    pub(super) number: usize,
    /// Summed loss.
    pub(super) sum: f64,
    /// By what the sum is divided.
    pub(super) weight: f64,
    /// Class and logits of each row, of a classification head.
    pub(super) rows: Vec<(usize, Vec<f32>)>,
}

impl BatchLoss {
    /// Whole numbers up to 2^53 and f32 are f64, exactly.
    fn encode(&self, numbers: &mut Vec<f64>) {
        let width = self.rows.first().map_or(0, |(_, logits)| logits.len());
        numbers.extend([
            self.number as f64,
            self.sum,
            self.weight,
            self.rows.len() as f64,
            width as f64,
        ]);
        for (class, logits) in &self.rows {
            numbers.push(*class as f64);
            numbers.extend(logits.iter().map(|&logit| f64::from(logit)));
        }
    }

    /// Takes one from the beginning; `None` at the end.
    fn decode(numbers: &mut &[f64]) -> Option<Self> {
        let (&[number, sum, weight, count, width], mut rest) = numbers.split_first_chunk()?;
        let mut rows = Vec::new();
        for _ in 0..count as usize {
            let (class, after) = rest.split_first()?;
            let (logits, after) = after.split_at_checked(width as usize)?;
            rows.push((
                *class as usize,
                logits.iter().map(|&logit| logit as f32).collect(),
            ));
            rest = after;
        }
        *numbers = rest;
        Some(Self {
            number: number as usize,
            sum,
            weight,
            rows,
        })
    }
}

/// The batches of all ranks, in their order: whatever is added up over them does not depend on who ran which.
///
/// # Errors
/// If a rank is missing or has failed.
pub(super) fn exchange(own: &[BatchLoss], group: &Group) -> Result<Vec<BatchLoss>, CollectiveError> {
    let mut numbers = Vec::new();
    own.iter().for_each(|batch| batch.encode(&mut numbers));
    let mut all = Vec::new();
    for numbers in group.exchange_numbers(&numbers)? {
        let mut left = numbers.as_slice();
        all.extend(std::iter::from_fn(|| BatchLoss::decode(&mut left)));
    }
    all.sort_by_key(|batch| batch.number);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_arrives() {
        let batch = |number, rows: &[(usize, Vec<f32>)]| BatchLoss {
            number,
            sum: 0.1 + number as f64,
            weight: 3.5,
            rows: rows.to_vec(),
        };
        let own = [
            batch(7, &[(1, vec![0.1, -2.0]), (0, vec![f32::INFINITY, 3.0])]),
            batch(2, &[]),
        ];
        let all = exchange(&own, &Group::alone()).unwrap();
        assert_eq!(all, [own[1].clone(), own[0].clone()]);
    }
}
