//! Which samples share a row: best-fit-decreasing (Ding et al., "Fewer Truncations Improve Language Modeling",
//! <https://arxiv.org/abs/2404.10830>), under a budget of tokens and one of images.

use std::{cmp::Reverse, collections::BinaryHeap};

/// What a row may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Budget {
    pub(super) tokens: usize,
    /// `None` does not count images.
    pub(super) images: Option<usize>,
}

/// What a sample takes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub(super) tokens: u32,
    pub(super) images: u32,
}

/// Samples by row.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Packed {
    /// Numbers of samples, row after row.
    pub(super) samples: Vec<u32>,
    /// For each row, where its samples end.
    pub(super) ends: Vec<u32>,
}

impl Packed {
    pub(super) fn row(&self, row: usize) -> &[u32] {
        let start = row.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.samples[start as usize..self.ends[row] as usize]
    }
}

/// Puts samples into rows: the longest first, each into the row where the least room is left after it. Rows come in the
/// order of their first samples, and so do the samples of a row. A sample beyond the budget has a row of its own.
///
/// `O(n log(n + tokens))` time for `n` samples.
pub(super) fn pack(sizes: &[Size], budget: Budget) -> Packed {
    let mut longest_first: Vec<u32> = (0..sizes.len() as u32).collect();
    longest_first.sort_unstable_by_key(|&sample| {
        let Size { tokens, images } = sizes[sample as usize];
        (Reverse(tokens), Reverse(images), sample)
    });
    let mut open = OpenRows::new(budget);
    let mut rows = vec![0; sizes.len()];
    for sample in longest_first {
        rows[sample as usize] = open.take(sizes[sample as usize]);
    }
    gather(&rows, open.num_rows as usize)
}

/// From the row of each sample to the samples of each row.
fn gather(rows: &[u32], num_rows: usize) -> Packed {
    const NOT_SEEN: u32 = u32::MAX;
    let (mut new_numbers, mut lengths) = (vec![NOT_SEEN; num_rows], Vec::with_capacity(num_rows));
    for &row in rows {
        let number = &mut new_numbers[row as usize];
        if *number == NOT_SEEN {
            *number = lengths.len() as u32;
            lengths.push(0_u32);
        }
        lengths[*number as usize] += 1;
    }
    let mut next: Vec<u32> = Vec::with_capacity(num_rows);
    let mut ends = Vec::with_capacity(num_rows);
    let mut end = 0;
    for length in lengths {
        next.push(end);
        end += length;
        ends.push(end);
    }
    let mut samples = vec![0; rows.len()];
    for (sample, &row) in rows.iter().enumerate() {
        let place = &mut next[new_numbers[row as usize] as usize];
        samples[*place as usize] = sample as u32;
        *place += 1;
    }
    Packed { samples, ends }
}

/// Rows that still have room, by the tokens that are left in them.
///
/// Above the lists is a tree of maxima, so that the fullest row with enough of both kinds of room is found in
/// logarithmic time.
struct OpenRows {
    budget: Budget,
    num_rows: u32,
    /// For each number of tokens left, the rows: images left, and the oldest first among equals.
    rows: Vec<BinaryHeap<(u32, Reverse<u32>)>>,
    /// A binary heap of nodes: one more than the most images left in a row below, 0 without a row. Node 1 is the root, the
    /// leaves begin at `first_leaf`.
    most_images: Vec<u32>,
    first_leaf: usize,
}

impl OpenRows {
    fn new(budget: Budget) -> Self {
        let first_leaf = (budget.tokens + 1).next_power_of_two();
        Self {
            budget,
            num_rows: 0,
            rows: vec![BinaryHeap::new(); budget.tokens + 1],
            most_images: vec![0; 2 * first_leaf],
            first_leaf,
        }
    }

    /// The row for a sample: an open one, or else a new one.
    fn take(&mut self, size: Size) -> u32 {
        let tokens = size.tokens as usize;
        let images = self.budget.images.map_or(0, |_| size.images);
        let found = self.find(tokens, images).and_then(|left| {
            let row = self.rows[left].pop();
            self.update(left);
            row.map(|(images_left, Reverse(row))| (row, left, images_left))
        });
        let (row, tokens_left, images_left) = found.unwrap_or_else(|| {
            let row = self.num_rows;
            self.num_rows += 1;
            (row, self.budget.tokens, self.budget.images.unwrap_or(0) as u32)
        });
        // A sample beyond the budget closes its row.
        if let (Some(tokens_left), Some(images_left)) =
            (tokens_left.checked_sub(tokens), images_left.checked_sub(images))
        {
            self.rows[tokens_left].push((images_left, Reverse(row)));
            self.update(tokens_left);
        }
        row
    }

