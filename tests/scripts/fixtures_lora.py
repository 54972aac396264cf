"""Fixtures of adapters: PEFT's LoRA on a tiny Llama, with and without rsLoRA, one pass and three steps of AdamW."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import torch
from peft import LoraConfig, get_peft_model

from fixture_models import LLAMA, Tensors, brazier_name, build_decoder, named_weights, save_fixture, token_losses
from fixtures_forward import GRADIENT_OF_LOSS, LABEL_RULE

LORA_TEXT = LLAMA | {"hidden_size": 16, "intermediate_size": 24, "head_dim": 4, "vocab_size": 32}
# Names as in a user's list, and all linear layers but the head.
VARIANTS: dict[str, dict[str, Any]] = {
    "named": {"r": 3, "lora_alpha": 8, "use_rslora": False, "target_modules": ["q_proj", "v_proj", "down_proj"]},
    "all": {"r": 4, "lora_alpha": 2, "use_rslora": True, "target_modules": "all-linear"},
}
ADAMW = {"lr": 1e-2, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}
NUM_STEPS = 3


def record_lora(folder: Path) -> None:
    """`lora.safetensors`: base weights once, then per variant adapters, logits, losses, gradients, adapters after steps."""
    seed = 71
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(0, LORA_TEXT["vocab_size"], (2, 9), generator=generator)
    labels = input_ids.clone()
    labels[0, :3] = -100
    labels[1, 5] = -100
    tensors: Tensors = {"input_ids": input_ids.int(), "labels": labels.int()}
    tensors |= named_weights(build_decoder(LORA_TEXT, seed))
    num_labelled = 0
    for variant, settings in VARIANTS.items():
        recorded, num_labelled = lora_run(settings, seed, input_ids, labels)
        tensors |= {f"{variant}.{name}": tensor for name, tensor in recorded.items()}
    about = {
        "text_config": LORA_TEXT,
        "variants": VARIANTS,
        "adamw": ADAMW,
        "num_steps": NUM_STEPS,
        "num_labelled": num_labelled,
        "seed": seed,
        "peft": peft.__version__,
        "conventions": [
            LABEL_RULE,
            GRADIENT_OF_LOSS,
            "the key of a variant and a dot are the prefix of its tensors; base weights are shared and do not move",
            "VARIANT.PATH.lora_A.weight [r, in] and .lora_B.weight [out, r], B not zero; VARIANT.final.* after the steps",
            "VARIANT.loss [step]: mean before each step of AdamW without clipping on the same batch",
        ],
    }
    save_fixture(folder / "lora.safetensors", tensors, about)


def lora_run(settings: dict[str, Any], seed: int, input_ids: torch.Tensor, labels: torch.Tensor) -> tuple[Tensors, int]:
    """One variant: its adapters, what they give, and where training takes them."""
    model = build_decoder(LORA_TEXT, seed)
    config = LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, bias="none", **settings)
    model = get_peft_model(model, config).train()
    generator = torch.Generator().manual_seed(seed + 1)
    adapters = {adapter_name(name): p for name, p in sorted(model.named_parameters()) if p.requires_grad}
    with torch.no_grad():
        for parameter in adapters.values():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    tensors = {name: p.detach().clone() for name, p in adapters.items()}
    optimizer = torch.optim.AdamW(
        adapters.values(), lr=ADAMW["lr"], betas=(ADAMW["beta1"], ADAMW["beta2"]), eps=ADAMW["eps"],
        weight_decay=ADAMW["weight_decay"], foreach=False, fused=False,
    )
    losses, num_labelled = [], 0
    for step in range(NUM_STEPS):
        output = model(input_ids=input_ids, use_cache=False)
        loss_sum, num_labelled = token_losses(output.logits, labels)
        optimizer.zero_grad()
        (loss_sum / num_labelled).backward()
        losses.append((loss_sum / num_labelled).detach())
        if step == 0:
            tensors |= {"logits": output.logits.detach().clone(), "loss_sum": loss_sum.detach()[None]}
            tensors |= {f"grad.{name}": p.grad.clone() for name, p in adapters.items()}
        optimizer.step()
    tensors |= {f"final.{name}": p.detach().clone() for name, p in adapters.items()}
    return tensors | {"loss": torch.stack(losses)}, num_labelled


def adapter_name(name: str) -> str:
    """Brazier's name of one of PEFT's parameters."""
    return brazier_name(name.removeprefix("base_model.model.").replace(".default", ""))
