//! AdamW over f32 masters.
//!
//! Parameters are stored in the compute dtype. In bf16 the optimizer owns an f32 master of each trained parameter, and
//! the parameter is its master rounded once; in f32 the parameter is its own master.

use std::collections::HashMap;

use brazier_models::{
    HostDtype, HostTensor, Vlm,
    ops::{self, AdamwState, AdamwStep},
    params::replace_value,
};
use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{DType, Device, Tensor},
};

use super::{
    buckets::Bucket,
    options::{OptimizerConfig, Precision},
    parts::{joined, own_part, part_len, to_bytes},
    snapshot::Dealer,
    store::Store,
    tensor_group::TensorGroup,
    trainable::Trainable,
    transport,
};
use crate::parallel::{CollectiveError, Group, World};

/// Prefixes of the optimizer's tensors in a checkpoint.
const MASTER: &str = "master.";
pub(super) const EXP_AVG: &str = "exp_avg.";
const EXP_AVG_SQ: &str = "exp_avg_sq.";

/// State of one parameter, flat, f32; of several ranks each has its part.
struct Slot {
    /// `None` in f32, where the parameter is the master.
    master: Option<Tensor<1>>,
    exp_avg: Tensor<1>,
    exp_avg_sq: Tensor<1>,
}

/// AdamW with decoupled weight decay, PyTorch's arithmetic.
pub(super) struct AdamW {
    slots: Vec<Option<Slot>>,
    config: OptimizerConfig,
    /// The ranks that share the state; `None` if this one has all of it.
    parts: Option<World>,
    /// Where the state is.
    home: Device,
}

/// What an update is made of.
pub(super) struct Update {
    /// Those of the summed loss, by place in `trainable`; parts of them if the optimizer is in parts. A missing one is 0, so
    /// that an update does not depend on which rank saw an image.
    pub(super) gradients: Vec<Option<Tensor<1>>>,
    /// Finished updates.
    pub(super) step: u64,
    /// The schedule's.
    pub(super) lr_factor: f64,
    /// Divides by the labelled tokens and clips.
    pub(super) scale: f64,
}

impl AdamW {
    /// Moments 0; masters are the parameters' present values. Both are on the device `home`.
    pub(super) fn new(
        model: &Vlm,
        trainable: &Trainable,
        config: &OptimizerConfig,
        precision: Precision,
        parts: Option<World>,
        home: &Device,
    ) -> Self {
        let mut slots: Vec<Option<Slot>> = trainable.params.iter().map(|_| None).collect();
        visit_values(model, trainable, |position, value| {
            let count = value.shape().num_elements();
            let len = parts.map_or(count, |world| part_len(count, world.size));
            let zeros = || Tensor::<1>::zeros([len], (home, DType::F32));
            slots[position] = Some(Slot {
                exp_avg: zeros(),
                exp_avg_sq: zeros(),
                master: match precision {
                    Precision::F32 => None,
                    Precision::Bf16 => Some(part_of(value, parts).cast(DType::F32).to_device(home)),
                },
            });
        });
        Self {
            slots,
            config: config.clone(),
            parts,
            home: home.clone(),
        }
    }

    /// Whether each rank has its part of the state.
    pub(super) fn is_in_parts(&self) -> bool {
        self.parts.is_some()
    }

    /// One update of an optimizer that is not in parts.
    pub(super) fn update(&mut self, model: Vlm, trainable: &Trainable, update: Update) -> Vlm {
        let mut updater = Updater {
            trainable,
            optimizer: self,
            update,
        };
        model.map(&mut updater)
    }

