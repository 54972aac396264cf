#!/usr/bin/env python3
"""Records the numeric fixtures in tests/fixtures from PyTorch and transformers.

    python3 tests/scripts/record_fixtures.py            # writes tests/fixtures
    python3 tests/scripts/record_fixtures.py --check    # records elsewhere and compares, writes nothing

Needs torch, transformers, peft and safetensors; the tests themselves need none of them. Everything is seeded and runs
on one CPU thread in f32.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch

from fixtures_classification import record_classification
from fixtures_forward import record_decoders, record_projector, record_vision, record_vlm
from fixtures_generation import record_generation
from fixtures_language import record_languages, record_rope
from fixtures_lora import record_lora
from fixtures_pickled import record_pickled
from fixtures_processor import record_processor
from fixtures_training import record_adamw, record_schedules, record_training
from fixtures_vision import record_towers

RECORDERS: dict[str, Callable[[Path], None]] = {
    "decoder": record_decoders,
    "language": record_languages,
    "rope": record_rope,
    "vision": record_vision,
    "projector": record_projector,
    "vlm": record_vlm,
    "towers": record_towers,
    "generation": record_generation,
    "lora": record_lora,
    "pickled": record_pickled,
    "classification": record_classification,
    "processor": record_processor,
    "adamw": record_adamw,
    "schedules": record_schedules,
    "training": record_training,
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).resolve().parent.parent / "fixtures"
    parser.add_argument("--out", type=Path, default=default, help="folder of the fixtures (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=sorted(RECORDERS), help="record these instead of all")
    parser.add_argument("--check", action="store_true", help="compare with the files in --out instead of writing")
    return parser.parse_args()


def make_deterministic() -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)


def about(path: Path) -> dict:
    """What a fixture says of itself; a file of weights says nothing."""
    if path.suffix != ".safetensors":
        return {}
    with safetensors.safe_open(path, "pt") as file:
        return json.loads((file.metadata() or {}).get("fixture", "{}"))


def differences(recorded: Path, stored: Path) -> list[str]:
    """What differs between two fixtures beyond the rounding of another machine or version."""
    if not stored.exists():
        return [f"{stored}: missing"]
    if recorded.suffix == ".json":
        new, old = (json.loads(path.read_text()) for path in (recorded, stored))
        return [] if new.get("cases", new) == old.get("cases", old) else [f"{stored}: cases differ"]
    load = torch.load if recorded.suffix == ".bin" else safetensors.torch.load_file
    new, old = (load(path) for path in (recorded, stored))
    if new.keys() != old.keys():
        return [f"{stored}: names differ: {sorted(new.keys() ^ old.keys())}"]
    if any(about(recorded).get(key) != about(stored).get(key) for key in ("cases", "levels", "processors")):
        return [f"{stored}: what is said about exact results differs"]
    # Exact arithmetic gives k_proj.bias a gradient of 0: in a trained weight only rounding is left of it.
    names = (name for name in new if not (name.startswith("final.") and name.endswith("k_proj.bias")))
    return [
        f"{stored}: {name} differs by {(new[name] - old[name]).abs().max():.3g}"
        for name in names
        if new[name].shape != old[name].shape or not torch.allclose(new[name], old[name], rtol=1e-4, atol=1e-5)
    ]


def main() -> int:
    arguments = parse_arguments()
    make_deterministic()
    chosen = arguments.only or list(RECORDERS)
    if not arguments.check:
        arguments.out.mkdir(parents=True, exist_ok=True)
        for name in chosen:
            RECORDERS[name](arguments.out)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen:
            RECORDERS[name](Path(folder))
        recorded = sorted(Path(folder).iterdir())
        found = [line for path in recorded for line in differences(path, arguments.out / path.name)]
    print("\n".join(found) or "fixtures agree")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
