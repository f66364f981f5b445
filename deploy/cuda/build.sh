#!/usr/bin/env bash
# Build the command with the kernels, and check what came out: its size, and that nothing of CUDA is linked.
set -euo pipefail

LIMIT_MIB=60

nvcc=$(deploy/cuda/tree.sh target/cuda)
echo "nvcc: $nvcc"
binary=$(NVCC=$nvcc scripts/binary.sh --release --package assay --features cuda)

if readelf --dynamic "$binary" | grep -E 'NEEDED.*lib(cu|nccl|nv)'; then
    echo "$binary links libraries of CUDA: it would not start without them" >&2
    exit 1
fi
stripped=$(mktemp)
trap 'rm -f "$stripped"' EXIT
strip -o "$stripped" "$binary"
bytes=$(wc -c <"$stripped")
echo "$binary: $((bytes / 1048576)) MiB stripped, of at most $LIMIT_MIB"
[ "$bytes" -lt $((LIMIT_MIB * 1048576)) ]
