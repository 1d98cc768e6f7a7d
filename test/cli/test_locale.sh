#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# moectl writes the same whatever the user's locale, even where a library that it
# loads calls setlocale(). Exit code 77 (skipped) without a device or a locale.
# usage: test_locale.sh MOECTL SHIM.so
set -euo pipefail
moectl=$(realpath -- "$1") shim=$(realpath -- "$2")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$moectl" devices >/dev/null 2>&1 || { echo "SKIP: no OpenCL device"; exit 77; }
localedef -i de_DE -f UTF-8 "$work/de_DE.UTF-8" 2>/dev/null || true
comma() { env LOCPATH="$work" LC_ALL=de_DE.UTF-8 LD_PRELOAD="$shim" "$@"; }
comma bash -c 'printf %.1f 2,5' 2>/dev/null | grep -q '^2,5$' ||
  { echo "SKIP: localedef makes no locale with a decimal comma (Debian: locales)"; exit 77; }

cat >"$work/e.yaml" <<'YAML'
name: comma
layer:
  hidden_size: 32
  intermediate_size: 24
  num_experts: 8
  top_k: 2
  router: {jitter: 0.125, routed_scaling_factor: 2.5}
  capacity: {capacity_factor: 1.25}
workload: {num_tokens: 16}
measure: {warmup: 1, iterations: 3}
YAML
status=0
check() { # check WHAT COMMAND...
  if "${@:2}"; then echo "ok      $1"; else echo "FAILED  $1"; status=1; fi
}
"$moectl" run "$work/e.yaml" --quiet --out "$work/plain" >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
check "a run ends well" comma "$moectl" run "$work/e.yaml" --quiet --out "$work/comma"
check "it can be resumed" comma "$moectl" run "$work/e.yaml" --quiet --resume "$work/comma"
check "another locale goes on with it" "$moectl" run "$work/e.yaml" --quiet --resume "$work/comma"
settings() {
  python3 - "$1" <<'PYTHON'
import csv, json, sys
with open(sys.argv[1] + "/results.json") as file:
    results = json.load(file)
with open(sys.argv[1] + "/results.csv", newline="") as file:
    rows = list(csv.DictReader(file))
print(json.dumps(results["experiment"], sort_keys=True))
for point, row in zip(results["points"], rows):
    print(json.dumps(point["params"], sort_keys=True), json.dumps(point["verify"], sort_keys=True))
    print(row["jitter"], row["capacity_factor"], float(row["time_ms_layer_median"]) > 0)
PYTHON
}
check "its files are read" settings "$work/comma" >"$work/settings"
cat "$work/settings"
check "settings and verification are the same" \
  diff <(settings "$work/plain") <(settings "$work/comma")
check "the report has no decimal comma" \
  bash -c "! grep -nE '[0-9],[0-9]+ (ms|GB|TFLOP)' '$work/comma/report.md'"
exit "$status"
