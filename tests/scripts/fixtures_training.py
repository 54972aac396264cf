"""Fixtures of what happens after the backward pass: AdamW with clipping, schedules, a whole training run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import Trainer, get_scheduler

from fixture_models import (
    IGNORE,
    VLM,
    Tensors,
    brazier_name,
    build_vlm,
    named_weights,
    save_fixture,
    token_losses,
    without_gradient,
)

ADAMW_RULE = [
    "1. norm = sqrt(sum of squares over all gradients of the step); g *= min(1, max_norm / (norm + 1e-6))",
    "   (torch.nn.utils.clip_grad_norm_: the 1e-6 is added even when nothing is clipped, but then the factor is 1)",
    "2. p *= 1 - lr * weight_decay (decoupled, before the update, with this step's lr)",
    "3. m += (1 - beta1) * (g - m);  v = beta2 * v + (1 - beta2) * g * g",
    "4. p -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps), t = 1 at the first step",
]


def record_adamw(folder: Path) -> None:
    """`adamw.safetensors`: three tensors, twelve steps, some of them clipped, the first at a learning rate of 0."""
    num_steps, max_norm, kept = 12, 1.0, (1, 2, 3, 6, 12)
    lrs = [0.0, 1e-3, 3e-3, 3e-3, 2.5e-3, 2e-3, 1.7e-3, 1.2e-3, 8e-4, 4e-4, 1e-4, 1e-5]
    settings = {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "max_grad_norm": max_norm}
    decay = {"matrix": 0.1, "bias": 0.0, "norm": 0.0}
    generator = torch.Generator().manual_seed(41)
    shapes = {"matrix": (5, 7), "bias": (7,), "norm": (5,)}
    parameters = {name: torch.nn.Parameter(torch.randn(s, generator=generator)) for name, s in shapes.items()}
    gradients = {name: torch.randn((num_steps, *s), generator=generator) for name, s in shapes.items()}
    for name in shapes:  # norms from 0.04 to 20: above and below the bound
        for step in range(num_steps):
            gradients[name][step] *= (3.0, 0.1, 1.0, 0.005, 0.12, 0.4)[step % 6]
    gradients["matrix"][:, 0, :] = 0.0  # a row no token touched: decays, does not move otherwise
    tensors: Tensors = {f"init.{name}": p.detach().clone() for name, p in parameters.items()}
    tensors |= {f"grad.{name}": gradient for name, gradient in gradients.items()}
    optimizer = torch.optim.AdamW(
        [{"params": [p], "weight_decay": decay[name]} for name, p in parameters.items()],
        lr=0.0, betas=(0.9, 0.95), eps=1e-8, foreach=False, fused=False,
    )
    norms = []
    for step in range(num_steps):
        for name, parameter in parameters.items():
            parameter.grad = gradients[name][step].clone()
        norms.append(torch.nn.utils.clip_grad_norm_(parameters.values(), max_norm))
        for group in optimizer.param_groups:
            group["lr"] = lrs[step]
        optimizer.step()
        if step + 1 in kept:
            for name, parameter in parameters.items():
                tensors[f"after.{step + 1}.{name}"] = parameter.detach().clone()
                for moment in ("exp_avg", "exp_avg_sq"):
                    tensors[f"after.{step + 1}.{name}.{moment}"] = optimizer.state[parameter][moment].clone()
    tensors |= {"grad_norm": torch.stack(norms), "lr": torch.tensor(lrs, dtype=torch.float64)}
    about = settings | {"weight_decay": decay, "num_steps": num_steps, "recorded_after_steps": kept}
    conventions = [
        "grad.NAME [step, ...] before clipping; grad_norm [step] as returned, before clipping; lr [step]",
        "after.T.NAME, after.T.NAME.exp_avg, after.T.NAME.exp_avg_sq: state after T steps",
    ]
    save_fixture(folder / "adamw.safetensors", tensors, about | {"rule": ADAMW_RULE, "conventions": conventions})


def schedule_cases() -> list[dict[str, Any]]:
    """Every schedule that has a twin in transformers, with Brazier's words for it."""
    def case(name: str, kind: dict[str, Any], warmup: int, total: int, hf: str, **kwargs: Any) -> dict[str, Any]:
        return {
            "name": name, "kind": kind, "warmup_steps": warmup, "total_steps": total,
            "hf": {"name": hf, "kwargs": kwargs},
        }

    wsd = {"num_decay_steps": 10, "decay_type": "linear"}
    return [
        case("constant", {"type": "constant"}, 0, 20, "constant_with_warmup"),
        case("constant_warmup", {"type": "constant"}, 5, 20, "constant_with_warmup"),
        case("linear", {"type": "linear", "min_factor": 0.0}, 5, 40, "linear"),
        case("linear_no_warmup", {"type": "linear", "min_factor": 0.0}, 0, 7, "linear"),
        case("linear_min", {"type": "linear", "min_factor": 0.1}, 5, 40, "polynomial", power=1.0, lr_end=2e-5),
        case("cosine", {"type": "cosine", "min_factor": 0.0}, 3, 40, "cosine"),
        case("cosine_no_warmup", {"type": "cosine", "min_factor": 0.0}, 0, 7, "cosine"),
        case("cosine_min_lr", {"type": "cosine", "min_factor": 0.25}, 4, 40, "cosine_with_min_lr", min_lr=5e-5),
        case("cosine_min_lr_rate", {"type": "cosine", "min_factor": 0.1}, 4, 40, "cosine_with_min_lr", min_lr_rate=0.1),
        case("wsd", {"type": "wsd", "decay_steps": 10, "min_factor": 0.0}, 5, 40, "warmup_stable_decay", **wsd),
        case("wsd_min", {"type": "wsd", "decay_steps": 10, "min_factor": 0.1}, 0, 40, "warmup_stable_decay",
             min_lr_ratio=0.1, **wsd),
        case("wsd_min_warmup", {"type": "wsd", "decay_steps": 10, "min_factor": 0.1}, 5, 40, "warmup_stable_decay",
             min_lr_ratio=0.1, **wsd) | {"hf_warmup_starts_at": 0.1},
        case("inverse_sqrt", {"type": "inverse_sqrt", "timescale": 10}, 4, 60, "inverse_sqrt", timescale=10),
        case("inverse_sqrt_default", {"type": "inverse_sqrt", "timescale": 8}, 8, 60, "inverse_sqrt"),
    ]


