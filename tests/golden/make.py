#!/usr/bin/env python3
"""Make small random reward-model checkpoints, with the scores Hugging Face gives them.

The weights are random and small; the architecture, the file layout, the tokenizer and the chat
template are those of the real models. Whoever computes the same scores computes the same model.

    pip install torch transformers tokenizers safetensors
    ./make.py --all                      remake the committed checkpoints, here
    ./make.py qwen3 llama-sharded        remake some of them
    ./make.py gemma2-v5 --out DIR --hidden 1024 --head-dim 128 --layers 8
                                         a checkpoint of another shape, elsewhere
    ./make.py --sensitivity gemma2-v4    how far each detail of the architecture moves the scores

A checkpoint is a folder as on the hub (config.json, *.safetensors, tokenizer.json, ...) and
expected.json: [{messages, input_ids, score, score_f32, score_bf16}]. Each conversation is scored
alone, without padding, with eager attention on the CPU; `score` is computed in float64, the other
two in the precision they name.
"""
import argparse
import dataclasses
import json
import random
from pathlib import Path

import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast

HERE = Path(__file__).resolve().parent
MODEL_CARD = HERE.parent.parent / "docs" / "model-card.jsonl"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a checkpoint is made of. Heads of 64 suit GPU kernels; 8 and 4 heads divide by 1, 2 and 4 ranks."""
    arch: str
    seed: int
    layout: int = 5  # the files that transformers 4 or 5 writes
    dtype: str = "bfloat16"  # of the stored weights
    bos_in_template: bool = True  # published templates differ in this; the scores always have one BOS if the model takes one
    newline_tokens: bool = False  # runs of newlines as added tokens, as Gemma-2 publishes them, or plain vocabulary
    shard_size: str = "50GB"
    hidden: int = 64
    layers: int = 4
    heads: int = 8
    kv_heads: int = 4
    head_dim: int = 64
    intermediate: int = 192
    vocab: int = 768
    window: int = 24  # where there are windows; small, so that most conversations are longer


CHOICES = {"layout": [4, 5], "dtype": ["float32", "float16", "bfloat16"]}
FIXED = {"arch", "bos_in_template", "newline_tokens"}  # what the command line cannot change
RECIPES = {
    "gemma2-v4": Recipe("gemma2", seed=11, layout=4, bos_in_template=False, newline_tokens=True),
    "gemma2-v5": Recipe("gemma2", seed=12),
    "llama-sharded": Recipe("llama", seed=13, layout=4, layers=3, shard_size="300KB"),
    "qwen3": Recipe("qwen3", seed=14, layers=3, dtype="float32"),
    "qwen2": Recipe("qwen2", seed=15, layout=4, layers=3),
    "mistral": Recipe("mistral", seed=16, layers=3, dtype="float16"),
}
ALTERNATING = {"gemma2", "mistral"}  # templates that refuse a system role

# === text ===

WORDS = (
    "a about after all also an and any apples are as ask at be because before but by can cannot cat city code correct count day "
    "divide each eight false few find first five for four from function give gives good half has have he help her how if in is it "
    "its large later list long longer many mark means more most my near never nine no not nothing now number of on once one only or "
    "other people prompt question rain reason response return reward river right she short should shows siblings since six so some "
    "splits starts step string table tell than that the their then there these they this three time to total true two under us "
    "value wall was water we well what when where which who why will with without words work would wrong year you your zero"
).split()
ENDINGS = [".", ".", ".", "!", "?", ":\n", ".\n", ".\n\n", "; déjà vu.", " – 東京.", " 🙂."]


def sentence(rng):
    words = rng.choices(WORDS, k=rng.randint(3, 18))
    if rng.random() < 0.35:
        left, right = rng.randint(1, 99), rng.randint(1, 99)
        words.insert(rng.randint(1, len(words)), f"{left} + {right} = {left + right}")
    return (" ".join(words)).capitalize() + rng.choice(ENDINGS)


def prose(rng, sentences):
    return " ".join(sentence(rng) for _ in range(sentences))


def turns(*texts):
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def conversations(rng, arch):
    card = json.loads(MODEL_CARD.read_text())
    found = [card["prompt"] + turns("", response)[1:] for response in card["responses"]]
    found += [turns(prose(rng, 1 + i), prose(rng, 2 * i + 1)) for i in range(4)]
    found += [turns(*(prose(rng, rng.randint(1, 3)) for _ in range(2 * n))) for n in (2, 3)]
    for responses in (4, 3):  # groups: one prompt, several responses, as a rollout makes them
        prompt = prose(rng, 3)
        found += [turns(prompt, prose(rng, rng.randint(1, 6))) for _ in range(responses)]
    found += [
        turns("a", "b"),
        turns("  spaces around \n", "\tNaïve café — 价格 42€ 🙂🙃👩‍👩‍👧\n\n"),
        turns("Tabs\tand   runs\n\n\nof space", "كم؟ नमस्ते \u200b e\u0301 ﬁ Ⅷ x²\r\nend  "),
        turns("Think first.", "<think>\n4 + 5 = 9\n</think>\n\nNine."),
        turns(prose(rng, 8), prose(rng, 30)),
    ]
    if arch not in ALTERNATING:
        found.append([{"role": "system", "content": " Be brief. "}] + turns("Who are you?", "A table of numbers."))
    return found

# === tokenizers and chat templates ===

GEMMA_TEMPLATE = """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}\
{% for message in messages %}\
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}\
{% endif %}\
{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}\
{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}\
{% endfor %}\
{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""

LLAMA_TEMPLATE = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = "26 Jul 2024" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

# The published one of the first Mistral-Instruct models.
MISTRAL_TEMPLATE = """\
{{ bos_token }}{% for message in messages %}\
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}\
{% endif %}\
{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}\
{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}\
{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}\
{% endfor %}"""

# Qwen2's: a system text of its own where there is none. Qwen2.5 has another text, and tools.
QWEN2_TEMPLATE = """\
{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
{{ '<|im_start|>system\\nYou are a helpful assistant<|im_end|>\\n' }}{% endif %}\
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

# The published one less its tools: it looks back for the last question and rewrites the reasoning of what follows.
QWEN_TEMPLATE = """\
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(searching=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.searching and message.role == "user" and not(message.content.startswith('<tool_response>')) %}
        {%- set ns.searching = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set content = message.content %}
        {%- set reasoning_content = '' %}
        {%- if '</think>' in message.content %}
            {%- set content = message.content.split('</think>')[-1].lstrip('\\n') %}
            {%- set reasoning_content = message.content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or reasoning_content) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""

# Llama-3's; Qwen's differs in taking digits one by one.
WORD_PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{DIGITS}| ?[^\s\p{L}\p{N}]+[\r\n]*"
                r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def train(tok, rng, **options):
    tok.train_from_iterator((sentence(rng) for _ in range(3000)), trainers.BpeTrainer(show_progress=False, **options))


def prepend(tok, bos):
    tok.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, tok.token_to_id(bos))])


