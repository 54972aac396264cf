//! Gradients of a step, added up over micro-batches and ranks while the backward pass goes on.

use std::collections::VecDeque;

use brazier_models::{Segment, ops};
use burn::tensor::{DType, Device, Int, Tensor};

use super::{
    buckets::Bucket,
    engine::GradientSink,
    options::Zero,
    parts::{in_parts, part_len, pieces},
    transport::{self, Coming},
};
use crate::parallel::{CollectiveError, Group};

/// Takes the gradients of one step of this rank.
///
/// A step has as many rounds as the rank with the most micro-batches has of them. In each round every bucket is sent once,
/// in the same order on all ranks, with zeros where a batch gave no gradient; but where each rank keeps whole gradients
/// anyway ([`Zero::None`], [`Zero::Optimizer`]) only in the last round.
pub(super) struct Reducer<'a> {
    group: &'a Group,
    zero: Zero,
    buckets: &'a [Bucket],
    device: &'a Device,
    /// Of this rank, not yet sent.
    sums: Vec<Option<Tensor<1>>>,
    /// Of all ranks: whole under [`Zero::None`], else this rank's parts.
    reduced: Vec<Option<Tensor<1>>>,
    in_flight: VecDeque<(&'a Bucket, Coming)>,
    /// Buckets of this round that are not sent yet; `None` in a round that sends none.
    to_send: Option<&'a [Bucket]>,
}

impl<'a> Reducer<'a> {
    pub(super) fn new(
        group: &'a Group,
        zero: Zero,
        buckets: &'a [Bucket],
        num_params: usize,
        device: &'a Device,
    ) -> Self {
        Self {
            group,
            zero,
            buckets,
            device,
            sums: vec![None; num_params],
            reduced: vec![None; num_params],
            in_flight: VecDeque::new(),
            to_send: None,
        }
    }

    /// Begins a round.
    pub(super) fn begin(&mut self, is_last: bool) {
        let sends = self.group.world().size > 1 && (is_last || self.zero.splits_gradients());
        self.to_send = sends.then_some(self.buckets);
    }

    /// Ends a round: sends what the batch, if there was one, did not reach. Gradients that are kept in parts have arrived
    /// afterwards.
    ///
    /// # Errors
    /// If a rank is missing or has failed.
    pub(super) fn end(&mut self) -> Result<(), CollectiveError> {
        self.send_while(|_| true);
        if self.to_send.is_some() {
            self.receive()?;
        }
        Ok(())
    }

    /// The sums, by the place of the parameter; `None` where a rank by itself has no gradient.
    pub(super) fn finish(self) -> Vec<Option<Tensor<1>>> {
        match self.group.world().size {
            1 => self.sums,
            _ => self.reduced,
        }
    }

    fn send_while(&mut self, is_complete: impl Fn(&Bucket) -> bool) {
        while let Some((bucket, rest)) = self.to_send.and_then(<[Bucket]>::split_first) {
            if !is_complete(bucket) {
                return;
            }
            self.to_send = Some(rest);
            let coming = self.send(bucket);
            self.in_flight.push_back((bucket, coming));
        }
    }

    fn send(&mut self, bucket: &Bucket) -> Coming {
        let size = self.group.world().size;
        let gradients = bucket.positions.iter().zip(&bucket.counts);
        let gradients = gradients.map(|(&position, &count)| {
            let zeros = || Tensor::zeros([count], (self.device, DType::F32));
            self.sums[position].take().unwrap_or_else(zeros)
        });
        if self.zero.splits_optimizer() {
            let parts = gradients.map(|gradient| in_parts(gradient, size)).collect();
            transport::reduce_scatter(self.group, Tensor::cat(parts, 1))
        } else {
            transport::all_reduce(self.group, Tensor::cat(gradients.collect(), 0))
        }
    }

    fn receive(&mut self) -> Result<(), CollectiveError> {
        let size = self.group.world().size;
        while let Some((bucket, coming)) = self.in_flight.pop_front() {
            let values = coming.wait()?;
            let lens = bucket
                .counts
                .iter()
                .map(|&count| match self.zero.splits_optimizer() {
                    true => part_len(count, size),
                    false => count,
                });
            for (&position, piece) in bucket.positions.iter().zip(pieces(&values, lens)) {
                let sum = &mut self.reduced[position];
                *sum = Some(match sum.take() {
                    Some(sum) => sum + piece,
                    None => piece,
                });
            }
        }
        Ok(())
    }
}

impl GradientSink for Reducer<'_> {
    fn gradient(&mut self, position: usize, gradient: Tensor<1>) {
        let sum = &mut self.sums[position];
        *sum = Some(match sum.take() {
            Some(sum) => sum + gradient,
            None => gradient,
        });
    }

    fn rows(&mut self, position: usize, num_rows: usize, rows_n: Tensor<1, Int>, values_nd: Tensor<2>) {
        let [_, width] = values_nd.dims();
        let len = num_rows * width;
        // Flat from the beginning: CUDA pads rows, and would copy the whole table.
        let zeros = || Tensor::zeros([len], (self.device, DType::F32));
        let sum = self.sums[position].take().unwrap_or_else(zeros);
        let sum = ops::add_rows(sum.reshape([num_rows, width]), rows_n, values_nd);
        self.sums[position] = Some(sum.reshape([len]));
    }

    fn left(&mut self, segment: Segment) {
        self.send_while(|bucket| bucket.is_complete_after(segment));
    }
}
