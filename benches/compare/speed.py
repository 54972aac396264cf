#!/usr/bin/env python3
"""Which is faster? The same job in Brazier and in PyTorch, alternately, on the same machine.

    cargo build --release
    python3 benches/compare/speed.py --brazier target/release/brazier --threads 2 --rounds 3

Jobs: `text-5m` and `text-45m` (Qwen3-shaped language models, all rows of full length, every token trained), `sft` (a
LLaVA-style model with a frozen tower, prompts of many lengths, short answers; every picture of every step goes through the
tower on both sides), and `sft-epochs`: the same for three epochs of --steps steps, over pictures of which none comes twice
in an epoch, with Brazier's cache of vision features. Its figures are those of the first epoch, in which all is computed, of
the epochs after it, and of the whole job. Each round runs both sides once; the figure of a run is the median over its steps
(of the whole job the mean), that of a side the median of its runs. Prints ratios Brazier / PyTorch of tokens and samples per
second, of peak memory, of CPU time per step (of the training process, user and system: steadier than wall time on a machine
with other work, above all with --threads 1, where nobody waits for anybody) and of the time from the command to the end of
the first step, and writes everything to --json. A quiet machine matters more than rounds.

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
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
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


@dataclass(frozen=True)
class Job:
    """What both sides do."""

    model: dict[str, Any]
    mode: str
    micro_batch: int
    length: int  # of a row, in tokens
    question: tuple[int, int]  # words, at least and at most
    answer: tuple[int, int]
    epochs: int = 1  # of as many steps as are asked for
    keeps_features: bool = False  # whether Brazier may keep what the frozen tower makes of an image


JOBS = {
    "text-5m": Job({"language": language(256, 768, 4, 4096, 256)}, "full", 4, 256, (1, 1), (400, 400)),
    "text-45m": Job({"language": language(512, 1536, 9, 32000, 512)}, "full", 2, 512, (1, 1), (800, 800)),
    "sft": Job({"language": language(384, 1152, 6, 8000, 512), "vision": VISION, "vision_feature_layer": -2},
               "end_to_end", 8, 512, (5, 300), (2, 30)),
}
JOBS["sft-epochs"] = replace(JOBS["sft"], epochs=3, keeps_features=True)


def make_parser(description: str, jobs: dict[str, Job], device: str, precision: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--brazier", type=Path, default=Path("target/release/brazier"), help="(default: %(default)s)")
    add("--device", default=device, help="device of Brazier; the rival takes cuda for cuda (default: %(default)s)")
    add("--precision", choices=("f32", "bf16"), default=precision, help="(default: %(default)s)")
    add("--threads", type=int, default=os.cpu_count(), help="of both sides (default: %(default)s)")
    add("--job", action="append", choices=list(jobs), help="only these")
    add("--rounds", type=int, default=3, help="(default: %(default)s)")
    add("--steps", type=int, default=40, help="of an epoch (default: %(default)s)")
    add("--rival", default="", help="switches of the rival")
    add("--json", type=Path, help="file for all figures")
    return parser


def write_job(job: Job, data: Path, folder: Path, arguments: argparse.Namespace) -> Path:
    """Rows and YAML of a job."""
    folder.mkdir(parents=True)
    generator = random.Random(0)
    pictures = sorted((data / "images" / "train").iterdir())
    num_rows = job.micro_batch * arguments.steps
    if job.keeps_features and num_rows > len(pictures):
        sys.exit(f"{num_rows} rows would share {len(pictures)} pictures: at most --steps {len(pictures) // job.micro_batch}")

    def words(bounds: tuple[int, int]) -> str:
        return " ".join(generator.choice(WORDS) for _ in range(generator.randint(*bounds)))

    with (folder / "train.jsonl").open("w") as file:
        for index in range(num_rows):
            asked: Any = words(job.question)
            row: dict[str, Any] = {}
            if "vision" in job.model:
                asked = [{"type": "image"}, {"type": "text", "text": asked}]
                row["images"] = [os.path.relpath(pictures[index % len(pictures)], folder)]
            row["messages"] = [{"role": "user", "content": asked}, {"role": "assistant", "content": words(job.answer)}]
            file.write(json.dumps(row) + "\n")
    config = {
        "output": str(folder / "run"),
        "model": {**job.model, "tokenizer": str(data / "tokenizer")},
        "data": {"train": [{"path": str(folder / "train.jsonl")}], "sequence_length": job.length, "too_long": "truncate",
                 "shuffle": False, "workers": 1},
        "train": {"mode": job.mode, "steps": arguments.steps * job.epochs, "micro_batch_size": job.micro_batch,
                  "precision": arguments.precision, "optimizer": {"lr": 1e-4, "weight_decay": 0.01}},
        "checkpoint": {"export": False, "every": "never"},
        "track": {"log_every": 1, "tensorboard": False, "console": "none"},
    }
    if not job.keeps_features:
        config["train"]["vision_cache_gib"] = 0
    path = folder / "job.yaml"
    path.write_text(json.dumps(config, indent=2))  # JSON is YAML
    return path


@dataclass
class Run:
    """A process that wrote one record a step, as seen from outside."""

    steps: list[dict[str, Any]]
    summary: dict[str, Any]  # what the rival says at its end
    arrivals: list[tuple[float, float]]  # of each step's record: seconds since the start, CPU seconds used by then
    peak_bytes: int


def timed(command: list[Any], threads: int, records: Path | None) -> Run:
    """Runs a command whose steps appear in the file `records`, or in what it prints."""
    environment = os.environ | {"RAYON_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as folder:
        printed, errors = Path(folder, "out"), Path(folder, "err")
        with printed.open("w") as out, errors.open("w") as err:
            started = time.perf_counter()
            process = subprocess.Popen([str(word) for word in command], stdout=out, stderr=err, env=environment)
        steps: list[dict[str, Any]] = []
        arrivals: list[tuple[float, float]] = []
        summary: dict[str, Any] = {}
        ended, position, peak = False, 0, 0
        while not ended:
            peak = peak_bytes(process.pid) or peak
            pid, status = os.waitpid(process.pid, os.WNOHANG)
            ended = pid != 0
            position, lines = read_lines(records or printed, position)
            read = list(map(json.loads, lines))
            seen = [record for record in read if "grad_norm" in record]
            summary = next((record["summary"] for record in read if "summary" in record), summary)
            if seen and not ended:
                arrivals += [(time.perf_counter() - started, cpu_seconds(process.pid))] * len(seen)
            steps += seen
            time.sleep(0.01)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"{shlex.join(map(str, command))} failed:\n{errors.read_text()}")
    return Run(steps, summary, arrivals, peak)


def read_lines(path: Path, position: int) -> tuple[int, list[str]]:
    """The whole lines behind a position, and the position behind them."""
    if not path.exists():
        return position, []
    with path.open("rb") as file:
        file.seek(position)
        data = file.read()
    data = data[: data.rfind(b"\n") + 1]
    return position + len(data), data.decode().splitlines()


def peak_bytes(pid: int) -> int:
    """Largest resident memory of a living process; 0 of one that has ended. (What `wait4` reports is no smaller than what
    this process held when it forked, which is much, with torch imported.)"""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def cpu_seconds(pid: int) -> float:
    """User and system time of a living process and its threads; processes that it started are not counted."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def sections(job: Job, arguments: argparse.Namespace) -> dict[str, tuple[range, Callable[[Iterable[float]], float]]]:
    """Parts of a run with figures of their own: their steps, and what stands for them. The first steps never count."""
    if job.epochs == 1:
        return {"": (range(SKIP, arguments.steps), statistics.median)}
    last = arguments.steps * job.epochs
    return {
        " epoch 1": (range(SKIP, arguments.steps), statistics.median),
        f" epochs 2-{job.epochs}": (range(arguments.steps, last), statistics.median),
        f" all {job.epochs}": (range(SKIP, last), statistics.fmean),
    }


