#!/usr/bin/env python3
"""Score conversations with Hugging Face transformers on the CPU: the reference, and the peer that `make bench` races.

    pip install torch transformers
    ./reference.py --model gemma2-v4 --input ../../docs/model-card.jsonl

A line of input is {"messages": [...]}, {"prompt": [...] or "text", "responses": [...]} or {"input_ids": [...]},
with an "id" if you like; a line of output is {"id"?, "scores": [...], "tokens": [...]}. Conversations are sorted by length
into batches, so that padding costs as little as it can, and have exactly one BOS if the model takes one.

The last line on standard error is JSON: conversations, tokens (padding not counted), seconds (tokenizing
included, loading not), conversations_per_second, tokens_per_second.
"""
import argparse
import json
import sys
import time

import torch
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer


def read(file):
    """The ids of the lines, the number of conversations in each, and all conversations in order."""
    names, counts, conversations = [], [], []
    for line in filter(str.strip, file):
        row = json.loads(line)
        if "messages" in row or "input_ids" in row:
            group = [row.get("messages") or row["input_ids"]]
        else:
            prompt = row["prompt"]
            if isinstance(prompt, str):
                prompt = [{"role": "user", "content": prompt}]
            group = [prompt + [{"role": "assistant", "content": text}] for text in row["responses"]]
        names.append({"id": row["id"]} if "id" in row else {})
        counts.append(len(group))
        conversations += group
    return names, counts, conversations


def tokenize(tok, conversations):
    bos = tok.bos_token_id

    def ids_of(conversation):
        if isinstance(conversation[0], int):
            return conversation
        ids = tok.apply_chat_template(conversation, tokenize=True, return_dict=False)
        return ids if bos is None or ids[0] == bos else [bos] + ids

    return [ids_of(conversation) for conversation in conversations]


def score(model, pad, sequences, batch_size):
    scores = [0.0] * len(sequences)
    by_length = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    for at in range(0, len(by_length), batch_size):
        batch = by_length[at:at + batch_size]
        rows = [torch.tensor(sequences[i]) for i in batch]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, 0]
        for i, value in zip(batch, logits.float().tolist()):
            scores[i] = value
    return scores


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a checkpoint's folder")
    parser.add_argument("--input", type=argparse.FileType(encoding="utf-8"), default=sys.stdin)
    parser.add_argument("--output", type=argparse.FileType("w", encoding="utf-8"), default=sys.stdout)
    parser.add_argument("--batch", type=int, default=8, help="conversations in a batch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="float32", choices=["float64", "float32", "bfloat16"])
    parser.add_argument("--attention", default="eager", choices=["eager", "sdpa"], help="sdpa has no soft-cap: wrong for Gemma-2")
    args = parser.parse_args()

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(args.threads)
    tok = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForSequenceClassification.from_pretrained(
        args.model, dtype=getattr(torch, args.dtype), attn_implementation=args.attention).eval()
    names, counts, conversations = read(args.input)

    start = time.perf_counter()
    sequences = tokenize(tok, conversations)
    with torch.inference_mode():
        scores = score(model, tok.pad_token_id, sequences, args.batch)
    seconds = time.perf_counter() - start

    at = 0
    for name, count in zip(names, counts):
        part = slice(at, at + count)
        print(json.dumps(name | {"scores": scores[part], "tokens": [len(ids) for ids in sequences[part]]}), file=args.output)
        at += count
    tokens = sum(map(len, sequences))
    print(json.dumps(dict(
        conversations=len(scores), tokens=tokens, seconds=round(seconds, 4),
        conversations_per_second=round(len(scores) / seconds, 2), tokens_per_second=round(tokens / seconds, 1))), file=sys.stderr)


if __name__ == "__main__":
    main()
