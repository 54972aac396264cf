//! Rows added to a table, scaling, sum of squares.

use burn::backend::{Flex, ops::IntTensorOps, tensor::IntTensor};
use burn::tensor::{DType, IntDType};
use burn_flex::FlexTensor;
use rayon::prelude::*;

use super::math::{simd, sum1};
use super::{PIECE, dense, owned, rows_and_width, tensor, values, zeros};

/// Row numbers as i32; a number outside the range of i32 could be no row.
pub(super) fn indices(rows: IntTensor<Flex>) -> Vec<usize> {
    let rows = if rows.dtype() == DType::I32 {
        rows
    } else {
        Flex::int_cast(rows, IntDType::I32)
    };
    let rows = dense(rows);
    let start = rows.layout().start_offset();
    let n = rows.layout().num_elements();
    rows.storage::<i32>()[start..start + n]
        .iter()
        .map(|&row| row as usize)
        .collect()
}

pub(super) fn take_rows_backward(dy: FlexTensor, rows: IntTensor<Flex>, num_rows: usize) -> FlexTensor {
    let (_, d) = rows_and_width(&dy);
    add_rows(tensor(zeros(num_rows * d), [num_rows, d]), rows, dy)
}

/// Each thread owns a range of the table and adds its rows in the order of `rows`.
pub(super) fn add_rows(table: FlexTensor, rows: IntTensor<Flex>, added: FlexTensor) -> FlexTensor {
    let (mut table, added, rows) = (owned(table), dense(added), indices(rows));
    let (num_rows, d) = rows_and_width(&table);
    let added = values(&added);
    let ranges = (added.len() / PIECE).clamp(1, rayon::current_num_threads());
    let range = num_rows.div_ceil(ranges).max(1);
    let sums: &mut [f32] = table.storage_mut();
    sums.par_chunks_mut((range * d).max(1))
        .enumerate()
        .for_each(|(i, sums)| {
            let owned = i * range..(i * range + sums.len() / d);
            for (row, added) in rows.iter().zip(added.chunks_exact(d)) {
                if owned.contains(row) {
                    let start = (row - owned.start) * d;
                    for (sum, added) in sums[start..start + d].iter_mut().zip(added) {
                        *sum += added;
                    }
                }
            }
        });
    table
}

pub(super) fn scale(x: FlexTensor, factor: FlexTensor) -> FlexTensor {
    let factor = dense(factor);
    let factor = values(&factor).first().copied().unwrap_or(1.0);
    if factor == 1.0 {
        return x;
    }
    let mut x = owned(x);
    x.storage_mut().par_chunks_mut(PIECE).for_each(|x: &mut [f32]| {
        for x in x {
            *x *= factor;
        }
    });
    x
}

pub(super) fn sum_of_squares(x: FlexTensor) -> FlexTensor {
    let x = dense(x);
    // f32 inside a piece, f64 over the pieces.
    let pieces: Vec<f32> = values(&x).par_chunks(PIECE).map(square_piece).collect();
    let sum: f64 = pieces.into_iter().map(f64::from).sum();
    tensor(vec![sum as f32], [1])
}

simd! {
    fn square_piece(x: &[f32]) -> f32 {
        sum1(x, |x| x * x)
    }
}
