//! Dropout (<https://jmlr.org/papers/v15/srivastava14a.html>) whose mask is a pure function of seed, step, segment of
//! the step, position and layer.
//!
//! It therefore does not matter in how many micro-batches a step is made, whether a block runs twice, or whether the run
//! was interrupted; and every backend draws the same mask. Which rows a layer sees is known where a segment begins and
//! needed deep inside it: it is handed down beside the calls, on the thread that makes them ([`with_sequences`]).

use std::{cell::RefCell, sync::Arc};

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use crate::{init::hash_path, segmented::Segment};

thread_local! {
    /// Sequences of the segment that is running on this thread; `None` where nothing is dropped.
    static RUNNING: RefCell<Option<Running>> = const { RefCell::new(None) };
}

struct Running {
    sequences: Sequences,
    /// Keys of the rows of the last layer that asked; most layers of a segment have the same rows.
    rows: Option<Tensor<2, Int>>,
}

/// The sequences of a batch: segments of text, and images.
#[derive(Debug, Clone)]
pub(crate) struct SequenceKeys {
    pub(crate) texts: Sequences,
    pub(crate) images: Sequences,
}

/// Sequences that lie one after the other.
#[derive(Debug, Clone)]
pub(crate) struct Sequences {
    /// One key for each.
    pub(crate) keys: Arc<[u64]>,
    /// Their lengths; `None` where all are as long, whatever that is in a layer.
    pub(crate) lengths: Option<Arc<[usize]>>,
}

impl SequenceKeys {
    /// Keys of the sequences that a segment works on.
    pub(crate) fn of(&self, segment: Segment) -> Sequences {
        match segment {
            Segment::VisionEmbeddings | Segment::VisionBlock(_) | Segment::Projector => self.images.clone(),
            Segment::Embed | Segment::Block(_) | Segment::Attention(_) | Segment::Mlp(_) | Segment::Head => {
                self.texts.clone()
            }
        }
    }
}

/// Lets the layers that `run` calls drop their inputs; with `None` they drop nothing.
pub(crate) fn with_sequences<T>(sequences: Option<Sequences>, run: impl FnOnce() -> T) -> T {
    struct Restore(Option<Running>);
    impl Drop for Restore {
        fn drop(&mut self) {
            RUNNING.set(self.0.take());
        }
    }
    let _restore = Restore(RUNNING.replace(sequences.map(|sequences| Running {
        sequences,
        rows: None,
    })));
    run()
}

/// The layers from here on see these of the tokens, which are `[n]` numbers of them, and no others.
pub(crate) fn narrow(rows_n: &Tensor<1, Int>) {
    RUNNING.with_borrow_mut(|running| {
        if let Some(running) = running {
            let Some(lengths) = running.sequences.lengths.clone() else {
                unreachable!("segments of text have lengths")
            };
            let all = running.rows(lengths.iter().sum(), &rows_n.device());
            running.rows = Some(all.select(0, rows_n.clone()));
        }
    });
}

/// The dropout in front of one layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dropout {
    /// Of the layer's path.
    key: u64,
    /// Part that is zeroed.
    p: f64,
    /// Columns of the layer's inputs before those that are here.
    first_column: u64,
}

impl Dropout {
    /// `p` in `0..1`.
    pub(crate) fn new(path: &str, p: f64) -> Self {
        Self {
            key: hash_path(path),
            p,
            first_column: 0,
        }
    }

    /// The same for a layer that sees its inputs from some column on.
    pub(crate) fn beginning_at(self, first_column: usize) -> Self {
        Self {
            first_column: first_column as u64,
            ..self
        }
    }

    /// Zeroes a part of the inputs and scales up the others, where [`with_sequences`] says so.
    ///
    /// # Shapes
    /// `x_ni [n, i]`, the tokens of the sequences → `[n, i]`
    pub(crate) fn apply(&self, x_ni: Tensor<2>) -> Tensor<2> {
        let [n, width] = x_ni.dims();
        let device = x_ni.device();
        let rows_n1 = RUNNING.with_borrow_mut(|running| Some(running.as_mut()?.rows(n, &device)));
        let Some(rows_n1) = rows_n1.filter(|_| self.p > 0.0) else {
            return x_ni;
        };
        let columns = (self.first_column..).take(width);
        let columns = columns.map(|column| short(mix(self.key, column)));
        let columns_1i = ints(columns.collect(), &device).reshape([1, width]);
        let dropped = (self.p * 65536.0).round() as i32;
        let keep =
            noise(rows_n1.expand([n, width]), columns_1i.expand([n, width])).greater_equal_elem(dropped);
        let scale_ni = keep.float().cast(x_ni.dtype()).mul_scalar(1.0 / (1.0 - self.p));
        x_ni * scale_ni
    }
}

impl Running {
    /// A number for each token, `[n, 1]`.
    fn rows(&mut self, n: usize, device: &Device) -> Tensor<2, Int> {
        if let Some(rows) = self.rows.as_ref().filter(|rows| rows.dims()[0] == n) {
            return rows.clone();
        }
        let Sequences { keys, lengths } = &self.sequences;
        let equal = n / keys.len().max(1);
        let length_of = |index: usize| lengths.as_ref().map_or(equal, |lengths| lengths[index]);
        let tokens = keys.iter().enumerate().flat_map(|(index, &key)| {
            (0..length_of(index) as u64).map(move |position| short(mix(key, position)))
        });
        let rows = ints(tokens.collect(), device).reshape([n, 1]);
        self.rows = Some(rows.clone());
        rows
    }
}

fn ints(values: Vec<i32>, device: &Device) -> Tensor<1, Int> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), (device, DType::I32))
}

/// Sixteen bits from the keys of row and column, which have thirty-one: a Feistel network whose products stay below 2³¹,
/// since backends differ in what they do beyond.
fn noise(rows_ni: Tensor<2, Int>, columns_ni: Tensor<2, Int>) -> Tensor<2, Int> {
    const ROUNDS: [(i32, i32); 3] = [(0x6b5d, 0x3a2d), (0x5bd1, 0x2c1b), (0x7feb, 0x35a7)];
    let x = rows_ni.bitwise_xor(columns_ni);
    let mut low = x.clone().bitwise_and_scalar(0xffff);
    let mut high = x.bitwise_right_shift_scalar(16);
    for (first, second) in ROUNDS {
        let turned = (high.clone() * first + 0x1234_5678).bitwise_right_shift_scalar(7);
        low = low.bitwise_xor(turned.bitwise_and_scalar(0xffff));
        let turned = (low.clone() * second + 0x0fed_cba9).bitwise_right_shift_scalar(9);
        high = high.bitwise_xor(turned.bitwise_and_scalar(0x7fff));
    }
    low
}

/// SplitMix64, <https://prng.di.unimi.it/splitmix64.c>, `place` steps after `seed`.
pub(crate) fn mix(seed: u64, place: u64) -> u64 {
    let x = seed.wrapping_add((place.wrapping_add(1)).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The upper 31 bits.
fn short(key: u64) -> i32 {
    (key >> 33) as i32
}
