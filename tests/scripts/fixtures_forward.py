"""Fixtures of one forward and backward pass: decoders, vision tower, VLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fixture_models import (
    IGNORE,
    LLAMA,
    QWEN3,
    VISION,
    VLM,
    Tensors,
    assert_close,
    build_decoder,
    build_vision,
    build_vlm,
    draw_weights,
    named_gradients,
    named_weights,
    save_fixture,
    token_losses,
    without_gradient,
)

GRADIENT_OF_LOSS = "grad.* = d(loss_sum / num_labelled) / d parameter"
LABEL_RULE = "labels are not shifted: labels[:, t] is predicted from logits[:, t - 1]; labels[:, 0] never counts"


def record_decoders(folder: Path) -> None:
    """`decoder.safetensors` (Llama, untied) and `decoder_qwen3.safetensors` (QK-norm, tied, wide heads)."""
    for file_name, plain, seed in (("decoder", LLAMA, 11), ("decoder_qwen3", QWEN3, 12)):
        model = build_decoder(plain, seed)
        tensors, about = decoder_pass(model, plain, seed)
        save_fixture(folder / f"{file_name}.safetensors", tensors, {"text_config": plain, "seed": seed} | about)


def decoder_pass(
    model: torch.nn.Module, plain: dict[str, Any], seed: int, shape: tuple[int, int] = (2, 11)
) -> tuple[Tensors, dict[str, Any]]:
    """Weights, inputs, hidden states, logits, losses and gradients of one batch."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(0, plain["vocab_size"], shape, generator=generator)
    labels = input_ids.clone()
    labels[0, 1:4] = IGNORE  # labels[0, 0] stays, and must not count
    labels[1:, :6] = IGNORE
    labels[1:, 9] = IGNORE
    hidden = block_outputs(model.model.layers)
    output = model(input_ids=input_ids, labels=labels, use_cache=False)
    loss_sum, num_labelled = token_losses(output.logits, labels)
    assert_close(loss_sum / num_labelled, output.loss, "our loss and the model's")
    (loss_sum / num_labelled).backward()
    tensors = named_weights(model) | named_gradients(model)
    tensors |= {"input_ids": input_ids.int(), "labels": labels.int()}
    tensors |= {f"hidden.{index}": state for index, state in enumerate(hidden)}
    tensors |= {"logits": output.logits, "loss_sum": loss_sum[None], "loss_mean": output.loss[None]}
    about = {
        "num_labelled": num_labelled,
        "conventions": [
            LABEL_RULE,
            GRADIENT_OF_LOSS,
            "hidden.0 = embeddings, hidden.i = output of block i - 1, before the final norm",
        ],
    }
    return tensors, about


def block_outputs(layers: torch.nn.ModuleList) -> list[torch.Tensor]:
    """A list that the next forward pass fills: the first block's input, then each block's output."""
    states: list[torch.Tensor] = []
    layers[0].register_forward_pre_hook(lambda _, args: states.append(args[0].detach().clone()))
    for layer in layers:
        layer.register_forward_hook(
            lambda _, __, out: states.append((out[0] if isinstance(out, tuple) else out).detach().clone())
        )
    return states


