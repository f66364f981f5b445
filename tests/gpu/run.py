#!/usr/bin/env python3
"""Try assay on the GPU of this machine: is it right, is it fast, and is it what docs/gpu.md says.

    ./run.py                       all of it, in the unpacked archive of `make gpu-trial`: under 9 minutes
    ./run.py --only kernels,bits   some parts: kernels golden bits speed tp2 load
    ./run.py --small               tiny shapes, the CPU in the GPU's place: tries this script

Needs python3; for what is compared with Hugging Face also torch and transformers. Libraries of CUDA are taken from the
wheels of this Python, or from the folder that --libraries names. Prints a table, writes gpu-trial.json beside it, and
ends with 0 if no promise is broken.
"""
import argparse
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

import work

HERE = os.path.dirname(os.path.abspath(__file__))
START = time.monotonic()
PARTS = ["kernels", "golden", "bits", "speed", "tp2", "load"]
TP2_SINCE = (2, 30)  # NCCL that takes two ranks on one GPU
TP2_SETTINGS = {"NCCL_MULTI_RANK_GPU_ENABLE": "1", "NCCL_MAX_CTAS": "4", "CUDA_MODULE_LOADING": "EAGER"}

FULL = dict(
    shape=work.GEMMA_27B, main=8192, others=[512, 1024, 2048, 4096, 16384], length=512,
    lengths=[256, 1024, 2048, 4096, 8192], groups=[(8, 512), (8, 1024), (16, 512)], unsorted=(64, 64, 2048),
    compared=32, batches=[8, 16, 32], latency=[256, 1024], seconds=2.5, bits=dict(num_hidden_layers=3, vocab_size=4096),
    bits_tokens=4096, golden_rows=[], bits_options=[], load=dict(work.GEMMA_27B, num_hidden_layers=6, vocab_size=131072), shards=4)
SMALL = dict(
    shape=work.SMALL, main=96, others=[48], length=24, lengths=[40], groups=[(4, 20)], unsorted=(6, 4, 40),
    compared=4, batches=[2, 4], latency=[16], seconds=0.01, bits={}, bits_tokens=320,
    golden_rows=["--rows", 5], bits_options=["--rows", 1, "--checkpoints", "gemma2-v5", "--sweep", 80], load=work.SMALL, shards=3)


class Run:
    """What has been found so far, and the time that is left."""

    def __init__(self, args):
        self.args, self.sizes = args, SMALL if args.small else FULL
        self.findings, self.promises = {}, []
        self.folder = tempfile.mkdtemp(prefix="gpu-trial-", dir=args.scratch)
        self.environment = {**os.environ, "LD_LIBRARY_PATH": library_path(args.libraries)}
        self.torch_device = "cpu" if args.small else args.device.split(",")[0]

    def say(self, text):
        print(f"[{time.monotonic() - START:4.0f} s] {text}", file=sys.stderr, flush=True)

    def promise(self, name, holds, found):
        """`holds`: True, False, or None for what could not be judged."""
        state = {True: "pass", False: "FAIL", None: "skipped"}[holds]
        self.promises.append({"promise": name, "state": state, "found": found})
        self.say(f"{state}: {name}: {found}")

    def gpu(self, command, seconds, *options, device=None, environment=None):
        """Runs the binary. Returns its findings, and what went wrong or None."""
        words = [self.args.binary, command, "--device", device or self.args.device.split(",")[0], *map(str, options)]
        return self.call(command, words, seconds, {**self.environment, **(environment or {})})

    def hugging_face(self, command, seconds, *options):
        script = os.path.join(HERE, "hugging_face.py")
        words = [sys.executable, script, command, "--device", self.torch_device, *map(str, options)]
        return self.call(f"hugging-face-{command}", words, seconds, dict(os.environ))

    def call(self, name, words, seconds, environment):
        if self.args.small:  # on a machine that may be busy
            seconds *= 20
        seconds = min(seconds, START + self.args.time - time.monotonic())
        if seconds < 1:
            return [], "no time was left for it"
        self.say(f"{name} ...")
        log = os.path.join(self.folder, f"{name}.log")
        with open(log, "w") as errors:
            try:
                process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
            except OSError as error:
                return [], f"{words[0]} does not start: {error}"
            lines, late = [], threading.Event()
            timer = threading.Timer(seconds, lambda: (late.set(), process.kill()))
            timer.start()
            for text in process.stdout:
                lines.append(finding(text))
                self.progress(lines[-1])
            code = process.wait()
            timer.cancel()
        self.findings[name] = lines
        self.write()
        if late.is_set():
            return lines, f"stopped after {seconds:.0f} s"
        return lines, None if code == 0 else f"exit status {code}: {tail(log)}"

    def progress(self, line):
        """One line for what takes seconds."""
        which = next((line[key] for key in ("name", "company_of", "rows_of", "checkpoint") if key in line), None)
        if which:
            steps = f"steps of {line['step_tokens']}, " if "step_tokens" in line else ""
            self.say(f"    {steps}{which}")

    def write(self):
        """After every part, so that a run that is cut off leaves what it has found."""
        with open(self.args.out, "w") as file:
            json.dump({"small": self.args.small, "promises": self.promises, "findings": self.findings}, file, indent=1)