def record_schedules(folder: Path) -> None:
    """`schedules.json`: factors of the peak learning rate at steps 0..=total_steps."""
    base_lr = 2e-4
    cases = []
    for case in schedule_cases():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base_lr)
        scheduler = get_scheduler(
            case["hf"]["name"], optimizer, num_warmup_steps=case["warmup_steps"],
            num_training_steps=case["total_steps"], scheduler_specific_kwargs=case["hf"]["kwargs"],
        )
        lrs = []
        for _ in range(case["total_steps"] + 1):
            lrs.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        factors = [scheduler.lr_lambdas[0](step) for step in range(case["total_steps"] + 1)]
        used = torch.tensor(lrs, dtype=torch.float64) / base_lr
        torch.testing.assert_close(used, torch.tensor(factors, dtype=torch.float64))
        cases.append(case | {"factors": factors})
    about = {
        "conventions": [
            "factors[step]: the update number step, counted from 0, uses lr = base_lr * factors[step]",
            "so with warm-up the first update has a learning rate of 0, and update number warmup_steps has the peak",
            "a run of total_steps updates uses factors[..total_steps]; factors[total_steps] is where the curve ends",
            "hf_warmup_starts_at: transformers' warmup_stable_decay warms up from min_lr_ratio, not from 0",
        ],
        "base_lr": base_lr,
        "recorded_with": {"torch": torch.__version__, "transformers": transformers.__version__},
        "cases": cases,
    }
    lines = ",\n    ".join(json.dumps(case) for case in cases)
    head = json.dumps({key: value for key, value in about.items() if key != "cases"}, indent=2)
    (folder / "schedules.json").write_text(f'{head[:-2]},\n  "cases": [\n    {lines}\n  ]\n}}\n')


def draw_micro_batches(num_steps: int, accumulation: int, pool_size: int) -> list[list[dict[str, Any]]]:
    """Rows of 1 or 2 per micro-batch with 0 to 2 images, padded on the right; at least one image per step."""
    generator = torch.Generator().manual_seed(51)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=generator))

    def draw_row(least_images: int) -> tuple[list[int], list[int], list[int]]:
        images = [draw(0, pool_size - 1) for _ in range(draw(least_images, 2))]
        prompt = [1]
        for _ in images:
            prompt += [draw(5, 31) for _ in range(draw(0, 2))] + [VLM["image_token_id"]] * 9
        prompt += [draw(5, 31) for _ in range(draw(1, 4))]
        answer = [draw(5, 31) for _ in range(draw(1, 5))] + [2]
        return prompt + answer, [IGNORE] * len(prompt) + answer, images

    steps = []
    for _ in range(num_steps):
        micro_batches = []
        for micro in range(accumulation):
            rows = [draw_row(1 if micro == 0 and row == 0 else 0) for row in range(draw(1, 2))]
            length = max(len(ids) for ids, _, _ in rows)
            micro_batches.append({
                "input_ids": torch.tensor([ids + [0] * (length - len(ids)) for ids, _, _ in rows]),
                "attention_mask": torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids, _, _ in rows]),
                "labels": torch.tensor([labels + [IGNORE] * (length - len(labels)) for _, labels, _ in rows]),
                "images": [image for _, _, images in rows for image in images],
            })
        steps.append(micro_batches)
    return steps


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> tuple[list[dict[str, Any]], list[str]]:
    """Two groups by Hugging Face's rule (biases and norms do not decay, embeddings and class_embedding do)."""
    decayed = set(Trainer.get_decay_parameter_names(None, model))
    named = list(model.named_parameters())
    groups = [
        {"params": [p for name, p in named if name in decayed], "weight_decay": weight_decay},
        {"params": [p for name, p in named if name not in decayed], "weight_decay": 0.0},
    ]
    return groups, sorted(brazier_name(name) for name in decayed)


