#!/usr/bin/env python3
"""Records what transformers makes of conversations: token ids and assistant masks, into tests/fixtures/templates.

    python3 tests/scripts/fixtures_templates.py

One small byte-level BPE tokenizer, trained here, knows the special tokens of all templates. The templates are those that
Brazier brings (src/data/template/named), and a few here that write as other models do. All mark what is trained with
{% generation %}, so that `apply_chat_template(return_assistant_tokens_mask=True)` says which tokens are.
"""

import json
import pathlib
import shutil

import tokenizers
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAMED = ROOT / "src" / "data" / "template" / "named"
OUT = ROOT / "tests" / "fixtures" / "templates"

TEXT = """
What do you see in the picture? I see a red circle and a blue square. How many are there? There are two of them.
You are a helpful assistant. Answer briefly. The weather in Zurich is sunny, 21 degrees. Compare the two images, please.
Below is an instruction that describes a task. Write a response that appropriately completes the request.
### Instruction: ### Input: ### Response: system user assistant developer tool function name arguments
Was siehst du auf dem Bild? Ich sehe einen Kreis. 画像には何が写っていますか。赤い丸です。以下は、タスクを説明する指示です。要求を適切に満たす応答を書きなさい。
"""

SPECIAL = [
    "<|endoftext|>", "<|begin_of_text|>", "<|pad|>", "<image>", "<|im_start|>", "<|im_end|>",
    "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "<|system_start|>", "<|system_end|>", "<|developer_start|>", "<|developer_end|>",
    "<|user_start|>", "<|user_end|>", "<|assistant_start|>", "<|assistant_end|>",
    "[INST]", "[/INST]", "<start_of_turn>", "<end_of_turn>",
]
NOT_SPECIAL = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]

CHATML = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\\n' -}}"
    "{%- if message.role == 'assistant' -%}"
    "{%- generation -%}{{- message.content + '<|im_end|>' -}}{%- endgeneration -%}{{- '\\n' -}}"
    "{%- else -%}{{- message.content + '<|im_end|>\\n' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)

# As Gemma writes: another name for the assistant, trimmed content, blocks on lines of their own.
TURNS = """{{ bos_token }}
{% for message in messages %}
    {% set role = "model" if message.role == "assistant" else message.role %}
    {% if role == "model" %}
        {{- '<start_of_turn>model\\n' }}
        {%- generation %}
            {{- message.content | trim }}<end_of_turn>
        {%- endgeneration %}
        {{- '\\n' }}
    {%- else %}
        {{- '<start_of_turn>' ~ role ~ '\\n' ~ message.content | trim ~ '<end_of_turn>\\n' }}
    {%- endif %}
{% endfor %}
{% if add_generation_prompt %}
    {{- '<start_of_turn>model\\n' }}
{%- endif %}"""

# As Mistral writes: no header before an answer, and so no generation prompt; roles must alternate.
INST = """{{- bos_token }}
{%- set turns = messages | rejectattr('role', 'equalto', 'system') | list %}
{%- for message in turns %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate') }}
    {%- endif %}
    {%- if message.role == 'user' %}
        {{- '[INST] ' }}
        {%- if loop.first and messages[0]['role'] == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
        {{- message['content'] + ' [/INST]' }}
    {%- else %}
        {%- generation %}{{- ' ' + message['content'] + eos_token }}{%- endgeneration %}
    {%- endif %}
{%- endfor %}"""

# As vision-language processors write: content is a list of parts.
PARTS = """{%- for message in messages -%}
{{- '<|im_start|>' + message['role'].capitalize() + ':\\n' -}}
{%- if message.role == 'assistant' -%}
{%- generation -%}
{%- for part in message['content'] -%}{{- part['text'] if part['type'] == 'text' else '<image>' -}}{%- endfor -%}
{{- '<|im_end|>' -}}
{%- endgeneration -%}
{%- else -%}
{%- for part in message['content'] -%}{{- part['text'] if part['type'] == 'text' else '<image>' -}}{%- endfor -%}
{{- '<|im_end|>' -}}
{%- endif -%}
{{- '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>Assistant:\\n' -}}{%- endif -%}"""

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Today's weather <here> & \"there\"",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "limit": 1.0},
    },
}


def turns(*contents, system=None, developer=None):
    """User and assistant in turn, after what comes first."""
    first = [{"role": role, "content": text} for role, text in [("system", system), ("developer", developer)] if text]
    roles = ["user", "assistant"]
    return first + [{"role": roles[place % 2], "content": text} for place, text in enumerate(contents)]


