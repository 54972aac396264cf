#!/usr/bin/env python3
"""Writes a Llama-like model folder of random bf16 weights in shards, for timing imports.

    python3 benches/import/make_model.py FOLDER                  # 2 GB in 8 files
    python3 benches/import/make_model.py FOLDER --layers 32      # larger

Needs numpy only. The values mean nothing; config.json, index and tensor names are those of LlamaForCausalLM.
"""

import argparse
import json
import struct
from pathlib import Path

import numpy


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=18)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--inner", type=int, default=5632)
    parser.add_argument("--vocabulary", type=int, default=32000)
    parser.add_argument("--shards", type=int, default=8)
    return parser.parse_args()


def shapes(arguments):
    """Every tensor of the model, in order."""
    width, inner, vocabulary = arguments.hidden, arguments.inner, arguments.vocabulary
    yield "model.embed_tokens.weight", [vocabulary, width]
    for layer in range(arguments.layers):
        prefix = f"model.layers.{layer}."
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"{prefix}{name}.weight", [width]
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield f"{prefix}self_attn.{name}.weight", [width, width]
        yield f"{prefix}mlp.gate_proj.weight", [inner, width]
        yield f"{prefix}mlp.up_proj.weight", [inner, width]
        yield f"{prefix}mlp.down_proj.weight", [width, inner]
    yield "model.norm.weight", [width]
    yield "lm_head.weight", [vocabulary, width]


def num_bytes(shape):
    return 2 * int(numpy.prod(shape))


def write_shard(path, tensors, block, generator):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors:
        end = offset + num_bytes(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, shape in tensors:
            # One block of values, turned by a random amount: drawing all of them would take minutes.
            turned = numpy.roll(block, int(generator.integers(block.size)))
            file.write(numpy.resize(turned, int(numpy.prod(shape))).tobytes())


def main():
    arguments = parse_arguments()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    tensors = list(shapes(arguments))
    total = sum(num_bytes(shape) for _, shape in tensors)
    shards, filled = [[]], 0
    for name, shape in tensors:
        if filled + num_bytes(shape) > total / arguments.shards and shards[-1] and len(shards) < arguments.shards:
            shards.append([])
            filled = 0
        shards[-1].append((name, shape))
        filled += num_bytes(shape)
    generator = numpy.random.default_rng(0)
    values = generator.standard_normal(1 << 20, dtype=numpy.float32) * 0.02
    # The upper half of an f32 is a bf16.
    block = (values.view(numpy.uint32) >> 16).astype("<u2")
    weight_map = {}
    for index, shard in enumerate(shards):
        name = f"model-{index + 1:05}-of-{len(shards):05}.safetensors"
        write_shard(arguments.folder / name, shard, block, generator)
        weight_map.update({tensor: name for tensor, _ in shard})
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (arguments.folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": arguments.vocabulary,
        "hidden_size": arguments.hidden,
        "intermediate_size": arguments.inner,
        "num_hidden_layers": arguments.layers,
        "num_attention_heads": arguments.hidden // 64,
        "num_key_value_heads": arguments.hidden // 64,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    (arguments.folder / "config.json").write_text(json.dumps(config, indent=2))
    (arguments.folder / "tokenizer.json").write_text("{}")
    print(f"{total / 1e9:.2f} GB in {len(shards)} files")


if __name__ == "__main__":
    main()
