#!/usr/bin/env python3
"""The rival: a plain PyTorch loop that trains the model of a Brazier configuration on the same data.

    python3 benches/compare/train.py --config configs/demo.yaml --steps 100 --threads 2

Prints one JSON object per step, with the names of Brazier's metrics.jsonl, and a summary. benches/README.md says how
the two are compared. Needs torch, transformers, tokenizers, pillow, numpy and pyyaml.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import resource
import statistics
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, Trainer, get_scheduler
from transformers.modeling_layers import GradientCheckpointingLayer

from chat_data import IGNORE, Batch, ChatRows, make_loader
from model import add_adapters, build_model, freeze, image_tokens, part_of
from settings import Settings, load_settings


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config", type=Path, default=Path("configs/demo.yaml"), help="Brazier's YAML (default: %(default)s)")
    add("--set", dest="overrides", metavar="A.B=C", action="append", default=[], help="replaces a value of the YAML")
    add("--data", type=Path, help="folder with train.jsonl, images and tokenizer/, instead of the configured one")
    add("--steps", type=int, help="stop after so many steps; the schedule keeps its length (default: all)")
    add("--skip", type=int, default=10, help="first steps that the summary leaves out (default: %(default)s)")
    add("--device", default="cpu", help="cpu, cuda or cuda:N (default: %(default)s)")
    add("--dtype", choices=("f32", "bf16", "bf16-weights"), default="f32",
        help="bf16: autocast over f32 weights; bf16-weights: weights and moments in bf16 (default: %(default)s)")
    add("--tf32", action="store_true", help="let f32 matrix products use TF32 on CUDA")
    add("--threads", type=int, help="threads of PyTorch on the CPU (default: PyTorch's choice)")
    add("--workers", type=int, help="processes that decode (default: data.workers); 0 decodes in the loop")
    add("--cache", action="store_true", help="decode everything before the first step")
    add("--attn", choices=("sdpa", "eager", "flash_attention_2"), default="sdpa", help="(default: %(default)s)")
    add("--head", choices=("full", "labelled"), default="full",
        help="logits at every position, as transformers does, or only where a label counts (default: %(default)s)")
    add("--compile", action="store_true", help="torch.compile every block")
    return parser.parse_args()


def make_optimizer(model: PreTrainedModel, options: dict[str, Any]) -> torch.optim.AdamW:
    """Fused AdamW; no decay on biases and norms; a learning rate for each part of the model."""
    decayed = set(Trainer.get_decay_parameter_names(None, model))
    rates = {part: group["lr"] for part, group in (options.get("groups") or {}).items() if group}
    groups: dict[tuple[str, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((part_of(name), name in decayed), []).append(parameter)
    weight_decay, lr = options.get("weight_decay", 0.0), options["lr"]
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": rates.get(part, lr), "weight_decay": weight_decay if decays else 0.0}
            for (part, decays), parameters in groups.items()
        ],
        lr=lr, betas=tuple(options.get("betas", (0.9, 0.999))), eps=options.get("eps", 1e-8), fused=True,
    )


def make_schedule(optimizer: torch.optim.Optimizer, schedule: dict[str, Any] | None, total: int) -> Any:
    """The twin in transformers of a Brazier schedule."""
    options = schedule or {"name": "cosine"}

    def steps(kind: str) -> int:
        ratio = options.get(f"{kind}_ratio") or 0.0
        return int(options.get(f"{kind}_steps") or math.ceil(ratio * total))

    peak = optimizer.defaults["lr"]
    floor = options["min_lr"] / peak if options.get("min_lr") else options.get("min_lr_ratio") or 0.0
    name, extra = {
        "constant": ("constant_with_warmup", {}),
        "linear": ("polynomial", {"power": 1.0, "lr_end": floor * peak}),
        "cosine": ("cosine", {}),
        "cosine_with_min_lr": ("cosine_with_min_lr", {"min_lr_rate": floor}),
        "wsd": ("warmup_stable_decay",
                {"num_decay_steps": steps("decay"), "decay_type": "linear", "min_lr_ratio": floor}),
        "inverse_sqrt": ("inverse_sqrt", {"timescale": options.get("timescale", 10_000)}),
    }[options["name"]]
    return get_scheduler(name, optimizer, steps("warmup"), total, extra)


def forward_loss(model: PreTrainedModel, batch: Batch, head: str) -> torch.Tensor:
    """Sum of the token losses. No attention mask: rows are padded on the right, so a causal model needs none."""
    inputs: dict[str, Any] = {"input_ids": batch.input_ids, "use_cache": False}
    if batch.pixels is not None:
        inputs["pixel_values"] = batch.pixels.to(model.dtype)
    hidden = model.model(**inputs).last_hidden_state[:, :-1]
    targets = batch.labels[:, 1:]
    if head == "labelled":
        counts = targets != IGNORE
        hidden, targets = hidden[counts], targets[counts]
    logits = model.lm_head(hidden).float().flatten(0, -2)
    return torch.nn.functional.cross_entropy(logits, targets.flatten(), ignore_index=IGNORE, reduction="sum")


def train_step(model: PreTrainedModel, optimizer: torch.optim.Optimizer, batches: list[Batch],
               autocast: AbstractContextManager[Any], max_norm: float, head: str) -> tuple[float, float]:
    """One optimizer step; the loss is a sum over the micro-batches, divided once by all labelled tokens."""
    device = next(model.parameters()).device
    num_labelled = sum(batch.num_labelled for batch in batches)
    total = torch.zeros((), device=device)
    for batch in batches:
        with autocast:
            loss = forward_loss(model, batch.to(device), head) / num_labelled
        loss.backward()
        total += loss.detach()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm or float("inf"))
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total.item(), norm.item()  # waits for the device, once a step


def run(model: PreTrainedModel, batches: Iterator[Batch], settings: Settings, total_steps: int,
        arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Trains and yields one record per step."""
    optimizer = make_optimizer(model, settings.train["optimizer"])
    schedule = make_schedule(optimizer, settings.train.get("schedule"), total_steps)
    kind = torch.device(arguments.device).type
    autocast = torch.autocast(kind, torch.bfloat16) if arguments.dtype == "bf16" else nullcontext()
    max_norm = settings.train.get("max_grad_norm", 1.0)
    for step in range(1, min(arguments.steps or total_steps, total_steps) + 1):
        start = time.perf_counter()
        step_batches = list(itertools.islice(batches, settings.accumulation))
        fetched = time.perf_counter()
        lr = optimizer.param_groups[0]["lr"]
        loss, norm = train_step(model, optimizer, step_batches, autocast, max_norm, arguments.head)
        schedule.step()
        seconds = time.perf_counter() - start
        tokens = sum(batch.num_tokens for batch in step_batches)
        samples = sum(len(batch.input_ids) for batch in step_batches)
        yield {
            "step": step, "loss": loss, "lr": lr, "grad_norm": norm, "tokens": tokens,
            "labelled_tokens": sum(batch.num_labelled for batch in step_batches), "samples": samples,
            "tokens_per_second": tokens / seconds, "samples_per_second": samples / seconds,
            "step_seconds": seconds, "data_seconds": fetched - start,
        }


