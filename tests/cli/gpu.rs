//! Training and benchmarks through CubeCL's kernels, on whatever Vulkan driver there is.

use crate::project::Project;

/// Every operation is right, and what was compiled is kept.
#[test]
fn bench_finds_no_wrong_operation_on_wgpu() {
    let project = Project::new();
    let args = [
        "bench", "--device", "wgpu", "--only", "errors", "--cases", "1", "--shrink", "16",
    ];
    let cache = project.path("cache");
    let done = project.brazier_with(&args, &[("BRAZIER_CACHE", cache.to_str().unwrap())]);
    done.exits(0);
    assert!(done.stdout.contains("linear_cross_entropy"), "{done}");
    let host = std::fs::read_dir(cache.join("kernels"))
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    assert!(host.path().join("wgpu.db").is_file());
}

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
