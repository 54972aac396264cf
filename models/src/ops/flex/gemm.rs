//! Matrix products of strided f32 views: packed blocks where the processor has AVX-512, else the `gemm` crate behind a
//! checked face.

#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod blocks;
#[cfg(test)]
mod tests;

use std::{marker::PhantomData, mem::MaybeUninit, ops::Range};

use gemm::Parallelism;
use rayon::prelude::*;

use super::math::simd;

/// A matrix in a slice.
#[derive(Clone, Copy)]
pub(super) struct Mat<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// Row-major, with a distance between the starts of rows.
    pub(super) fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(
            fits(data.len(), rows, cols, row_stride),
            "matrix does not fit its slice"
        );
        Self {
            data,
            rows,
            cols,
            row_stride,
            col_stride: 1,
        }
    }

    pub(super) fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    pub(super) fn transposed(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

/// A row-major matrix to write to.
pub(super) struct MatMut<'a> {
    data: *mut f32,
    rows: usize,
    cols: usize,
    row_stride: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

impl<'a> MatMut<'a> {
    pub(super) fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        Self::at(data.as_mut_ptr(), data.len(), rows, cols)
    }

    /// In memory that nobody has written: for a product that overwrites all of it.
    fn unwritten(data: &'a mut [MaybeUninit<f32>], rows: usize, cols: usize) -> Self {
        Self::at(data.as_mut_ptr().cast(), data.len(), rows, cols)
    }

    fn at(data: *mut f32, len: usize, rows: usize, cols: usize) -> Self {
        assert!(fits(len, rows, cols, cols), "matrix does not fit its slice");
        Self {
            data,
            rows,
            cols,
            row_stride: cols,
            borrow: PhantomData,
        }
    }
}

#[expect(unsafe_code, reason = "blocks of rows of one matrix go to several threads")]
// SAFETY: only `panel` writes through the pointer, and `matmul` gives each thread its own rows.
unsafe impl Sync for MatMut<'_> {}

/// A buffer of which threads write disjoint tiles.
pub(super) struct Tiles<'a> {
    data: *mut f32,
    len: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

#[expect(unsafe_code, reason = "tiles of one buffer go to several threads")]
// SAFETY: the only access is through `tile`, whose caller promises that tiles in use at a time are disjoint.
unsafe impl Sync for Tiles<'_> {}

impl<'a> Tiles<'a> {
    pub(super) fn new(data: &'a mut [f32]) -> Self {
        Self {
            data: data.as_mut_ptr(),
            len: data.len(),
            borrow: PhantomData,
        }
    }

    /// The matrix that starts at `offset`.
    ///
    /// # Safety
    /// No other tile in use at the same time may share an element with this one.
    #[expect(unsafe_code, reason = "disjointness is the caller's promise")]
    pub(super) unsafe fn tile(
        &self,
        offset: usize,
        rows: usize,
        cols: usize,
        row_stride: usize,
    ) -> MatMut<'_> {
        assert!(
            offset <= self.len && fits(self.len - offset, rows, cols, row_stride),
            "tile does not fit its buffer"
        );
        // SAFETY: offset is inside the buffer.
        let data = unsafe { self.data.add(offset) };
        MatMut {
            data,
            rows,
            cols,
            row_stride,
            borrow: PhantomData,
        }
    }
}

fn fits(len: usize, rows: usize, cols: usize, row_stride: usize) -> bool {
    rows == 0 || cols == 0 || (rows - 1) * row_stride + cols <= len
}

/// Whether a product overwrites its destination or is added to it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Write {
    Overwrite,
    Add,
}

/// Whether one product uses all threads. The sum of an element has the same order either way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Threads {
    One,
    All,
}

/// Most columns of one call of the `gemm` crate. Its AVX-512 kernel for 64 columns spills registers and reaches half the
/// speed of the kernel for 32 (measured with gemm 0.19 on Sapphire Rapids: 40 against 75 GFLOP/s a thread).
const PANEL: usize = 32;
const VECTOR: usize = 16;

/// `dst = a · b` or `dst += a · b`.
pub(super) fn matmul(dst: MatMut<'_>, a: Mat<'_>, b: Mat<'_>, write: Write, threads: Threads) {
    assert!(
        dst.rows == a.rows && dst.cols == b.cols && a.cols == b.rows,
        "matrix product of wrong shapes"
    );
    #[cfg(target_arch = "x86_64")]
    if blocks::suits(&a, &b) {
        return blocks::matmul(&dst, a, b, write, threads);
    }
    portable(&dst, a, b, write, threads);
}

/// `a · b`, by all threads.
pub(super) fn product(a: Mat<'_>, b: Mat<'_>) -> Vec<f32> {
    overwritten(a.rows, b.cols, a.cols, |dst| {
        matmul(dst, a, b, Write::Overwrite, Threads::All);
    })
}

/// `x · wᵀ`, by all threads.
pub(super) fn product_transposed(x: Mat<'_>, w: Mat<'_>) -> Vec<f32> {
    overwritten(x.rows, w.rows, x.cols, |dst| {
        matmul_transposed(dst, x, w, Write::Overwrite);
    })
}

