//! Every operation on each compiled-in backend, forward and backward, against its definition on the CPU: shapes that nobody
//! chose.
//!
//! `--features wgpu` needs Vulkan, for which Mesa's software driver is enough; `--features cuda` needs a GPU.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use brazier_models::selftest::{Draw, OPS};
use burn::tensor::{DType, Device};

fn check(device: &Device, reference: &Device, dtypes: &[DType], cases: usize, shrink: usize) {
    check_some("", device, reference, dtypes, cases, shrink);
}

/// The operations whose names begin so.
fn check_some(
    name: &str,
    device: &Device,
    reference: &Device,
    dtypes: &[DType],
    cases: usize,
    shrink: usize,
) {
    for (i, op) in OPS.iter().enumerate().filter(|(_, op)| op.name.starts_with(name)) {
        let mut draw = Draw::new(i as u64 + 1, shrink);
        for _ in 0..cases {
            let case = (op.case)(&mut draw);
            for &dtype in dtypes {
                let errors = case.run(device, dtype, reference).unwrap();
                assert!(
                    errors.worst() <= op.tolerance(device, dtype),
                    "{} {case:?} in {dtype:?}: {errors:?}",
                    op.name
                );
            }
        }
    }
}

#[cfg(feature = "flex")]
#[test]
fn flex() {
    let device = Device::flex();
    check(&device, &device, &[DType::F32, DType::BF16], 20, 1);
}

#[cfg(feature = "ndarray")]
#[expect(deprecated, reason = "a second CPU implementation to test against")]
#[test]
fn ndarray() {
    let device = Device::ndarray();
    check(&device, &device, &[DType::F32], 10, 2);
}

/// Tiny shapes: every new shape is compiled and tuned, which software Vulkan takes seconds for.
#[cfg(all(feature = "wgpu", feature = "flex"))]
#[test]
fn wgpu() {
    let device = Device::wgpu(burn::tensor::DeviceKind::DefaultDevice);
    check(&device, &Device::flex(), &[DType::F32], 2, 16);
    // Little memory for scores: few queries of one row of the batch at a time.
    brazier_models::ops::keep_scores_below(12 * 1500);
    check_some("attention", &device, &Device::flex(), &[DType::F32], 2, 16);
}

#[cfg(all(feature = "cuda", feature = "flex"))]
#[test]
fn cuda() {
    let device = Device::cuda(0);
    check(&device, &Device::flex(), &[DType::F32, DType::BF16], 20, 1);
    brazier_models::ops::keep_scores_below(12 << 16);
    check_some(
        "attention",
        &device,
        &Device::flex(),
        &[DType::F32, DType::BF16],
        20,
        1,
    );
}
