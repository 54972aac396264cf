#!/usr/bin/env python3
"""Records what axolotl makes of rows: token ids, and which of them are trained, into tests/fixtures/axolotl.json.

    python3 tests/scripts/record_axolotl.py [--check]

It runs axolotl's own code on its own YAML: `validate_config`, `load_tokenizer`, `load_dataset`, `get_dataset_wrapper` (and so
the prompt strategies), `handle_long_seq_in_dataset`. Nothing is replaced, only left out: no model is built and nothing is
shuffled, so that each result can be told from which row it is. Rows without a trained token stay.

axolotl is `pip install --no-deps axolotl`, beside torch, transformers, datasets and what else its imports ask for.
`--check` records again and compares.
"""

import argparse
import json
import os
import pathlib
import shutil
import sys
import tempfile

os.environ.update(AXOLOTL_DO_NOT_TRACK="1", HF_HUB_OFFLINE="1", TRL_EXPERIMENTAL_SILENCE="1", TOKENIZERS_PARALLELISM="false")

import axolotl
import datasets
import tokenizers
import transformers
import yaml
from axolotl.loaders import load_tokenizer
from axolotl.utils.config import normalize_config, validate_config
from axolotl.utils.data.utils import handle_long_seq_in_dataset
from axolotl.utils.data.wrappers import get_dataset_wrapper
from axolotl.utils.dict import DictDefault

import fixtures_templates as templates

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "tests" / "fixtures" / "axolotl.json"
TOKENIZER = ROOT / "tests" / "fixtures" / "templates" / "tokenizer.json"


def call(city):
    return {"type": "function", "function": {"name": "weather", "arguments": {"city": city}}}


CALLS = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "The weather in Zürich and Bern?"},
    {"role": "assistant", "content": "Let me see.", "tool_calls": [call("Zürich"), call("Bern")]},
    {"role": "tool", "content": "sunny, 21 degrees"},
    {"role": "tool", "content": "rain"},
    {"role": "assistant", "content": "Sunny, and rain."},
    {"role": "user", "content": "Thanks!"},
    {"role": "assistant", "content": "You are welcome."},
]


def flagged(messages, *flags):
    """Turns, some of which say themselves whether they are trained."""
    return [dict(m) if flag is None else dict(m, train=flag) for m, flag in zip(messages, flags, strict=True)]


COMMON = templates.COMMON
TEXTS = [name for name in COMMON if name != "images"]
ROWS = {
    "common": [{"messages": COMMON[name]} for name in TEXTS],
    "few": [{"messages": COMMON[name]} for name in ["two turns", "system"]],
    "images": [{"messages": COMMON["images"], "images": ["x.png"] * 3}],
    "flags": [
        {"messages": flagged(COMMON["two turns"], None, False, None, None)},
        {"messages": flagged(COMMON["two turns"], True, None, None, False)},
    ],
    "parts": [{"messages": [dict(m, content=templates.parts(m["content"])) for m in COMMON["system"]]}],
    "strings": [{"messages": json.dumps(CALLS), "tools": json.dumps([templates.TOOL])}],
    "system": [{"system": COMMON["system"][0]["content"], "messages": COMMON["system"][1:]}],
    "sharegpt": [
        {"conversations": [
            {"from": {"system": "system", "user": "human", "assistant": "gpt"}[m["role"]], "value": m["content"]}
            for m in COMMON[name]
        ]}
        for name in ["two turns", "system"]
    ],
    "names": [{"messages": [
        {"role": "question", "content": "How many?"}, {"role": "answer", "content": "Two of them."},
        {"role": "question", "content": "Are there?"}, {"role": "answer", "content": "There are."},
    ]}],
    "thoughts": [{"messages": templates.THOUGHTS}],
    "tools": [{"messages": CALLS, "tools": [templates.TOOL]}],
    "alpaca": [
        {"instruction": "Sum up.", "input": "A long text.", "output": "A text."},
        {"instruction": "Was siehst du?", "input": "", "output": "Einen Kreis. 👍🏽"},
    ],
    "texts": [{"text": "The weather in Zurich is sunny."}, {"text": "赤い丸です。\n\n  two  spaces "}, {"text": "Compare. " * 20}],
}

