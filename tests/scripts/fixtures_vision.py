"""Fixtures of models that see through other towers and projectors than LLaVA-1.5: one forward and backward pass each."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig

from fixture_models import (
    IGNORE,
    LLAMA,
    QWEN3,
    Tensors,
    assert_close,
    draw_weights,
    named_gradients,
    named_weights,
    save_fixture,
    text_config,
    token_losses,
    without_gradient,
)
from fixtures_forward import GRADIENT_OF_LOSS, LABEL_RULE, block_outputs

SMALL = {
    "vocab_size": 24, "hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 6,
}
# The patches do not fill the image: 2 pixels are left over at the right and at the bottom.
SIGLIP = {
    "model_type": "siglip_vision_model", "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2,
    "num_attention_heads": 2, "image_size": 14, "patch_size": 4, "layer_norm_eps": 1e-6,
    "hidden_act": "gelu_pytorch_tanh", "vision_use_head": True,
}
SHARED = {"vision_feature_select": "full", "image_token_id": 3}
# name: (model in Brazier's words, seed)
MODELS: dict[str, tuple[dict[str, Any], int]] = {
    # LlavaForConditionalGeneration with SiglipVisionModel: hidden states as the blocks leave them.
    "siglip": (
        SHARED | {
            "text_config": LLAMA | SMALL, "vision_config": SIGLIP, "projector": {"kind": "mlp"},
            "vision_feature_layer": -2, "vision_post_layernorm": False,
        },
        201,
    ),
    # MultiMeditron: last_hidden_state of the tower, three layers.
    "mlp3": (
        SHARED | {
            "text_config": QWEN3 | SMALL, "vision_config": SIGLIP | {"vision_use_head": False},
            "projector": {"kind": "mlp3"}, "vision_feature_layer": -1, "vision_post_layernorm": True,
        },
        202,
    ),
    # MultiMeditron: the same, and patches in blocks of four.
    "pixel_shuffle": (
        SHARED | {
            "text_config": LLAMA | SMALL,
            "vision_config": SIGLIP | {"vision_use_head": False, "patch_size": 3, "hidden_act": "gelu"},
            "projector": {"kind": "pixel_shuffle", "factor": 2}, "vision_feature_layer": -1,
            "vision_post_layernorm": True,
        },
        203,
    ),
}  # fmt: skip


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


class PixelShuffle(torch.nn.Module):
    """`torch.nn.functional.pixel_unshuffle` over the grid of patches, then one linear layer."""

    def __init__(self, width: int, text_width: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.linear_1 = torch.nn.Linear(width * factor**2, text_width)

    def forward(self, x_mpd: torch.Tensor) -> torch.Tensor:
        side = round(x_mpd.shape[1] ** 0.5)
        grid = x_mpd.transpose(1, 2).unflatten(2, (side, side))
        return self.linear_1(torch.nn.functional.pixel_unshuffle(grid, self.factor).flatten(2).transpose(1, 2))


def make_projector(projector: dict[str, Any], width: int, text_width: int) -> torch.nn.Module | None:
    """`None` for LLaVA's own."""
    match projector["kind"]:
        case "mlp":
            return None
        case "mlp3":
            return ThreeLayers(width, text_width)
        case "pixel_shuffle":
            return PixelShuffle(width, text_width, projector["factor"])
        case other:
            raise ValueError(other)


def build_model(plain: dict[str, Any], seed: int) -> LlavaForConditionalGeneration:
    """LLaVA with eager attention, f32, and what it lacks put in: a projector, the tower's `last_hidden_state`."""
    text, vision = text_config(plain["text_config"]), SiglipVisionConfig(**plain["vision_config"])
    model = LlavaForConditionalGeneration(LlavaConfig(
        text_config=text, vision_config=vision, image_token_index=plain["image_token_id"],
        vision_feature_layer=plain["vision_feature_layer"],
        vision_feature_select_strategy=plain["vision_feature_select"], attn_implementation="eager",
    ))  # fmt: skip
    projector = make_projector(plain["projector"], vision.hidden_size, text.hidden_size)
    if projector is not None:
        model.model.multi_modal_projector = projector
    if plain["vision_post_layernorm"]:
        use_last_state(model)
    return draw_weights(model.float(), seed)


def use_last_state(model: LlavaForConditionalGeneration) -> None:
    """Features from the tower's `last_hidden_state`, all of them patches."""
    inner = model.model

    def features(pixel_values: torch.Tensor, **_: Any) -> SimpleNamespace:
        states = inner.vision_tower(pixel_values).last_hidden_state
        return SimpleNamespace(pooler_output=list(inner.multi_modal_projector(states)))

    inner.get_image_features = features


