//! Dropout's mask: reproducible, of the right share, without pattern.

use burn::tensor::{DType, Device, Tensor};

use crate::dropout::{Dropout, Sequences, with_sequences};

fn mask(keys: &[u64], path: &str, p: f64, length: usize, width: usize) -> Vec<f32> {
    let ones = Tensor::<2>::ones([keys.len() * length, width], (&Device::flex(), DType::F32));
    let sequences = Sequences {
        keys: keys.into(),
        lengths: None,
    };
    let dropped = with_sequences(Some(sequences), || Dropout::new(path, p).apply(ones));
    dropped.into_data().try_into_vec().unwrap()
}

#[test]
fn nothing_is_dropped_outside_of_training() {
    let ones = Tensor::<2>::ones([2, 3], (&Device::flex(), DType::F32));
    let dropout = Dropout::new("a", 0.5);
    assert_eq!(dropout.apply(ones.clone()).into_data(), ones.clone().into_data());
    let kept = with_sequences(None, || dropout.apply(ones.clone()));
    assert_eq!(kept.into_data(), ones.into_data());
}

/// Two micro-batches of one row, one longer than it need be, drop what one of two rows drops.
#[test]
fn a_row_is_dropped_alike_in_every_batch() {
    let both = mask(&[7, 8], "a", 0.3, 5, 16);
    assert_eq!(both[..80], mask(&[7], "a", 0.3, 5, 16));
    assert_eq!(both[80..], mask(&[8], "a", 0.3, 9, 16)[..80]);
    assert_ne!(both[..80], both[80..]);
    assert_ne!(both, mask(&[7, 8], "b", 0.3, 5, 16));
}

/// Share of zeros, over all and for pairs of neighbours, rows, columns and layers, within five standard deviations of
/// independent draws.
#[test]
fn zeros_are_as_many_as_asked_and_independent() {
    let (p, length, width) = (0.25, 256, 256);
    let zeros = |path| {
        mask(&[1, 2], path, p, length, width)
            .into_iter()
            .map(|x| x == 0.0)
            .collect::<Vec<_>>()
    };
    let (one, other) = (zeros("a"), zeros("b"));
    let check = |what: &str, hits: usize, all: usize, share: f64| {
        let deviation = (all as f64 * share * (1.0 - share)).sqrt();
        let off = (hits as f64 - all as f64 * share).abs();
        assert!(off < 5.0 * deviation, "{what}: {hits} of {all}, expected {share}");
    };
    check("all", one.iter().filter(|&&zero| zero).count(), one.len(), p);
    for distance in [1, 2, 16, width, 2 * width, 16 * width] {
        let pairs = one.iter().zip(&one[distance..]);
        let hits = pairs.filter(|(a, b)| **a && **b).count();
        check(
            &format!("pairs {distance} apart"),
            hits,
            one.len() - distance,
            p * p,
        );
    }
    let hits = one.iter().zip(&other).filter(|(a, b)| **a && **b).count();
    check("two layers", hits, one.len(), p * p);
    for row in one.chunks(width) {
        check("a row", row.iter().filter(|&&zero| zero).count(), width, p);
    }
    for column in 0..width {
        let hits = one
            .iter()
            .skip(column)
            .step_by(width)
            .filter(|&&zero| zero)
            .count();
        check("a column", hits, 2 * length, p);
    }
    let scaled = mask(&[1], "a", p, length, width).into_iter().find(|&x| x != 0.0);
    assert_eq!(scaled, Some(1.0 / 0.75));
}
