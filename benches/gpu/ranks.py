#!/usr/bin/env python3
"""Several GPUs of one host: how fast do they reach each other, and how much faster is training on them?

    python3 benches/gpu/ranks.py --brazier ./brazier --json ranks.json

Needs Python alone, a program built with `--features cuda`, and NCCL (libnccl.so.2 where the dynamic linker looks). In turn it
runs

1. `brazier doctor`;
2. `brazier bench --only collectives` on one GPU and on all: every sum and gather is checked number by number, then timed;
3. a Qwen3-shaped language model in bf16, the same rows in each step, on one GPU, on more and on all; on all of them by ZeRO stage, with
   `parallel.tensor`, and once through host memory instead of NCCL.

What to expect. Bus bandwidth of large messages: some 80 % of a link's published rate in one direction, that is 350 GB/s and more
with NVLink 4 (H100, H200, GH200: 450 GB/s), 230 with NVLink 3 (A100: 300 GB/s), 20 over PCIe 4. Losses of all runs agree to
the rounding of bf16; a run that differs after its first step is a defect. Tokens per second and GPU on all GPUs against the first run:
0.9 or more with NVLink for ZeRO 0 to 2, less for stage 3 and for models as small as --model qwen3-0.6b; memory falls as
docs/scaling.md says. Through host memory everything is right and slow: that is what NCCL is for.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

WORDS = ("red", "blue", "green", "circle", "square", "ring", "cross", "left", "right", "large", "small", "row")
SKIP = 3  # first steps, which compile and tune


def model(hidden: int, intermediate: int, layers: int, heads: int, vocabulary: int, tied: bool) -> dict[str, Any]:
    return {
        "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": vocabulary,
        "max_position_embeddings": 8192, "tie_word_embeddings": tied, "qk_norm": True, "rope_theta": 1e6,
    }


MODELS = {
    "qwen3-0.6b": model(1024, 3072, 28, 16, 151_936, True),
    "qwen3-1.7b": model(2048, 6144, 28, 16, 151_936, True),
    "qwen3-8b": model(4096, 12_288, 36, 32, 151_936, False),
    "tiny": model(256, 512, 2, 8, 4096, True),
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--brazier", type=Path, default=Path("target/release/brazier"), help="(default: %(default)s)")
    add("--device", default="cuda", help="(default: %(default)s)")
    add("--precision", choices=("f32", "bf16"), default="bf16", help="(default: %(default)s)")
    add("--gpus", type=int, help="(default: those that nvidia-smi lists)")
    add("--model", choices=list(MODELS), default="qwen3-1.7b", help="(default: %(default)s)")
    add("--length", type=int, default=2048, help="tokens of a row (default: %(default)s)")
    add("--rows", type=int, default=2, help="rows of a GPU and step when all are at work (default: %(default)s)")
    add("--steps", type=int, default=13, help="(default: %(default)s)")
    add("--message", type=int, default=256, help="largest message of a collective, MiB (default: %(default)s)")
    add("--json", type=Path, help="file for all figures")
    return parser.parse_args()


def num_gpus() -> int:
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, check=True)
    return len(listed.stdout.splitlines())


def collectives(arguments: argparse.Namespace, gpus: int, folder: Path) -> dict[str, Any]:
    file = folder / "collectives.json"
    command = [arguments.brazier, "bench", "--device", arguments.device, "--devices", gpus, "--only", "collectives",
               "--message", arguments.message, "--json", file]
    print("$", *command, flush=True)
    if subprocess.run([str(word) for word in command], check=False).returncode != 0:
        sys.exit("the collectives are wrong, or do not work: training on several GPUs would be, too")
    return json.loads(file.read_text())


def write_job(arguments: argparse.Namespace, gpus: int, folder: Path) -> Path:
    subprocess.run([arguments.brazier, "data", "synth", "--out", folder / "shapes", "--train", "4", "--eval", "2"],
                   check=True, capture_output=True)
    numbers = random.Random(0)
    rows = (json.dumps({"text": " ".join(numbers.choices(WORDS, k=2 * arguments.length))}) for _ in range(64))
    (folder / "rows.jsonl").write_text("\n".join(rows))
    config = {
        "output": str(folder / "run"), "device": arguments.device,
        "model": {"tokenizer": str(folder / "shapes" / "tokenizer"), "language": MODELS[arguments.model]},
        "data": {"train": [{"path": str(folder / "rows.jsonl"), "kind": "text"}], "sequence_length": arguments.length,
                 "too_long": "truncate"},
        "train": {"steps": arguments.steps, "micro_batch_size": 1, "global_batch_size": gpus * arguments.rows,
                  "recompute": "blocks", "precision": arguments.precision, "optimizer": {"lr": 1e-4}},
        "checkpoint": {"export": False, "every": "never"},
        "track": {"log_every": 1, "tensorboard": False, "console": "none"},
    }
    path = folder / "job.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    return path


def train(arguments: argparse.Namespace, job: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    output = job.parent / "run"
    shutil.rmtree(output, ignore_errors=True)
    sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    done = subprocess.run([arguments.brazier, "train", "--config", job, *sets], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(done.stderr.strip().splitlines()[-1] if done.stderr else f"exit code {done.returncode}", flush=True)
        return None
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "loss" in line]

    def median(*keys: str) -> float:
        """Of the first key that lines have; of a list, one number for each rank, the largest."""
        values = [next((line[key] for key in keys if line.get(key)), 0.0) for line in lines[SKIP:]]
        return statistics.median(max(value) if isinstance(value, list) else value for value in values)

    tokens = median("tokens_per_second")
    return {
        "tokens_per_second": tokens, "of_each": tokens / settings["parallel.devices"],
        "step_seconds": median("step_seconds"), "communication_seconds": median("rank_communication_seconds"),
        "memory_bytes": median("rank_memory_bytes", "device_memory_bytes"),
        # What is no number is null in the log.
        "losses": [math.nan if line["loss"] is None else line["loss"] for line in lines],
    }


def main() -> None:
    arguments = parse_arguments()
    arguments.brazier = arguments.brazier.resolve()
    gpus = arguments.gpus or num_gpus()
    subprocess.run([arguments.brazier, "doctor", "--device", arguments.device], check=False)
    everything: dict[str, Any] = {"gpus": gpus, "model": arguments.model}

    def keep(name: str, found: Any) -> None:
        everything[name] = found
        if arguments.json:
            arguments.json.write_text(json.dumps(everything, indent=1))

    counts = [count for count in range(1, gpus + 1) if gpus % count == 0]
    runs = [(f"{count} GPUs", {"parallel.devices": count}) for count in counts]
    if gpus > 1:
        everyone = {"parallel.devices": gpus}
        runs += [(f"{gpus}, ZeRO {stage}", everyone | {"parallel.zero": stage}) for stage in (1, 2, 3)]
        runs += [(f"{gpus}, tensor {gpus}", everyone | {"parallel.tensor": gpus})] * (8 % gpus == 0)
        runs += [(f"{gpus}, host memory", everyone | {"parallel.transport": "host"})]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for count in sorted({1, gpus}):
            keep(f"collectives of {count}", collectives(arguments, count, folder))
        job = write_job(arguments, gpus, folder)
        print(f"\n{'run':18} {'tokens/s':>10} {'for each':>10} {'of one':>7} {'step, ms':>9} {'ranks, ms':>10} {'GPU, GiB':>9} "
              f"{'loss':>9} {'furthest':>9}", flush=True)
        first = None
        for name, settings in runs:
            found = train(arguments, job, settings)
            keep(name, found)
            if found is None:
                print(f"{name:18} failed", flush=True)
                continue
            first = first or found
            furthest = max(abs(a - b) for a, b in zip(found["losses"], first["losses"], strict=True))
            print(f"{name:18} {found['tokens_per_second']:10.0f} {found['of_each']:10.0f} "
                  f"{found['of_each'] / first['of_each']:7.2f} {found['step_seconds'] * 1e3:9.1f} "
                  f"{found['communication_seconds'] * 1e3:10.1f} {found['memory_bytes'] / 2**30:9.1f} "
                  f"{found['losses'][-1]:9.5f} {furthest:9.1e}", flush=True)


if __name__ == "__main__":
    main()
