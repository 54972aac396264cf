//! Training and benchmarks through CubeCL's kernels, on whatever Vulkan driver there is.

use crate::project::Project;

/// A few steps give the losses of the CPU.
#[test]
fn a_run_on_wgpu_is_a_run_on_the_cpu() {
    let (gpu, cpu) = (Project::new(), Project::new());
    let losses = |project: &Project, device: &str| -> Vec<f64> {
        let sets = [
            &format!("device={device}")[..],
            "train.steps=3",
            "train.micro_batch_size=1",
            "train.accumulation=1",
            "eval.every=never",
            "eval.generate=false",
            "checkpoint.export=false",
        ];
        project.train(&sets).exits(0);
        let lines = project.metrics();
        lines
            .iter()
            .filter_map(|line| line.get("loss")?.as_f64())
            .collect()
    };
    let (found, expected) = (losses(&gpu, "wgpu"), losses(&cpu, "flex"));
    assert_eq!(found.len(), 3);
    for (found, expected) in found.iter().zip(&expected) {
        assert!(
            (found - expected).abs() < 1e-4 * expected,
            "{found}, on the CPU {expected}"
        );
    }
}
