//! Opening a data set of chat rows: reading, rendering, tokenising and labelling all of it.
//!
//! `benches/compare/loader.py` makes the rows and runs this beside datasets and transformers:
//!
//! ```text
//! cargo bench --bench loader --no-run        # prints where the executable is
//! python3 benches/compare/loader.py make DIR
//! python3 benches/compare/loader.py compare DIR --brazier target/release/deps/loader-HASH
//! target/release/deps/loader-HASH DIR rows.jsonl 2        # one side by itself, two threads
//! target/release/deps/loader-HASH DIR rows.jsonl find     # only finds the rows, twice
//! ```

#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]

use std::{error::Error, path::Path, sync::Arc, time::Instant};

use brazier::data::{
    BadRows, Cache, DataOptions, DataSource, Dataset, Grouping, Masks, PaddingSide, Split, TemplateOptions,
    Tokenizer, TooLong, count_rows,
};
use sha2::{Digest, Sha256};

/// That of the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let [folder, file, what] = &arguments[..] else {
        println!("see the head of benches/loader.rs for what to write here");
        return Ok(());
    };
    let folder = Path::new(folder);
    let path = folder.join(file);
    let cache = Cache::new(Some(folder.join("cache")));
    if what == "find" {
        for attempt in ["first", "again"] {
            let start = Instant::now();
            let rows = count_rows(&[DataSource::new(path.clone())], &cache)?;
            let seconds = start.elapsed().as_secs_f64();
            println!("{file}, {attempt}: found {rows} rows in {seconds:.4} s");
        }
        return Ok(());
    }
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(what.parse()?)
        .build()?;
    let tokenizer = Arc::new(Tokenizer::load(&folder.join("tokenizer"))?);
    let options = options(&path, &folder.join("tokenizer"), &cache);
    let (start, cpu) = (Instant::now(), cpu_seconds()?);
    let dataset = pool.install(|| Dataset::open(Split::Train, &options, None, tokenizer))?;
    let (wall, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
    let (rows, tokens) = (dataset.len(), dataset.report().tokens);
    let digest = digest(&dataset);
    println!(
        "{{\"rows\": {rows}, \"tokens\": {tokens}, \"wall\": {wall:.4}, \"cpu\": {cpu:.4}, \"digest\": \"{digest}\"}}"
    );
    Ok(())
}

/// Of the ids of all rows.
fn digest(dataset: &Dataset) -> String {
    let mut hash = Sha256::new();
    for index in 0..dataset.len() {
        for id in dataset.ids_and_labels(index).0 {
            hash.update(id.to_le_bytes());
        }
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Of all threads of this process.
fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = brazier::fs::read_to_string(Path::new("/proc/self/stat"))?;
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(str::parse::<f64>);
    Ok(ticks.sum::<Result<f64, _>>()? / TICKS_PER_SECOND)
}

fn options(rows: &Path, tokenizer: &Path, cache: &Cache) -> DataOptions {
    DataOptions {
        train: vec![DataSource::new(rows.into())],
        eval: Vec::new(),
        cache: cache.clone(),
        keep_encoded: None,
        tokenizer: tokenizer.into(),
        classes: None,
        template: TemplateOptions::default(),
        masks: Masks::default(),
        bad_rows: BadRows::Error,
        sequence_length: 4096,
        too_long: TooLong::Error,
        random_truncation: false,
        grouping: Grouping::Alone,
        pad_to_multiple_of: None,
        padding_side: PaddingSide::Right,
        shuffle: true,
        seed: 0,
        workers: 0,
        prefetch: 1,
    }
}
