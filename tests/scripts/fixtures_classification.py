"""Fixtures of classification heads: Llama and Qwen3 for sequence classification, padded rows, class weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForSequenceClassification, Qwen3ForSequenceClassification

from fixture_models import LLAMA, QWEN3, assert_close, brazier_name, draw_weights, save_fixture, text_config

PAD = 0
CLASS_WEIGHTS = [0.5, 2.0, 1.25]
SMALL = {"hidden_size": 16, "intermediate_size": 20, "vocab_size": 24}
FAMILIES: dict[str, tuple[Any, dict[str, Any]]] = {
    "llama": (LlamaForSequenceClassification, LLAMA | SMALL | {"head_dim": 4}),
    "qwen3": (Qwen3ForSequenceClassification, QWEN3 | SMALL | {"num_hidden_layers": 1}),
}


def record_classification(folder: Path) -> None:
    """`classification_FAMILY.safetensors`: weights, logits, losses with and without class weights, gradients of both."""
    for seed, (family, (kind, plain)) in enumerate(FAMILIES.items(), start=81):
        config = text_config(plain)
        config.pad_token_id, config.num_labels = PAD, len(CLASS_WEIGHTS)
        config._attn_implementation = "eager"
        model = draw_weights(kind(config).float(), seed)
        generator = torch.Generator().manual_seed(seed)
        lengths, labels = torch.tensor([7, 3, 9, 1]), torch.tensor([2, 0, 1, 2])
        input_ids = torch.randint(1, plain["vocab_size"], (len(lengths), 9), generator=generator)
        for row, length in enumerate(lengths):
            input_ids[row, length:] = PAD
        logits = model(input_ids=input_ids, attention_mask=(input_ids != PAD).long(), use_cache=False).logits
        mean = torch.nn.CrossEntropyLoss(weight=torch.tensor(CLASS_WEIGHTS))(logits, labels)
        plain_loss = model(input_ids=input_ids, attention_mask=(input_ids != PAD).long(), labels=labels).loss
        assert_close(torch.nn.functional.cross_entropy(logits, labels), plain_loss, "our loss and the model's")
        mean.backward()
        tensors = {classifier_name(name): p.detach().clone() for name, p in model.named_parameters()}
        tensors |= {f"grad.{classifier_name(name)}": p.grad.clone() for name, p in model.named_parameters()}
        tensors |= {
            "input_ids": input_ids.int(), "lengths": lengths.int(), "classes": labels.int(), "logits": logits,
            "class_weights": torch.tensor(CLASS_WEIGHTS), "weighted_loss": mean[None], "loss": plain_loss[None],
        }
        about = {
            "text_config": plain,
            "num_labels": len(CLASS_WEIGHTS),
            "pad_token_id": PAD,
            "seed": seed,
            "conventions": [
                "logits [row, class] at each row's last token that is no padding",
                "weighted_loss = torch.nn.CrossEntropyLoss(weight=class_weights): divided by the sum of the labels' weights",
                "loss = the model's own, without class weights; grad.* = d weighted_loss / d parameter",
            ],
        }
        save_fixture(folder / f"classification_{family}.safetensors", tensors, about)


def classifier_name(name: str) -> str:
    """Brazier's name; the head is `score`."""
    return f"language_model.{name}" if name.startswith("score.") else brazier_name(name)
