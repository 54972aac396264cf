#!/usr/bin/env python3
"""What a CUDA machine says: is it right, how fast are the layers, how fast is training beside PyTorch.

    python3 benches/gpu/run.py --brazier ./brazier --json gpu.json

Needs no Rust: a program built elsewhere with `--features cuda` is enough (`benches/gpu/pack.sh` makes one to carry), and
torch, transformers, tokenizers, pillow, numpy and pyyaml. In turn it runs

1. `brazier bench --only errors`: every operation, forward and backward, in f32 and bf16, against its definition on the CPU;
2. `brazier bench --only products --only operations`: the matrix products and operations of each model's layers;
3. each training job in Brazier, in PyTorch with scaled_dot_product_attention, and in the same with torch.compile of every
   block, alternately, from the same rows and fresh weights;

and prints one table and, with --json, everything. MFU counts the products that a step cannot do without (forward, gradients
of inputs above the lowest trained part, gradients of trained weights, causal attention) over the dense bf16 peak of the data
sheet (--peak, in TFLOP/s; known for A100, H100, H200 and GH200). The first step of a new shape compiles and tunes kernels:
minutes at first, kept in --cache afterwards.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "compare"))

from jobs import draw_data
from model import text_config
from speed import SKIP, Job, figures, make_parser, run_brazier, run_rival, write_job

# https://www.nvidia.com/en-us/data-center/: dense bf16, TFLOP/s.
PEAKS = {"A100": 312.0, "H100": 989.0, "H200": 989.0, "GH200": 989.0}


def decoder(hidden: int, intermediate: int, layers: int, heads: int, key_heads: int, head: int, vocabulary: int,
            tied: bool, qk_norm: bool) -> dict[str, Any]:
    return {
        "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": key_heads, "head_dim": head, "vocab_size": vocabulary,
        "max_position_embeddings": 8192, "tie_word_embeddings": tied, "qk_norm": qk_norm, "rope_theta": 1e6,
    }


# The dimensions of the models' config.json.
QWEN3_06B = decoder(1024, 3072, 28, 16, 8, 128, 151_936, True, True)
QWEN3_17B = decoder(2048, 6144, 28, 16, 8, 128, 151_936, True, True)
LLAMA_32_1B = decoder(2048, 8192, 16, 32, 8, 64, 128_256, True, False)
LLAMA_31_8B = decoder(4096, 14_336, 32, 32, 8, 128, 128_256, False, False)
CLIP_L_336 = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
              "image_size": 336, "patch_size": 14}
FULL_ROWS = (4000, 4000)  # words: more than a row takes
LORA = {"r": 16, "alpha": 32.0, "target_modules": ["all-linear"]}
JOBS = {
    "qwen3-0.6b": Job({"language": QWEN3_06B}, "full", 4, 2048, (1, 1), FULL_ROWS),
    "qwen3-1.7b": Job({"language": QWEN3_17B}, "full", 4, 2048, (1, 1), FULL_ROWS),
    "llama-3.2-1b": Job({"language": LLAMA_32_1B}, "full", 4, 2048, (1, 1), FULL_ROWS),
    "llama-3.1-8b-lora": Job({"language": LLAMA_31_8B, "lora": LORA}, "full", 1, 2048, (1, 1), FULL_ROWS),
    "llava-1.7b-alignment": Job({"language": QWEN3_17B, "vision": CLIP_L_336, "vision_feature_layer": -2}, "alignment", 8,
                                1024, (5, 60), (20, 200)),
}
RIVALS = {"sdpa": "", "compile": "--compile"}


def layer_weights(layer: dict[str, Any]) -> int:
    """Numbers in the matrices of a decoder block."""
    d, heads = layer["hidden_size"], 2 * (layer["num_attention_heads"] + layer["num_key_value_heads"])
    return d * layer["head_dim"] * heads + 3 * d * layer["intermediate_size"]


def step_flops(job: Job, step: dict[str, Any]) -> float:
    """Floating-point operations that a step of this many tokens cannot do without."""
    text, vision = job.model["language"], job.model.get("vision")
    tokens, labelled, rows = step["tokens"], step["labelled_tokens"], step["samples"]
    blocks = text["num_hidden_layers"] * layer_weights(text)
    # Behind the last attention there is work for the tokens that the head reads only.
    behind = text["hidden_size"] * (text["num_attention_heads"] * text["head_dim"] + 3 * text["intermediate_size"])
    head = text["hidden_size"] * text["vocab_size"]
    trained = job.mode in ("full", "end_to_end", "lm_only") and "lora" not in job.model
    passes = 3 if trained else 2
    products = 2 * passes * (tokens * blocks - (tokens - labelled) * behind + labelled * head)
    # Scores and values, forward and twice backward, half of them hidden by the mask.
    width = text["num_attention_heads"] * text["head_dim"]
    attention = 3 * 2 * text["num_hidden_layers"] * width * tokens * (tokens / rows)
    if vision:
        d, patches = vision["hidden_size"], (vision["image_size"] // vision["patch_size"]) ** 2 + 1
        products += 2 * rows * patches * vision["num_hidden_layers"] * (4 * d * d + 2 * d * vision["intermediate_size"])
        attention += 4 * rows * patches**2 * d * vision["num_hidden_layers"]
    return products + attention


def with_base(job: Job, data: Path, folder: Path) -> Job:
    """Adapters are for a model that is there: a folder with random weights in bf16."""
    if "lora" not in job.model:
        return job
    config = text_config(job.model["language"], 0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    for file in (data / "tokenizer").iterdir():
        shutil.copy(file, folder)
    return replace(job, model={"from": str(folder), "tokenizer": str(data / "tokenizer"), "lora": job.model["lora"]})


def device_name() -> str:
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]


def peak_tflops(name: str, given: float | None) -> float | None:
    longest_first = sorted(PEAKS, key=len, reverse=True)
    return given or next((PEAKS[part] for part in longest_first if part in name), None)


def bench(brazier: Path, folder: Path, *words: str) -> tuple[dict[str, Any], bool]:
    """What `brazier bench` finds, and whether all of it is right."""
    file = folder / "bench.json"
    command = [str(brazier), "bench", "--json", str(file), *words]
    print("$", *command, flush=True)
    done = subprocess.run(command, check=False)
    if done.returncode not in (0, 1) or not file.exists():
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}")
    return json.loads(file.read_text()), done.returncode == 0


def train(name: str, job: Job, data: Path, folder: Path, arguments: Any, peak: float | None) -> dict[str, Any]:
    """All sides of a job, in turn; prints a row for each."""
    config = write_job(with_base(job, data, folder / f"{name}-base"), data, folder / name, arguments)
    sides = {"brazier": lambda: run_brazier(config, arguments)}
    sides |= {side: (lambda switches=switches: run_rival(config, arguments, switches)) for side, switches in RIVALS.items()}
    runs: dict[str, list[Any]] = {side: [] for side in sides}
    for _ in range(arguments.rounds):
        for side, run in sides.items():
            try:
                runs[side].append(run())
            except SystemExit as failure:  # a rival may lack memory: the others still count
                print(f"{name} {side}: {failure}", flush=True)
    result: dict[str, Any] = {}
    for side, found in runs.items():
        if not found:
            continue
        values = [figures(run) for run in found]
        row = {key: statistics.median(value[key] for value in values) for key in values[0]}
        steps = [step for run in found for step in run.steps[SKIP:]]
        rate = statistics.median(step_flops(job, step) / step["step_seconds"] for step in steps)
        row |= {"tflops": rate / 1e12, "mfu": rate / 1e12 / peak if peak else None}
        row["losses"] = [step["loss"] for step in found[0].steps]
        result[side] = row
        ratio = result["brazier"]["tokens_per_second"] / row["tokens_per_second"] if "brazier" in result else float("nan")
        mfu = f"{row['mfu']:7.1%}" if peak else "      -"
        print(f"{name:22} {side:8} {row['tokens_per_second']:10.0f} {row['step_seconds'] * 1e3:9.1f} {row['tflops']:8.1f} "
              f"{mfu} {row['device_bytes'] / 2**30:8.1f} {row['first_step_seconds']:8.1f} {ratio:7.2f} "
              f"{row['losses'][-1]:8.4f}", flush=True)
    return result


def main() -> None:
    parser = make_parser(__doc__, JOBS, "cuda", "bf16")
    parser.add_argument("--peak", type=float, help="dense bf16 TFLOP/s of the device, if it is not a known one")
    parser.add_argument("--cache", type=Path, help="folder for compiled and tuned kernels (default: ~/.cache/brazier)")
    parser.add_argument("--skip-bench", action="store_true", help="training only")
    parser.add_argument("--shrink", type=int, default=1,
                        help="divide widths, layers, lengths and vocabularies, to try the script itself (default: 1)")
    arguments = parser.parse_args()
    if arguments.cache:
        os.environ["BRAZIER_CACHE"] = str(arguments.cache)
    is_cuda = arguments.device.startswith("cuda")
    name = device_name() if is_cuda else arguments.device
    peak = peak_tflops(name, arguments.peak)
    everything: dict[str, Any] = {"device": name, "peak_tflops": peak}
    print(f"device {name}, peak {peak or 'unknown'} TFLOP/s")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if not arguments.skip_bench:
            common = ("--device", arguments.device, "--precision", arguments.precision)
            errors, fine = bench(arguments.brazier, folder, *common, "--only", "errors", "--shrink", str(arguments.shrink))
            everything["errors"] = errors["errors"]
            if not fine:
                print("SOME OPERATIONS ARE WRONG ON THIS DEVICE", flush=True)
            likes = ["demo"] if arguments.shrink > 1 else ["qwen3-0.6b", "qwen3-1.7b", "llama-3.2-1b", "llama-3.1-8b"]
            for like in likes:
                length = str(max(4096 // arguments.shrink, 16))
                parts = ("--only", "products", "--only", "operations", "--like", like, "--length", length)
                everything[like] = bench(arguments.brazier, folder, *common, *parts)[0]
        data = draw_data(arguments.brazier, folder / "data")
        print(f"\n{'job':22} {'side':8} {'tokens/s':>10} {'step, ms':>9} {'TFLOP/s':>8} {'MFU':>7} {'GPU, GiB':>8} "
              f"{'first, s':>8} {'ratio':>7} {'loss':>8}", flush=True)
        for job in arguments.job or JOBS:
            everything[f"train {job}"] = train(job, shrunk(JOBS[job], arguments.shrink), data, folder, arguments, peak)
    if arguments.json:
        arguments.json.write_text(json.dumps(everything, indent=1))


def shrunk(job: Job, by: int) -> Job:
    """The same job with smaller extents."""
    if by == 1:
        return job
    text = dict(job.model["language"])
    for key, least in (("hidden_size", 16), ("intermediate_size", 16), ("num_hidden_layers", 1), ("vocab_size", 4096)):
        text[key] = max(text[key] // by, least)
    text["head_dim"] = 16
    model = job.model | {"language": text}
    if "vision" in model:
        model["vision"] = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                           "image_size": 28, "patch_size": 14}
    return replace(job, model=model, length=max(job.length // by, 64), micro_batch=1)


if __name__ == "__main__":
    main()
