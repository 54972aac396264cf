//! CubeCL kernels, for what fusion of elementwise operations cannot make fast.

mod attention;
mod rows;

pub(super) use attention::{attention, attention_backward};
pub(super) use rows::take_rows_backward;
