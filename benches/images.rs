//! One side of `benches/compare/images.py`: decodes and processes images on one thread, as often as it is told to.
//!
//! `images clip|siglip SIDE FILE...` reads lines: `run N` answers with the seconds for N times all files, `pixels I` with
//! the numbers of file I as little-endian f32, after their count.

#![expect(clippy::disallowed_methods, reason = "a benchmark holds its files in memory")]

use std::{
    error::Error,
    hint::black_box,
    io::{self, BufRead, Write},
    time::Instant,
};

use brazier::image_processor::ImageProcessor;

fn main() -> Result<(), Box<dyn Error>> {
    // `cargo bench` adds a word of its own.
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| word != "--bench")
        .collect();
    let [kind, side, files @ ..] = words.as_slice() else {
        return Ok(writeln!(io::stdout(), "see benches/compare/images.py")?);
    };
    let processor = match kind.as_str() {
        "clip" => ImageProcessor::clip(side.parse()?),
        "siglip" => ImageProcessor::siglip(side.parse()?),
        other => return Err(format!("{other}: expected clip or siglip").into()),
    };
    let files = files.iter().map(std::fs::read).collect::<Result<Vec<_>, _>>()?;
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        match line?.split_once(' ') {
            Some(("run", times)) => {
                let started = Instant::now();
                for bytes in (0..times.parse::<usize>()?).flat_map(|_| &files) {
                    black_box(processor.process(bytes)?);
                }
                writeln!(out, "{}", started.elapsed().as_secs_f64())?;
            }
            Some(("pixels", index)) => {
                let bytes = files.get(index.parse::<usize>()?).ok_or("no such file")?;
                let pixels = processor.process(bytes)?.pixels;
                writeln!(out, "{}", pixels.len())?;
                for value in pixels {
                    out.write_all(&value.to_le_bytes())?;
                }
            }
            _ => return Err("expected `run N` or `pixels I`".into()),
        }
        out.flush()?;
    }
    Ok(())
}
