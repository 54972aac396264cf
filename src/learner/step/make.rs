//! What happens in a step: batches to gradients, gradients to an update.

use std::time::Instant;

use brazier_models::{
    Segment, Segmented, VlmInputs,
    flops::{Passes, Work, flops},
    ops,
};
use burn::tensor::Tensor;

use super::{CacheUse, Learner, StepReport};
use crate::{
    data::{Batch, ImageBatch},
    learner::{
        LearnerError,
        agree::{Norms, Share, Shares},
        engine::{forward_backward, itinerary},
        inputs::{labelled, look_up, name_samples, to_host_batch, upload, upload_features},
        optimizer::Update,
        reduce::Reducer,
        schedule::lr_factor,
        store::Visiting,
        vision_cache::Wanted,
    },
    parallel::CollectiveError,
};

/// Added to the norm before dividing, as `torch.nn.utils.clip_grad_norm_` does.
const CLIP_EPS: f64 = 1e-6;

/// The batches of a step before its first computation, checked.
enum Prepared<'b> {
    /// Those with something to learn from, on the device, with their numbers.
    Uploaded(Vec<(usize, VlmInputs)>),
    /// What the same need of the vision tower first.
    Wanted(Wanted<'b>),
}

impl Learner {
    pub(super) fn make_step(
        &mut self,
        batches: Result<&[Batch], LearnerError>,
    ) -> Result<StepReport, LearnerError> {
        let started = Instant::now();
        // Every batch is checked before the first one costs time.
        let prepared = batches.and_then(|batches| Ok((batches, self.prepare(batches)?)));
        let (batches, prepared) = self.group().agree(prepared)?;
        let images = match &prepared {
            Prepared::Uploaded(_) => [0, 0],
            Prepared::Wanted(wanted) => [wanted.num_found(), wanted.num_missing()],
        };
        let flops = self.flops(batches) - self.flops_saved(images[0]);
        let shares = Shares::exchange(&self.grid.data, &Share::of(batches, flops, images))?;
        if shares.labelled_tokens() == 0 {
            return Err(LearnerError::NoLabelledToken {
                step: self.finished_steps,
                samples: name_samples(batches),
            });
        }
        let inputs = match prepared {
            Prepared::Uploaded(inputs) => inputs,
            Prepared::Wanted(wanted) => self.upload_with_features(batches, &wanted, &shares)?,
        };
        let (losses, mut gradients) = self.accumulate(batches, inputs, &shares)?;
        let (params, elements) = (&self.trainable, self.parallel.bucket_elements);
        self.ranks
            .sum_copied(&mut gradients, params, &self.device, elements)?;
        let counted = params.params.iter().zip(&gradients);
        let counted = counted.filter(|(trained, _)| self.ranks.counts(&trained.info.path));
        let (losses, squares) = read_norms(losses, counted.filter_map(|(_, gradient)| gradient.clone()));
        let num_parts = match self.optimizer.is_in_parts() {
            true => self.group().world().size,
            false => self.ranks.shard().count,
        };
        let norms = Norms::exchange(self.group(), losses.iter().sum(), squares, num_parts)?;
        // As many as there are labelled tokens, unless classes have weights.
        let loss_weight = shares.loss_weight();
        let (loss, grad_norm) = (norms.loss / loss_weight, norms.grad_norm / loss_weight);
        if !(loss.is_finite() && grad_norm.is_finite()) {
            return Err(self.not_finite(batches, &losses, loss, grad_norm, norms.suspect));
        }
        let clip = match self.config.max_grad_norm {
            Some(limit) => (limit / (grad_norm + CLIP_EPS)).min(1.0),
            None => 1.0,
        };
        let forward_backward_seconds = started.elapsed().as_secs_f64();
        let factor = lr_factor(&self.config.schedule, self.finished_steps);
        self.update(gradients, factor, clip / loss_weight)?;
        Ok(StepReport {
            loss: loss as f32,
            grad_norm: grad_norm as f32,
            lr: self.config.optimizer.lr * factor,
            tokens: shares.tokens(),
            labelled_tokens: shares.labelled_tokens(),
            samples: shares.samples(),
            flops: shares.flops(),
            vision_cache: self.vision.is_some().then(|| CacheUse {
                hits: shares.images_found(),
                misses: shares.images_missing(),
            }),
            forward_backward_seconds,
            optimizer_seconds: started.elapsed().as_secs_f64() - forward_backward_seconds,
        })
    }