HEAD = "base_model: ${DIR}\nmicro_batch_size: 1\ngradient_accumulation_steps: 1\nlearning_rate: 1.0e-4\noptimizer: adamw_torch\nnum_epochs: 1\noutput_dir: ${DIR}/out\n"


def data_set(rows, kind, **options):
    return {"path": f"${{DIR}}/{rows}.jsonl", "ds_type": "json", "type": kind, **options}


def chat(rows, **options):
    return data_set(rows, "chat_template", **options)


def cases():
    """Name, end of sequence, the tokenizer's own template, configuration."""
    im_end, text_end = "<|im_end|>", "<|endoftext|>"

    def case(name, eos, *sets, template=None, **options):
        return name, eos, template, {"datasets": list(sets), "sequence_len": 1024, **options}

    chatml = {"chat_template": "chatml"}
    ends = {"eot_tokens": [im_end]}
    yield case("chatml", im_end, chat("common"), chat("images"), **chatml)
    yield case("chatml, eot_tokens", text_end, chat("common"), **chatml, **ends)
    for which in ["all", "last", "none"]:
        yield case(f"chatml, train_on_eos: {which}", im_end, chat("few", train_on_eos=which), **chatml)
        yield case(f"chatml, train_on_eot: {which}", text_end, chat("few", train_on_eot=which), **chatml, **ends)
    for roles in [["user"], ["user", "assistant"], ["human", "gpt"]]:
        yield case(f"chatml, roles_to_train: {roles}", im_end, chat("few", roles_to_train=roles), **chatml)
    yield case("chatml, train_on_inputs", im_end, chat("few"), train_on_inputs=True, **chatml)
    yield case("chatml, flags", im_end, chat("flags", message_field_training="train"), **chatml)
    yield case("chatml, flags alone", im_end, chat("flags", message_field_training="train", roles_to_train=[]), **chatml)
    yield case("chatml, flags, last", im_end, chat("flags", message_field_training="train", train_on_eos="last"), **chatml)
    mapped = {"field_messages": "conversations", "message_property_mappings": {"role": "from", "content": "value"}}
    yield case("chatml, sharegpt", im_end, chat("sharegpt", **mapped), **chatml)
    yield case("chatml, roles", im_end, chat("names", roles={"user": ["question"], "assistant": ["answer"]}), **chatml)
    for strategy in ["drop", "truncate"]:
        yield case(f"chatml, {strategy}", im_end, chat("common"), **chatml | {"sequence_len": 40, "excess_length_strategy": strategy})
    yield case("llama3", "<|eot_id|>", chat("common"), chat("images"), chat_template="llama3")
    yield case("llama3, train_on_eos: all", "<|eot_id|>", chat("few", train_on_eos="all"), chat_template="llama3")
    yield case("qwen3", im_end, chat("common"), chat("images"), chat("thoughts"), chat("tools"), chat_template="qwen3")
    yield case("qwen3, strings", im_end, chat("parts"), chat("strings"), chat("system"), chat_template="qwen3")
    yield case("qwen3, tools", im_end, chat("tools", roles_to_train=["assistant", "tool"], train_on_eos="all"), chat_template="qwen3")
    at_once = {"chat_template": "qwen3", "chat_template_kwargs": {"enable_thinking": False}}
    yield case("qwen3, enable_thinking: false", im_end, chat("few"), **at_once)
    default = {"chat_template": "tokenizer_default"}
    apertus = {"eot_tokens": ["<|system_end|>", "<|user_end|>", "<|assistant_end|>"]}
    yield case("apertus", "<|assistant_end|>", chat("common"), chat("images"), template="apertus", **default)
    yield case("apertus, all", "<|assistant_end|>", chat("few", train_on_eos="all"), template="apertus", **default, **apertus)
    yield case("llava_jp", text_end, chat("common"), chat("images"), template="llava_jp", **default)
    yield case("inst", text_end, chat("common"), chat("images"), template="inst", **default)
    yield case("turns", "<end_of_turn>", chat("common"), chat("images"), template="turns", **default)
    yield case("alpaca", text_end, data_set("alpaca", "alpaca"))
    yield case("alpaca, train_on_inputs", text_end, data_set("alpaca", "alpaca"), train_on_inputs=True)
    yield case("completion", text_end, data_set("texts", "completion", field="text"), sequence_len=32)
    yield case("two kinds", im_end, chat("few"), data_set("texts", "completion"), **chatml | {"sequence_len": 64})


