//! What a checkpoint holds of a learner.
//!
//! Names: `param.<path>` for parameters as stored, `master.<path>` for f32 masters (bf16 runs; the parameter itself is
//! its master rounded once, so it is not saved beside it), `exp_avg.<path>` and `exp_avg_sq.<path>` for moments.

use std::collections::{HashMap, HashSet};

use brazier_models::{
    HostDtype, HostTensor, Vlm,
    params::{self, ParamHandle, ParamInfo, replace_value},
};
use burn::{
    module::{Module, ModuleMapper, Param, ParamId},
    tensor::{DType, Device, Tensor},
};
use sha2::{Digest, Sha256};

use super::{
    LearnerError,
    optimizer::EXP_AVG,
    step::{Held, Learner},
    tensor_group::TensorGroup,
    trainable::moves_beside_adapters,
};
use crate::{
    checkpoint::{
        CheckpointError, CheckpointInfo, RunState, Snapshot, TensorSpec, check_model, fingerprint,
        list_tensors, load_file, load_tensors,
    },
    parallel::{CollectiveError, World},
};

const PARAM: &str = "param.";
const MASTER: &str = "master.";

impl Learner {
    /// Copies this rank's share of all tensors to host memory, one after the other; `None` for nothing. The device holds nothing
    /// extra afterwards. The ranks of a group do it together.
    ///
    /// # Errors
    /// If a rank is missing or has failed.
    pub fn snapshot(&self, state: RunState, share: Option<World>) -> Result<Snapshot, CollectiveError> {
        let mut dealer = Dealer::new(share);
        let mut tensors = self.saved_parameters(&mut dealer)?;
        let (data, ranks) = (&self.grid().data, self.ranks());
        tensors.extend(
            self.optimizer()
                .to_host(self.trainable(), data, ranks, &mut dealer)?,
        );
        Ok(Snapshot { tensors, state })
    }

    fn saved_parameters(&self, dealer: &mut Dealer) -> Result<Vec<HostTensor>, CollectiveError> {
        let handles = match self.store() {
            Some(_) => Vec::new(),
            None => params::param_handles(self.model(), |_| true),
        };
        let mut held: HashMap<ParamId, ParamHandle> = handles
            .into_iter()
            .map(|handle| (handle.info.id, handle))
            .collect();
        let width = stored_dtype(self.dtype()).size_bytes();
        let mut tensors = Vec::new();
        for info in self.infos().iter().filter(|info| self.is_saved(&info.path)) {
            let is_mine = dealer.deal(info.num_elements() * width);
            let in_part = match self.store() {
                // In parts on all ranks, so all have to give theirs.
                Some(store) => store.fetch(info.id, &self.grid().data)?,
                None => {
                    let handle = held.remove(&info.id);
                    let needed = is_mine || self.ranks().cuts(info);
                    handle.filter(|_| needed).map(|handle| handle.fetch())
                }
            };
            let Some(in_part) = in_part else { continue };
            let mut whole = self.ranks().whole(in_part, info)?;
            if is_mine {
                whole.name = format!("{PARAM}{}", info.path);
                tensors.push(whole);
            }
        }
        Ok(tensors)
    }

    /// Name, shape and dtype of each tensor of a snapshot.
    pub fn expected_tensors(&self) -> Vec<TensorSpec> {
        let stored = stored_dtype(self.dtype());
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
    /// model as it is; that it is the same one, the caller sees to ([`Learner::base_digest`]).
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<(), LearnerError> {
        let spec = |tensor: &HostTensor| (tensor.name.clone(), tensor.shape.clone(), tensor.dtype);
        let found: Vec<TensorSpec> = snapshot.tensors.iter().map(spec).collect();
        check_model(snapshot.state.step, &found, &self.expected_tensors())?;
        self.take_back(&snapshot.tensors);
        self.set_finished_steps(snapshot.state.step);
        Ok(())
    }

    /// Goes back to a checkpoint, of which one file at a time is in host memory.
    ///
    /// # Errors
    /// As [`Learner::restore`]. If a file is damaged; some parameters are then those of the checkpoint, and the learner is of no
    /// use.
    pub fn restore_from(&mut self, info: &CheckpointInfo) -> Result<(), LearnerError> {
        check_model(info.step(), &list_tensors(info)?, &self.expected_tensors())?;
        for file in &info.files {
            self.take_back(&load_file(info, file, &mut |_| true)?);
        }
        self.set_finished_steps(info.step());
        Ok(())
    }

    /// Puts tensors of a snapshot back to where they were. Names and shapes have been checked.
    fn take_back(&mut self, tensors: &[HostTensor]) {
        let tensors: HashMap<&str, &HostTensor> = tensors
            .iter()
            .map(|tensor| (tensor.name.as_str(), tensor))
            .collect();
        let (model, held) = self.parts_mut();
        let Held { infos, ranks, .. } = held;
        let by_id = infos.iter().map(|info| (info.id, info)).collect();
        let restorer = Restorer {
            tensors: &tensors,
            infos: &by_id,
            ranks,
        };
        match held.store {
            None => *model = model.take().map(|model| model.map(&mut { restorer })),
            Some(store) => {
                store.replace(|info, dtype, device| restorer.part(by_id.get(&info.id)?, device, dtype))
            }
        }
        held.optimizer.restore(held.trainable, &tensors, ranks);
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

fn stored_dtype(dtype: DType) -> HostDtype {
    match dtype {
        DType::BF16 => HostDtype::Bf16,
        _ => HostDtype::F32,
    }
}

/// Deals tensors out to the ranks, by their sizes; the same on every rank.
pub(super) struct Dealer {
    /// This rank; `None` if it gets nothing.
    share: Option<World>,
    /// Bytes that each rank has.
    dealt: Vec<usize>,
}

impl Dealer {
    fn new(share: Option<World>) -> Self {
        Self {
            share,
            dealt: vec![0; share.map_or(0, |world| world.size)],
        }
    }

    /// Whether the next tensor, of so many bytes, is this rank's: the one that has least gets it.
    pub(super) fn deal(&mut self, num_bytes: usize) -> bool {
        let least = (0..self.dealt.len()).min_by_key(|&rank| self.dealt[rank]);
        if let Some(least) = least {
            self.dealt[least] += num_bytes;
        }
        least.is_some() && least == self.share.map(|world| world.rank)
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

impl Restorer<'_> {
    /// A parameter, as much of it as this rank's part of the model has, flat; `None` if it is not among the tensors.
    fn part(&self, info: &ParamInfo, device: &Device, dtype: DType) -> Option<Tensor<1>> {
        let find = |prefix: &str| {
            self.tensors
                .get(format!("{prefix}{}", info.path).as_str())
                .copied()
        };
        let whole = find(PARAM).or_else(|| find(MASTER))?;
        Some(self.ranks.part(whole, info, device, dtype))
    }
}

impl ModuleMapper for Restorer<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let value = param.val();
        let info = self.infos.get(&param.id);
        let Some(part) = info.and_then(|info| self.part(info, &value.device(), value.dtype())) else {
            return param;
        };
        replace_value(param, |old| part.reshape(old.dims()))
    }
}
