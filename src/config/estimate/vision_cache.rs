//! How much of the cache of vision features fits.

use std::fmt;

use brazier_models::{LoraConfig, Segment, VlmConfig};

use super::memory::readable;
use crate::{
    config::run::RunConfig,
    learner::options::{Every, Precision, TrainMode},
};

/// Of the memory that the host has left beside a step and a checkpoint, what the cache takes where nobody says how much it may.
const SHARE_TO_TAKE: f64 = 0.25;

/// Different images of the data sets, and how often they come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ImagesOfRun {
    /// Of the training rows.
    pub train: usize,
    /// Whether some training row shows an image of another one.
    pub train_shares: bool,
    /// Passes over the training rows.
    pub epochs: f64,
    /// Of the held-out rows.
    pub eval: usize,
}

/// The cache of vision features of one process. Displayed as part of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VisionCachePlan {
    /// Training images that come more than once.
    pub train_images: usize,
    /// Held-out images that come more than once; their places are behind those of the training images.
    pub eval_images: usize,
    /// Bytes of the features of one image.
    pub image_bytes: u64,
    /// Bytes that all features may take.
    pub budget_bytes: u64,
}

impl VisionCachePlan {
    /// Images whose features fit.
    pub fn room(&self) -> usize {
        usize::try_from(self.budget_bytes / self.image_bytes.max(1)).unwrap_or(usize::MAX)
    }

    /// Images that the cache will hold, the first ones of all.
    pub fn capacity(&self) -> usize {
        self.room().min(self.train_images + self.eval_images)
    }
}

/// What is known before the rows are opened. Displayed as part of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VisionCacheRoom(pub VisionCachePlan);

impl fmt::Display for VisionCacheRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(plan) = self;
        let [each, budget] = [plan.image_bytes, plan.budget_bytes].map(readable);
        write!(
            f,
            "{each} an image, room for {} in {budget} of host memory",
            plan.room()
        )
    }
}

impl fmt::Display for VisionCachePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (all, held) = (self.train_images + self.eval_images, self.capacity());
        match held {
            _ if held == all => write!(f, "all {all} images")?,
            0 => write!(f, "none of {all} images")?,
            _ => write!(f, "the first {held} of {all} images")?,
        }
        let [each, together] = [self.image_bytes, held as u64 * self.image_bytes].map(readable);
        let budget = readable(self.budget_bytes);
        write!(f, ", {each} each: {together} of at most {budget} of host memory")
    }
}

impl RunConfig {
    /// The last segment of the vision part in front of the first parameter that moves; `None` if some of the tower learns,
    /// and in a model without one.
    pub fn resting_vision(&self, model: &VlmConfig, lora: Option<&LoraConfig>) -> Option<Segment> {
        let vision = model.vision.as_ref()?;
        let last_of_tower = match vision.num_vision_blocks().ok()?.checked_sub(1) {
            Some(block) => Segment::VisionBlock(block),
            None => Segment::VisionEmbeddings,
        };
        match self.train.mode {
            TrainMode::LmOnly => Some(Segment::Projector),
            TrainMode::Alignment | TrainMode::EndToEnd => Some(last_of_tower),
            TrainMode::Full => lora
                .is_some_and(|lora| !lora.parts.has_vision())
                .then_some(last_of_tower),
        }
    }

    /// The cache of vision features, if there is to be one. Which images it holds depends on `free_bytes` of the host;
    /// whether there is one does not, since on that the last bits of features depend.
    pub fn vision_cache(
        &self,
        model: &VlmConfig,
        lora: Option<&LoraConfig>,
        images: ImagesOfRun,
        free_bytes: u64,
    ) -> Option<VisionCachePlan> {
        let after = self.resting_vision(model, lora)?;
        let vision = model.vision.as_ref()?;
        let width = match self.train.precision {
            Precision::F32 => 4,
            Precision::Bf16 => 2,
        };
        let [tokens, values] = vision.features(after, &model.text);
        let budget_bytes = match self.train.vision_cache {
            Some(0) => return None,
            Some(bytes) => bytes,
            None => (SHARE_TO_TAKE * free_bytes as f64) as u64,
        };
        let comes_again = images.epochs > 1.0 || images.train_shares;
        let evaluates_again = self.eval.every != Every::Never;
        let plan = VisionCachePlan {
            train_images: if comes_again { images.train } else { 0 },
            eval_images: if evaluates_again { images.eval } else { 0 },
            image_bytes: (tokens * values * width) as u64,
            budget_bytes,
        };
        (plan.train_images + plan.eval_images > 0).then_some(plan)
    }
}
