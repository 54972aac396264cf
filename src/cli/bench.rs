//! `brazier bench`

mod collectives;

use std::{fmt, path::PathBuf, process::ExitCode, time::Duration};

use brazier_models::selftest::{
    Draw, Errors, OPS,
    speed::{self, Sizes, Timed},
};
use burn::tensor::{DType, Device};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::{Failure, print};
use crate::{
    data::Cache,
    device,
    device_choice::{DeviceChoice, UnknownDevice},
    fs,
    parallel::{Launch, World},
};

#[derive(Args)]
#[command(after_help = "\
The first part runs every operation of the models, forward and backward, on drawn shapes, and compares it with its
definition on the CPU; where one is further off than rounding explains, the exit code is 1. On a GPU the first run also
compiles and tunes kernels, which takes minutes; CubeCL keeps the results for the next.

  brazier bench --device cuda                                  everything, at the sizes of Qwen3-0.6B
  brazier bench --device cuda --only errors                    is this machine right?
  brazier bench --device cuda --like llama-3.1-8b --length 4096 --precision bf16 --json bench.json

Of several ranks (--devices, or processes that srun, torchrun or mpirun has started) it shows how fast tensors travel between
them, the way that training sends them, and whether sums are right. Bus bandwidth is as in NCCL's own tests: what each link has
to carry, however many ranks there are.

  brazier bench --device cuda --devices 4 --only collectives
  srun --ntasks-per-node 4 --gpus-per-node 4 brazier bench --device cuda --only collectives")]
pub(super) struct BenchArgs {
    /// auto | cuda[:INDEX] | wgpu | flex | ndarray
    #[arg(long, default_value = "auto")]
    device: String,
    /// What to time in
    #[arg(long, value_enum, default_value_t = Precision::F32)]
    precision: Precision,
    /// The model whose layers to time
    #[arg(long, value_enum, default_value_t = Like::Qwen3_06B)]
    like: Like,
    /// Rows of the batch
    #[arg(long, default_value_t = 1, value_parser = positive())]
    batch: u64,
    /// Tokens of a row
    #[arg(long, default_value_t = 2048, value_parser = positive())]
    length: u64,
    /// Tokens with a label; without it all
    #[arg(long, value_name = "TOKENS", value_parser = positive())]
    labelled: Option<u64>,
    /// Ranks of this host whose collectives to time, each with a device of its own
    #[arg(long, default_value_t = 1, value_parser = positive())]
    devices: u64,
    /// How tensors travel between ranks
    #[arg(long, value_enum, default_value_t = TransportArg::Auto)]
    transport: TransportArg,
    /// Largest message of a collective, in MiB
    #[arg(long, default_value_t = 256, value_parser = positive())]
    message: u64,
    /// Only this part; may be repeated
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// Cases of each operation
    #[arg(long, default_value_t = 8, value_parser = positive())]
    cases: u64,
    /// Divide the extents of the cases by this, for a device that is slow
    #[arg(long, default_value_t = 1, value_parser = positive())]
    shrink: u64,
    /// Seconds for each of what is timed
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Also write everything here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn positive() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..1 << 24)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Precision {
    F32,
    Bf16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Operations against their definitions
    Errors,
    /// Matrix products of the layers
    Products,
    /// Operations of the layers, forward and backward
    Operations,
    /// Sums and gathers between ranks, where there are several or this is asked for
    Collectives,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TransportArg {
    /// nccl on CUDA devices, else host
    Auto,
    /// From GPU to GPU
    Nccl,
    /// Through host memory
    Host,
}

/// Sizes as in the models' config.json.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Like {
    #[value(name = "demo")]
    Demo,
    #[value(name = "qwen3-0.6b")]
    Qwen3_06B,
    #[value(name = "qwen3-1.7b")]
    Qwen3_17B,
    #[value(name = "llama-3.2-1b")]
    Llama32_1B,
    #[value(name = "llama-3.1-8b")]
    Llama31_8B,
}

impl BenchArgs {
    fn sizes(&self) -> Sizes {
        // hidden, intermediate, heads, key heads, head, vocabulary
        let [hidden, intermediate, heads, key_heads, head_dim, vocabulary] = match self.like {
            Like::Demo => [128, 352, 4, 2, 32, 2048],
            Like::Qwen3_06B => [1024, 3072, 16, 8, 128, 151_936],
            Like::Qwen3_17B => [2048, 6144, 16, 8, 128, 151_936],
            Like::Llama32_1B => [2048, 8192, 32, 8, 64, 128_256],
            Like::Llama31_8B => [4096, 14_336, 32, 8, 128, 128_256],
        };
        let (batch, length) = (self.batch as usize, self.length as usize);
        let labelled = self.labelled.map_or(batch * length, |rows| rows as usize);
        Sizes {
            batch,
            length,
            hidden,
            intermediate,
            heads,
            key_heads,
            head_dim,
            vocabulary,
            labelled,
        }
    }

