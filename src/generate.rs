//! Text from a model: greedy or sampled, with a KV cache.

use brazier_models::{HostBatch, IGNORE_INDEX, InputError, KvCache, PaddingSide, Vlm, VlmInputs};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};

use crate::data::PixelImage;

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sampling {
    /// The most probable one.
    Greedy,
    /// Drawn from `softmax(logits / temperature)`, cut to the `top_k` most probable tokens and to the smallest set whose
    /// probabilities reach `top_p`.
    Random {
        /// Above 0.
        temperature: f64,
        /// `None` keeps all.
        top_k: Option<usize>,
        /// In (0, 1]; `None` keeps all.
        top_p: Option<f64>,
        /// Same seed, same text.
        seed: u64,
    },
}

/// When to stop, and how to choose.
#[derive(Debug, Clone, PartialEq)]
pub struct GenerateOptions {
    /// At most so many tokens.
    pub max_new_tokens: usize,
    /// Any of these ends the text and is not part of it.
    pub stop_ids: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: Sampling,
}

/// A prompt: token ids with each image as its copies of the image token, and the images.
#[derive(Debug, Clone, Copy)]
pub struct PromptRef<'a> {
    /// Token ids.
    pub input_ids: &'a [i32],
    /// Images in the order of their placeholders.
    pub images: &'a [PixelImage],
}

/// Continues prompts together; their lengths may differ. `on_tokens` sees the tokens of each position as they come (`None` for
/// rows that have ended).
///
/// # Errors
/// If a prompt does not fit the model, or prompt and answer together exceed its positions.
pub fn generate(
    model: &Vlm,
    device: &Device,
    dtype: DType,
    prompts: &[PromptRef],
    options: &GenerateOptions,
    mut on_tokens: impl FnMut(&[Option<u32>]),
) -> Result<Vec<Vec<u32>>, InputError> {
    let inputs = upload(model, device, dtype, prompts)?;
    let lengths: Vec<usize> = prompts.iter().map(|prompt| prompt.input_ids.len()).collect();
    let length = inputs.input_ids_bt.dims()[1];
    let limit = model.config().text.max_positions();
    if length + options.max_new_tokens > limit {
        return Err(InputError::TooLong {
            length: length + options.max_new_tokens,
            limit,
        });
    }
    let mut chooser = Chooser::new(options.sampling);
    let mut texts: Vec<Vec<u32>> = vec![Vec::new(); prompts.len()];
    let mut ended = vec![false; prompts.len()];
    let mut state: Option<(Vec<u32>, KvCache)> = None;
    for _ in 0..options.max_new_tokens {
        let (logits, cache) = match state.take() {
            None => model.prefill(&inputs, &lengths, length + options.max_new_tokens),
            Some((chosen, mut cache)) => (model.decode(token_tensor(&chosen, device), &mut cache), cache),
        };
        let chosen = chooser.choose(logits);
        let mut shown = Vec::with_capacity(chosen.len());
        for ((&token, text), ended) in chosen.iter().zip(&mut texts).zip(&mut ended) {
            *ended |= options.stop_ids.contains(&token);
            shown.push((!*ended).then_some(token));
            if !*ended {
                text.push(token);
            }
        }
        on_tokens(&shown);
        if ended.iter().all(|&ended| ended) {
            break;
        }
        state = Some((chosen, cache));
    }
    Ok(texts)
}

fn upload(
    model: &Vlm,
    device: &Device,
    dtype: DType,
    prompts: &[PromptRef],
) -> Result<VlmInputs, InputError> {
    let length = prompts.iter().map(|prompt| prompt.input_ids.len()).max();
    let length = length.unwrap_or(0);
    let segments: Vec<Vec<usize>> = prompts
        .iter()
        .map(|prompt| vec![prompt.input_ids.len()])
        .collect();
    let mut input_ids = Vec::with_capacity(prompts.len() * length);
    for (row, prompt) in prompts.iter().enumerate() {
        input_ids.extend(prompt.input_ids);
        // Nothing looks at the padding: any token will do.
        input_ids.resize((row + 1) * length, 0);
    }
    let images: Vec<&PixelImage> = prompts.iter().flat_map(|prompt| prompt.images).collect();
    let pixels: Vec<f32> = images
        .iter()
        .flat_map(|image| image.pixels.iter())
        .copied()
        .collect();
    let batch = HostBatch {
        rows: prompts.len(),
        length,
        labels: &vec![IGNORE_INDEX; input_ids.len()],
        input_ids: &input_ids,
        padding_side: PaddingSide::Right,
        segments: &segments,
        pixels: &pixels,
        num_images: images.len(),
        classes: None,
    };
    VlmInputs::new(&batch, model.config(), device, dtype)
}

