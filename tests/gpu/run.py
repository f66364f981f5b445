#!/usr/bin/env python3
"""Try assay on the GPU of this machine: is it right, is it fast, and is it what docs/gpu.md says.

    ./run.py A                     kernels, algorithms, speed of full steps, races, profiles: under 4 minutes
    ./run.py B                     golden, bits, speeds, Hugging Face, loading, two ranks: under 7 minutes
    ./run.py --only bits,load      some parts, of either run
    ./run.py --table               the table of what has been found so far
    ./run.py A B --small           tiny shapes, the CPU in the GPU's place: tries this script

Needs python3; for what is compared with Hugging Face also torch and transformers, for races compute-sanitizer, for
profiles ncu. Libraries of CUDA are taken from the wheels of this Python, or from the folder that --libraries names.
What is found goes to --out line by line, and both runs' to one file and one table. Ends with 0 if no promise is broken,
with 1 if one is, with 2 if none is but something was cut.
"""
import argparse
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import report
import work

HERE = os.path.dirname(os.path.abspath(__file__))
START = time.monotonic()
RUNS = {"A": (240, ["kernels", "algorithms", "speed-main", "racecheck", "ncu"]),
        "B": (420, ["golden", "bits", "speed", "hugging-face", "load", "tp2"])}
PARTS = [part for _, parts in RUNS.values() for part in parts]
TP2_SINCE = (2, 30)  # NCCL that takes two ranks on one GPU
TP2_SETTINGS = {"NCCL_MULTI_RANK_GPU_ENABLE": "1", "NCCL_MAX_CTAS": "4", "NCCL_NVLS_ENABLE": "0"}
WRITE_EVERY = 1.0  # seconds

FULL = dict(
    shape=work.GEMMA_27B, main=8192, others=[1024, 4096], length=512, lengths=[256, 1024, 2048, 4096, 8192],
    groups=[(8, 512), (8, 1024), (16, 512)], unsorted=(64, 64, 2048), compared=32, batches=[8, 16, 32],
    latency=[256, 1024], seconds=2.5, bits=dict(num_hidden_layers=3, vocab_size=4096), bits_tokens=8192, golden_rows=[],
    bits_options=[], load=dict(work.GEMMA_27B, num_hidden_layers=6, vocab_size=131072), shards=4,
    profiled=dict(num_hidden_layers=2, vocab_size=4096))
SMALL = dict(
    shape=work.SMALL, main=96, others=[48], length=24, lengths=[40], groups=[(4, 20)], unsorted=(6, 4, 40), compared=4,
    batches=[2, 4], latency=[16], seconds=0.01, bits={}, bits_tokens=320, golden_rows=["--rows", 5],
    bits_options=["--rows", 1, "--checkpoints", "gemma2-v5", "--sweep", 80], load=work.SMALL, shards=3, profiled={})


class Cut(Exception):
    """The run is to end now, with what it has."""