    fn does(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    /// Nothing but collectives is for several ranks.
    fn does_collectives(&self, launched: World) -> Result<bool, Failure> {
        let ranks = launched.size.max(self.devices as usize);
        let asked = self.only.contains(&Part::Collectives);
        if ranks > 1 && self.only.iter().any(|part| *part != Part::Collectives) {
            return Err(Failure::Input(format!(
                "the other parts are for one device, and there are {ranks} ranks\n  hint: leave --only out or write --only collectives"
            )));
        }
        if launched.size > 1 && self.devices > 1 {
            return Err(Failure::Input(format!(
                "--devices {}: each of the {} processes that a launcher has started would start so many\n  hint: leave it out",
                self.devices, launched.size
            )));
        }
        Ok(asked || ranks > 1)
    }

    fn dtype(&self) -> DType {
        match self.precision {
            Precision::F32 => DType::F32,
            Precision::Bf16 => DType::BF16,
        }
    }
}

pub(super) fn bench(args: &BenchArgs) -> Result<ExitCode, Failure> {
    if !(args.seconds.is_finite() && args.seconds >= 0.0) {
        return Err(Failure::Input(format!(
            "--seconds {}: expected 0 or more",
            args.seconds
        )));
    }
    let choice: DeviceChoice = args
        .device
        .parse()
        .map_err(|error: UnknownDevice| Failure::Input(format!("--device: {error}")))?;
    let choice = device::decide(choice)?;
    let launch = Launch::from_env(&|name| std::env::var(name).ok())?;
    if args.does_collectives(launch.world)? {
        return collectives::bench(args, choice, &launch);
    }
    let cache = Cache::of_environment(&|name| std::env::var(name).ok());
    device::set_up(choice, cache.dir(), 1);
    device::compute_here(choice);
    let device = device::open(choice, args.dtype())?;
    let remark = device::remark(&device, args.dtype());
    print(format_args!("device {choice}, {:?}{remark}", args.dtype()));
    let mut answer = json!({
        "device": choice.to_string(),
        "precision": format!("{:?}", args.dtype()),
        "version": env!("CARGO_PKG_VERSION"),
    });
    let mut fine = true;
    if args.does(Part::Errors) {
        let (rows, all_fine) = errors(args, choice, &device)?;
        answer["errors"] = rows;
        fine = all_fine;
    }
    for (part, name, list) in [
        (
            Part::Products,
            "products",
            speed::products as fn(&Sizes, &Device, DType) -> Vec<Timed>,
        ),
        (Part::Operations, "operations", speed::operations),
    ] {
        if args.does(part) {
            answer[name] = times(args, name, list(&args.sizes(), &device, args.dtype()), &device)?;
        }
    }
    if let Some(path) = &args.json {
        fs::write_durable(path, format!("{answer:#}\n").as_bytes())?;
    }
    Ok(if fine {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Every operation against its definition, in the dtypes in which the device computes.
fn errors(args: &BenchArgs, choice: DeviceChoice, device: &Device) -> Result<(Value, bool), Failure> {
    let reference = device::host_memory().unwrap_or_else(|_| device.clone());
    let dtypes: Vec<DType> = [DType::F32, DType::BF16]
        .into_iter()
        .filter(|&dtype| device::open(choice, dtype).is_ok())
        .collect();
    print(format_args!(
        "\nlargest error of {} cases, as a share of the largest number\n{:<26} {:>6} {:>10} {:>10}",
        args.cases, "operation", "", "output", "gradients"
    ));
    let (mut rows, mut all_fine) = (Vec::new(), true);
    for (i, op) in OPS.iter().enumerate() {
        for &dtype in &dtypes {
            let tolerance = op.tolerance(device, dtype);
            let mut draw = Draw::new(i as u64 + 1, args.shrink as usize);
            let mut worst = Errors {
                output: 0.0,
                gradients: 0.0,
            };
            for _ in 0..args.cases {
                let case = (op.case)(&mut draw);
                let found = case.run(device, dtype, &reference).map_err(|error| {
                    broken(format!("{} in {dtype:?} for {}: {error}", op.name, case.shapes))
                })?;
                if found.worst() > tolerance {
                    print(format_args!(
                        "{} is wrong for {}: {found:?}",
                        op.name, case.shapes
                    ));
                }
                worst.output = worst.output.max(found.output);
                worst.gradients = worst.gradients.max(found.gradients);
            }
            let is_fine = worst.worst() <= tolerance;
            all_fine &= is_fine;
            let name = format!("{dtype:?}").to_lowercase();
            let Errors { output, gradients } = worst;
            let verdict = if is_fine { "" } else { "  WRONG" };
            print(format_args!(
                "{:<26} {name:>6} {output:>10.1e} {gradients:>10.1e}{verdict}",
                op.name
            ));
            rows.push(json!({"operation": op.name, "dtype": name, "output": output, "gradients": gradients, "fine": is_fine}));
        }
    }
    Ok((Value::Array(rows), all_fine))
}

fn times(args: &BenchArgs, what: &str, list: Vec<Timed>, device: &Device) -> Result<Value, Failure> {
    print(format_args!(
        "\n{what:<48} {:>10} {:>9} {:>9}",
        "ms", "TFLOP/s", "GB/s"
    ));
    let mut rows = Vec::new();
    for mut timed in list {
        let seconds = timed
            .seconds(device, Duration::from_secs_f64(args.seconds))
            .map_err(broken)?;
        let rate = |amount: f64, unit: f64| (amount > 0.0).then_some(amount / seconds / unit);
        let (tera, giga) = (rate(timed.flops, 1e12), rate(timed.bytes, 1e9));
        print(format_args!(
            "{:<48} {:>10.3} {:>9} {:>9}",
            timed.name,
            seconds * 1e3,
            Rate(tera),
            Rate(giga)
        ));
        rows.push(json!({"name": timed.name, "seconds": seconds, "tflops": tera, "gbytes_per_second": giga}));
    }
    Ok(Value::Array(rows))
}

struct Rate(Option<f64>);

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(rate) if rate < 10.0 => f.pad(&format!("{rate:.3}")),
            Some(rate) => f.pad(&format!("{rate:.1}")),
            None => f.pad(""),
        }
    }
}

fn broken(message: String) -> Failure {
    Failure::Failed(anyhow::anyhow!("the device failed: {message}"))
}
