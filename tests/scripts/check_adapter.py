"""Loads exported adapters with PEFT on their base model, and compares with the merged model.

    python tests/scripts/check_adapter.py RUN/export --ids 1,5,9
    python tests/scripts/check_adapter.py RUN/export --base BASE --merged MERGED --ids 1,5,9 --image picture.png

Prints one JSON object: parameters the base model has and the adapter's file lacks or the other way round (both must be
empty), the most likely next tokens or the logits of the classes, how far the adapters move the logits from those of the
base model, and, with --merged, how far those of the merged model are from both together, relative to the largest.

Everything is computed in f32 on the CPU. Needs torch, transformers, peft and, for images, pillow.
"""

import argparse
import json
import logging
import os
import pathlib
import sys

# PEFT would ask the hub about every folder.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import safetensors.torch
import torch
from peft import PeftModel
from peft.utils import get_peft_model_state_dict
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSequenceClassification,
)


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", type=pathlib.Path)
    parser.add_argument("--base", help="folder of the base model (default: the one that the adapter names)")
    parser.add_argument("--merged", type=pathlib.Path, help="folder of the merged model")
    parser.add_argument("--ids", required=True, help="input ids, separated by commas")
    parser.add_argument("--image", type=pathlib.Path, help="for the image tokens among the ids")
    parser.add_argument("--tolerance", type=float, default=1e-5, help="for the merged model (default: %(default)s)")
    return parser.parse_args()


def load(folder, num_labels):
    """The model in f32; with a fresh head if the adapter brings one of its own."""
    config = AutoConfig.from_pretrained(folder)
    if num_labels:
        return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=num_labels, dtype=torch.float32)
    kind = AutoModelForImageTextToText if config.model_type == "llava" else AutoModelForCausalLM
    return kind.from_pretrained(folder, dtype=torch.float32)


def main():
    arguments = read_arguments()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    settings = json.loads((arguments.adapter / "adapter_config.json").read_text())
    base = arguments.base or settings["base_model_name_or_path"]
    stored = safetensors.torch.load_file(arguments.adapter / "adapter_model.safetensors")
    head = stored.get("base_model.model.score.weight")
    num_labels = 0 if head is None else head.shape[0]
    inputs = {"input_ids": torch.tensor([[int(token) for token in arguments.ids.split(",")]])}
    if arguments.image:
        from PIL import Image

        processor = AutoImageProcessor.from_pretrained(base)
        inputs["pixel_values"] = processor(images=Image.open(arguments.image), return_tensors="pt")["pixel_values"]

    @torch.no_grad()
    def logits(model):
        return model.eval()(**inputs).logits.float()

    plain = logits(load(base, num_labels))
    adapted_model = PeftModel.from_pretrained(load(base, num_labels), arguments.adapter)
    adapted = logits(adapted_model)
    expected = get_peft_model_state_dict(adapted_model)
    wrong = [name for name in expected if name in stored and not torch.equal(expected[name], stored[name].float())]
    largest = adapted.abs().max().item()
    best = torch.topk(adapted.reshape(-1, adapted.shape[-1])[-1], min(5, adapted.shape[-1]))
    report = {
        "missing_keys": sorted(expected.keys() - stored.keys()),
        "unexpected_keys": sorted(stored.keys() - expected.keys()),
        "not_loaded": wrong,
        "best": [[int(token), float(value)] for token, value in zip(best.indices, best.values)],
        "moved_by": (adapted - plain).abs().max().item() / largest,
    }
    good = not (report["missing_keys"] or report["unexpected_keys"] or wrong)
    if arguments.merged:
        report["merged_error"] = (logits(load(arguments.merged, num_labels)) - adapted).abs().max().item() / largest
        good = good and report["merged_error"] <= arguments.tolerance
    json.dump(report, sys.stdout, indent=1)
    print()
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
