//! Shapes and numbers that look random and are the same everywhere.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

/// Numbers in -1..1 from a seed.
pub(crate) fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..n)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

pub(crate) fn indices(n: usize, below: usize, seed: u64) -> Vec<i32> {
    noise(n, seed)
        .into_iter()
        .map(|x| ((x + 1.0) * 0.5 * below as f32) as i32 % below as i32)
        .collect()
}

pub(crate) fn ints(values: &[i32], device: &Device) -> Tensor<1, Int> {
    Tensor::from_data(
        TensorData::new(values.to_vec(), [values.len()]),
        (device, DType::I32),
    )
}

/// A sequence of cases.
#[derive(Debug, Clone)]
pub struct Draw {
    seed: u64,
    shrink: usize,
}

impl Draw {
    /// Another sequence for each seed. Extents are divided by `shrink`, for devices that are slow.
    pub fn new(seed: u64, shrink: usize) -> Self {
        Self {
            seed: seed.wrapping_mul(100),
            shrink: shrink.max(1),
        }
    }

    /// From `least` to `most`, small numbers more often than large ones.
    pub(super) fn size(&mut self, least: usize, most: usize) -> usize {
        self.seed += 1;
        let most = (most / self.shrink).max(least);
        let [x, y] = [noise(2, self.seed)[0], noise(2, self.seed)[1]].map(|x| (x + 1.0) * 0.5);
        let span = (most - least) as f32;
        let size = if y < 0.5 { span * x * x * x } else { span * x };
        least + (size as usize).min(most - least)
    }

    pub(super) fn values(&mut self, n: usize) -> Vec<f32> {
        self.seed += 1;
        noise(n, self.seed + 1000)
    }

    pub(super) fn indices(&mut self, n: usize, below: usize) -> Vec<i32> {
        self.seed += 1;
        indices(n, below, self.seed)
    }

    pub(super) fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        self.seed += 1;
        choices[(noise(1, self.seed)[0].abs() * 997.0) as usize % choices.len()]
    }

    /// Lengths that add up to at most `t`.
    pub(super) fn lengths(&mut self, t: usize) -> Vec<usize> {
        let mut lengths = Vec::new();
        let mut left = t;
        while left > 0 && lengths.len() < 6 {
            self.seed += 1;
            let share = (noise(1, self.seed)[0] + 1.0) * 0.5;
            let length = 1 + ((left - 1) as f32 * share) as usize;
            lengths.push(length);
            left -= length;
        }
        lengths
    }
}