def sentencepiece(rng, recipe, special, newlines):
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.normalizer = normalizers.Replace(" ", "▁")
    tok.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    train(tok, rng, vocab_size=recipe.vocab, special_tokens=special + newlines + pieces)
    # The trainer reserves ids for special tokens only. Byte pieces are plain vocabulary all the same: the text "<0x41>" is not a byte.
    spec = json.loads(tok.to_str())
    spec["added_tokens"] = [t for t in spec["added_tokens"] if t["content"] in special]
    tok = Tokenizer.from_str(json.dumps(spec))
    if recipe.newline_tokens:
        tok.add_tokens([AddedToken(text, normalized=False, special=False) for text in newlines])
    tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tok


def gemma_tokenizer(rng, recipe):
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    tok = sentencepiece(rng, recipe, special, ["\n", "\n\n", "\n\n\n"])
    prepend(tok, "<bos>")
    return tok, GEMMA_TEMPLATE, dict(bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>")


def mistral_tokenizer(rng, recipe):
    tok = sentencepiece(rng, recipe, ["<unk>", "<s>", "</s>"], [])
    prepend(tok, "<s>")
    # it has no token for padding; the unknown one is what many take, and byte pieces leave nothing unknown
    return tok, MISTRAL_TEMPLATE, dict(bos_token="<s>", eos_token="</s>", pad_token="<unk>", unk_token="<unk>")


def byte_level(rng, recipe, special, digits):
    tok = Tokenizer(models.BPE(ignore_merges=digits != ""))
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(WORD_PATTERN.replace("{DIGITS}", digits)), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    train(tok, rng, vocab_size=recipe.vocab, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    return tok


def llama_tokenizer(rng, recipe):
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "[PAD]"]
    tok = byte_level(rng, recipe, special, "{1,3}")
    prepend(tok, "<|begin_of_text|>")
    return tok, LLAMA_TEMPLATE, dict(bos_token="<|begin_of_text|>", eos_token="<|eot_id|>", pad_token="[PAD]")


def qwen_tokenizer(rng, recipe):
    tok = byte_level(rng, recipe, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], "")
    tok.normalizer = normalizers.NFC()
    if recipe.arch == "qwen2":
        return tok, QWEN2_TEMPLATE, dict(eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tok.add_tokens([AddedToken(text, normalized=False, special=False) for text in ("<think>", "</think>")])
    return tok, QWEN_TEMPLATE, dict(eos_token="<|im_end|>", pad_token="<|endoftext|>")


def make_tokenizer(rng, recipe):
    build = dict(
        gemma2=gemma_tokenizer, llama=llama_tokenizer, mistral=mistral_tokenizer, qwen2=qwen_tokenizer,
        qwen3=qwen_tokenizer)[recipe.arch]
    tok, template, names = build(rng, recipe)
    if not recipe.bos_in_template:
        template = template.replace("{{ bos_token }}", "").replace("{{- bos_token }}\n", "")
    return PreTrainedTokenizerFast(tokenizer_object=tok, chat_template=template, **names)

# === models ===


def make_config(recipe, tok):
    shape = dict(
        vocab_size=len(tok), hidden_size=recipe.hidden, num_hidden_layers=recipe.layers, num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads, head_dim=recipe.head_dim, intermediate_size=recipe.intermediate, num_labels=1,
        pad_token_id=tok.pad_token_id, bos_token_id=tok.bos_token_id, eos_token_id=tok.eos_token_id,
        rms_norm_eps=1e-3)  # large, so that a wrong one shows
    if recipe.arch == "gemma2":
        # the scalar is not head_dim: the 27B's is 144 where head_dim is 128
        return transformers.Gemma2Config(
            **shape, max_position_embeddings=8192, sliding_window=recipe.window, query_pre_attn_scalar=recipe.head_dim * 9 // 8,
            attn_logit_softcapping=50.0, final_logit_softcapping=30.0)
    if recipe.arch == "llama":
        # the original length is far below the real 8192, so that short conversations reach every band of the scaling
        return transformers.LlamaConfig(**shape, max_position_embeddings=131072, rope_parameters=dict(
            rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
            original_max_position_embeddings=64))
    if recipe.arch == "mistral":
        return transformers.MistralConfig(
            **shape, max_position_embeddings=32768, sliding_window=recipe.window,
            rope_parameters=dict(rope_type="default", rope_theta=10000.0))
    if recipe.arch == "qwen2":
        return transformers.Qwen2Config(
            **shape, max_position_embeddings=32768, use_sliding_window=True, sliding_window=recipe.window, max_window_layers=1,
            rope_parameters=dict(rope_type="default", rope_theta=1000000.0))
    return transformers.Qwen3Config(
        **shape, max_position_embeddings=40960, tie_word_embeddings=True,
        rope_parameters=dict(rope_type="default", rope_theta=1000000.0))


def weight_law(name, fan_in, recipe):
    """Mean and deviation of a tensor.

    Wide enough that soft-cap, window, activation and norms all show in the score; what a block adds to the residual
    is kept to `branch`, so that rounding does not grow from layer to layer: a trained network is calm in that way too.
    """
    branch, gemma = 0.3, recipe.arch == "gemma2"
    if gemma and ("post_attention_layernorm" in name or "post_feedforward_layernorm" in name):
        return branch - 1.0, 0.1  # applied as (1 + w), to the output of the block
    if "bias" in name:
        return 0.0, 0.5
    if "norm" in name:
        return (0.0 if gemma else 1.0), 0.3
    if "embed_tokens" in name:
        return 0.0, recipe.hidden ** -0.5 if gemma else 1.0  # Gemma-2 multiplies by sqrt(hidden)
    if "score" in name:
        return 0.0, 1.0
    if "q_proj" in name or "k_proj" in name:
        return 0.0, 2.0 * fan_in ** -0.5
    if not gemma and ("o_proj" in name or "down_proj" in name):
        return 0.0, branch * fan_in ** -0.5
    return 0.0, fan_in ** -0.5


def make_model(recipe, config):
    torch.manual_seed(recipe.seed)
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            mean, deviation = weight_law(name, weight.shape[-1], recipe)
            weight.copy_(mean + deviation * torch.randn(weight.shape))
    return model.to(getattr(torch, recipe.dtype))


def to_layout_4(folder):
    """Rewrite what transformers 5 saved as transformers 4 did: most published checkpoints look like this."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    if rope["rope_type"] != "default":
        config["rope_scaling"] = rope
    config["torch_dtype"] = config.pop("dtype")
    config.pop("layer_types", None)
    if config["model_type"] == "gemma2":
        config |= dict(hidden_act=config["hidden_activation"], sliding_window_size=config["sliding_window"], cache_implementation="hybrid")
    config["transformers_version"] = "4.44.2"
    path.write_text(json.dumps(config, indent=2) + "\n")

    template = folder / "chat_template.jinja"
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings |= dict(chat_template=template.read_text(), tokenizer_class="PreTrainedTokenizerFast")
    template.unlink()
    path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n")

# === scores ===


def load(folder, dtype, **changes):
    # From the files each time: casting a loaded model would round its RoPE frequencies too.
    config = AutoConfig.from_pretrained(folder)
    for name, value in changes.items():
        setattr(config, name, value)
    return AutoModelForSequenceClassification.from_pretrained(folder, config=config, dtype=dtype, attn_implementation="eager").eval()


def score(model, ids):
    with torch.inference_mode():
        return model(torch.tensor([ids]), use_cache=False).logits[0, 0].item()


def token_ids(tok, messages):
    ids = tok.apply_chat_template(messages, tokenize=True, return_dict=False)
    missing = tok.bos_token_id is not None and ids[0] != tok.bos_token_id
    return [tok.bos_token_id] * missing + ids


def expected(folder, arch, seed):
    tok = AutoTokenizer.from_pretrained(folder)
    rows = [dict(messages=m, input_ids=token_ids(tok, m)) for m in conversations(random.Random(seed), arch)]
    for key, dtype in dict(score=torch.float64, score_f32=torch.float32, score_bf16=torch.bfloat16).items():
        model = load(folder, dtype)
        for row in rows:
            row[key] = score(model, row["input_ids"])
    return rows


def make(folder, recipe):
    rng = random.Random(recipe.seed)
    tok = make_tokenizer(rng, recipe)
    folder.mkdir(parents=True, exist_ok=True)
    for old in [*folder.glob("*.json"), *folder.glob("*.jinja"), *folder.glob("*.safetensors")]:
        old.unlink()
    make_model(recipe, make_config(recipe, tok)).save_pretrained(folder, max_shard_size=recipe.shard_size)
    tok.save_pretrained(folder)
    if recipe.layout == 4:
        to_layout_4(folder)
    rows = expected(folder, recipe.arch, recipe.seed)
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / "expected.json").write_text(f"[\n{lines}\n]\n")
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors writes for the owner alone
    report(folder, rows)


def report(folder, rows):
    def worst(key):
        return max(abs(row[key] - row["score"]) / max(1.0, abs(row["score"])) for row in rows)

    scores, lengths = [row["score"] for row in rows], [len(row["input_ids"]) for row in rows]
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder.name}: {size / 1e6:.2f} MB, {len(rows)} conversations of {min(lengths)} to {max(lengths)} tokens, "
          f"scores {min(scores):.2f} to {max(scores):.2f}, worst error f32 {worst('score_f32'):.1e}, bf16 {worst('score_bf16'):.1e}")


def sensitivity(folder):
    """Each mistake a port can make, and the least and most it moves a score: a test with a tolerance below finds it."""
    rows = json.loads((folder / "expected.json").read_text())
    config = AutoConfig.from_pretrained(folder)
    sliding, full = "sliding_attention", "full_attention"
    layers, window = config.num_hidden_layers, getattr(config, "sliding_window", None) or 0
    plain_rope = dict(rope_type="default", rope_theta=500000.0)
    mistakes = {
        "gemma2": {
            "no soft-cap": dict(attn_logit_softcapping=None), "scale from head_dim": dict(query_pre_attn_scalar=config.head_dim),
            "window + 1": dict(sliding_window=window + 1), "no window": dict(sliding_window=1 << 20),
            "window on every layer": dict(layer_types=[sliding] * layers),
            "window on odd layers": dict(layer_types=([full, sliding] * layers)[:layers]),
            "erf gelu": dict(hidden_activation="gelu"), "silu": dict(hidden_activation="silu"),
            "theta": dict(rope_parameters=plain_rope),
        },
        "llama": {"no rope scaling": dict(rope_parameters=plain_rope), "gelu": dict(hidden_act="gelu_pytorch_tanh")},
        "mistral": {
            "window + 1": dict(sliding_window=window + 1), "no window": dict(sliding_window=None),
            "theta": dict(rope_parameters=plain_rope), "gelu": dict(hidden_act="gelu_pytorch_tanh"),
        },
        "qwen2": {
            "window + 1": dict(sliding_window=window + 1), "no window": dict(layer_types=[full] * layers),
            "window on every layer": dict(layer_types=[sliding] * layers),
            "theta": dict(rope_parameters=plain_rope), "gelu": dict(hidden_act="gelu_pytorch_tanh"),
        },
        "qwen3": {"theta": dict(rope_parameters=plain_rope), "gelu": dict(hidden_act="gelu_pytorch_tanh")},
    }[config.model_type] | {"eps 1e-6": dict(rms_norm_eps=1e-6)}
    for name, changes in mistakes.items():
        model = load(folder, torch.float64, **changes)
        moved = [abs(score(model, row["input_ids"]) - row["score"]) for row in rows]
        print(f"{folder.name}: {name:22} moves a score by {min(moved):.1e} to {max(moved):.1e}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="which to make: " + ", ".join(RECIPES))
    parser.add_argument("--all", action="store_true", help="make every committed checkpoint")
    parser.add_argument("--sensitivity", action="store_true", help="make nothing: show what each mistake does to the scores")
    parser.add_argument("--out", type=Path, help="folder for one checkpoint (default: beside this script, under its name)")
    for field in dataclasses.fields(Recipe):
        if field.name not in FIXED:
            parser.add_argument("--" + field.name.replace("_", "-"), type=field.type, choices=CHOICES.get(field.name))
    args = parser.parse_args()
    names = list(RECIPES) if args.all else args.names
    changes = {f.name: getattr(args, f.name) for f in dataclasses.fields(Recipe) if getattr(args, f.name, None) is not None}
    if not names or any(name not in RECIPES for name in names):
        parser.error(f"say --all or some of: {', '.join(RECIPES)}")
    if (args.out or changes) and (len(names) > 1 or not args.out):
        parser.error("a changed recipe needs one name and --out")
    for name in names:
        folder = args.out or HERE / name
        if args.sensitivity:
            sensitivity(folder)
        else:
            make(folder, dataclasses.replace(RECIPES[name], **changes))


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(2)
    main()
