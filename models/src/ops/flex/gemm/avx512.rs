//! The product of packed blocks with AVX-512, and their packing.
//!
//! The kernel holds 12 × 32 sums in registers. Its operands are slivers: `k` groups of 12 numbers of the left operand, of
//! 32 of the right one, so that both are read in the order in which they lie. What a sum is added up from, and in which
//! order, depends on `k` alone, not on the place in a block.

#![expect(unsafe_code, reason = "intrinsics work on pointers")]

use std::arch::x86_64::*;

/// Rows of a sliver of the left operand.
pub(super) const LEFT: usize = 12;
/// Columns of a sliver of the right operand.
pub(super) const RIGHT: usize = 2 * LANES;
const LANES: usize = 16;
/// Stores of whole vectors reach this far behind a block of slivers.
pub(super) const SLACK: usize = LANES;

/// Whether this machine has what the functions of this module are compiled for.
pub(super) fn available() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
}

/// The first `n` lanes, all if there are fewer lanes than that.
fn first(n: usize) -> __mmask16 {
    match n {
        LANES.. => u16::MAX,
        _ => (1 << n) - 1,
    }
}

/// Where a block of the result lies.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub(super) data: *mut f32,
    pub(super) row_stride: usize,
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// Added to what is there, instead of replacing it.
    pub(super) add: bool,
}

/// The product of packed blocks.
///
/// # Safety
/// [`available`]. `left` and `right` hold all slivers that the target's rows and columns need, `k` groups each; `right` is
/// aligned to 64 bytes. Rows and columns of the target lie in memory that nobody else uses.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn multiply(target: Target, left: *const f32, right: *const f32, k: usize) {
    for i in (0..target.rows).step_by(LEFT) {
        let rows = LEFT.min(target.rows - i);
        for j in (0..target.cols).step_by(RIGHT) {
            let cols = RIGHT.min(target.cols - j);
            let masks = [first(cols), first(cols.saturating_sub(LANES))];
            // SAFETY: slivers i and j are inside the packed blocks, rows and columns inside the target.
            unsafe {
                let (left, right) = (left.add(i * k), right.add(j * k));
                let data = target.data.add(i * target.row_stride + j);
                let tile = Target { data, ..target };
                match rows {
                    1 => kernel::<1>(tile, left, right, k, masks),
                    2 => kernel::<2>(tile, left, right, k, masks),
                    3 => kernel::<3>(tile, left, right, k, masks),
                    4 => kernel::<4>(tile, left, right, k, masks),
                    5 => kernel::<5>(tile, left, right, k, masks),
                    6 => kernel::<6>(tile, left, right, k, masks),
                    7 => kernel::<7>(tile, left, right, k, masks),
                    8 => kernel::<8>(tile, left, right, k, masks),
                    9 => kernel::<9>(tile, left, right, k, masks),
                    10 => kernel::<10>(tile, left, right, k, masks),
                    11 => kernel::<11>(tile, left, right, k, masks),
                    _ => kernel::<LEFT>(tile, left, right, k, masks),
                }
            }
        }
    }
}

/// The first `R` rows of one sliver times another.
///
/// # Safety
/// As for [`multiply`].
#[target_feature(enable = "avx512f")]
unsafe fn kernel<const R: usize>(
    tile: Target,
    mut left: *const f32,
    mut right: *const f32,
    k: usize,
    masks: [__mmask16; 2],
) {
    let mut sums = [[_mm512_setzero_ps(); 2]; R];
    for _ in 0..k {
        // SAFETY: k groups lie in both slivers.
        unsafe {
            let b = [_mm512_load_ps(right), _mm512_load_ps(right.add(LANES))];
            for (i, sums) in sums.iter_mut().enumerate() {
                let a = _mm512_set1_ps(*left.add(i));
                sums[0] = _mm512_fmadd_ps(a, b[0], sums[0]);
                sums[1] = _mm512_fmadd_ps(a, b[1], sums[1]);
            }
            (left, right) = (left.add(LEFT), right.add(RIGHT));
        }
    }
    for (i, sums) in sums.iter().enumerate() {
        for (v, (&sum, &mask)) in sums.iter().zip(&masks).enumerate() {
            // SAFETY: a masked lane is neither read nor written; the others lie inside the target.
            unsafe {
                let to = tile.data.wrapping_add(i * tile.row_stride + v * LANES);
                let sum = match tile.add {
                    true => _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), sum),
                    false => sum,
                };
                _mm512_mask_storeu_ps(to, mask, sum);
            }
        }
    }
}

/// Strided numbers: `rows` are the left operand's rows or the right one's columns, `k` the axis that is summed.
#[derive(Clone, Copy)]
pub(super) struct Source {
    pub(super) data: *const f32,
    pub(super) rows: usize,
    pub(super) k: usize,
    pub(super) row_stride: usize,
    pub(super) k_stride: usize,
}