fn token_tensor(tokens: &[u32], device: &Device) -> Tensor<1, Int> {
    let ids: Vec<i32> = tokens.iter().map(|&token| token as i32).collect();
    let count = ids.len();
    Tensor::from_data(TensorData::new(ids, [count]), (device, DType::I32))
}

struct Chooser {
    sampling: Sampling,
    rng: ChaCha8Rng,
}

impl Chooser {
    fn new(sampling: Sampling) -> Self {
        let seed = match sampling {
            Sampling::Greedy => 0,
            Sampling::Random { seed, .. } => seed,
        };
        Self {
            sampling,
            rng: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    fn choose(&mut self, logits_bv: Tensor<2>) -> Vec<u32> {
        let [_, v] = logits_bv.dims();
        match self.sampling {
            Sampling::Greedy => logits_bv
                .argmax(1)
                .into_data()
                .iter::<i64>()
                .map(|token| token as u32)
                .collect(),
            Sampling::Random {
                temperature,
                top_k,
                top_p,
                ..
            } => {
                let logits: Vec<f32> = logits_bv.into_data().iter::<f32>().collect();
                let unit = |rng: &mut ChaCha8Rng| (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
                logits
                    .chunks(v)
                    .map(|row| sample(row, temperature, top_k, top_p, unit(&mut self.rng)))
                    .collect()
            }
        }
    }
}

/// Draws one token; `unit` is uniform in [0, 1).
fn sample(logits: &[f32], temperature: f64, top_k: Option<usize>, top_p: Option<f64>, unit: f64) -> u32 {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    // The index breaks ties, so that the result does not depend on the sort.
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    order.truncate(top_k.unwrap_or(usize::MAX).max(1));
    let peak = f64::from(logits[order[0]]);
    let weights: Vec<f64> = order
        .iter()
        .map(|&token| ((f64::from(logits[token]) - peak) / temperature).exp())
        .collect();
    let total: f64 = weights.iter().sum();
    let mut kept = weights.len();
    if let Some(top_p) = top_p {
        let mut sum = 0.0;
        kept = weights
            .iter()
            .take_while(|&&weight| {
                let before = sum;
                sum += weight / total;
                before < top_p
            })
            .count()
            .max(1);
    }
    let mut rest = unit * weights[..kept].iter().sum::<f64>();
    for (&token, weight) in order[..kept].iter().zip(&weights) {
        rest -= weight;
        if rest < 0.0 {
            return token as u32;
        }
    }
    order[kept - 1] as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Probabilities 1/2, 1/4, 1/8, 1/8 for tokens 2, 0, 1, 3.
    fn logits() -> Vec<f32> {
        [4.0f32, 2.0, 8.0, 2.0].iter().map(|p| p.ln()).collect()
    }

    fn check(top_k: Option<usize>, top_p: Option<f64>, expected: &[(f64, u32)]) {
        for &(unit, token) in expected {
            assert_eq!(
                sample(&logits(), 1.0, top_k, top_p, unit),
                token,
                "at {unit}, {top_k:?}, {top_p:?}"
            );
        }
    }

    #[test]
    fn probabilities_are_cut_in_order() {
        check(
            None,
            None,
            &[
                (0.0, 2),
                (0.49, 2),
                (0.51, 0),
                (0.74, 0),
                (0.76, 1),
                (0.9, 3),
                (0.999, 3),
            ],
        );
        check(Some(1), None, &[(0.0, 2), (0.999, 2)]);
        check(Some(2), None, &[(0.66, 2), (0.67, 0), (0.999, 0)]);
        // The set that reaches 0.6 is the first two; 0.5 is reached by the first alone.
        check(None, Some(0.6), &[(0.66, 2), (0.67, 0), (0.999, 0)]);
        check(None, Some(0.5), &[(0.999, 2)]);
    }

    #[test]
    fn a_low_temperature_is_greedy() {
        assert_eq!(sample(&logits(), 0.01, None, None, 0.999), 2);
    }
}