def compile_blocks(model: PreTrainedModel) -> None:
    """Compiles block by block: all blocks of a kind share one compilation, and the splice between them none."""
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.compile()


def summarise(records: list[dict[str, Any]], skip: int, device: str) -> dict[str, Any]:
    """Medians after the first `skip` steps, totals, and peak memory."""
    kept = records[skip:] or records
    keys = ("step_seconds", "data_seconds", "tokens_per_second", "samples_per_second")
    summary: dict[str, Any] = {f"median_{key}": statistics.median(r[key] for r in kept) for key in keys}
    seconds = sum(record["step_seconds"] for record in kept)
    summary["mean_tokens_per_second"] = sum(record["tokens"] for record in kept) / seconds
    summary |= {"steps": len(records), "skipped": len(records) - len(kept), "last_loss": records[-1]["loss"]}
    summary["peak_process_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    if torch.device(device).type == "cuda":
        summary["peak_device_bytes"] = torch.cuda.max_memory_allocated(device)
    return summary


def main() -> None:
    arguments = parse_arguments()
    settings = load_settings(arguments.config, arguments.data, arguments.overrides)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.set_float32_matmul_precision("high" if arguments.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = arguments.tf32
    torch.manual_seed(settings.seed)
    rows = ChatRows(settings, *image_tokens(settings.model), cache=arguments.cache)
    workers = settings.data.get("workers", 2) if arguments.workers is None else arguments.workers
    loader = make_loader(rows, settings, workers, pin=torch.device(arguments.device).type == "cuda")
    total_steps = settings.total_steps(len(rows))
    model = build_model(settings.model, rows.vocabulary, arguments.attn).train()
    if arguments.dtype == "bf16-weights":
        model.to(torch.bfloat16)
    if lora := settings.model.get("lora"):
        add_adapters(model, lora, torch.float32 if arguments.dtype == "f32" else torch.bfloat16)
    else:
        freeze(model, settings.train.get("mode", "full"))
    model.to(arguments.device)
    if arguments.compile:
        compile_blocks(model)
    print(json.dumps({
        "torch": torch.__version__, "device": arguments.device, "dtype": arguments.dtype,
        "threads": torch.get_num_threads(), "workers": workers, "compile": arguments.compile, "attn": arguments.attn,
        "head": arguments.head, "rows": len(rows), "total_steps": total_steps,
        "samples_per_step": settings.micro_batch_size * settings.accumulation,
        "parameters": sum(p.numel() for p in model.parameters()),
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }), flush=True)
    records = []
    for record in run(model, iter(loader), settings, total_steps, arguments):
        records.append(record)
        print(json.dumps(record), flush=True)
    print(json.dumps({"summary": summarise(records, arguments.skip, arguments.device)}), flush=True)


if __name__ == "__main__":
    main()
