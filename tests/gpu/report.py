"""What a trial has found: kept in one file of JSON, judged, and written as one table.

A record has `parts`, each with its state: done, failed (by itself), stopped (beyond its own limit), cut (when the run
was over), skipped. Judging needs nothing but the record, so it is the same for a whole run, two runs and half a run.
"""
import csv
import json
import os
import time

import work

HASHED = "model.layers.0.mlp.up_proj.weight"
F32_ERROR = 5e-5
BF16_ERROR = 1.5  # times Hugging Face's
RATE = 0.75  # of the matmuls'
NCU_METRICS = {  # of ncu's many: what each is called in the table
    "gpu__time_duration.sum": "time",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": "% of memory's rate",
    "sm__throughput.avg.pct_of_peak_sustained_elapsed": "% of the SMs' rate",
    "sm__warps_active.avg.pct_of_peak_sustained_active": "% of warps",
    "launch__registers_per_thread": "registers",
    "l1tex__data_bank_conflicts_pipe_lsu.sum": "bank conflicts",
}


# === the file ===

def read(path, commit, small):
    """The record of earlier runs of the same program, or an empty one."""
    try:
        with open(path) as file:
            record = json.load(file)
        if record["commit"] == commit and record["small"] == small:
            return record
    except (OSError, ValueError, KeyError):
        pass
    return {"commit": commit, "small": small, "parts": {}}


def write(path, record):
    """Whole, or not at all: the process may be ended at any time."""
    whole = f"{path}.new"
    with open(whole, "w") as file:
        json.dump(record, file, indent=1)
    os.replace(whole, path)


# === promises ===

class Judge:
    """Promises, as far as parts have been tried."""

    def __init__(self, record):
        self.record, self.promises = record, []

    def part(self, name):
        return self.record["parts"].get(name, {"state": None, "problem": None, "lines": []})

    def lines(self, name):
        return self.part(name)["lines"]

    def promise(self, part, name, holds, found):
        """`holds`: True, False, or None if nothing was found about it. A part that was cut keeps no promise, but what it
        has found may break one."""
        part = self.part(part)
        if part["state"] is None:
            return
        state = "pass" if holds else "FAIL"
        if part["state"] == "skipped":
            state, found = "skipped", part["problem"]
        elif part["state"] in ("failed", "stopped") or (part["state"] == "cut" and holds is not False):
            state = "cut" if part["state"] == "cut" else "FAIL"
            found = f"{part['problem']}; until then: {found or 'nothing'}"
        self.promises.append({"promise": name, "state": state, "found": found or "it says nothing"})

    def speed(self, part, name, holds, found):
        """Nothing that was measured at tiny sizes or on a CPU says anything about speed."""
        self.promise(part, name, holds, found)
        if self.record["small"] and self.promises and self.promises[-1]["promise"] == name and holds is not None:
            self.promises[-1]["state"] = "skipped"


def judge(record):
    """Judges a record and writes its table into it. Returns the states of promises and parts."""
    judge = Judge(record)
    judge.promise("device", "the device can be used", True, "")
    for about in (kernels, racecheck, golden, bits, hashes, rate, comparison, groups, scores, loads, tp2):
        about(judge)
    record["promises"] = [p for p in judge.promises if p["promise"] != "the device can be used" or p["state"] != "pass"]
    record["table"] = table(record)
    return {p["state"] for p in record["promises"]} | {part["state"] for part in record["parts"].values()}


def kernels(judge):
    lines = judge.lines("kernels")
    wrong = [f"{line['check']}: {line['worst']:.1e} of {line['largest']:.1e}" for line in lines if not line.get("holds")]
    found = "; ".join(wrong) or f"{len(lines)} checks"
    judge.promise("kernels", "kernels agree with float64 (2e-2 in 16 bits, 1e-5 in f32)", not wrong if lines else None, found)


def racecheck(judge):
    said = [line["text"] for line in judge.lines("racecheck") if "RACECHECK SUMMARY" in line.get("text", "")]
    clean = all(" 0 hazards" in text for text in said) if said else None
    judge.promise("racecheck", "compute-sanitizer finds no race", clean, "; ".join(said))


def worst_f32(lines):
    return {line["checkpoint"]: line["worst"] for line in lines if line.get("dtype") == "f32"}


