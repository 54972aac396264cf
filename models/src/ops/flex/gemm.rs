//! Matrix products of strided f32 views: a checked face of the `gemm` crate.

use std::marker::PhantomData;

use gemm::Parallelism;

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
        assert!(
            fits(data.len(), rows, cols, cols),
            "matrix does not fit its slice"
        );
        Self {
            data: data.as_mut_ptr(),
            rows,
            cols,
            row_stride: cols,
            borrow: PhantomData,
        }
    }
}

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

/// `dst = a · b` or `dst += a · b`.
pub(super) fn matmul(dst: MatMut<'_>, a: Mat<'_>, b: Mat<'_>, write: Write, threads: Threads) {
    assert!(
        dst.rows == a.rows && dst.cols == b.cols && a.cols == b.rows,
        "matrix product of wrong shapes"
    );
    let large = a.rows * a.cols * b.cols >= 1 << 20;
    let parallelism = match threads {
        Threads::All if large => Parallelism::Rayon(0),
        _ => Parallelism::None,
    };
    #[expect(unsafe_code, reason = "gemm's interface is pointers and strides")]
    // SAFETY: the constructors of the views checked that every element lies inside its slice; the destination is
    // borrowed mutably (or a disjoint tile), so it overlaps neither operand.
    unsafe {
        gemm::gemm(
            dst.rows,
            dst.cols,
            a.cols,
            dst.data,
            1,
            dst.row_stride as isize,
            write == Write::Add,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0f32,
            1.0f32,
            false,
            false,
            false,
            parallelism,
        );
    }
}
