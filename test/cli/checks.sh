# SPDX-License-Identifier: MIT
# Sourced by the scripts that use moectl as a person would: checks, and a small experiment.
# $1 is the path to moectl. Leaves $here, $root, $moectl and $work, a folder that goes at the end.
# Each check prints a line.

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
root=$(cd -- "$here/../.." && pwd)
moectl=$(realpath -- "${1:?usage: bash SCRIPT path/to/moectl}")
work=$(mktemp -d)
passed=0 failed=0 skipped=0

cleanup() {
  mountpoint -q "$work/small" 2>/dev/null && umount "$work/small"
  rm -rf "$work"
}
trap cleanup EXIT

# --- checks ---------------------------------------------------------------------

pass() {
  printf 'ok      %s\n' "$1"
  passed=$((passed + 1))
}

skip() {
  printf 'skipped %s\n' "$1"
  skipped=$((skipped + 1))
}

# fail NAME WHY [FILE...]: with what the command printed (by default moectl's).
fail() {
  local name=$1 why=$2
  shift 2
  (($#)) || set -- "$work/out" "$work/err"
  printf 'FAILED  %s: %s\n' "$name" "$why"
  tail -q -n 15 "$@" | sed 's/^/        | /'
  failed=$((failed + 1))
}

# call [arguments]: runs moectl; leaves $code, $work/out and $work/err.
call() {
  code=0
  timeout 900 "$moectl" "$@" >"$work/out" 2>"$work/err" </dev/null || code=$?
}

# expect NAME CODE [PATTERN]: the last call's exit code, and an extended regular
# expression that a line of its output matches.
expect() {
  if [[ $code != "$2" ]]; then
    fail "$1" "exit code $code, expected $2"
  elif [[ -n ${3:-} ]] && ! cat "$work/out" "$work/err" | grep -E -- "$3" >/dev/null; then
    fail "$1" "no line matches: $3"
  else
    pass "$1"
  fi
}

# holds NAME COMMAND...: a command that must succeed; its output explains.
holds() {
  local name=$1
  shift
  if "$@" >"$work/held" 2>&1; then pass "$name"; else fail "$name" "$*" "$work/held"; fi
}

# A python3 condition on results.json, called r.
json_holds() {
  holds "$1" python3 -c "
import json, sys
r = json.load(open(sys.argv[1]))
print('points:', len(r['points']))
sys.exit(0 if ($3) else 1)" "$2/results.json"
}

# --- experiments ------------------------------------------------------------------

# write_tiny FILE [experts] [top_k] [activation] [capacity factor] [dtype] [tokens]
# [iterations]: one tiny layer, or a sweep where a value is a list.
write_tiny() {
  cat >"$1" <<YAML
name: tiny
seed: 7
layer:
  hidden_size: 24
  intermediate_size: 20
  num_experts: ${2:-4}
  top_k: ${3:-2}
  activation: ${4:-swiglu}
  router: {renormalize: true}
  capacity: {capacity_factor: ${5:-null}}
dtype: ${6:-fp32}
workload: {num_tokens: ${7:-16}}
measure: {warmup: 1, iterations: ${8:-3}, verify: true}
YAML
}

# The name of the first device; nothing where there is none.
device_name() {
  "$moectl" devices --json 2>/dev/null |
    python3 -c 'import json, sys; print(json.load(sys.stdin)[0]["name"])' 2>/dev/null
}

# The last lines of a script: exit code 1 if a check failed, 77 (skipped) if $1 is empty, for
# without a device most did not run.
summary() {
  printf '%d checks passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
  ((failed == 0)) || exit 1
  [[ -n $1 ]] || exit 77
}
