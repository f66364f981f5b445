#!/usr/bin/env python3
"""Hugging Face transformers on the same device and the same work: what run.py compares with. Prints lines of JSON.

    hugging_face.py golden --golden DIR --device cuda:0 [--rows N]     bf16 scores of the golden checkpoints
    hugging_face.py speed  --work FILE --device cuda:0                 a model of random weights, and its speed

Attention is eager: transformers' sdpa has no soft-cap, so its Gemma-2 is another model.
"""
import argparse
import json
import os
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

import torch  # noqa: E402
import transformers  # noqa: E402

import work  # noqa: E402

CHUNK = 1 << 24  # numbers hashed at a time


def say(**finding):
    print(json.dumps(finding), flush=True)


def settle(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# === golden checkpoints ===

def golden(args):
    device = torch.device(args.device)
    for name in sorted(os.listdir(args.golden)):
        folder = os.path.join(args.golden, name)
        if not os.path.exists(os.path.join(folder, "expected.json")):
            continue
        with open(os.path.join(folder, "expected.json")) as file:
            rows = json.load(file)[:args.rows]
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.bfloat16, attn_implementation="eager").to(device).eval()
        errors = []
        with torch.inference_mode():
            for row in rows:
                ids = torch.tensor([row["input_ids"]], device=device)
                errors.append(model(input_ids=ids, use_cache=False).logits[0, 0].float().item() - row["score"])
        say(checkpoint=name, rows=len(rows), rms=(sum(x * x for x in errors) / len(errors)) ** 0.5)


# === random weights ===

def signed(x):
    """A number of 64 bits as torch has it."""
    return x - (1 << 64) if x >= 1 << 63 else x


