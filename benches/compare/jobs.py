"""Jobs that Brazier and the rival run alike: a model folder that transformers wrote, rows, and a native YAML."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from meditron import make_twin, write_folder
from settings import find_tokenizer

# Narrow layers need larger weights than the usual 0.02, or thirty steps do not tell models apart.
STD = 0.08
TEXT = {
    "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "initializer_range": STD,
    "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}
VISION = {
    "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32,
    "patch_size": 8, "initializer_range": STD,
}
# The patches do not fill the image.
SIGLIP = VISION | {"patch_size": 7}
SIGLIP_TEXT = {"vocab_size": 16, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
               "num_attention_heads": 1}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}


@dataclass(frozen=True)
class Job:
    """A folder with a model and the rows it learns from."""

    name: str
    modes: tuple[str, ...]
    make: Callable[[int, int], transformers.PreTrainedModel]  # vocabulary, image token -> model

    @property
    def has_images(self) -> bool:
        return len(self.modes) > 1


def language_model(config: type, **options: Any) -> Callable[[int, int], transformers.PreTrainedModel]:
    def make(vocabulary: int, _: int) -> transformers.PreTrainedModel:
        return transformers.AutoModelForCausalLM.from_config(config(vocab_size=vocabulary, **TEXT, **options))

    return make


def llava(text: type, vision: dict[str, Any], tower: type, **options: Any) -> Callable[[int, int], Any]:
    def make(vocabulary: int, image_token: int) -> transformers.PreTrainedModel:
        return transformers.LlavaForConditionalGeneration(transformers.LlavaConfig(
            text_config=text(vocab_size=vocabulary, **TEXT), vision_config=tower(**vision),
            image_token_index=image_token, **options,
        ))

    return make


def meditron(vocabulary: int, image_token: int) -> transformers.PreTrainedModel:
    """MultiMeditron's model, as its twin."""
    text = transformers.Qwen3Config(vocab_size=vocabulary, **TEXT)
    vision = transformers.SiglipVisionConfig(**SIGLIP)
    return make_twin(text, vision, image_token, "sdpa")


def save_model(job: Job, model: transformers.PreTrainedModel, folder: Path) -> Path:
    """Writes the model's folder below `folder`."""
    if job.make is not meditron:
        model.save_pretrained(folder / "model")
    else:
        config = transformers.SiglipConfig(text_config=SIGLIP_TEXT, vision_config=SIGLIP)
        write_folder(model, transformers.SiglipModel(config), folder)
    return folder / "model"


MODES = ("alignment", "end_to_end", "lm_only", "full")
JOBS = (
    Job("llama", ("full",), language_model(transformers.LlamaConfig, rope_parameters=LLAMA3)),
    Job("qwen2", ("full",), language_model(transformers.Qwen2Config)),
    Job("qwen3", ("full",), language_model(transformers.Qwen3Config, tie_word_embeddings=True)),
    Job("apertus", ("full",), language_model(transformers.ApertusConfig, rope_parameters=LLAMA3)),
    Job("llava", MODES, llava(transformers.LlamaConfig, VISION, transformers.CLIPVisionConfig, vision_feature_layer=-2)),
    Job("llava-siglip", MODES, llava(transformers.Qwen3Config, SIGLIP, transformers.SiglipVisionConfig,
                                     vision_feature_layer=-2, vision_feature_select_strategy="full")),
    Job("multimeditron", MODES, meditron),
)


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Norms, biases and other constants that start at 0 or 1 get values of their own: a mistake there must show."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() < 2:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)


def write_job(job: Job, data: Path, folder: Path, seed: int) -> Path:
    """The job's model folder, rows and YAML below `folder`; gives the YAML."""
    torch.manual_seed(seed)
    tokenizer_file, _ = find_tokenizer(data / "tokenizer")
    tokenizer = json.loads(tokenizer_file.read_text())
    size = len(tokenizer["model"]["vocab"]) + len(tokenizer["added_tokens"])
    image_token = next(token["id"] for token in tokenizer["added_tokens"] if token["content"] == "<image>")
    model = job.make(size, image_token)
    randomise(model, seed)
    model_dir = save_model(job, model, folder / job.name)
    for file in (data / "tokenizer").iterdir():
        shutil.copy(file, model_dir)
    if job.has_images:
        side = VISION["image_size"]
        transformers.CLIPImageProcessor(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        ).save_pretrained(model_dir)
    rows = folder / job.name / "train.jsonl"
    write_rows(data, rows, job.has_images)
    config = {
        "output": str(folder / job.name / "run"),
        "model": {"from": str(model_dir)},
        "data": {"train": [{"path": str(rows)}], "sequence_length": 256, "shuffle": False, "workers": 0},
        "train": {
            "steps": 30, "micro_batch_size": 4, "accumulation": 2, "max_grad_norm": 0.5,
            "optimizer": {"lr": 2e-3, "betas": [0.9, 0.95], "weight_decay": 0.1},
            "schedule": {"name": "cosine", "warmup_steps": 5},
        },
        "checkpoint": {"export": False},
        "track": {"log_every": 1, "tensorboard": False},
    }
    path = folder / job.name / "job.yaml"
    path.write_text(json.dumps(config, indent=2))  # JSON is YAML
    return path


def write_rows(data: Path, path: Path, has_images: bool) -> None:
    """The first 240 rows of the data set; without eyes, their text alone. Every third row of a seeing model is text."""
    picked = (data / "train.jsonl").read_text().splitlines()[:240]
    rows = [json.loads(line) for line in picked]
    for index, row in enumerate(rows):
        if has_images and index % 3:
            row["images"] = [str((data / image).resolve()) for image in row["images"]]
        else:
            row.pop("images", None)
            for message in row["messages"]:
                message["content"] = text_of(message["content"])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def text_of(content: Any) -> str:
    parts = [content] if isinstance(content, str) else [part["text"] for part in content if part["type"] == "text"]
    return "".join(parts).replace("<image>", "").strip()


def draw_data(brazier: Path, folder: Path) -> Path:
    """The demo's data set, small."""
    subprocess.run([brazier, "data", "synth", "--out", folder, "--train", "200", "--eval", "20",
                    "--image-size", "32"], check=True, capture_output=True)
    return folder
