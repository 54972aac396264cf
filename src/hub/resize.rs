//! More rows for the vocabulary's tables: tokens that were added, and padding to a round number.
//!
//! Reference: `resize_token_embeddings` and `_init_added_embeddings_weights_with_mean` in
//! `transformers/modeling_utils.py`. Existing rows keep every bit, and nothing ever shrinks.

use std::ops::Range;

use brazier_models::{HostDtype, init::normals};
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

/// A table in memory: its old rows, and room for fresh ones behind them.
#[derive(Debug)]
pub struct Table<'a> {
    /// The model's name of the parameter.
    pub name: &'a str,
    /// Elements of a row.
    pub width: usize,
    /// Element type.
    pub dtype: HostDtype,
    /// Row-major, little-endian.
    pub bytes: &'a mut [u8],
}

impl Table<'_> {
    fn row_bytes(&self) -> usize {
        self.width * self.dtype.size_bytes()
    }

    /// Old rows and fresh ones.
    pub fn num_rows(&self) -> usize {
        self.bytes.len() / self.row_bytes().max(1)
    }

    /// Bytes of some rows.
    pub fn rows_mut(&mut self, rows: Range<usize>) -> &mut [u8] {
        let size = self.row_bytes();
        &mut self.bytes[rows.start * size..rows.end * size]
    }

    fn element(&self, at: usize) -> f64 {
        let size = self.dtype.size_bytes();
        let bytes = &self.bytes[at * size..(at + 1) * size];
        match self.dtype {
            HostDtype::F32 => f64::from(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])),
            HostDtype::Bf16 => bf16::from_le_bytes([bytes[0], bytes[1]]).to_f64(),
        }
    }
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

    /// Fills the rows from `old_rows` on.
    ///
    /// They are a pure function of the seed, the table's name and the row's number, and of the old rows.
    pub fn fill(&self, table: &mut Table<'_>, old_rows: usize, initializer_range: f64, seed: u64) {
        let width = table.width;
        let rows = old_rows..table.num_rows();
        for start in rows.clone().step_by(GROUP) {
            let group = start..rows.end.min(start + GROUP);
            let path = |row: usize| format!("{}[{row}]", table.name);
            let values: Vec<f32> = if self.mean_resizing {
                let noise: Vec<Vec<f32>> = group
                    .clone()
                    .into_par_iter()
                    .map(|row| normals(seed, &path(row), 1.0, old_rows))
                    .collect();
                around_the_mean(table, old_rows, &noise)
            } else {
                group
                    .clone()
                    .flat_map(|row| normals(seed, &path(row), initializer_range, width))
                    .collect()
            };
            let dtype = table.dtype;
            let places = table.rows_mut(group).chunks_exact_mut(dtype.size_bytes());
            for (place, value) in places.zip(values) {
                match dtype {
                    HostDtype::F32 => place.copy_from_slice(&value.to_le_bytes()),
                    HostDtype::Bf16 => place.copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
                }
            }
        }
    }
}

