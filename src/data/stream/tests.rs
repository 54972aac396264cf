//! Any lengths in: every sample out once per epoch, within the budgets, whoever asks from where.

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{RngCore, SeedableRng},
};

use super::*;
use crate::data::{BatchPlan, Mixture};

/// Rows of random sizes, and how they are grouped and ordered.
fn random(rng: &mut ChaCha8Rng) -> Stream {
    let mut below = |bound: u32| rng.next_u32() % bound;
    let num_rows = 1 + below(60) as usize;
    let row_tokens = 20 + below(60) as usize;
    let max_images = (below(2) == 0).then(|| 3 + below(4) as usize);
    let sizes = (0..num_rows).map(|_| Size {
        tokens: 1 + below(row_tokens as u32),
        images: below(4),
    });
    let sizes: Vec<Size> = sizes.collect();
    let grouping = match below(3) {
        0 => Grouping::ByLength {
            micro_batch_size: 1 + below(5) as usize,
        },
        _ => Grouping::Packed { max_images },
    };
    let first = below(num_rows as u32) as usize;
    let parts = [(first, 0.5), (num_rows - first, 2.0)];
    let mixture = (below(2) == 0).then(|| Mixture::new(&parts));
    let order = Order {
        seed: u64::from(below(100)),
        len: mixture.as_ref().map_or(num_rows, Mixture::len),
        shuffle: below(4) > 0,
        mixture,
    };
    Stream::new(order, grouping, row_tokens, sizes)
}

/// The same stream with nothing worked out.
fn fresh(stream: &Stream) -> Stream {
    Stream::new(
        stream.order.clone(),
        stream.grouping,
        stream.row_tokens,
        stream.sizes.clone(),
    )
}

fn rows(stream: &Stream, positions: Range<u64>) -> Vec<(u64, Vec<usize>)> {
    positions.map(|position| stream.at(position)).collect()
}

fn sorted(mut samples: Vec<usize>) -> Vec<usize> {
    samples.sort_unstable();
    samples
}

#[test]
fn any_sizes_come_once_an_epoch_within_the_budgets() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    for _ in 0..200 {
        let stream = random(&mut rng);
        let mut start = 0;
        for epoch in 0..3 {
            let end = start + stream.rows_of(epoch);
            assert_eq!(stream.rows_in(epoch as f64 + 1.0), end);
            let found = rows(&stream, start..end);
            assert!(found.iter().all(|(of, row)| *of == epoch && !row.is_empty()));
            let expected = (0..stream.order.len).map(|place| stream.order.sample(epoch, place));
            let samples = found.iter().flat_map(|(_, row)| row.clone()).collect();
            assert_eq!(
                sorted(samples),
                sorted(expected.collect()),
                "each as often as without packing"
            );
            for (_, row) in &found {
                let sum = |of: fn(&Size) -> u32| {
                    row.iter()
                        .map(|&row| of(&stream.sizes[row]) as usize)
                        .sum::<usize>()
                };
                match stream.grouping {
                    Grouping::Packed { max_images } => {
                        assert!(sum(|size| size.tokens) <= stream.row_tokens);
                        assert!(max_images.is_none_or(|most| sum(|size| size.images) <= most));
                    }
                    Grouping::Alone | Grouping::ByLength { .. } => assert_eq!(row.len(), 1),
                }
            }
            start = end;
        }
    }
}

#[test]
fn any_position_is_found_without_the_ones_before_it() {
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    for _ in 0..40 {
        let stream = random(&mut rng);
        let whole = rows(&stream, 0..stream.rows_in(3.0));
        for (position, expected) in whole.iter().enumerate() {
            assert_eq!(
                fresh(&stream).at(position as u64),
                *expected,
                "position {position}"
            );
        }
        let backwards: Vec<_> = (0..whole.len() as u64)
            .rev()
            .map(|position| stream.at(position))
            .collect();
        assert!(backwards.iter().eq(whole.iter().rev()));
    }
}

#[test]
fn one_to_four_ranks_share_one_order() {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    for _ in 0..20 {
        let stream = random(&mut rng);
        let total_rows = Some(stream.rows_in(2.5));
        let expected = rows(&stream, 0..stream.rows_in(2.5));
        for world_size in 1..=4 {
            let plans: Vec<BatchPlan> = (0..world_size)
                .map(|rank| BatchPlan {
                    micro_batch_size: 2,
                    accumulation: 12 / world_size,
                    rank,
                    world_size,
                    total_rows,
                })
                .collect();
            let streams: Vec<Stream> = plans.iter().map(|_| fresh(&stream)).collect();
            let mut seen = Vec::new();
            for step in 0..plans[0].total_steps().unwrap() {
                for micro in 0..12 / world_size {
                    for (plan, stream) in plans.iter().zip(&streams) {
                        seen.extend(rows(stream, plan.positions(step, micro)));
                    }
                }
            }
            assert_eq!(seen, expected, "{world_size} ranks");
        }
    }
}

