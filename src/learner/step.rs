//! One optimizer step.

use std::time::Instant;

use brazier_models::{HostBatch, HostClasses, Vlm, VlmInputs, ops};
use burn::{
    module::Module,
    tensor::{DType, Device, Tensor},
};

use super::{
    LearnerError,
    engine::forward_backward,
    optimizer::AdamW,
    options::{Precision, StepConfig},
    schedule::lr_factor,
    trainable::Trainable,
};
use crate::data::Batch;

/// Added to the norm before dividing, as `torch.nn.utils.clip_grad_norm_` does.
const CLIP_EPS: f64 = 1e-6;

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// Loss per labelled token.
    pub loss: f32,
    /// Global norm of the gradient of that loss, before clipping.
    pub grad_norm: f32,
    /// Learning rate of the parameters without a rate of their own.
    pub lr: f64,
    /// Tokens without padding.
    pub tokens: u64,
    /// Tokens, or classified rows, that were trained on.
    pub labelled_tokens: u64,
    /// Samples.
    pub samples: u64,
    /// Seconds until the gradient norm was known.
    pub forward_backward_seconds: f64,
    /// Seconds of the update.
    pub optimizer_seconds: f64,
}

/// A model in training: parameters, optimizer, and the rule that turns micro-batches into an update.
pub struct Learner {
    /// The model; `None` only while an update is under way.
    model: Option<Vlm>,
    trainable: Trainable,
    optimizer: AdamW,
    config: StepConfig,
    device: Device,
    finished_steps: u64,
}

impl Learner {
    /// Takes a model on an inner (not autodiff) device whose parameters have the dtype of `config.precision`.
    ///
    /// # Errors
    /// If the mode leaves nothing to train.
    pub fn new(model: Vlm, config: StepConfig, device: Device) -> Result<Self, LearnerError> {
        let trainable = Trainable::select(&model, config.mode, &config.optimizer);
        if trainable.params.is_empty() {
            return Err(LearnerError::NothingToTrain { mode: config.mode });
        }
        let model = trainable.mark(model.train());
        let optimizer = AdamW::new(&model, &trainable, &config.optimizer, config.precision);
        Ok(Self {
            model: Some(model),
            trainable,
            optimizer,
            config,
            device,
            finished_steps: 0,
        })
    }

    /// The model as it is now.
    pub fn model(&self) -> &Vlm {
        match &self.model {
            Some(model) => model,
            None => unreachable!("the model is away only inside an update"),
        }
    }

    /// Steps made so far, over all sessions of the run.
    pub fn finished_steps(&self) -> u64 {
        self.finished_steps
    }

    /// The parameters that move.
    pub fn trainable(&self) -> &Trainable {
        &self.trainable
    }

    /// The device of parameters and batches.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Dtype of parameters and activations.
    pub fn dtype(&self) -> DType {
        compute_dtype(self.config.precision)
    }

    pub(super) fn parts_mut(&mut self) -> (&mut Option<Vlm>, &Trainable, &mut AdamW, &mut u64) {
        (
            &mut self.model,
            &self.trainable,
            &mut self.optimizer,
            &mut self.finished_steps,
        )
    }

    pub(super) fn optimizer(&self) -> &AdamW {
        &self.optimizer
    }

    /// One update from the micro-batches of one step. The loss is the sum over all of them, divided once by all their
    /// labelled tokens.
    ///
    /// # Errors
    /// If a batch does not fit the model, if no token is labelled, or if loss or gradient are not finite. Nothing has
    /// moved then.
    pub fn step(&mut self, batches: &[Batch]) -> Result<StepReport, LearnerError> {
        let started = Instant::now();
        let step = self.finished_steps;
        let labelled_tokens: usize = batches.iter().map(|batch| batch.num_labelled).sum();
        if labelled_tokens == 0 {
            return Err(LearnerError::NoLabelledToken {
                step,
                samples: name_samples(batches),
            });
        }
        let (losses, gradients) = self.accumulate(batches)?;
        let (losses, grad_norm) = read_norms(losses, &gradients);
        // As many as there are labelled tokens, unless classes have weights.
        let loss_weight: f64 = batches.iter().map(Batch::loss_weight).sum();
        let loss = losses.iter().sum::<f64>() / loss_weight;
        let grad_norm = grad_norm / loss_weight;
        if !(loss.is_finite() && grad_norm.is_finite()) {
            return Err(self.not_finite(batches, &losses, loss, grad_norm));
        }
        let clip = match self.config.max_grad_norm {
            Some(limit) => (limit / (grad_norm + CLIP_EPS)).min(1.0),
            None => 1.0,
        };
        let forward_backward_seconds = started.elapsed().as_secs_f64();
        let factor = lr_factor(&self.config.schedule, step);
        self.update(gradients, factor, clip / loss_weight);
        Ok(StepReport {
            loss: loss as f32,
            grad_norm: grad_norm as f32,
            lr: self.config.optimizer.lr * factor,
            tokens: batches.iter().map(|batch| batch.num_tokens as u64).sum(),
            labelled_tokens: labelled_tokens as u64,
            samples: batches.iter().map(|batch| batch.samples.len() as u64).sum(),
            forward_backward_seconds,
            optimizer_seconds: started.elapsed().as_secs_f64() - forward_backward_seconds,
        })
    }

