#!/usr/bin/env python3
"""What several ranks on one host cost: memory of a rank by ZeRO stage, and time of a step with what of it is communication.

    cargo build --release --features mpi
    python3 benches/ranks.py --brazier target/release/brazier --ranks 2 --steps 6

Trains a Qwen3-shaped language model of about 45 M parameters on made-up rows in processes of mpirun, one thread each, and
reads the last lines of metrics.jsonl. `memory` is the resident memory of the rank with the most, after the last step;
`state` is what parameters, gradients and optimizer take by arithmetic (f32: 4, 4 and 8 bytes for each parameter, divided by
the ranks as the stage says). The model and the rows' buffers are the same in every line, so differences between lines are
what the stages save. Needs Python alone, mpirun, and a build with the feature mpi.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

WORDS = ("red", "blue", "green", "circle", "square", "ring", "cross", "left", "right", "large", "small", "row")
VOCABULARY, HIDDEN, INTERMEDIATE, LAYERS, LENGTH = 32000, 512, 1536, 9, 256
LANGUAGE = {
    "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "num_hidden_layers": LAYERS, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 64, "vocab_size": VOCABULARY, "max_position_embeddings": LENGTH,
    "tie_word_embeddings": True, "qk_norm": True,
}
PARAMETERS = VOCABULARY * HIDDEN + HIDDEN + LAYERS * (
    HIDDEN * 64 * (8 + 4 + 4 + 8) + 3 * HIDDEN * INTERMEDIATE + 2 * HIDDEN + 2 * 64)
# Name, settings, and how many of (parameters, gradients, optimizer) are in parts; whether the optimizer is elsewhere.
STAGES = (
    ("one rank", {}, 0),
    ("ZeRO 0", {"parallel.zero": 0}, 0),
    ("ZeRO 1", {"parallel.zero": 1}, 1),
    ("ZeRO 2", {"parallel.zero": 2}, 2),
    ("ZeRO 3", {"parallel.zero": 3}, 3),
)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--brazier", type=Path, default=Path("target/release/brazier"), help="(default: %(default)s)")
    add("--ranks", type=int, default=2, help="(default: %(default)s)")
    add("--steps", type=int, default=6, help="(default: %(default)s)")
    add("--rounds", type=int, default=1, help="each stage so many times, in turn (default: %(default)s)")
    add("--json", type=Path, help="write the figures there")
    return parser.parse_args()


def state_bytes(split: int, ranks: int) -> float:
    """Bytes of parameters, gradients and optimizer of one rank; `split` of them, from the optimizer on, in parts."""
    sizes = (8, 4, 4)  # optimizer, gradients, parameters
    return PARAMETERS * sum(size / (ranks if place < split else 1) for place, size in enumerate(sizes))


def write_job(folder: Path, brazier: Path, steps: int) -> Path:
    subprocess.run([brazier, "data", "synth", "--out", folder / "shapes", "--train", "4", "--eval", "2"], check=True,
                   capture_output=True)
    numbers = random.Random(0)
    rows = [json.dumps({"text": " ".join(numbers.choices(WORDS, k=2 * LENGTH))}) for _ in range(64)]
    (folder / "rows.jsonl").write_text("\n".join(rows))
    config = {
        "output": str(folder / "run"),
        "model": {"tokenizer": str(folder / "shapes" / "tokenizer"), "language": LANGUAGE},
        "data": {"train": [{"path": str(folder / "rows.jsonl"), "kind": "text"}], "sequence_length": LENGTH,
                 "too_long": "truncate", "workers": 0},
        "train": {"steps": steps, "micro_batch_size": 2, "recompute": "blocks", "optimizer": {"lr": 1e-4}},
        "checkpoint": {"export": False, "every": "never"},
        "track": {"log_every": 1, "tensorboard": False, "console": "none"},
    }
    path = folder / "job.yaml"
    path.write_text(json.dumps(config))  # JSON is YAML
    return path


def run(job: Path, brazier: Path, ranks: int, settings: dict[str, Any]) -> dict[str, float]:
    output = job.parent / "run"
    subprocess.run(["rm", "-rf", output], check=True)
    sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    start = [] if ranks == 1 else ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", str(ranks)]
    environment = os.environ | {"RAYON_NUM_THREADS": "1", "OMPI_MCA_mpi_yield_when_idle": "1"}
    done = subprocess.run([*start, brazier, "train", "--config", job, *sets], env=environment, capture_output=True,
                          text=True)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "loss" in line][2:]

    def median(value: Any) -> float:
        return statistics.median(value(line) for line in lines)

    return {
        "loss": lines[-1]["loss"],
        "memory": max(lines[-1].get("rank_memory_bytes", [lines[-1]["process_memory_bytes"]])),
        "step": median(lambda line: line["step_seconds"]),
        "work": median(lambda line: max(line.get("rank_work_seconds", [line["step_seconds"]]))),
        "communication": median(lambda line: max(line.get("rank_communication_seconds", [0.0]))),
    }


def main() -> None:
    arguments = parse_arguments()
    brazier = arguments.brazier.resolve()
    figures: dict[str, list[dict[str, float]]] = {name: [] for name, _, _ in STAGES}
    with tempfile.TemporaryDirectory() as folder:
        job = write_job(Path(folder), brazier, arguments.steps)
        for _ in range(arguments.rounds):
            for name, settings, _ in STAGES:
                ranks = 1 if name == "one rank" else arguments.ranks
                figures[name].append(run(job, brazier, ranks, settings))
    print(f"{PARAMETERS} parameters, {arguments.ranks} ranks\n")
    print("| | memory MB | state MB | step s | work s | communication s | last loss |\n|---|---|---|---|---|---|---|")
    for name, _, split in STAGES:
        ranks = 1 if name == "one rank" else arguments.ranks
        of = {key: statistics.median(run[key] for run in figures[name]) for key in figures[name][0]}
        print(f"| {name} | {of['memory'] / 1e6:.0f} | {state_bytes(split, ranks) / 1e6:.0f} | {of['step']:.2f} | "
              f"{of['work']:.2f} | {of['communication']:.2f} | {of['loss']:.6f} |")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