def figures(
    run: Run, steps_of: range | None = None, middle: Callable[[Iterable[float]], float] = statistics.median
) -> dict[str, float]:
    steps_of = steps_of or range(SKIP, len(run.steps))
    steps = run.steps[steps_of.start : steps_of.stop]
    result = {"step_seconds": middle([step["step_seconds"] for step in steps]), "peak_bytes": run.peak_bytes}
    for what in ("tokens", "samples"):
        rates = [step[f"{what}_per_second"] for step in steps]
        seconds = sum(step["step_seconds"] for step in steps)
        # The mean rate is that of the time, not of the steps.
        whole = sum(rate * step["step_seconds"] for rate, step in zip(rates, steps)) / seconds
        result[f"{what}_per_second"] = whole if middle is statistics.fmean else middle(rates)
    (_, before), (_, after) = run.arrivals[steps_of.start - 1], run.arrivals[steps_of.stop - 1]
    of_steps = [step["device_memory_bytes"] for step in steps if step.get("device_memory_bytes")]
    result["device_bytes"] = run.summary.get("peak_device_bytes") or max(of_steps, default=0)
    result["step_cpu_seconds"] = (after - before) / len(steps)
    return result | {"first_step_seconds": run.arrivals[0][0]}


def run_brazier(config: Path, arguments: argparse.Namespace) -> Run:
    output = config.parent / "run"
    shutil.rmtree(output, ignore_errors=True)
    command = [arguments.brazier, "train", "--config", config, "--device", arguments.device]
    return timed(command, arguments.threads, output / "metrics.jsonl")


