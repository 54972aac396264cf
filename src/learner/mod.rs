//! Training: one step, the loop around it, evaluation, and what a checkpoint holds.
//!
//! The loss is a sum, divided once by the labelled tokens of the whole step. Gradients are summed in f32. Whatever
//! affects the next step is in the checkpoint or a pure function of seed and step.

mod agree;
mod buckets;
mod classification;
mod engine;
mod error;
pub mod evaluate;
mod inputs;
mod losses;
mod optimizer;
pub mod options;
mod parts;
mod reduce;
mod run;
mod saving;
mod schedule;
mod snapshot;
mod step;
mod store;
mod tensor_group;
mod trainable;
pub mod transport;
mod vision_cache;
mod watch;

pub use classification::Prediction;
pub use engine::{GradientSink, Residence, forward_backward};
pub use error::LearnerError;
pub use evaluate::{Answer, Evaluation, Evaluator};
pub use inputs::upload;
pub use run::{Outcome, Run, RunEnd, fresh_state, resume_state};
pub use saving::Saver;
pub use schedule::lr_factor;
pub use snapshot::{SavedParameter, saved_parameters};
pub use step::{CacheUse, Learner, StepReport, compute_dtype};
pub use tensor_group::{TensorGroup, shard_of};
pub use trainable::{Part, Trainable, Trained, moves_beside_adapters};
pub use vision_cache::{CachedImages, RestingVision, VisionCache};
pub use watch::Watch;