def golden(judge):
    lines = judge.lines("golden")
    worst = worst_f32(lines)
    found = "; ".join(f"{checkpoint} {value:.1e}" for checkpoint, value in worst.items())
    judge.promise("golden", f"golden scores in f32 within {F32_ERROR} of Hugging Face's in float64",
                  max(worst.values()) <= F32_ERROR if worst else None, found)
    theirs = {line["checkpoint"]: line["rms"] for line in judge.lines("golden-hugging-face") if "rms" in line}
    told, good = [], len(worst) == sum(line.get("dtype") == "bf16" for line in lines)
    for line in (line for line in lines if line.get("dtype") == "bf16"):
        name = line["checkpoint"]
        rms, where = (theirs[name], "here") if name in theirs else (line["rms_bf16_cpu"], "as committed")
        good &= line["rms"] <= BF16_ERROR * rms
        told.append(f"{name} {line['rms']:.4f} of {rms:.4f} {where}")
    judge.promise("golden", f"golden scores in bf16: RMS error at most {BF16_ERROR} times Hugging Face's", good if told else None,
                  "; ".join(told))


def bits(judge):
    for key, name in (("rows_of", "every matmul's rows have the same bits for every number of rows"),
                      ("company_of", "every score has the same bits alone, packed, with shared prefixes, in every budget")):
        some = [line for line in judge.lines("bits") if key in line]
        wrong = [f"{line[key]}: {len(line['differing'])} of {line['tried']}" for line in some if line["differing"]]
        found = "; ".join(wrong) or f"{sum(line['tried'] for line in some)} comparisons of {len(some)}"
        judge.promise("bits", name, not wrong if some else None, found)


def hashes(judge):
    numbers = next((line["numbers"] for line in judge.lines("hash") if "numbers" in line), [])
    same = all(x == work.weight(HASHED, i) for i, x in enumerate(numbers)) if numbers else None
    judge.promise("hash", "random weights are the same on both sides", same, f"{len(numbers)} numbers")


def rate(judge):
    ours = Ours(judge.record)
    name = f"at least {RATE:.0%} of the matmul rate at full steps of 512-token conversations"
    flops, bare = ours.main("uniform", "matmul_flops"), ours.rates.get(ours.budget, {}).get("rate")
    if not flops or not bare:
        return judge.speed("speed-main", name, None, ours.why())
    torch = Theirs(judge.record).matmul_rate
    share = flops / max(bare, torch or 0)
    found = f"{share:.1%}: {flops / 1e12:.0f} TFLOP/s of the own matmuls' {bare / 1e12:.0f}"
    judge.speed("speed-main", name, share >= RATE, found + (f", torch's {torch / 1e12:.0f}" if torch else ""))


def comparison(judge):
    ours, theirs = Ours(judge.record), Theirs(judge.record)
    for name, factor, text in (("uniform", 1.08, "uniform 512-token conversations"),
                               ("unsorted", 1.5, "unsorted lengths 64 to 2048 in its batches of 16")):
        promise = f"at least {factor} times Hugging Face on {text}"
        own, best = ours.main(name), theirs.best(name)
        if not own or not best:
            judge.speed("hugging-face", promise, None, "; ".join([ours.why(), *theirs.errors]))
            continue
        times = own / best["input_tokens_per_s"]
        found = f"{times:.2f} times: {own:.0f} and {best['input_tokens_per_s']:.0f} tokens/s in batches of {best['batch']}"
        judge.speed("hugging-face", promise, times >= factor, found)


def groups(judge):
    ours = Ours(judge.record)
    found = [(name, ours.main(name)) for budget, name in ours.found if budget == ours.budget and name.startswith("groups of")]
    name = "groups with equal prompt and response: at least 1.6 times independent ones"
    if not found or not found[0][1]:
        return judge.speed("speed", name, None, ours.why())
    group, grouped = found[0]
    size, lengths = group.removeprefix("groups of ").split(", ")
    alone = ours.main(f"independent {lengths}, for groups of {size}")
    if not alone:
        return judge.speed("speed", name, None, ours.why())
    judge.speed("speed", name, grouped >= 1.6 * alone, f"{grouped / alone:.2f} times: {grouped:.0f} and {alone:.0f} input tokens/s")


def scores(judge):
    ours, theirs = Ours(judge.record), Theirs(judge.record)
    told = []
    for which in ("uniform", "unsorted"):
        own, best = ours.main(which, "scores"), theirs.best(which)
        if own and best:
            r, apart = compare(own[:len(best["scores"])], best["scores"])
            told.append(f"{which}: r = {r:.4f}, RMS difference {apart:.1%} of the spread")
    # between two models of random weights in bf16 nobody has promised anything: it is told
    judge.promise("hugging-face", "scores of random weights beside Hugging Face's, both in bf16", True if told else None,
                  "; ".join(told) or "; ".join(theirs.errors))


def compare(a, b):
    """The correlation, and the RMS difference over the standard deviation of `b`."""
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    da, db = [x - mean_a for x in a], [y - mean_b for y in b]
    spread_a, spread_b = (sum(x * x for x in d) ** 0.5 or 1.0 for d in (da, db))
    apart = sum((x - y) ** 2 for x, y in zip(a, b)) ** 0.5
    return sum(x * y for x, y in zip(da, db)) / spread_a / spread_b, apart / spread_b


