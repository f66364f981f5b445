#!/usr/bin/env bash
# Measure what a cluster loses against `assay score`, on loopback, with the release binary.
#
#     scripts/bench-cluster.sh BINARY MODEL
set -euo pipefail

binary=$1 model=$2
folder=$(mktemp -d)
started=()
trap 'kill "${started[@]}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$folder"' EXIT

port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
until_ready() { # endpoint
    for _ in $(seq 1 300); do
        "$binary" status --endpoint "$1" >/dev/null 2>&1 && return
        sleep 0.1
    done
    echo "$1 does not become ready" >&2
    exit 1
}
seconds() { # command...
    local start=$EPOCHREALTIME
    "$@" >/dev/null 2>&1
    python3 -c "print($EPOCHREALTIME - $start)"
}

up_port=$(port)
echo "load of the machine: $(cut -d' ' -f1-3 /proc/loadavg)"
python3 - >"$folder/input.jsonl" <<'END'
import json, random
random.seed(1)
for _ in range(1000):
    print(json.dumps({"input_ids": [random.randrange(10, 700) for _ in range(300)]}))
END
"$binary" up --model "$model" --listen "127.0.0.1:$up_port" --http none 2>"$folder/up.log" &
started+=($!)
until_ready "127.0.0.1:$up_port"
best_local=1e9 best_remote=1e9
for _ in 1 2 3; do
    local_run=$(seconds "$binary" score --model "$model" --input "$folder/input.jsonl" --output "$folder/local.jsonl")
    remote_run=$(seconds "$binary" score --endpoint "127.0.0.1:$up_port" --input "$folder/input.jsonl" --output "$folder/remote.jsonl")
    best_local=$(python3 -c "print(min($best_local, $local_run))")
    best_remote=$(python3 -c "print(min($best_remote, $remote_run))")
done
cmp "$folder/local.jsonl" "$folder/remote.jsonl"
python3 -c "print('%-58s %7.3f, promised 0.92 (best of 3: %.2f s and %.2f s, outputs are equal)' % (
    'throughput through a cluster / assay score', $best_local / $best_remote, $best_local, $best_remote))"
