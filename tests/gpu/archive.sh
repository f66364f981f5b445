#!/usr/bin/env bash
# Make target/gpu-trial.tar.xz: what tests/gpu/run.py needs on a machine that has a GPU and no Rust.
#
#     tests/gpu/archive.sh            on that machine: python3 -m tarfile -e gpu-trial.tar.xz . && gpu-trial/run.py A
set -euo pipefail

LIMIT_MIB=60
cd "$(dirname "$0")/../.."
archive=target/gpu-trial.tar.xz

nvcc=$(deploy/cuda/tree.sh target/cuda)
echo "nvcc: $nvcc"
binary=$(NVCC=$nvcc scripts/binary.sh --release --package tests --bin gpu --features cuda)

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir -p "$folder/gpu-trial/golden"
strip -o "$folder/gpu-trial/gpu" "$binary"
cp tests/gpu/*.py "$folder/gpu-trial/"
for checkpoint in tests/golden/*/; do
    cp -r "$checkpoint" "$folder/gpu-trial/golden/"
done
{
    git rev-parse --short=12 HEAD
    git diff --quiet HEAD || echo "with changes"
} | paste -sd ' ' >"$folder/gpu-trial/COMMIT"
# the same content makes the same archive; Python has what many machines lack, a program that writes xz
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -C "$folder" -c gpu-trial |
    python3 -c 'import lzma, shutil, sys; shutil.copyfileobj(sys.stdin.buffer, lzma.open(sys.argv[1], "wb"))' "$archive"

bytes=$(wc -c <"$archive")
echo "$archive: $((bytes / 1024)) KiB, of at most $LIMIT_MIB MiB"
[ "$bytes" -lt $((LIMIT_MIB * 1048576)) ]
