//! How often the rows of each part of a dataset come in an epoch: a pure function of seed, epoch and place, so that a
//! run that goes on finds the rows it left, at any step, without counting.

use super::order::permute;

/// Parts of a dataset that come more or less often than once in an epoch.
///
/// A part of `n` rows and weight `w` has `round(n * w)` places in each epoch. Its rows take these places round by
/// round: with weight 2 each comes twice in an epoch, with weight 0.5 once in two epochs, never sooner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mixture {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    first_row: usize,
    num_rows: usize,
    first_place: usize,
    num_places: usize,
}

impl Mixture {
    /// Parts in the order of their rows: number of rows, and weight. A part with rows and a weight above 0 has one place
    /// at least.
    pub fn new(parts: &[(usize, f64)]) -> Self {
        let (mut first_row, mut first_place) = (0, 0);
        let mut found = Vec::with_capacity(parts.len());
        for &(num_rows, weight) in parts {
            let least = usize::from(num_rows > 0 && weight > 0.0);
            let num_places = ((num_rows as f64 * weight).round() as usize).max(least);
            found.push(Part {
                first_row,
                num_rows,
                first_place,
                num_places,
            });
            first_row += num_rows;
            first_place += num_places;
        }
        Self { parts: found }
    }

    /// Places of an epoch.
    #[expect(
        clippy::len_without_is_empty,
        reason = "nobody asks: a dataset without rows cannot be opened"
    )]
    pub fn len(&self) -> usize {
        self.parts
            .last()
            .map_or(0, |part| part.first_place + part.num_places)
    }

    /// The row at a place of an epoch; `place < len()`. With `shuffle`, each round has an order of its own.
    pub fn row(&self, seed: u64, epoch: u64, place: usize, shuffle: bool) -> usize {
        let number = self
            .parts
            .partition_point(|part| part.first_place + part.num_places <= place);
        let Part {
            first_row,
            num_rows,
            first_place,
            num_places,
        } = self.parts[number];
        let since_start = u128::from(epoch) * num_places as u128 + (place - first_place) as u128;
        let round = (since_start / num_rows as u128) as u64;
        let index = (since_start % num_rows as u128) as u64;
        // Places of whole rounds are shuffled already.
        let index = if shuffle && num_places % num_rows != 0 {
            let seed = seed ^ (number as u64 + 1).rotate_left(32);
            permute(seed, round, num_rows as u64, index)
        } else {
            index
        };
        first_row + index as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(mixture: &Mixture, epochs: std::ops::Range<u64>, shuffle: bool, num_rows: usize) -> Vec<usize> {
        let mut counts = vec![0; num_rows];
        for epoch in epochs {
            for place in 0..mixture.len() {
                counts[mixture.row(3, epoch, place, shuffle)] += 1;
            }
        }
        counts
    }

    #[test]
    fn weights_say_how_often_rows_come() {
        let mixture = Mixture::new(&[(4, 1.0), (4, 0.5), (2, 2.0), (0, 1.0), (4, 1.5)]);
        assert_eq!(mixture.len(), 4 + 2 + 4 + 6);
        for shuffle in [false, true] {
            // In two epochs, halves are whole.
            let both = counts(&mixture, 0..2, shuffle, 14);
            assert_eq!(both, [2, 2, 2, 2, 1, 1, 1, 1, 4, 4, 3, 3, 3, 3]);
            let later = counts(&mixture, 10..12, shuffle, 14);
            assert_eq!(later, both, "at any epoch");
            let one = counts(&mixture, 0..1, shuffle, 14);
            assert_eq!(one[..4], [1; 4]);
            assert_eq!(
                (one[4..8].iter().sum::<usize>(), &one[8..10]),
                (2, [2, 2].as_slice())
            );
        }
    }

    /// S4.B5: the rows that a fraction was shuffled for were never used.
    #[test]
    fn s4_b5_fractions_take_rows_at_random() {
        let mixture = Mixture::new(&[(1000, 0.1)]);
        let epoch = |seed: u64, epoch: u64| -> Vec<usize> {
            (0..mixture.len())
                .map(|place| mixture.row(seed, epoch, place, true))
                .collect()
        };
        assert_eq!(epoch(1, 0), epoch(1, 0));
        assert_ne!(epoch(1, 0), epoch(1, 1));
        assert_ne!(epoch(1, 0), epoch(2, 0));
        let mean = epoch(1, 0).iter().sum::<usize>() / 100;
        assert!((400..600).contains(&mean), "from the whole part: {mean}");
        assert_eq!(counts(&mixture, 0..10, true, 1000), [1; 1000]);
        let ordered: Vec<usize> = (0..3).map(|place| mixture.row(1, 1, place, false)).collect();
        assert_eq!(ordered, [100, 101, 102]);
    }

    #[test]
    fn a_small_part_is_not_lost() {
        let mixture = Mixture::new(&[(1, 0.001), (3, 0.0)]);
        assert_eq!((mixture.len(), mixture.row(0, u64::MAX, 0, true)), (1, 0));
    }
}
