#!/usr/bin/env python3
"""Make files.json: what AutoTokenizer makes of the files beside tokenizer.json.

Usage (reads the tokenizers that make_expected.py made; writes beside itself; made with transformers 5.23):

    pip install transformers tokenizers jinja2
    python3 make_files.py

files.json   [{name, tokenizer, files: {name: content}, texts, ids, named, special, chat, strict}]
             ids are those of the texts without special tokens added; named the special tokens that have a name; special
             those that are special; chat the ids of CHAT, strict with sanitize_control_tokens
"""
import copy
import json
import tempfile
from pathlib import Path

from transformers import AutoTokenizer

HERE = Path(__file__).parent
TEXTS = ["a <mask> b", "the reward  of a model", " leading", "<x1> <x2>\n<x3>", "Jane's <end_of_turn>\n\n é 价格", "<|im_end|>x<|eot_id|>",
         "<s> a </s>b", "e\u0301 don't", "<unk>", ""]
CHAT = [{"role": "user", "content": "a <mask> <x1><think> <end_of_turn> b"}, {"role": "assistant", "content": "yo<|im_end|>"}]
TEMPLATE = "{% for m in messages %}{{ m.role }}{{ '\\x3cthink>' }}{{ m.content }}{{ eos_token }}{% endfor %}"


def token(content, **flags):
    return dict(content=content, **(dict(lstrip=False, rstrip=False, normalized=False, single_word=False, special=False) | flags))


def added(*contents):
    """A change of tokenizer.json: plain added tokens behind its vocabulary."""
    def change(spec):
        at = max([*spec["model"]["vocab"].values(), *(t["id"] for t in spec["added_tokens"])]) + 1
        spec["added_tokens"] += [dict(id=at + i, **token(content)) for i, content in enumerate(contents)]
    return change


def decoder_of(spec, **changes):
    tokens = {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in spec["added_tokens"]}
    for t in tokens.values():
        t.update(changes.get(t["content"], {}))
    return tokens


def own_pipeline(spec):
    spec["normalizer"] = {"type": "Lowercase"}
    spec["pre_tokenizer"] = {"type": "Whitespace"}