def loads(judge):
    for part, where in (("load-from-disk", "from the disk"), ("load-from-cache", "from the cache")):
        line = next((line for line in judge.lines(part) if "gb_per_s" in line), None)
        found = f"{line['gb_per_s']:.2f} GB/s, {line['bytes'] / 1e9:.1f} GB" if line else ""
        judge.promise(part, f"a sharded checkpoint loads {where}", True if line else None, found)


def tp2(judge):
    one = next((line["one_rank"] for line in judge.lines("nccl") if "one_rank" in line), [])
    judge.promise("nccl", "a communicator of one rank", True if one else None, ", ".join(one))
    worst = worst_f32(judge.lines("tp2"))
    found = "; ".join(f"{checkpoint} {value:.1e}" for checkpoint, value in worst.items())
    judge.promise("tp2", f"two ranks: f32 golden scores within {F32_ERROR}, the same rows",
                  max(worst.values()) <= F32_ERROR if worst else None, found)


class Ours:
    """Findings of the binary's `speed`, by budget and name: of both runs, the main budget's by the first."""

    def __init__(self, record):
        main, rest = (record["parts"].get(part, {}).get("lines", []) for part in ("speed-main", "speed"))
        lines = rest + main
        self.found = {(line["step_tokens"], line["name"]): line["found"] for line in lines if "found" in line}
        self.rates = {line["step_tokens"]: line["matmul_rate"] for line in lines if "matmul_rate" in line}
        self.errors = [f"{line['step_tokens']}: {line['error']}" for line in lines if "error" in line]
        self.errors += [f"{key}: {found['error']}" for key, found in self.found.items() if "error" in found]
        self.budget = next((line["step_tokens"] for line in main + rest if "step_tokens" in line), None)

    def main(self, name, field="input_tokens_per_s"):
        return self.found.get((self.budget, name), {}).get(field)

    def why(self):
        return "; ".join(self.errors[:2]) or "it was not measured"


class Theirs:
    """Findings of hugging_face.py's `speed`."""

    def __init__(self, record):
        lines = record["parts"].get("hugging-face", {}).get("lines", [])
        self.measures = [line for line in lines if "input_tokens_per_s" in line]
        self.errors = [f"{line['name']} in batches of {line['batch']}: {line['error']}" for line in lines if "error" in line]
        self.matmul_rate = max((line["torch_matmul_rate"] for line in lines if "torch_matmul_rate" in line), default=None)

    def best(self, name):
        return max((m for m in self.measures if m["name"] == name), key=lambda m: m["input_tokens_per_s"], default=None)


# === the table ===

def table(record):
    """Lines for a terminal."""
    parts = record["parts"]
    device = next(iter(parts.get("device", {}).get("lines", [])), {})
    out = ["", f"assay on {device.get('name', '?')}, {time.strftime('%Y-%m-%d')}, commit {record['commit']}"]
    out += [f"library: {library}" for library in device.get("libraries", [])] + [""]
    ours, theirs = Ours(record), Theirs(record)
    if ours.found:
        out += speed_table(ours, theirs) + share_table(ours) + kernel_table(ours) + other_table(ours, theirs)
    out += algorithm_table(parts.get("algorithms", {}).get("lines", []))
    out += ncu_table(parts.get("ncu", {}).get("lines", []))
    out += [f"{'state':8}promise", "-" * 100]
    out += [f"{p['state']:8}{p['promise']}\n{'':8}{p['found']}" for p in record["promises"]]
    out += ["", f"{'state':8}{'part':20}{'seconds':>8}"]
    out += [f"{part['state']:8}{name:20}{part['seconds']:8.1f}  {part['problem'] or ''}".rstrip() for name, part in parts.items()]
    states = [promise["state"] for promise in record["promises"]]
    out += ["", ", ".join(f"{states.count(state)} {state}" for state in ("pass", "FAIL", "skipped", "cut"))]
    return "\n".join(out).splitlines()


def by_budget(ours):
    return sorted(ours.found.items(), key=lambda item: item[0][0])


def speed_table(ours, theirs):
    out = [f"{'steps of':>9} {'work':45} {'input tok/s':>12} {'computed':>10} {'TFLOP/s':>8} {'of bare':>8}"]
    for (budget, name), found in by_budget(ours):
        if "input_tokens_per_s" not in found:
            continue
        rate = ours.rates.get(budget, {}).get("rate")
        share = f"{found['matmul_flops'] / rate:8.1%}" if rate else f"{'-':>8}"
        out.append(f"{budget:9} {name:45} {found['input_tokens_per_s']:12.0f} {found['computed_tokens_per_s']:10.0f} "
                   f"{found['matmul_flops'] / 1e12:8.1f} {share}")
    for m in theirs.measures:
        out.append(f"{'HF':>9} {m['name'] + ', batches of ' + str(m['batch']):45} {m['input_tokens_per_s']:12.0f}")
    out += ["", "bare matmuls one behind another, TFLOP/s"]
    for budget, rate in sorted(ours.rates.items()):
        each = ", ".join(f"[{output}, {depth}] {shape / 1e12:.0f}" for output, depth, shape in rate["shapes"])
        out.append(f"{budget:9} rows {rate['rate'] / 1e12:.0f}: {each}")
    return out + ([f"torch's own {theirs.matmul_rate / 1e12:.0f}"] if theirs.matmul_rate else []) + [""]


