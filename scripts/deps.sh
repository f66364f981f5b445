#!/usr/bin/env bash
# Check for the programs that a stage needs and install the missing ones: apt on Debian and Ubuntu, brew on macOS.
# Elsewhere, or without the right to install, say in one line what is missing.
#
#     scripts/deps.sh [build] [test] [page]
#
# Only tests of the status page need the last one, and they are skipped without it.
set -euo pipefail

# stage | program | apt package | brew formula; "-" where there is no package
NEEDS='
build | cc       | build-essential   | -
build | cargo    | -                 | -
build | protoc   | protobuf-compiler | protobuf
build | protoc   | libprotobuf-dev   | -
test  | c++      | build-essential   | -
test  | etcd     | etcd-server       | etcd
page  | chromium | chromium          | -
'

install() { # packages...
    local as_root=()
    if command -v apt-get >/dev/null; then
        if [ "$(id -u)" -ne 0 ]; then
            command -v sudo >/dev/null || return 1
            as_root=(sudo)
        fi
        echo "installing with apt-get: $*" >&2
        "${as_root[@]}" apt-get update -qq >&2 || true # an old list may still do
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
    elif command -v brew >/dev/null; then
        echo "installing with brew: $*" >&2
        brew install --quiet "$@" >&2
    else
        return 1
    fi
}

how_to_get() { # program, apt package, brew formula
    case $1 in
        cargo) echo "Rust, from https://rustup.rs" ;;
        cc | c++) echo "a C and C++ compiler (apt: build-essential, macOS: xcode-select --install)" ;;
        *) echo "$1 (apt: $2, brew: $3)" ;;
    esac
}

stages=" ${*:-build} "
missing=()
packages=()
while IFS='|' read -r stage program apt brew; do
    read -r stage <<<"$stage" && read -r program <<<"$program" && read -r apt <<<"$apt" && read -r brew <<<"$brew"
    [[ -n $stage && $stages == *" $stage "* ]] || continue
    command -v "$program" >/dev/null && continue
    if command -v apt-get >/dev/null; then package=$apt; else package=$brew; fi
    missing+=("$program|$apt|$brew")
    [ "$package" = - ] || packages+=("$package")
done < <(sed '/^ *$/d' <<<"$NEEDS")

[ ${#missing[@]} -gt 0 ] || exit 0
if [ ${#packages[@]} -gt 0 ]; then
    install "${packages[@]}" || true # what counts is whether the programs are there afterwards
    hash -r
fi
status=0
for entry in "${missing[@]}"; do
    IFS='|' read -r program apt brew <<<"$entry"
    if ! command -v "$program" >/dev/null; then
        echo "missing: $(how_to_get "$program" "$apt" "$brew")" >&2
        status=1
    fi
done
exit $status