def train_step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, pool: torch.Tensor,
               micro_batches: list[dict[str, Any]], max_norm: float) -> tuple[float, float, int]:
    """One optimizer step: the loss is a sum over micro-batches, divided once. Returns loss, norm, labelled tokens."""
    num_labelled = sum(int((micro["labels"][:, 1:] != IGNORE).sum()) for micro in micro_batches)
    loss = 0.0
    for micro in micro_batches:
        pixels = pool[micro["images"]] if micro["images"] else None
        output = model(input_ids=micro["input_ids"], attention_mask=micro["attention_mask"],
                       pixel_values=pixels, use_cache=False)
        loss_sum, _ = token_losses(output.logits, micro["labels"])
        (loss_sum / num_labelled).backward()
        loss += loss_sum.item() / num_labelled
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    return loss, norm.item(), num_labelled


def record_training(folder: Path) -> None:
    """`training.safetensors`: the VLM of `vlm.safetensors` trained for 20 steps, inputs and results."""
    seed, num_steps, accumulation, pool_size, warmup, lr = 32, 20, 2, 8, 3, 3e-3
    model = build_vlm(VLM, seed)
    initial = named_weights(model)
    side = VLM["vision_config"]["image_size"]
    pool = torch.randn((pool_size, 3, side, side), generator=torch.Generator().manual_seed(52))
    batches = draw_micro_batches(num_steps, accumulation, pool_size)
    groups, decayed = parameter_groups(model, 0.1)
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), eps=1e-8, foreach=False, fused=False)
    scheduler = get_scheduler("cosine", optimizer, warmup, num_steps)
    curves: dict[str, list[float]] = {"loss": [], "grad_norm": [], "lr": []}
    labelled = []
    for micro_batches in batches:
        curves["lr"].append(optimizer.param_groups[0]["lr"])
        loss, norm, num_labelled = train_step(model, optimizer, pool, micro_batches, 1.0)
        curves["loss"].append(loss)
        curves["grad_norm"].append(norm)
        labelled.append(num_labelled)
        untouched = without_gradient(model)
        optimizer.zero_grad(set_to_none=True)
        scheduler.step()
    final = named_weights(model)
    moved = {name for name in final if not torch.equal(final[name], initial[name])}
    assert moved.isdisjoint(untouched) and moved.union(untouched) == final.keys()
    tensors: Tensors = {f"final.{name}": final[name] for name in sorted(moved)}
    tensors |= {name: torch.tensor(values, dtype=torch.float64) for name, values in curves.items()}
    tensors |= {"num_labelled": torch.tensor(labelled, dtype=torch.int32), "pixel_pool": pool}
    for step, micro_batches in enumerate(batches):
        for index, micro in enumerate(micro_batches):
            for key in ("input_ids", "attention_mask", "labels"):
                tensors[f"step.{step}.micro.{index}.{key}"] = micro[key].int()
            if micro["images"]:
                tensors[f"step.{step}.micro.{index}.images"] = torch.tensor(micro["images"], dtype=torch.int32)
    about = VLM | {
        "initial_weights": "vlm.safetensors",
        "num_steps": num_steps, "accumulation": accumulation, "warmup_steps": warmup, "schedule": "cosine",
        "lr": lr, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "max_grad_norm": 1.0,
        "decayed": decayed, "without_gradient": untouched, "rule": ADAMW_RULE,
        "conventions": [
            "loss[step] = sum of token losses of all micro-batches / num_labelled[step]; gradients likewise",
            "grad_norm[step] before clipping; lr[step] as used by that step, so lr[0] = 0",
            "step.S.micro.A.images: rows of pixel_pool, in the order of their placeholders; absent without image",
            "without_gradient: never reached, hence neither moved nor decayed: they equal the initial weights",
            "decayed: transformers' Trainer.get_decay_parameter_names, i.e. all but biases and norms",
            "final.*self_attn.k_proj.bias: the true gradient is 0, Adam scales its rounding up; do not compare",
        ],
    }
    save_fixture(folder / "training.safetensors", tensors, about)