def finding(text):
    try:
        return json.loads(text)
    except ValueError:
        return {"text": text.rstrip()}


def tail(path):
    with open(path, errors="replace") as file:
        lines = [line.strip() for line in file if line.strip()]
    return " | ".join(lines[-4:])[-600:] or "it says nothing"


def library_path(folder):
    """Where libraries of CUDA may be: the folder given, the wheels of this Python, what the environment says."""
    wheels = [path for place in sys.path for path in sorted(glob.glob(os.path.join(place, "nvidia", "*", "lib")))]
    given = [folder, *sorted(glob.glob(os.path.join(folder, "**", "lib"), recursive=True))] if folder else []
    return ":".join(given + wheels + [path for path in [os.environ.get("LD_LIBRARY_PATH")] if path])


def has_torch():
    words = [sys.executable, "-c", "import torch, transformers"]
    return subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


# === right? ===

def kernels(run):
    lines, problem = run.gpu("kernels", 60)
    wrong = [f"{line['check']}: {line['worst']:.1e} of {line['largest']:.1e}" for line in lines if not line.get("holds")]
    found = problem or "; ".join(wrong) or f"{len(lines)} checks"
    run.promise("kernels agree with float64 (2e-2 in 16 bits, 1e-5 in f32)", not problem and not wrong and bool(lines), found)


def golden(run):
    lines, problem = run.gpu("golden", 60, "--golden", run.args.golden, *run.sizes["golden_rows"])
    judge_f32(run, "golden scores in f32 within 5e-5 of Hugging Face's in float64", lines, problem)
    theirs, missing = {}, None
    if run.torch:
        found, missing = run.hugging_face("golden", 70, "--golden", run.args.golden, *run.sizes["golden_rows"])
        theirs = {line["checkpoint"]: line["rms"] for line in found if "rms" in line}
    told, good = [], True
    checkpoints = {line["checkpoint"] for line in lines if "checkpoint" in line}
    for line in (line for line in lines if line.get("dtype") == "bf16"):
        name = line["checkpoint"]
        rms, where = (theirs[name], "here") if name in theirs else (line["rms_bf16_cpu"], "as committed")
        good &= line["rms"] <= 1.5 * rms
        told.append(f"{name} {line['rms']:.4f} of {rms:.4f} {where}")
    found = problem or "; ".join(told + ([f"Hugging Face: {missing}"] if missing else []))
    name = "golden scores in bf16: RMS error at most 1.5 times Hugging Face's"
    run.promise(name, not problem and bool(told) and len(told) == len(checkpoints) and good, found)


def judge_f32(run, name, lines, problem):
    worst = {line["checkpoint"]: line["worst"] for line in lines if line.get("dtype") == "f32"}
    found = problem or "; ".join(f"{checkpoint} {value:.1e}" for checkpoint, value in worst.items())
    run.promise(name, not problem and bool(worst) and max(worst.values()) <= 5e-5, found)


