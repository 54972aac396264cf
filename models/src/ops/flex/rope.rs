//! Rotation of pairs, keeping the memory order of the heads.

use burn_flex::{FlexTensor, Layout};

use super::math::simd;
use super::{dense, in_pieces, piece_rows, tensor, values};

/// Rotates by the table's angles times `sign`. An input that is a view of `[b, t, h, k]` gives such a view, so that
/// neither splitting nor joining heads copies.
pub(super) fn rotate(x: FlexTensor, cos: FlexTensor, sin: FlexTensor, sign: f32) -> FlexTensor {
    let [b, h, t, k] = [0, 1, 2, 3].map(|axis| x.layout().shape()[axis]);
    let (cos, sin) = (dense(cos), dense(sin));
    let by_position = Layout::transpose(x.layout(), 1, 2);
    let heads_inside = !x.is_contiguous() && by_position.is_contiguous();
    let x = if heads_inside {
        x.with_layout(by_position)
    } else {
        dense(x)
    };
    // Rows of `k` in memory order: the position changes every `repeat` rows.
    let repeat = if heads_inside { h } else { 1 };
    let rows = piece_rows(b * h * t, k);
    let y = in_pieces(b * h * t * k, rows * k, |i, y| {
        let x = &values(&x)[i * rows * k..][..y.len()];
        let rows = Rows {
            first: i * rows,
            repeat,
            t,
            k,
        };
        rotate_rows(y, x, values(&cos), values(&sin), sign, rows);
    });
    let y = tensor(y, x.layout().shape().clone());
    if heads_inside {
        let layout = y.layout().transpose(1, 2);
        y.with_layout(layout)
    } else {
        y
    }
}

struct Rows {
    first: usize,
    repeat: usize,
    t: usize,
    k: usize,
}

simd! {
    fn rotate_rows(y: &mut [f32], x: &[f32], cos: &[f32], sin: &[f32], sign: f32, rows: Rows) {
        let Rows { first, repeat, t, k } = rows;
        let half = k / 2;
        let (mut repeated, mut position) = (first % repeat, first / repeat % t);
        for (y, x) in y.chunks_exact_mut(k).zip(x.chunks_exact(k)) {
            let angles = position * half..(position + 1) * half;
            let ((y1, y2), (x1, x2)) = (y.split_at_mut(half), x.split_at(half));
            let (cos, sin) = (&cos[angles.clone()], &sin[angles]);
            for (((y1, y2), (&x1, &x2)), (&cos, &sin)) in
                y1.iter_mut().zip(y2).zip(x1.iter().zip(x2)).zip(cos.iter().zip(sin))
            {
                let sin = sin * sign;
                *y1 = x1 * cos - x2 * sin;
                *y2 = x2 * cos + x1 * sin;
            }
            repeated += 1;
            if repeated == repeat {
                (repeated, position) = (0, position + 1);
                if position == t {
                    position = 0;
                }
            }
        }
    }
}
