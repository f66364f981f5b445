#!/usr/bin/env bash
# All checks, cheapest first; ends with the tests, so that their summary is the last thing on the screen.
set -euo pipefail

stage=scripts/stage.sh

$stage format cargo fmt --all --check
if cargo deny --version >/dev/null 2>&1; then
    $stage "bans, licenses and sources" cargo deny --log-level error check bans licenses sources
else
    echo "==> cargo-deny is not installed: bans, licenses and sources go unchecked (cargo install cargo-deny --locked)"
fi
if nvcc=$(deploy/cuda/tree.sh target/cuda); then
    export NVCC=$nvcc
    $stage "clippy, and the CUDA kernels" make --no-print-directory check-cuda
else
    echo "==> THE CUDA KERNELS ARE NOT COMPILED HERE: there is no nvcc (see above), a stand-in does for the rest" >&2
    export NVCC=$PWD/deploy/cuda/nvcc-standin
    $stage clippy make --no-print-directory check-cuda
fi
# what only CUDA uses must not be dead code where there is none
$stage "clippy without CUDA" cargo clippy --workspace --all-targets -- -D warnings
# with the code for GPUs, which runs on fakes of NVIDIA's libraries: tests/gpu/fake
$stage build cargo test --workspace --features tests/cuda --lib --bins --tests --no-run
$stage "examples in the documentation" cargo test --workspace --features tests/cuda --doc
$stage tests cargo test --no-fail-fast --workspace --features tests/cuda --lib --bins --tests
