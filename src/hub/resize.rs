//! More rows for the vocabulary's tables: tokens that were added, and padding to a round number.
//!
//! Reference: `resize_token_embeddings` and `_init_added_embeddings_weights_with_mean` in
//! `transformers/modeling_utils.py`. Existing rows keep every bit, and nothing ever shrinks.

use brazier_models::{HostDtype, HostTensor, init::normals};
use half::bf16;
use rayon::prelude::*;

use super::names::{EMBEDDING, LM_HEAD};

/// Factor of the covariance of fresh rows, as in transformers: rows near the mean, and no two the same.
const SPREAD: f64 = 1e-9;
/// Fresh rows that are drawn together, which bounds the random numbers in memory.
const GROUP: usize = 64;
/// Columns that one thread computes at a time.
const COLUMNS: usize = 64;

/// How tables grow; names are those of transformers' arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResizeOptions {
    /// The number of rows becomes a multiple of this.
    pub pad_to_multiple_of: Option<usize>,
    /// Fresh rows come from a normal distribution with the mean of the old ones and a billionth of their covariance;
    /// otherwise from `N(0, initializer_range²)`.
    pub mean_resizing: bool,
}

/// Whether a parameter has one row for each token: the embedding table and the output projection.
pub fn is_vocabulary(name: &str) -> bool {
    name == EMBEDDING || name == LM_HEAD
}

impl ResizeOptions {
    /// Rows of a table that has `rows` and needs `num_tokens`.
    pub fn rows(&self, rows: usize, num_tokens: usize) -> usize {
        let rows = rows.max(num_tokens);
        rows.next_multiple_of(self.pad_to_multiple_of.unwrap_or(1))
    }

    /// The tensor with `rows` rows where it is the embedding table or the output projection, else as it is.
    ///
    /// Fresh rows are a pure function of the seed, the tensor's name and the row's number, and of the old rows.
    pub fn resize(&self, tensor: HostTensor, rows: usize, initializer_range: f64, seed: u64) -> HostTensor {
        if !is_vocabulary(&tensor.name) || tensor.shape[0] >= rows {
            return tensor;
        }
        let (old_rows, width) = (tensor.shape[0], tensor.num_elements() / tensor.shape[0].max(1));
        let path = |row: usize| format!("{}[{row}]", tensor.name);
        let mut bytes = tensor.bytes.clone();
        for group in (old_rows..rows).collect::<Vec<_>>().chunks(GROUP) {
            let values: Vec<f32> = if self.mean_resizing {
                let noise: Vec<Vec<f32>> = group
                    .par_iter()
                    .map(|&row| normals(seed, &path(row), 1.0, old_rows))
                    .collect();
                around_the_mean(&tensor, width, &noise)
            } else {
                group
                    .iter()
                    .flat_map(|&row| normals(seed, &path(row), initializer_range, width))
                    .collect()
            };
            for value in values {
                match tensor.dtype {
                    HostDtype::F32 => bytes.extend(value.to_le_bytes()),
                    HostDtype::Bf16 => bytes.extend(bf16::from_f32(value).to_le_bytes()),
                }
            }
        }
        HostTensor {
            shape: vec![rows, width],
            bytes,
            ..tensor
        }
    }
}

/// Rows drawn from the normal distribution with the mean of the table's rows `x` and `SPREAD` times their covariance:
/// `mean + sqrt(SPREAD / n) sum(z_i (x_i - mean))` with one standard normal `z_i` for each of the `n` old rows. That
/// needs neither the covariance nor its root, and works where the covariance is singular.
fn around_the_mean(table: &HostTensor, width: usize, noise: &[Vec<f32>]) -> Vec<f32> {
    let rows = table.shape[0];
    let starts: Vec<usize> = (0..width).step_by(COLUMNS).collect();
    let blocks: Vec<Vec<f32>> = starts
        .par_iter()
        .map(|&start| {
            let columns = start..width.min(start + COLUMNS);
            let len = columns.len();
            let (mut sum, mut weighted) = (vec![0.0; len], vec![0.0; len * noise.len()]);
            for row in 0..rows {
                let x: Vec<f64> = columns
                    .clone()
                    .map(|column| element(table, row * width + column))
                    .collect();
                add(&mut sum, &x, 1.0);
                for (weighted, noise) in weighted.chunks_exact_mut(len).zip(noise) {
                    add(weighted, &x, f64::from(noise[row]));
                }
            }
            let count = rows as f64;
            let factor = (SPREAD / count).sqrt();
            let fresh = weighted
                .chunks_exact(len)
                .zip(noise)
                .flat_map(|(weighted, noise)| {
                    let total: f64 = noise.iter().map(|&z| f64::from(z)).sum();
                    let values = weighted.iter().zip(&sum).map(move |(weighted, sum)| {
                        let mean = sum / count;
                        (mean + factor * (weighted - total * mean)) as f32
                    });
                    values.collect::<Vec<_>>()
                });
            fresh.collect()
        })
        .collect();
    let mut joined = vec![0.0; noise.len() * width];
    for (&start, block) in starts.iter().zip(&blocks) {
        let len = width.min(start + COLUMNS) - start;
        for (row, values) in block.chunks_exact(len).enumerate() {
            joined[row * width + start..][..len].copy_from_slice(values);
        }
    }
    joined
}

fn add(sum: &mut [f64], x: &[f64], factor: f64) {
    for (sum, x) in sum.iter_mut().zip(x) {
        *sum += factor * x;
    }
}

