#!/usr/bin/env python3
"""How do memory and time of a step grow with the length of a sequence? Brazier and PyTorch (sdpa) in turn.

    cargo build --release
    python3 benches/compare/lengths.py --brazier target/release/brazier --threads 2

One row a step, all of it trained, of 1024 to 16384 tokens, through the model of `text-5m` in speed.py. Prints the peak
memory of the process, and the time and CPU time of a step (medians after the first two). Linear memory shows as
equal differences per token. --brazier-only leaves out the rival, whose logits alone are 256 MiB at 16384 tokens.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import tempfile
from pathlib import Path

import speed
from jobs import draw_data

STEPS = 6
SKIP = 2


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--brazier", type=Path, default=Path("target/release/brazier"), help="(default: %(default)s)")
    add("--device", default="flex", help="device of Brazier; the rival takes cuda for cuda (default: %(default)s)")
    add("--precision", choices=("f32", "bf16"), default="f32", help="(default: %(default)s)")
    add("--threads", type=int, default=os.cpu_count(), help="of both sides (default: %(default)s)")
    add("--length", type=int, action="append", help="tokens (default: 1024, doubled up to 16384)")
    add("--rival", default="", help="switches of the rival")
    add("--brazier-only", action="store_true")
    return parser.parse_args()


def describe(run: speed.Run) -> str:
    seconds = statistics.median(step["step_seconds"] for step in run.steps[SKIP:])
    cpu = (run.arrivals[-1][1] - run.arrivals[SKIP - 1][1]) / (len(run.arrivals) - SKIP)
    tokens = {step["tokens"] for step in run.steps}
    return f"{run.peak_bytes / 2**20:10.0f} {seconds:9.2f} {cpu:9.2f}  {sorted(tokens)}"


def main() -> None:
    arguments = parse_arguments()
    arguments.steps = STEPS
    print(f"{'length':>7} {'side':8} {'peak MiB':>10} {'step s':>9} {'CPU s':>9}  tokens of a step")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = draw_data(arguments.brazier, folder / "data")
        for length in arguments.length or [1024 << i for i in range(5)]:
            model = copy.deepcopy(speed.JOBS["text-5m"].model)
            model["language"]["max_position_embeddings"] = length
            words = 2 * length  # more than fit
            job = speed.Job(model, "full", 1, length, (1, 1), (words, words))
            config = speed.write_job(job, data, folder / str(length), arguments)
            rival = (lambda config, arguments: speed.run_rival(config, arguments, arguments.rival))
            sides = [("Brazier", speed.run_brazier)] + [("PyTorch", rival)] * (not arguments.brazier_only)
            for name, run in sides:
                print(f"{length:7} {name:8} {describe(run(config, arguments))}", flush=True)


if __name__ == "__main__":
    main()
