#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# A point that fails in an OpenCL call names it and its code in results.json and
# report.md, wherever the call fails. Exit code 77 (skipped) without a device.
# usage: test_failing_call.sh MOECTL SHIM.so
set -euo pipefail
moectl=$(realpath -- "$1") shim=$(realpath -- "$2")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$moectl" devices >/dev/null 2>&1 || { echo "SKIP: no OpenCL device"; exit 77; }

cat >"$work/e.yaml" <<'YAML'
name: failing
layer: {hidden_size: 32, intermediate_size: 24, num_experts: 8, top_k: 2, grouped_gemm_variant: generic}
workload: {num_tokens: [16, 17]}
measure: {warmup: 1, iterations: 6, rounds: 2}
YAML

# expect CALL CODE STEP: fails from every STEP-th call on, in at least two ways.
expect() {
  local call=$1 code=$2 from made=0 ran=0 again=0
  for from in $(seq 10 "$3" 500); do
    local out=$work/$call-$from rc=0
    MOECL_TEST_CALL=$call MOECL_TEST_FROM=$from LD_PRELOAD=$shim \
      "$moectl" run "$work/e.yaml" --quiet --pictures none --out "$out" >"$work/log" 2>&1 || rc=$?
    [[ -f $out/results.json ]] || continue # before there was a folder
    if ((rc == 0)); then break; fi         # the run had fewer calls
    grep -q "$call failed: $code" "$work/log" || { cat "$work/log"; exit 1; }
    python3 - "$out" "$call failed: $code" <<'PYTHON'
import json, sys
folder, cause = sys.argv[1:]
with open(folder + "/results.json") as file:
    points = json.load(file)["points"]
failed = [point for point in points if point["status"] == "error"]
assert failed, points
for point in failed:
    assert cause in point["error"], point["error"]
    assert "\n" not in point["error"], point["error"]
with open(folder + "/report.md") as file:
    report = file.read().replace("\\", "")
assert report.count(cause) >= len(failed), report
PYTHON
    grep -q "could not be made" "$out/results.json" && made=1
    grep -q "did not run:" "$out/results.json" && ran=1
    grep -q "did not run again:" "$out/results.json" && again=1
  done
  ((made + ran + again > 1)) || { echo "$call: failed in too few ways: $made $ran $again"; exit 1; }
  echo "ok      $call ($made $ran $again)"
}
expect clEnqueueNDRangeKernel "CL_OUT_OF_RESOURCES (-5)" 37
expect clCreateBuffer "CL_MEM_OBJECT_ALLOCATION_FAILURE (-4)" 5