def share_table(ours):
    kinds = ["matmul", "attention", "pointwise", "copy", "idle"]
    out = [f"{'steps of':>9} {'work':45} {'watched ms':>10} " + " ".join(f"{kind:>10}" for kind in kinds)]
    for (budget, name), found in by_budget(ours):
        profile = found.get("profile")
        if not profile:
            continue
        taken = {share["name"]: share["seconds"] for share in profile["kinds"]} | {"idle": profile["idle"]}
        shares = " ".join(f"{taken[kind] / profile['seconds']:10.1%}" for kind in kinds)
        out.append(f"{budget:9} {name:45} {profile['seconds'] * 1e3:10.2f} {shares}")
    return out + [""]


def kernel_table(ours):
    profile = ours.main("uniform", "profile")
    if not profile:
        return []
    out = [f"{'kernel, in a full step of uniform conversations':50} {'times':>6} {'ms':>9} {'us each':>9} {'share':>7}"]
    for share in sorted(profile["kernels"], key=lambda share: -share["seconds"]):
        each = share["seconds"] / share["count"] * 1e6
        part = share["seconds"] / profile["seconds"]
        out.append(f"{share['name']:50} {share['count']:6} {share['seconds'] * 1e3:9.3f} {each:9.1f} {part:7.1%}")
    return out + [""]


def other_table(ours, theirs):
    out = []
    for (_, name), found in ours.found.items():
        if found.get("median"):
            out.append(f"{name} tokens: {found['median'] * 1e3:.2f} ms, p95 {found['p95'] * 1e3:.2f} ms")
    return out + [f"error: {error}" for error in ours.errors + theirs.errors] + [""]


def algorithm_table(lines):
    """For each shape: what is taken, for steps of how many rows, and what would be as right and faster for a full one."""
    shapes = {}
    for line in lines:
        if "algorithm" in line:
            algorithm = line["algorithm"]
            shapes.setdefault((line["dtype"], algorithm["output"], algorithm["input"]), []).append(algorithm)
    if not shapes:
        return []
    out = ["algorithms of cuBLASLt: suggested, good (alike for every number of rows), what is taken, and the fastest with its bits"]
    for (dtype, output, depth), tried in shapes.items():
        good = [algorithm for algorithm in tried if not algorithm["refused"]]
        taken = max((a for a in tried if a["taken_for"]), key=lambda a: a["taken_for"][-1], default=None)
        alike = [algorithm for algorithm in good if taken and algorithm["bits"] == taken["bits"]]
        fastest = min(alike, key=lambda algorithm: algorithm["milliseconds"], default=None)
        out.append(f"{dtype} [{output}, {depth}]: {len(tried)} suggested, {len(good)} good, {len({a['bits'] for a in good})} kinds of bits; "
                   f"{named(taken)}; {named(fastest)}")
        small = sorted(((most, a) for a in tried for most in a["taken_for"] if a is not taken), key=lambda one: one[0])
        out += [f"    up to {most} rows: {made_of(algorithm)}" for most, algorithm in small]
        refused = [f"{a['rows']} rows, place {a['place']}: {a['refused']}" for a in tried if a["refused"]]
        out += [f"    not {text}" for text in refused[:3]] + ([f"    and {len(refused) - 3} more"] if len(refused) > 3 else [])
    return out + [""]


def named(algorithm):
    if not algorithm:
        return "none"
    return f"{algorithm['milliseconds']:.3f} ms, for {algorithm['rows']} rows ({made_of(algorithm)})"


def made_of(algorithm):
    return " ".join(f"{name} {value}" for name, value in algorithm["made_of"] if value)


def ncu_table(lines):
    text = [line["text"] for line in lines if line.get("text", "").startswith('"')]
    rows = list(csv.DictReader(text))
    if len(rows) < 2:
        return []
    units, out = rows[0], ["profiles by ncu"]
    for row in rows[1:]:
        known = [f"{name} {row[metric]} {units[metric]}".strip() for metric, name in NCU_METRICS.items() if row.get(metric)]
        out.append(f"{row.get('Kernel Name', '?'):30} {'; '.join(known)}")
    return out + [""]
