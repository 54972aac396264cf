#!/usr/bin/env python3
"""Loads exported folders in transformers and records what it makes of them in tests/fixtures/exports.json.

    BRAZIER_WRITE_EXPORTS=DIR cargo test --test numerics exports
    python3 tests/scripts/record_exports.py DIR

The models are those of the fixtures, so the logits must be the ones that are stored there: `logits_relative_error` is the
largest difference over the largest logit. `files` has the SHA-256 of what was loaded. The test compares its own files with
these hashes. Needs torch, transformers and safetensors.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

import safetensors.torch
import torch
import transformers
from check_export import load

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"


def arguments_of(fixture: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What the model takes, by the names of its arguments."""
    inputs = {"input_ids": fixture["input_ids"].long()}
    if "attention_mask" in fixture:
        inputs["attention_mask"] = fixture["attention_mask"].long()
    if "lengths" in fixture:
        places = torch.arange(fixture["input_ids"].shape[1])
        inputs["attention_mask"] = (places < fixture["lengths"][:, None]).long()
    if "pixels" in fixture:
        inputs["pixel_values"] = fixture["pixels"]
    return inputs


def examine(folder: Path) -> dict[str, object]:
    model, _, mismatches = load(folder)
    fixture = safetensors.torch.load_file(FIXTURES / f"{folder.name}.safetensors")
    inputs = arguments_of(fixture)
    with torch.no_grad():
        logits = model(**inputs).logits
    if "pixels" in fixture:
        logits = logits * inputs["attention_mask"][..., None]
    error = (logits - fixture["logits"]).abs().max() / fixture["logits"].abs().max()
    files = sorted(path for path in folder.iterdir() if path.name == "config.json" or path.name.startswith("model"))
    return {
        "class": type(model).__name__,
        "missing_or_unexpected": mismatches,
        "logits_relative_error": float(error),
        "files": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, help="the folder that holds the exports")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cases = {folder.name: examine(folder) for folder in sorted(arguments.folders.iterdir()) if folder.is_dir()}
    for name, case in cases.items():
        print(f"{name}: {case['class']}, {case['missing_or_unexpected'] or 'every key'}, {case['logits_relative_error']:.1e}")
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    recorded = {"versions": versions, "cases": cases}
    (FIXTURES / "exports.json").write_text(json.dumps(recorded, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
