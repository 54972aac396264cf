//! Which samples make which row of the batches: [`Order`] says which sample comes when, the [`Grouping`] how they share rows
//! and batches. A pure function of seed, epoch, lengths and weights; what an epoch looks like is worked out when it is first
//! asked for, and kept while it is in use.

use std::{
    fmt,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    options::Grouping,
    order::{Order, permute},
    packing::{Budget, Packed, Size, pack},
};

/// Samples that are packed together: few enough for time and memory, enough for rows without gaps.
const WINDOW: usize = 1 << 16;
/// The same where the order of the files counts: no sample moves further.
const WINDOW_IN_ORDER: usize = 1 << 10;
/// Micro-batches whose samples are sorted by length together, as transformers' `LengthGroupedSampler` has it.
const SORTED_BATCHES: usize = 50;
/// Epochs that are kept: at the turn of an epoch, batches of two are made.
const KEPT_EPOCHS: usize = 2;
/// Sets the order of rows apart from that of samples.
const ROW_SEED: u64 = 0x9c3b_16ea_5e8d_70f1;

/// The endless stream of rows over a dataset: epoch after epoch, each with all its samples.
pub struct Stream {
    order: Order,
    grouping: Grouping,
    /// Most tokens of a row.
    row_tokens: usize,
    /// By the rows of the dataset; empty where every sample stands alone.
    sizes: Vec<Size>,
    made: Mutex<Made>,
}

/// What was worked out so far.
#[derive(Default)]
struct Made {
    /// For the first epochs, at which position of the stream each ends.
    ends: Vec<u64>,
    /// The last ones that were asked for, the newest at the end.
    recent: Vec<(u64, Arc<Packed>)>,
}

impl Stream {
    /// So many samples, in order, each a row: all that is known before the files are read.
    pub fn of_samples(num_samples: usize) -> Self {
        let order = Order {
            seed: 0,
            len: num_samples,
            shuffle: false,
            mixture: None,
        };
        Self::new(order, Grouping::Alone, 0, Vec::new())
    }

    /// `sizes` are those of the dataset's rows.
    pub(super) fn new(order: Order, grouping: Grouping, row_tokens: usize, sizes: Vec<Size>) -> Self {
        Self {
            order,
            grouping,
            row_tokens,
            sizes,
            made: Mutex::default(),
        }
    }

    /// In which order the samples come.
    pub fn order(&self) -> &Order {
        &self.order
    }

    /// Samples of an epoch; at least 1.
    pub fn samples_per_epoch(&self) -> usize {
        self.order.len
    }

    /// Rows of an epoch.
    pub fn rows_of(&self, epoch: u64) -> u64 {
        match self.grouping {
            Grouping::Alone | Grouping::ByLength { .. } => self.order.len as u64,
            Grouping::Packed { .. } => self.end_of(epoch) - self.start_of(epoch),
        }
    }

    /// Rows of so many epochs; at least 1. Of the last one, a part may count, rounded up.
    pub fn rows_in(&self, epochs: f64) -> u64 {
        let rows = match self.grouping {
            Grouping::Alone | Grouping::ByLength { .. } => (epochs * self.order.len as f64).ceil() as u64,
            Grouping::Packed { .. } => {
                let whole = epochs as u64;
                let part = match epochs.fract() {
                    0.0 => 0,
                    part => (part * self.rows_of(whole) as f64).ceil() as u64,
                };
                self.start_of(whole) + part
            }
        };
        rows.max(1)
    }

    /// How well rows are filled, if samples share them.
    pub fn packing(&self) -> Option<Packing> {
        let Grouping::Packed { .. } = self.grouping else {
            return None;
        };
        let packed = self.epoch(0);
        let tokens = packed
            .samples
            .iter()
            .map(|&row| u64::from(self.sizes[row as usize].tokens));
        Some(Packing {
            samples: packed.samples.len(),
            rows: packed.ends.len(),
            tokens: tokens.sum(),
            row_tokens: self.row_tokens,
        })
    }

    /// Epoch (from 0) of a position of the stream, and the rows of the dataset that are there together.
    pub fn at(&self, position: u64) -> (u64, Vec<usize>) {
        match self.grouping {
            Grouping::Alone => {
                let (epoch, sample) = self.order.position_to_sample(position);
                (epoch, vec![sample])
            }
            Grouping::ByLength { .. } => {
                let len = self.order.len.max(1) as u64;
                let epoch = position / len;
                let sorted = self.epoch(epoch);
                (epoch, vec![sorted.samples[(position % len) as usize] as usize])
            }
            Grouping::Packed { .. } => {
                let epoch = self.epoch_at(position);
                let row = (position - self.start_of(epoch)) as usize;
                let packed = self.epoch(epoch);
                (
                    epoch,
                    packed.row(row).iter().map(|&sample| sample as usize).collect(),
                )
            }
        }
    }

    /// The epoch of a position, where epochs differ in length.
    fn epoch_at(&self, position: u64) -> u64 {
        loop {
            let (epoch, num_known) = {
                let ends = &self.made().ends;
                (
                    ends.partition_point(|&end| end <= position) as u64,
                    ends.len() as u64,
                )
            };
            if epoch < num_known {
                return epoch;
            }
            self.end_of(num_known);
        }
    }

    fn start_of(&self, epoch: u64) -> u64 {
        epoch.checked_sub(1).map_or(0, |before| self.end_of(before))
    }

