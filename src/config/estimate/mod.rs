//! How many parameters a model has, and how much memory a step takes: closed formulas, no device.
//!
//! Parameters are exact. Memory is what the run holds on to at its fullest moment, the middle of the backward
//! pass:
//!
//! * parameters: all of them, in the compute dtype (`p` bytes each: 4 for f32, 2 for bf16);
//! * adapters (LoRA): their parameters besides; each one keeps the `r` columns between its factors, and with dropout its
//!   input as it was dropped, and the mask;
//! * gradients: 4 bytes for each trained parameter, since accumulation is in f32;
//! * optimizer: two moments of 4 bytes for each trained parameter, and under bf16 a master of 4 bytes; under
//!   f32 the parameter is its own master;
//! * activations: `p` bytes for each number that a block keeps for its backward pass. With hidden size `D`,
//!   MLP width `I`, `q` and `k` columns of queries and of keys, a decoder block keeps for each token the
//!   inputs of both norms and of the projections behind them (`4D`), queries, keys and values as projected
//!   and queries and keys as rotated (`2q + 3k`), the attention's output (`q`) and the MLP's gate, its
//!   activation, up and their product (`4I`; without a gate up and its activation, `2I`). A vision block keeps
//!   `4D + 3D + D + 2I`. The projector keeps its input, and between two layers what goes into the GELU and what comes out; a
//!   tower's last norm before it keeps its own input. Each attention adds an f32 log-sum-exp for each head. Blocks below which nothing is trained keep nothing. With
//!   `recompute: blocks` a block keeps its input (`D`), and the largest block is whole once. The last
//!   decoder block is counted like the others: how many of its tokens the head reads only rows can tell;
//! * logits: a chunk of rows times the vocabulary, as f32 logits and as their gradient;
//! * batch: ids and labels, pixels in f32, and the embedded sequence in the compute dtype.
//!
//! Of several ranks each holds its part of what `parallel.zero` names; what a block puts together for a moment is not
//! counted. Of `parallel.tensor` ranks each has its part of heads, inner columns and vocabulary, and all of norms, vision tower and
//! projector; ranks that hold the same part share it out by `parallel.zero`. A block is then two links, so `recompute: blocks`
//! keeps two inputs of it. With `parallel.offload` masters and moments are in host memory.
//!
//! Where the vision tower rests, what it makes of images is kept in host memory besides: the tokens of an image times the width
//! of what leaves the last segment that rests, in the compute dtype; see [`VisionCachePlan`].
//!
//! What an allocator wastes and what kernels borrow for a moment is not in it.

mod memory;
mod parameters;
mod run;
#[cfg(test)]
mod tests;
mod vision_cache;

pub use memory::{BatchShape, MemoryEstimate, estimate_memory, readable};
pub use parameters::{ParameterCounts, num_parameters};
pub use vision_cache::{ImagesOfRun, VisionCachePlan, VisionCacheRoom};
