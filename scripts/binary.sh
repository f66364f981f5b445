#!/usr/bin/env bash
# Build a binary for release and print its path: cargo knows the target folder, whoever has set it.
#
#     scripts/binary.sh --package assay [FLAGS OF CARGO BUILD]
set -euo pipefail

messages=$(cargo build --release --message-format json-render-diagnostics "$@")
sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' <<<"$messages" | tail -n 1
