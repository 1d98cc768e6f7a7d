#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Runs that are stopped, killed, locked out or out of disk lose nothing that they had measured.
# usage: bash test/cli/test_stopped.sh path/to/moectl
set -euo pipefail

# shellcheck source=test/cli/checks.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/checks.sh"

# wait_for_points DIR PID N [ROUNDS]: waits until N points in DIR have been measured in so many rounds
# (by default one), as results.json and its journal say, or the run has ended. However long that takes
# where others want the processors too: a run that hangs is this test's limit's to end.
wait_for_points() {
  python3 -c '
import json, os, sys, time
folder, pid, count, rounds = sys.argv[1], *map(int, sys.argv[2:])

def is_running():
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True

def measured():
    found = {}
    try:
        for p in json.load(open(folder + "/results.json"))["points"]:
            found[p["index"]] = len(p["rounds"])
        for line in open(folder + "/results.jsonl"):
            p = json.loads(line)
            found[p["index"]] = len(p["rounds"])
    except (OSError, ValueError):
        pass
    return sum(n >= rounds for n in found.values())

while is_running() and measured() < count:
    time.sleep(0.05)' "$1" "$2" "$3" "${4:-1}"
}

# interrupt_at DIR N ROUNDS OPTION...: runs the long experiment and presses Ctrl-C when N points have
# so many rounds. A background job of a script ignores SIGINT; this one must not.
interrupt_at() {
  local dir=$1 points=$2 rounds=$3 pid
  shift 3
  python3 -c 'import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])' "$moectl" run "$work/long.yaml" "$@" \
    >"$work/out" 2>"$work/err" </dev/null &
  pid=$!
  wait_for_points "$dir" "$pid" "$points" "$rounds"
  kill -INT "$pid" 2>/dev/null || true
  code=0
  wait "$pid" || code=$?
}

test_interrupt() {
  local dir=$work/interrupted
  write_tiny "$work/long.yaml" '[4, 5, 6, 7, 8, 9, 10, 11]' '[1, 2]' swiglu '[null, 1.0, 1.5, 2.0]' \
    fp32 '[16, 17]' 100
  sed -i 's/verify: true/rounds: 3, verify: true/' "$work/long.yaml"
  interrupt_at "$dir" 3 1 --out "$dir"
  expect "Ctrl-C: exit 1" 1
  json_holds "Ctrl-C keeps the finished points" "$dir" "3 <= len(r['points']) < 128"
  cp "$dir/results.json" "$work/before.json" 2>/dev/null || true
  interrupt_at "$dir" 5 2 --resume "$dir"
  expect "Ctrl-C in a later round: exit 1" 1
  holds "rounds: all points in turn, every second round backwards" python3 -c '
import json, sys
rounds = [len(p["rounds"]) for p in json.load(open(sys.argv[1]))["points"]]
print(rounds)
assert len(rounds) == 128 and max(rounds) > 1 and max(rounds) - min(rounds) <= 1, rounds
assert rounds == sorted(rounds, reverse=max(rounds) == 3)' "$dir/results.json"
  call run "$work/long.yaml" --resume "$dir" --quiet
  expect "--resume goes on" 0
  holds "resumed results" python3 "$here/check_results.py" "$dir" --points 128
  holds "finished points were taken over, not run again" taken_over "$work/before.json" "$dir/results.json"
  json_holds "both runs are recorded" "$dir" "len(r['runs']) == 3 and '--resume' in r['runs'][1]['command']"
}

# Every round measured before, in results.json and lines of its journal, is there afterwards.
# usage: taken_over BEFORE... AFTER
taken_over() {
  python3 -c '
import json, sys
before = {}
for path in sys.argv[1:-1]:
    text = open(path).read()
    points = json.loads(text)["points"] if path.endswith(".json") else [
        json.loads(line) for line in text.splitlines(True) if line.endswith("\n")]
    before.update((p["index"], p) for p in points if not p["error"])
after = {p["index"]: p for p in json.load(open(sys.argv[-1]))["points"]}
print(len(before), "points before")
assert before
for index, point in before.items():
    rounds = after[index]["rounds"]
    assert rounds[: len(point["rounds"])] == point["rounds"], index
    assert len(rounds) == after[index]["rounds_planned"] == 3, index
    assert after[index]["routing"] == point["routing"], index' "$@"
}