/// Lengths as chat data has them: log-normal, with a tail that ends at the limit.
fn chat_lengths(num_rows: usize, median: f64, limit: u32) -> Vec<Size> {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut uniform = || (f64::from(rng.next_u32()) + 1.0) / (f64::from(u32::MAX) + 2.0);
    let mut length = || {
        let normal = (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
        ((median * normal.exp()) as u32).clamp(1, limit)
    };
    (0..num_rows)
        .map(|_| Size {
            tokens: length(),
            images: 0,
        })
        .collect()
}

fn shuffled(seed: u64, len: usize) -> Order {
    Order {
        seed,
        len,
        shuffle: true,
        mixture: None,
    }
}

#[test]
fn rows_of_chat_data_are_full() {
    // A small data set, and one of more than two windows.
    for (num_rows, least) in [(3_000, 0.97), (150_000, 0.995)] {
        let sizes = chat_lengths(num_rows, 350.0, 2048);
        let grouping = Grouping::Packed { max_images: None };
        let packing = Stream::new(shuffled(1, num_rows), grouping, 2048, sizes)
            .packing()
            .unwrap();
        assert_eq!(packing.samples, num_rows);
        assert!(packing.efficiency() >= least, "{packing}");
    }
}

#[test]
fn a_mixture_keeps_its_proportions_all_along() {
    let (first, second) = (30_000, 10_000);
    let sizes = [chat_lengths(first, 100.0, 512), chat_lengths(second, 200.0, 512)].concat();
    let mixture = Mixture::new(&[(first, 0.5), (second, 1.5)]);
    let order = Order {
        len: mixture.len(),
        mixture: Some(mixture),
        ..shuffled(5, 0)
    };
    let stream = Stream::new(order, Grouping::Packed { max_images: None }, 512, sizes);
    let num_rows = stream.rows_of(0);
    for tenth in 0..10 {
        let rows = rows(&stream, tenth * num_rows / 10..(tenth + 1) * num_rows / 10);
        let samples: Vec<usize> = rows.into_iter().flat_map(|(_, row)| row).collect();
        let share = samples.iter().filter(|&&row| row < first).count() as f64 / samples.len() as f64;
        assert!((share - 0.5).abs() < 0.05, "{share} in part {tenth}");
    }
}

#[test]
fn without_shuffle_no_sample_moves_far() {
    let len = 5 * WINDOW_IN_ORDER / 2;
    let order = Order {
        shuffle: false,
        ..shuffled(1, len)
    };
    let stream = Stream::new(
        order,
        Grouping::Packed { max_images: None },
        2048,
        chat_lengths(len, 350.0, 2048),
    );
    let samples = rows(&stream, 0..stream.rows_of(0))
        .into_iter()
        .flat_map(|(_, row)| row);
    assert!(
        samples
            .enumerate()
            .all(|(place, row)| place / WINDOW_IN_ORDER == row / WINDOW_IN_ORDER)
    );
}

/// A resumed run must find the order it left: these values may never change.
#[test]
fn the_order_of_packed_rows_is_frozen() {
    let sizes = [5, 9, 3, 7, 2, 8, 4, 6, 1, 5].map(|tokens| Size { tokens, images: 0 });
    let stream = Stream::new(
        shuffled(42, 10),
        Grouping::Packed { max_images: None },
        10,
        sizes.to_vec(),
    );
    let found: Vec<Vec<usize>> = rows(&stream, 0..10).into_iter().map(|(_, row)| row).collect();
    let first = [[8, 1], [5, 4], [7, 6], [3, 2], [9, 0]];
    let second = [[9, 0], [1, 8], [3, 2], [6, 7], [4, 5]];
    assert_eq!(found, [first, second].concat());
}

#[test]
fn micro_batches_are_of_like_length_wherever_an_epoch_begins() {
    let (len, micro_batch_size) = (1003, 4);
    let sizes = chat_lengths(len, 350.0, 2048);
    let padded = |grouping| {
        let stream = Stream::new(shuffled(2, len), grouping, 2048, sizes.clone());
        let mut padded = Vec::new();
        for batch in 0..stream.rows_in(3.0) / micro_batch_size {
            let rows = rows(&stream, batch * micro_batch_size..(batch + 1) * micro_batch_size);
            let lengths = rows.iter().map(|(_, row)| sizes[row[0]].tokens);
            padded.push(lengths.max().unwrap() * micro_batch_size as u32);
        }
        let tokens: u32 = sizes.iter().map(|size| size.tokens).sum();
        // Long ones are not all at the beginning or the end.
        let (first, second) = padded.split_at(padded.len() / 2);
        let share = first.iter().sum::<u32>() as f64 / second.iter().sum::<u32>() as f64;
        assert!((0.9..1.1).contains(&share), "{share}");
        f64::from(3 * tokens) / f64::from(padded.iter().sum::<u32>())
    };
    let sorted = padded(Grouping::ByLength {
        micro_batch_size: micro_batch_size as usize,
    });
    let alone = padded(Grouping::Alone);
    assert!(sorted > 0.93 && alone < 0.6, "{sorted} {alone}");
}

#[test]
fn a_stream_of_single_samples_needs_no_sizes() {
    let stream = Stream::of_samples(10);
    assert_eq!((stream.rows_of(7), stream.packing()), (10, None));
    for (epochs, rows) in [(1.0, 10), (2.5, 25), (0.01, 1), (0.11, 2)] {
        assert_eq!(stream.rows_in(epochs), rows, "{epochs}");
    }
    assert_eq!(stream.at(1_000_000_007), (100_000_000, vec![7]));
}
