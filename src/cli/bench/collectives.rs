//! How fast tensors travel between ranks, and whether they arrive.

use std::{
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use burn::tensor::{DType, Device, Tensor, TensorData};
use serde_json::{Value, json};

use super::{BenchArgs, TransportArg};
use crate::{
    cli::{
        Failure, print,
        ranks::{self, Terms, Way},
    },
    config::{Transport, readable},
    device,
    device_choice::DeviceChoice,
    fs,
    learner::transport,
    parallel::{Collective, CollectiveError, Group, Launch},
};

const PATIENCE: Duration = Duration::from_secs(600);
const KIB: u64 = 1 << 10;
const OPERATIONS: [Collective; 3] = [
    Collective::AllReduce,
    Collective::ReduceScatter,
    Collective::AllGather,
];
/// Values repeat after so many: sums of them are exact in f32 for any number of ranks that there will be.
const PERIOD: usize = 251;

pub(super) fn bench(args: &BenchArgs, choice: DeviceChoice, launch: &Launch) -> Result<ExitCode, Failure> {
    let devices = args.devices as usize;
    let ranks = launch.world.size.max(devices);
    let asked = match args.transport {
        TransportArg::Auto => Transport::Auto,
        TransportArg::Nccl => Transport::Nccl,
        TransportArg::Host => Transport::Host,
    };
    let terms = Terms {
        timeout: PATIENCE,
        // One GPU by itself goes the way of several.
        way: Way::choose(asked, choice, ranks.max(2))?,
        settings: format!("{} MiB, {} s, {choice}", args.message, args.seconds),
    };
    device::set_up(choice.of_rank(launch.local_rank), None, devices);
    let rows = Mutex::new(Value::Null);
    let run = |group: Arc<Group>, local_rank: usize| {
        let device = device::open(choice.of_rank(local_rank), DType::F32)?;
        if group.world().rank == 0 {
            print(format_args!("{ranks} ranks on {choice}, {}", terms.way));
        }
        let table = measure(args, &group, &device)?;
        *rows.lock().unwrap_or_else(PoisonError::into_inner) = table;
        Ok(ExitCode::SUCCESS)
    };
    let ended = match launch.world.size {
        1 => ranks::on_threads(devices, &terms, choice, |group| {
            let rank = group.world().rank;
            run(group, rank)
        })?,
        _ => {
            let group = ranks::join(launch, &terms, choice)?;
            ranks::as_one_of(Arc::new(group), |group| run(group, launch.local_rank))?
        }
    };
    if let (Some(path), 0) = (&args.json, launch.world.rank) {
        let answer = json!({
            "device": choice.to_string(),
            "ranks": ranks,
            "transport": terms.way.to_string(),
            "version": env!("CARGO_PKG_VERSION"),
            "collectives": rows.into_inner().unwrap_or_else(PoisonError::into_inner),
        });
        fs::write_durable(path, format!("{answer:#}\n").as_bytes())?;
    }
    Ok(ended)
}

fn measure(args: &BenchArgs, group: &Group, device: &Device) -> Result<Value, Failure> {
    let world = group.world();
    let is_first = world.rank == 0;
    if is_first {
        print(format_args!(
            "\n{:<16} {:>12} {:>12} {:>9} {:>14}",
            "operation", "message", "ms", "GB/s", "bus GB/s"
        ));
    }
    let largest = args.message << 20;
    let sizes = std::iter::successors(Some(64 * KIB), |bytes| Some(bytes * 16));
    let sizes: Vec<u64> = sizes
        .take_while(|&bytes| bytes < largest)
        .chain([largest])
        .collect();
    let mut rows = Vec::new();
    for operation in OPERATIONS {
        for &bytes in &sizes {
            // What every rank holds of a gather when it is over is the message.
            let count = (bytes as usize / 4).next_multiple_of(world.size);
            let given = match operation {
                Collective::AllGather => count / world.size,
                Collective::AllReduce | Collective::ReduceScatter => count,
            };
            let values = values(world.rank, given, device);
            check(operation, group, run(operation, group, values.clone())?)?;
            let seconds = seconds(args, group, || run(operation, group, values.clone()))?;
            let bytes = count as f64 * 4.0;
            let links = (world.size as f64 - 1.0) / world.size as f64;
            let passes = if operation == Collective::AllReduce {
                2.0
            } else {
                1.0
            };
            let (rate, bus) = (bytes / seconds / 1e9, bytes * passes * links / seconds / 1e9);
            if is_first {
                print(format_args!(
                    "{:<16} {:>12} {:>12.3} {rate:>9.2} {bus:>14.2}",
                    operation.name(),
                    readable(bytes as u64),
                    seconds * 1e3
                ));
            }
            rows.push(json!({
                "operation": operation.name(), "bytes": bytes, "seconds": seconds, "gbytes_per_second": rate,
                "bus_gbytes_per_second": bus,
            }));
        }
    }
    Ok(Value::Array(rows))
}

/// What a rank brings: whole numbers, other ones than its neighbours'.
fn values(rank: usize, count: usize, device: &Device) -> Tensor<1> {
    let values: Vec<f32> = (0..count).map(|at| value(rank, at)).collect();
    Tensor::from_data(TensorData::new(values, [count]), (device, DType::F32))
}

fn value(rank: usize, at: usize) -> f32 {
    ((at + rank) % PERIOD) as f32
}

fn run(operation: Collective, group: &Group, values: Tensor<1>) -> Result<Tensor<1>, CollectiveError> {
    let [count] = values.dims();
    let coming = match operation {
        Collective::AllReduce => transport::all_reduce(group, values),
        Collective::AllGather => transport::all_gather(group, values),
        Collective::ReduceScatter => {
            let size = group.world().size;
            transport::reduce_scatter(group, values.reshape([size, count / size]))
        }
    };
    coming.wait()
}

/// Whether every number is the one that it has to be.
fn check(operation: Collective, group: &Group, found: Tensor<1>) -> Result<(), Failure> {
    let world = group.world();
    let found = found.into_data().try_into_vec::<f32>();
    let found = found.map_err(|error| anyhow::anyhow!("what came is not f32: {error:?}"))?;
    let sum = |at: usize| (0..world.size).map(|rank| value(rank, at)).sum::<f32>();
    let first = world.rank * found.len();
    let given = found.len() / world.size;
    let expected = |at: usize| match operation {
        Collective::AllReduce => sum(at),
        Collective::ReduceScatter => sum(first + at),
        Collective::AllGather => value(at / given, at % given),
    };
    let wrong = (0..found.len()).find(|&at| found[at] != expected(at));
    let verdict = match wrong {
        None => Ok(()),
        Some(at) => Err(Failure::Failed(anyhow::anyhow!(
            "{} is wrong on rank {}: value {at} of {} is {}, not {}",
            operation.name(),
            world.rank,
            found.len(),
            found[at],
            expected(at)
        ))),
    };
    group.agree(verdict)
}

/// Mean of as many repetitions as fit, the same on all ranks: that of the slowest.
fn seconds(
    args: &BenchArgs,
    group: &Group,
    mut repeat: impl FnMut() -> Result<Tensor<1>, CollectiveError>,
) -> Result<f64, Failure> {
    let mut time = |repetitions: usize| -> Result<f64, CollectiveError> {
        // All begin together.
        group.exchange(Vec::new())?;
        let started = Instant::now();
        for _ in 0..repetitions {
            repeat()?;
        }
        let own = started.elapsed().as_secs_f64() / repetitions as f64;
        let all = group.exchange_numbers(&[own])?;
        Ok(all.iter().flatten().copied().fold(0.0, f64::max))
    };
    let once = time(1)?;
    Ok(time(((args.seconds / once) as usize).clamp(1, 1000))?)
}