    /// Sums of losses (one for each micro-batch with labels) and of gradients, on the device.
    fn accumulate(
        &self,
        batches: &[Batch],
    ) -> Result<(Vec<Tensor<1>>, Vec<Option<Tensor<1>>>), LearnerError> {
        let mut gradients: Vec<Option<Tensor<1>>> = vec![None; self.trainable.params.len()];
        let mut losses = Vec::new();
        // Every batch is checked before the first one costs time.
        let first_rows = batches.iter().scan(0, |row, batch| {
            let first_row = *row;
            *row += batch.rows as u64;
            Some(first_row)
        });
        let inputs = batches
            .iter()
            .zip(first_rows)
            .filter(|(batch, _)| batch.num_labelled > 0)
            .map(|(batch, first_row)| self.upload_for_training(batch, first_row))
            .collect::<Result<Vec<_>, _>>()?;
        for inputs in inputs {
            let sink = |position: usize, gradient: Tensor<1>| {
                let sum = &mut gradients[position];
                *sum = Some(match sum.take() {
                    Some(sum) => sum + gradient,
                    None => gradient,
                });
            };
            losses.push(forward_backward(
                self.model(),
                &self.trainable,
                &inputs,
                self.config.recompute,
                sink,
            ));
        }
        Ok((losses, gradients))
    }

    fn update(&mut self, gradients: Vec<Option<Tensor<1>>>, lr_factor: f64, scale: f64) {
        let Some(model) = self.model.take() else {
            unreachable!("the model is away only inside an update")
        };
        let step = self.finished_steps;
        let model = self
            .optimizer
            .update(model, &self.trainable, gradients, step, lr_factor, scale);
        self.model = Some(model);
        self.finished_steps += 1;
    }

    /// Puts a batch on the learner's device.
    ///
    /// # Errors
    /// If it does not fit the model; the error names its samples.
    pub fn upload(&self, batch: &Batch) -> Result<VlmInputs, LearnerError> {
        upload(batch, self.model(), &self.device, self.dtype())
    }

    /// As [`Learner::upload`], with dropout where the model has some. `first_row` counts the step's rows before the batch.
    fn upload_for_training(&self, batch: &Batch, first_row: u64) -> Result<VlmInputs, LearnerError> {
        let inputs = self.upload(batch)?;
        let drops = self.model().lora().is_some_and(|lora| lora.lora_dropout > 0.0);
        if !drops {
            return Ok(inputs);
        }
        let seed = dropout_seed(self.config.seed, self.finished_steps);
        Ok(inputs.with_dropout(&to_host_batch(batch), self.model().config(), seed, first_row))
    }

    /// Names the micro-batches whose own loss is not finite, or all if only the gradient overflowed.
    fn not_finite(&self, batches: &[Batch], losses: &[f64], loss: f64, grad_norm: f64) -> LearnerError {
        let labelled: Vec<&Batch> = batches.iter().filter(|batch| batch.num_labelled > 0).collect();
        let mut suspects: Vec<Batch> = labelled
            .iter()
            .zip(losses)
            .filter(|(_, loss)| !loss.is_finite())
            .map(|(batch, _)| (*batch).clone())
            .collect();
        if suspects.is_empty() {
            suspects = batches.to_vec();
        }
        LearnerError::NotFinite {
            step: self.finished_steps,
            loss,
            grad_norm,
            samples: name_samples(&suspects),
        }
    }
}

/// Puts a batch on a device.
///
/// # Errors
/// If it does not fit the model; the error names its samples.
pub fn upload(batch: &Batch, model: &Vlm, device: &Device, dtype: DType) -> Result<VlmInputs, LearnerError> {
    VlmInputs::new(&to_host_batch(batch), model.config(), device, dtype).map_err(|source| {
        LearnerError::Input {
            samples: name_samples(std::slice::from_ref(batch)),
            source,
        }
    })
}

fn to_host_batch(batch: &Batch) -> HostBatch<'_> {
    let (pixels, num_images): (&[f32], usize) = match &batch.images {
        Some(images) => (&images.pixels, images.num_images),
        None => (&[], 0),
    };
    HostBatch {
        rows: batch.rows,
        length: batch.length,
        input_ids: &batch.input_ids,
        labels: &batch.labels,
        pixels,
        num_images,
        classes: batch.classes.as_ref().map(|classes| HostClasses {
            classes: &classes.ids,
            lengths: &classes.lengths,
            weights: &classes.weights,
        }),
    }
}

/// Different for every step of every run.
fn dropout_seed(seed: u64, step: u64) -> u64 {
    // Odd factors keep different pairs apart; what draws from it mixes the bits.
    seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ step.wrapping_mul(0xd134_2543_de82_ef95)
}

/// The dtype that a precision stores parameters in.
pub fn compute_dtype(precision: Precision) -> DType {
    match precision {
        Precision::F32 => DType::F32,
        Precision::Bf16 => DType::BF16,
    }
}

/// One transfer for all scalars of a step: the losses, and the norm of all gradients.
fn read_norms(losses: Vec<Tensor<1>>, gradients: &[Option<Tensor<1>>]) -> (Vec<f64>, f64) {
    let num_losses = losses.len();
    let squares = gradients.iter().flatten().cloned().map(ops::sum_of_squares);
    let scalars = Tensor::cat(losses.into_iter().chain(squares).collect(), 0).into_data();
    let scalars: Vec<f64> = scalars.iter::<f64>().collect();
    let (losses, squares) = scalars.split_at(num_losses);
    (losses.to_vec(), squares.iter().sum::<f64>().sqrt())
}

fn name_samples(batches: &[Batch]) -> String {
    const SHOWN: usize = 8;
    let samples: Vec<String> = batches
        .iter()
        .flat_map(|batch| &batch.samples)
        .map(ToString::to_string)
        .collect();
    match samples.len().saturating_sub(SHOWN) {
        0 => samples.join(", "),
        more => format!("{} and {more} more", samples[..SHOWN].join(", ")),
    }
}