def record_vision(folder: Path) -> None:
    """`vision.safetensors`: the tower with quick GELU at layer -2, and with exact GELU at layer -1, same weights."""
    seed = 21
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn((2, 3, VISION["image_size"], VISION["image_size"]), generator=generator)
    num_patches = (VISION["image_size"] // VISION["patch_size"]) ** 2
    objective_weights = torch.randn((2, num_patches, VISION["hidden_size"]), generator=generator)
    tensors: Tensors = {"pixels": pixels, "objective_weights": objective_weights}
    variants: dict[str, Any] = {}
    for variant, activation, layer in (("", "quick_gelu", -2), ("gelu.", "gelu", -1)):
        model = build_vision(VISION | {"hidden_act": activation}, seed)
        states = model(pixels, output_hidden_states=True).hidden_states
        objective = (states[layer][:, 1:] * objective_weights).sum()
        objective.backward()
        tensors |= named_weights(model) | named_gradients(model, f"{variant}grad.")
        tensors |= {f"{variant}hidden.{index}": state for index, state in enumerate(states)}
        tensors[f"{variant}objective"] = objective[None]
        variants[variant] = {
            "hidden_act": activation, "vision_feature_layer": layer, "without_gradient": without_gradient(model),
        }
    about = {
        "vision_config": VISION,
        "seed": seed,
        "variants": variants,
        "conventions": [
            "the key of a variant is the prefix of its tensors: '' or 'gelu.'; weights and pixels are shared",
            "pixels [image, channel, row, column]; patches in row-major order after the class token",
            "hidden.0 = embeddings after pre_layrnorm, hidden.i = output of block i - 1, never post_layernorm",
            "objective = sum(hidden[vision_feature_layer][:, 1:] * objective_weights); grad.* = its gradient",
            "self_attn.k_proj.bias has gradient 0 in exact arithmetic; what is stored is rounding",
        ],
    }
    save_fixture(folder / "vision.safetensors", tensors, about)


def record_projector(folder: Path) -> None:
    """`projector.safetensors`: the projectors without a twin in transformers, from torch's own building blocks.

    The MLP is LLaVA's and part of `vlm.safetensors`.
    """
    width, text_width, factor, side = 6, 5, 2, 4
    generator = torch.Generator().manual_seed(61)
    features = torch.randn((2, 1 + side * side, width), generator=generator)
    tensors: Tensors = {"features": features}
    sizes_of = {
        "linear": [(width, text_width)],
        "pixel_shuffle": [(width * factor**2, text_width)],
        "average_pool": [(width, text_width)],
        "mlp3": [(width, width), (width, text_width), (text_width, text_width)],
    }
    for kind, sizes in sizes_of.items():
        linears = draw_weights(torch.nn.ModuleList(torch.nn.Linear(*size) for size in sizes), 62)
        inputs = features.clone().requires_grad_()
        output = fold_patches(inputs[:, 1:], kind, factor)
        for index, linear in enumerate(linears):
            output = linear(output if index == 0 else torch.nn.functional.gelu(output))
        objective_weights = torch.randn(output.shape, generator=generator)
        (output * objective_weights).sum().backward()
        tensors |= {f"{kind}.output": output, f"{kind}.objective_weights": objective_weights}
        tensors[f"{kind}.grad.features"] = inputs.grad
        for index, linear in enumerate(linears):
            for name, parameter in linear.named_parameters():
                path = f"multi_modal_projector.linear_{index + 1}.{name}"
                tensors[f"{kind}.{path}"] = parameter
                tensors[f"{kind}.grad.{path}"] = parameter.grad
    about = {
        "vision_width": width, "text_width": text_width, "factor": factor, "vision_feature_select": "default",
        "conventions": [
            "features [image, class token + patches, width]; the class token is dropped, so its gradient is 0",
            "pixel_shuffle = torch.nn.functional.pixel_unshuffle over the grid, then one linear layer: input channel"
            " c * factor^2 + i * factor + j is channel c of row i, column j of the block",
            "average_pool = torch.nn.functional.avg_pool2d over the grid, kernel and stride = factor, then one linear"
            " layer; mlp3 = three linear layers with exact GELU between",
            "grad.* = gradient of sum(output * objective_weights)",
        ],
    }
    save_fixture(folder / "projector.safetensors", tensors, about)


def fold_patches(patches: torch.Tensor, kind: str, factor: int) -> torch.Tensor:
    """Blocks of neighbouring patches to one token, where the kind of projector does so."""
    side = round(patches.shape[1] ** 0.5)
    grid = patches.transpose(1, 2).unflatten(2, (side, side))  # [image, width, row, column]
    if kind == "pixel_shuffle":
        grid = torch.nn.functional.pixel_unshuffle(grid, factor)
    elif kind == "average_pool":
        grid = torch.nn.functional.avg_pool2d(grid, factor)
    return grid.flatten(2).transpose(1, 2)


VLM_SEED = 32  # of the weights of `vlm.safetensors`


def vlm_batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three right-padded rows with two images, none and one: ids, attention mask, labels, pixels."""
    image = [VLM["image_token_id"]] * 9
    rows = [
        [1, 7, *image, 8, *image, 9, 10, 11, 2, 12],
        [1, 13, 14, 15, 16, 17, 2],
        [1, *image, 18, 19, 20, 2],
    ]
    trained_from = [21, 3, 10]  # rows 0 and 2: the first trained token is predicted from an image's last token
    length = max(len(row) for row in rows)
    input_ids = torch.zeros((len(rows), length), dtype=torch.long)
    mask = torch.zeros_like(input_ids)
    labels = torch.full_like(input_ids, IGNORE)
    for index, row in enumerate(rows):
        input_ids[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
        labels[index, trained_from[index] : len(row)] = torch.tensor(row[trained_from[index] :])
    side = VLM["vision_config"]["image_size"]
    pixels = torch.randn((3, 3, side, side), generator=torch.Generator().manual_seed(31))
    return input_ids, mask, labels, pixels


def record_vlm(folder: Path) -> None:
    """`vlm.safetensors`: a LLaVA of everything above, with intermediate values, losses and all gradients."""
    model = build_vlm(VLM, VLM_SEED)
    input_ids, mask, labels, pixels = vlm_batch()
    states = block_outputs(model.model.language_model.layers)
    output = model(input_ids=input_ids, pixel_values=pixels, attention_mask=mask, labels=labels, use_cache=False)
    hidden = list(states)
    loss_sum, num_labelled = token_losses(output.logits, labels)
    assert_close(loss_sum / num_labelled, output.loss, "our loss and the model's")
    (loss_sum / num_labelled).backward()
    valid = mask[..., None].float()
    with torch.no_grad():
        unmasked = model(input_ids=input_ids, pixel_values=pixels, use_cache=False)
    assert_close(unmasked.logits * valid, output.logits * valid, "logits without an attention mask")
    tensors = named_weights(model) | named_gradients(model)
    tensors |= {"input_ids": input_ids.int(), "attention_mask": mask.int(), "labels": labels.int()}
    tensors |= {"pixels": pixels, "image_features": output.image_hidden_states.unflatten(0, (len(pixels), -1))}
    tensors |= {f"hidden.{index}": state * valid for index, state in enumerate(hidden)}
    tensors |= {"logits": output.logits * valid, "loss_sum": loss_sum[None], "loss_mean": output.loss[None]}
    about = VLM | {
        "seed": VLM_SEED,
        "num_labelled": num_labelled,
        "pad_token_id": 0,
        "without_gradient": without_gradient(model),
        "conventions": [
            LABEL_RULE,
            GRADIENT_OF_LOSS,
            "image_features [image, patch, width] after the projector, in the order of their placeholders, row by row",
            "hidden.0 = embeddings after the splice, hidden.i = output of decoder block i - 1",
            "logits and hidden.* are 0 where attention_mask is 0: compare only where it is 1",
            "recorded with the mask; without it the valid positions are the same, since rows are padded on the right",
            "self_attn.k_proj.bias has gradient 0 in exact arithmetic; what is stored is rounding",
        ],
    }
    save_fixture(folder / "vlm.safetensors", tensors, about)
