#!/usr/bin/env bash
# Start a gateway and two tensor-parallel shards in one process, score the model card's conversations through gRPC.
#
#     scripts/demo.sh BINARY MODEL INPUT
set -euo pipefail

binary=$1 model=$2 input=$3
log=$(mktemp)
"$binary" up --model "$model" --tensor-parallel 2 --listen 127.0.0.1:0 --http none --log info 2>"$log" &
server=$!
trap 'kill "$server" 2>/dev/null; wait "$server" 2>/dev/null || true; rm -f "$log"' EXIT

endpoint=
for _ in $(seq 1 600); do
    # the port is any free one: the log says which
    endpoint=$(sed -n 's/.*the gateway serves.*address="\?\([0-9.:]*\)"\?.*/\1/p' "$log" | head -1)
    [ -z "$endpoint" ] || break
    kill -0 "$server" 2>/dev/null || { cat "$log" >&2; exit 1; }
    sleep 0.1
done
[ -n "$endpoint" ] || { echo "the gateway did not start:" >&2; cat "$log" >&2; exit 1; }

echo "a gateway and two ranks serve at $endpoint"
"$binary" status --endpoint "http://$endpoint"
echo
"$binary" score --endpoint "http://$endpoint" --input "$input"
