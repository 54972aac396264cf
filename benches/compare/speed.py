#!/usr/bin/env python3
"""Which is faster? The same job in Brazier and in PyTorch, alternately, on the same machine.

    cargo build --release
    python3 benches/compare/speed.py --brazier target/release/brazier --threads 2 --rounds 3

Jobs: `text-5m` and `text-45m` (Qwen3-shaped language models, all rows of full length, every token trained) and `sft` (a
LLaVA-style model with a frozen tower, prompts of many lengths, short answers). Each round runs both once; the figure of
a run is the median over its steps, that of a side the median of its runs. Prints ratios Brazier / PyTorch of tokens
and samples per second and of peak memory, and writes everything to --json. A quiet machine matters more than rounds.

The rival is train.py beside this file; --rival passes its switches ("--compile", "--head labelled", "--cache"; several in
quotes). Needs torch, transformers, tokenizers, pillow, numpy and pyyaml.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from jobs import draw_data

SKIP = 5  # first steps that warm caches and allocators
WORDS = ("red", "blue", "green", "circle", "square", "ring", "cross", "left", "right", "large", "small", "row")


def language(hidden: int, intermediate: int, layers: int, vocabulary: int, positions: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
        "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64, "vocab_size": vocabulary,
        "max_position_embeddings": positions, "tie_word_embeddings": True, "qk_norm": True, "rope_theta": 1e6,
    }


VISION = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 4,
          "image_size": 112, "patch_size": 14}
# Name: model, mode, micro-batch, sequence length, words of (question, answer) as ranges.
JOBS: dict[str, tuple[dict[str, Any], str, int, int, tuple[int, int], tuple[int, int]]] = {
    "text-5m": ({"language": language(256, 768, 4, 4096, 256)}, "full", 4, 256, (1, 1), (400, 400)),
    "text-45m": ({"language": language(512, 1536, 9, 32000, 512)}, "full", 2, 512, (1, 1), (800, 800)),
    "sft": ({"language": language(384, 1152, 6, 8000, 512), "vision": VISION, "vision_feature_layer": -2},
            "end_to_end", 8, 512, (5, 300), (2, 30)),
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--brazier", type=Path, default=Path("target/release/brazier"), help="(default: %(default)s)")
    add("--device", default="flex", help="device of Brazier; the rival takes cuda for cuda (default: %(default)s)")
    add("--precision", choices=("f32", "bf16"), default="f32", help="(default: %(default)s)")
    add("--threads", type=int, default=os.cpu_count(), help="of both sides (default: %(default)s)")
    add("--job", action="append", choices=list(JOBS), help="only these")
    add("--rounds", type=int, default=3, help="(default: %(default)s)")
    add("--steps", type=int, default=40, help="of a run (default: %(default)s)")
    add("--rival", default="", help="switches of the rival")
    add("--json", type=Path, help="file for all figures")
    return parser.parse_args()


def write_job(name: str, data: Path, folder: Path, arguments: argparse.Namespace) -> Path:
    """Rows and YAML of a job."""
    model, mode, micro_batch, length, question, answer = JOBS[name]
    folder.mkdir(parents=True)
    generator = random.Random(0)
    pictures = sorted((data / "images" / "train").iterdir())

    def words(bounds: tuple[int, int]) -> str:
        return " ".join(generator.choice(WORDS) for _ in range(generator.randint(*bounds)))

    with (folder / "train.jsonl").open("w") as file:
        for index in range(micro_batch * arguments.steps):
            asked: Any = words(question)
            row: dict[str, Any] = {}
            if "vision" in model:
                asked = [{"type": "image"}, {"type": "text", "text": asked}]
                row["images"] = [os.path.relpath(pictures[index % len(pictures)], folder)]
            row["messages"] = [{"role": "user", "content": asked}, {"role": "assistant", "content": words(answer)}]
            file.write(json.dumps(row) + "\n")
    config = {
        "output": str(folder / "run"),
        "model": {**model, "tokenizer": str(data / "tokenizer")},
        "data": {"train": [{"path": str(folder / "train.jsonl")}], "sequence_length": length, "too_long": "truncate",
                 "shuffle": False, "workers": 1},
        "train": {"mode": mode, "steps": arguments.steps, "micro_batch_size": micro_batch,
                  "precision": arguments.precision, "optimizer": {"lr": 1e-4, "weight_decay": 0.01}},
        "checkpoint": {"export": False, "every": "never"},
        "track": {"log_every": 1, "tensorboard": False, "console": "none"},
    }
    path = folder / "job.yaml"
    path.write_text(json.dumps(config, indent=2))  # JSON is YAML
    return path


def timed(command: list[Any], threads: int) -> tuple[str, int]:
    """What a command printed, and its peak memory in bytes."""
    environment = os.environ | {"RAYON_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [str(word) for word in command], stdout=subprocess.PIPE, stderr=errors, env=environment, text=True
        )
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            errors.seek(0)
            sys.exit(f"{shlex.join(map(str, command))} failed:\n{errors.read()}")
    return printed, usage.ru_maxrss * 1024


def figures(lines: list[str], peak: int) -> dict[str, float]:
    steps = [record for record in map(json.loads, lines) if "grad_norm" in record][SKIP:]
    keys = ("tokens_per_second", "samples_per_second", "step_seconds")
    return {key: statistics.median(step[key] for step in steps) for key in keys} | {"peak_bytes": peak}


def run_brazier(config: Path, arguments: argparse.Namespace) -> dict[str, float]:
    output = config.parent / "run"
    shutil.rmtree(output, ignore_errors=True)
    command = [arguments.brazier, "train", "--config", config, "--device", arguments.device]
    _, peak = timed(command, arguments.threads)
    return figures((output / "metrics.jsonl").read_text().splitlines(), peak)


def run_rival(config: Path, arguments: argparse.Namespace) -> dict[str, float]:
    device = "cuda" if arguments.device.startswith("cuda") else "cpu"
    printed, peak = timed(
        [sys.executable, Path(__file__).with_name("train.py"), "--config", config, "--device", device,
         "--dtype", arguments.precision, "--threads", arguments.threads, *shlex.split(arguments.rival)],
        arguments.threads,
    )
    return figures(printed.splitlines(), peak)


def summarise(name: str, ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> None:
    def shown(key: str, scale: float, unit: str) -> str:
        sides = []
        for side in (ours, theirs):
            values = [run[key] * scale for run in side]
            sides.append((statistics.median(values), f"{statistics.median(values):.4g} ({min(values):.4g}-{max(values):.4g})"))
        (a, text_a), (b, text_b) = sides
        return f"{name:10} {key:19} {text_a:>26} {text_b:>26} {unit:8} ratio {a / b:.2f}"

    for key, scale, unit in (("tokens_per_second", 1, "tokens/s"), ("samples_per_second", 1, "rows/s"),
                             ("step_seconds", 1e3, "ms"), ("peak_bytes", 2**-20, "MiB")):
        print(shown(key, scale, unit), flush=True)


def main() -> None:
    arguments = parse_arguments()
    everything = {}
    print(f"{'job':10} {'figure':19} {'Brazier median (range)':>26} {'PyTorch median (range)':>26}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = draw_data(arguments.brazier, folder / "data")
        for name in arguments.job or JOBS:
            config = write_job(name, data, folder / name, arguments)
            ours, theirs = [], []
            for _ in range(arguments.rounds):
                ours.append(run_brazier(config, arguments))
                theirs.append(run_rival(config, arguments))
            everything[name] = {"brazier": ours, "pytorch": theirs}
            summarise(name, ours, theirs)
    if arguments.json:
        arguments.json.write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