class Run:
    """What has been found so far, and the time that is left."""

    def __init__(self, args):
        self.args, self.sizes = args, SMALL if args.small else FULL
        self.host = args.device == "host"
        self.deadline, self.writing = 0.0, threading.RLock()
        self.folder = tempfile.mkdtemp(prefix="gpu-trial-", dir=args.scratch)
        self.environment = {**os.environ, "LD_LIBRARY_PATH": library_path(args.libraries)}
        self.torch_device = "cpu" if self.host else args.device.split(",")[0]
        self.first_device = args.device.split(",")[0]
        self.warming, self.torch = None, None
        self.record = report.read(args.out, args.commit, args.small)

    def say(self, text):
        print(f"[{time.monotonic() - START:4.0f} s] {text}", file=sys.stderr, flush=True)

    def left(self):
        return self.deadline - time.monotonic()

    def part(self, name):
        return self.record["parts"].get(name, {})

    def lines(self, name):
        return self.part(name).get("lines", [])

    def skip(self, name, why):
        self.record["parts"][name] = {"state": "skipped", "problem": why, "seconds": 0, "lines": []}
        self.say(f"{name}: skipped: {why}")

    def gpu(self, name, command, seconds, *options, device=None, environment=None, before=()):
        """Runs the binary, perhaps with another program before it."""
        words = [*before, self.args.binary, command, "--device", device or self.first_device, *map(str, options)]
        self.call(name, words, seconds, {**self.environment, **(environment or {})})

    def hugging_face(self, name, command, seconds, *options):
        if self.left() > 1 and not self.has_torch():
            self.skip(name, "python3 has no torch and transformers: NOTHING IS COMPARED WITH HUGGING FACE HERE")
            return
        script = os.path.join(HERE, "hugging_face.py")
        words = [sys.executable, script, command, "--device", self.torch_device, *map(str, options)]
        self.call(name, words, seconds, dict(os.environ))

    def call(self, name, words, seconds, environment):
        """Runs a program of a part; each of its lines is a finding. What it says before it fails or hangs is kept."""
        part = self.record["parts"][name] = {"state": "cut", "problem": "no time was left for it", "seconds": 0, "lines": []}
        limit = min(seconds * self.args.patience, self.left())
        if limit < 1:
            return
        self.say(f"{name} ...")
        part["problem"] = "the run was ended from outside"
        start, late, over = time.monotonic(), threading.Event(), threading.Event()
        log = os.path.join(self.folder, f"{name}.log")
        with open(log, "w") as errors:
            try:
                process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors, text=True, errors="replace",
                                           env=environment, start_new_session=True)
            except OSError as error:
                part.update(state="failed", problem=f"{words[0]} does not start: {error}")
                return
            timer = threading.Timer(limit, lambda: (late.set(), kill(process)))
            timer.start()
            threading.Thread(target=self.keep, args=(over,), daemon=True).start()
            try:
                for text in process.stdout:
                    with self.writing:
                        part["lines"].append(finding(text))
                    self.progress(part["lines"][-1])
                code = process.wait()
            finally:
                over.set()
                timer.cancel()
                kill(process)
                part["seconds"] = round(time.monotonic() - start, 1)
        if late.is_set():
            cut = limit < seconds * self.args.patience
            part.update(state="cut" if cut else "stopped", problem=f"stopped after {limit:.0f} s: {tail(log)}")
        elif code != 0:
            part.update(state="failed", problem=f"exit status {code}: {tail(log)}")
        else:
            part.update(state="done", problem=None)
        self.write()

    def progress(self, line):
        """One line for what takes seconds."""
        which = next((line[key] for key in ("name", "company_of", "rows_of", "checkpoint") if key in line), None)
        if which:
            steps = f"steps of {line['step_tokens']}, " if "step_tokens" in line else ""
            self.say(f"    {steps}{which}")

    def keep(self, over):
        """Also while a part runs: who ends this run from outside has what was found until then."""
        while not over.wait(WRITE_EVERY):
            self.write()

    def write(self):
        with self.writing:
            report.write(self.args.out, self.record)

    def warm(self, torch):
        """Brings what is large from a disk that may be slow, while the first parts run."""
        threading.Thread(target=read_library, args=(self.environment["LD_LIBRARY_PATH"],), daemon=True).start()
        if torch:
            self.warming = subprocess.Popen([sys.executable, "-c", "import torch, transformers"], stdout=subprocess.DEVNULL,
                                            stderr=subprocess.DEVNULL, start_new_session=True)

    def has_torch(self):
        if self.torch is None:
            try:
                self.torch = self.warming.wait(max(1, min(120 * self.args.patience, self.left()))) == 0
            except subprocess.TimeoutExpired:
                self.torch = False
        return self.torch

    def shape(self, name, **changes):
        return work.save(os.path.join(self.folder, name), work.config(self.sizes["shape"], **changes))


