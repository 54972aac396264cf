//! A model in training, and what a step of it tells.

mod make;

use std::{borrow::Cow, sync::Arc};

use brazier_models::{Shard, Vlm, params::ParamInfo};
use burn::{
    module::Module,
    tensor::{DType, Device},
};

use super::{
    LearnerError,
    buckets::{self, Bucket},
    optimizer::AdamW,
    options::{ParallelConfig, Precision, Recompute, StepConfig, Zero},
    snapshot::base_digest,
    store::Store,
    tensor_group::TensorGroup,
    trainable::Trainable,
    vision_cache::{CachedImages, RestingVision},
};
use crate::{
    data::Batch,
    device::host_memory,
    parallel::{CollectiveError, Grid, Group},
};

/// What a step had of its images' features, on all ranks together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheUse {
    /// Images for which nothing was computed.
    pub hits: u64,
    /// Images that went through the vision tower.
    pub misses: u64,
}

/// What a step did, on all ranks together.
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
    /// Floating-point operations that the step cannot do without, on all ranks; see [`brazier_models::flops`].
    pub flops: f64,
    /// What the cache of vision features did, where there is one.
    pub vision_cache: Option<CacheUse>,
    /// Seconds until the gradient norm was known, of this rank as those below.
    pub forward_backward_seconds: f64,
    /// Seconds of the update.
    pub optimizer_seconds: f64,
}

/// What a learner holds beside its model.
pub(super) struct Held<'a> {
    pub(super) store: Option<&'a mut Store>,
    pub(super) optimizer: &'a mut AdamW,
    pub(super) trainable: &'a Trainable,
    pub(super) infos: &'a [ParamInfo],
    pub(super) ranks: &'a TensorGroup,
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
    grid: Grid,
    /// Those that hold the model together.
    ranks: TensorGroup,
    parallel: ParallelConfig,
    /// How gradients and parameters travel between ranks.
    buckets: Vec<Bucket>,
    /// All parameters, in module order, as they are in a whole model.
    infos: Vec<ParamInfo>,
    /// Parts of the parameters, where the model does not hold them.
    store: Option<Store>,
    /// See [`Learner::base_digest`].
    base_digest: Option<String>,
    /// See [`Learner::keep_vision_features`].
    vision: Option<RestingVision>,
}

impl Learner {
    /// Takes a model on an inner (not autodiff) device whose parameters have the dtype of `config.precision`.
    ///
    /// # Errors
    /// If the mode leaves nothing to train.
    pub fn new(model: Vlm, config: StepConfig, device: Device) -> Result<Self, LearnerError> {
        Self::in_group(
            model,
            config,
            device,
            Arc::new(Group::alone()),
            ParallelConfig::default(),
        )
    }

    /// One rank of several, which all have the same model, or their shards of it. Where several hold it together and the model
    /// is whole, each keeps its part; one with adapters has to be whole, since a checkpoint knows it by its whole weights.
    ///
    /// # Errors
    /// As [`Learner::new`]; if the ranks or the model do not divide as `parallel` says, or a rank is missing or has failed.
    pub fn in_group(
        model: Vlm,
        mut config: StepConfig,
        device: Device,
        group: Arc<Group>,
        parallel: ParallelConfig,
    ) -> Result<Self, LearnerError> {
        if parallel.zero == Zero::Parameters {
            // A tape that is kept would hold the parameters that are to go, and the same numbers come out.
            config.recompute = Recompute::Blocks;
        }
        let mut trainable = Trainable::select(&model, config.mode, &config.optimizer);
        if trainable.params.is_empty() {
            return Err(LearnerError::NothingToTrain { mode: config.mode });
        }
        Shard::check(parallel.tensor, &model.config().text)?;
        let grid = Grid::new(group, parallel.tensor)?;
        let ranks = TensorGroup::new(grid.tensor.clone());
        let (infos, base_digest) = (model.whole_params(), base_digest(&model));
        let model = match ranks.shard() {
            shard if model.shard() == shard => model,
            shard => model.into_shard(shard),
        };
        trainable.measure(&model);
        let model = trainable.mark(model.train());
        let parts = parallel.zero.splits_optimizer().then(|| grid.data.world());
        let parts = parts.filter(|world| world.size > 1);
        let home = match parallel.offload {
            true => host_memory()?,
            false => device.clone(),
        };
        let (adamw, precision) = (&config.optimizer, config.precision);
        let optimizer = AdamW::new(&model, &trainable, adamw, precision, parts, &home);
        let (model, store) = match parts.filter(|_| parallel.zero == Zero::Parameters) {
            Some(world) => {
                let (model, store) = Store::scatter(model, world);
                (model, Some(store))
            }
            None => (model, None),
        };
        Ok(Self {
            buckets: buckets::plan(&trainable, parallel.bucket_elements),
            infos,
            store,
            base_digest,
            vision: None,
            model: Some(model),
            trainable,
            optimizer,
            config,
            device,
            finished_steps: 0,
            grid,
            ranks,
            parallel,
        })
    }

