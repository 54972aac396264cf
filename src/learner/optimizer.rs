//! AdamW over f32 masters.
//!
//! Parameters are stored in the compute dtype. In bf16 the optimizer owns an f32 master of each trained parameter, and
//! the parameter is its master rounded once; in f32 the parameter is its own master.

use std::collections::HashMap;

use brazier_models::{
    HostTensor, Vlm,
    ops::{self, AdamwState, AdamwStep},
    params::{self, replace_value},
};
use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{DType, Device, Tensor},
};

use super::{
    options::{OptimizerConfig, Precision},
    trainable::Trainable,
};

/// Prefixes of the optimizer's tensors in a checkpoint.
const MASTER: &str = "master.";
pub(super) const EXP_AVG: &str = "exp_avg.";
const EXP_AVG_SQ: &str = "exp_avg_sq.";

/// State of one parameter, flat, f32.
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
}

impl AdamW {
    /// Moments 0; masters are the parameters' present values.
    pub(super) fn new(
        model: &Vlm,
        trainable: &Trainable,
        config: &OptimizerConfig,
        precision: Precision,
    ) -> Self {
        struct Builder<'a> {
            trainable: &'a Trainable,
            precision: Precision,
            slots: Vec<Option<Slot>>,
        }
        impl ModuleVisitor for Builder<'_> {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let Some(position) = self.trainable.position(param.id) else {
                    return;
                };
                let value = param.val().inner();
                let count = value.shape().num_elements();
                let zeros = || Tensor::<1>::zeros([count], (&value.device(), DType::F32));
                self.slots[position] = Some(Slot {
                    exp_avg: zeros(),
                    exp_avg_sq: zeros(),
                    master: match self.precision {
                        Precision::F32 => None,
                        Precision::Bf16 => Some(value.reshape([count]).cast(DType::F32)),
                    },
                });
            }
        }
        let slots = trainable.params.iter().map(|_| None).collect();
        let mut builder = Builder {
            trainable,
            precision,
            slots,
        };
        model.visit(&mut builder);
        Self {
            slots: builder.slots,
            config: config.clone(),
        }
    }

    /// One update. `gradients` are those of the summed loss, by place in `trainable`; `scale` divides them by the
    /// labelled tokens and clips. A missing gradient is 0, so that an update does not depend on which rank saw an image.
    ///
    /// `step` counts finished updates, `lr_factor` is the schedule's.
    pub(super) fn update(
        &mut self,
        model: Vlm,
        trainable: &Trainable,
        gradients: Vec<Option<Tensor<1>>>,
        step: u64,
        lr_factor: f64,
        scale: f64,
    ) -> Vlm {
        let mut updater = Updater {
            trainable,
            optimizer: self,
            gradients,
            step,
            lr_factor,
            scale,
        };
        model.map(&mut updater)
    }

    /// Masters and moments for a checkpoint.
    pub(super) fn to_host(&self, trainable: &Trainable) -> Vec<HostTensor> {
        let mut tensors = Vec::new();
        for (slot, trained) in self.slots.iter().zip(&trainable.params) {
            let Some(slot) = slot else { continue };
            let mut push = |prefix: &str, tensor: &Tensor<1>| {
                tensors.push(params::to_host(
                    format!("{prefix}{}", trained.info.path),
                    tensor.clone(),
                ));
            };
            if let Some(master) = &slot.master {
                push(MASTER, master);
            }
            push(EXP_AVG, &slot.exp_avg);
            push(EXP_AVG_SQ, &slot.exp_avg_sq);
        }
        tensors
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

    /// Puts back what [`AdamW::to_host`] gave. Names have been checked by the caller.
    pub(super) fn restore(
        &mut self,
        trainable: &Trainable,
        tensors: &HashMap<&str, &HostTensor>,
        device: &Device,
    ) {
        for (slot, trained) in self.slots.iter_mut().zip(&trainable.params) {
            let Some(slot) = slot else { continue };
            let find = |prefix: &str| {
                let name = format!("{prefix}{}", trained.info.path);
                tensors
                    .get(name.as_str())
                    .map(|tensor| params::from_host::<1>((*tensor).clone(), device, DType::F32))
            };
            if let (Some(exp_avg), Some(exp_avg_sq)) = (find(EXP_AVG), find(EXP_AVG_SQ)) {
                (slot.exp_avg, slot.exp_avg_sq) = (exp_avg, exp_avg_sq);
            }
            if slot.master.is_some() {
                slot.master = find(MASTER);
            }
        }
    }
}

struct Updater<'a> {
    trainable: &'a Trainable,
    optimizer: &'a mut AdamW,
    gradients: Vec<Option<Tensor<1>>>,
    step: u64,
    lr_factor: f64,
    scale: f64,
}

impl Updater<'_> {
    fn hyperparameters(&self, position: usize) -> AdamwStep {
        let config = &self.optimizer.config;
        let updates = (self.step + 1) as i32;
        AdamwStep {
            lr: self.trainable.params[position].lr * self.lr_factor,
            beta1: config.beta1,
            beta2: config.beta2,
            eps: config.eps,
            weight_decay: self.trainable.params[position].weight_decay,
            bias_correction1: 1.0 - config.beta1.powi(updates),
            bias_correction2: 1.0 - config.beta2.powi(updates),
            grad_scale: self.scale,
        }
    }
}

impl ModuleMapper for Updater<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(position) = self.trainable.position(param.id) else {
            return param;
        };
        let Some(slot) = self.optimizer.slots[position].take() else {
            return param;
        };
        let gradient = self.gradients[position].take();
        let step = self.hyperparameters(position);
        let mut kept = None;
        let param = replace_value(param, |value| {
            let (shape, dtype) = (value.dims(), value.dtype());
            let owns_master = slot.master.is_some();
            let master = match slot.master {
                Some(master) => master,
                None => {
                    let count = value.shape().num_elements();
                    value.reshape([count])
                }
            };
            let gradient = gradient.unwrap_or_else(|| master.zeros_like());
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
            kept = Some(Slot {
                master: owns_master.then_some(master),
                exp_avg,
                exp_avg_sq,
            });
            value.reshape(shape)
        });
        self.optimizer.slots[position] = kept;
        param
    }
}
