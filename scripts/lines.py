#!/usr/bin/env python3
"""Count the lines of code, without blanks and comments, by crate: production apart from trials and tests.

    scripts/lines.py [REVISION]      of the working tree, and beside it of that revision of git and the difference

Production is every .rs, .proto, and .h, .cu and .cpp of a kernel, but for what is here for tests:
- the crate `tests`; folders called tests, benches or tests-data; files called tests.rs
- modules declared under #[cfg(test)], #[cfg(any(test, ...))], or a feature for tests (`test-...`, `host-kernels`)
- folders called trial, which try and measure a GPU and are in nothing that ships: they have a column of their own
- the kernels' side for the CPU (host.cpp, machine_host.h), which is what `host-kernels` compiles
"""

import io
import pathlib
import re
import subprocess
import sys
import tarfile
from collections import Counter

LANGUAGES = {".rs": "Rust", ".proto": "proto", ".h": "C++", ".cu": "C++", ".cpp": "C++"}
COLUMNS = ["Rust", "C++", "proto", "trial", "tests"]
# what is kept comes first: a string may hold what looks like a comment
TOKEN = re.compile(
    r"""(?P<kept>r(?P<hashes>\#*)".*?"(?P=hashes) | "(?:\\.|[^"\\])*" | '(?:\\[^'\n]+|[^\\'\n])')
      | //[^\n]* | /\*.*?\*/""",
    re.VERBOSE | re.DOTALL,
)
TEST_MODULE = re.compile(
    r"""^\#\[cfg\((?:test|any\(test,.*?\)|feature\ =\ "(?:test-[^"]*|host-kernels)")\)\]\n
        (?:\#\[cfg[^\n]*\n)* (?:pub(?:\(\w+\))?\ )? mod\ (?P<name>\w+);""",
    re.VERBOSE | re.MULTILINE,
)


def code_lines(text: str) -> int:
    """Lines that hold more than blanks and comments."""
    bare = TOKEN.sub(lambda token: token["kept"] or "\n" * token[0].count("\n"), text)
    return sum(1 for line in bare.splitlines() if line.strip())


def test_modules(path: pathlib.PurePath, text: str) -> list[pathlib.PurePath]:
    """The folders or, without their suffix, files of modules that this file declares for tests only."""
    home = path.parent if path.stem in ("lib", "main", "mod") else path.with_suffix("")
    return [home / module["name"] for module in TEST_MODULE.finditer(text)]


def count(sources: dict[pathlib.PurePath, str]) -> Counter:
    """Lines of code by (crate, column)."""
    for_tests = {module for path, text in sources.items() for module in test_modules(path, text)}

    def column(path: pathlib.PurePath) -> str:
        if (
            not {"tests", "benches", "tests-data"}.isdisjoint(path.parts)
            or path.name in ("tests.rs", "host.cpp", "machine_host.h")
            or not for_tests.isdisjoint([path.with_suffix(""), *path.parents])
        ):
            return "tests"
        return "trial" if "trial" in path.parts else LANGUAGES[path.suffix]

    lines = Counter()
    for path, text in sources.items():
        crate = "/".join(path.parts[:2]) if path.parts[0] in ("crates", "services") else path.parts[0]
        lines[crate, column(path)] += code_lines(text)
    return lines


def is_source(path: pathlib.PurePath) -> bool:
    return path.suffix in LANGUAGES


def working_tree() -> dict[pathlib.PurePath, str]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], check=True, capture_output=True
    )
    paths = {pathlib.Path(name) for name in listed.stdout.decode().split("\0") if name}
    return {path: path.read_text() for path in paths if is_source(path) and path.exists()}


def revision(name: str) -> dict[pathlib.PurePath, str]:
    archive = subprocess.run(["git", "archive", name], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {
            pathlib.PurePath(member.name): tar.extractfile(member).read().decode()
            for member in tar
            if member.isfile() and is_source(pathlib.PurePath(member.name))
        }


def show(after: Counter, before: Counter | None) -> None:
    def cell(crates: list[str], column: str) -> str:
        now = sum(after[crate, column] for crate in crates)
        if before is None:
            return f"{now:,}"
        then = sum(before[crate, column] for crate in crates)
        return f"{then:,} → {now:,} {now - then:+,}" if now != then else f"{now:,}"

    crates = sorted({crate for crate, _ in after | (before or Counter())})
    rows = [["", *COLUMNS]] + [[crate, *(cell([crate], column) for column in COLUMNS)] for crate in crates]
    rows.append(["total", *(cell(crates, column) for column in COLUMNS)])
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        print(f"{row[0]:<{widths[0]}}", *(f"{text:>{width}}" for text, width in zip(row[1:], widths[1:])), sep="  ")


def main() -> None:
    since = sys.argv[1] if len(sys.argv) > 1 else None
    try:
        show(count(working_tree()), count(revision(since)) if since else None)
    except subprocess.CalledProcessError as error:
        sys.exit(f"{' '.join(error.cmd)}: {error.stderr.decode().strip()}")


main()
