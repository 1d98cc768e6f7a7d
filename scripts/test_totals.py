#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Adds up Meson test logs (testlog.json) and prints the totals.

usage: test_totals.py LOG... ("failed:WHAT" stands for a part that could not run,
"skipped:WHAT" for one that needs something that is not here)

Failed and skipped tests are named, and the last lines of what a failed one printed stand
below its name; the last line is "N passed, N failed, N skipped". Exit code 1 if any failed
or none ran.
"""

import json
import pathlib
import sys

PASSED = {"OK", "EXPECTEDFAIL"}
SKIPPED = {"SKIP"}
LINES = 12  # of a failed test's output


def read_log(path):
    """Yields (name, result, output) for every test of one log: one JSON object a line."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.strip():
            test = json.loads(line)
            output = test.get("stdout", "") + test.get("stderr", "")
            yield test["name"], test["result"], output


def last_lines(output):
    lines = [line for line in output.splitlines() if line.strip()]
    return "".join(f"\n    | {line[:200]}" for line in lines[-LINES:])


def main(arguments):
    passed, failed, skipped = 0, [], []
    for argument in arguments:
        if argument.startswith("failed:"):
            failed.append(f"{argument[7:]}: did not work")
            continue
        if argument.startswith("skipped:"):
            skipped.append(argument[8:])
            continue
        path = pathlib.Path(argument)
        # build-check/meson-logs/testlog.json, or testlog-DRIVER-env.json
        folder = path.parent.parent.name + path.stem.removeprefix("testlog").removesuffix("-env")
        tests = list(read_log(path))
        if not tests:
            failed.append(f"{folder}: no test ran")
        for name, result, output in tests:
            if result in PASSED:
                passed += 1
            elif result in SKIPPED:
                skipped.append(f"{folder}: {name}")
            else:
                failed.append(f"{folder}: {name} ({result.lower()})" + last_lines(output))
    for line in skipped:
        print(f"SKIPPED  {line}")
    for line in failed:
        print(f"FAILED   {line}")
    print(f"{passed} passed, {len(failed)} failed, {len(skipped)} skipped", flush=True)
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