    fn flops(&self, batches: &[Batch]) -> f64 {
        let model = self.model();
        let passes = self.config.mode.passes(model.lora().is_some());
        let labelled = batches.iter().filter(|batch| batch.num_labelled > 0);
        let of = |batch: &Batch| {
            let work = Work {
                segments: &batch.segments,
                labelled: batch.num_labelled,
                images: batch.images.as_ref().map_or(0, ImageBatch::num_images),
            };
            flops(model.config(), passes, &work)
        };
        labelled.map(of).sum()
    }

    /// What needs not be computed for images whose features are at hand.
    fn flops_saved(&self, images: u64) -> f64 {
        let Some(vision) = self.vision.as_ref().filter(|_| images > 0) else {
            return 0.0;
        };
        let passes = Passes {
            vision: 1.0,
            projector: f64::from(u8::from(vision.covers(Segment::Projector))),
            language: 0.0,
        };
        let work = Work {
            segments: &[],
            labelled: 0,
            images: images as usize,
        };
        flops(self.model().config(), passes, &work)
    }

    /// Sums of losses (one for each micro-batch with labels) and of gradients, on the device.
    fn accumulate(
        &self,
        batches: &[Batch],
        inputs: Vec<(usize, VlmInputs)>,
        shares: &Shares,
    ) -> Result<(Vec<Tensor<1>>, Vec<Option<Tensor<1>>>), LearnerError> {
        let (num_params, zero) = (self.trainable.params.len(), self.parallel.zero);
        let mut reducer = Reducer::new(&self.grid.data, zero, &self.buckets, num_params, &self.device);
        let mut losses = Vec::new();
        let mut inputs = inputs.into_iter();
        let (model, recompute) = (self.model(), self.config.recompute);
        let mut path = model.chain(shares.have_images());
        path.retain(|&segment| !self.vision.as_ref().is_some_and(|vision| vision.covers(segment)));
        for round in 0..shares.rounds() {
            reducer.begin(round + 1 == shares.rounds());
            let inputs = inputs.next().map(|(micro, inputs)| {
                let first_sample = shares.samples_before(self.grid.data.world().rank, micro);
                self.with_dropout(&batches[micro], inputs, first_sample)
            });
            let (trainable, ranks) = (&self.trainable, &self.ranks);
            let (sink, inputs) = (&mut reducer, inputs.as_ref());
            let loss = match (&self.store, inputs) {
                (Some(store), _) => {
                    let itinerary = itinerary(&path, trainable);
                    let mut visiting = Visiting::new(model.clone(), store, &self.grid.data, itinerary);
                    forward_backward(&mut visiting, trainable, inputs, &path, recompute, ranks, sink)?
                }
                (None, Some(batch)) => {
                    let path = model.segments(batch);
                    forward_backward(&mut &*model, trainable, inputs, &path, recompute, ranks, sink)?
                }
                (None, None) => None,
            };
            losses.extend(loss);
            reducer.end()?;
        }
        Ok((losses, reducer.finish()))
    }

    fn update(
        &mut self,
        gradients: Vec<Option<Tensor<1>>>,
        lr_factor: f64,
        scale: f64,
    ) -> Result<(), LearnerError> {
        let update = Update {
            gradients,
            step: self.finished_steps,
            lr_factor,
            scale,
        };
        let (trainable, optimizer) = (&self.trainable, &mut self.optimizer);
        let Some(model) = self.model.take() else {
            unreachable!("the model is away only inside an update")
        };
        let (model, result) = match optimizer.is_in_parts() {
            false => (optimizer.update(model, trainable, update), Ok(())),
            true => {
                let store = self.store.as_mut();
                optimizer.update_parts(model, trainable, update, &self.buckets, &self.grid.data, store)
            }
        };
        self.model = Some(model);
        result?;
        self.finished_steps += 1;
        Ok(())
    }

