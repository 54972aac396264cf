//! The ranks that hold one decoder together, each a [`Shard`] of it.
//!
//! What they exchange stands between the links of the engine, on full hidden states; no gradient is taken through it.

use std::{collections::HashMap, sync::Arc};

use brazier_models::{
    Cut, HostTensor, Shard, Vlm,
    params::{ParamInfo, from_host_flat},
};
use burn::{
    module::ParamId,
    tensor::{DType, Device, Tensor, TensorData},
};

use super::{
    parts::{from_floats, pieces, to_floats},
    trainable::Trainable,
    transport,
};
use crate::parallel::{CollectiveError, Group, World};

/// The ranks of a decoder, which see the same batches.
pub struct TensorGroup {
    group: Arc<Group>,
}

impl TensorGroup {
    /// One rank, which holds all of it.
    pub fn alone() -> Self {
        Self::new(Arc::new(Group::alone()))
    }

    pub(super) fn new(group: Arc<Group>) -> Self {
        Self { group }
    }

    /// What this rank holds.
    pub fn shard(&self) -> Shard {
        shard_of(self.group.world())
    }

    /// The sum of all ranks' terms of a hidden state or its gradient, added up in f32.
    ///
    /// # Shapes
    /// `[b, t, d]`, behind the last attention `[1, n, d]`, of one dtype on all ranks → the same
    ///
    /// # Errors
    /// If a rank is missing or has failed.
    pub(super) fn sum(&self, term_btd: Tensor<3>) -> Result<Tensor<3>, CollectiveError> {
        let (shape, dtype) = (term_btd.dims(), term_btd.dtype());
        let term = match dtype {
            DType::F32 => term_btd,
            _ => term_btd.cast(DType::F32),
        };
        let term = term.reshape([shape.iter().product::<usize>()]);
        let sum = transport::all_reduce(&self.group, term).wait()?.reshape(shape);
        Ok(match dtype {
            DType::F32 => sum,
            _ => sum.cast(dtype),
        })
    }

    /// Log-sum-exps over the whole vocabulary from those over the ranks' parts of it.
    ///
    /// # Shapes
    /// `[n]`, f32 → `[n]`, f32
    ///
    /// # Errors
    /// If a rank is missing or has failed.
    pub(super) fn log_sums(&self, own_n: Tensor<1>) -> Result<Tensor<1>, CollectiveError> {
        let (device, [n]) = (own_n.device(), own_n.dims());
        let own = to_floats(own_n);
        let bytes = own.iter().flat_map(|sum| sum.to_le_bytes()).collect();
        let all = self.group.all_gather(bytes).wait()?;
        let (all, _) = all.as_chunks::<4>();
        let of_row = |row: usize| {
            let sums = all.iter().skip(row).step_by(n);
            let sums = sums.map(|bytes| f64::from(f32::from_le_bytes(*bytes)));
            let largest = sums.clone().fold(f64::NEG_INFINITY, f64::max);
            (largest + sums.map(|sum| (sum - largest).exp()).sum::<f64>().ln()) as f32
        };
        Ok(from_floats((0..n).map(of_row).collect(), &device))
    }

    /// Adds up the ranks' terms of the gradients of what all of them have a copy of, in messages of about `elements` values. A
    /// rank that lacks one has 0.
    ///
    /// # Errors
    /// If a rank is missing or has failed.
    pub(super) fn sum_copied(
        &self,
        gradients: &mut [Option<Tensor<1>>],
        trainable: &Trainable,
        device: &Device,
        elements: usize,
    ) -> Result<(), CollectiveError> {
        if self.shard().is_whole() {
            return Ok(());
        }
        let copied = trainable.params.iter().enumerate();
        let copied = copied.filter(|(_, trained)| Cut::of(&trained.info.path) == Cut::Copied);
        let mut terms: Vec<(usize, Tensor<1>)> = Vec::new();
        let mut coming = Vec::new();
        let mut send = |terms: &mut Vec<(usize, Tensor<1>)>| {
            let places: Vec<(usize, usize)> = terms.iter().map(|(at, term)| (*at, term.dims()[0])).collect();
            let terms = Tensor::cat(terms.drain(..).map(|(_, term)| term).collect(), 0);
            coming.push((places, transport::all_reduce(&self.group, terms)));
        };
        let mut waiting = 0;
        for (position, trained) in copied {
            let zeros = || Tensor::zeros([trained.len], (device, DType::F32));
            let term = gradients[position].take().unwrap_or_else(zeros);
            waiting += term.dims()[0];
            terms.push((position, term));
            if waiting >= elements {
                send(&mut terms);
                waiting = 0;
            }
        }
        if !terms.is_empty() {
            send(&mut terms);
        }
        for (places, coming) in coming {
            let sums = coming.wait()?;
            let lens = places.iter().map(|(_, len)| *len);
            for ((position, _), sum) in places.iter().zip(pieces(&sums, lens)) {
                gradients[*position] = Some(sum);
            }
        }
        Ok(())
    }

