//! Which parameters move, at which rate, and where in the chain of segments they are used.

use std::collections::{HashMap, HashSet};

use brazier_models::{
    Segment, Segmented, Vlm,
    lora::is_adapter,
    params::{self, ParamInfo},
};
use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::tensor::Tensor;

use super::options::{OptimizerConfig, TrainMode};

/// Parts of a VLM that are trained together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The vision tower.
    Vision,
    /// The projector.
    Projector,
    /// The decoder, its embeddings and its head.
    Language,
}

impl Part {
    /// The part that a parameter path belongs to.
    pub fn of(path: &str) -> Self {
        if path.starts_with("vision_tower.") {
            Part::Vision
        } else if path.starts_with("multi_modal_projector.") {
            Part::Projector
        } else {
            Part::Language
        }
    }

    /// Whether a mode trains this part.
    pub fn moves_in(self, mode: TrainMode) -> bool {
        match (mode, self) {
            (TrainMode::Full, _)
            | (TrainMode::EndToEnd, Part::Projector | Part::Language)
            | (TrainMode::LmOnly, Part::Language)
            | (TrainMode::Alignment, Part::Projector) => true,
            (TrainMode::EndToEnd | TrainMode::LmOnly | TrainMode::Alignment, _) => false,
        }
    }

    /// Peak learning rate of this part.
    pub fn lr(self, optimizer: &OptimizerConfig) -> f64 {
        let own = match self {
            Part::Vision => optimizer.vision_lr,
            Part::Projector => optimizer.projector_lr,
            Part::Language => optimizer.language_lr,
        };
        own.unwrap_or(optimizer.lr)
    }
}

/// A head for classes is new with its task: it is never at rest while the rest of the language model learns.
const CLASSIFICATION_HEAD: &str = "language_model.score.weight";

/// What is trained where adapters are: they themselves, and in full what is too small to need them.
pub fn moves_beside_adapters(path: &str) -> bool {
    is_adapter(path) || Part::of(path) == Part::Projector || path == CLASSIFICATION_HEAD
}

/// A parameter that moves.
#[derive(Debug, Clone)]
pub struct Trained {
    /// Path, id and shape.
    pub info: ParamInfo,
    /// Values of it that this rank's model holds: all, unless the model is a shard.
    pub len: usize,
    /// Peak learning rate.
    pub lr: f64,
    /// 0 for biases and norm weights.
    pub weight_decay: f64,
}

/// The trained parameters in module order: the fixed order in which they are reduced, normed and saved.
#[derive(Debug, Clone)]
pub struct Trainable {
    /// Those that move.
    pub params: Vec<Trained>,
    index: HashMap<ParamId, usize>,
    segments: HashSet<Segment>,
}

impl Trainable {
    /// Selects by mode; parameters that the forward pass never uses do not move in any mode. In a model with adapters
    /// these move in the place of tower and decoder.
    pub fn select(model: &Vlm, mode: TrainMode, optimizer: &OptimizerConfig) -> Self {
        let rests = |path: &str| model.lora().is_some() && !moves_beside_adapters(path);
        let params: Vec<Trained> = model
            .whole_params()
            .into_iter()
            .filter(|info| {
                Part::of(&info.path).moves_in(mode) && model.uses(&info.path) && !rests(&info.path)
            })
            .map(|info| Trained {
                lr: Part::of(&info.path).lr(optimizer),
                weight_decay: if info.decays() {
                    optimizer.weight_decay
                } else {
                    0.0
                },
                len: info.num_elements(),
                info,
            })
            .collect();
        Self {
            index: params
                .iter()
                .enumerate()
                .map(|(at, param)| (param.info.id, at))
                .collect(),
            segments: params
                .iter()
                .flat_map(|param| Vlm::owner(&param.info.path))
                .collect(),
            params,
        }
    }

    /// Takes note of how much of each parameter a shard of the model holds.
    pub(super) fn measure(&mut self, shard: &Vlm) {
        for info in params::list_params(shard) {
            if let Some(position) = self.position(info.id) {
                self.params[position].len = info.num_elements();
            }
        }
    }

    /// Place of a parameter in [`Trainable::params`]; `None` for a frozen one.
    pub fn position(&self, id: ParamId) -> Option<usize> {
        self.index.get(&id).copied()
    }

    /// Whether a segment has parameters that move.
    pub fn moves(&self, segment: Segment) -> bool {
        self.segments.contains(&segment)
    }

    /// Number of values that move.
    pub fn num_elements(&self) -> usize {
        self.params.iter().map(|param| param.info.num_elements()).sum()
    }

    /// Marks in the model what is tracked: frozen weights then cost neither gradients nor saved activations.
    pub fn mark(&self, model: Vlm) -> Vlm {
        struct Marker<'a>(&'a Trainable);
        impl ModuleMapper for Marker<'_> {
            fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
                let moves = self.0.position(param.id).is_some();
                param.set_require_grad(moves)
            }
        }
        model.map(&mut Marker(self))
    }
}