CASES = [
    ("nothing beside it", "gemma", None, {}, {}),
    ("gemma's class names a mask", "gemma", added("<mask>"), {"tokenizer_class": "GemmaTokenizer"}, {}),
    ("gemma's class, fast", "gemma", None, {"tokenizer_class": "GemmaTokenizerFast", "bos_token": None}, {}),
    ("gemma's class makes its own pipeline", "gemma", own_pipeline, {"tokenizer_class": "GemmaTokenizer"}, {}),
    ("the model's type names the class", "gemma", own_pipeline, {}, {"config.json": {"model_type": "gemma2"}}),
    ("a file that is taken as it is", "gemma", own_pipeline, {"tokenizer_class": "PreTrainedTokenizerFast"},
     {"config.json": {"model_type": "gemma2"}}),
    ("qwen's class makes its own pipeline", "qwen", own_pipeline, {"tokenizer_class": "Qwen2TokenizerFast"},
     {"config.json": {"model_type": "qwen3"}}),
    ("qwen's class with a prefix space", "qwen", None, {"tokenizer_class": "Qwen2Tokenizer", "add_prefix_space": True, "unk_token": None}, {}),
    ("llama's class on a byte-level file", "llama", None, {"tokenizer_class": "LlamaTokenizer", "bos_token": "<|begin_of_text|>"},
     {"config.json": {"model_type": "llama"}}),
    ("llama's class", "prefix", own_pipeline, {"tokenizer_class": "LlamaTokenizer"}, {"config.json": {"model_type": "llama"}}),
    ("llama's class, legacy", "prefix", None, {"tokenizer_class": "LlamaTokenizerFast", "legacy": True}, {}),
    ("llama's class without a prefix space", "prefix", None, {"tokenizer_class": "LlamaTokenizer", "add_prefix_space": False}, {}),
    ("gpt2's class", "qwen", None, {"tokenizer_class": "GPT2Tokenizer"}, {"config.json": {"model_type": "llama"}}),
    ("a class that nobody knows", "qwen", own_pipeline, {"tokenizer_class": "MyTokenizer"}, {}),
    ("special tokens are split", "llama", None, {"split_special_tokens": True, "eos_token": "<|eot_id|>"}, {}),
    ("added_tokens.json without a decoder", "qwen", None, {}, {"added_tokens.json": {"<x2>": 9001, "<x1>": 9000, "<mask>": 9002}}),
    ("added_tokens.json with a decoder", "qwen", None, {"added_tokens_decoder": "same"}, {"added_tokens.json": {"<x1>": 9000}}),
    ("added_tokens.json names a special token", "gemma", None, {"mask_token": "<mask>"}, {"added_tokens.json": {"<mask>": 9000}}),
    ("a decoder changes flags", "gemma", None, {"added_tokens_decoder": {"<end_of_turn>": {"lstrip": True, "rstrip": True}}}, {}),
    ("a decoder of gemma's class changes flags", "gemma", None,
     {"tokenizer_class": "GemmaTokenizer", "added_tokens_decoder": {"<end_of_turn>": {"rstrip": True, "special": False}}}, {}),
    ("named tokens of the model's own", "llama", None, {"image_token": "<x1>", "eos_token": "<|eot_id|>",
                                                       "extra_special_tokens": {"audio_token": "<x2>"}}, {}),
    ("extra tokens", "qwen", None, {"additional_special_tokens": ["<x1>"], "extra_special_tokens": ["<x2>"]}, {}),
    ("additional tokens", "qwen", None, {"additional_special_tokens": ["<x1>", "<think>"]}, {}),
    ("an older map", "qwen", None, {"eos_token": "<|im_end|>"},
     {"special_tokens_map.json": {"eos_token": {"content": "<x1>", "lstrip": True, "rstrip": False, "normalized": False, "single_word": False},
                                  "additional_special_tokens": ["<x2>"], "pad_token": "<|endoftext|>"}}),
    ("an older map with a decoder", "qwen", None, {"eos_token": "<|im_end|>", "added_tokens_decoder": "same"},
     {"special_tokens_map.json": {"eos_token": "<x1>"}}),
    ("a list of control tokens", "qwen", added("<mask>"), {"chat_control_tokens": ["<mask>"], "eos_token": "<|im_end|>"}, {}),
    ("a token that is in the vocabulary", "gemma", None, {"eos_token": "▁the", "pad_token": "<pad>"}, {}),
]


def main():
    cases = []
    for name, tokenizer, change, config, files in CASES:
        spec = json.loads((HERE / f"{tokenizer}.json").read_text())
        spec["truncation"] = spec["padding"] = None
        if change:
            change(spec)
        config = copy.deepcopy(config)
        if config.get("added_tokens_decoder") == "same":
            config["added_tokens_decoder"] = decoder_of(spec)
        elif "added_tokens_decoder" in config:
            config["added_tokens_decoder"] = decoder_of(spec, **config["added_tokens_decoder"])
        config["chat_template"] = TEMPLATE
        files = {"tokenizer_config.json": config, **files}
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "tokenizer.json").write_text(json.dumps(spec))
            for file, content in ({"config.json": {"model_type": "llama"}} | files).items():
                (Path(folder) / file).write_text(json.dumps(content))
            tok = AutoTokenizer.from_pretrained(folder)
        case = dict(name=name, tokenizer=tokenizer, files=files, texts=TEXTS)
        if change:
            case["files"]["tokenizer.json"] = {key: spec[key] for key in ("added_tokens", "normalizer", "pre_tokenizer")}
        case["ids"] = [tok(text, add_special_tokens=False).input_ids for text in TEXTS]
        case["named"] = tok.special_tokens_map
        case["special"] = sorted(t.content for t in tok.added_tokens_decoder.values() if t.special)
        case["chat"] = tok.apply_chat_template(CHAT, return_dict=False)
        case["strict"] = tok.apply_chat_template(CHAT, return_dict=False, sanitize_control_tokens=True)
        cases.append(case)
    (HERE / "files.json").write_text(json.dumps(dict(chat=CHAT, cases=cases), ensure_ascii=False, separators=(",", ":")))
    print(len(cases), "cases")


if __name__ == "__main__":
    main()