    /// Whether the square of a parameter's gradient is this rank's to count in the norm: of what all have, one does.
    pub(super) fn counts(&self, path: &str) -> bool {
        self.shard().is_first() || Cut::of(path) != Cut::Copied
    }

    /// Whether ranks have parts of a parameter.
    pub(super) fn cuts(&self, info: &ParamInfo) -> bool {
        !self.shard().is_whole() && Cut::of(&info.path).axis().is_some()
    }

    /// A parameter, or what belongs to one, of which each rank has its part in host memory.
    ///
    /// # Errors
    /// If a rank is missing or has failed.
    pub(super) fn whole(&self, part: HostTensor, info: &ParamInfo) -> Result<HostTensor, CollectiveError> {
        let Some(axis) = Cut::of(&info.path).axis().filter(|_| !self.shard().is_whole()) else {
            return Ok(part);
        };
        let width = part.bytes.len() / part.num_elements().max(1);
        Ok(HostTensor {
            shape: match part.shape.len() == info.shape.len() {
                true => info.shape.clone(),
                false => vec![info.num_elements()],
            },
            bytes: self.whole_bytes(part.bytes, matrix(&info.shape), axis, width)?,
            ..part
        })
    }

    /// The elements of a matrix, of `width` bytes each, of which each rank has some rows or columns.
    fn whole_bytes(
        &self,
        mut part: Vec<u8>,
        [rows, columns]: [usize; 2],
        axis: usize,
        width: usize,
    ) -> Result<Vec<u8>, CollectiveError> {
        let Shard { count, .. } = self.shard();
        // Parts may differ by a row, messages may not.
        let longest = match axis {
            0 => rows.div_ceil(count) * columns * width,
            _ => rows * columns.div_ceil(count) * width,
        };
        part.resize(longest, 0);
        let gathered = self.group.all_gather(part).wait()?;
        let mut whole = Vec::with_capacity(rows * columns * width);
        let shard = |index| Shard { index, count };
        let parts: Vec<&[u8]> = gathered.chunks(longest.max(1)).collect();
        match axis {
            0 => {
                for (index, part) in parts.iter().enumerate() {
                    whole.extend_from_slice(&part[..shard(index).range(rows).len() * columns * width]);
                }
            }
            _ => {
                for row in 0..rows {
                    for (index, part) in parts.iter().enumerate() {
                        let len = shard(index).range(columns).len() * width;
                        whole.extend_from_slice(&part[row * len..][..len]);
                    }
                }
            }
        }
        Ok(whole)
    }

    /// A model with all parameters of the decoder on this rank's device.
    ///
    /// # Errors
    /// If a rank is missing or has failed.
    pub(super) fn whole_model(&self, model: Vlm, infos: &[ParamInfo]) -> Result<Vlm, CollectiveError> {
        let infos: HashMap<ParamId, &ParamInfo> = infos.iter().map(|info| (info.id, info)).collect();
        model.reshard(Shard::WHOLE, |part_info, part| {
            let (Some(info), Some(axis)) = (infos.get(&part_info.id), Cut::of(&part_info.path).axis()) else {
                unreachable!("what is cut was whole before");
            };
            let (dtype, device, shape) = (part.dtype(), part.device(), matrix(&info.shape));
            let bytes = part.into_data().as_bytes().to_vec();
            let bytes = self.whole_bytes(bytes, shape, axis, dtype.size())?;
            let data = TensorData::from_bytes_vec(bytes, shape, dtype);
            Ok(Tensor::from_data(data, (&device, dtype)))
        })
    }

    /// This rank's part of a parameter, or of what belongs to one, from the whole in host memory; flat.
    pub(super) fn part(
        &self,
        whole: &HostTensor,
        info: &ParamInfo,
        device: &Device,
        dtype: DType,
    ) -> Tensor<1> {
        let flat = from_host_flat(whole, device, dtype);
        let cut = Cut::of(&info.path);
        if cut == Cut::Copied || self.shard().is_whole() {
            return flat;
        }
        let part = self.shard().part(cut, &flat.reshape(matrix(&info.shape)));
        let count = part.shape().num_elements();
        part.reshape([count])
    }
}

/// What one of the ranks that hold a model together has of it.
pub fn shard_of(rank: World) -> Shard {
    Shard {
        index: rank.rank,
        count: rank.size,
    }
}

/// Rows and columns; a vector has one column.
fn matrix(shape: &[usize]) -> [usize; 2] {
    let rows = shape.first().copied().unwrap_or(1);
    [rows, shape.iter().skip(1).product()]
}
