//! Fresh parameters as a pure function of a seed and the parameter's path.
//!
//! Values are drawn on the host, so that every backend, device count and construction order starts from the same
//! numbers.

use std::{num::NonZero, thread};

use burn::{
    module::{Param, ParamId},
    tensor::{DType, Device, Shape, Tensor, TensorData},
};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};

use crate::lora::LoraConfig;

/// Where in the model a parameter is made, and how.
#[derive(Debug, Clone)]
pub struct Init<'a> {
    seed: u64,
    path: String,
    device: &'a Device,
    dtype: DType,
    std: f64,
    lora: Option<&'a LoraConfig>,
    moment: Moment,
}

/// When the values of a parameter are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// With the parameter.
    Now,
    /// When they are first asked for.
    FirstUse,
}

impl<'a> Init<'a> {
    /// Starts at the root of a model. `dtype` is the dtype parameters are stored in.
    pub fn new(seed: u64, device: &'a Device, dtype: DType) -> Self {
        Self {
            seed,
            path: String::new(),
            device,
            dtype,
            std: 0.02,
            lora: None,
            moment: Moment::Now,
        }
    }

    /// The same, but values are made when they are first asked for: what a file replaces before is never drawn.
    pub fn deferred(&self) -> Self {
        Self {
            moment: Moment::FirstUse,
            ..self.clone()
        }
    }

    /// The same, and linear layers that the configuration names get adapters.
    pub(crate) fn with_lora(&self, lora: Option<&'a LoraConfig>) -> Self {
        Self { lora, ..self.clone() }
    }

    /// The adapters that the layer at this place is to have.
    pub(crate) fn lora(&self) -> Option<&'a LoraConfig> {
        self.lora.filter(|lora| lora.targets(&self.path))
    }

    /// Where this is.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The same, one name further down the path.
    pub fn at(&self, name: impl std::fmt::Display) -> Self {
        let path = if self.path.is_empty() {
            name.to_string()
        } else {
            format!("{}.{name}", self.path)
        };
        Self { path, ..self.clone() }
    }

    /// The same with another standard deviation for [`Init::normal`].
    pub fn with_std(&self, std: f64) -> Self {
        Self { std, ..self.clone() }
    }

    /// A parameter drawn from `N(0, std²)`.
    pub fn normal<const D: usize>(&self, name: &str, shape: [usize; D]) -> Param<Tensor<D>> {
        let seed = self.seed ^ hash_path(&self.at(name).path);
        let std = self.std;
        self.param(shape, move |count| draw(seed, std, count))
    }

    /// A parameter drawn uniformly from `-bound..bound`.
    pub(crate) fn uniform<const D: usize>(
        &self,
        name: &str,
        shape: [usize; D],
        bound: f64,
    ) -> Param<Tensor<D>> {
        let seed = self.seed ^ hash_path(&self.at(name).path);
        self.param(shape, move |count| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let draw = |_| (bound * (2.0 * unit(rng.next_u64()) - 1.0)) as f32;
            (0..count).map(draw).collect()
        })
    }

    /// A parameter filled with one value.
    pub fn constant<const D: usize>(&self, value: f32, shape: [usize; D]) -> Param<Tensor<D>> {
        self.param(shape, move |count| vec![value; count])
    }

    /// A parameter with given values, row-major.
    pub fn values<const D: usize>(&self, values: Vec<f32>, shape: [usize; D]) -> Param<Tensor<D>> {
        self.param(shape, |_| values)
    }

    fn param<const D: usize>(
        &self,
        shape: [usize; D],
        values: impl FnOnce(usize) -> Vec<f32> + Send + Sync + 'static,
    ) -> Param<Tensor<D>> {
        let dtype = self.dtype;
        let make = move |device: &Device| {
            let values = values(shape.iter().product());
            let data = TensorData::new(values, shape).convert_dtype(dtype);
            Tensor::from_data(data, (device, dtype))
        };
        match self.moment {
            Moment::Now => Param::from_tensor(make(self.device)),
            Moment::FirstUse => Param::uninitialized(
                ParamId::new(),
                move |device, is_trained| make(device).set_require_grad(is_trained),
                self.device.clone(),
                true,
                Shape::from(shape),
            ),
        }
    }
}

/// Numbers from `N(0, std²)`, a pure function of the seed and the path.
pub fn normals(seed: u64, path: &str, std: f64, count: usize) -> Vec<f32> {
    draw(seed ^ hash_path(path), std, count)
}

/// Numbers that are not worth a thread of their own.
const PIECE: usize = 1 << 16;

/// `count` numbers from `N(0, std²)`, the same for any number of threads.
fn draw(seed: u64, std: f64, count: usize) -> Vec<f32> {
    let mut values = vec![0.0; count];
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let share = count.div_ceil(cores).max(PIECE).next_multiple_of(2);
    thread::scope(|scope| {
        let mut parts = values.chunks_mut(share).enumerate();
        let own = parts.next();
        for (i, part) in parts {
            scope.spawn(move || fill(seed, std, i * share, part));
        }
        if let Some((_, part)) = own {
            fill(seed, std, 0, part);
        }
    });
    values
}

/// The numbers from the `first` one on, which is an even one.
fn fill(seed: u64, std: f64, first: usize, values: &mut [f32]) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    // Two words of 32 bits for a number.
    rng.set_word_pos(2 * first as u128);
    for pair in values.chunks_mut(2) {
        let (a, b) = box_muller(&mut rng);
        pair[0] = (a * std) as f32;
        if let Some(last) = pair.get_mut(1) {
            *last = (b * std) as f32;
        }
    }
}

/// Two independent standard normal numbers (Box and Muller, 1958).
fn box_muller(rng: &mut ChaCha8Rng) -> (f64, f64) {
    let radius = (-2.0 * unit(rng.next_u64()).ln()).sqrt();
    let angle = std::f64::consts::TAU * unit(rng.next_u64());
    (radius * angle.cos(), radius * angle.sin())
}

/// Between 0 and 1, never either.
fn unit(bits: u64) -> f64 {
    ((bits >> 11) as f64 + 0.5) / (1u64 << 53) as f64
}

/// FNV-1a: stable across builds, unlike the standard library's hasher.
pub(crate) fn hash_path(path: &str) -> u64 {
    path.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_draw_what_one_draws() {
        let all = draw(3, 0.5, 3 * PIECE + 1);
        let mut one = vec![0.0; all.len()];
        fill(3, 0.5, 0, &mut one);
        assert!(all == one);
        // And from any even place.
        fill(3, 0.5, 100, &mut one[..7]);
        assert_eq!(one[..7], all[100..107]);
    }
}