def run_rival(config: Path, arguments: argparse.Namespace, switches: str) -> Run:
    device = "cuda" if arguments.device.startswith("cuda") else "cpu"
    command = [sys.executable, Path(__file__).with_name("train.py"), "--config", config, "--device", device,
               "--dtype", arguments.precision, "--threads", arguments.threads, *shlex.split(switches)]
    return timed(command, arguments.threads, None)


def summarise(name: str, ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> None:
    def shown(key: str, scale: float, unit: str) -> str:
        sides = []
        for side in (ours, theirs):
            values = [run[key] * scale for run in side]
            sides.append((statistics.median(values), f"{statistics.median(values):.4g} ({min(values):.4g}-{max(values):.4g})"))
        (a, text_a), (b, text_b) = sides
        return f"{name:21} {key:19} {text_a:>26} {text_b:>26} {unit:8} ratio {a / b:.2f}"

    for key, scale, unit in (("tokens_per_second", 1, "tokens/s"), ("samples_per_second", 1, "rows/s"),
                             ("step_seconds", 1e3, "ms"), ("step_cpu_seconds", 1e3, "ms"),
                             ("peak_bytes", 2**-20, "MiB"), ("device_bytes", 2**-20, "MiB"),
                             ("first_step_seconds", 1, "s")):
        if theirs[0][key]:
            print(shown(key, scale, unit), flush=True)


def main() -> None:
    arguments = make_parser(__doc__, JOBS, "flex", "f32").parse_args()
    everything = {}
    print(f"{'job':21} {'figure':19} {'Brazier median (range)':>26} {'PyTorch median (range)':>26}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = draw_data(arguments.brazier, folder / "data")
        for name in arguments.job or JOBS:
            config = write_job(JOBS[name], data, folder / name, arguments)
            ours, theirs = [], []
            for _ in range(arguments.rounds):
                ours.append(run_brazier(config, arguments))
                theirs.append(run_rival(config, arguments, arguments.rival))
            for section, part in sections(JOBS[name], arguments).items():
                sides = [[figures(run, *part) for run in side] for side in (ours, theirs)]
                everything[name + section] = dict(zip(("brazier", "pytorch"), sides))
                summarise(name + section, *sides)
    if arguments.json:
        arguments.json.write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
