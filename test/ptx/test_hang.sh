#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Does a mistake in a barrier end in an error, and leave the device usable?
# Runs moectl with copies of the Hopper kernel whose work-items wait for ever, one
# at a time, and expects an error, and after it a run that verifies.
# usage: bash test/ptx/test_hang.sh path/to/moectl path/to/cl
# Exit code 77 (skip) where no device runs the kernel.
set -euo pipefail

moectl=$(realpath -- "${1:?usage: test_hang.sh path/to/moectl path/to/cl}")
kernels=$(realpath -- "${2:?usage: test_hang.sh path/to/moectl path/to/cl}")
source=grouped_gemm/nvidia_ring.clh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

if ! "$moectl" devices | grep nvidia_sm90 >/dev/null; then
  echo "SKIP: no device runs nvidia_sm90"
  exit 77
fi

cat >"$work/layer.yaml" <<'YAML'
name: hang
layer: {hidden_size: 256, intermediate_size: 256, num_experts: 4, top_k: 2, grouped_gemm_variant: nvidia_sm90}
dtype: bf16
workload: {num_tokens: 200}
measure: {warmup: 0, iterations: 1, verify: true}
YAML

# run_with FOLDER: leaves $code.
run_with() {
  rm -rf "$work/results"
  code=0
  MOECL_KERNEL_DIR=$1 MOECL_CACHE_DIR=$work/cache timeout -s KILL 600 "$moectl" run \
    "$work/layer.yaml" --device gpu --out "$work/results" >"$work/log" 2>&1 </dev/null || code=$?
}

# says OK? WHAT
says() {
  if [[ $1 == 1 ]]; then
    echo "ok      $2"
    return
  fi
  echo "FAILED  $2: exit code $code"
  tail -n 15 "$work/log" | sed 's/^/        | /'
  failed=$((failed + 1))
}

# hangs WHAT TEXT WRONG: the kernel with one text replaced.
hangs() {
  rm -rf "$work/cl"
  cp -r "$kernels" "$work/cl"
  python3 - "$work/cl/$source" "$2" "$3" <<'PY'
import sys
path, text, wrong = sys.argv[1:]
source = open(path).read()
assert text in source, f"{path} has no {text}"
open(path, "w").write(source.replace(text, wrong, 1))
PY
  run_with "$work/cl"
  says "$((code != 0 && code != 137))" "$1 ends in an error"
  grep -qiE 'error|fail' "$work/log" || says 0 "$1 is told"
  run_with "$kernels"
  says "$((code == 0))" "the device serves after it"
}

run_with "$kernels"
says "$((code == 0))" "the kernel as it is"
hangs "a stage that is never full" "1 + PRODUCERS)" "2 + PRODUCERS)"
hangs "a stage that is never empty" "CONSUMER_WARPS);" "CONSUMER_WARPS + 1);"
hangs "bytes that never come" "mbarrier_arrive_expect(full, bytes" "mbarrier_arrive_expect(full, 16 + bytes"
exit $((failed > 0))
