"""JSONL chat rows with images to padded batches: the same template, labels and pixels as Brazier's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch.utils.data import DataLoader, Dataset

from settings import Settings, find_tokenizer

IGNORE = -100
IMAGE = "<image>"
CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32)
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)


@dataclass(frozen=True)
class Vocabulary:
    """What the model has to know about the tokenizer."""

    size: int
    image_id: int
    pad_id: int


@dataclass
class Example:
    """One row: ids with every image expanded, labels, normalised images `[3, side, side]`."""

    input_ids: list[int]
    labels: list[int]
    images: list[np.ndarray]


def chat_segments(messages: list[dict[str, Any]]) -> Iterator[tuple[str, bool, bool]]:
    """ChatML as (text, comes from the template, trained); an image is a template segment of its own."""
    for message in messages:
        content = message["content"]
        if not isinstance(content, str):
            content = "".join(IMAGE if part["type"] == "image" else part["text"] for part in content)
        trained = message["role"] == "assistant"
        yield f"<|im_start|>{message['role']}\n", True, False
        for place, text in enumerate(content.split(IMAGE)):
            if place > 0:
                yield IMAGE, True, False
            if text:
                yield text, False, trained
        yield "<|im_end|>", True, trained
        yield "\n", True, False


class ChatRows(Dataset[Example]):
    """Rows that fit `sequence_length`; decoded on access, or all at once with `cache`."""

    def __init__(self, settings: Settings, image_size: int, num_image_tokens: int, cache: bool) -> None:
        self.file, pad = find_tokenizer(settings.tokenizer)
        self.image_size, self.num_image_tokens = image_size, num_image_tokens
        self.length, self.too_long = settings.data["sequence_length"], settings.data.get("too_long", "error")
        self.template, self.content = (Tokenizer.from_file(str(self.file)) for _ in range(2))
        self.content.encode_special_tokens = True  # text of a row never becomes a control token
        image_token = settings.model.get("image_token") or IMAGE
        ids = {token: self.template.token_to_id(token) for token in (image_token, pad)}
        if None in ids.values():
            raise ValueError(f"{self.file}: no such token: {[token for token, id in ids.items() if id is None]}")
        self.vocabulary = Vocabulary(self.template.get_vocab_size(), ids[image_token], ids[pad])
        self.rows = [(path.parent, line) for path in settings.train_files for line in path.open("rb") if line.strip()]
        if self.too_long == "drop":
            self.rows = [row for row in self.rows if len(self.encode(json.loads(row[1]))[0]) <= self.length]
        self.cached = [self.decode(index) for index in range(len(self.rows))] if cache else None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        return self.cached[index] if self.cached is not None else self.decode(index)

    def encode(self, row: dict[str, Any]) -> tuple[list[int], list[int]]:
        """Ids and labels; only an assistant's words and the end of its turn are trained."""
        input_ids: list[int] = []
        labels: list[int] = []
        for text, from_template, trained in chat_segments(row["messages"]):
            if from_template and text == IMAGE:
                ids = [self.vocabulary.image_id] * self.num_image_tokens
            else:
                ids = (self.template if from_template else self.content).encode(text, add_special_tokens=False).ids
            input_ids += ids
            labels += ids if trained else [IGNORE] * len(ids)
        return input_ids, labels

    def decode(self, index: int) -> Example:
        folder, line = self.rows[index]
        row = json.loads(line)
        input_ids, labels = self.encode(row)
        if len(input_ids) > self.length and self.too_long == "error":
            raise ValueError(f"row {index}: {len(input_ids)} tokens, at most {self.length} allowed")
        if row.get("images") and not self.image_size:
            raise ValueError(f"row {index}: has images, but model.vision is not configured")
        images = [self.load_image(folder / path) for path in row.get("images", [])]
        return Example(input_ids[: self.length], labels[: self.length], images)

    def load_image(self, path: Path) -> np.ndarray:
        with Image.open(path) as file:
            image = file.convert("RGB")
        if image.size != (self.image_size, self.image_size):
            image = image.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC)
        pixels = np.asarray(image, dtype=np.float32) / 255.0
        return ((pixels - CLIP_MEAN) / CLIP_STD).transpose(2, 0, 1)


@dataclass
class Batch:
    """Rows padded on the right to the longest."""

    input_ids: torch.Tensor
    labels: torch.Tensor
    pixels: torch.Tensor | None
    num_tokens: int
    num_labelled: int

    def to(self, device: torch.device) -> Batch:
        def move(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device, non_blocking=True)

        pixels = None if self.pixels is None else move(self.pixels)
        return Batch(move(self.input_ids), move(self.labels), pixels, self.num_tokens, self.num_labelled)

    def pin_memory(self) -> Batch:
        """DataLoader calls it when it pins."""
        pixels = None if self.pixels is None else self.pixels.pin_memory()
        return Batch(self.input_ids.pin_memory(), self.labels.pin_memory(), pixels, self.num_tokens, self.num_labelled)


def collate(examples: list[Example], pad_id: int) -> Batch:
    length = max(len(example.input_ids) for example in examples)
    input_ids = torch.full((len(examples), length), pad_id)
    labels = torch.full((len(examples), length), IGNORE)
    for index, example in enumerate(examples):
        input_ids[index, : len(example.input_ids)] = torch.tensor(example.input_ids)
        labels[index, : len(example.labels)] = torch.tensor(example.labels)
    images = [image for example in examples for image in example.images]
    pixels = torch.from_numpy(np.stack(images)) if images else None
    num_tokens = sum(len(example.input_ids) for example in examples)
    return Batch(input_ids, labels, pixels, num_tokens, int((labels[:, 1:] != IGNORE).sum()))


class Order:
    """Endless micro-batches of row numbers: a new permutation each epoch, a pure function of the seed."""

    def __init__(self, num_rows: int, micro_batch_size: int, shuffle: bool, seed: int) -> None:
        self.num_rows, self.micro_batch_size, self.shuffle, self.seed = num_rows, micro_batch_size, shuffle, seed

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed)
        waiting: list[int] = []
        while True:
            epoch = torch.randperm(self.num_rows, generator=generator) if self.shuffle else torch.arange(self.num_rows)
            waiting += epoch.tolist()
            while len(waiting) >= self.micro_batch_size:
                yield waiting[: self.micro_batch_size]
                waiting = waiting[self.micro_batch_size :]


def make_loader(rows: ChatRows, settings: Settings, workers: int, pin: bool) -> DataLoader[Batch]:
    """Micro-batches, made ahead by `workers` processes (0: in the training process)."""
    order = Order(len(rows), settings.micro_batch_size, settings.data.get("shuffle", True), settings.seed)
    ahead = (settings.data.get("prefetch") or 2) * settings.accumulation
    return DataLoader(
        rows,
        batch_sampler=order,  # type: ignore[arg-type]  # endless: has no length
        collate_fn=Collator(rows.vocabulary.pad_id),
        num_workers=workers,
        prefetch_factor=max(1, -(-ahead // workers)) if workers else None,
        pin_memory=pin,
    )


@dataclass(frozen=True)
class Collator:
    """`collate` with its pad id, in a form that travels to worker processes."""

    pad_id: int

    def __call__(self, examples: list[Example]) -> Batch:
        return collate(examples, self.pad_id)