/// Packs slivers of `W` rows; rows that are missing in the last one are 0.
///
/// # Safety
/// [`available`]. The source can be read; `to` has room for its rows, rounded up to whole slivers, times `k`, and for
/// [`SLACK`] more.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn pack<const W: usize>(to: *mut f32, source: Source) {
    if source.row_stride == 1 {
        // SAFETY: the caller's promise.
        return unsafe { copy::<W>(to, source) };
    }
    for start in (0..source.rows).step_by(W) {
        // SAFETY: the sliver's rows are among the source's, and `to` has room for them.
        unsafe {
            let sliver = Source {
                data: source.data.add(start * source.row_stride),
                rows: W.min(source.rows - start),
                ..source
            };
            let to = to.add(start * source.k);
            match source.k_stride {
                1 => transpose_sliver::<W>(to, sliver),
                _ => gather_sliver::<W>(to, sliver),
            }
        }
    }
}

/// Rows are neighbours: all slivers at once, to read the source in its order.
#[target_feature(enable = "avx512f")]
unsafe fn copy<const W: usize>(to: *mut f32, source: Source) {
    for k in 0..source.k {
        for start in (0..source.rows).step_by(W) {
            let rows = W.min(source.rows - start);
            for at in (0..W).step_by(LANES) {
                // SAFETY: masked lanes are neither read nor written, so that nothing of the next group or sliver is.
                unsafe {
                    let from = source.data.wrapping_add(k * source.k_stride + start + at);
                    let x = _mm512_maskz_loadu_ps(first(rows.saturating_sub(at)), from);
                    let group = to.add(start * source.k + k * W + at);
                    _mm512_mask_storeu_ps(group, first(W - at), x);
                }
            }
        }
    }
}

/// Summed numbers are neighbours.
#[target_feature(enable = "avx512f")]
unsafe fn transpose_sliver<const W: usize>(to: *mut f32, source: Source) {
    for at in (0..W).step_by(LANES) {
        let rows = source.rows.saturating_sub(at).min(LANES).min(W - at);
        for start in (0..source.k).step_by(LANES) {
            let len = LANES.min(source.k - start);
            let mut x = [_mm512_setzero_ps(); LANES];
            for (row, x) in x.iter_mut().enumerate().take(rows) {
                // SAFETY: the row is among the source's, and lanes behind its end are masked.
                *x = unsafe {
                    let from = source.data.add((at + row) * source.row_stride + start);
                    _mm512_maskz_loadu_ps(first(len), from)
                };
            }
            let x = transposed(x);
            for (k, &x) in x.iter().enumerate().take(len) {
                // SAFETY: a vector may reach behind its group; what it writes there is written again by the next group or
                // sliver, or is slack.
                unsafe { _mm512_storeu_ps(to.add((start + k) * W + at), x) };
            }
        }
    }
}

/// 16 rows of 16 to 16 columns.
#[target_feature(enable = "avx512f")]
fn transposed(x: [__m512; LANES]) -> [__m512; LANES] {
    let zero = _mm512_setzero_ps();
    // Pairs of rows, then fours: inside each quarter of a vector.
    let mut pairs = [zero; LANES];
    for i in 0..8 {
        pairs[2 * i] = _mm512_unpacklo_ps(x[2 * i], x[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_ps(x[2 * i], x[2 * i + 1]);
    }
    let mut fours = [zero; LANES];
    for i in 0..4 {
        for half in 0..2 {
            let [a, b] = [pairs[4 * i + half], pairs[4 * i + 2 + half]].map(|x| _mm512_castps_pd(x));
            fours[4 * i + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            fours[4 * i + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
    }
    // Quarters of four vectors to their places.
    let mut out = [zero; LANES];
    for column in 0..4 {
        let [a, b, c, d] = [0, 4, 8, 12].map(|row| fours[row + column]);
        let (ab_even, ab_odd) = (
            _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b),
            _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b),
        );
        let (cd_even, cd_odd) = (
            _mm512_shuffle_f32x4::<0b10_00_10_00>(c, d),
            _mm512_shuffle_f32x4::<0b11_01_11_01>(c, d),
        );
        out[column] = _mm512_shuffle_f32x4::<0b10_00_10_00>(ab_even, cd_even);
        out[column + 4] = _mm512_shuffle_f32x4::<0b10_00_10_00>(ab_odd, cd_odd);
        out[column + 8] = _mm512_shuffle_f32x4::<0b11_01_11_01>(ab_even, cd_even);
        out[column + 12] = _mm512_shuffle_f32x4::<0b11_01_11_01>(ab_odd, cd_odd);
    }
    out
}

/// Neither are.
unsafe fn gather_sliver<const W: usize>(to: *mut f32, source: Source) {
    for k in 0..source.k {
        for row in 0..W {
            // SAFETY: the number is the source's, its place inside the sliver.
            unsafe {
                *to.add(k * W + row) = match row < source.rows {
                    true => *source.data.add(row * source.row_stride + k * source.k_stride),
                    false => 0.0,
                };
            }
        }
    }
}
