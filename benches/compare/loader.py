"""Opening a data set of chat rows: Brazier beside Hugging Face's datasets and transformers, in turn.

    cargo bench --bench loader --no-run                   # prints where the executable is
    python3 benches/compare/loader.py make DIR            # rows.jsonl, rows.parquet and a tokenizer, for both sides
    python3 benches/compare/loader.py compare DIR --brazier target/release/deps/loader-HASH

`compare` runs each side as a process of its own, in turn, and prints ratios of medians of wall time and of CPU time, for one
and for two threads. Neither includes the start of the process and loading the tokenizer. That both sides have the same ids is
checked in each round.

`run DIR` is the rival by itself. It does what a training script does before its first step: load_dataset, then a batched map
of apply_chat_template with tokenisation by the fast tokenizer, in as many processes as there are threads. Nothing is found in
a cache, and no labels are made; Brazier makes them.
"""

import argparse
import hashlib
import itertools
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
)


def make(folder: Path, num_rows: int, num_words: int) -> None:
    """Rows of two turns, about 150 tokens each, and a byte-level BPE of 8192 tokens trained on them."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)
    syllables = [a + b + c for a in "bcdfglmnprst" for b in "aeiou" for c in ("", "n", "s", "r", "t")]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(num_words)]
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


def cpu_seconds() -> float:
    """Of this process and of those it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def run(folder: Path, name: str, threads: int) -> None:
    # With several processes each has one thread.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["HF_DATASETS_OFFLINE"] = "1"
    import datasets
    import numpy as np
    from transformers import PreTrainedTokenizerFast

    datasets.disable_progress_bars()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")

    def encode(batch: dict) -> dict:
        encoded = tokenizer.apply_chat_template(batch["messages"], tokenize=True, return_dict=True)
        return {"input_ids": encoded["input_ids"]}

    cache = tempfile.mkdtemp()
    start, cpu = time.perf_counter(), cpu_seconds()
    kind = {".jsonl": "json", ".parquet": "parquet"}[Path(name).suffix]
    loaded = datasets.load_dataset(kind, data_files=str(folder / name), split="train", cache_dir=cache)
    encoded = loaded.map(
        encode, batched=True, remove_columns=loaded.column_names, num_proc=threads if threads > 1 else None
    )
    wall, cpu = time.perf_counter() - start, cpu_seconds() - cpu
    hash_, tokens = hashlib.sha256(), 0
    for batch in encoded.with_format("arrow").iter(1000):
        ids = batch["input_ids"].combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.int32)
        hash_.update(ids.tobytes())
        tokens += len(ids)
    result = {"rows": len(encoded), "tokens": tokens, "wall": wall, "cpu": cpu, "digest": hash_.hexdigest()}
    print(json.dumps(result))
    shutil.rmtree(cache)


def compare(folder: Path, name: str, brazier: str, rounds: int) -> None:
    from importlib.metadata import version

    print(f"{name}, datasets {version('datasets')}, transformers {version('transformers')}, tokenizers {version('tokenizers')}")
    for threads in (1, 2):
        commands = {
            "Brazier": [brazier, str(folder), name, str(threads)],
            "rival": [sys.executable, __file__, "run", str(folder), "--file", name, "--threads", str(threads)],
        }
        results = {side: [] for side in commands}
        for _ in range(rounds):
            for side, command in commands.items():
                found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                results[side].append(json.loads(found.splitlines()[-1]))
        digests = {result["digest"] for side in results.values() for result in side}
        assert len(digests) == 1, "the sides have different ids"
        ours, theirs = results["Brazier"], results["rival"]
        rows = ours[0]["rows"]
        for what in ("wall", "cpu"):
            values = [[result[what] for result in side] for side in (ours, theirs)]
            medians = [statistics.median(side) for side in values]
            ratio = medians[1] / medians[0]
            rates = ", ".join(f"{rows / median:.0f}" for median in medians)
            spread = ", ".join(f"{min(side):.2f} to {max(side):.2f} s" for side in values)
            print(f"{threads} threads, {what}: {rates} rows/s; {ratio:.1f} times; {spread}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["make", "compare", "run"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=40_000, help="make: how many")
    parser.add_argument("--words", type=int, default=6000, help="make: how many different words there are")
    parser.add_argument("--file", default="rows.jsonl")
    parser.add_argument("--brazier", help="compare: executable of `cargo bench --bench loader --no-run`")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    if args.command == "make":
        make(args.folder, args.rows, args.words)
    elif args.command == "run":
        run(args.folder, args.file, args.threads)
    elif args.brazier is None:
        parser.error("compare needs --brazier")
    else:
        compare(args.folder, args.file, args.brazier, args.rounds)


if __name__ == "__main__":
    main()
