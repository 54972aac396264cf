//! `parallel:`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Several devices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct RawParallel {
    /// Ranks that this command starts on this host, each with a device of its own; on CPUs they share the cores. Processes
    /// that srun, torchrun or mpirun have started are ranks already, and this is 1.
    #[schemars(range(min = 1), example = 4)]
    pub devices: usize,
    /// Ranks that hold one model together and see the same rows (tensor parallelism): each has a part of the heads, of the inside
    /// of the MLPs and of the vocabulary. Ranks must divide into such groups of neighbours, and heads, key heads and
    /// `intermediate_size` into parts. The vision tower and the projector are not cut. Hidden states travel twice for each
    /// block and direction, so the ranks of a group belong on one host. Changes memory and time, no result beyond rounding.
    #[schemars(range(min = 1), example = 4)]
    pub tensor: usize,
    /// What each rank holds only its own part of, by DeepSpeed's numbers: 0 nothing, 1 the optimizer's state, 2 gradients too,
    /// 3 parameters too, which needs `train.recompute: blocks`. Changes memory and time, no result beyond rounding.
    #[schemars(range(min = 0, max = 3), example = 1)]
    pub zero: u8,
    /// Whether masters and moments of the optimizer are in host memory, and updated there by the CPU: the device then holds
    /// parameters, gradients and activations alone. Changes no result beyond rounding.
    #[schemars(example = true)]
    pub offload: bool,
    /// Gradients travel while the backward pass goes on, in messages of at least so many numbers.
    #[schemars(range(min = 1), example = 50_000_000)]
    pub bucket_elements: usize,
    /// How gradients, parameters and hidden states travel between ranks. Changes time, no result beyond the order of sums.
    pub transport: RawTransport,
    /// How long a rank waits for the others before it gives up. The first step on a GPU takes minutes where kernels are
    /// chosen.
    #[schemars(range(min = 1), example = 60)]
    pub timeout_seconds: u64,
}

/// The way from rank to rank.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(in crate::config) enum RawTransport {
    /// `nccl` where several ranks compute on CUDA devices, else `host`.
    Auto,
    /// From GPU to GPU, by NVIDIA's library, which has to be installed.
    Nccl,
    /// Through host memory.
    Host,
}