    /// One update in parts: each rank makes its own and all get all of them, bucket by bucket. After an error the parameters
    /// are as they were, and the state is of no use. Where a store has the parts of the parameters, they stay there.
    pub(super) fn update_parts(
        &mut self,
        model: Vlm,
        trainable: &Trainable,
        mut update: Update,
        buckets: &[Bucket],
        group: &Group,
        store: Option<&mut Store>,
    ) -> (Vlm, Result<(), CollectiveError>) {
        if let Some(store) = store {
            for (position, trained) in trainable.params.iter().enumerate() {
                let part = store.part(trained.info.id);
                let part = part.and_then(|part| self.update_part(position, part, trainable, &mut update));
                if let Some(part) = part {
                    store.set(trained.info.id, part);
                }
            }
            return (model, Ok(()));
        }
        let mut values: Vec<Option<Tensor<1>>> = vec![None; trainable.params.len()];
        visit_values(&model, trainable, |position, value| {
            values[position] = Some(part_of(value, self.parts))
        });
        let mut coming = Vec::with_capacity(buckets.len());
        for bucket in buckets {
            let parts = bucket.positions.iter().filter_map(|&position| {
                let value = values[position].take()?;
                self.update_part(position, value, trainable, &mut update)
            });
            let parts = Tensor::cat(parts.collect(), 0);
            let [len] = parts.dims();
            coming.push((bucket, len, transport::all_gather(group, parts)));
        }
        for (bucket, len, coming) in coming {
            let parts = match coming.wait() {
                Ok(parts) => parts.reshape([group.world().size, len]),
                Err(error) => return (model, Err(error)),
            };
            for (&position, value) in bucket.positions.iter().zip(joined(parts, &bucket.counts)) {
                values[position] = Some(value);
            }
        }
        (model.map(&mut Setter { trainable, values }), Ok(()))
    }

    /// This rank's part of a parameter after the update, in its dtype.
    fn update_part(
        &mut self,
        position: usize,
        value: Tensor<1>,
        trainable: &Trainable,
        update: &mut Update,
    ) -> Option<Tensor<1>> {
        let slot = self.slots[position].take()?;
        let gradient = update.gradients[position].take();
        let step = self.hyperparameters(trainable, position, update);
        let (value, slot) = updated(slot, value, gradient, step);
        self.slots[position] = Some(slot);
        Some(value)
    }

    fn hyperparameters(&self, trainable: &Trainable, position: usize, update: &Update) -> AdamwStep {
        let config = &self.config;
        let updates = (update.step + 1) as i32;
        AdamwStep {
            lr: trainable.params[position].lr * update.lr_factor,
            beta1: config.beta1,
            beta2: config.beta2,
            eps: config.eps,
            weight_decay: trainable.params[position].weight_decay,
            bias_correction1: 1.0 - config.beta1.powi(updates),
            bias_correction2: 1.0 - config.beta2.powi(updates),
            grad_scale: update.scale,
        }
    }

    /// Masters and moments for a checkpoint, whole, as far as they are dealt to this rank; every rank of a group has to ask for
    /// them together.
    ///
    /// # Errors
    /// If a rank is missing or has failed.
    pub(super) fn to_host(
        &self,
        trainable: &Trainable,
        group: &Group,
        ranks: &TensorGroup,
        dealer: &mut Dealer,
    ) -> Result<Vec<HostTensor>, CollectiveError> {
        let mut tensors = Vec::new();
        for (slot, trained) in self.slots.iter().zip(&trainable.params) {
            let Some(slot) = slot else { continue };
            let count = trained.len;
            let state = [
                (MASTER, slot.master.as_ref()),
                (EXP_AVG, Some(&slot.exp_avg)),
                (EXP_AVG_SQ, Some(&slot.exp_avg_sq)),
            ];
            for (prefix, tensor) in state {
                let Some(tensor) = tensor else { continue };
                let is_mine = dealer.deal(trained.info.num_elements() * size_of::<f32>());
                if !is_mine && !self.is_in_parts() && !ranks.cuts(&trained.info) {
                    continue;
                }
                let mut bytes = to_bytes(tensor.clone());
                if self.is_in_parts() {
                    bytes = group.all_gather(bytes).wait()?;
                    bytes.truncate(count * size_of::<f32>());
                }
                let held = HostTensor {
                    name: format!("{prefix}{}", trained.info.path),
                    shape: vec![count],
                    dtype: HostDtype::F32,
                    bytes,
                };
                // Flat in any case.
                let whole = ranks.whole(held, &trained.info)?;
                if is_mine {
                    tensors.push(HostTensor {
                        shape: vec![whole.num_elements()],
                        ..whole
                    });
                }
            }
        }
        Ok(tensors)
    }

    /// Names and lengths of the tensors that [`AdamW::to_host`] gives.
    pub(super) fn expected(&self, trainable: &Trainable) -> Vec<(String, usize)> {
        let masters = self.slots.iter().flatten().any(|slot| slot.master.is_some());
        let prefixes = [masters.then_some(MASTER), Some(EXP_AVG), Some(EXP_AVG_SQ)];
        trainable
            .params
            .iter()
            .flat_map(|param| {
                prefixes
                    .into_iter()
                    .flatten()
                    .map(|prefix| (format!("{prefix}{}", param.info.path), param.info.num_elements()))
            })
            .collect()
    }

