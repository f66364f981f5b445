"""The work of a trial: models' shapes, conversations of hashed tokens, and a large checkpoint written by hand.

Standard library only. tests/gpu/work.rs and crates/model/kernels/rows.h make the same numbers.
"""
import json
import math
import os
import random
import struct

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15
FIRST_TOKEN = 3  # ids below are special to some tokenizer; 0 is padding
HASH_WIDTH = 0.02 * math.sqrt(12)  # of uniform numbers whose standard deviation is 0.02


def mixed(seed, counter):
    """SplitMix64's output function on a counter."""
    x = (seed + (counter + 1) * GOLDEN) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def fnv1a(name):
    """The seed of a tensor."""
    hashed = 0xCBF29CE484222325
    for byte in name.encode():
        hashed = ((hashed ^ byte) * 0x100000001B3) & MASK
    return hashed


def f32(x):
    return struct.unpack("f", struct.pack("f", x))[0]


def bf16(x):
    """The nearest number of bf16, ties to even."""
    bits = struct.unpack("I", struct.pack("f", x))[0]
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return struct.unpack("f", struct.pack("I", bits))[0]


def weight(name, i):
    """Number i of a tensor of random weights, in bf16."""
    uniform = (mixed(fnv1a(name), i) >> 40) / 2**24 - 0.5
    return bf16(f32(uniform * f32(HASH_WIDTH)))


def tokens(pieces, vocab):
    """Token ids of a conversation: its pieces are (seed, length)."""
    return [FIRST_TOKEN + mixed(seed, i) % (vocab - FIRST_TOKEN) for seed, length in pieces for i in range(length)]


# === shapes ===

# Skywork-Reward-Gemma-2-27B
GEMMA_27B = dict(hidden_size=4608, intermediate_size=36864, num_hidden_layers=46, num_attention_heads=32,
                 num_key_value_heads=16, head_dim=128, query_pre_attn_scalar=144, sliding_window=4096, vocab_size=256000)
SMALL = dict(hidden_size=128, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4,
             num_key_value_heads=2, head_dim=64, query_pre_attn_scalar=72, sliding_window=24, vocab_size=512)


def config(shape, **changes):
    """A config.json as transformers 5 writes it."""
    sizes = {**shape, **changes}
    kinds = ["sliding_attention", "full_attention"]
    return {
        "architectures": ["Gemma2ForSequenceClassification"], "model_type": "gemma2", "dtype": "bfloat16",
        "attention_bias": False, "attention_dropout": 0.0, "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0, "hidden_activation": "gelu_pytorch_tanh", "initializer_range": 0.02,
        "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0, "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0}, "max_position_embeddings": 8192, "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}, "tie_word_embeddings": True,
        "use_bidirectional_attention": None, "use_cache": True,
        "layer_types": [kinds[i % 2] for i in range(sizes["num_hidden_layers"])], **sizes}


def save(path, value):
    with open(path, "w") as file:
        json.dump(value, file)
    return path


# === conversations ===

def uniform(count, length, first=0):
    return [[[first + i, length]] for i in range(count)]


def groups(count, size, prompt, response):
    """Groups of responses to one prompt each."""
    return [[[10_000 + g, prompt], [20_000 + g * size + i, response]] for g in range(count) for i in range(size)]


def unsorted(count, shortest, longest):
    draw = random.Random(1)
    return [[[30_000 + i, draw.randint(shortest, longest)]] for i in range(count)]


# === a checkpoint ===

def tensors(shape):
    """Names and shapes, as Gemma-2's."""
    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    queries, keys = (shape[n] * shape["head_dim"] for n in ("num_attention_heads", "num_key_value_heads"))
    yield "model.embed_tokens.weight", [shape["vocab_size"], hidden]
    for layer in range(shape["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        for norm in ("input_", "post_attention_", "pre_feedforward_", "post_feedforward_"):
            yield f"{at}{norm}layernorm.weight", [hidden]
        for name, sizes in (("q", [queries, hidden]), ("k", [keys, hidden]), ("v", [keys, hidden]), ("o", [hidden, queries])):
            yield f"{at}self_attn.{name}_proj.weight", sizes
        for name, sizes in (("gate", [inner, hidden]), ("up", [inner, hidden]), ("down", [hidden, inner])):
            yield f"{at}mlp.{name}_proj.weight", sizes
    yield "model.norm.weight", [hidden]
    yield "score.weight", [1, hidden]


def write_checkpoint(folder, shape, shards):
    """A checkpoint in bf16, its tensors in order over `shards` files of about the same size. Returns its bytes."""
    os.makedirs(folder, exist_ok=True)
    save(os.path.join(folder, "config.json"), config(shape))
    everything = [(name, sizes, 2 * math.prod(sizes)) for name, sizes in tensors(shape)]
    total, done, parts = sum(size for _, _, size in everything), 0, [[] for _ in range(shards)]
    for entry in everything:
        parts[min(done * shards // total, shards - 1)].append(entry)
        done += entry[2]
    block = bytearray(random.Random(2).randbytes(32 << 20))
    block[1::2] = b"\x3c" * (len(block) // 2)  # bf16 numbers from 0.0078 to 0.03: all finite
    for number, part in enumerate(parts, 1):
        write_shard(os.path.join(folder, f"model-{number:05}-of-{shards:05}.safetensors"), part, memoryview(block))
    return total


def write_shard(path, part, block):
    header, end = {}, 0
    for name, sizes, size in part:
        header[name] = {"dtype": "BF16", "shape": sizes, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, size in part:
            for start in range(0, size, len(block)):
                file.write(block[:min(len(block), size - start)])
        file.flush()
        os.fsync(file.fileno())


def forget(folder):
    """Asks the system to drop the files of a folder from its cache, so that they are read from the disk."""
    for name in os.listdir(folder):
        descriptor = os.open(os.path.join(folder, name), os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