# stopped_with DIR PID N: stops the run while results.jsonl holds N lines. The file goes each time
# its lines are in results.json, so that only what a stopped run shows can be relied on.
stopped_with() {
  while kill -STOP "$2" 2>/dev/null; do
    [[ -f $1/results.jsonl ]] && (($(wc -l <"$1/results.jsonl") >= $3)) && return 0
    kill -CONT "$2"
    sleep 0.01
  done
  return 1
}

# A run killed at any time loses nothing that it had measured.
test_killed() {
  local dir=$work/killed pid
  "$moectl" run "$work/long.yaml" --out "$dir" >"$work/out" 2>"$work/err" </dev/null &
  pid=$!
  holds "a run with three points in its journal" stopped_with "$dir" "$pid" 3
  kill -KILL "$pid" 2>/dev/null || true
  wait "$pid" 2>/dev/null || true
  cp "$dir"/results.json "$dir"/results.jsonl "$work/"
  call run "$work/long.yaml" --resume "$dir" --quiet
  expect "--resume of a killed run" 0
  holds "its results" python3 "$here/check_results.py" "$dir" --points 128
  holds "results.json and its journal were taken over" \
    taken_over "$work/results.json" "$work/results.jsonl" "$dir/results.json"
}

# Two runs on one folder: the second is refused and the first is none the worse.
test_lock() {
  local dir=$work/locked pid
  local some=(--set layer.capacity.capacity_factor=null)
  "$moectl" run "$work/long.yaml" "${some[@]}" --out "$dir" >"$work/first.out" 2>"$work/first.err" </dev/null &
  pid=$!
  wait_for_points "$dir" "$pid" 1
  kill -STOP "$pid" # and so it is running, however long the others take
  call run "$work/long.yaml" "${some[@]}" --resume "$dir"
  expect "--resume of a running run, exit 2" 2 "another run \\(process $pid\\) is writing into $dir"
  call run "$work/long.yaml" "${some[@]}" --out "$dir"
  expect "--out into a running run's folder, exit 2" 2 "another run \\(process $pid\\)"
  holds "the first run was still running" kill -CONT "$pid"
  code=0
  wait "$pid" || code=$?
  cp "$work/first.out" "$work/out" && cp "$work/first.err" "$work/err"
  expect "the first run ends well" 0
  json_holds "with all its points" "$dir" "len(r['points']) == 32"
  holds "no lock is left" test ! -e "$dir/.lock"
  # What a killed run leaves behind locks nothing.
  echo 1 >"$dir/.lock"
  call run "$work/long.yaml" "${some[@]}" --resume "$dir"
  expect "a lock file without its run is no lock" 0
}

test_full_disk() {
  local dir=$work/small
  mkdir "$dir"
  if ! mount -t tmpfs -o size=512k tmpfs "$dir" 2>/dev/null; then
    skip "a full disk: only root can mount a small one"
    return
  fi
  # A dump takes about 130 KB: a few fit.
  write_tiny "$work/fill.yaml" 16 1 swiglu '[null, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0]'
  call run "$work/fill.yaml" --dump --out "$dir/run"
  expect "a full disk: exit 1 and the reason" 1 'No space left'
  json_holds "a full disk keeps the finished points" "$dir/run" \
    "1 <= sum(not p.get('error') for p in r['points']) < 8"
  holds "no half-written dump" python3 -c '
import json, pathlib, struct, sys
for path in pathlib.Path(sys.argv[1]).glob("point-*.safetensors"):
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    ends = [v["data_offsets"][1] for k, v in json.loads(raw[8:8+size]).items() if k != "__metadata__"]
    assert len(raw) == 8 + size + max(ends), path' "$dir/run"
  umount "$dir"
}

main() {
  local name
  : >"$work/out" && : >"$work/err"
  if name=$(device_name) && [[ -n $name ]]; then
    test_interrupt
    test_killed
    test_lock
    test_full_disk
  else
    skip "all of it needs an OpenCL device: there is none"
  fi
  summary "$name"
}

main