    /// Position after an epoch of packed rows. Those before it have to be packed for that, once.
    fn end_of(&self, epoch: u64) -> u64 {
        loop {
            let next = {
                let ends = &self.made().ends;
                match ends.get(epoch as usize) {
                    Some(&end) => return end,
                    None => ends.len() as u64,
                }
            };
            let rows = self.epoch(next).ends.len() as u64;
            let ends = &mut self.made().ends;
            // Another thread may have been faster.
            if ends.len() as u64 == next {
                ends.push(ends.last().unwrap_or(&0) + rows);
            }
        }
    }

    fn epoch(&self, epoch: u64) -> Arc<Packed> {
        let recent = &mut self.made().recent;
        if let Some(place) = recent.iter().position(|(kept, _)| *kept == epoch) {
            let found = recent.remove(place);
            recent.push(found.clone());
            return found.1;
        }
        // The lock is held meanwhile: other threads would only do the same work.
        let made = Arc::new(match self.grouping {
            Grouping::Alone => Packed::default(),
            Grouping::ByLength { micro_batch_size } => self.by_length(epoch, micro_batch_size),
            Grouping::Packed { max_images } => self.packed(epoch, max_images),
        });
        if recent.len() == KEPT_EPOCHS {
            recent.remove(0);
        }
        recent.push((epoch, made.clone()));
        made
    }

    fn made(&self) -> std::sync::MutexGuard<'_, Made> {
        // A thread that panicked has left whole entries only.
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Samples of a part of an epoch, in order.
    fn samples(&self, epoch: u64, places: Range<usize>) -> Vec<u32> {
        places
            .map(|place| self.order.sample(epoch, place) as u32)
            .collect()
    }

    /// Window by window best-fit-decreasing, and the rows of all windows in an order of their own. As each window is a part of
    /// the shuffled samples, it has what the whole has in the same proportions.
    fn packed(&self, epoch: u64, max_images: Option<usize>) -> Packed {
        let window = if self.order.shuffle {
            WINDOW
        } else {
            WINDOW_IN_ORDER
        };
        let budget = Budget {
            tokens: self.row_tokens,
            images: max_images,
        };
        let windows: Vec<Packed> = (0..self.order.len.div_ceil(window))
            .map(|number| {
                let start = number * window;
                let samples = self.samples(epoch, start..(start + window).min(self.order.len));
                let sizes: Vec<Size> = samples.iter().map(|&row| self.sizes[row as usize]).collect();
                let Packed {
                    samples: places,
                    ends,
                } = pack(&sizes, budget);
                Packed {
                    samples: places.iter().map(|&place| samples[place as usize]).collect(),
                    ends,
                }
            })
            .collect();
        let rows: Vec<&[u32]> = windows
            .iter()
            .flat_map(|window| (0..window.ends.len()).map(|row| window.row(row)))
            .collect();
        let mut packed = Packed {
            samples: Vec::with_capacity(self.order.len),
            ends: Vec::with_capacity(rows.len()),
        };
        for place in self.shuffled(epoch, rows.len()) {
            packed.samples.extend_from_slice(rows[place]);
            packed.ends.push(packed.samples.len() as u32);
        }
        packed
    }

    /// Shuffled samples, of which those of a micro-batch are of like length. Micro-batches begin where the stream cuts them:
    /// an epoch may begin and end inside one, and those two are as the shuffling left them.
    fn by_length(&self, epoch: u64, micro_batch_size: usize) -> Packed {
        let len = self.order.len;
        let since_cut = (u128::from(epoch) * len as u128 % micro_batch_size as u128) as usize;
        let head = ((micro_batch_size - since_cut) % micro_batch_size).min(len);
        let whole = (len - head) / micro_batch_size * micro_batch_size;
        let mut sorted = self.samples(epoch, head..head + whole);
        for window in sorted.chunks_mut(SORTED_BATCHES * micro_batch_size) {
            window.sort_by_key(|&row| self.sizes[row as usize].tokens);
        }
        let mut samples = self.samples(epoch, 0..head);
        for batch in self.shuffled(epoch, whole / micro_batch_size) {
            samples.extend_from_slice(&sorted[batch * micro_batch_size..][..micro_batch_size]);
        }
        samples.extend(self.samples(epoch, head + whole..len));
        Packed {
            samples,
            ends: Vec::new(),
        }
    }

    /// Numbers below `len` in the order of an epoch.
    fn shuffled(&self, epoch: u64, len: usize) -> impl Iterator<Item = usize> {
        let Order { seed, shuffle, .. } = self.order;
        (0..len).map(move |place| match shuffle {
            true => permute(seed ^ ROW_SEED, epoch, len as u64, place as u64) as usize,
            false => place,
        })
    }
}

/// How well rows are filled in the first epoch; others hardly differ. Displays as one line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Packing {
    /// Samples.
    pub samples: usize,
    /// Rows that they share.
    pub rows: usize,
    /// Tokens of the samples.
    pub tokens: u64,
    /// Tokens of a full row.
    pub row_tokens: usize,
}

impl Packing {
    /// Part of the rows' tokens that is not padding, from 0 to 1.
    pub fn efficiency(&self) -> f64 {
        self.tokens as f64 / (self.rows as f64 * self.row_tokens as f64)
    }
}

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            samples,
            rows,
            tokens,
            row_tokens,
        } = self;
        write!(
            f,
            "{samples} samples in {rows} rows of {row_tokens} tokens, {:.2} % full with {tokens} tokens",
            100.0 * self.efficiency()
        )
    }
}

#[cfg(test)]
mod tests;
