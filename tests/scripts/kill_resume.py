#!/usr/bin/env python3
"""Kills a training run many times and shows that it ends as the run that was never killed.

One run is left alone. A second one, of the same configuration, is killed with SIGKILL at random moments and started
again with the same command each time. Then these must be equal, bit for bit:

* the exported weights,
* parameters, f32 masters and moments of the last checkpoint, and its counters,
* every line of metrics.jsonl, but for times, speed, memory and what was in it.

The moments are drawn from a seed and spread over all a run does: start-up (loading data, loading a checkpoint),
training, saving (while the checkpoint's files are being written), evaluation, and export. Only Python is needed:

    cargo build --release
    python3 tests/scripts/kill_resume.py                                      # 20 kills of the demo
    python3 tests/scripts/kill_resume.py --config configs/debug.yaml --set train.steps=300 --kills 5

The exit code is 0 if all is equal, 1 if not, 2 if a run failed by itself.
"""

import argparse
import dataclasses
import json
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CLOCK = ("_seconds", "_per_second", "_memory_bytes", "tflops", "mfu", "_cache_hits", "_cache_misses")
# A run that takes this many times as long as the undisturbed one, and a minute, hangs.
PATIENCE = 10


class Failed(Exception):
    """A run failed by itself."""


class Training:
    """`brazier train` as a child process whose log lines are read as they come."""

    def __init__(self, args, output):
        command = [str(args.brazier), "train", "--output", str(output), "--set", "track.console=json"]
        command += ["--config", str(args.config)] if args.config else []
        for item in args.set:
            command += ["--set", item]
        self.output = output
        self.started = time.monotonic()
        self.stderr = tempfile.TemporaryFile(mode="w+")
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.stderr, text=True
        )
        self.lines = []  # (seconds since the start, parsed line)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            try:
                self.lines.append((time.monotonic() - self.started, json.loads(line)))
            except json.JSONDecodeError:
                return  # cut off by the kill

    def is_running(self):
        return self.process.poll() is None

    def step(self):
        """The last step that this process logged; 0 before."""
        return self.lines[-1][1]["step"] if self.lines else 0

    def wait_until(self, condition, limit):
        """Waits until the condition holds or the run ends. True if it is still running."""
        while self.is_running() and not condition():
            if time.monotonic() - self.started > limit:
                self.process.kill()
                raise Failed(f"no end after {limit:.0f} s")
            time.sleep(0.0005)
        return self.is_running()

    def kill(self):
        """SIGKILL. False if the run had already ended."""
        was_running = self.is_running()
        self.process.kill()
        return self.end() == -9 and was_running

    def end(self):
        code = self.process.wait()
        self.reader.join()
        self.stderr.seek(0)
        self.message = self.stderr.read()
        self.stderr.close()
        return code

    def finish(self, limit):
        self.wait_until(lambda: False, limit)
        code = self.end()
        if code != 0:
            raise Failed(f"exit code {code}\n{self.message}")
        return self


@dataclasses.dataclass
class Shape:
    """What the undisturbed run tells about when what happens."""

    seconds: float  # all of it
    start_up: float  # until the first line of the log
    steps: int
    evaluations: dict  # step -> seconds

    @staticmethod
    def of(run):
        evaluations = {line["step"]: line["eval_seconds"] for _, line in run.lines if "eval_seconds" in line}
        return Shape(time.monotonic() - run.started, run.lines[0][0], run.step(), evaluations)

    @property
    def limit(self):
        return 60 + PATIENCE * self.seconds


