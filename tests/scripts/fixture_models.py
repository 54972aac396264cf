"""Tiny transformers models for the fixtures: configurations, weights that show mistakes, Brazier's parameter names."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import transformers
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
)

IGNORE = -100
Tensors = dict[str, torch.Tensor]

# Keys of Brazier's DecoderConfig, in Hugging Face's spelling.
LLAMA = {
    "vocab_size": 40, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0, "max_position_embeddings": 64, "tie_word_embeddings": False,
    "qk_norm": False, "initializer_range": 0.02,
}
QWEN3 = LLAMA | {
    "hidden_size": 16, "intermediate_size": 24, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
    "head_dim": 8, "tie_word_embeddings": True, "qk_norm": True,
}
VISION = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2,
    "image_size": 12, "patch_size": 4, "layer_norm_eps": 1e-5, "hidden_act": "quick_gelu",
    "initializer_range": 0.02,
}
VLM_TEXT = LLAMA | {
    "vocab_size": 32, "hidden_size": 24, "intermediate_size": 24, "num_attention_heads": 3,
    "num_key_value_heads": 1, "head_dim": 8,
}
VLM = {
    "text_config": VLM_TEXT, "vision_config": VISION, "projector": "mlp", "vision_feature_layer": -2,
    "vision_feature_select": "default", "image_token_id": 3,
}


def text_config(plain: dict[str, Any]) -> LlamaConfig | Qwen3Config:
    """The transformers configuration of a decoder; `qk_norm` chooses Qwen3 over Llama."""
    values = {key: value for key, value in plain.items() if key not in ("qk_norm", "rope_theta")}
    values["rope_parameters"] = {"rope_type": "default", "rope_theta": plain["rope_theta"]}
    values |= {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    return Qwen3Config(**values) if plain["qk_norm"] else LlamaConfig(**values)


def build_decoder(plain: dict[str, Any], seed: int) -> torch.nn.Module:
    """LlamaForCausalLM or Qwen3ForCausalLM with eager attention, f32."""
    config = text_config(plain)
    config._attn_implementation = "eager"
    kind = Qwen3ForCausalLM if plain["qk_norm"] else LlamaForCausalLM
    return draw_weights(kind(config).float(), seed)


def build_vision(plain: dict[str, Any], seed: int) -> CLIPVisionModel:
    """CLIPVisionModel with eager attention, f32."""
    config = CLIPVisionConfig(**plain)
    config._attn_implementation = "eager"
    return draw_weights(CLIPVisionModel(config).float(), seed)


def build_vlm(plain: dict[str, Any], seed: int) -> LlavaForConditionalGeneration:
    """LlavaForConditionalGeneration with eager attention, f32."""
    config = LlavaConfig(
        text_config=text_config(plain["text_config"]),
        vision_config=CLIPVisionConfig(**plain["vision_config"]),
        image_token_index=plain["image_token_id"],
        vision_feature_layer=plain["vision_feature_layer"],
        vision_feature_select_strategy=plain["vision_feature_select"],
        attn_implementation="eager",
    )
    return draw_weights(LlavaForConditionalGeneration(config).float(), seed)


@torch.no_grad()
def draw_weights(model: torch.nn.Module, seed: int) -> Any:
    """Overwrites every parameter: unit-gain matrices, norm weights around 1 and biases around 0 with real spread.

    At the usual 0.02 a swapped head or a forgotten bias would hide below any tolerance.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        values = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() == 1 and name.endswith(".weight"):
            values = 1.0 + 0.3 * values
        elif parameter.dim() == 1:
            values = 0.3 * values
        elif "embed_tokens" in name:
            # A tied table is also the head: small enough that the logits stay of order one.
            values = values / math.sqrt(math.sqrt(parameter.shape[1]))
        elif "position_embedding" in name:
            values = 0.5 * values
        else:
            values = 1.2 * values / math.sqrt(parameter[0].numel())
        parameter.copy_(values)
    return model.eval()


def brazier_name(name: str) -> str:
    """Name of a transformers parameter in the classic LLaVA layout, which is Brazier's."""
    for old, new in (
        ("model.vision_tower.", "vision_tower.vision_model."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
        ("model.language_model.", "language_model.model."),
        ("model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
    ):
        if name.startswith(old):
            return new + name.removeprefix(old)
    return f"vision_tower.vision_model.{name}"  # a bare CLIPVisionModel has no prefix


def named_weights(model: torch.nn.Module) -> Tensors:
    """A copy of every parameter under Brazier's name; a tied head appears once, as the embedding table."""
    return {brazier_name(name): p.detach().clone() for name, p in model.named_parameters()}


def named_gradients(model: torch.nn.Module, prefix: str = "grad.") -> Tensors:
    """Every gradient there is, as `<prefix><name>`."""
    return {
        prefix + brazier_name(name): p.grad.detach().clone()
        for name, p in model.named_parameters()
        if p.grad is not None
    }


def without_gradient(model: torch.nn.Module) -> list[str]:
    """Parameters the objective does not reach, for which PyTorch leaves `grad` at None."""
    return sorted(brazier_name(name) for name, p in model.named_parameters() if p.grad is None)


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Sum of the cross-entropies of `labels[:, 1:]` given `logits[:, :-1]`, and how many labels count."""
    targets = labels[:, 1:].reshape(-1).long()
    predictions = logits[:, :-1].reshape(-1, logits.shape[-1]).float()
    loss_sum = torch.nn.functional.cross_entropy(predictions, targets, ignore_index=IGNORE, reduction="sum")
    return loss_sum, int((targets != IGNORE).sum())


def assert_close(got: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    """Stops the recording when two ways to the same value disagree."""
    torch.testing.assert_close(got, expected, rtol=2e-5, atol=2e-6, msg=lambda text: f"{what}: {text}")


def save_fixture(path: Path, tensors: Tensors, about: dict[str, Any]) -> None:
    """Writes tensors (f32, f64 or i32) and `about`, which becomes JSON under the one metadata key `fixture`.

    One key, because safetensors orders several by chance and the file should be the same each time.
    """
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    text = json.dumps(about | {"recorded_with": versions}, sort_keys=True)
    contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    wrong = [name for name, t in contiguous.items() if t.dtype not in (torch.float32, torch.float64, torch.int32)]
    if wrong:
        raise TypeError(f"{path.name}: f32, f64 or i32 expected: {wrong}")
    safetensors.torch.save_file(contiguous, path, metadata={"fixture": text})
    path.chmod(0o644)