def source(template):
    """A template of a tokenizer: one of Brazier's, or of those beside the tokenizer."""
    named = templates.NAMED / f"{template}.jinja"
    return named.read_text() if named.exists() else {"inst": templates.INST, "turns": templates.TURNS}[template]


def tokenizer_config(eos, template):
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin_of_text|>", "eos_token": eos, "pad_token": "<|pad|>"}
    return config | ({"chat_template": source(template)} if template else {})


def record(config, folder):
    """Results of each data set: one for each of its rows, in order; None where axolotl leaves a row out."""
    cfg = validate_config(DictDefault(yaml.safe_load(config.replace("${DIR}", str(folder)))))
    normalize_config(cfg)
    tokenizer = load_tokenizer(cfg)
    recorded = []
    for entry in cfg.datasets:
        rows = datasets.load_dataset("json", data_files=entry.path, split="train", cache_dir=str(folder / "cache"))
        kind, _, style = entry.type.partition(":")
        wrapped, _ = get_dataset_wrapper(entry, tokenizer, cfg, kind, rows, style or None)
        if kind != "completion":
            assert len(wrapped) == len(rows)
        wrapped = wrapped.add_column("row", list(range(len(wrapped))))
        kept = {row["row"]: row for row in handle_long_seq_in_dataset(wrapped, cfg.sequence_len, cfg)}
        results = [kept.get(number) for number in range(len(wrapped))]
        recorded.append(results)
    return recorded


def compact(result, known):
    """The place of a row's ids among those that are known, and its mask."""
    ids, labels = result["input_ids"], result["labels"]
    assert all(label in (-100, token) for token, label in zip(ids, labels, strict=True)) and all(result["attention_mask"])
    if ids not in known:
        known.append(ids)
    return [known.index(ids), "".join("01"[label != -100] for label in labels)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="record again and compare")
    check = parser.parse_args().check
    recorded, known = [], []
    for name, eos, template, options in cases():
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            shutil.copy(TOKENIZER, folder)
            (folder / "config.json").write_text('{"model_type": "llama"}')
            (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(eos, template)))
            for rows, content in ROWS.items():
                (folder / f"{rows}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
            config = yaml.safe_dump(options, sort_keys=False, allow_unicode=True)
            results = {
                pathlib.Path(entry["path"]).name: [row and compact(row, known) for row in rows]
                for entry, rows in zip(options["datasets"], record(HEAD + config, folder), strict=True)
            }
            recorded.append({"name": name, "eos": eos, "template": template, "config": config, "results": results})
    versions = {library.__name__: library.__version__ for library in [axolotl, transformers, tokenizers]}
    head = json.dumps({"recorded with": versions, "head": HEAD, "rows": ROWS}, ensure_ascii=False)
    def lines(values):
        return ",\n".join(json.dumps(value, ensure_ascii=False, separators=(",", ":")) for value in values)

    text = f'{head[:-1]}, "ids": [\n{lines(known)}\n], "cases": [\n{lines(recorded)}\n]}}\n'
    if check:
        sys.exit(OUT.read_text() != text and f"{OUT} is not what axolotl {axolotl.__version__} makes of these rows")
    OUT.write_text(text)
    print(f"{len(recorded)} configurations, {len(text.encode())} bytes in {OUT}")


if __name__ == "__main__":
    main()