fn element(tensor: &HostTensor, at: usize) -> f64 {
    let bytes = |width: usize| &tensor.bytes[at * width..(at + 1) * width];
    match tensor.dtype {
        HostDtype::F32 => {
            let bytes = bytes(4);
            f64::from(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        }
        HostDtype::Bf16 => {
            let bytes = bytes(2);
            bf16::from_le_bytes([bytes[0], bytes[1]]).to_f64()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEAN: ResizeOptions = ResizeOptions {
        pad_to_multiple_of: None,
        mean_resizing: true,
    };

    fn table(name: &str, rows: usize, width: usize, dtype: HostDtype) -> HostTensor {
        let values = normals(1, "table", 3.0, rows * width);
        // Columns of very different means and spreads.
        let values = values.iter().enumerate().map(|(at, x)| {
            let column = (at % width) as f32;
            10.0 * column - x * (1.0 + column)
        });
        let bytes = match dtype {
            HostDtype::F32 => values.flat_map(f32::to_le_bytes).collect(),
            HostDtype::Bf16 => values.flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect(),
        };
        HostTensor {
            name: name.into(),
            shape: vec![rows, width],
            dtype,
            bytes,
        }
    }

    fn column(tensor: &HostTensor, rows: std::ops::Range<usize>, column: usize) -> Vec<f64> {
        let width = tensor.shape[1];
        rows.map(|row| element(tensor, row * width + column)).collect()
    }

    fn mean(values: &[f64]) -> f64 {
        values.iter().sum::<f64>() / values.len() as f64
    }

    fn covariance(a: &[f64], b: &[f64]) -> f64 {
        let (mean_a, mean_b) = (mean(a), mean(b));
        let products: Vec<f64> = a
            .iter()
            .zip(b)
            .map(|(a, b)| (a - mean_a) * (b - mean_b))
            .collect();
        mean(&products)
    }

    #[test]
    fn the_number_of_rows() {
        let padded = ResizeOptions {
            pad_to_multiple_of: Some(64),
            ..MEAN
        };
        for (options, rows, tokens, expected) in [
            (MEAN, 100, 90, 100),
            (MEAN, 100, 103, 103),
            (padded, 100, 90, 128),
            (padded, 128, 128, 128),
            (padded, 128, 129, 192),
        ] {
            assert_eq!(options.rows(rows, tokens), expected);
        }
    }

    #[test]
    fn old_rows_keep_every_bit_and_other_tensors_are_left_alone() {
        for dtype in [HostDtype::F32, HostDtype::Bf16] {
            for name in [EMBEDDING, LM_HEAD] {
                let old = table(name, 9, 70, dtype);
                let new = MEAN.resize(old.clone(), 80, 0.02, 3);
                assert_eq!(new.shape, [80, 70]);
                assert_eq!(new.bytes.len(), 80 * 70 * dtype.size_bytes());
                assert_eq!(new.bytes[..old.bytes.len()], old.bytes);
                // A row does not depend on how many there are.
                let fewer = MEAN.resize(old.clone(), 12, 0.02, 3);
                assert_eq!(fewer.bytes, new.bytes[..fewer.bytes.len()]);
                assert_eq!(MEAN.resize(old.clone(), 9, 0.02, 3), old);
                assert_eq!(MEAN.resize(old.clone(), 5, 0.02, 3), old);
            }
            let other = table("language_model.model.norm.weight", 9, 70, dtype);
            assert_eq!(MEAN.resize(other.clone(), 80, 0.02, 3), other);
        }
    }

    /// Of many fresh rows the mean is that of the old ones and the covariance a billionth of theirs.
    #[test]
    fn fresh_rows_have_the_old_ones_mean_and_covariance() {
        let old = table(EMBEDDING, 40, 3, HostDtype::F32);
        // f32 resolves a billionth of the spread only around a mean of 0.
        let centred: Vec<f32> = (0..120)
            .map(|at| (element(&old, at) - mean(&column(&old, 0..40, at % 3))) as f32)
            .collect();
        let old = HostTensor {
            bytes: centred.iter().flat_map(|x| x.to_le_bytes()).collect(),
            ..old
        };
        let new = MEAN.resize(old.clone(), 40 + 4000, 0.02, 3);
        for a in 0..3 {
            let (before, after) = (column(&old, 0..40, a), column(&new, 40..4040, a));
            let deviation = (SPREAD * covariance(&before, &before)).sqrt();
            let error = (mean(&after) - mean(&before)).abs();
            assert!(
                error < 5.0 * deviation / 4000f64.sqrt(),
                "mean of column {a} is {error} off"
            );
            for b in 0..3 {
                let other = column(&old, 0..40, b);
                let scale = (covariance(&before, &before) * covariance(&other, &other)).sqrt();
                let expected = covariance(&before, &other);
                let found = covariance(&after, &column(&new, 40..4040, b)) / SPREAD;
                assert!(
                    (found - expected).abs() < 0.1 * scale,
                    "covariance {a} {b}: {found}, expected {expected}"
                );
            }
        }
    }

    #[test]
    fn without_the_mean_rows_have_the_initialisation_of_fresh_models() {
        let options = ResizeOptions {
            mean_resizing: false,
            ..MEAN
        };
        let old = table(EMBEDDING, 4, 8, HostDtype::F32);
        let new = options.resize(old, 4 + 2000, 0.02, 3);
        let values = column(&new, 4..2004, 5);
        assert!(mean(&values).abs() < 0.002);
        assert!((covariance(&values, &values).sqrt() / 0.02 - 1.0).abs() < 0.1);
    }
}
