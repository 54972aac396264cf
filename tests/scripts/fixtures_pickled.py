"""A language model's weights as `torch.save` writes them, and the same values as safetensors."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors.torch
import torch

VOCABULARY, WIDTH, INNER, HEAD, QUERIES, KEYS, LAYERS = 11, 8, 12, 6, 4, 2, 2


def state_dict(generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Of the decoder that `hub`'s tests call `lm(false, true)`: a Llama with a tied head."""
    shapes = {"model.embed_tokens.weight": (VOCABULARY, WIDTH), "model.norm.weight": (WIDTH,)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        shapes |= {
            f"{prefix}.input_layernorm.weight": (WIDTH,),
            f"{prefix}.post_attention_layernorm.weight": (WIDTH,),
            f"{prefix}.self_attn.q_proj.weight": (HEAD * QUERIES, WIDTH),
            f"{prefix}.self_attn.k_proj.weight": (HEAD * KEYS, WIDTH),
            f"{prefix}.self_attn.v_proj.weight": (HEAD * KEYS, WIDTH),
            f"{prefix}.self_attn.o_proj.weight": (WIDTH, HEAD * QUERIES),
            f"{prefix}.mlp.gate_proj.weight": (INNER, WIDTH),
            f"{prefix}.mlp.up_proj.weight": (INNER, WIDTH),
            f"{prefix}.mlp.down_proj.weight": (WIDTH, INNER),
        }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def record_pickled(out: Path) -> None:
    state = state_dict(torch.Generator().manual_seed(5))
    state["model.norm.weight"] = state["model.norm.weight"].bfloat16()
    down = "model.layers.1.mlp.down_proj.weight"
    state[down] = state[down].half()
    # Views, as they come out of training code: a transposed one, and one in the middle of a larger storage.
    query = "model.layers.0.self_attn.q_proj.weight"
    state[query] = state[query].t().contiguous().t()
    key = "model.layers.0.self_attn.k_proj.weight"
    state[key] = torch.cat([state[key], state[key] + 1, state[key] - 1])[KEYS * HEAD : 2 * KEYS * HEAD]
    reference = {name: tensor.contiguous().clone() for name, tensor in state.items()}
    safetensors.torch.save_file(reference, out / "pickled.safetensors", metadata={"format": "pt"})
    # A tied head shares the storage of the table.
    state["lm_head.weight"] = state["model.embed_tokens.weight"]

    torch.save(state, out / "pickled_legacy.bin", _use_new_zipfile_serialization=False)
    names = list(state)
    cut = names.index("model.layers.1.input_layernorm.weight")
    shards = [[*names[:cut], "lm_head.weight"], [name for name in names[cut:] if name != "lm_head.weight"]]
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = f"pytorch_model-{number:05}-of-00002.bin"
        torch.save({name: state[name] for name in shard}, out / f"pickled_{number}.bin")
        weight_map |= {name: file for name in shard}
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (out / "pickled_index.json").write_text(json.dumps(index, indent=1) + "\n")