def kill(process):
    """With all that it has started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def finding(text):
    try:
        line = json.loads(text)
        return line if isinstance(line, dict) else {"text": text.rstrip()}
    except ValueError:
        return {"text": text.rstrip()}


def tail(path):
    with open(path, errors="replace") as file:
        lines = [line.strip() for line in file if line.strip()]
    return " | ".join(lines[-4:])[-600:] or "it says nothing"


def read_library(folders):
    for path in (os.path.join(folder, "libcublasLt.so.13") for folder in folders.split(":")):
        if os.path.exists(path):
            with open(path, "rb", buffering=0) as file:
                while file.read(1 << 24):
                    pass
            return


def library_path(folder):
    """Where libraries of CUDA may be: the folder given, the wheels of this Python, what the environment says."""
    wheels = [path for place in sys.path for path in sorted(glob.glob(os.path.join(place, "nvidia", "*", "lib")))]
    given = [folder, *sorted(glob.glob(os.path.join(folder, "**", "lib"), recursive=True))] if folder else []
    return ":".join(given + wheels + [path for path in [os.environ.get("LD_LIBRARY_PATH")] if path])


# === run A ===

def kernels(run):
    shape = run.shape("shape.json")
    run.gpu("kernels", "kernels", 70, "--config", shape, "--step-tokens", run.sizes["main"])


def algorithms(run):
    if run.host:
        return run.skip("algorithms", "the CPU has no matmul library to choose from")
    run.gpu("algorithms", "algorithms", 70, "--config", run.shape("shape.json"), "--step-tokens", run.sizes["main"])


def speed_main(run):
    uniform = measure(run, "uniform", work.uniform(steps_of(run), run.sizes["length"]), scores=True, profile=True)
    models = [{"step_tokens": run.sizes["main"], "matmul_seconds": run.sizes["seconds"], "measures": [uniform]}]
    run.gpu("speed-main", "speed", 60, "--work", work_file(run, "main.json", models))


def racecheck(run):
    tool = shutil.which("compute-sanitizer")
    if not tool:
        return run.skip("racecheck", "there is no compute-sanitizer")
    before = [tool, "--tool", "racecheck", "--error-exitcode", "9"]
    run.gpu("racecheck", "kernels", 60, "--only", "norm,rope,attention,head", before=before)


def ncu(run):
    tool = shutil.which("ncu")
    if not tool:
        return run.skip("ncu", "there is no ncu")
    uniform = measure(run, "uniform", work.uniform(run.sizes["main"] // run.sizes["length"], run.sizes["length"]), seconds=0)
    models = [{"step_tokens": run.sizes["main"], "matmul_seconds": 0, "measures": [uniform]}]
    before = [tool, "--csv", "--page", "raw", "--clock-control", "none", "--set", "full", "--launch-count", "6",
              "--kernel-name", "regex:norm_bf16|attention_128"]
    run.gpu("ncu", "speed", 60, "--work", work_file(run, "ncu.json", models, **run.sizes["profiled"]), before=before)


# === run B ===

def golden(run):
    options = ["--golden", run.args.golden, *run.sizes["golden_rows"]]
    run.gpu("golden", "golden", 60, *options)
    run.hugging_face("golden-hugging-face", "golden", 70, *options)


def bits(run):
    shape = run.shape("bits.json", **run.sizes["bits"])
    options = ["--golden", run.args.golden, "--config", shape, "--step-tokens", run.sizes["bits_tokens"]]
    run.gpu("bits", "bits", 110, *options, *run.sizes["bits_options"])


def measure(run, name, sequences, **more):
    return {"name": name, "sequences": sequences, "seconds": run.sizes["seconds"], **more}


def steps_of(run):
    """Conversations for two full steps, and as many as are compared."""
    return max(2 * run.sizes["main"] // run.sizes["length"], run.sizes["compared"])


def work_file(run, name, models, **changes):
    config = run.shape(f"config-{name}", **changes)
    return work.save(os.path.join(run.folder, name), {"config": config, "models": models})


def speed(run):
    """The main budget first, for it matters most."""
    s = run.sizes
    main, length = s["main"], s["length"]
    measures = [measure(run, "uniform", work.uniform(steps_of(run), length), scores=True)]
    measures.append(measure(run, "unsorted", work.unsorted(*s["unsorted"]), scores=True))
    for n in s["lengths"]:
        measures.append(measure(run, f"length {n}", work.uniform(max(2, 2 * main // n), n), profile=True))
    for size, half in s["groups"]:
        count = max(2, 2 * main // (half + size * half))
        measures.append(measure(run, f"groups of {size}, {half} + {half}", work.groups(count, size, half, half)))
        alone = work.uniform(count * size, 2 * half, 500)
        measures.append(measure(run, f"independent {half} + {half}, for groups of {size}", alone))
    measures += [measure(run, f"latency {n}", work.uniform(1, n), latency=True) for n in s["latency"]]
    models = [{"step_tokens": main, "matmul_seconds": s["seconds"], "measures": measures}]
    for budget in s["others"]:
        uniform = measure(run, "uniform", work.uniform(2 * max(main, budget) // length, length), profile=True)
        models.append({"step_tokens": budget, "matmul_seconds": s["seconds"] / 2, "measures": [uniform]})
    run.gpu("hash", "hash", 30, "--name", report.HASHED)
    run.gpu("speed", "speed", 130, "--work", work_file(run, "work.json", models))


def hugging_face(run):
    s = run.sizes
    conversations = work.uniform(s["compared"], s["length"])
    measures = [{"name": "uniform", "batch": batch, "seconds": s["seconds"], "sequences": conversations} for batch in s["batches"]]
    measures.append({"name": "unsorted", "batch": 16, "seconds": 0, "sequences": work.unsorted(*s["unsorted"])})
    theirs = {"config": run.shape("config.json"), "measures": measures, "matmul_rows": s["main"],
              "matmul_seconds": s["seconds"] / 5}
    run.hugging_face("hugging-face", "speed", 150, "--work", work.save(os.path.join(run.folder, "theirs.json"), theirs))


def load(run):
    folder = os.path.join(run.folder, "checkpoint")
    needed = sum(2 * work.math.prod(sizes) for _, sizes in work.tensors(run.sizes["load"]))
    names = ["load-from-disk", "load-from-cache"]
    if shutil.disk_usage(run.folder).free < 1.2 * needed:
        return [run.skip(name, f"{needed / 1e9:.1f} GB do not fit the disk at {run.folder}") for name in names]
    if run.left() < 20:
        return [run.call(name, [], 0, {}) for name in names]
    run.say(f"writing a checkpoint of {needed / 1e9:.1f} GB to {folder}")
    work.write_checkpoint(folder, run.sizes["load"], run.sizes["shards"])
    for name in names:
        if name == "load-from-disk":
            work.forget(folder)
        run.gpu(name, "load", 60, "--model", folder)
    shutil.rmtree(folder, ignore_errors=True)


def tp2(run):
    options = ["--golden", run.args.golden, *run.sizes["golden_rows"]]
    if run.host:
        run.skip("nccl", "the CPU has none")
        return run.gpu("tp2", "tp2", 60, *options, device="host,host")
    nccl = str(next(iter(run.lines("device")), {}).get("nccl"))
    version = tuple(map(int, re.findall(r"\d+", nccl)[:2])) if re.match(r"\d+\.\d+", nccl) else None
    if version is None:
        return [run.skip(name, nccl) for name in ("nccl", "tp2")]
    run.gpu("nccl", "nccl", 60)
    ordinals = run.args.device if "," in run.args.device else run.args.device + "," + run.args.device.split(":")[-1]
    if len(set(ordinals.split(":")[-1].split(","))) == 1 and version < TP2_SINCE:
        return run.skip("tp2", f"NCCL {nccl} takes no two ranks on one GPU, 2.30 does: give its folder with --libraries")
    run.gpu("tp2", "tp2", 80, *options, device=ordinals, environment=TP2_SETTINGS)


# === all ===

def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="A|B", help="one run, or both")
    parser.add_argument("--small", action="store_true", help="tiny shapes, the CPU as the device")
    parser.add_argument("--device", help="cuda:0; cuda:0,1 for two ranks on two GPUs")
    parser.add_argument("--only", help=f"parts, with commas between: {' '.join(PARTS)}")
    parser.add_argument("--table", action="store_true", help="run nothing, print the table of --out")
    parser.add_argument("--binary", default=os.path.join(HERE, "gpu"))
    parser.add_argument("--golden", default=os.path.join(HERE, "golden"), help="the golden checkpoints")
    parser.add_argument("--libraries", help="a folder with libraries of CUDA, before those of this Python")
    parser.add_argument("--scratch", help="where a checkpoint of 8 GB may lie for a moment")
    parser.add_argument("--out", default=os.path.join(HERE, "gpu-trial.json"), help="where findings are kept")
    parser.add_argument("--time", type=float, help="seconds for all of it: 240 for A, 420 for B, 1800 each with --small")
    parser.add_argument("--patience", type=float, help="how many times a part's usual limit it may take: 1, or 20 with --small")
    args = parser.parse_args()
    args.device = args.device or ("host" if args.small else "cuda:0")
    args.patience = args.patience or (20 if args.small else 1)
    unknown = [run for run in args.runs if run not in RUNS]
    args.parts = args.only.split(",") if args.only else [part for run in args.runs if run in RUNS for part in RUNS[run][1]]
    unknown += [part for part in args.parts if part not in PARTS]
    if unknown:
        parser.error(f"neither a run nor a part: {', '.join(unknown)}")
    if not args.parts and not args.table:
        parser.error("which run, A or B?")
    args.parts = [part for part in PARTS if part in args.parts]
    limits = [seconds for seconds, parts in RUNS.values() if set(parts) & set(args.parts)]
    args.time = args.time or sum(1800 if args.small else limit for limit in limits)
    commit = os.path.join(HERE, "COMMIT")
    args.commit = open(commit).read().strip() if os.path.exists(commit) else "of this tree"
    return args


def end(*_):
    raise Cut


def try_all(run):
    """The parts in their order; each fails alone."""
    for part in run.args.parts:  # what is cut before it begins is named as well
        run.record["parts"][part] = {"state": "cut", "problem": "no time was left for it", "seconds": 0, "lines": []}
    run.warm(torch="B" in run.args.runs or {"golden", "hugging-face"} & set(run.args.parts))
    run.gpu("device", "device", 60)
    if run.part("device")["state"] != "done":
        for part in run.args.parts:
            run.skip(part, "the device cannot be used")
        return
    for part in run.args.parts:
        named = run.record["parts"].pop(part)
        try:
            globals()[part.replace("-", "_")](run)
        except Cut:
            run.record["parts"].setdefault(part, named)
            raise
        except Exception as error:  # the other parts have their own to say
            run.record["parts"][part] = {**named, "state": "failed", "problem": f"{type(error).__name__}: {error}"}


def main():
    args = arguments()
    run = Run(args)
    run.deadline = START + args.time
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, end)
    try:
        if not args.table:
            try_all(run)
    except Cut:
        run.say("ended from outside")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if run.warming:
        kill(run.warming)
    states = report.judge(run.record)
    if not args.table:
        run.record["last"] = {"parts": args.parts, "seconds": round(time.monotonic() - START), "of": args.time}
        run.write()
    print("\n".join(run.record["table"]), flush=True)
    print(f"all of it is in {os.path.abspath(args.out)}")
    shutil.rmtree(run.folder, ignore_errors=True)
    return 1 if "FAIL" in states else 2 if "cut" in states else 0


if __name__ == "__main__":
    sys.exit(main())
