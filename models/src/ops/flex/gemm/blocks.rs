//! Products in blocks that stay in the caches, each packed and multiplied by one thread.

#![expect(
    unsafe_code,
    reason = "threads write disjoint blocks of one matrix, with vector instructions"
)]

use std::cell::RefCell;

use rayon::prelude::*;

use super::avx512::{self, LEFT, RIGHT, Source, Target};
use super::{Mat, MatMut, Threads, Write};

/// Numbers summed at a time: a sliver of the left operand stays in the first cache. Fixed, for the order of a sum depends
/// on it.
const DEPTH: usize = 192;
/// Columns of a block, whose packed right operand stays in the second cache.
const COLS: usize = 512;
/// Most rows of a block: the packed left operand stays in the caches.
const MOST_ROWS: usize = 528;
/// Fewest rows of a block, unless there are no more: they pay for packing the right operand.
const LEAST_ROWS: usize = 96;

/// Whether blocks are faster than the `gemm` crate: packing costs as much as some rows.
pub(super) fn suits(a: &Mat<'_>, b: &Mat<'_>) -> bool {
    avx512::available() && a.rows >= 32 && b.cols >= LEFT && a.cols > 2
}

/// As [`super::matmul`]. The result does not depend on how blocks are cut.
pub(super) fn matmul(dst: &MatMut<'_>, a: Mat<'_>, b: Mat<'_>, write: Write, threads: Threads) {
    let cols = part(b.cols, COLS, RIGHT);
    let column_blocks = b.cols.div_ceil(cols);
    let rows = match threads {
        Threads::One => part(a.rows, MOST_ROWS, LEFT),
        Threads::All => shared_rows(a.rows, column_blocks, rayon::current_num_threads()),
    };
    let row_blocks = a.rows.div_ceil(rows);
    let run = |i: usize| {
        let (row, col) = (i % row_blocks * rows, i / row_blocks * cols);
        let place = Place {
            row,
            col,
            rows: rows.min(a.rows - row),
            cols: cols.min(b.cols - col),
        };
        block(dst, a, b, write, place);
    };
    match threads {
        Threads::One => (0..row_blocks * column_blocks).for_each(run),
        Threads::All => (0..row_blocks * column_blocks).into_par_iter().for_each(run),
    }
}

/// Rows of a block where threads share a product: the largest blocks of which each thread gets equally many, two at least, so
/// that one that is late leaves some to the others; or one each; or as many as there can be.
pub(super) fn shared_rows(rows: usize, column_blocks: usize, threads: usize) -> usize {
    let most = (rows / LEAST_ROWS).max(1);
    let in_blocks = |count: usize| part(rows, rows.div_ceil(count), LEFT);
    let share = |at_least: usize| {
        let sizes = (rows.div_ceil(MOST_ROWS).max(1)..=most).map(in_blocks);
        sizes.into_iter().find(|&size| {
            let blocks = rows.div_ceil(size) * column_blocks;
            blocks >= at_least * threads && blocks.is_multiple_of(threads)
        })
    };
    share(2).or_else(|| share(1)).unwrap_or_else(|| in_blocks(most))
}

/// `n` in parts of about equal size, none above `most`, in steps of `step`.
fn part(n: usize, most: usize, step: usize) -> usize {
    n.div_ceil(n.div_ceil(most).max(1)).next_multiple_of(step)
}

#[derive(Clone, Copy)]
struct Place {
    row: usize,
    col: usize,
    rows: usize,
    cols: usize,
}

fn block(dst: &MatMut<'_>, a: Mat<'_>, b: Mat<'_>, write: Write, place: Place) {
    thread_local! {
        static PACKED: RefCell<(Packed, Packed)> = const { RefCell::new((Packed::new(), Packed::new())) };
    }
    let Place { row, col, rows, cols } = place;
    PACKED.with_borrow_mut(|(left, right)| {
        for start in (0..a.cols).step_by(DEPTH) {
            let k = DEPTH.min(a.cols - start);
            let left = left.room(rows.next_multiple_of(LEFT) * k);
            let right = right.room(cols.next_multiple_of(RIGHT) * k);
            // SAFETY: `suits` found the vector instructions. The constructors of the views checked that every element
            // lies inside its slice, and the ranges lie inside the shapes, which agree. The packed blocks have the room
            // that was asked for. The destination is borrowed mutably (or a disjoint tile), so it overlaps neither
            // operand, and blocks that are written at the same time are disjoint.
            unsafe {
                avx512::pack::<LEFT>(
                    left,
                    Source {
                        data: a.data.as_ptr().add(row * a.row_stride + start * a.col_stride),
                        rows,
                        k,
                        row_stride: a.row_stride,
                        k_stride: a.col_stride,
                    },
                );
                avx512::pack::<RIGHT>(
                    right,
                    Source {
                        data: b.data.as_ptr().add(col * b.col_stride + start * b.row_stride),
                        rows: cols,
                        k,
                        row_stride: b.col_stride,
                        k_stride: b.row_stride,
                    },
                );
                let target = Target {
                    data: dst.data.add(row * dst.row_stride + col),
                    row_stride: dst.row_stride,
                    rows,
                    cols,
                    add: start > 0 || write == Write::Add,
                };
                avx512::multiply(target, left, right, k);
            }
        }
    });
}

/// A packed block.
struct Packed(Vec<Line>);

/// One cache line, for its alignment.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "is read and written by pointer")] [f32; 16]);

impl Packed {
    const fn new() -> Self {
        Self(Vec::new())
    }

    /// Room for `len` numbers and what packing writes behind them.
    fn room(&mut self, len: usize) -> *mut f32 {
        let lines = (len + avx512::SLACK).div_ceil(16);
        if self.0.len() < lines {
            self.0.resize(lines, Line([0.0; 16]));
        }
        self.0.as_mut_ptr().cast()
    }
}