def num_image_tokens(plain: dict[str, Any]) -> int:
    vision = plain["vision_config"]
    return (vision["image_size"] // vision["patch_size"]) ** 2 // plain["projector"].get("factor", 1) ** 2


def make_batch(plain: dict[str, Any], seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three right-padded rows with one image, none and two: ids, attention mask, labels, pixels."""
    image = [plain["image_token_id"]] * num_image_tokens(plain)
    rows = [[1, *image, 18, 19, 20, 2], [1, 13, 14, 15, 2], [1, 7, *image, *image, 10, 11, 2]]
    length = max(map(len, rows))
    input_ids = torch.zeros((len(rows), length), dtype=torch.long)
    mask, labels = torch.zeros_like(input_ids), torch.full_like(input_ids, IGNORE)
    for index, row in enumerate(rows):
        input_ids[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
        labels[index, len(row) - 3 : len(row)] = torch.tensor(row[-3:])
    side = plain["vision_config"]["image_size"]
    return input_ids, mask, labels, torch.randn((3, 3, side, side), generator=torch.Generator().manual_seed(seed))


def record_towers(folder: Path) -> None:
    """`vlm_<name>.safetensors` of every model."""
    for name, (plain, seed) in MODELS.items():
        model = build_model(plain, seed)
        tensors, about = whole_pass(model, plain, seed)
        about = plain | {"seed": seed, "bf16_error": tensors.pop("bf16_error").item()} | about
        save_fixture(folder / f"vlm_{name}.safetensors", tensors, about)


def whole_pass(
    model: LlavaForConditionalGeneration, plain: dict[str, Any], seed: int
) -> tuple[Tensors, dict[str, Any]]:
    input_ids, mask, labels, pixels = make_batch(plain, seed)
    vision_states = block_outputs(model.model.vision_tower.encoder.layers)
    states = block_outputs(model.model.language_model.layers)
    inputs = {"input_ids": input_ids, "pixel_values": pixels, "attention_mask": mask, "use_cache": False}
    output = model(**inputs)
    hidden, vision_hidden = list(states), list(vision_states)
    loss_sum, num_labelled = token_losses(output.logits, labels)
    with torch.no_grad():
        assert_close(loss_sum / num_labelled, model(**inputs, labels=labels).loss, "our loss and the model's")
    (loss_sum / num_labelled).backward()
    valid = mask[..., None].float()
    tensors = named_weights(model) | named_gradients(model)
    tensors |= {"input_ids": input_ids.int(), "attention_mask": mask.int(), "labels": labels.int(), "pixels": pixels}
    tensors |= {f"vision.hidden.{index}": state for index, state in enumerate(vision_hidden)}
    tensors |= {f"hidden.{index}": state * valid for index, state in enumerate(hidden)}
    tensors |= {"logits": output.logits * valid, "loss_sum": loss_sum[None]}
    tensors |= half_precision(plain, seed, inputs, valid)
    about = {
        "num_labelled": num_labelled,
        "pad_token_id": 0,
        "without_gradient": without_gradient(model),
        "conventions": [
            LABEL_RULE,
            GRADIENT_OF_LOSS,
            "vision.hidden.0 = what enters the tower's first block, vision.hidden.i = output of its block i - 1, before"
            " any norm",
            "hidden.0 = embeddings after the splice, hidden.i = output of decoder block i - 1",
            "logits and hidden.* are 0 where attention_mask is 0: compare only where it is 1",
            "logits.f64 = logits in f64 of the weights and pixels rounded to bf16",
            "bf16_error = root of the mean square difference of PyTorch's own bf16 logits from logits.f64, over the"
            " root of the mean square of logits.f64",
            "self_attn.k_proj.bias has gradient 0 in exact arithmetic; what is stored is rounding",
        ],
    }
    return tensors, about


@torch.no_grad()
def half_precision(plain: dict[str, Any], seed: int, inputs: dict[str, Any], valid: torch.Tensor) -> Tensors:
    """What PyTorch's own bf16 loses."""
    pixels = inputs["pixel_values"].bfloat16()
    rounded = build_model(plain, seed).bfloat16()
    exact_weights = {name: tensor.double() for name, tensor in rounded.state_dict().items()}
    exact_model = build_model(plain, seed).double()
    exact_model.load_state_dict(exact_weights)
    exact = exact_model(**inputs | {"pixel_values": pixels.double()}).logits * valid
    low = rounded(**inputs | {"pixel_values": pixels}).logits.double() * valid
    error = (low - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    return {"logits.f64": exact, "bf16_error": error}
