"""The model of a Brazier configuration, built from transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from chat_data import Vocabulary
from meditron import is_meditron, read_parts, read_twin

PARTS = {"projector": "multi_modal_projector", "vision": "vision_tower", "language": ""}


def image_tokens(model: dict[str, Any]) -> tuple[int, int]:
    """Side of an image in pixels and tokens of one image; 0 and 0 for a model without eyes."""
    if is_meditron(model.get("from")):
        vision = read_parts(Path(model["from"]))[2]
        return vision.image_size, (vision.image_size // vision.patch_size) ** 2
    if model.get("from"):
        config = AutoConfig.from_pretrained(model["from"])
        if config.model_type != "llava":
            return 0, 0
        vision = config.vision_config
        patches = (vision.image_size // vision.patch_size) ** 2
        has_class = vision.model_type == "clip_vision_model"
        return vision.image_size, patches + (has_class and config.vision_feature_select_strategy == "full")
    vision = model.get("vision")
    if not vision:
        return 0, 0
    projector = model.get("projector") or {"kind": "mlp"}
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    if projector["kind"] == "pixel_shuffle":
        return vision["image_size"], patches // projector["factor"] ** 2
    return vision["image_size"], patches + (model.get("vision_feature_select") == "full")


def text_config(language: dict[str, Any], vocab_size: int) -> LlamaConfig | Qwen3Config:
    values = {key: value for key, value in language.items() if key not in ("qk_norm", "rope_theta")}
    heads = language["num_attention_heads"]
    values = {
        "vocab_size": vocab_size, "num_key_value_heads": heads, "head_dim": language["hidden_size"] // heads,
        "rms_norm_eps": 1e-6, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
    } | values
    values["rope_parameters"] = {"rope_type": "default", "rope_theta": float(language.get("rope_theta", 1e4))}
    return Qwen3Config(**values) if language.get("qk_norm") else LlamaConfig(**values)


class PixelShuffleProjector(torch.nn.Module):
    """`factor × factor` neighbouring patches to one token, then one linear layer."""

    def __init__(self, width: int, text_width: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.linear_1 = torch.nn.Linear(width * factor**2, text_width)

    def forward(self, x_mpd: torch.Tensor) -> torch.Tensor:
        side = int(x_mpd.shape[1] ** 0.5)
        x_mdgg = x_mpd.transpose(1, 2).unflatten(2, (side, side))
        x_mdp = torch.nn.functional.pixel_unshuffle(x_mdgg, self.factor).flatten(2)
        return self.linear_1(x_mdp.transpose(1, 2))


class LinearProjector(torch.nn.Module):
    """One linear layer."""

    def __init__(self, width: int, text_width: int) -> None:
        super().__init__()
        self.linear_1 = torch.nn.Linear(width, text_width)

    def forward(self, x_mpd: torch.Tensor) -> torch.Tensor:
        return self.linear_1(x_mpd)


def make_projector(projector: dict[str, Any], width: int, text_width: int, std: float) -> torch.nn.Module | None:
    """A projector that transformers does not have; `None` for LLaVA's own."""
    match projector["kind"]:
        case "mlp":
            return None
        case "linear":
            made: torch.nn.Module = LinearProjector(width, text_width)
        case "pixel_shuffle":
            made = PixelShuffleProjector(width, text_width, projector["factor"])
        case other:
            raise ValueError(f"model.projector.kind = {other}: mlp, linear or pixel_shuffle expected")
    torch.nn.init.normal_(made.linear_1.weight, std=std)
    torch.nn.init.zeros_(made.linear_1.bias)
    return made


def build_model(model: dict[str, Any], vocabulary: Vocabulary, attention: str) -> PreTrainedModel:
    """Fresh weights, f32. The same dimensions as Brazier builds from this section of the configuration."""
    if is_meditron(model.get("from")):
        return read_twin(model["from"], attention)
    if model.get("from"):
        has_vision = AutoConfig.from_pretrained(model["from"]).model_type == "llava"
        kind = LlavaForConditionalGeneration if has_vision else AutoModelForCausalLM
        return kind.from_pretrained(model["from"], dtype=torch.float32, attn_implementation=attention)
    text = text_config(model["language"], vocabulary.size)
    if not model.get("vision"):
        kind = Qwen3ForCausalLM if isinstance(text, Qwen3Config) else LlamaForCausalLM
        text._attn_implementation = attention
        return kind(text)
    vision = CLIPVisionConfig(**model["vision"])
    llava = LlavaForConditionalGeneration(LlavaConfig(
        text_config=text, vision_config=vision, image_token_index=vocabulary.image_id,
        vision_feature_layer=model.get("vision_feature_layer", -1),
        vision_feature_select_strategy=model.get("vision_feature_select", "default"),
        attn_implementation=attention,
    ))
    projector = make_projector(
        model.get("projector") or {"kind": "mlp"}, vision.hidden_size, text.hidden_size, text.initializer_range
    )
    if projector is not None:
        llava.model.multi_modal_projector = projector
    return llava


class LoraLinear(torch.nn.Module):
    """A frozen linear layer with an adapter, as peft computes it (without dropout)."""

    def __init__(self, base: torch.nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base, self.scale = base, alpha / rank
        self.lora_A = torch.nn.Linear(base.in_features, rank, bias=False)
        self.lora_B = torch.nn.Linear(rank, base.out_features, bias=False)
        torch.nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.lora_B(self.lora_A(x.to(self.lora_A.weight.dtype))) * self.scale


def add_adapters(model: PreTrainedModel, lora: dict[str, Any], base: torch.dtype) -> None:
    """Adapters on the linear layers of the language model's blocks; only they are trained."""
    model.to(base).requires_grad_(False)
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and ".layers." in name and part_of(name) == "language":
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, LoraLinear(module, lora["r"], lora["alpha"]))


def part_of(name: str) -> str:
    """Which part of the model a parameter belongs to."""
    return next((part for part, marker in PARTS.items() if marker and marker in name), "language")


def freeze(model: PreTrainedModel, mode: str) -> None:
    """Leaves only the parts of `mode` trainable."""
    trained = {
        "alignment": {"projector"}, "end_to_end": {"projector", "language"}, "lm_only": {"language"},
        "full": set(PARTS),
    }[mode]
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name) in trained)
