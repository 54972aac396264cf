//! What the part of a vision tower that rests makes of images, kept in host memory.
//!
//! In front of the first parameter that moves, a hidden state is a pure function of the image: it is computed once for
//! each image instead of once for each epoch, and the image is neither read nor decoded again. What is in the cache is
//! in no checkpoint, and changes no result: on a CPU each image goes through the tower by itself, so that its features
//! are the same bits whatever batch asks for them, at first or again.

use std::{
    collections::HashMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use brazier_models::{HostFeatures, InputError, Segment, Vlm, VlmConfig, inputs::pixels};
use burn::{
    module::Module,
    tensor::{DType, Device, Tensor},
};
use rayon::prelude::*;

use super::{engine::Residence, trainable::Trainable};
use crate::{
    data::{Batch, Held, ImageNumber, ImageSource},
    device::is_cpu,
    parallel::CollectiveError,
};

/// Images that go through the tower together on a GPU: one alone would not fill it.
const IMAGES_AT_ONCE: usize = 16;

/// Features of images, of one or several data sets. Shared by the ranks of a process; what is in it stays.
#[derive(Debug, Default)]
pub struct VisionCache {
    slots: Vec<OnceLock<Box<[u8]>>>,
    num_held: AtomicU64,
    bytes: AtomicU64,
}

impl VisionCache {
    /// With room for so many images.
    pub fn new(capacity: usize) -> Self {
        Self {
            slots: (0..capacity).map(|_| OnceLock::new()).collect(),
            ..Self::default()
        }
    }

    /// Images whose features are held.
    pub fn num_held(&self) -> u64 {
        self.num_held.load(Ordering::Relaxed)
    }

    /// Bytes of these features.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// The images of a data set in a cache: those that have no room there are computed each time.
#[derive(Debug, Clone)]
pub struct CachedImages {
    cache: Arc<VisionCache>,
    /// Where the first image of the data set is.
    first: usize,
}

impl CachedImages {
    /// The images of a data set are in the places from `first` on.
    pub fn new(cache: Arc<VisionCache>, first: usize) -> Self {
        Self { cache, first }
    }

    /// Which images a loader need not decode.
    pub fn held(&self) -> Held {
        let images = self.clone();
        Arc::new(move |number| images.get(number).is_some())
    }

    fn slot(&self, number: ImageNumber) -> Option<&OnceLock<Box<[u8]>>> {
        self.cache.slots.get(self.first + number as usize)
    }

    fn get(&self, number: ImageNumber) -> Option<&[u8]> {
        self.slot(number)?.get().map(|bytes| &**bytes)
    }

    /// Keeps features. They come back where there is no room.
    fn put(&self, number: ImageNumber, bytes: Box<[u8]>) -> Result<(), Box<[u8]>> {
        let Some(slot) = self.slot(number) else {
            return Err(bytes);
        };
        let len = bytes.len() as u64;
        // Where another rank was faster, it had the same image.
        if slot.set(bytes).is_ok() {
            self.cache.num_held.fetch_add(1, Ordering::Relaxed);
            self.cache.bytes.fetch_add(len, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// The part of the vision tower that rests, with what it has made of the images of a data set.
#[derive(Debug, Clone)]
pub struct RestingVision {
    /// The segments, in order.
    segments: Vec<Segment>,
    images: CachedImages,
}

/// What batches need of it.
pub(super) struct Wanted<'b> {
    /// For each batch, where the features of each image are.
    images: Vec<Vec<Place>>,
    /// Images that have to be computed, each once.
    missing: Vec<Missing<'b>>,
}

#[derive(Clone, Copy)]
enum Place {
    Held(ImageNumber),
    Missing(usize),
}

struct Missing<'b> {
    number: Option<ImageNumber>,
    pixels: &'b [f32],
}

impl Wanted<'_> {
    /// Images that have to be computed.
    pub(super) fn num_missing(&self) -> u64 {
        self.missing.len() as u64
    }

    /// Images whose features are there without.
    pub(super) fn num_found(&self) -> u64 {
        let num_images: usize = self.images.iter().map(Vec::len).sum();
        num_images as u64 - self.num_missing()
    }
}

/// Features that were computed, where the cache has no room for them.
#[derive(Default)]
pub(super) struct Computed(Vec<Option<Box<[u8]>>>);

impl RestingVision {
    /// The vision segments in front of the first one that moves; `None` if some of the tower moves.
    pub(super) fn of(trainable: &Trainable, model: &Vlm, images: CachedImages) -> Option<Self> {
        let chain = model.chain(true);
        let rests = |segment: &&Segment| segment.is_vision() && !trainable.moves(**segment);
        let segments: Vec<Segment> = chain.iter().take_while(rests).copied().collect();
        let in_tower = |segment: &&Segment| segment.is_vision() && **segment != Segment::Projector;
        let num_in_tower = chain.iter().filter(in_tower).count();
        (model.config().vision.is_some() && segments.len() >= num_in_tower)
            .then_some(Self { segments, images })
    }

    /// The same part for another data set.
    #[must_use]
    pub fn with_images(&self, images: CachedImages) -> Self {
        Self {
            segments: self.segments.clone(),
            images,
        }
    }

    /// Which images a loader need not decode.
    pub fn held(&self) -> Held {
        self.images.held()
    }

    /// Whether a segment is a part of it.
    pub(super) fn covers(&self, segment: Segment) -> bool {
        self.segments.contains(&segment)
    }

    /// The segments, in order.
    pub(super) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    fn after(&self) -> Segment {
        self.segments.last().copied().unwrap_or(Segment::VisionEmbeddings)
    }

    /// Looks for the features of batches, which have been checked but for their pixels. An image that several of them have
    /// is missing once.
    ///
    /// # Errors
    /// With the batch's place: if it has not the pixels it should have.
    pub(super) fn find<'b>(
        &self,
        batches: &[&'b Batch],
        config: &VlmConfig,
    ) -> Result<Wanted<'b>, (usize, InputError)> {
        let size = image_size(config);
        let mut wanted = Wanted {
            images: Vec::with_capacity(batches.len()),
            missing: Vec::new(),
        };
        let mut known = HashMap::new();
        for (at, batch) in batches.iter().enumerate() {
            let Some(images) = &batch.images else {
                wanted.images.push(Vec::new());
                continue;
            };
            let is_there = |source: &&ImageSource| match source {
                ImageSource::Decoded(_) => true,
                ImageSource::Held(number) => self.images.get(*number).is_none(),
            };
            let expected = images.sources.iter().filter(is_there).count() * 3 * size * size;
            if images.pixels.len() != expected {
                let (field, found) = ("pixels", images.pixels.len());
                return Err((
                    at,
                    InputError::Length {
                        field,
                        found,
                        expected,
                    },
                ));
            }
            let mut decoded = images.pixels.chunks_exact((3 * size * size).max(1));
            let places = images.sources.iter().filter_map(|&source| {
                let (ImageSource::Decoded(Some(number)) | ImageSource::Held(number)) = source else {
                    let pixels = decoded.next()?;
                    wanted.missing.push(Missing { number: None, pixels });
                    return Some(Place::Missing(wanted.missing.len() - 1));
                };
                let pixels = match source {
                    ImageSource::Decoded(_) => decoded.next()?,
                    ImageSource::Held(_) => &[],
                };
                // It may have been computed since it was decoded.
                if self.images.get(number).is_some() {
                    return Some(Place::Held(number));
                }
                let place = *known.entry(number).or_insert_with(|| {
                    let number = Some(number);
                    wanted.missing.push(Missing { number, pixels });
                    wanted.missing.len() - 1
                });
                Some(Place::Missing(place))
            });
            wanted.images.push(places.collect());
        }
        Ok(wanted)
    }

    /// Computes what is missing and keeps what there is room for. Ranks whose parameters come and go have to do it together,
    /// whether they miss anything or not.
    ///
    /// # Errors
    /// If a rank is missing or has failed.
    pub(super) fn compute(
        &self,
        residence: &mut impl Residence,
        wanted: &Wanted<'_>,
        config: &VlmConfig,
        device: &Device,
        dtype: DType,
    ) -> Result<Computed, CollectiveError> {
        let (size, on_cpu) = (image_size(config), is_cpu(device));
        let at_once = if on_cpu { 1 } else { IMAGES_AT_ONCE };
        let mut hidden: Vec<Tensor<3>> = Vec::new();
        for &segment in &self.segments {
            let model = residence.enter(segment)?;
            if wanted.missing.is_empty() {
                continue;
            }
            let model = model.valid();
            hidden = match segment {
                Segment::VisionEmbeddings => {
                    let groups = wanted.missing.chunks(at_once).collect();
                    on_each(on_cpu, groups, |images: &[Missing<'_>]| {
                        let values: Vec<&[f32]> = images.iter().map(|image| image.pixels).collect();
                        model.embed_pixels(pixels(&values.concat(), size, device, dtype))
                    })
                }
                _ => on_each(on_cpu, hidden, |x_mtd| model.forward_vision(segment, x_mtd)),
            };
        }
        let mut missing = wanted.missing.iter();
        let mut computed = Vec::with_capacity(wanted.missing.len());
        for x_mtd in hidden {
            let num_images = x_mtd.dims()[0];
            let data = x_mtd.into_data();
            let bytes = data.as_bytes();
            let features = bytes.chunks_exact(bytes.len() / num_images).map(Box::from);
            for (features, image) in features.zip(&mut missing) {
                computed.push(match image.number {
                    Some(number) => self.images.put(number, features).err(),
                    None => Some(features),
                });
            }
        }
        Ok(Computed(computed))
    }

    /// The features of one of the batches that were looked up.
    pub(super) fn features(&self, wanted: &Wanted<'_>, batch: usize, computed: &Computed) -> HostFeatures {
        let places = wanted.images[batch].iter().filter_map(|place| match *place {
            Place::Held(number) => self.images.get(number),
            Place::Missing(at) => match &computed.0[at] {
                Some(features) => Some(&**features),
                None => self.images.get(wanted.missing[at].number?),
            },
        });
        let features: Vec<&[u8]> = places.collect();
        HostFeatures {
            after: self.after(),
            bytes: features.concat(),
        }
    }
}

fn image_size(config: &VlmConfig) -> usize {
    config
        .vision
        .as_ref()
        .map_or(0, |vision| vision.vision.image_size)
}

/// On a CPU images share the threads, since one alone may not have work for all.
fn on_each<T: Send>(on_cpu: bool, items: Vec<T>, run: impl Fn(T) -> Tensor<3> + Sync) -> Vec<Tensor<3>> {
    match on_cpu {
        true => items.into_par_iter().map(&run).collect(),
        false => items.into_iter().map(&run).collect(),
    }
}
