# SPDX-License-Identifier: MIT
"""The sources are as clang-format 14 would write them, and say their licence first.

usage: test_format.py REPOSITORY

Mended by: clang-format -i FILES. Other versions of clang-format break lines
elsewhere; without version 14 that half is a skip.
"""

import pathlib
import re
import shutil
import subprocess
import sys

FOLDERS = ("include", "lib", "cl", "bench", "test", "scripts", "examples")
FORMATTED = {".c", ".h", ".cl", ".clh"}
LICENSED = FORMATTED | {".def", ".py", ".sh"}
LICENCE = "SPDX-License-Identifier: MIT"


def sources(root, suffixes):
    found = (path for folder in FOLDERS for path in (root / folder).rglob("*"))
    return sorted(path for path in found if path.suffix in suffixes and path.is_file())


def formatter():
    """The path of clang-format 14, or None."""
    for name in ("clang-format-14", "clang-format"):
        path = shutil.which(name)
        if path:
            told = subprocess.run([path, "--version"], capture_output=True, text=True).stdout
            if re.search(r"version 14\.", told):
                return path
    return None


def unlicensed(root):
    for path in sources(root, LICENSED):
        with open(path, encoding="utf-8") as file:
            if not any(LICENCE in line for line in (file.readline(), file.readline())):
                yield path


def unformatted(root, program):
    files = [str(path) for path in sources(root, FORMATTED)]
    told = subprocess.run([program, "--dry-run", "--style=file", *files], capture_output=True,
                          text=True)
    if told.returncode:
        yield f"clang-format failed: {told.stderr[:400]}"
    seen = set()
    for line in told.stderr.splitlines():
        match = re.match(r"(.+?):(\d+):\d+: (?:warning|error): code should be clang-formatted", line)
        if match and match[1] not in seen:
            seen.add(match[1])
            yield f"{match[1]}:{match[2]}: not as clang-format 14 writes it"


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parents[2])
    assert len(sources(root, FORMATTED)) > 100, "the sources are not where they should be"
    wrong = [f"{path}: '{LICENCE}' is in none of its first two lines" for path in unlicensed(root)]
    program = formatter()
    if program:
        wrong += unformatted(root, program)
    print("\n".join(wrong) or "all sources are as they should be")
    if wrong:
        sys.exit(1)
    if not program:
        print("clang-format 14 is not here: formatting was not looked at")
        sys.exit(77)


if __name__ == "__main__":
    main()
