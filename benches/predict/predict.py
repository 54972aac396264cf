#!/usr/bin/env python3
"""Predicts step time and memory of a training run on many GPUs, from published figures. Nothing here is measured.

    python3 benches/predict/predict.py --machine GH200 --gpus 16 --stage 3
    python3 benches/predict/predict.py --write     # the tables of docs/scaling.md
    python3 benches/predict/predict.py --check     # they are up to date; memory is that of `brazier check`

What is assumed is in docs/scaling.md, the figures of the hardware in machines.py. Only the standard library is needed.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import sys
from dataclasses import dataclass

from machines import A100_40, GB, GH200, GIB, MACHINES, RING_HOP_INSIDE, RING_HOP_NET
from machines import START, TREE_HOP_INSIDE, TREE_HOP_NET, Machine

HERE = pathlib.Path(__file__).resolve().parent
DOCUMENT = HERE.parent.parent / "docs" / "scaling.md"
MEMORY = HERE / "memory.json"


@dataclass(frozen=True)
class Model:
    """A decoder, by Hugging Face's names."""

    name: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    gated: bool  # SwiGLU; else xIELU, with two alphas
    qk_norm: bool

    def block(self) -> int:
        d, k = self.hidden_size, self.head_dim
        attention = 2 * d * k * (self.num_attention_heads + self.num_key_value_heads)
        norms = 2 * d + (2 * k if self.qk_norm else 0)
        mlp = (3 if self.gated else 2) * d * self.intermediate_size + (0 if self.gated else 2)
        return attention + norms + mlp

    def table(self) -> int:
        return self.vocab_size * self.hidden_size

    def parameters(self) -> int:
        return 2 * self.table() + self.num_hidden_layers * self.block() + self.hidden_size

    def flops(self, tokens: int, length: int) -> float:
        """Forward and backward, without recompute: 6 for each weight of a product and token, and causal attention."""
        weights = self.parameters() - self.table()
        columns = self.num_attention_heads * self.head_dim
        attention = 6 * self.num_hidden_layers * columns * length
        return tokens * (6 * weights + attention)


APERTUS = Model("Apertus-8B", 131_072, 4096, 21_504, 32, 32, 8, 128, gated=False, qk_norm=True)
LLAMA = Model("Llama-3.1-8B", 128_256, 4096, 14_336, 32, 32, 8, 128, gated=True, qk_norm=False)
MODELS = {model.name: model for model in (APERTUS, LLAMA)}


@dataclass(frozen=True)
class Job:
    model: Model = APERTUS
    rows: int = 8  # of a micro-batch on one GPU
    length: int = 2048
    accumulation: int = 2
    recompute: bool = True
    stage: int = 0
    offload: bool = False
    gpus: int = 1
    gradient_bytes: int = 4  # of one number that is reduced


def logit_rows(rows: int, vocabulary: int) -> int:
    """`models::ops::logit_rows`."""
    most = lambda mebibytes: mebibytes * 2**18 // vocabulary
    return min(max(most(32), min(most(64), 128), 1), rows)