/// Rows drawn from the normal distribution with the mean of the table's old rows `x` and `SPREAD` times their covariance:
/// `mean + sqrt(SPREAD / n) sum(z_i (x_i - mean))` with one standard normal `z_i` for each of the `n` old rows. That
/// needs neither the covariance nor its root, and works where the covariance is singular.
fn around_the_mean(table: &Table<'_>, old_rows: usize, noise: &[Vec<f32>]) -> Vec<f32> {
    let width = table.width;
    let count = old_rows as f64;
    let factor = (SPREAD / count).sqrt();
    let totals: Vec<f64> = noise
        .iter()
        .map(|noise| noise.iter().map(|&z| f64::from(z)).sum())
        .collect();
    let starts: Vec<usize> = (0..width).step_by(COLUMNS).collect();
    let block = |&start: &usize| -> Vec<f32> {
        let columns = start..width.min(start + COLUMNS);
        let len = columns.len();
        let (mut sum, mut weighted) = (vec![0.0; len], vec![0.0; len * noise.len()]);
        for row in 0..old_rows {
            let x: Vec<f64> = columns
                .clone()
                .map(|column| table.element(row * width + column))
                .collect();
            add(&mut sum, &x, 1.0);
            for (weighted, noise) in weighted.chunks_exact_mut(len).zip(noise) {
                add(weighted, &x, f64::from(noise[row]));
            }
        }
        let fresh = weighted.iter().enumerate().map(|(at, weighted)| {
            let mean = sum[at % len] / count;
            (mean + factor * (weighted - totals[at / len] * mean)) as f32
        });
        fresh.collect()
    };
    let blocks: Vec<Vec<f32>> = starts.par_iter().map(block).collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    const MEAN: ResizeOptions = ResizeOptions {
        pad_to_multiple_of: None,
        mean_resizing: true,
    };

    const WIDTH: usize = 70;

    /// Columns of very different means and spreads.
    fn old_values(rows: usize, width: usize) -> Vec<f32> {
        let values = normals(1, "table", 3.0, rows * width);
        let values = values.iter().enumerate().map(|(at, x)| {
            let column = (at % width) as f32;
            10.0 * column - x * (1.0 + column)
        });
        values.collect()
    }

    /// The bytes of `old` with fresh rows behind it.
    fn grown(options: ResizeOptions, old: &[u8], rows: usize, width: usize, dtype: HostDtype) -> Vec<u8> {
        let mut bytes = old.to_vec();
        let row_bytes = width * dtype.size_bytes();
        bytes.resize(rows * row_bytes, 0xff);
        let mut table = Table {
            name: EMBEDDING,
            width,
            dtype,
            bytes: &mut bytes,
        };
        options.fill(&mut table, old.len() / row_bytes, 0.02, 3);
        bytes
    }

    fn f32s(bytes: &[u8]) -> Vec<f64> {
        let values = bytes.as_chunks::<4>().0.iter();
        values
            .map(|&bytes| f64::from(f32::from_le_bytes(bytes)))
            .collect()
    }

    fn column(values: &[f64], width: usize, column: usize) -> Vec<f64> {
        values.iter().skip(column).step_by(width).copied().collect()
    }

    fn mean(values: &[f64]) -> f64 {
        values.iter().sum::<f64>() / values.len() as f64
    }

    fn covariance(a: &[f64], b: &[f64]) -> f64 {
        let (mean_a, mean_b) = (mean(a), mean(b));
        let products = a.iter().zip(b).map(|(a, b)| (a - mean_a) * (b - mean_b));
        products.sum::<f64>() / a.len() as f64
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
        assert!(is_vocabulary(LM_HEAD) && is_vocabulary(EMBEDDING));
        assert!(!is_vocabulary("language_model.model.norm.weight"));
    }

    #[test]
    fn old_rows_keep_every_bit() {
        for dtype in [HostDtype::F32, HostDtype::Bf16] {
            let values = old_values(9, WIDTH).into_iter();
            let old: Vec<u8> = match dtype {
                HostDtype::F32 => values.flat_map(f32::to_le_bytes).collect(),
                HostDtype::Bf16 => values.flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect(),
            };
            let new = grown(MEAN, &old, 150, WIDTH, dtype);
            assert_eq!(new[..old.len()], old);
            // A row does not depend on how many there are.
            let fewer = grown(MEAN, &old, 12, WIDTH, dtype);
            assert_eq!(fewer, new[..fewer.len()]);
            assert_eq!(grown(MEAN, &old, 9, WIDTH, dtype), old);
        }
    }

    /// Of many fresh rows the mean is that of the old ones and the covariance a billionth of theirs.
    #[test]
    fn fresh_rows_have_the_old_ones_mean_and_covariance() {
        let values = old_values(40, 3);
        let wide: Vec<f64> = values.iter().map(|&x| f64::from(x)).collect();
        let means = [0, 1, 2].map(|at| mean(&column(&wide, 3, at)));
        // f32 resolves a billionth of the spread only around a mean of 0.
        let centred = values.iter().enumerate().map(|(at, x)| x - means[at % 3] as f32);
        let old: Vec<u8> = centred.flat_map(f32::to_le_bytes).collect();
        let new = f32s(&grown(MEAN, &old, 40 + 4000, 3, HostDtype::F32)[old.len()..]);
        let old = f32s(&old);
        for a in 0..3 {
            let (before, after) = (column(&old, 3, a), column(&new, 3, a));
            let deviation = (SPREAD * covariance(&before, &before)).sqrt();
            let error = (mean(&after) - mean(&before)).abs();
            assert!(
                error < 5.0 * deviation / 4000f64.sqrt(),
                "mean of column {a} is {error} off"
            );
            for b in 0..3 {
                let other = column(&old, 3, b);
                let scale = (covariance(&before, &before) * covariance(&other, &other)).sqrt();
                let expected = covariance(&before, &other);
                let found = covariance(&after, &column(&new, 3, b)) / SPREAD;
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
        let old: Vec<u8> = old_values(4, 8).into_iter().flat_map(f32::to_le_bytes).collect();
        let new = f32s(&grown(options, &old, 4 + 2000, 8, HostDtype::F32)[old.len()..]);
        let values = column(&new, 8, 5);
        assert!(mean(&values).abs() < 0.002);
        assert!((covariance(&values, &values).sqrt() / 0.02 - 1.0).abs() < 0.1);
    }
}