/// A matrix of sums of `terms` products. Is not cleared first: one thread would do that while the others wait.
#[expect(unsafe_code, reason = "memory that nobody has cleared")]
fn overwritten(rows: usize, cols: usize, terms: usize, multiply: impl FnOnce(MatMut<'_>)) -> Vec<f32> {
    let len = rows * cols;
    // Nothing may have been written for a sum of nothing, and no columns are no panel.
    if len == 0 || terms == 0 {
        return vec![0.0; len];
    }
    let mut out = Vec::with_capacity(len);
    multiply(MatMut::unwritten(
        &mut out.spare_capacity_mut()[..len],
        rows,
        cols,
    ));
    // SAFETY: `multiply` is one of the two products above, which write each element, the first terms over whatever is there.
    unsafe { out.set_len(len) };
    out
}

/// [`matmul`] by the `gemm` crate, in blocks of rows.
fn portable(dst: &MatMut<'_>, a: Mat<'_>, b: Mat<'_>, write: Write, threads: Threads) {
    let blocks = match threads {
        Threads::One => 1,
        Threads::All => ((a.rows * a.cols * b.cols) >> 22).clamp(1, 128),
    };
    // Kernels take 6 rows at a time, and each block packs the right operand again.
    let block = a.rows.div_ceil(blocks).max(48).next_multiple_of(12);
    if block >= a.rows {
        return panels(dst, a, b, write, 0..a.rows);
    }
    (0..a.rows.div_ceil(block)).into_par_iter().for_each(|i| {
        panels(dst, a, b, write, i * block..((i + 1) * block).min(a.rows));
    });
}

/// Some rows of a product, in panels of about equal width.
fn panels(dst: &MatMut<'_>, a: Mat<'_>, b: Mat<'_>, write: Write, rows: Range<usize>) {
    let count = dst.cols.div_ceil(PANEL).max(1);
    let width = dst.cols.div_ceil(count).next_multiple_of(VECTOR);
    for start in (0..dst.cols).step_by(width) {
        panel(
            dst,
            a,
            b,
            write,
            rows.clone(),
            start..(start + width).min(dst.cols),
        );
    }
}

fn panel(dst: &MatMut<'_>, a: Mat<'_>, b: Mat<'_>, write: Write, rows: Range<usize>, cols: Range<usize>) {
    if rows.is_empty() || cols.is_empty() {
        return;
    }
    let (a_start, b_start) = (rows.start * a.row_stride, cols.start * b.col_stride);
    #[expect(unsafe_code, reason = "gemm's interface is pointers and strides")]
    // SAFETY: the constructors of the views checked that every element lies inside its slice, and the ranges lie inside
    // the shapes, which agree. The destination is borrowed mutably (or a disjoint tile), so it overlaps neither operand;
    // calls at the same time have disjoint rows.
    unsafe {
        gemm::gemm(
            rows.len(),
            cols.len(),
            a.cols,
            dst.data.add(rows.start * dst.row_stride + cols.start),
            1,
            dst.row_stride as isize,
            write == Write::Add,
            a.data[a_start.min(a.data.len())..].as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data[b_start.min(b.data.len())..].as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0f32,
            1.0f32,
            false,
            false,
            false,
            Parallelism::None,
        );
    }
}

/// `dst = x · wᵀ` or `dst += x · wᵀ`, `w` row-major.
pub(super) fn matmul_transposed(dst: MatMut<'_>, x: Mat<'_>, w: Mat<'_>, write: Write) {
    // For many rows the `gemm` crate gets a transposed copy: packing a transposed operand costs it as much as ten rows.
    if x.rows < 32 || is_packed(&x, &w.transposed()) {
        return matmul(dst, x, w.transposed(), write, Threads::All);
    }
    let mut scratch = vec![0.0; w.rows * w.cols];
    transpose(&mut scratch, w.data, w.rows, w.cols, w.row_stride);
    matmul(dst, x, Mat::new(&scratch, w.cols, w.rows), write, Threads::All);
}

/// Whether the product is one of packed blocks.
fn is_packed(a: &Mat<'_>, b: &Mat<'_>) -> bool {
    #[cfg(target_arch = "x86_64")]
    return blocks::suits(a, b);
    #[cfg(not(target_arch = "x86_64"))]
    false
}

simd! {
    /// `[rows, cols]` with a distance of `stride` between rows to `[cols, rows]`.
    pub(super) fn transpose(dst: &mut [f32], src: &[f32], rows: usize, cols: usize, stride: usize) {
        // Blocks of rows stay in the cache while their columns are read.
        const BLOCK: usize = 64;
        for start in (0..rows).step_by(BLOCK) {
            let len = BLOCK.min(rows - start);
            for j in 0..cols {
                let dst = &mut dst[j * rows + start..][..len];
                for (x, src) in dst.iter_mut().zip(src[start * stride..].chunks(stride)) {
                    *x = src[j];
                }
            }
        }
    }
}
