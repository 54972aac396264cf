//! Forward and backward of each op against its definition in plain tensor operations, on Flex, at the shapes of a small
//! model: `cargo bench -p brazier-models --bench ops`.

use std::{
    io::{self, Write},
    time::Instant,
};

use brazier_models::{
    ops::{self, Bodies},
    selftest::speed::{Sizes, operations},
};
use burn::tensor::{DType, Device};

const ROUNDS: usize = 21;

/// The fastest round: other processes only ever make a round slower.
fn best_millis(bodies: Bodies, run: &mut dyn FnMut()) -> f64 {
    ops::choose(bodies);
    run();
    (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64() * 1e3
        })
        .fold(f64::INFINITY, f64::min)
}

fn main() -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(
        out,
        "{:<48} {:>9} {:>9} {:>7}",
        "forward + backward", "ops, ms", "plain, ms", "ratio"
    )?;
    let small = Sizes {
        batch: 32,
        length: 100,
        hidden: 128,
        intermediate: 352,
        heads: 4,
        key_heads: 2,
        head_dim: 32,
        vocabulary: 2048,
        labelled: 3200,
    };
    let long = Sizes {
        batch: 2,
        length: 1024,
        heads: 8,
        key_heads: 4,
        head_dim: 64,
        ..small
    };
    for sizes in [small, long] {
        for mut timed in operations(&sizes, &Device::flex(), DType::F32) {
            let fused = best_millis(Bodies::Fused, &mut timed.run);
            let plain = best_millis(Bodies::Reference, &mut timed.run);
            writeln!(
                out,
                "{:<48} {fused:>9.3} {plain:>9.3} {:>7.1}",
                timed.name,
                plain / fused
            )?;
        }
    }
    Ok(())
}
