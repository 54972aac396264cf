"""Loads an exported folder in transformers and shows what it makes of it.

    python tests/scripts/check_export.py EXPORT --prompt "How many circles are there?" --image picture.png
    python tests/scripts/check_export.py EXPORT --ids 1,5,9 --json out.json

Prints one JSON object: missing and unexpected keys (both must be empty), the input ids, the most likely next tokens,
and, greedily, the answer. With --json the logits of every position go to that file, so that they can be compared
with those of another program; with --pixels the normalised pixels do too, as raw little-endian f32 [n, 3, S, S].

--prompt goes through the exported chat template, tokenizer and image processor; --ids goes in as it is, with the image
(if any) expected at the image tokens among them. Everything is computed in f32 on the CPU.

Of a classification head the logits are those of the classes, and there is no answer.

Needs torch, transformers and pillow. A folder whose model_type is brazier_vlm is not for transformers.
"""

import argparse
import json
import logging
import pathlib
import sys

import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSequenceClassification,
    AutoProcessor,
    AutoTokenizer,
)


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--prompt", help="text of one user turn, after the image")
    what.add_argument("--ids", help="input ids, separated by commas")
    parser.add_argument("--image", type=pathlib.Path)
    parser.add_argument("--max-new-tokens", type=int, default=16)
    parser.add_argument("--json", type=pathlib.Path, help="file for ids and the logits of all positions")
    parser.add_argument("--pixels", type=pathlib.Path, help="file for the pixels the model saw")
    return parser.parse_args()


def load(folder):
    """The model in f32, whether it sees, and what did not fit."""
    config = AutoConfig.from_pretrained(folder)
    has_vision = config.model_type == "llava"
    kind = AutoModelForImageTextToText if has_vision else AutoModelForCausalLM
    if classifies(config):
        kind = AutoModelForSequenceClassification
    model, info = kind.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    return model.eval(), has_vision, {name: sorted(map(str, keys)) for name, keys in info.items() if keys}


def classifies(config):
    return (config.architectures or [""])[0].endswith("ForSequenceClassification")


def make_inputs(arguments, folder, has_vision):
    """Input tensors, and the tokenizer that reads the answer."""
    image = Image.open(arguments.image) if arguments.image else None
    if not has_vision:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        processor = None
    else:
        processor = AutoProcessor.from_pretrained(folder)
        tokenizer = processor.tokenizer
    if arguments.ids:
        inputs = {"input_ids": torch.tensor([[int(token) for token in arguments.ids.split(",")]])}
        if image is not None:
            inputs["pixel_values"] = processor.image_processor(images=image, return_tensors="pt")["pixel_values"]
        return inputs, tokenizer
    content = [{"type": "image"}] if image is not None else []
    content.append({"type": "text", "text": arguments.prompt})
    messages = [{"role": "user", "content": content if has_vision else arguments.prompt}]
    text = (processor or tokenizer).apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    if processor is None:
        return dict(tokenizer(text, add_special_tokens=False, return_tensors="pt")), tokenizer
    keep = {"input_ids", "attention_mask", "pixel_values"}
    inputs = processor(images=image, text=text, add_special_tokens=False, return_tensors="pt")
    return {name: value for name, value in inputs.items() if name in keep}, tokenizer


def main():
    arguments = read_arguments()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    model, has_vision, mismatches = load(arguments.folder)
    inputs, tokenizer = make_inputs(arguments, arguments.folder, has_vision)
    with torch.no_grad():
        logits = model(**inputs).logits
        # One row of classes instead of one row for each token.
        logits = (logits if classifies(model.config) else logits[0]).float()
        answer = inputs["input_ids"]
        if not classifies(model.config):
            answer = model.generate(**inputs, max_new_tokens=arguments.max_new_tokens, do_sample=False)
    ids = inputs["input_ids"][0].tolist()
    best = torch.topk(logits[-1], min(5, logits.shape[-1]))
    report = {
        "model": type(model).__name__,
        "mismatches": mismatches,
        "missing_keys": mismatches.get("missing_keys", []),
        "unexpected_keys": mismatches.get("unexpected_keys", []),
        "input_ids": ids,
        "next_tokens": [[int(token), float(value)] for token, value in zip(best.indices, best.values)],
        "answer_ids": answer[0].tolist()[len(ids) :],
        "answer": tokenizer.decode(answer[0][len(ids) :], skip_special_tokens=True),
    }
    json.dump(report, sys.stdout, indent=1)
    print()
    if arguments.json:
        arguments.json.write_text(json.dumps({"input_ids": ids, "logits": logits.tolist()}))
    if arguments.pixels and "pixel_values" in inputs:
        arguments.pixels.write_bytes(inputs["pixel_values"].float().numpy().astype("<f4").tobytes())
    sys.exit(1 if mismatches else 0)


if __name__ == "__main__":
    main()
