//! Opening a data set of chat rows: reading, rendering, tokenising and labelling all of it, by source and threads.
//!
//! ```text
//! python3 benches/compare/loader.py make DIR
//! BRAZIER_BENCH_DATA=DIR cargo bench --bench loader
//! python3 benches/compare/loader.py run DIR --threads 1      # the same rows, with datasets and transformers
//! ```

#![expect(clippy::print_stdout, reason = "a benchmark prints what it measured")]

use std::{error::Error, path::Path, sync::Arc, time::Instant};

use brazier::data::{
    BadRows, Cache, DataOptions, DataSource, Dataset, Grouping, Masks, PaddingSide, Selection, Split,
    TemplateOptions, Tokenizer, TooLong, inspect,
};

fn main() -> Result<(), Box<dyn Error>> {
    let Some(folder) = std::env::var_os("BRAZIER_BENCH_DATA") else {
        println!("BRAZIER_BENCH_DATA names no folder; benches/compare/loader.py makes one");
        return Ok(());
    };
    let folder = Path::new(&folder);
    for file in ["rows.jsonl", "rows.parquet"] {
        let path = folder.join(file);
        let cache = Cache::new(Some(folder.join("cache")));
        for attempt in ["first", "again"] {
            let start = Instant::now();
            inspect(&Selection::of(&path), &cache, 0)?;
            let seconds = start.elapsed().as_secs_f64();
            println!("{file}: found the rows, {attempt}, and looked at 1000 of them in {seconds:.3} s");
        }
        for threads in [1, 2] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
            let tokenizer = Arc::new(Tokenizer::load(&folder.join("tokenizer"))?);
            let options = options(&path, &folder.join("tokenizer"), &cache);
            let start = Instant::now();
            let dataset = pool.install(|| Dataset::open(Split::Train, &options, None, tokenizer))?;
            let seconds = start.elapsed().as_secs_f64();
            println!(
                "{file}, {threads} threads: {:.0} samples/s, {:.0} tokens/s; {seconds:.2} s",
                dataset.len() as f64 / seconds,
                dataset.report().tokens as f64 / seconds
            );
        }
    }
    Ok(())
}

fn options(rows: &Path, tokenizer: &Path, cache: &Cache) -> DataOptions {
    DataOptions {
        train: vec![DataSource::new(rows.into())],
        eval: Vec::new(),
        cache: cache.clone(),
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