    /// Checks the micro-batches with something to learn from, and puts them on the device unless something must be
    /// computed before.
    fn prepare<'b>(&self, batches: &'b [Batch]) -> Result<Prepared<'b>, LearnerError> {
        match &self.vision {
            Some(vision) => {
                let batches: Vec<&Batch> = labelled(batches).map(|(_, batch)| batch).collect();
                Ok(Prepared::Wanted(look_up(vision, &batches, self.model())?))
            }
            None => {
                let uploaded = labelled(batches).map(|(micro, batch)| Ok((micro, self.upload(batch)?)));
                Ok(Prepared::Uploaded(uploaded.collect::<Result<_, LearnerError>>()?))
            }
        }
    }

    /// Computes the features that are missing, and puts the batches with all of theirs on the device.
    fn upload_with_features(
        &self,
        batches: &[Batch],
        wanted: &Wanted<'_>,
        shares: &Shares,
    ) -> Result<Vec<(usize, VlmInputs)>, LearnerError> {
        let Some(vision) = &self.vision else {
            unreachable!("features are wanted only where they are kept")
        };
        let model = self.model();
        let (device, dtype) = (&self.device, self.dtype());
        let computed = match &self.store {
            // Its parameters have to be put together only where some rank needs them.
            Some(store) if shares.images_missing() > 0 => {
                let itinerary = vision.segments().to_vec();
                let mut visiting = Visiting::new(model.clone(), store, &self.grid.data, itinerary);
                vision.compute(&mut visiting, wanted, model.config(), device, dtype)?
            }
            _ => vision.compute(&mut &*model, wanted, model.config(), device, dtype)?,
        };
        let uploaded = labelled(batches).enumerate().map(|(at, (micro, batch))| {
            let features = vision.features(wanted, at, &computed);
            Ok((micro, upload_features(batch, features, model, device, dtype)?))
        });
        uploaded.collect()
    }

    /// Puts a batch on the learner's device.
    ///
    /// # Errors
    /// If it does not fit the model; the error names its samples.
    pub fn upload(&self, batch: &Batch) -> Result<VlmInputs, LearnerError> {
        upload(batch, self.model(), &self.device, self.dtype())
    }

    /// Drops inputs where the model has dropout. `first_sample` counts the step's samples before the batch.
    fn with_dropout(&self, batch: &Batch, inputs: VlmInputs, first_sample: u64) -> VlmInputs {
        let drops = self.model().lora().is_some_and(|lora| lora.lora_dropout > 0.0);
        if !drops {
            return inputs;
        }
        let seed = dropout_seed(self.config.seed, self.finished_steps);
        inputs.with_dropout(&to_host_batch(batch), self.model().config(), seed, first_sample)
    }

    /// Names the micro-batches whose own loss is not finite, or all if only the gradient overflowed. Where the loss of
    /// another rank is the cause, that one names them.
    fn not_finite(
        &self,
        batches: &[Batch],
        losses: &[f64],
        loss: f64,
        grad_norm: f64,
        suspect: Option<usize>,
    ) -> LearnerError {
        if let Some(rank) = suspect
            && losses.iter().all(|loss| loss.is_finite())
        {
            let message = format!("its loss is not finite in step {}", self.finished_steps);
            return CollectiveError::Peer { rank, message }.into();
        }
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

/// Different for every step of every run.
fn dropout_seed(seed: u64, step: u64) -> u64 {
    // Odd factors keep different pairs apart; what draws from it mixes the bits.
    seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ step.wrapping_mul(0xd134_2543_de82_ef95)
}

/// One transfer for all scalars of a step: the losses, and the sum of the squares of all gradients.
fn read_norms(losses: Vec<Tensor<1>>, gradients: impl Iterator<Item = Tensor<1>>) -> (Vec<f64>, f64) {
    let num_losses = losses.len();
    let squares = gradients.map(ops::sum_of_squares);
    let scalars: Vec<Tensor<1>> = losses.into_iter().chain(squares).collect();
    if scalars.is_empty() {
        // A rank without a batch, whose gradients another one counts.
        return (Vec::new(), 0.0);
    }
    let scalars = Tensor::cat(scalars, 0).into_data();
    let scalars: Vec<f64> = scalars.iter::<f64>().collect();
    let (losses, squares) = scalars.split_at(num_losses);
    (losses.to_vec(), squares.iter().sum())
}