    /// The smallest number of tokens left, `tokens` or more, with a row that has room for `images`.
    fn find(&self, tokens: usize, images: u32) -> Option<usize> {
        let fits = |node: usize| self.most_images[node] > images;
        if tokens > self.budget.tokens {
            return None;
        }
        let mut node = self.first_leaf + tokens;
        while !fits(node) {
            // Up until there is something to the right.
            while node % 2 == 1 {
                node /= 2;
            }
            if node == 0 {
                return None;
            }
            node += 1;
        }
        while node < self.first_leaf {
            node *= 2;
            node += usize::from(!fits(node));
        }
        Some(node - self.first_leaf)
    }

    fn update(&mut self, tokens_left: usize) {
        let mut node = self.first_leaf + tokens_left;
        self.most_images[node] = self.rows[tokens_left].peek().map_or(0, |(images, _)| images + 1);
        while node > 1 {
            node /= 2;
            self.most_images[node] = self.most_images[2 * node].max(self.most_images[2 * node + 1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::{
        ChaCha8Rng,
        rand_core::{RngCore, SeedableRng},
    };

    use super::*;

    fn texts(tokens: &[u32]) -> Vec<Size> {
        tokens.iter().map(|&tokens| Size { tokens, images: 0 }).collect()
    }

    fn rows(packed: &Packed) -> Vec<Vec<u32>> {
        (0..packed.ends.len())
            .map(|row| packed.row(row).to_vec())
            .collect()
    }

    #[test]
    fn each_sample_goes_where_least_room_is_left() {
        let budget = Budget {
            tokens: 10,
            images: None,
        };
        // 8 and 7 open rows; 3 fits behind 7 only; 2 fits behind 8; 6 and 4 share a row.
        let packed = pack(&texts(&[3, 8, 4, 7, 6, 2]), budget);
        assert_eq!(rows(&packed), [vec![0, 3], vec![1, 5], vec![2, 4]]);
        assert_eq!(pack(&[], budget), Packed::default());
        let beyond = pack(&texts(&[11, 1, 10]), budget);
        assert_eq!(rows(&beyond), [[0], [1], [2]]);
    }

    #[test]
    fn images_have_a_budget_of_their_own() {
        let size = |tokens, images| Size { tokens, images };
        let sizes = [size(4, 2), size(3, 1), size(2, 0), size(1, 1)];
        let pack = |images| rows(&pack(&sizes, Budget { tokens: 10, images }));
        assert_eq!(pack(None), [[0, 1, 2, 3]]);
        assert_eq!(pack(Some(4)), [[0, 1, 2, 3]]);
        assert_eq!(pack(Some(3)), [vec![0, 1, 2], vec![3]]);
        assert_eq!(pack(Some(2)), [vec![0, 2], vec![1, 3]]);
    }

    /// The definition, without a tree.
    fn slowly(sizes: &[Size], budget: Budget) -> Packed {
        let mut order: Vec<usize> = (0..sizes.len()).collect();
        order.sort_by_key(|&sample| {
            (
                Reverse(sizes[sample].tokens),
                Reverse(sizes[sample].images),
                sample,
            )
        });
        let mut left: Vec<(usize, usize)> = Vec::new();
        let mut found = vec![0; sizes.len()];
        for sample in order {
            let tokens = sizes[sample].tokens as usize;
            let images = budget.images.map_or(0, |_| sizes[sample].images as usize);
            let fitting = (0..left.len()).filter(|&row| left[row].0 >= tokens && left[row].1 >= images);
            let row = fitting.min_by_key(|&row| (left[row].0, Reverse(left[row].1), row));
            let row = row.unwrap_or_else(|| {
                left.push((budget.tokens, budget.images.unwrap_or(0)));
                left.len() - 1
            });
            left[row] = (left[row].0 - tokens, left[row].1 - images);
            found[sample] = row as u32;
        }
        gather(&found, left.len())
    }

    #[test]
    fn any_sizes_are_packed_as_the_definition_says() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..300 {
            let budget = Budget {
                tokens: 1 + rng.next_u32() as usize % 40,
                images: (rng.next_u32() % 2 == 0).then_some(rng.next_u32() as usize % 4),
            };
            let sizes: Vec<Size> = (0..rng.next_u32() % 60)
                .map(|_| Size {
                    tokens: 1 + rng.next_u32() % budget.tokens as u32,
                    images: rng.next_u32() % (budget.images.unwrap_or(3) as u32 + 1),
                })
                .collect();
            let packed = pack(&sizes, budget);
            assert_eq!(packed, slowly(&sizes, budget), "{sizes:?} {budget:?}");
            let mut seen = packed.samples.clone();
            seen.sort_unstable();
            assert_eq!(seen, (0..sizes.len() as u32).collect::<Vec<_>>());
            for row in rows(&packed) {
                let sum =
                    |of: fn(&Size) -> u32| row.iter().map(|&sample| of(&sizes[sample as usize])).sum::<u32>();
                assert!(sum(|size| size.tokens) as usize <= budget.tokens);
                assert!(
                    budget
                        .images
                        .is_none_or(|images| sum(|size| size.images) as usize <= images)
                );
            }
        }
    }
}