COMMON = {
    "two turns": turns("What do you see?", "A red circle.", "How many?", "Two of them, I see."),
    "system": turns("Was siehst du?", "Einen Kreis.", system="Answer briefly."),
    "empty turns": turns("", "", "Hello?", ""),
    "unicode": turns("画像には何が写っていますか。👁️‍🗨️ e\u0301 שלום", "赤い丸です。😀🇨🇭", "ﬁ ½ \u00a0?", "naïve — ok… 👍🏽"),
    "white space": turns("  two  spaces\n\n", "\n\n  leading and trailing \n", " \t", "x\n\ny"),
    "images": turns("<image><image>\nCompare the two images.", "The first is red.", "And <image>?", "Blue."),
}
CALLS = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "The weather in Zürich and Bern?"},
    {
        "role": "assistant",
        "content": "Let me see.",
        "tool_calls": [
            {"type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich", "days": 1, "x": [1.5, None, True]}}},
            {"type": "function", "function": {"name": "weather", "arguments": "{\"city\": \"Bern\"}"}},
        ],
    },
    {"role": "tool", "content": "sunny, 21 degrees", "name": "weather"},
    {"role": "tool", "content": "rain", "name": "weather"},
    {"role": "assistant", "content": "Sunny, and rain."},
    {"role": "user", "content": "Thanks!"},
    {"role": "assistant", "content": "You are welcome."},
]
SILENT_CALL = [
    {"role": "user", "content": "The weather in Bern?"},
    {"role": "assistant", "content": "", "tool_calls": [{"name": "weather", "arguments": {"city": "Bern"}}]},
    {"role": "tool", "content": "rain"},
    {"role": "assistant", "content": "It rains."},
]
THOUGHTS = [
    {"role": "user", "content": "How many?"},
    {"role": "assistant", "content": "<think>\nI count two.\n</think>\n\nTwo."},
    {"role": "user", "content": "And now?"},
    {"role": "assistant", "content": "Three.", "reasoning_content": "One more than two."},
]
ALPACA = [
    {"role": "user", "content": "Sum up.\n\nA long text.", "instruction": "Sum up.", "input": "A long text."},
    {"role": "assistant", "content": "A text."},
]


def cases():
    """Template, its options, name of the conversation, turns, tools."""
    named = {path.stem: path.read_text() for path in sorted(NAMED.glob("*.jinja"))}
    templates = named | {"chatml with blocks": CHATML, "turns": TURNS, "inst": INST}
    for template, source in templates.items():
        for name, messages in COMMON.items():
            yield template, source, {}, name, messages, None
    thinks = named["qwen3"]
    for options in [{}, {"enable_thinking": False}]:
        yield "qwen3", thinks, options, "thoughts", THOUGHTS, None
    yield "qwen3", thinks, {"enable_thinking": False}, "two turns", COMMON["two turns"], None
    yield "qwen3", thinks, {}, "tools", CALLS, [TOOL]
    yield "qwen3", thinks, {}, "a silent call", SILENT_CALL, [TOOL]
    yield "apertus", named["apertus"], {}, "developer", turns("Hi", "Ho", system="s", developer="d"), None
    yield "alpaca", named["alpaca"], {}, "input", ALPACA, None
    for name in ["two turns", "system", "unicode", "images"]:
        messages = [dict(message, content=parts(message["content"])) for message in COMMON[name]]
        yield "parts", PARTS, {}, name, messages, None


def parts(content):
    """Content as a list of parts."""
    listed = []
    for place, text in enumerate(content.split("<image>")):
        listed += [{"type": "image"}] if place else []
        listed += [{"type": "text", "text": text}] if text else []
    return listed


def train_tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=560,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL],
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT.splitlines(keepends=True) * 2, trainer)
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in NOT_SPECIAL])
    # As Llama 3: every text that stands for itself begins with the start of the sequence.
    bos = "<|begin_of_text|>"
    tokenizer.post_processor = processors.Sequence([
        # With trimmed offsets transformers finds no token for a blank, and leaves answers out that begin with one.
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]),
    ])
    return tokenizer


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    tokenizer = train_tokenizer()
    special = {"bos_token": "<|begin_of_text|>", "eos_token": "<|endoftext|>", "pad_token": "<|pad|>"}
    (OUT / "tokenizer.json").write_text(json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, separators=(",", ":")))
    (OUT / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **special}, indent=1))
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    recorded, sources = [], {}
    for template, source, options, name, messages, tools in cases():
        out = fast.apply_chat_template(
            messages, chat_template=source, tools=tools, tokenize=True, return_dict=True,
            return_assistant_tokens_mask=True, **options,
        )
        text = fast.apply_chat_template(messages, chat_template=source, tools=tools, tokenize=False, **options)
        if not (NAMED / f"{template}.jinja").exists():
            sources[template] = source
        mask = "".join(str(bit) for bit in out["assistant_masks"])
        recorded.append({
            "template": template, "name": name, "options": options, "messages": messages, "tools": tools,
            "text": text, "ids": out["input_ids"], "mask": mask,
        })
    versions = {"transformers": transformers.__version__, "tokenizers": tokenizers.__version__}
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in recorded)
    head = json.dumps({"recorded with": versions, "templates": sources}, ensure_ascii=False)
    (OUT / "cases.json").write_text(f'{head[:-1]}, "cases": [\n{lines}\n]}}\n')
    size = sum(path.stat().st_size for path in OUT.iterdir())
    print(f"{len(recorded)} conversations, {size} bytes in {OUT}")


if __name__ == "__main__":
    main()
