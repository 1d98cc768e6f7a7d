#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Event times that are none become null in results and a word in the report.
# Exit code 77 (skipped) without a device. usage: test_times.sh MOECTL SHIM.so
set -euo pipefail
moectl=$(realpath -- "$1") shim=$(realpath -- "$2")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$moectl" devices >/dev/null 2>&1 || { echo "SKIP: no OpenCL device"; exit 77; }

cat >"$work/e.yaml" <<'YAML'
name: times
layer: {hidden_size: 32, intermediate_size: 24, num_experts: 8, top_k: 2}
workload: {num_tokens: 16}
measure: {warmup: 1, iterations: 10}
YAML
for every in 0 1 7; do
  # Verification has no need of times, so the run ends well.
  begun=$(date +%s%3N)
  MOECL_TEST_SWAP=$every LD_PRELOAD=$shim "$moectl" run "$work/e.yaml" --quiet \
    --out "$work/$every" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
  python3 - "$work/$every" "$every" "$(($(date +%s%3N) - begun))" <<'PYTHON'
import json, re, sys
with open(sys.argv[1] + "/results.json") as file:
    point = json.load(file)["points"][0]
report = open(sys.argv[1] + "/report.md").read()
def times(node):
    if isinstance(node, dict):
        for value in node.values():
            yield from times(value)
    elif isinstance(node, (int, float)):
        yield node
found = list(times(point["time_ms"]))
for time in found:
    assert 0 < time <= float(sys.argv[3]), f"a forward of {time} ms, in a run of {sys.argv[3]}"
assert point["time_ms"]["layer"] is None, point["time_ms"]["layer"]
assert point["tokens_per_s"] is None, point["tokens_per_s"]
assert "not credible" in report, report
assert not re.search(r"\d{9,} ms|e\+1\d", report)
print(f"ok      ends of {sys.argv[2]}: {len(found)} times are left")
PYTHON
done