def plan(shape, kills, rng):
    """Moments to kill at, as (kind, step): the steps ascend, so that the run gets on; those at the end come last."""
    num_export = max(1, kills // 10)
    kinds = ["saving", "evaluation", "start-up"] * (kills // 6 or 1)
    kinds = kinds[: max(0, kills - num_export)]
    kinds += ["training"] * (kills - num_export - len(kinds))
    rng.shuffle(kinds)
    steps = sorted(rng.uniform(0, shape.steps) for _ in kinds)
    return list(zip(kinds, steps)) + [("export", shape.steps)] * min(num_export, kills)


def wait_for(kind, step, run, shape, rng):
    """Waits for the moment. False if the run ended before it."""
    reached = lambda: run.wait_until(lambda: run.step() >= step, shape.limit)
    if kind == "start-up":
        delay = rng.uniform(0, shape.start_up)
    elif kind == "training":
        reached()
        delay = rng.uniform(0, 2 * shape.seconds / shape.steps)
    elif kind == "evaluation":
        step = min((at for at in shape.evaluations if at >= step), default=shape.steps)
        reached()
        delay = rng.uniform(0, shape.evaluations.get(step, 0))
    elif kind == "saving":
        reached()
        checkpoints = run.output / "checkpoints"
        run.wait_until(lambda: any(checkpoints.glob(".partial-*")), shape.limit)
        delay = rng.uniform(0, 0.003)
    else:
        # Whatever comes after training: answers, report, export.
        traces = [run.output / name for name in ("samples.json", "report.html", ".export.partial")]
        before = [trace.stat().st_mtime_ns if trace.exists() else 0 for trace in traces]
        wanted = rng.randrange(len(traces))
        changed = lambda: traces[wanted].exists() and traces[wanted].stat().st_mtime_ns != before[wanted]
        run.wait_until(changed, shape.limit)
        delay = rng.uniform(0, 0.002)
    deadline = time.monotonic() + delay
    return run.wait_until(lambda: time.monotonic() >= deadline, shape.limit)


def newest_checkpoint(output):
    """Step and folder of the newest complete checkpoint; (0, None) without one."""
    complete = [path.parent for path in (output / "checkpoints").glob("step-*/manifest.json")]
    steps = [(int(path.name.removeprefix("step-")), path) for path in complete]
    return max(steps, default=(0, None))


def interrupt(args, output, shape, rng):
    """Kills as planned. A run that ends before its moment is started again: a finished run evaluates and exports."""
    missed = 0
    for number, (kind, step) in enumerate(plan(shape, args.kills, rng), start=1):
        while True:
            run = Training(args, output)
            is_there = wait_for(kind, step, run, shape, rng)
            if is_there and run.kill():
                break
            if not is_there and run.end() != 0:
                raise Failed(f"exit code {run.process.returncode}\n{run.message}")
            missed += 1
            if missed > 10 * args.kills:
                raise Failed("the runs end before they can be killed: train longer")
            # Further on there is no such moment any more; while a finished run starts up there always is.
            kind = "start-up" if kind != "export" else kind
        saved, _ = newest_checkpoint(output)
        partial = " with a checkpoint half written" if any((output / "checkpoints").glob(".partial-*")) else ""
        seconds = time.monotonic() - run.started
        print(
            f"kill {number:3}  {kind:<10} after {seconds:6.2f} s at step {run.step() or '-':>5}; "
            f"saved up to step {saved}{partial}",
            flush=True,
        )


def tensors(folder):
    """Every tensor of the safetensors files of a folder: name -> (dtype, shape, bytes)."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        data = path.read_bytes()
        (size,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + size])
        header.pop("__metadata__", None)
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            found[name] = (entry["dtype"], entry["shape"], data[8 + size + begin : 8 + size + end])
    return found


def compare_tensors(what, whole, killed):
    """Prints what differs. True if nothing does."""
    whole, killed = tensors(whole), tensors(killed)
    different = sorted(name for name in whole.keys() | killed.keys() if whole.get(name) != killed.get(name))
    size = sum(len(data) for _, _, data in whole.values())
    print(f"{what}: {len(whole)} tensors, {size} bytes, {len(different)} differ")
    for name in different[:10]:
        print(f"    {name}")
    return bool(whole) and not different


def state(folder):
    """Counters of a checkpoint. The configuration's hash covers the run directory's name, which differs."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["state"].pop("config_hash")
    return manifest["state"], manifest["metric"]


def metrics(output):
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.endswith(CLOCK)} for line in lines]


def compare(whole, killed):
    """True if both runs ended alike."""
    same = compare_tensors("exported weights", whole / "export", killed / "export")
    (step, whole_last), (killed_step, killed_last) = newest_checkpoint(whole), newest_checkpoint(killed)
    if step != killed_step:
        print(f"last checkpoint: step {step} and step {killed_step}")
        return False
    same &= compare_tensors(f"checkpoint of step {step}", whole_last, killed_last)
    if state(whole_last) != state(killed_last):
        print(f"counters: {state(whole_last)}\n     and: {state(killed_last)}")
        same = False
    left, right = metrics(whole), metrics(killed)
    different = sum(a != b for a, b in zip(left, right)) + abs(len(left) - len(right))
    print(f"metrics.jsonl: {len(left)} lines, {different} differ")
    return same and different == 0


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--brazier", type=Path, default=ROOT / "target/release/brazier", help="the program")
    parser.add_argument("--config", type=Path, help="YAML file of the run; without it the demo's")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="override one key")
    parser.add_argument("--kills", type=int, default=20, help="how many (20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    parser.add_argument("--work", type=Path, help="folder for the two runs, emptied first; else a temporary one")
    return parser.parse_args()


def prove(args, work):
    rng = random.Random(args.seed)
    whole, killed = work / "whole", work / "killed"
    for output in (whole, killed):
        shutil.rmtree(output, ignore_errors=True)
    shape = Shape.of(Training(args, whole).finish(limit=24 * 3600))
    print(
        f"undisturbed: {shape.steps} steps in {shape.seconds:.1f} s, evaluations after {sorted(shape.evaluations)}",
        flush=True,
    )
    interrupt(args, killed, shape, rng)
    Training(args, killed).finish(shape.limit)
    return compare(whole, killed)


def main():
    args = arguments()
    try:
        if args.work:
            same = prove(args, args.work)
        else:
            with tempfile.TemporaryDirectory() as work:
                same = prove(args, Path(work))
    except Failed as error:
        print(f"FAILED: a run did not end by itself as it should: {error}")
        return 2
    print(f"{'EQUAL' if same else 'DIFFERENT'}: {args.kills} kills (seed {args.seed}) against none")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
