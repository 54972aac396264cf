//! Every parser of bytes that come from outside, against damaged and hostile input; README.md beside it says how to run it
//! for long.
//!
//! No coverage is measured. A case whose outcome reads unlike all before it is mutated further, which leads past the first
//! check of a parser. Everything drawn follows from a seed, so a run can be repeated.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test stops at the first surprise, and damages files behind the program's back"
)]

mod configs;
mod harness;
mod memory;
mod models;
mod mutate;
mod repair;
mod rows;
mod sources;
mod tokenizers;

/// A test of each target, so that its name on the command line runs it alone.
macro_rules! targets {
    ($($room:ident: $($name:ident)*;)*) => {
        $($(
            #[test]
            fn $name() {
                harness::fuzz(stringify!($name), $room::$name);
            }
        )*)*
    };
}

targets! {
    sources: jsonl lists csv tsv text gzip zstd parquet arrow webdataset sidecars line_index;
    rows: row_kinds images templates;
    tokenizers: tokenizer;
    configs: native foreign deepspeed environment;
    models: model_folder weights pickled_weights checkpoint;
}