def bits(run):
    shape = work.save(os.path.join(run.folder, "bits.json"), work.config(run.sizes["shape"], **run.sizes["bits"]))
    options = ["--golden", run.args.golden, "--config", shape, "--step-tokens", run.sizes["bits_tokens"]]
    lines, problem = run.gpu("bits", 100, *options, *run.sizes["bits_options"])
    for key, name in (("rows_of", "every matmul's rows have the same bits for every number of rows"),
                      ("company_of", "every score has the same bits alone, packed, with shared prefixes, in every budget")):
        some = [line for line in lines if key in line]
        wrong = [f"{line[key]}: {len(line['differing'])} of {line['tried']}" for line in some if line["differing"]]
        found = problem or "; ".join(wrong) or f"{sum(line['tried'] for line in some)} comparisons of {len(some)}"
        run.promise(name, not problem and bool(some) and not wrong, found)


def tp2(run):
    name, one = "two ranks over NCCL: f32 golden scores within 5e-5, the same rows", "a communicator of one rank"
    options = ["--golden", run.args.golden, *run.sizes["golden_rows"]]
    if run.args.small:
        lines, problem = run.gpu("tp2", 60, *options, device="host,host")
        judge_f32(run, "two ranks over threads: f32 golden scores within 5e-5, the same rows", lines, problem)
        return
    nccl = str(run.device.get("nccl"))
    version = tuple(map(int, re.findall(r"\d+", nccl)[:2])) if re.match(r"\d+\.\d+", nccl) else None
    if version is None:
        run.promise(one, None, nccl)
        run.promise(name, None, nccl)
        return
    lines, problem = run.gpu("nccl", 60)
    run.promise(one, not problem and bool(lines), problem or f"NCCL {nccl}: {', '.join(lines[0].get('one_rank', []))}")
    ordinals = run.args.device if "," in run.args.device else run.args.device + "," + run.args.device.split(":")[-1]
    if len(set(ordinals.split(":")[-1].split(","))) == 1 and version < TP2_SINCE:
        run.promise(name, None, f"NCCL {nccl} takes no two ranks on one GPU, 2.30 does: give its folder with --libraries")
        return
    lines, problem = run.gpu("tp2", 80, *options, device=ordinals, environment=TP2_SETTINGS)
    judge_f32(run, name, lines, problem)


# === loading ===

def load(run):
    folder = os.path.join(run.folder, "checkpoint")
    needed = sum(2 * work.math.prod(sizes) for _, sizes in work.tensors(run.sizes["load"]))
    if shutil.disk_usage(run.folder).free < 1.2 * needed:
        run.promise("a sharded checkpoint loads", None, f"{needed / 1e9:.1f} GB do not fit the disk at {run.folder}")
        return
    run.say(f"writing a checkpoint of {needed / 1e9:.1f} GB to {folder}")
    start = time.monotonic()
    work.write_checkpoint(folder, run.sizes["load"], run.sizes["shards"])
    run.say(f"written in {time.monotonic() - start:.0f} s")
    told, problems = [], []
    for state in ("from the disk", "from the cache"):
        if state == "from the disk":
            work.forget(folder)
        lines, problem = run.gpu("load", 60, "--model", folder)
        if problem or not lines:
            problems.append(problem or "no answer")
            continue
        run.findings.setdefault("loads", {})[state] = lines[-1]
        told.append(f"{lines[-1]['gb_per_s']:.2f} GB/s {state}")
    shutil.rmtree(folder, ignore_errors=True)
    run.promise("a sharded checkpoint loads", not problems, "; ".join(told + problems))


# === speed ===