    /// The model as it is now, with all its parameters. The ranks of a group have to ask together.
    ///
    /// # Errors
    /// If a rank is missing or has failed.
    pub fn whole_model(&self) -> Result<Cow<'_, Vlm>, CollectiveError> {
        let held = self.held_model()?;
        match self.ranks.shard() {
            Shard::WHOLE => Ok(held),
            _ => {
                let whole = self.ranks.whole_model(held.into_owned(), &self.infos);
                whole.map(Cow::Owned)
            }
        }
    }

    /// All that the ranks with this one's part of the model hold of it.
    pub(super) fn held_model(&self) -> Result<Cow<'_, Vlm>, CollectiveError> {
        match &self.store {
            None => Ok(Cow::Borrowed(self.model())),
            Some(store) => store.whole(self.model(), &self.grid.data).map(Cow::Owned),
        }
    }

    /// A hash over a few values of each weight that a checkpoint of adapters leaves out, so that they are not resumed on
    /// another base model; `None` without adapters.
    pub fn base_digest(&self) -> Option<&str> {
        self.base_digest.as_deref()
    }

    /// The structure of the model. Under [`Zero::Parameters`] its parameters are elsewhere.
    pub(super) fn model(&self) -> &Vlm {
        match &self.model {
            Some(model) => model,
            None => unreachable!("the model is away only inside an update"),
        }
    }

    /// The parameters, under [`Zero::Parameters`].
    pub(super) fn store(&self) -> Option<&Store> {
        self.store.as_ref()
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

    /// All parameters, in module order.
    pub(super) fn infos(&self) -> &[ParamInfo] {
        &self.infos
    }

    /// What a snapshot replaces: the model, and what is beside it. Features of images are those of other weights then.
    pub(super) fn parts_mut(&mut self) -> (&mut Option<Vlm>, Held<'_>) {
        self.vision = None;
        let held = Held {
            store: self.store.as_mut(),
            optimizer: &mut self.optimizer,
            trainable: &self.trainable,
            infos: &self.infos,
            ranks: &self.ranks,
        };
        (&mut self.model, held)
    }

    pub(super) fn set_finished_steps(&mut self, steps: u64) {
        self.finished_steps = steps;
    }

    /// From now on computes what the part of the vision tower that rests makes of a training image only where the cache does
    /// not hold it. Has to be said again after [`Learner::restore`], whose weights may be others; ranks of a group say it
    /// together. Gives the part that rests; `None`, and nothing is kept, if some of the tower moves.
    pub fn keep_vision_features(&mut self, images: CachedImages) -> Option<RestingVision> {
        self.vision = RestingVision::of(&self.trainable, self.model(), images);
        self.vision.clone()
    }

    pub(super) fn optimizer(&self) -> &AdamW {
        &self.optimizer
    }

    /// The ranks of the run.
    pub fn group(&self) -> &Arc<Group> {
        &self.grid.world
    }

    pub(super) fn grid(&self) -> &Grid {
        &self.grid
    }

    pub(super) fn ranks(&self) -> &TensorGroup {
        &self.ranks
    }

    /// One update from this rank's micro-batches of one step; see [`Learner::step_or_fail`].
    ///
    /// # Errors
    /// As [`Learner::step_or_fail`].
    pub fn step(&mut self, batches: &[Batch]) -> Result<StepReport, LearnerError> {
        self.make_step(Ok(batches))
    }

    /// One update from the micro-batches of one step. The loss is the sum over all of them, on all ranks, divided once by
    /// all their labelled tokens. A rank that has no batches because something is wrong says so here, so that no other waits
    /// for it.
    ///
    /// # Errors
    /// The one given; if a batch does not fit the model, if no token is labelled, or if loss or gradient are not finite; if
    /// that is so on another rank. Nothing has moved then.
    pub fn step_or_fail(
        &mut self,
        batches: Result<Vec<Batch>, LearnerError>,
    ) -> Result<StepReport, LearnerError> {
        match batches {
            Ok(batches) => self.make_step(Ok(&batches)),
            Err(error) => self.make_step(Err(error)),
        }
    }
}

/// The dtype that a precision stores parameters in.
pub fn compute_dtype(precision: Precision) -> DType {
    match precision {
        Precision::F32 => DType::F32,
        Precision::Bf16 => DType::BF16,
    }
}
