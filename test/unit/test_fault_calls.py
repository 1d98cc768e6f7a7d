#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Every function of OpenCL that the library calls, and every way in which it allocates,
goes through test_faults: test/meson.build wraps it.

usage: test_fault_calls.py REPOSITORY
"""
import pathlib
import re
import sys

CALL = re.compile(r"\b(cl[A-Z]\w+|[cm]alloc|realloc|free|strn?dup|aligned_alloc|posix_memalign"
                  r"|v?asprintf|getline|open_memstream)\s*\(")

OTHERS = re.compile(r'"(?:\\.|[^"\\\n])*"|//[^\n]*|/\*.*?\*/', re.S)


def code_of(text):
    """The same lines, without comments and what is in strings."""
    return OTHERS.sub(lambda match: re.sub(r"[^\n]", " ", match.group(0)), text)


def main():
    root = pathlib.Path(sys.argv[1])
    wrapped = re.search(r"foreach name : \[([^]]*'clBuildProgram'[^]]*)\]",
                        (root / "test/meson.build").read_text())
    names = set(re.findall(r"'(\w+)'", wrapped.group(1)))
    called = {}
    for path in sorted((root / "lib").rglob("*.[ch]")):
        text = code_of(path.read_text())
        for match in CALL.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            called.setdefault(match.group(1), f"{path.relative_to(root)}:{line}")
    missing = sorted(set(called) - names)
    for name in missing:
        print(f"{called[name]}: {name} is called and test_faults cannot make it fail: add it to "
              "test/meson.build and test/unit/faults.c")
    for name in sorted(names - set(called)):
        print(f"test/meson.build: test_faults wraps {name}, which nothing in lib/ calls")
    print(f"{len(called)} functions called, {len(missing)} not wrapped")
    return 1 if missing or names - set(called) or not called else 0


if __name__ == "__main__":
    sys.exit(main())
