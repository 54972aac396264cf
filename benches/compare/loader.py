"""Reads and tokenises chat rows with Hugging Face's datasets and tokenizers, beside `cargo bench --bench loader`.

    python3 benches/compare/loader.py make DIR            # rows.jsonl, rows.parquet and a tokenizer, for both sides
    python3 benches/compare/loader.py run DIR --threads 1
    BRAZIER_BENCH_DATA=DIR cargo bench --bench loader     # the same rows, the same tokenizer

`run` does what a training script does before its first step: load_dataset, then map of apply_chat_template with
tokenisation, in batches. It prints samples and tokens per second over both.
"""

import argparse
import itertools
import json
import os
import random
import shutil
import tempfile
import time
from pathlib import Path

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
)


def make(folder: Path, num_rows: int) -> None:
    """Rows of two turns, about 150 tokens each, and a byte-level BPE of 8192 tokens trained on them."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)
    syllables = [a + b + c for a in "bcdfglmnprst" for b in "aeiou" for c in ("", "n", "s", "r", "t")]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(6000)]
    weights = list(itertools.accumulate(1 / (place + 1) for place in range(len(words))))

    def text(num_words: int) -> str:
        return " ".join(draw.choices(words, cum_weights=weights, k=num_words)).capitalize() + "."

    rows = []
    for _ in range(num_rows):
        roles = ["user", "assistant"] * 2
        rows.append({"messages": [{"role": role, "content": text(draw.randint(10, 50))} for role in roles]})
    with open(folder / "rows.jsonl", "w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet", row_group_size=10_000)

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<pad>", "<image>"]
    trainer = trainers.BpeTrainer(vocab_size=8192, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    sample = (message["content"] for row in rows[:5000] for message in row["messages"])
    tokenizer.train_from_iterator(sample, trainer)
    (folder / "tokenizer").mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer" / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<pad>",
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(config))


def run(folder: Path, name: str, threads: int) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    os.environ["HF_DATASETS_OFFLINE"] = "1"
    import datasets
    from transformers import PreTrainedTokenizerFast

    datasets.disable_progress_bars()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")

    def encode(batch: dict) -> dict:
        encoded = tokenizer.apply_chat_template(batch["messages"], tokenize=True, return_dict=True)
        return {"input_ids": encoded["input_ids"]}

    cache = tempfile.mkdtemp()
    start, cpu = time.perf_counter(), time.process_time()
    kind = {".jsonl": "json", ".parquet": "parquet"}[Path(name).suffix]
    loaded = datasets.load_dataset(kind, data_files=str(folder / name), split="train", cache_dir=cache)
    read = time.perf_counter()
    encoded = loaded.map(
        encode, batched=True, remove_columns=loaded.column_names, num_proc=threads if threads > 1 else None
    )
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    tokens = sum(len(ids) for ids in encoded["input_ids"])
    print(
        f"datasets {datasets.__version__}, {name}, {threads} threads: {len(encoded) / seconds:.0f} samples/s, "
        f"{tokens / seconds:.0f} tokens/s; {seconds:.2f} s, of which {read - start:.2f} s to load; "
        f"{cpu:.2f} s of CPU time in this process"
    )
    shutil.rmtree(cache)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["make", "run"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--file", default="rows.jsonl")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if args.command == "make":
        make(args.folder, args.rows)
    else:
        run(args.folder, args.file, args.threads)


if __name__ == "__main__":
    main()
