"""Fixture of greedy generation: what transformers answers to prompts of several lengths in one batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fixture_models import VLM, Tensors, build_vlm, draw_weights, save_fixture
from fixtures_forward import VLM_SEED
from fixtures_language import CLASSES, FAMILIES, PLAIN, hugging_face_config

NUM_NEW = 64
POSITIONS = {"max_position_embeddings": 128}
# Between the best and the second best token at every step: far above rounding.
MARGIN = 1e-4


def generate(model: Any, prompts: list[list[int]], **inputs: Any) -> torch.Tensor:
    """Greedy continuations, `[prompts, NUM_NEW]`. transformers wants padding on the left."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    answer = model.generate(
        input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=NUM_NEW, min_new_tokens=NUM_NEW,
        pad_token_id=0, output_logits=True, return_dict_in_generate=True, **inputs,
    )  # fmt: skip
    best = torch.stack(answer.logits).topk(2).values
    margin = (best[..., 0] - best[..., 1]).min().item()
    if margin < MARGIN:
        raise ValueError(f"a tie at {margin:.1e}: rounding would decide; take other prompts")
    return answer.sequences[:, width:].int()


def draw_prompts(lengths: list[int], vocabulary: int, seed: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, vocabulary, (length,), generator=generator).tolist() for length in lengths]


def store(tensors: Tensors, name: str, prompts: list[list[int]], answers: torch.Tensor) -> None:
    for row, (prompt, answer) in enumerate(zip(prompts, answers)):
        tensors[f"{name}.prompt.{row}"] = torch.tensor(prompt, dtype=torch.int32)
        tensors[f"{name}.answer.{row}"] = answer.clone()


def record_generation(folder: Path) -> None:
    """`generation.safetensors`; the weights are those of `language_<name>.safetensors` and `vlm.safetensors`."""
    tensors: Tensors = {}
    for name, (changes, _, seed) in FAMILIES.items():
        plain = PLAIN | changes | POSITIONS
        model = draw_weights(CLASSES[plain["model_type"]][1](hugging_face_config(plain)).float(), seed)
        prompts = draw_prompts([3, 14, 9], plain["vocab_size"], seed + 1)
        store(tensors, name, prompts, generate(model, prompts))

    plain = VLM | {"text_config": VLM["text_config"] | POSITIONS}
    image = [VLM["image_token_id"]] * 9
    prompts = [[1, *image, 4, *image, 5, 6], [7, 8, 9], [1, 2, *image, 10]]
    side = VLM["vision_config"]["image_size"]
    pixels = torch.randn((3, 3, side, side), generator=torch.Generator().manual_seed(4))
    store(tensors, "vlm", prompts, generate(build_vlm(plain, VLM_SEED), prompts, pixel_values=pixels))
    tensors["vlm.pixels"] = pixels
    about = {
        "max_position_embeddings": POSITIONS["max_position_embeddings"],
        "conventions": [
            "NAME.answer.ROW = the tokens that follow NAME.prompt.ROW greedily; all rows of a name ran in one batch",
            "weights and configuration: language_NAME.safetensors and vlm.safetensors, but for max_position_embeddings",
            "vlm.pixels: the images in the order of their placeholders, row by row",
        ],
    }
    save_fixture(folder / "generation.safetensors", tensors, about)
