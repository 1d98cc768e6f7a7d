#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Every public call that takes a pointer is called with NULL in test_null.c.

usage: test_null_calls.py REPOSITORY
"""
import pathlib
import re
import sys

DECLARATION = re.compile(r"MOECL_API\b[^;{]*?\b(moecl_\w+)\s*\(([^;]*)\);")
# OpenCL's handles are pointers too; those of arrays say so.
POINTER = re.compile(r"\*|\[|\bcl_(?:context|device_id|command_queue|mem|event)\b|\bmoecl_log_fn\b")


def main():
    root = pathlib.Path(sys.argv[1])
    test = (root / "test/api/test_null.c").read_text()
    calls, missing = 0, []
    for header in sorted((root / "include/moecl").glob("*.h")):
        text = re.sub(r"/\*.*?\*/", " ", header.read_text(), flags=re.S)
        for name, arguments in DECLARATION.findall(text):
            if not POINTER.search(arguments):
                continue
            calls += 1
            if not re.search(rf"\b{name}\([^;]*NULL", test):
                missing.append(f"{header.relative_to(root)}: {name}")
        if "MOECL_API" in text and not DECLARATION.search(text) and header.name != "status.h":
            missing.append(f"{header.relative_to(root)}: no declaration was understood")
    for name in missing:
        print(f"{name} is not called with NULL in test/api/test_null.c")
    print(f"{calls} calls with pointers, {len(missing)} missing")
    return 1 if missing or calls < 80 else 0


if __name__ == "__main__":
    sys.exit(main())