    /// Puts back what of it is among these tensors of [`AdamW::to_host`]. Names have been checked by the caller.
    pub(super) fn restore(
        &mut self,
        trainable: &Trainable,
        tensors: &HashMap<&str, &HostTensor>,
        ranks: &TensorGroup,
    ) {
        let (parts, home) = (self.parts, &self.home);
        for (slot, trained) in self.slots.iter_mut().zip(&trainable.params) {
            let Some(slot) = slot else { continue };
            let find = |prefix: &str| {
                let name = format!("{prefix}{}", trained.info.path);
                let held = ranks.part(tensors.get(name.as_str())?, &trained.info, home, DType::F32);
                Some(match parts {
                    Some(world) => own_part(held, world),
                    None => held,
                })
            };
            if let Some(exp_avg) = find(EXP_AVG) {
                slot.exp_avg = exp_avg;
            }
            if let Some(exp_avg_sq) = find(EXP_AVG_SQ) {
                slot.exp_avg_sq = exp_avg_sq;
            }
            if let (Some(master), Some(found)) = (&mut slot.master, find(MASTER)) {
                *master = found;
            }
        }
    }
}

/// The value of a parameter after an update, and its state.
fn updated(slot: Slot, value: Tensor<1>, gradient: Option<Tensor<1>>, step: AdamwStep) -> (Tensor<1>, Slot) {
    let (dtype, device, home) = (value.dtype(), value.device(), slot.exp_avg.device());
    let owns_master = slot.master.is_some();
    let master = slot.master.unwrap_or_else(|| value.to_device(&home));
    let gradient = gradient.map_or_else(|| master.zeros_like(), |gradient| gradient.to_device(&home));
    let state = AdamwState {
        master,
        m: slot.exp_avg,
        v: slot.exp_avg_sq,
    };
    let AdamwState {
        master,
        m: exp_avg,
        v: exp_avg_sq,
    } = ops::adamw(state, gradient, step);
    let value = if owns_master {
        master.clone().cast(dtype)
    } else {
        master.clone()
    };
    let slot = Slot {
        master: owns_master.then_some(master),
        exp_avg,
        exp_avg_sq,
    };
    (value.to_device(&device), slot)
}

fn part_of(value: Tensor<1>, parts: Option<World>) -> Tensor<1> {
    match parts {
        Some(world) => own_part(value, world),
        None => value,
    }
}

/// Gives the trained parameters, flat, in module order.
fn visit_values(model: &Vlm, trainable: &Trainable, give: impl FnMut(usize, Tensor<1>)) {
    struct Giver<'a, F> {
        trainable: &'a Trainable,
        give: F,
    }
    impl<F: FnMut(usize, Tensor<1>)> ModuleVisitor for Giver<'_, F> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(position) = self.trainable.position(param.id) {
                let value = param.val().inner();
                let count = value.shape().num_elements();
                (self.give)(position, value.reshape([count]));
            }
        }
    }
    model.visit(&mut Giver { trainable, give });
}

/// Puts values in the place of parameters.
struct Setter<'a> {
    trainable: &'a Trainable,
    /// Flat, by place in `trainable`.
    values: Vec<Option<Tensor<1>>>,
}

impl ModuleMapper for Setter<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let position = self.trainable.position(param.id);
        match position.and_then(|position| self.values[position].take()) {
            Some(value) => replace_value(param, |old| value.reshape(old.dims())),
            None => param,
        }
    }
}

/// Updates parameters in their places, one after the other.
struct Updater<'a> {
    trainable: &'a Trainable,
    optimizer: &'a mut AdamW,
    update: Update,
}

impl ModuleMapper for Updater<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(position) = self.trainable.position(param.id) else {
            return param;
        };
        let Some(slot) = self.optimizer.slots[position].take() else {
            return param;
        };
        let gradient = self.update.gradients[position].take();
        let step = self
            .optimizer
            .hyperparameters(self.trainable, position, &self.update);
        let mut kept = None;
        let param = replace_value(param, |value| {
            let (shape, count) = (value.dims(), value.shape().num_elements());
            let (value, slot) = updated(slot, value.reshape([count]), gradient, step);
            kept = Some(slot);
            value.reshape(shape)
        });
        self.optimizer.slots[position] = kept;
        param
    }
}
