//! Every op against its definition on shapes that nobody chose.

use burn::tensor::Device;

use crate::selftest::{Draw, OPS};

use super::*;

/// Of the largest number of a result.
const TOLERANCE: f32 = 1e-5;
/// Of bf16, whose numbers have 8 bits and are rounded after each of the definitions' operations.
const TOLERANCE_BF16: f32 = 4e-2;

#[test]
fn ops_of_any_shape() {
    for (i, op) in OPS.iter().enumerate() {
        let mut draw = Draw::new(i as u64 + 1, 1);
        for _ in 0..20 {
            let case = (op.case)(&mut draw);
            for (dtype, tolerance) in [(DType::F32, TOLERANCE), (DType::BF16, TOLERANCE_BF16)] {
                let errors = case.run(&Device::flex(), dtype, &Device::flex()).unwrap();
                assert!(
                    errors.worst() <= tolerance,
                    "{} {case:?} in {dtype:?}: {errors:?}",
                    op.name
                );
            }
        }
    }
}