def memory(job: Job) -> dict:
    """Bytes of one GPU by part, and of the host. With one GPU, this is src/config/estimate/ in bf16, all weights trained."""
    model, n = job.model, job.gpus
    p = model.parameters()
    tokens = job.rows * job.length
    d, q = model.hidden_size, model.num_attention_heads * model.head_dim
    k = model.num_key_value_heads * model.head_dim
    inner = (4 if model.gated else 2) * model.intermediate_size
    whole = tokens * (2 * (4 * d + 3 * q + 3 * k + inner) + 4 * model.num_attention_heads)
    share = lambda parameters: -(-parameters // n)
    # What is whole for a moment: a table of the vocabulary, and the block that is fetched meanwhile.
    live = min(p, model.table() + model.block())
    split = n > 1
    optimizer = 12 * (share(p) if split and job.stage >= 1 else p)
    gathered = 2 * live if split and job.stage >= 3 else 0
    reduced = 4 * model.table() if split and job.stage >= 2 else 0
    return {
        "parameters": (2 * share(p) + gathered) if split and job.stage >= 3 else 2 * p,
        "gradients": (4 * share(p) + reduced) if split and job.stage >= 2 else 4 * p,
        "optimizer": 0 if job.offload else optimizer,
        "activations": model.num_hidden_layers * (2 * tokens * d if job.recompute else whole)
        + (whole if job.recompute else 0),
        "logits": 2 * 4 * logit_rows(tokens, model.vocab_size) * model.vocab_size,
        "batch": 2 * 4 * tokens + 2 * tokens * d,
        "host": optimizer if job.offload else 0,
    }


def on_gpu(parts: dict) -> int:
    return sum(size for part, size in parts.items() if part != "host")


@dataclass(frozen=True)
class Network:
    machine: Machine
    gpus: int
    efficiency: float  # of a link's rate

    def nodes(self) -> int:
        return -(-self.gpus // self.machine.gpus_per_node)

    def bandwidth(self) -> float:
        """Of a ring of all GPUs. As many rings as a node has NICs go at once, so each GPU has a NIC of its own, or all of
        them together; inside a node NVLink bounds them."""
        here = min(self.gpus, self.machine.gpus_per_node)
        between = here * self.machine.nic if self.nodes() > 1 else math.inf
        return self.efficiency * min(self.machine.inside, between)

    def half_ring(self, size: float, calls: int) -> float:
        """Reduce-scatter or all-gather: n-1 hops, each with size/n."""
        n = self.gpus
        if n == 1:
            return 0.0
        between = self.nodes() if self.nodes() > 1 else 0
        latency = START + between * RING_HOP_NET + (n - 1 - between) * RING_HOP_INSIDE
        return (n - 1) / n * size / self.bandwidth() + calls * latency

    def all_reduce(self, size: float, calls: int) -> float:
        """The better of ring and tree, as NCCL chooses."""
        n, nodes = self.gpus, self.nodes()
        if n == 1:
            return 0.0
        depth = math.ceil(math.log2(nodes)) * TREE_HOP_NET if nodes > 1 else 0.0
        inside = (min(n, self.machine.gpus_per_node) - 1) * TREE_HOP_INSIDE
        tree = 2 * size / self.bandwidth() + calls * (START + 2 * (depth + inside))
        return min(2 * self.half_ring(size, calls), tree)


def step(job: Job, machine: Machine, utilisation: float, efficiency: float, micro_secs: float | None = None) -> dict:
    """Seconds of an optimizer step by part. `utilisation` is of all floating-point work, what is computed again included."""
    p, links = job.model.parameters(), job.model.num_hidden_layers + 2
    network = Network(machine, job.gpus, efficiency)
    tokens = job.rows * job.length
    useful = job.model.flops(tokens, job.length)
    work = useful * (4 / 3 if job.recompute else 1)
    micro = micro_secs or work / (utilisation * machine.peak_flops)
    backward = micro * (3 / 4 if job.recompute else 2 / 3)
    gradients = job.gradient_bytes * p
    gather = network.half_ring(2 * p, links)
    scatter = network.half_ring(gradients, links)
    # Communication while something is computed, by how long that is.
    if job.stage == 0:
        overlaps = [(network.all_reduce(gradients, links), backward)]
    elif job.stage == 1:
        overlaps = [(scatter, backward), (gather, 0.0)]
    elif job.stage == 2:
        overlaps = [(scatter, backward)] * job.accumulation + [(gather, 0.0)]
    else:
        overlaps = [(2 * gather + scatter, micro)] * job.accumulation
    share = p / job.gpus if job.stage >= 1 else p
    if job.offload:
        # Gradients down, parameters up, and AdamW by the host: master, two moments, read and written.
        link = (job.gradient_bytes + 2) * share / (efficiency * machine.to_host)
        update = max(link, share * (3 * 8 + job.gradient_bytes + 2) / (efficiency * machine.host_stream))
    else:
        # HBM is 1.5 to 4 TB/s: milliseconds; taken as 30 bytes a number at 1 TB/s.
        update = share * 30 / 1e12
    communication = sum(seconds for seconds, _ in overlaps)
    exposed = sum(max(0.0, seconds - hidden) for seconds, hidden in overlaps)
    compute = job.accumulation * micro
    rows = job.rows * job.accumulation
    best, worst = compute + exposed + update, compute + communication + update
    return {
        "compute": compute,
        "communication": communication,
        "update": update,
        "best": best,
        "worst": worst,
        "tokens": rows * job.length * job.gpus,
        "mfu": job.accumulation * useful / best / machine.peak_flops,
    }


def row(job: Job, machine: Machine, args) -> str:
    parts, time = memory(job), step(job, machine, args.utilisation, args.efficiency, args.micro_secs)
    need = on_gpu(parts)
    room = machine.memory - machine.reserved
    host = f"{parts['host'] / GB:.0f}" if parts["host"] else "-"
    fits = "yes" if need <= room and parts["host"] <= machine.host_memory else "**no**"
    name = f"{job.stage}{' + offload' if job.offload else ''}"
    return (
        f"| {job.gpus} | {name} | {job.rows} x {job.accumulation} | {need / GB:.0f} | {host} | {fits} | {time['compute']:.2f} | "
        f"{time['communication']:.2f} | {time['update']:.2f} | {time['best']:.2f} to {time['worst']:.2f} | "
        f"{time['tokens'] / time['worst'] / 1e3:.1f} to {time['tokens'] / time['best'] / 1e3:.1f} |\n"
    )


HEAD = (
    "| GPUs | ZeRO | rows x accumulated | GB of a GPU | GB of host | fits | compute s | communication s | update s | step s | "
    "thousand tokens/s |\n|---|---|---|---|---|---|---|---|---|---|---|\n"
)
WAYS = [(0, False), (1, False), (2, False), (3, False), (2, True), (3, True)]


def tables(args) -> dict[str, str]:
    """By the name of the place in docs/scaling.md."""

    def table(machine: Machine, sizes: list[int], ways, **more) -> str:
        jobs = [Job(gpus=n, stage=stage, offload=offload, **more) for n in sizes for stage, offload in ways]
        return HEAD + "".join(row(job, machine, args) for job in jobs)

    large = [64, 128, 256, 512, 1024]
    parts = ["parameters", "gradients", "optimizer", "activations", "logits", "batch"]
    one = memory(Job())
    return {
        "one": "| part | GB |\n|---|---|\n" + "".join(f"| {part} | {one[part] / GB:.1f} |\n" for part in parts),
        "gh200": table(GH200, [16], WAYS),
        "a100": table(A100_40, [8], WAYS, rows=2, accumulation=8),
        "gh200-large": table(GH200, large, [(1, False), (2, False), (3, False)]),
        "a100-large": table(A100_40, large, [(2, False), (3, False)], rows=2, accumulation=2),
        "utilisation": utilisation_table(args),
    }


def utilisation_table(args) -> str:
    job = Job(gpus=16, stage=3)
    lines = "| utilisation | compute s | step s | MFU at best |\n|---|---|---|---|\n"
    for utilisation in (0.1, 0.2, 0.3, 0.4, 0.5):
        time = step(job, GH200, utilisation, args.efficiency)
        lines += f"| {utilisation:.0%} | {time['compute']:.2f} | {time['best']:.2f} to {time['worst']:.2f} | {time['mfu']:.0%} |\n"
    return lines


def filled(text: str, args) -> str:
    for name, table in tables(args).items():
        begin, end = f"<!-- predict: {name} -->\n", "<!-- end -->"
        before, rest = text.split(begin)
        text = before + begin + table + end + rest.split(end, 1)[1]
    return text


def check(args) -> None:
    """`memory.json` is written by a test of the program, from src/config/estimate/."""
    for case in json.loads(MEMORY.read_text()):
        job = Job(MODELS[case["model"]], case["rows"], case["length"], 1, case["recompute"])
        assert job.model.parameters() == case["parameters"], (case, job.model.parameters())
        ours = memory(job)
        assert {part: ours[part] for part in case["bytes"]} == case["bytes"], (case, ours)
    network = Network(GH200, 2, 1.0)
    assert math.isclose(network.half_ring(2e9, 0), 1e9 / (450 * GB)), "half of the bytes over one link"
    assert math.isclose(network.all_reduce(2e9, 0), 2e9 / (450 * GB)), "twice half of the bytes"
    assert Network(GH200, 16, 1.0).bandwidth() == 100 * GB, "four NICs"
    shares = [on_gpu(memory(Job(gpus=64, stage=stage))) for stage in range(4)]
    assert shares == sorted(shares, reverse=True), shares
    assert DOCUMENT.read_text() == filled(DOCUMENT.read_text(), args), "docs/scaling.md is out of date: --write"
    print("memory agrees with the program; docs/scaling.md is up to date")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machine", choices=MACHINES, default="GH200")
    parser.add_argument("--model", choices=MODELS, default=APERTUS.name)
    for field in dataclasses.fields(Job):
        if field.type is int:
            parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, default=field.default)
    parser.add_argument("--offload", action="store_true")
    parser.add_argument("--keep-activations", action="store_true", help="no recompute")
    parser.add_argument("--utilisation", type=float, default=0.30, help="part of the peak at which all work is done")
    parser.add_argument("--efficiency", type=float, default=0.80, help="part of a link's rate that arrives")
    parser.add_argument("--micro-secs", type=float, help="measured forward and backward of one micro-batch, for the utilisation")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if args.write:
        DOCUMENT.write_text(filled(DOCUMENT.read_text(), args))
    elif args.check:
        check(args)
    else:
        fields = {field.name: getattr(args, field.name) for field in dataclasses.fields(Job) if field.type is int}
        job = Job(MODELS[args.model], recompute=not args.keep_activations, offload=args.offload, **fields)
        sys.stdout.write(HEAD + row(job, MACHINES[args.machine], args))
        for part, size in memory(job).items():
            print(f"{part:<12} {size / GB:8.2f} GB")


if __name__ == "__main__":
    main()
