//! Rows added to a table: the gradient of rows taken from one.

use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape};
use burn_cubecl::{kernel::into_contiguous, ops::reshape, tensor::CubeTensor};
use cubecl::prelude::*;

use super::{flat, like, storage, units, zeros_like};

/// For each place of `rows`, the next place with the same row (their number if there is none), and whether it is the first
/// such place.
#[cube(launch)]
fn link_places<I: Int>(
    rows: &Tensor<I>,
    next: &mut Tensor<u32>,
    is_first: &mut Tensor<u32>,
    num_places: usize,
    #[define(I)] _dtype: ElemType,
) {
    let place = ABSOLUTE_POS;
    if place >= num_places {
        terminate!();
    }
    let row = rows[place];
    let mut first = 1u32;
    let mut following = num_places;
    for other in 0..num_places {
        if rows[other] == row {
            if other < place {
                first = 0u32;
            } else if other > place && other < following {
                following = other;
            }
        }
    }
    next[place] = following as u32;
    is_first[place] = first;
}

/// The first place of each row adds up what the table and all of its places have, in their order and in f32.
#[cube(launch)]
fn add_linked<F: Float, T: Float, I: Int>(
    dy: &Tensor<F>,
    rows: &Tensor<I>,
    next: &Tensor<u32>,
    is_first: &Tensor<u32>,
    table: &mut Tensor<T>,
    num_places: usize,
    width: usize,
    #[define(F, T, I)] _dtypes: [ElemType; 3],
) {
    if ABSOLUTE_POS >= num_places * width {
        terminate!();
    }
    let (start, column) = (ABSOLUTE_POS / width, ABSOLUTE_POS % width);
    if is_first[start] == 0u32 {
        terminate!();
    }
    let at = usize::cast_from(rows[start]) * width + column;
    let mut sum = f32::cast_from(table[at]);
    let mut place = start;
    while place < num_places {
        sum += f32::cast_from(dy[place * width + column]);
        place = next[place] as usize;
    }
    table[at] = T::cast_from(sum);
}

/// See [`crate::ops::kernels::ModelOps::take_rows_backward`].
pub(in crate::ops) fn take_rows_backward(dy: CubeTensor, rows: CubeTensor, num_rows: usize) -> CubeTensor {
    let table = zeros_like(&dy, Shape::from([num_rows, dy.shape()[1]]), dy.dtype);
    add_places(&table, rows, dy);
    table
}

/// See [`crate::ops::kernels::ModelOps::add_rows`].
pub(in crate::ops) fn add_rows(table: CubeTensor, rows: CubeTensor, values: CubeTensor) -> CubeTensor {
    let table = into_contiguous(table);
    let table = match table.can_mut() {
        true => table,
        false => {
            let (shape, flat) = (table.shape(), Shape::from([table.meta.num_elements()]));
            reshape(reshape(table, flat).copy(), shape)
        }
    };
    add_places(&table, rows, values);
    table
}

/// Burn's own kernel goes through all places one after the other for each column; here a row's places are a list, so that its
/// work is theirs alone, in the same order on every run.
fn add_places(table: &CubeTensor, rows: CubeTensor, values: CubeTensor) {
    let (dy, rows) = (into_contiguous(values), into_contiguous(rows));
    let (num_places, width) = (dy.shape()[0], dy.shape()[1]);
    if num_places == 0 {
        return;
    }
    let places = || like(&dy, Shape::from([num_places]), DType::U32);
    let (next, is_first) = (places(), places());
    let (count, dim) = units(&dy, num_places);
    link_places::launch(
        &dy.client,
        count,
        dim,
        flat(&rows),
        flat(&next),
        flat(&is_first),
        num_places,
        storage(rows.dtype),
    );
    let (count, dim) = units(&dy, num_places * width);
    add_linked::launch(
        &dy.client,
        count,
        dim,
        flat(&dy),
        flat(&rows),
        flat(&next),
        flat(&is_first),
        flat(table),
        num_places,
        width,
        [storage(dy.dtype), storage(table.dtype), storage(rows.dtype)],
    );
}
