#!/usr/bin/env bash
# Build a binary and print its path: cargo knows the target folder, whoever has set it.
#
#     scripts/binary.sh --release --package assay [FLAGS OF CARGO BUILD]
set -euo pipefail

messages=$(cargo build --message-format json-render-diagnostics "$@")
sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' <<<"$messages" | tail -n 1
