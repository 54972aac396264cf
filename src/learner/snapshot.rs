//! What a checkpoint holds of a learner.
//!
//! Names: `param.<path>` for parameters as stored, `master.<path>` for f32 masters (bf16 runs; the parameter itself is
//! its master rounded once, so it is not saved beside it), `exp_avg.<path>` and `exp_avg_sq.<path>` for moments.

use std::collections::{HashMap, HashSet};

use brazier_models::{
    HostDtype, HostTensor, Vlm,
    params::{self, ParamInfo, replace_value},
};
use burn::{
    module::{Module, ModuleMapper, Param, ParamId},
    tensor::{DType, Tensor},
};
use sha2::{Digest, Sha256};

use super::{
    LearnerError, optimizer::EXP_AVG, step::Learner, tensor_group::TensorGroup,
    trainable::moves_beside_adapters,
};
use crate::{
    checkpoint::{
        CheckpointError, CheckpointInfo, RunState, Snapshot, check_model, fingerprint, load_tensors,
    },
    parallel::CollectiveError,
};

const PARAM: &str = "param.";
const MASTER: &str = "master.";

impl Learner {
    /// Copies everything to host memory, one tensor after the other. The device holds nothing extra afterwards. The ranks of a
    /// group do it together, and each gets the whole.
    ///
    /// # Errors
    /// If a rank is missing or has failed.
    pub fn snapshot(&self, state: RunState) -> Result<Snapshot, CollectiveError> {
        let mut tensors = Vec::new();
        let handles = params::param_handles(self.held_model()?.as_ref(), |path| self.is_saved(path));
        let infos: HashMap<ParamId, &ParamInfo> = self.infos().iter().map(|info| (info.id, info)).collect();
        for handle in handles {
            let mut tensor = handle.fetch();
            if let Some(info) = infos.get(&handle.info.id) {
                tensor = self.ranks().whole(tensor, info)?;
            }
            tensor.name.insert_str(0, PARAM);
            tensors.push(tensor);
        }
        let (data, ranks) = (&self.grid().data, self.ranks());
        tensors.extend(self.optimizer().to_host(self.trainable(), data, ranks)?);
        Ok(Snapshot { tensors, state })
    }

    /// Name, shape and dtype of each tensor of a snapshot.
    pub fn expected_tensors(&self) -> Vec<(String, Vec<usize>, HostDtype)> {
        let stored = match self.dtype() {
            DType::BF16 => HostDtype::Bf16,
            _ => HostDtype::F32,
        };
        let parameters = self
            .infos()
            .iter()
            .filter(|info| self.is_saved(&info.path))
            .map(|ParamInfo { path, shape, .. }| (format!("{PARAM}{path}"), shape.clone(), stored));
        let state = self.optimizer().expected(self.trainable());
        parameters
            .chain(
                state
                    .into_iter()
                    .map(|(name, len)| (name, vec![len], HostDtype::F32)),
            )
            .collect()
    }

    /// Hash of [`Learner::expected_tensors`].
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.expected_tensors())
    }

    /// Goes back to a snapshot.
    ///
    /// # Errors
    /// If it is of another model, mode or precision; nothing has changed then. A snapshot of adapters leaves their base
    /// model as it is; that it is the same one, the caller sees to ([`Learner::base_digest`]). If a rank is missing or has
    /// failed.
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<(), LearnerError> {
        check_model(snapshot, &self.expected_tensors())?;
        let tensors: HashMap<&str, &HostTensor> = snapshot
            .tensors
            .iter()
            .map(|tensor| (tensor.name.as_str(), tensor))
            .collect();
        let infos = self.infos().iter().map(|info| (info.id, info)).collect();
        let model = self.held_model()?.into_owned().map(&mut Restorer {
            tensors: &tensors,
            infos: &infos,
            ranks: self.ranks(),
        });
        self.replace_model(model);
        let (trainable, optimizer, ranks, finished_steps) = self.parts_mut();
        optimizer.restore(trainable, &tensors, ranks);
        *finished_steps = snapshot.state.step;
        Ok(())
    }

    /// Whether the parameter itself is saved: not if its master is, nor, in a model with adapters, if it belongs to the
    /// base model, which lies on the disk already.
    fn is_saved(&self, path: &str) -> bool {
        !self.has_master(path) && (self.model().lora().is_none() || moves_beside_adapters(path))
    }

    /// Whether the parameter is stored in a narrower dtype than its master.
    fn has_master(&self, path: &str) -> bool {
        self.dtype() != DType::F32
            && self
                .trainable()
                .params
                .iter()
                .any(|param| param.info.path == path)
    }
}

/// See [`Learner::base_digest`].
pub(super) fn base_digest(model: &Vlm) -> Option<String> {
    model.lora()?;
    let heads = params::read_heads(model, |path| !moves_beside_adapters(path));
    let mut hash = Sha256::new();
    for tensor in heads {
        hash.update(tensor.name.as_bytes());
        hash.update(&tensor.bytes);
    }
    Some(format!("{:x}", hash.finalize()))
}

/// What a checkpoint knows of one parameter.
#[derive(Debug, Clone, PartialEq)]
pub struct SavedParameter {
    /// The value: its f32 master where there is one. Flat in that case.
    pub value: HostTensor,
    /// Whether the run trained it.
    pub is_trained: bool,
}

/// Reads the parameters of a checkpoint by their paths; moments are checked and left on the disk.
///
/// # Errors
/// If the checkpoint is damaged.
pub fn saved_parameters(info: &CheckpointInfo) -> Result<HashMap<String, SavedParameter>, CheckpointError> {
    let mut trained = HashSet::new();
    let tensors = load_tensors(info, &mut |name| {
        if let Some(path) = name.strip_prefix(EXP_AVG) {
            trained.insert(path.to_owned());
        }
        name.starts_with(PARAM) || name.starts_with(MASTER)
    })?;
    let saved = tensors.into_iter().map(|value| {
        let stripped = value
            .name
            .strip_prefix(PARAM)
            .or_else(|| value.name.strip_prefix(MASTER));
        let path = stripped.unwrap_or(&value.name).to_owned();
        let is_trained = trained.contains(&path);
        (path, SavedParameter { value, is_trained })
    });
    Ok(saved.collect())
}

struct Restorer<'a> {
    tensors: &'a HashMap<&'a str, &'a HostTensor>,
    infos: &'a HashMap<ParamId, &'a ParamInfo>,
    ranks: &'a TensorGroup,
}

impl ModuleMapper for Restorer<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(info) = self.infos.get(&param.id) else {
            return param;
        };
        let find = |prefix: &str| {
            let name = format!("{prefix}{}", info.path);
            self.tensors.get(name.as_str()).copied()
        };
        let Some(tensor) = find(PARAM).or_else(|| find(MASTER)) else {
            return param;
        };
        replace_value(param, |old| {
            let held = self.ranks.part(tensor, info, &old.device(), old.dtype());
            held.reshape(old.dims())
        })
    }
}
