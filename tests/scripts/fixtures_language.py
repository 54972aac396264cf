"""Fixtures of the families of language models: one forward and backward pass each, and the rotary frequencies."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    ApertusConfig,
    ApertusForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from fixture_models import Tensors, draw_weights, save_fixture
from fixtures_forward import decoder_pass

CLASSES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "apertus": (ApertusConfig, ApertusForCausalLM),
}
PLAIN = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "max_position_embeddings": 64, "tie_word_embeddings": False,
    "qk_norm": False, "initializer_range": 0.02,
}
# One of the frequencies is kept, one interpolated, two are divided.
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {
    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 2.0, "beta_slow": 0.1,
}
# name: (what differs from PLAIN, shape of the batch, seed); scaled RoPE is asked for positions beyond its first context.
FAMILIES: dict[str, tuple[dict[str, Any], tuple[int, int], int]] = {
    "llama3": ({"model_type": "llama", "rope_theta": 100.0, "rope_scaling": LLAMA3}, (1, 40), 101),
    "llama_biases": (
        {
            "model_type": "llama", "rope_scaling": {"rope_type": "linear", "factor": 4.0},
            "max_position_embeddings": 16, "attention_bias": "all", "mlp_bias": True,
        },
        (1, 40),
        102,
    ),
    "mistral": (
        {"model_type": "mistral", "sliding_window": 6, "sliding_layers": [True, True]},
        (2, 20),
        103,
    ),
    "qwen2": (
        {
            "model_type": "qwen2", "attention_bias": "qkv", "tie_word_embeddings": True, "rms_norm_eps": 1e-6,
            "sliding_window": 5, "sliding_layers": [False, True],
        },
        (2, 20),
        104,
    ),
    "qwen3_yarn": (
        {
            "model_type": "qwen3", "qk_norm": True, "tie_word_embeddings": True, "rope_theta": 1000000.0,
            "rope_scaling": YARN, "max_position_embeddings": 16, "attention_bias": "all",
        },
        (1, 40),
        105,
    ),
    "apertus": (
        {
            "model_type": "apertus", "qk_norm": True, "rope_theta": 100.0,
            "rope_scaling": LLAMA3 | {"low_freq_factor": 0.5},
        },
        (1, 40),
        106,
    ),
}


def hugging_face_config(plain: dict[str, Any]) -> Any:
    """The transformers configuration of one of `FAMILIES`."""
    ours = ("model_type", "qk_norm", "rope_theta", "rope_scaling", "attention_bias", "sliding_window", "sliding_layers")
    values = {key: value for key, value in plain.items() if key not in ours}
    rope = plain.get("rope_scaling", {"rope_type": "default"})
    values["rope_parameters"] = rope | {"rope_theta": plain["rope_theta"]}
    values |= {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None, "dtype": torch.float32}
    model_type = plain["model_type"]
    if model_type in ("llama", "qwen3", "apertus"):
        values["attention_bias"] = "attention_bias" in plain
    if model_type == "mistral":
        values["sliding_window"] = plain["sliding_window"]
    elif "sliding_window" in plain:
        values |= {"use_sliding_window": True, "sliding_window": plain["sliding_window"]}
        values["max_window_layers"] = plain["sliding_layers"].index(True)
    config = CLASSES[model_type][0](**values)
    config._attn_implementation = "eager"
    return config


def record_languages(folder: Path) -> None:
    """`language_<name>.safetensors` of every family."""
    for name, (changes, shape, seed) in FAMILIES.items():
        plain = PLAIN | changes
        config = hugging_face_config(plain)
        model = draw_weights(CLASSES[plain["model_type"]][1](config).float(), seed)
        tensors, about = decoder_pass(model, plain, seed, shape)
        low = half_precision(model, tensors["input_ids"].long())
        about = {"text_config": plain, "seed": seed, "bf16_error": low.pop("error")} | about
        about["conventions"] += [
            "logits.f64 = logits in f64 of the weights rounded to bf16",
            "bf16_error = root of the mean square difference of transformers' own bf16 logits from logits.f64, over the"
            " root of the mean square of logits.f64",
        ]
        save_fixture(folder / f"language_{name}.safetensors", tensors | low, about)


@torch.no_grad()
def half_precision(model: torch.nn.Module, input_ids: torch.Tensor) -> dict[str, Any]:
    """What transformers' own bf16 loses."""
    rounded = copy.deepcopy(model).bfloat16()
    exact = copy.deepcopy(rounded).double()(input_ids=input_ids, use_cache=False).logits
    low = rounded(input_ids=input_ids, use_cache=False).logits.double()
    error = (low - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    return {"logits.f64": exact, "error": float(error)}


# (head_dim, rope_theta, max_position_embeddings, rope_parameters)
ROPE_CASES: list[tuple[int, float, int, dict[str, Any]]] = [
    (64, 10000.0, 2048, {"rope_type": "linear", "factor": 2.5}),
    (128, 500000.0, 131072, LLAMA3 | {"original_max_position_embeddings": 8192}),
    (64, 500000.0, 131072, LLAMA3 | {"original_max_position_embeddings": 8192, "factor": 32.0}),
    (128, 12000000.0, 65536, LLAMA3 | {"original_max_position_embeddings": 8192}),
    (128, 1000000.0, 40960, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}),
    (64, 10000.0, 4096, {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 4096,
                         "attention_factor": 1.25}),
    (64, 10000.0, 163840, {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096,
                           "mscale": 0.707, "mscale_all_dim": 1.0, "beta_fast": 24.0, "beta_slow": 2.0}),
    (128, 150000.0, 131072, {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096,
                             "truncate": False}),
    (8, 1000000.0, 16, YARN),
]  # fmt: skip


def record_rope(folder: Path) -> None:
    """`rope.json`: frequencies and attention factors as transformers computes them, in f32."""
    cases = []
    for head_dim, theta, max_position_embeddings, parameters in ROPE_CASES:
        config = LlamaConfig(
            hidden_size=head_dim, num_attention_heads=1, head_dim=head_dim,
            max_position_embeddings=max_position_embeddings, rope_parameters=parameters | {"rope_theta": theta},
        )  # fmt: skip
        frequencies, factor = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config)
        cases.append({
            "head_dim": head_dim, "rope_theta": theta, "max_position_embeddings": max_position_embeddings,
            "rope_parameters": parameters, "frequencies": frequencies.tolist(), "attention_factor": factor,
        })  # fmt: skip
    text = json.dumps({"cases": cases, "recorded_with": {"transformers": transformers.__version__}}, indent=1)
    (folder / "rope.json").write_text(text + "\n")
