//! Which gradients travel together, and when: the same list on every rank, whatever its batch holds.

use std::cmp::Reverse;

use brazier_models::{Segment, Segmented, Vlm};

use super::trainable::Trainable;

/// Trained parameters whose gradients are complete at the same point of the backward pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bucket {
    /// Places in the trainable ones.
    pub(super) positions: Vec<usize>,
    /// Values of each.
    pub(super) counts: Vec<usize>,
    /// When the backward pass has left it, nothing is added any more.
    last: Segment,
}

impl Bucket {
    /// Whether its gradients are complete when the backward pass has left a segment.
    pub(super) fn is_complete_after(&self, segment: Segment) -> bool {
        backward_order(self.last) <= backward_order(segment)
    }

    fn num_elements(&self) -> usize {
        self.counts.iter().sum()
    }
}

/// Buckets in the order in which the backward pass completes them. Neighbours are joined until they hold `elements`
/// values.
pub(super) fn plan(trainable: &Trainable, elements: usize) -> Vec<Bucket> {
    let last = |position: &usize| {
        let owners = Vlm::owner(&trainable.params[*position].info.path);
        owners.into_iter().max_by_key(|owner| backward_order(*owner))
    };
    let mut positions: Vec<(Segment, usize)> = (0..trainable.params.len())
        .map(|position| (last(&position).unwrap_or(Segment::VisionEmbeddings), position))
        .collect();
    positions.sort_by_key(|(segment, position)| (backward_order(*segment), *position));
    let mut buckets: Vec<Bucket> = Vec::new();
    for (segment, position) in positions {
        let count = trainable.params[position].len;
        match buckets.last_mut() {
            Some(bucket) if bucket.last == segment || bucket.num_elements() < elements => {
                bucket.positions.push(position);
                bucket.counts.push(count);
                bucket.last = segment;
            }
            _ => buckets.push(Bucket {
                positions: vec![position],
                counts: vec![count],
                last: segment,
            }),
        }
    }
    buckets
}

/// The order in which the backward pass leaves segments.
fn backward_order(segment: Segment) -> (u8, Reverse<usize>, u8) {
    let (kind, index, half) = match segment {
        Segment::Head => (0, 0, 0),
        Segment::Mlp(index) => (1, index, 0),
        // Once its first half is left, so is the block.
        Segment::Attention(index) | Segment::Block(index) => (1, index, 1),
        Segment::Embed => (2, 0, 0),
        Segment::Projector => (3, 0, 0),
        Segment::VisionBlock(index) => (4, index, 0),
        Segment::VisionEmbeddings => (5, 0, 0),
    };
    (kind, Reverse(index), half)
}