def shifted(x, bits):
    """A shift of unsigned numbers."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def hashed(seed, first, count, device):
    """Numbers first .. first + count of the hash, in -1/2 .. 1/2 times its width, as f32."""
    x = torch.arange(first + 1, first + count + 1, dtype=torch.int64, device=device)
    x.mul_(signed(work.GOLDEN)).add_(signed(seed))
    x.bitwise_xor_(shifted(x, 30)).mul_(signed(0xBF58476D1CE4E5B9))
    x.bitwise_xor_(shifted(x, 27)).mul_(signed(0x94D049BB133111EB))
    x.bitwise_xor_(shifted(x, 31))
    uniform = shifted(x, 40).to(torch.float32) / 2**24 - 0.5
    return uniform * torch.tensor(work.HASH_WIDTH, dtype=torch.float32, device=device)


@torch.no_grad()
def fill(model):
    """Matrices of the hash; norms that multiply by one, which Gemma-2 stores as zero."""
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.zero_()
            continue
        flat, seed = parameter.view(-1), work.fnv1a(name)
        for first in range(0, flat.numel(), CHUNK):
            count = min(CHUNK, flat.numel() - first)
            flat[first:first + count].copy_(hashed(seed, first, count, flat.device))


def check_samples(model):
    """The weights against the hash in plain Python: the first, the last, and some between."""
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and ("layers" not in name or ".0." in name):
            flat = parameter.view(-1)
            for i in {0, 1, flat.numel() // 3, flat.numel() - 1}:
                if flat[i].item() != work.weight(name, i):
                    raise SystemExit(f"{name}[{i}] is {flat[i].item()}, the hash says {work.weight(name, i)}")


def build(config, device):
    """The model, made where it is used."""
    settings = transformers.Gemma2Config(**{k: v for k, v in config.items() if k not in ("architectures", "model_type")})
    settings.num_labels = 1
    with torch.device(device):
        model = transformers.AutoModelForSequenceClassification.from_config(
            settings, dtype=torch.bfloat16, attn_implementation="eager")
    model = model.eval()
    stray = {str(p.dtype) for p in model.parameters()} - {"torch.bfloat16"}
    if stray or any(p.device.type != device.type for p in model.parameters()):
        raise SystemExit(f"the model was made elsewhere, or with numbers of {stray}")
    fill(model)
    check_samples(model)
    return model


# === speed ===

def batches(sequences, size):
    """Padded on the right, as a tokenizer does, in the order of the input."""
    for start in range(0, len(sequences), size):
        some = sequences[start:start + size]
        longest = max(map(len, some))
        ids = torch.tensor([one + [0] * (longest - len(one)) for one in some])
        mask = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in some])
        yield ids, None if mask.all() else mask


def forward(model, batch, device):
    ids, mask = batch
    mask = None if mask is None else mask.to(device)
    return model(input_ids=ids.to(device), attention_mask=mask, use_cache=False).logits[:, 0].float().cpu().tolist()


def measure(model, sequences, size, seconds, device):
    """Seconds that all sequences take in batches of `size`, and their scores."""
    some = list(batches(sequences, size))
    with torch.inference_mode():
        forward(model, max(some, key=lambda batch: batch[0].numel()), device)  # warm
        settle(device)
        rounds, start = [], time.monotonic()
        while not rounds or time.monotonic() - start < seconds:
            begin, scores = time.monotonic(), []
            for batch in some:
                scores += forward(model, batch, device)
            rounds.append(time.monotonic() - begin)
    return sum(rounds) / len(rounds), len(rounds), scores


def matmul_rates(shape, rows, device, seconds):
    """torch's own matmul on the model's four large shapes, random numbers; operations a second of all four together."""
    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    queries, keys = (shape[n] * shape["head_dim"] for n in ("num_attention_heads", "num_key_value_heads"))
    work_done = taken = 0.0
    for output, depth in [(queries + 2 * keys, hidden), (hidden, queries), (2 * inner, hidden), (hidden, inner)]:
        x = torch.randn(rows, depth, device=device).to(torch.bfloat16)
        weights = [torch.randn(output, depth, device=device).mul_(0.02).to(torch.bfloat16) for _ in range(2)]
        with torch.inference_mode():
            for weight in weights:
                torch.nn.functional.linear(x, weight)
            settle(device)
            times, start = 0, time.monotonic()
            while times == 0 or time.monotonic() - start < seconds:
                for _ in range(4):
                    for weight in weights:
                        torch.nn.functional.linear(x, weight)
                settle(device)
                times += 8
            elapsed = (time.monotonic() - start) / times
        operations = 2.0 * rows * output * depth
        work_done, taken = work_done + operations, taken + elapsed
        del x, weights
    if device.type == "cuda":
        torch.cuda.empty_cache()
    say(torch_matmul_rate=work_done / taken, rows=rows)


def attempt(model, sequences, entry, device):
    """One measure; smaller batches where the memory does not suffice."""
    size = entry["batch"]
    while True:
        try:
            return (size, *measure(model, sequences, size, entry["seconds"], device))
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size //= 2
        torch.cuda.empty_cache()


def speed(args):
    device = torch.device(args.device)
    with open(args.work) as file:
        todo = json.load(file)
    with open(todo["config"]) as file:
        config = json.load(file)
    matmul_rates(config, todo["matmul_rows"], device, todo["matmul_seconds"])
    start = time.monotonic()
    model = build(config, device)
    settle(device)
    say(built_in=time.monotonic() - start, transformers=transformers.__version__, torch=torch.__version__,
        name=torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU")
    for entry in todo["measures"]:
        sequences = [work.tokens(pieces, config["vocab_size"]) for pieces in entry["sequences"]]
        try:
            size, seconds, rounds, scores = attempt(model, sequences, entry, device)
        except Exception as error:  # the others may do
            say(name=entry["name"], batch=entry["batch"], error=f"{type(error).__name__}: {str(error)[:300]}")
            continue
        say(name=entry["name"], asked=entry["batch"], batch=size, seconds=seconds, rounds=rounds, scores=scores,
            input_tokens_per_s=sum(map(len, sequences)) / seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["golden", "speed"])
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--golden")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--work")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    {"golden": golden, "speed": speed}[args.what](args)


if __name__ == "__main__":
    sys.exit(main())
