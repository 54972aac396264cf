"""MultiMeditron's layout: a folder written from parts that transformers makes, and its twin in PyTorch."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, LlavaConfig, LlavaForConditionalGeneration, PreTrainedModel

PREFIX = "modalities_with_projection.0."
LAYERS = {"linear_1": "projection.0", "linear_2": "projection.2", "linear_3": "projection.4"}


class ThreeLayers(torch.nn.Module):
    """Linear, exact GELU, linear, exact GELU, linear; the first keeps the tower's width."""

    def __init__(self, width: int, text_width: int) -> None:
        super().__init__()
        self.linear_1 = torch.nn.Linear(width, width)
        self.linear_2 = torch.nn.Linear(width, text_width)
        self.linear_3 = torch.nn.Linear(text_width, text_width)

    def forward(self, x_mpd: torch.Tensor) -> torch.Tensor:
        gelu = torch.nn.functional.gelu
        return self.linear_3(gelu(self.linear_2(gelu(self.linear_1(x_mpd)))))


def is_meditron(folder: str | None) -> bool:
    """Whether a model folder is of this layout."""
    if not folder:
        return False
    return json.loads((Path(folder) / "config.json").read_text())["model_type"] == "multimodal"


def read_parts(folder: Path) -> tuple[dict[str, Any], Any, Any]:
    """The folder's own configuration, and those of the language model and the tower that it names."""
    own = json.loads((folder / "config.json").read_text())
    text = AutoConfig.from_pretrained(own["llm_path"])
    text.vocab_size = own["vocab_size"]
    return own, text, AutoConfig.from_pretrained(own["modalities"][0]["clip_name"]).vision_config


def make_twin(text: Any, vision: Any, image_token: int, attention: str) -> LlavaForConditionalGeneration:
    """A LLaVA whose features are the patches of the tower's `last_hidden_state`, through three layers."""
    model = LlavaForConditionalGeneration(LlavaConfig(
        text_config=text, vision_config=vision, image_token_index=image_token, attn_implementation=attention
    ))
    inner = model.model
    inner.multi_modal_projector = ThreeLayers(vision.hidden_size, text.hidden_size)
    first = 1 if vision.model_type == "clip_vision_model" else 0

    def features(pixel_values: torch.Tensor, **_: Any) -> SimpleNamespace:
        states = inner.vision_tower(pixel_values).last_hidden_state[:, first:]
        return SimpleNamespace(pooler_output=list(inner.multi_modal_projector(states)))

    inner.get_image_features = features
    return model


def disk_name(name: str) -> str:
    """The name in the folder of a parameter of the twin."""
    for old, new in (
        ("model.language_model.", "model.model."),
        ("lm_head.", "model.lm_head."),
        ("model.vision_tower.", f"{PREFIX}feature_extractor.vision_model."),
    ):
        if name.startswith(old):
            return new + name.removeprefix(old)
    layer, _, rest = name.removeprefix("model.multi_modal_projector.").partition(".")
    return f"{PREFIX}projector.{LAYERS[layer]}.{rest}"


def write_folder(model: PreTrainedModel, two_towers: PreTrainedModel, folder: Path) -> None:
    """The twin's weights as MultiMeditron keeps them, the other half of the two towers included, beside both parts."""
    text = model.config.text_config
    text.save_pretrained(folder / "llm")
    two_towers.config.save_pretrained(folder / "towers")
    own = {
        "model_type": "multimodal", "architectures": ["MultiModalModelForCausalLM"], "vocab_size": text.vocab_size,
        "hidden_size": text.hidden_size, "attachment_token_idx": model.config.image_token_index, "pad_token_idx": 0,
        "eos_token_idx": 0, "padding_side": "left", "initializer_range": 0.02, "llm_path": str(folder / "llm"),
        "truncation": False, "max_sequence_length": None, "dtype": "float32",
        "modalities": [{
            "model_type": "meditron_clip", "modality_type": "image", "hidden_size": text.hidden_size,
            "clip_name": str(folder / "towers"), "projection_type": "mlp", "use_2d_position_ids": False,
        }],
    }
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (folder / "model" / "config.json").write_text(json.dumps(own, indent=2))
    tensors = {disk_name(name): parameter.detach() for name, parameter in model.named_parameters()}
    others = ("text_model.", "visual_projection.", "text_projection.", "logit_")
    tensors |= {
        f"{PREFIX}feature_extractor.{name}": parameter.detach()
        for name, parameter in two_towers.named_parameters()
        if name.startswith(others)
    }
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model" / "model.safetensors")


def read_twin(folder: str, attention: str) -> LlavaForConditionalGeneration:
    """The twin with a folder's weights."""
    own, text, vision = read_parts(Path(folder))
    model = make_twin(text, vision, own["attachment_token_idx"], attention)
    stored = load_file(Path(folder) / "model.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(stored[disk_name(name)])
    return model.float()
