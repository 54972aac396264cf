//! `parallel:`.

use std::time::Duration;

use super::super::{
    raw::{RawParallel, RawRecompute, RawTransport},
    run::{ParallelChoice, Transport},
    written::Errors,
};
use crate::{
    learner::options::{ParallelConfig, Zero},
    parallel::World,
};

/// `launched` are the processes that a launcher has started.
pub(super) fn resolve(
    raw: &RawParallel,
    launched: World,
    recompute: RawRecompute,
    errors: &mut Errors,
) -> (World, ParallelChoice) {
    let RawParallel {
        devices,
        tensor,
        zero,
        offload,
        bucket_elements,
        transport,
        timeout_seconds,
    } = *raw;
    let world = match launched.size {
        1 => World {
            rank: 0,
            size: devices,
        },
        _ => launched,
    };
    if launched.size > 1 && devices > 1 {
        let reason = format!(
            "each of the {} processes that a launcher has started would start so many",
            launched.size
        );
        errors.refuse(
            "parallel.devices",
            &reason,
            Some("leave it out, or start one process"),
        );
    }
    let divides = world.size.is_multiple_of(tensor);
    if !divides {
        let ranks = if world.size == 1 { "rank does" } else { "ranks do" };
        let reason = format!("{} {ranks} not divide into groups of {tensor}", world.size);
        let hint = format!(
            "start a multiple of {tensor} ranks (parallel.devices, or a launcher), or write another number"
        );
        errors.refuse("parallel.tensor", &reason, Some(&hint));
    }
    // What follows is computed with a number that divides.
    let tensor = if divides { tensor } else { 1 };
    // One rank has all of it in any case.
    if zero == 3 && world.of_data(tensor).size > 1 && matches!(recompute, RawRecompute::None) {
        let reason =
            "parameters go when a block is done, and what the backward pass keeps of it would hold them";
        errors.refuse(
            "parallel.zero",
            reason,
            Some("set train.recompute to blocks, or zero to 2"),
        );
    }
    let choice = ParallelChoice {
        devices,
        learner: ParallelConfig {
            zero: match zero {
                0 => Zero::None,
                1 => Zero::Optimizer,
                2 => Zero::Gradients,
                _ => Zero::Parameters,
            },
            offload,
            bucket_elements,
            tensor,
        },
        transport: match transport {
            RawTransport::Auto => Transport::Auto,
            RawTransport::Nccl => Transport::Nccl,
            RawTransport::Host => Transport::Host,
        },
        timeout: Duration::from_secs(timeout_seconds),
    };
    (world, choice)
}