def speed_work(run):
    """What the binary does: the main budget first, for it matters most."""
    s = run.sizes
    main, length, seconds = s["main"], s["length"], s["seconds"]

    def measure(name, sequences, **more):
        return {"name": name, "sequences": sequences, "seconds": seconds, **more}

    steps = max(2 * main // length, s["compared"])
    measures = [measure("uniform", work.uniform(steps, length), scores=True, profile=True)]
    measures.append(measure("unsorted", work.unsorted(*s["unsorted"]), scores=True))
    for n in s["lengths"]:
        measures.append(measure(f"length {n}", work.uniform(max(2, 2 * main // n), n), profile=True))
    for size, half in s["groups"]:
        count = max(2, 2 * main // (half + size * half))
        measures.append(measure(f"groups of {size}, {half} + {half}", work.groups(count, size, half, half)))
        measures.append(measure(f"independent {half} + {half}, for groups of {size}", work.uniform(count * size, 2 * half, 500)))
    measures += [measure(f"latency {n}", work.uniform(1, n), latency=True) for n in s["latency"]]
    models = [{"step_tokens": main, "matmul_seconds": seconds, "measures": measures}]
    for budget in s["others"]:
        uniform = measure("uniform", work.uniform(2 * max(main, budget) // length, length), profile=True)
        models.append({"step_tokens": budget, "matmul_seconds": seconds / 2, "measures": [uniform]})
    return {"models": models}


def their_work(run):
    s = run.sizes
    conversations = work.uniform(s["compared"], s["length"])
    measures = [{"name": "uniform", "batch": batch, "seconds": s["seconds"], "sequences": conversations} for batch in s["batches"]]
    measures.append({"name": "unsorted", "batch": 16, "seconds": 0, "sequences": work.unsorted(*s["unsorted"])})
    return {"measures": measures, "matmul_rows": s["main"], "matmul_seconds": s["seconds"] / 5}


def speed(run):
    shape = work.save(os.path.join(run.folder, "config.json"), work.config(run.sizes["shape"]))
    same_hash(run)
    ours = work.save(os.path.join(run.folder, "work.json"), {"config": shape, **speed_work(run)})
    lines, problem = run.gpu("speed", 190, "--work", ours)
    theirs, why = [], "python3 has no torch and transformers"
    if run.torch:
        file = work.save(os.path.join(run.folder, "their-work.json"), {"config": shape, **their_work(run)})
        theirs, why = run.hugging_face("speed", 170, "--work", file)
    run.ours, run.theirs = Ours(lines), Theirs(theirs)
    judge_rate(run, problem)
    judge_comparison(run, problem, why)
    judge_groups(run, problem)
    judge_scores(run, why)


class Ours:
    """Findings of the binary's `speed`, by budget and name."""

    def __init__(self, lines):
        self.found = {(line["step_tokens"], line["name"]): line["found"] for line in lines if "found" in line}
        self.rates = {line["step_tokens"]: line["matmul_rate"] for line in lines if "matmul_rate" in line}
        self.errors = [f"{line['step_tokens']}: {line['error']}" for line in lines if "error" in line]
        self.errors += [f"{key}: {found['error']}" for key, found in self.found.items() if "error" in found]

    def get(self, budget, name, field="input_tokens_per_s"):
        return self.found.get((budget, name), {}).get(field)


class Theirs:
    """Findings of hugging_face.py's `speed`."""

    def __init__(self, lines):
        self.measures = [line for line in lines if "input_tokens_per_s" in line]
        self.errors = [f"{line['name']} in batches of {line['batch']}: {line['error']}" for line in lines if "error" in line]
        self.matmul_rate = max((line["torch_matmul_rate"] for line in lines if "torch_matmul_rate" in line), default=None)

    def best(self, name):
        return max((m for m in self.measures if m["name"] == name), key=lambda m: m["input_tokens_per_s"], default=None)


def same_hash(run):
    """The device's random numbers against the hash in Python, which hugging_face.py holds torch's against as well."""
    name = "model.layers.0.mlp.up_proj.weight"
    lines, problem = run.gpu("hash", 30, "--name", name)
    numbers = lines[0].get("numbers", []) if lines else []
    same = len(numbers) == 64 and all(x == work.weight(name, i) for i, x in enumerate(numbers))
    run.promise("random weights are the same on both sides", not problem and same, problem or f"{len(numbers)} numbers")


def judged(run, holds):
    """Nothing that was measured at tiny sizes or on a CPU says anything about speed."""
    return None if run.args.small else holds


def why_not(run, problem, *others):
    return "; ".join(str(text) for text in (problem, *run.ours.errors[:2], *others) if text) or "it was not measured"


def judge_rate(run, problem):
    main, name = run.sizes["main"], "at least 75 % of the matmul rate at 8192-token steps of 512-token conversations"
    flops, rate = run.ours.get(main, "uniform", "matmul_flops"), run.ours.rates.get(main, {}).get("rate")
    if not flops or not rate:
        run.promise(name, False, why_not(run, problem))
        return
    bare = max(rate, run.theirs.matmul_rate or 0)
    torch = f", torch's {run.theirs.matmul_rate / 1e12:.0f}" if run.theirs.matmul_rate else ""
    found = f"{flops / bare:.1%}: {flops / 1e12:.0f} TFLOP/s of the own matmuls' {rate / 1e12:.0f}{torch}"
    run.promise(name, judged(run, flops >= 0.75 * bare), found)


def judge_comparison(run, problem, why):
    for name, factor, text in (("uniform", 1.08, "uniform 512-token conversations"),
                               ("unsorted", 1.5, "unsorted lengths 64 to 2048 in its batches of 16")):
        promise = f"at least {factor} times Hugging Face on {text}"
        ours, theirs = run.ours.get(run.sizes["main"], name), run.theirs.best(name)
        if not run.torch:
            run.promise(promise, None, why)
        elif not ours or not theirs:
            run.promise(promise, False, why_not(run, problem, why, *run.theirs.errors))
        else:
            times = ours / theirs["input_tokens_per_s"]
            found = f"{times:.2f} times: {ours:.0f} and {theirs['input_tokens_per_s']:.0f} tokens/s in batches of {theirs['batch']}"
            run.promise(promise, judged(run, times >= factor), found)


def judge_groups(run, problem):
    main, (size, half) = run.sizes["main"], run.sizes["groups"][0]
    grouped = run.ours.get(main, f"groups of {size}, {half} + {half}")
    alone = run.ours.get(main, f"independent {half} + {half}, for groups of {size}")
    name = "groups of 8 with equal prompt and response: at least 1.6 times independent ones"
    if not grouped or not alone:
        run.promise(name, False, why_not(run, problem))
        return
    found = f"{grouped / alone:.2f} times: {grouped:.0f} and {alone:.0f} input tokens/s"
    run.promise(name, judged(run, grouped >= 1.6 * alone), found)


def judge_scores(run, why):
    name = "scores of random weights correlate with Hugging Face's, both in bf16"
    told, good = [], True
    for which in ("uniform", "unsorted"):
        theirs, ours = run.theirs.best(which), run.ours.get(run.sizes["main"], which, "scores")
        if theirs and ours:
            r, apart = compare(ours[:len(theirs["scores"])], theirs["scores"])
            good &= r >= 0.95
            told.append(f"{which}: r = {r:.4f}, RMS difference {apart:.1%} of the spread")
    if not run.torch:
        run.promise(name, None, why)
    else:
        run.promise(name, bool(told) and good, "; ".join(told) or why_not(run, why, *run.theirs.errors))


def compare(a, b):
    """The correlation, and the RMS difference over the standard deviation of `b`."""
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    da, db = [x - mean_a for x in a], [y - mean_b for y in b]
    spread_a, spread_b = (sum(x * x for x in d) ** 0.5 or 1.0 for d in (da, db))
    apart = sum((x - y) ** 2 for x, y in zip(a, b)) ** 0.5
    return sum(x * y for x, y in zip(da, db)) / spread_a / spread_b, apart / spread_b


# === the table ===

def table(run):
    out = ["", f"assay on {run.device.get('name', '?')}, {time.strftime('%Y-%m-%d')}, commit {run.args.commit}", ""]
    if getattr(run, "ours", None) and run.ours.found:
        out += speed_table(run) + share_table(run) + other_table(run)
    out += [f"{'state':8}promise", "-" * 100]
    out += [f"{p['state']:8}{p['promise']}\n{'':8}{p['found']}" for p in run.promises]
    return "\n".join(out)


def speed_table(run):
    out = [f"{'steps of':>9} {'work':45} {'input tok/s':>12} {'computed':>10} {'TFLOP/s':>8} {'of bare':>8}"]
    for (budget, name), found in sorted(run.ours.found.items(), key=lambda item: item[0][0]):
        if "input_tokens_per_s" not in found:
            continue
        rate = run.ours.rates.get(budget, {}).get("rate")
        share = f"{found['matmul_flops'] / rate:8.1%}" if rate else f"{'-':>8}"
        out.append(f"{budget:9} {name:45} {found['input_tokens_per_s']:12.0f} {found['computed_tokens_per_s']:10.0f} "
                   f"{found['matmul_flops'] / 1e12:8.1f} {share}")
    for m in run.theirs.measures:
        out.append(f"{'HF':>9} {m['name'] + ', batches of ' + str(m['batch']):45} {m['input_tokens_per_s']:12.0f}")
    bare = [f"{budget} rows {rate['rate'] / 1e12:.0f}" for budget, rate in sorted(run.ours.rates.items())]
    torch = f"; torch's own at {run.sizes['main']} rows {run.theirs.matmul_rate / 1e12:.0f}" if run.theirs.matmul_rate else ""
    return out + ["", f"bare matmuls, TFLOP/s: {', '.join(bare)}{torch}", ""]


def share_table(run):
    kinds = ["matmul", "attention", "pointwise", "copy", "idle"]
    out = [f"{'steps of':>9} {'work':45} {'watched ms':>10} " + " ".join(f"{kind:>10}" for kind in kinds)]
    for (budget, name), found in sorted(run.ours.found.items(), key=lambda item: item[0][0]):
        profile = found.get("profile")
        if not profile:
            continue
        taken = {share["kind"]: share["seconds"] for share in profile["kinds"]} | {"idle": profile["idle"]}
        shares = " ".join(f"{taken[kind] / profile['seconds']:10.1%}" for kind in kinds)
        out.append(f"{budget:9} {name:45} {profile['seconds'] * 1e3:10.2f} {shares}")
    return out + [""]


def other_table(run):
    out = []
    for (_, name), found in run.ours.found.items():
        if found.get("median"):
            out.append(f"{name} tokens: {found['median'] * 1e3:.2f} ms, p95 {found['p95'] * 1e3:.2f} ms")
    return out + [f"error: {error}" for error in run.ours.errors + run.theirs.errors] + [""]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="tiny shapes, the CPU as the device")
    parser.add_argument("--device", help="cuda:0; cuda:0,1 for two ranks on two GPUs")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between")
    parser.add_argument("--binary", default=os.path.join(HERE, "gpu"))
    parser.add_argument("--golden", default=os.path.join(HERE, "golden"), help="the golden checkpoints")
    parser.add_argument("--libraries", help="a folder with libraries of CUDA, before those of this Python")
    parser.add_argument("--scratch", help="where a checkpoint of 8 GB may lie for a moment")
    parser.add_argument("--out", default="gpu-trial.json")
    parser.add_argument("--time", type=float, help="seconds for all of it: 530, or 1800 with --small")
    args = parser.parse_args()
    args.device = args.device or ("host" if args.small else "cuda:0")
    args.time = args.time or (1800 if args.small else 530)
    args.only = args.only.split(",")
    unknown = [part for part in args.only if part not in PARTS]
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}")
    commit = os.path.join(HERE, "COMMIT")
    args.commit = open(commit).read().strip() if os.path.exists(commit) else "of this tree"
    return args


def main():
    run = Run(arguments())
    lines, problem = run.gpu("device", 60)
    run.device = lines[0] if lines else {}
    run.torch = has_torch()
    if problem:
        run.promise("the device can be used", False, problem)
        run.args.only = []
    if not run.torch:
        run.say("python3 has no torch and transformers: NOTHING IS COMPARED WITH HUGGING FACE HERE")
    for name in PARTS:
        if name not in run.args.only:
            continue
        try:
            globals()[name](run)
        except Exception as error:  # the other parts have their own to say
            run.promise(f"part {name} runs to its end", False, f"{type(error).__name__}: {error}")
    text = table(run)
    run.findings["table"] = text.splitlines()
    run.write()
    shutil.rmtree(run.folder, ignore_errors=True)
    print(text)
    states = [promise["state"] for promise in run.promises]
    print(f"\n{states.count('pass')} passed, {states.count('FAIL')} failed, {states.count('skipped')} skipped; "
          f"{time.monotonic() - START:.0f} s; all of it in {os.path.abspath(run.args.out)}")
    return 1 if "FAIL" in states else 0


if __name__ == "__main__":
    sys.exit(main())
