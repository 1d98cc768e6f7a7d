#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Devices with small work-groups, or little local memory: Oclgrind's, a simulator whose
# device is as large as its environment says, and which complains of what a kernel
# reads or writes elsewhere. usage: bash test_small_device.sh path/to/moectl
set -euo pipefail

moectl=$(realpath -- "${1:?usage: test_small_device.sh path/to/moectl}")
if ! command -v oclgrind >/dev/null; then
  echo "SKIP: no oclgrind (Debian's package of that name)"
  exit 77
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failed=0

cat >"$work/layer.yaml" <<'YAML'
name: small
seed: 7
layer:
  {hidden_size: 24, intermediate_size: 20, num_experts: 4, top_k: 2,
   router: {jitter: 0.1}, capacity: {capacity_factor: 1.25, drop_policy: probability}}
dtype: bf16
workload: {num_tokens: 30}
measure: {warmup: 0, iterations: 1, verify: true}
YAML

# serves LIMIT VARIANTS: the point is verified with these variants of router, permute,
# grouped GEMM and combine, and moectl devices lists the grouped GEMM's.
serves() {
  local limit=$1 want=$2 got code=0
  rm -rf "$work/results"
  env "$limit" MOECL_CACHE_DIR="$work/cache" oclgrind "$moectl" run "$work/layer.yaml" \
    --device oclgrind --out "$work/results" >"$work/log" 2>&1 </dev/null || code=$?
  env "$limit" MOECL_CACHE_DIR="$work/cache" oclgrind "$moectl" devices \
    >"$work/devices" 2>&1 </dev/null || code=$?
  got=$(python3 -c '
import json, sys
point = json.load(open(sys.argv[1]))["points"][0]
v = point["variants"]
print(point["status"], v["router"], v["permute"], v["grouped_gemm"], v["combine"])' \
    "$work/results/results.json" 2>&1) || true
  if [[ $code == 0 && $got == "ok $want" ]] && ! grep -q "Invalid\|Uninitialized" "$work/log" &&
    grep -q "grouped GEMM  .*serial" "$work/devices" &&
    ! grep -q "grouped GEMM  .*generic" "$work/devices"; then
    printf 'ok      %s\n' "$limit"
    passed=$((passed + 1))
  else
    printf 'FAILED  %s: exit code %s, %s, expected ok %s\n' "$limit" "$code" "$got" "$want"
    tail -n 15 "$work/log" "$work/devices" | sed 's/^/        | /'
    failed=$((failed + 1))
  fi
}

serves OCLGRIND_MAX_WGSIZE=1 "serial serial serial serial"
serves OCLGRIND_MAX_WGSIZE=16 "serial serial serial serial"
serves OCLGRIND_MAX_WGSIZE=128 "generic serial serial generic"
serves OCLGRIND_LOCAL_MEM_SIZE=4096 "serial generic serial generic"

printf '%d checks passed, %d failed\n' "$passed" "$failed"
((failed == 0))
