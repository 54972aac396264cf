//! Bodies of the ops for every backend: compositions of backend operations, statistics in f32.

mod attention;
mod linear;
mod loss;
mod mlp;
mod norm;
mod rope;
mod rows;
mod update;
mod xielu;

pub(super) use attention::{attention, attention_backward};
pub(super) use linear::{column_sum, linear_bias};
pub(super) use loss::{
    Known, linear_cross_entropy, linear_cross_entropy_dh, linear_cross_entropy_dh_dw,
    linear_cross_entropy_part, linear_cross_entropy_part_dh, linear_cross_entropy_part_dh_dw,
    linear_log_sum_exp,
};
pub(super) use mlp::{activate, activate_backward, swiglu, swiglu_backward};
pub(super) use norm::{layer_norm, layer_norm_backward, rms_norm, rms_norm_backward};
pub(super) use rope::{rope, rope_backward};
pub(super) use rows::{add_rows, scale, sum_of_squares, take_rows_backward};
pub(super) use update::adamw;
pub(super) use xielu::{xielu, xielu_backward};
