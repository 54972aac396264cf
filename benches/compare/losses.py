#!/usr/bin/env python3
"""Are the losses PyTorch's? The same weights, the same rows, the same recipe, step by step.

    cargo build --release
    python3 benches/compare/losses.py --brazier target/release/brazier

For each family a tiny model with random weights is written by transformers, and trained for 30 steps (AdamW, warm-up,
cosine, clipping, two micro-batches a step) by Brazier and by train.py beside this file, in f32 on the CPU. Prints, for
each job and mode, the largest relative difference of loss and gradient norm over the steps; the exit code is 1 if a
loss differs by more than 1e-4. Needs torch, transformers, tokenizers, pillow, numpy and pyyaml.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import transformers

from jobs import JOBS, Job, draw_data, write_job

LIMIT = 1e-4


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--brazier", type=Path, default=Path("target/release/brazier"), help="(default: %(default)s)")
    parser.add_argument("--device", default="flex", help="device of Brazier (default: %(default)s)")
    parser.add_argument("--job", action="append", choices=[job.name for job in JOBS], help="only these")
    parser.add_argument("--seed", type=int, default=0, help="of the weights (default: %(default)s)")
    parser.add_argument("--keep", type=Path, help="folder for models, rows and runs (default: a temporary one)")
    return parser.parse_args()


def run(command: list[Any]) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\nfailed with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr}")
    return done.stdout


def steps_of(lines: list[str]) -> list[dict[str, Any]]:
    """Records of training steps."""
    return [record for record in map(json.loads, lines) if "grad_norm" in record]


def train_both(arguments: argparse.Namespace, config: Path, mode: str) -> tuple[list[Any], list[Any]]:
    output = config.parent / f"run-{mode}"
    run([arguments.brazier, "train", "--config", config, "--device", arguments.device, "--output", output,
         "--set", f"train.mode={mode}", "--set", "track.console=none"])
    rival = run([sys.executable, Path(__file__).with_name("train.py"), "--config", config, "--workers", "0",
                 "--set", f"train.mode={mode}"])
    return steps_of((output / "metrics.jsonl").read_text().splitlines()), steps_of(rival.splitlines())


def worst(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], key: str) -> float:
    return max(abs(a[key] - b[key]) / abs(b[key]) for a, b in zip(ours, theirs, strict=True))


def compare(arguments: argparse.Namespace, job: Job, data: Path, folder: Path) -> bool:
    config = write_job(job, data, folder, arguments.seed)
    good = True
    for mode in job.modes:
        ours, theirs = train_both(arguments, config, mode)
        same_rows = [r["labelled_tokens"] for r in ours] == [r["labelled_tokens"] for r in theirs]
        loss, norm = worst(ours, theirs, "loss"), worst(ours, theirs, "grad_norm")
        first, last = theirs[0]["loss"], theirs[-1]["loss"]
        verdict = "ok" if same_rows and loss <= LIMIT else "DIFFERS" if same_rows else "OTHER ROWS"
        print(f"{job.name:14} {mode:11} {len(ours):3} steps  loss {first:.4f} -> {last:.4f}  "
              f"difference: loss {loss:.1e}, gradient norm {norm:.1e}  {verdict}", flush=True)
        good &= verdict == "ok"
    return good


def main() -> None:
    arguments = parse_arguments()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        data = draw_data(arguments.brazier, folder / "data")
        jobs = [job for job in JOBS if not arguments.job or job.name in arguments.job]
        results = [compare(arguments, job, data, folder) for job in jobs]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
