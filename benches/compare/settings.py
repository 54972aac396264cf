"""The parts of Brazier's native YAML that the rival needs, with Brazier's defaults."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Settings:
    """A run, as far as the rival can follow it."""

    model: dict[str, Any]
    train_files: list[Path]
    tokenizer: Path
    data: dict[str, Any]
    train: dict[str, Any]
    seed: int

    @property
    def accumulation(self) -> int:
        if global_batch := self.train.get("global_batch_size"):
            return max(1, global_batch // self.micro_batch_size)
        return self.train.get("accumulation") or 1

    @property
    def micro_batch_size(self) -> int:
        return self.train.get("micro_batch_size", 1)

    def total_steps(self, num_rows: int) -> int:
        """Optimizer steps of the whole run: given, or epochs over the rows, the last one perhaps short."""
        if steps := self.train.get("steps"):
            return steps
        samples = round(self.train["epochs"] * num_rows)
        return -(-samples // (self.micro_batch_size * self.accumulation))


class Loader(yaml.SafeLoader):
    """YAML 1.2's numbers: PyYAML alone reads `1e-3`, which has no dot, as text."""


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_settings(config: Path, data: Path | None, overrides: list[str]) -> Settings:
    """Reads the YAML, applies `a.b=c` overrides, and finds the data set (`data` replaces its folder)."""
    raw = yaml.load(os.path.expandvars(config.read_text()), Loader)
    for override in overrides:
        path, _, value = override.partition("=")
        *parents, last = path.split(".")
        node = raw
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = yaml.load(value, Loader)
    model, section = raw["model"], raw["data"]
    folder = data or Path((section.get("synth") or {}).get("dir", "data/shapes"))
    given = None if data else section.get("train")
    files = [Path(rows["path"]) for rows in given] if given else [folder / "train.jsonl"]
    named = None if data else model.get("tokenizer") or model.get("from")
    tokenizer = Path(named) if named else folder / "tokenizer"
    return Settings(model, files, tokenizer, section, raw["train"], raw.get("seed", 0))


def find_tokenizer(path: Path) -> tuple[Path, str]:
    """The `tokenizer.json` and the name of its pad token."""
    file = path / "tokenizer.json" if path.is_dir() else path
    config = file.with_name("tokenizer_config.json")
    if not config.exists():
        raise FileNotFoundError(f"{config}: needed for the pad token")
    pad = json.loads(config.read_text())["pad_token"]
    return file, pad["content"] if isinstance(pad, dict) else pad
