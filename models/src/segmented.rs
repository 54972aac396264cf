//! Models as chains of segments, so that a trainer can run, drop, recompute and differentiate them one at a time.

use burn::{module::Module, tensor::Tensor};

/// One link of the chain. Activations are kept or dropped between links.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Segment {
    /// Pixels to the first hidden state of the vision tower.
    VisionEmbeddings,
    /// A vision block.
    VisionBlock(usize),
    /// Vision features to token embeddings, through the tower's last norm where that is asked for.
    Projector,
    /// Token embeddings, with image features spliced in.
    Embed,
    /// A decoder block.
    Block(usize),
    /// The first half of a decoder block, of a model that is a [`Shard`](crate::Shard).
    Attention(usize),
    /// The second half.
    Mlp(usize),
    /// Final norm, output projection and loss.
    Head,
}

impl Segment {
    /// Whether it works on images, before they are spliced in.
    pub fn is_vision(self) -> bool {
        match self {
            Segment::VisionEmbeddings | Segment::VisionBlock(_) | Segment::Projector => true,
            Segment::Embed | Segment::Block(_) | Segment::Attention(_) | Segment::Mlp(_) | Segment::Head => {
                false
            }
        }
    }
}

/// A model that is a chain: each segment maps the hidden state of the one before.
pub trait Segmented: Module {
    /// A batch on the device.
    type Inputs;

    /// The links before the head that this batch passes, in order.
    fn segments(&self, inputs: &Self::Inputs) -> Vec<Segment>;

    /// Whether a link is one of them.
    fn passes(&self, segment: Segment, inputs: &Self::Inputs) -> bool {
        self.segments(inputs).contains(&segment)
    }

    /// Runs one link. The first of a chain gets `None`.
    ///
    /// # Shapes
    /// A hidden state of rank 3 to the next one. The last attention gives the hidden states of the tokens that the head reads,
    /// `[1, n, d]`.
    fn forward_segment(&self, segment: Segment, x: Option<Tensor<3>>, inputs: &Self::Inputs) -> Tensor<3>;

    /// The head: the loss as a **sum** over the batch's labelled tokens, f32. The caller divides once.
    fn loss_sum(&self, x: Tensor<3>, inputs: &Self::Inputs) -> Tensor<1>;

    /// The links in whose tape a parameter can appear.
    fn owner(path: &str) -> Vec<Segment>;
}
